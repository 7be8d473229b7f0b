"""A linear probe on features: untrained, trained without labels, and the weight-free default.

Run: ``python benchmarks/ssl_probe.py [--minutes 10] [--quick]`` (writes docs/benchmarks).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import measured_on, table, write_report

from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.synthetic import SITES, SlideRecipe, plan_slide, tumour_fraction, write_slide
from microtome.tasks.encode import EncodeOptions, encode, tissue_tiles
from microtome.tasks.encoders import Encoder, load_encoder
from microtome.tasks.encoders.torch_encoder import TorchEncoder
from microtome.tasks.encoders.trained import load_trained, new_backbone
from microtome.tasks.evaluation import auc, balanced_accuracy, bootstrap
from microtome.tasks.slide_list import SlideItem
from microtome.tasks.ssl.data import tile_slide
from microtome.tasks.ssl.options import SslOptions
from microtome.tasks.ssl.train import SslTrained, train_encoder

CLASSES = ("other tissue", "benign epithelium", "tumour")
TILE_PX, MPP = 64, 1.0
FEW = 10
DRAWS = 10
DEFAULT_MPP = load_encoder().mpp
ABOUT = """\
# An encoder trained without labels

Written by `benchmarks/ssl_probe.py`. Synthetic slides of two laboratories with other stains,
scanners and pixel sizes; a tile of {tile_um:.0f} µm is {classes}, and tiles on a border are left
out. The encoder was trained without labels (`microtome encoder train`) on {train} slides of each
laboratory. The probe, multinomial logistic regression on standardised features with C = 1, is
fitted on those of the first laboratory, and tested on {test} other slides of each. *All* takes
every labelled tile, *few* {few} a class, the scores averaged over {draws} draws. AUC and balanced
accuracy with intervals of 95 % over test slides. The untrained network is the same one, from the
same seed, with the same normalisation of pixels; the default sees the same footprint at its own
0.5 µm/px.
"""
LIMITS = """\
Synthetic tissue differs in few, designed ways (size, crowding and shape of nuclei), which the
default's features name outright: that it does well here says little about patients. What the table
shows is whether training without labels works: trained above untrained, all else equal.
"""


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


def figures(train: Tiles, test: Tiles, few: int | None) -> str:
    """AUC and balanced accuracy."""
    scores = probe(train, test, few)
    found = [
        bootstrap(test.labels, scores, test.slides, metric=metric, n=1000)
        for metric in (auc, balanced_accuracy)
    ]
    return " / ".join(map(str, found))


def rows_of(encoder: Encoder, train: Sequence[Case], tests: Sequence[Sequence[Case]]) -> list[str]:
    """Figures of the first laboratory, then of the other; with all labels, then with few."""
    fitted = features_of(train, encoder)
    tested = [features_of(cases, encoder) for cases in tests]
    return [figures(fitted, test, few) for test in tested for few in (None, FEW)]


def untrained(trained: TorchEncoder, options: SslOptions) -> TorchEncoder:
    """The same encoder with the weights that training began with."""
    module = new_backbone(options.backbone, options.tile_px, seed=options.seed).module.eval()
    return replace(trained, module=module, name="untrained", version="0")


def train(cases: Sequence[Case], out: Path, options: SslOptions) -> SslTrained:
    tiling = EncodeOptions(tile_px=options.tile_px, mpp=options.mpp)
    items = [SlideItem(case.path.stem, case.path) for case in cases]
    tiled = [tile_slide(item, options=tiling) for item in items]
    made = train_encoder(tiled, out, options=options)
    assert not isinstance(made, Skipped)
    return made


def report(made: SslTrained, rows: dict[str, list[str]], n_train: int, n_test: int) -> list[str]:
    card = made.card
    options, said = card.options, card.training
    header = ["features of", "same laboratory, all", "same, few"]
    header += ["other laboratory, all", "other, few"]
    cells = [[name, *found] for name, found in rows.items()]
    about = ABOUT.format(
        tile_um=card.tile_px * card.mpp,
        classes=", ".join(CLASSES[:-1]) + f" or {CLASSES[-1]}",
        train=n_train,
        test=n_test,
        few=FEW,
        draws=DRAWS,
    )
    threads = torch.get_num_threads()
    course = (
        f"{card.backbone}, {card.tile_px} px at {card.mpp:g} µm/px, batches of "
        f"{options['batch']}: {said['steps']:,} steps in {options['minutes']:g} minutes on "
        f"{said['tiles']:,} tiles, threads of torch: {threads}, on a machine that others used as "
        f"well. Effective rank of the embeddings {said['effective_rank_untrained']:g} before, "
        f"{said['effective_rank']:g} after; spread {said['spread_untrained']:g} and "
        f"{said['spread']:g}."
    )
    packages = ("torch", "timm", "scikit-learn")
    return [about, *table(header, cells), "", course, "", LIMITS, measured_on(*packages)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--quick", action="store_true", help="a look: small, and no page written")
    asked = parser.parse_args()
    minutes = 0.3 if asked.quick else asked.minutes
    options = SslOptions(
        backbone=asked.backbone, tile_px=TILE_PX, mpp=MPP, steps=None, minutes=minutes
    )
    n_train, n_test, side = (1, 2, 3072) if asked.quick else (4, 4, 3584)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        train_cases = [make_cases(place, n_train, 0, site, side) for site in (0, 1)]
        test_cases = [make_cases(place, n_test, 100, site, side) for site in (0, 1)]
        made = train([*train_cases[0], *train_cases[1]], place / "encoder", options)
        print(made.card.training)
        trained = load_trained(made.path)
        encoders: dict[str, Encoder] = {
            f"{options.backbone}, untrained": untrained(trained, options),
            f"{options.backbone}, trained without labels": trained,
            "stain-texture, the default": load_encoder(tile_px=round(TILE_PX * MPP / DEFAULT_MPP)),
        }
        rows = {}
        for name, encoder in encoders.items():
            rows[name] = rows_of(encoder, train_cases[0], test_cases)
            print(name, *rows[name], sep="\n  ", flush=True)
    if not asked.quick:
        write_report("ssl.md", report(made, rows, n_train, n_test))


if __name__ == "__main__":
    main()
