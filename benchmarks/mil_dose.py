"""How much tumour a slide must hold to be told: AUC by tumour fraction, beside ceiling and floors.

Run: ``python benchmarks/mil_dose.py [--quick]`` (about 15 minutes on two cores; writes
docs/benchmarks/mil_dose.md and docs/pictures/mil_dose.png). What is done is kept in
benchmarks/mil_dose.json (or --ledger), and a run that is broken off goes on from there. ``--quick``
is two fractions, two models and half of the slides, once, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from ledgers import Kept, Result, conduct, read_ledger
from numpy.typing import NDArray
from tables import ROOT, measured_on, table, write_report

from microtome.engine.synthetic import SITES
from microtome.engine.synthetic.lesions import lesion_images
from microtome.tasks.camel.images import ImageSet, instances
from microtome.tasks.camel.lattice import describe
from microtome.tasks.encoders import load_encoder
from microtome.tasks.evaluation import Estimate, Fold, auc, cluster_bootstrap, grouped_folds
from microtome.tasks.mil.controls import mean_colours, predict_from
from microtome.tasks.mil.crossval import cross_validate
from microtome.tasks.mil.train import TrainOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEDGER = Path(__file__).with_suffix(".json")
PICTURE = ROOT / "docs" / "pictures" / "mil_dose.png"
DOSES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
MODELS, TURNS = ("abmil", "max", "prototype", "dsmil"), 3
SLIDES, QUICK_SLIDES, IMAGES, GRID, TILES, FOLDS = 40, 20, 6, 4, 1000, 5
LESIONS = (5, 10)
CEILING = "ceiling: tiles' truth and the fraction known"
FLOORS = ("floor: mean colour", "floor: mean features")
OPTIONS = TrainOptions(epochs=20, patience=5, members=2)
ABOUT = (
    "Written by `benchmarks/mil_dose.py`. Procedural slides (no tissue, no patients) of two "
    f"laboratories: {SLIDES} slides, each of tiles of 128 px at 0.5 µm/px (0.4545 in the south) "
    "with tumour, benign epithelium, lymphocytes and fat, described by `stain-texture`. Of every "
    f"slide two bags of {TILES:,} tiles are drawn with replacement: one of its tiles without "
    "tumour, and one in which so many of them as the fraction says are tiles that are tumour to at "
    "least a half. So the two differ in nothing but the tumour, 0.1 % is a single tile, and at 0 "
    "there is nothing to find. Both bags of a slide are on one side of each of "
    f"{FOLDS} folds. AUC out of fold, mean of {{turns}} turns (tiles, folds and weights drawn "
    "anew), with a 95 % interval of that mean over slides. Models are those of "
    f"`TrainOptions({OPTIONS.epochs} epochs, patience {OPTIONS.patience}, {OPTIONS.members} "
    "members)`; nothing was tuned."
)
BOUNDS = (
    "*Ceiling*: a logistic regression of single tiles, taught the truth of the training slides' "
    "tiles, and for a bag the sum of log(1 - f + f r) over its tiles, r being a tile's odds "
    "relative to those in training, f the fraction: what is best to do if the odds are right. No "
    "bag model is told either. *Floors*: logistic regression on the bag's mean colour, and on the "
    "mean of its features. Where a floor is as good as a model, the task asked for no bag model."
)

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Pool:
    """Tiles of a slide: features [n, d] of those without tumour and of those that are tumour."""

    free: Features
    tumour: Features


@dataclass(frozen=True)
class Piece:
    """One model at one fraction, or all bounds, in one turn."""

    name: str
    dose: float
    turn: int
    pools: str
    slides: int

    @property
    def key(self) -> str:
        return f"1/{self.slides}/{self.name}/{self.dose:g}/{self.turn}"


def paint(slides: int) -> list[Pool]:
    """Paint slides of every laboratory, and describe their tiles."""
    found = []
    for number, site in enumerate(SITES):
        made = lesion_images(
            number, n_slides=slides // len(SITES), per_slide=IMAGES, positives=LESIONS, site=site
        )
        images = ImageSet(made.pixels, made.labels, made.slides)
        values = describe(images, GRID, backbone="features", mpp=made.mpp).values
        share = instances(made.masks[..., None], GRID).reshape(*values.shape[:2], -1).mean(-1)
        names = np.array(made.slides)
        for name in np.unique(names):
            own = names == name
            found.append(Pool(values[own][share[own] == 0], values[own][share[own] >= 0.5]))
    return found


@cache
def pools(path: str) -> list[Pool]:
    with np.load(path) as kept:
        return [Pool(kept[f"free{i}"], kept[f"tumour{i}"]) for i in range(len(kept.files) // 2)]


def keep(found: Sequence[Pool], path: Path) -> None:
    parts = {f"free{i}": pool.free for i, pool in enumerate(found)}
    np.savez(path, **parts, **{f"tumour{i}": pool.tumour for i, pool in enumerate(found)})


def draw(slides: Sequence[Pool], dose: float, turn: int) -> list[Features]:
    """Two bags of every slide, without tumour and with."""
    rng, bags = np.random.default_rng([turn, round(dose * 1e6)]), []
    for pool in slides:
        bags += [pool.free[rng.integers(0, len(pool.free), TILES)] for _ in range(2)]
        sick = pool.tumour[rng.integers(0, len(pool.tumour), round(dose * TILES))]
        bags[-1][: len(sick)] = sick
    return bags


def ceiling(
    slides: Sequence[Pool], bags: Sequence[Features], folds: Sequence[Fold], dose: float
) -> NDArray[np.float64]:
    """Log odds of every bag [b], by tiles' classifiers of the other slides."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    said = np.empty(len(bags))
    for fold in folds:
        seen = [slides[i] for i in np.unique(fold.train // 2)]
        tiles = np.concatenate([part for pool in seen for part in (pool.free, pool.tumour)])
        truth = np.concatenate([np.repeat([0, 1], [len(p.free), len(p.tumour)]) for p in seen])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(tiles, truth)
        prior = np.log(truth.mean() / (1 - truth.mean()))
        for i in fold.test:
            ratio = np.exp(np.clip(model.decision_function(bags[i]) - prior, -30, 30))
            said[i] = np.log1p(dose * (ratio - 1)).sum()
    return said


def run(piece: Piece) -> Result:
    """Scores of every bag, by name."""
    import torch

    torch.set_num_threads(1)
    start, slides = time.process_time(), pools(piece.pools)
    bags = draw(slides, piece.dose, piece.turn)
    labels, patients = np.arange(len(bags)) % 2, np.arange(len(bags)) // 2
    folds = grouped_folds(labels, patients, FOLDS, seed=piece.turn)
    if piece.name == "bounds":
        colours = mean_colours(bags, load_encoder().feature_names)
        means = np.stack([bag.mean(0, dtype=np.float64) for bag in bags])
        values = zip(FLOORS, (colours, means), strict=True)
        said = {name: predict_from(of, labels, folds)[:, 1] for name, of in values}
        said[CEILING] = ceiling(slides, bags, folds, piece.dose)
    else:
        options = TrainOptions(**(OPTIONS.record() | {"model": piece.name, "seed": piece.turn}))
        found = cross_validate(bags, labels, patients, folds, options)
        said = {piece.name: found.probabilities[:, 1]}
    seconds = round(time.process_time() - start, 2)
    return {"seconds": seconds, "said": {k: v.round(6).tolist() for k, v in said.items()}}


Curves = Mapping[str, Mapping[float, Estimate]]


def curves(kept: Kept, pieces: Sequence[Piece]) -> Curves:
    """AUC by name and fraction: the mean over turns, its interval over slides."""
    said: dict[tuple[str, float], list[NDArray[np.float64]]] = {}
    for piece in pieces:
        for name, scores in kept[piece.key]["said"].items():
            said.setdefault((name, piece.dose), []).append(np.array(scores))
    found: dict[str, dict[float, Estimate]] = {}
    for (name, dose), turns in said.items():
        labels = np.arange(len(turns[0])) % 2

        def mean(rows: NDArray[np.int64], y=labels, s=turns) -> float:
            return float(np.mean([auc(y[rows], scores[rows]) for scores in s]))

        slides = np.arange(len(labels)) // 2
        found.setdefault(name, {})[dose] = cluster_bootstrap(mean, slides, n=1000)
    return found


def least(of: Mapping[float, Estimate]) -> str:
    """The smallest fraction from which on the interval is above one half."""
    told = [dose for dose in of if all(e.low > 0.5 for d, e in of.items() if d >= dose)]
    return f"{min(told):.1%}" if told else "none"


def report(found: Curves, turns: int) -> list[str]:
    """The page, line by line."""
    doses = sorted(next(iter(found.values())))
    rows = [
        [f"`{name}`" if name in MODELS else name, *(str(of[d]) for d in doses), least(of)]
        for name, of in found.items()
    ]
    header = ("AUC [95 %] at tumour fraction", *(f"{d:.1%}" for d in doses), "told from")
    chance = found["abmil"].get(0.0)
    return [
        "# How much tumour a slide must hold",
        "",
        ABOUT.format(turns=turns),
        "",
        *table(header, rows),
        "",
        "*Told from*: the smallest fraction from which on the interval is above one half.",
        "",
        BOUNDS,
        "",
        *([f"Without tumour `abmil` has an AUC of {chance}: chance, as it must be.", ""]
          if chance is not None and chance.low <= 0.5 <= chance.high else []),
        "![AUC by tumour fraction](../pictures/mil_dose.png)",
        "",
        measured_on("torch", "scikit-learn"),
    ]  # fmt: skip


def plot(found: Curves, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, of in found.items():
        _curve(axes, name, {dose: e for dose, e in sorted(of.items()) if dose > 0})
    axes.axhline(0.5, color="0.7", linewidth=0.8)
    axes.set(xscale="log", xlabel="tumour fraction, %", ylabel="AUC, out of fold", ylim=(0.3, 1.02))
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _curve(axes: Axes, name: str, of: Mapping[float, Estimate]) -> None:
    x = [100 * dose for dose in of]
    style = "-" if name in MODELS else "--" if name == CEILING else ":"
    (line,) = axes.plot(x, [e.value for e in of.values()], style, marker=".", label=name)
    low, high = ([getattr(e, side) for e in of.values()] for side in ("low", "high"))
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.1, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    doses, models = ((0.01, 0.2), MODELS[:2]) if given.quick else (DOSES, MODELS)
    turns, slides = (1, QUICK_SLIDES) if given.quick else (TURNS, SLIDES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pools.npz"
        keep(paint(slides), path)
        pieces = [
            Piece(name, dose, turn, str(path), slides)
            for turn in range(turns)
            for dose in doses
            for name in (*models, "bounds")
        ]
        kept = read_ledger(given.ledger)
        conduct(pieces, run, kept, given.ledger, processes=given.jobs)
    found = curves(kept, pieces)
    lines = report(found, turns)
    print("\n".join(lines))
    if not given.quick:
        plot(found, PICTURE)
        write_report("mil_dose.md", lines)


if __name__ == "__main__":
    main()
