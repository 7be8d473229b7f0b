"""A linear probe on features: untrained, trained without labels, and the weight-free default.

Run: ``python benchmarks/ssl_probe.py`` (about 35 minutes of one core; writes docs/benchmarks).
``--keep FOLDER`` keeps what each seed came to, so that a run that ended goes on from there;
``--quick`` takes a minute and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import kept, measured_on, table, write_report

from microtome.engine.datasets import TiledSlide
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.synthetic import SITES, SlideRecipe, plan_slide, tumour_fraction, write_slide
from microtome.tasks.encode import EncodeOptions, encode, tissue_tiles
from microtome.tasks.encoders import Encoder, load_encoder
from microtome.tasks.encoders.torch_encoder import TorchEncoder
from microtome.tasks.encoders.trained import load_trained, new_backbone
from microtome.tasks.evaluation import auc, balanced_accuracy
from microtome.tasks.slide_list import SlideItem
from microtome.tasks.ssl.data import tile_slide
from microtome.tasks.ssl.options import Machine, SslOptions
from microtome.tasks.ssl.train import train_encoder

CLASSES = ("other tissue", "benign epithelium", "tumour")
TILE_PX, MPP = 64, 1.0
BACKBONE = "resnet10t"
FEW = 10
DRAWS = 10
SEEDS = 3
TRIAL_STEPS, WARM_STEPS = 30, 10
DEFAULT_MPP = load_encoder().mpp
UNTRAINED, TRAINED = f"{BACKBONE}, untrained", f"{BACKBONE}, trained without labels"
DEFAULT = "stain-texture, the default"
COLUMNS = ("same laboratory, all", "same, few", "other laboratory, all", "other, few")
ABOUT = """\
# An encoder trained without labels

Written by `benchmarks/ssl_probe.py`. Synthetic slides of two laboratories with other stains,
scanners and pixel sizes; a tile of {tile_um:.0f} µm is {classes}, and tiles on a border are left
out. The encoder was trained without labels (`microtome encoder train`) on {train} slides of each
laboratory for {minutes:g} minutes of processor time of one thread: as many steps as fit by a trial
of {trial}, so that other work on the machine takes nothing away. The probe, multinomial logistic
regression on standardised features with C = 1, is fitted on the slides of the first laboratory,
and tested on {test} other slides of each. *All* takes every labelled tile, *few* {few} a class, the
scores averaged over {draws} draws. AUC / balanced accuracy: mean over {seeds} seeds of weights,
order and views, ± their standard deviation. The untrained network is the same one, from the same
seed, with the same normalisation of pixels; the default, which has no seed, sees the same
footprint at its own {default_mpp:g} µm/px.
"""
LIMITS = """\
Synthetic tissue differs in few, designed ways (size, crowding and shape of nuclei), which the
default's features name outright: that it does well here says little about patients. What the table
shows is whether training without labels works: trained above untrained, all else equal.
"""
Figures = list[tuple[float, float]]
"""AUC and balanced accuracy of each of :data:`COLUMNS`."""


@dataclass(frozen=True)
class Case:
    """A slide of which all is known."""

    path: Path
    recipe: SlideRecipe


@dataclass(frozen=True)
class Tiles:
    """Features [n, d] of tiles of several slides, their class [n] and their slide [n]."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    slides: NDArray[np.int64]


def make_cases(folder: Path, count: int, first: int, site: int, side_px: int) -> list[Case]:
    cases = []
    for k in range(count):
        recipe = plan_slide(
            1000 * site + first + k,
            height_px=side_px,
            width_px=side_px,
            site=SITES[site],
            tumour_fraction=0.25,
            benign_fraction=0.25,
            tissue_fraction=0.6,
        )
        cases.append(Case(folder / f"{SITES[site].name}-{first + k}.tiff", recipe))
        write_slide(cases[-1].path, recipe)
    return cases


def features_of(cases: Sequence[Case], encoder: Encoder) -> Tiles:
    """Features of the tiles that lie in one kind of tissue."""
    features, labels, slides = [], [], []
    for number, case in enumerate(cases):
        with open_slide(case.path) as slide:
            grid, _, _ = tissue_tiles(
                slide,
                case.path.stem,
                tile_px=encoder.tile_px,
                mpp=encoder.mpp,
                options=EncodeOptions(),
            )
            tumour = tumour_fraction(grid, case.recipe.outlines)
            benign = tumour_fraction(grid, [blob.outline for blob in case.recipe.benign])
            kind = np.select([tumour >= 0.75, benign >= 0.75], [2, 1], 0)
            is_pure = (kind > 0) | ((tumour == 0) & (benign == 0))
            bag = encode(slide, grid.select(is_pure), encoder)
        features.append(bag.features)
        labels.append(kind[is_pure])
        slides.append(np.full(len(bag), number))
    return Tiles(np.concatenate(features), np.concatenate(labels), np.concatenate(slides))


def probe(train: Tiles, test: Tiles, few: int | None) -> NDArray[np.float64]:
    """Probabilities [n, 3] of the tiles to test."""
    rng = np.random.default_rng(0)
    said = []
    for _ in range(1 if few is None else DRAWS):
        rows = np.arange(len(train.labels))
        if few is not None:
            groups = [np.flatnonzero(train.labels == k) for k in range(len(CLASSES))]
            rows = np.concatenate([rng.choice(group, few, replace=False) for group in groups])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(train.features[rows], train.labels[rows])
        said.append(model.predict_proba(test.features))
    return np.asarray(np.mean(said, axis=0))


def figures(train: Tiles, test: Tiles, few: int | None) -> tuple[float, float]:
    """AUC and balanced accuracy."""
    scores = probe(train, test, few)
    return auc(test.labels, scores), balanced_accuracy(test.labels, scores)


def untrained(trained: TorchEncoder, options: SslOptions) -> TorchEncoder:
    """The same encoder with the weights that training began with."""
    module = new_backbone(options.backbone, options.tile_px, seed=options.seed).module.eval()
    return replace(trained, module=module, name="untrained", version="0")


def tiled(cases: Sequence[Case]) -> list[TiledSlide]:
    """The slides with their tiles on tissue."""
    tiling = EncodeOptions(tile_px=TILE_PX, mpp=MPP)
    return [tile_slide(SlideItem(case.path.stem, case.path), options=tiling) for case in cases]


def options_of(seed: int, steps: int) -> SslOptions:
    """What is trained."""
    return SslOptions(backbone=BACKBONE, tile_px=TILE_PX, mpp=MPP, steps=steps, seed=seed)


def steps_within(slides: Sequence[TiledSlide], minutes: float) -> int:
    """Steps that fit into minutes of processor time, by a trial; what starts up is left out."""
    at: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train_encoder(
            slides,
            Path(folder) / "trial",
            options=options_of(0, TRIAL_STEPS),
            machine=Machine(threads=1),
            on_step=lambda *_: at.append(time.process_time()),
        )
    return round(60 * minutes / ((at[-1] - at[WARM_STEPS]) / (len(at) - 1 - WARM_STEPS)))


def one_seed(study: Study, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Figures of the encoder of a seed, untrained and trained, and how training went."""
    options, began = options_of(seed, steps), time.process_time()
    made = train_encoder(
        study.tiled, folder / f"encoder-{seed}", options=options, machine=Machine(threads=1)
    )
    cpu_s = time.process_time() - began
    assert not isinstance(made, Skipped)
    trained = load_trained(made.path)
    return {
        UNTRAINED: study.figures_of(untrained(trained, options)),
        TRAINED: study.figures_of(trained),
        "training": dict(made.card.training) | {"cpu_s": cpu_s, "batch": options.batch},
    }


@dataclass(frozen=True)
class Study:
    """Slides of two laboratories to train and to test on."""

    train: list[list[Case]]
    test: list[list[Case]]
    tiled: list[TiledSlide]

    @classmethod
    def painted(cls, folder: Path, *, is_quick: bool) -> Study:
        """With slides that are made on the spot."""
        n_train, n_test, side = (1, 2, 3072) if is_quick else (4, 4, 3584)
        train = [make_cases(folder, n_train, 0, site, side) for site in (0, 1)]
        test = [make_cases(folder, n_test, 100, site, side) for site in (0, 1)]
        return cls(train, test, tiled([*train[0], *train[1]]))

    def figures_of(self, encoder: Encoder) -> Figures:
        """Of the first laboratory, then of the other; with all labels, then with few."""
        fitted = features_of(self.train[0], encoder)
        tested = [features_of(cases, encoder) for cases in self.test]
        return [figures(fitted, test, few) for test in tested for few in (None, FEW)]


def cell(of_seeds: Sequence[Sequence[float]]) -> str:
    """AUC / balanced accuracy [seeds, 2]: mean, and spread where there are several seeds."""
    found = np.asarray(of_seeds)
    mean, spread = found.mean(0), found.std(0, ddof=1) if len(found) > 1 else None
    if spread is None:
        return " / ".join(f"{value:.3f}" for value in mean)
    return " / ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))


def bars(seeds: Sequence[dict[str, Any]]) -> list[str]:
    """Trained less untrained, by the AUC, for each column; each seed against its own start."""
    lines = []
    for number, column in enumerate(COLUMNS):
        gain = [one[TRAINED][number][0] - one[UNTRAINED][number][0] for one in seeds]
        better = sum(value > 0 for value in gain)
        word = "above" if np.mean(gain) > 0 else "**not above**"
        lines.append(
            f"- {column}: AUC {np.mean(gain):+.3f} from training "
            f"({', '.join(f'{value:+.3f}' for value in gain)}; better in {better} of "
            f"{len(gain)} seeds): {word} random initialisation"
        )
    return lines


def report(seeds: Sequence[dict[str, Any]], default: Figures, minutes: float) -> list[str]:
    rows = {
        UNTRAINED: [one[UNTRAINED] for one in seeds],
        TRAINED: [one[TRAINED] for one in seeds],
        DEFAULT: [default],
    }
    cells = [
        [name, *(cell([of[k] for of in found]) for k in range(len(COLUMNS)))]
        for name, found in rows.items()
    ]
    about = ABOUT.format(
        tile_um=TILE_PX * MPP, classes=", ".join(CLASSES[:-1]) + f" or {CLASSES[-1]}", train=4,
        test=4, minutes=minutes, trial=f"{TRIAL_STEPS} steps", few=FEW, draws=DRAWS,
        seeds=len(seeds), default_mpp=DEFAULT_MPP,
    )  # fmt: skip
    return [
        about,
        *table(["features of", *COLUMNS], cells),
        "",
        *bars(seeds),
        "",
        *map(course, seeds),
        "",
        LIMITS,
        measured_on("torch", "timm", "scikit-learn"),
    ]


def course(one: dict[str, Any]) -> str:
    """How training went, in words."""
    said = one["training"]
    return (
        f"- {said['steps']:,} steps of {said['batch']} tiles, of {said['tiles']:,}, in "
        f"{said['cpu_s'] / 60:.1f} minutes of processor time; effective rank of the embeddings "
        f"{said['effective_rank_untrained']:g} before, {said['effective_rank']:g} after; spread "
        f"{said['spread_untrained']:g} and {said['spread']:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of training")
    parser.add_argument("--keep", type=Path, help="folder for what each seed came to")
    parser.add_argument("--quick", action="store_true", help="a look: small, and no page written")
    asked = parser.parse_args()
    minutes, seeds = (0.2, 1) if asked.quick else (asked.minutes, SEEDS)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        keep = asked.keep or place / "kept"
        keep.mkdir(parents=True, exist_ok=True)
        study = Study.painted(place, is_quick=asked.quick)
        steps = kept(keep / "steps.json", lambda: steps_within(study.tiled, minutes))
        light = load_encoder(tile_px=round(TILE_PX * MPP / DEFAULT_MPP))
        default = kept(keep / "default.json", lambda: study.figures_of(light))
        found = []
        for seed in range(seeds):
            work = partial(one_seed, study, place, seed, steps)
            found.append(kept(keep / f"seed-{seed}.json", work))
            print(json.dumps(found[-1], indent=1), flush=True)
    lines = report(found, default, minutes)
    print("\n".join(lines))
    if not asked.quick:
        write_report("ssl.md", lines)


if __name__ == "__main__":
    main()
