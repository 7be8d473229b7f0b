"""CAMEL on painted lesions of three extents, against their true masks.

Run: ``python benchmarks/camel.py`` (three seeds; half an hour on one core), or with ``--quick``
(one seed of one extent, no page). Writes docs/benchmarks/camel.md. What is finished is kept,
figures in benchmarks/camel.json and cohorts in out/camel: a run that is broken off goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from camel_page import CONSTRAINED, REGIMES, ROWS, SUPERVISED, TRUE_LABELS, Figures, page
from numpy.typing import NDArray
from tables import ROOT, write_report

from microtome.engine.synthetic.lesions import LesionImages, lesion_images
from microtome.tasks.camel import criteria, fitting
from microtome.tasks.camel.enrich import (
    EnrichSettings,
    InstanceClassifier,
    Squares,
    enrich_lattices,
)
from microtome.tasks.camel.faithful import combined_mil
from microtome.tasks.camel.images import ImageSet, painted
from microtome.tasks.camel.lattice import Lattice, describe
from microtome.tasks.camel.segmentation import SegmentSettings, train_segmenter
from microtome.tasks.camel.stages import Stages
from microtome.tasks.camel.study import certainty

SEEDS, SLIDES, PER_SLIDE, GRID = 3, 8, 8, 4
SETTINGS = EnrichSettings(grid=GRID)
FINE = GRID * SETTINGS.refine
SHRINK = 8
SEGMENTER = SegmentSettings(
    architecture="deeplabv3+", encoder="tu-test_resnet", epochs=10, lr=3e-3, batch=8, threads=1
)
LEDGER, CACHE = Path(__file__).with_suffix(".json"), ROOT / "out" / "camel"
RECIPE = "1"
"""Part of a result's name in the ledger; goes up when what is done changes."""

Bools = NDArray[np.bool_]
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Images, and their instances on lattices by instances along a side."""

    images: LesionImages
    lattices: Mapping[int, Lattice]

    @property
    def fine(self) -> Lattice:
        """The instances that are labelled."""
        return self.lattices[GRID]

    @property
    def truth(self) -> Bools:
        """bool [n, 16]."""
        return self.images.instance_truth(GRID).reshape(len(self.images.pixels), -1) == 1


@dataclass(frozen=True)
class Found:
    """What a method says.

    Attributes
    ----------
    said
        bool [n, 16], of instances of the test images; None of those that say nothing.
    learnt
        bool [n, 16], of instances of the images that were learnt from.
    masks, weights
        [n, p, p]: what segmentation learns from.
    """

    said: Bools | None
    learnt: Bools
    masks: NDArray[np.uint8]
    weights: Weights | None = None


def part(seed: int, regime: str, grids: tuple[int, ...]) -> Part:
    """Paint images and describe their instances, once."""
    path = CACHE / f"{regime.split(maxsplit=1)[0]}-{seed}-{'-'.join(map(str, grids))}.npz"
    if not path.is_file():
        made = lesion_images(seed, n_slides=SLIDES, per_slide=PER_SLIDE, positives=REGIMES[regime])
        images = ImageSet(made.pixels, made.labels, made.slides)
        values = {
            f"lattice-{g}": describe(images, g, backbone="features", mpp=made.mpp).values
            for g in grids
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".part.npz")
        np.savez(
            whole, pixels=made.pixels, masks=made.masks, slides=made.slides, mpp=made.mpp,
            **values,
        )  # fmt: skip
        whole.rename(path)
    with np.load(path) as kept:
        images_kept = LesionImages(
            kept["pixels"], kept["masks"], tuple(kept["slides"].tolist()), float(kept["mpp"])
        )
        lattices = {
            g: Lattice(kept[f"lattice-{g}"], images_kept.labels, kept["slides"]) for g in grids
        }
    return Part(images_kept, lattices)


def methods(train: Part, test: Part, seed: int) -> dict[str, Found]:
    """What every method makes of the training images' labels."""
    settings = replace(SETTINGS, seed=seed)
    fine = train.fine
    image_label = np.repeat(fine.labels[:, None], fine.count, axis=1)

    def supervised(labels: Bools) -> Bools:
        ones = np.ones(labels.shape, np.float32)
        plain = replace(settings, constraint=False)
        network = fitting.fit_targets(fine, labels.astype(np.float32), ones, plain, seed=seed)
        return InstanceClassifier((network,), settings).of_lattice(test.fine) > 0.5

    by_truth = supervised(train.truth)
    found = {
        SUPERVISED: Found(by_truth, train.truth, at_centres(train.images.masks)),
        TRUE_LABELS: Found(by_truth, train.truth, squared(train.truth)),
        "naive": Found(supervised(image_label), image_label, squared(image_label)),
    }
    found |= both_criteria(train, test, settings)
    faithful = replace(settings, mode="faithful")
    for name, grids, how in (
        ("retrain", (GRID,), replace(faithful, constraint=False)),
        (CONSTRAINED, (GRID,), faithful),
        ("+ cascade", (2, GRID), replace(faithful, cascade=(2, 2))),
        ("robust", (GRID,), settings),
    ):
        enriched = enrich_lattices(
            [train.lattices[g] for g in grids],
            how,
            Stages(None, "", 1),
            parts=train.lattices[FINE],
        )
        assert enriched.classifier is not None
        said = enriched.classifier.of_lattice(test.fine) > 0.5
        learnt = enriched.labels.reshape(image_label.shape) == 1
        squares: Squares = enriched.squares
        weights = certainty(squares) if how.mode == "robust" else None
        found[name] = Found(said, learnt, squares.labels, weights)
        for line in enriched.history:
            print("  ", line)
    return found


def both_criteria(train: Part, test: Part, settings: EnrichSettings) -> dict[str, Found]:
    """Max-Max, Max-Min, and the mean of both: what each says of every instance."""
    mil = combined_mil(train.fine, settings, Stages(None, "", 1), name="direct")
    each = [
        [
            InstanceClassifier((mil.networks[c],), settings).of_lattice(lattice)
            for lattice in (test.fine, train.fine)
        ]
        for c in criteria.CRITERIA
    ]
    each.append([np.mean(pair, axis=0) for pair in zip(*each, strict=True)])
    return {
        name: Found(of_test > 0.5, of_train > 0.5, squared(of_train > 0.5))
        for name, (of_test, of_train) in zip(("Max-Max", "Max-Min", "union"), each, strict=True)
    }


def squared(labels: Bools) -> NDArray[np.uint8]:
    return labels.reshape(-1, GRID, GRID).astype(np.uint8)


def measured(found: Found, train: Part, test: Part, seed: int) -> dict[str, float]:
    """Figures of one method."""
    figures = {"pixels": pixel_iou(found, train, test, seed)}
    if found.said is not None:
        truth, masks = test.truth, test.images.masks == 1
        blocks = painted(squared(found.said), masks.shape[1]) == 1
        figures |= {
            "sensitivity": float(found.said[truth].mean()),
            "specificity": float((~found.said[~truth]).mean()),
            "blocks": iou(blocks, masks),
        }
    return figures | {"learnt labels": iou(found.learnt, train.truth)}


def pixel_iou(found: Found, train: Part, test: Part, seed: int) -> float:
    """IoU on shrunk test images of a segmenter that learnt from what a method painted."""
    if not found.masks.any():
        return 0.0
    settings = replace(SEGMENTER, mpp=SHRINK * train.images.mpp, seed=seed)
    segmenter = train_segmenter(
        shrunk(train.images.pixels), found.masks, settings, weights=found.weights
    )
    said = segmenter.predict(shrunk(test.images.pixels)) > 0.5
    return iou(said, at_centres(test.images.masks) == 1)


def iou(said: Bools, truth: Bools) -> float:
    return float((said & truth).sum() / max((said | truth).sum(), 1))


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean over squares of pixels."""
    n, side = pixels.shape[:2]
    squares = pixels.reshape(n, side // SHRINK, SHRINK, side // SHRINK, SHRINK, 3)
    return squares.mean(axis=(2, 4)).astype(np.uint8)


def at_centres(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks of shrunk images: what is at the centre of each square of pixels."""
    return masks[:, SHRINK // 2 :: SHRINK, SHRINK // 2 :: SHRINK]


def conduct(kept: Figures, *, regime: str, seed: int, keep: Callable[[], None]) -> None:
    """Measure the methods that were not measured yet."""
    missing = [name for name in ROWS if name not in kept.get(f"{regime} {seed}", {})]
    if not missing:
        return
    train = part(seed, regime, (2, GRID, FINE))
    test = part(seed + 100, regime, (GRID,))
    found = methods(train, test, seed)
    for name in missing:
        figures = measured(found[name], train, test, seed)
        kept.setdefault(f"{regime} {seed}", {})[name] = figures
        keep()
        print(regime, seed, name, {k: round(v, 3) for k, v in figures.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed of one extent, no page")
    quick = parser.parse_args().quick
    recipe = f"{RECIPE} {SETTINGS.record()} {SEGMENTER}"
    stored = json.loads(LEDGER.read_text(encoding="utf-8")) if LEDGER.is_file() else {}
    figures: Figures = stored.setdefault(recipe, {})

    def keep() -> None:
        LEDGER.write_text(json.dumps(stored, indent=1), encoding="utf-8")

    start = time.process_time()
    for seed in range(1 if quick else SEEDS):
        for regime in list(REGIMES)[: 1 if quick else None]:
            conduct(figures, regime=regime, seed=seed, keep=keep)
    print(f"{time.process_time() - start:.0f} s of one core", file=sys.stderr)
    if not quick:
        write_report("camel.md", page(figures, SEEDS, images=SLIDES * PER_SLIDE, slides=SLIDES))


if __name__ == "__main__":
    main()
