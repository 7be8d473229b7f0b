"""CAMEL's label enrichment on painted lesions of three extents, against their true masks.

Run: ``python benchmarks/camel.py`` (three seeds and pixel segmentation; an hour on two cores), or
with ``--quick`` (one seed, no segmentation; minutes). Writes docs/benchmarks/camel.md.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray
from tables import measured_on, table, verdict, write_report

from microtome.engine.synthetic.lesions import SIDE_PX, LesionImages, lesion_images
from microtome.tasks.camel import criteria, fitting
from microtome.tasks.camel.enrich import EnrichSettings, InstanceClassifier, enrich_lattices
from microtome.tasks.camel.faithful import combined_mil
from microtome.tasks.camel.images import ImageSet, painted
from microtome.tasks.camel.lattice import Lattice, describe
from microtome.tasks.camel.segmentation import SegmentSettings, train_segmenter
from microtome.tasks.camel.stages import Stages

REGIMES = {"dense (8-16 of 16)": (8, 16), "medium (3-7)": (3, 7), "sparse (1-2)": (1, 2)}
SLIDES, PER_SLIDE, GRID = 8, 8, 4
SETTINGS = EnrichSettings(grid=GRID)
ROWS = (
    "fully supervised", "naive", "Max-Max", "Max-Min", "union", "retrain", "+ constraint",
    "+ cascade", "robust",
)  # fmt: skip
PIXEL_ROWS = ("fully supervised", "naive", "+ constraint", "robust")
SHRINK, PIXEL_EPOCHS = 4, 10
PAPER = (
    ("fully supervised (pixels)", "86.3", "84.8"),
    ("CAMEL, 160 px instances", "85.4", "84.8"),
    ("CAMEL, 320 px instances", "84.3", "84.7"),
    ("image label on every pixel", "72.9", "70.6"),
)
PAPER_ABOUT = (
    "Pixel IoU (%) on CAMELYON16's test slides (Xu et al. 2019): other data, other networks, "
    "not comparable with the above but for the order of methods."
)
ABOUT = """\
Written by `benchmarks/camel.py`. Painted images (no tissue, no patients), 512 px at 0.5 µm/px in
4 × 4 instances of 128 px, half of the images without tumour; all hold benign epithelium and
lymphocytes. An instance is positive where it holds any tumour, as in the paper. {n} images of
{slides} slides to learn from, as many of other slides to test on, for {seeds}. Features and a
small network; image labels alone are learnt from, except by *fully supervised*, which sees the
true label of every instance.

*Instances* and *blocks* are of the test images, labelled by the classifier at one half: blocks is
the IoU of its labels, painted on whole instances, with the true masks. A method may beat the
supervised one there: true labels over-paint, since a sliver of tumour makes a whole instance
positive. *Learnt labels* is the IoU of instances in the images that were learnt from, of the
labels that enrichment gives and that segmentation learns from (fully supervised: those are true).

*union*: mean of both classifiers; *retrain*: on what both select; *+ constraint*, *+ cascade*
(2 × 2): each with all before it. *naive*: a classifier of image labels; its learnt labels are the
image's label on every instance."""


@dataclass(frozen=True)
class Part:
    """Images, and their instances at two lattices."""

    images: LesionImages
    levels: tuple[Lattice, Lattice]

    @property
    def truth(self) -> NDArray[np.bool_]:
        """bool [n, 16]."""
        return self.images.instance_truth(GRID).reshape(len(self.images.pixels), -1) == 1


def part(seed: int, positives: tuple[int, int]) -> Part:
    made = lesion_images(seed, n_slides=SLIDES, per_slide=PER_SLIDE, positives=positives)
    images = ImageSet(made.pixels, made.labels, made.slides)
    coarse, fine = (describe(images, g, backbone="features", mpp=made.mpp) for g in (2, GRID))
    return Part(made, (coarse, fine))


def methods(
    train: Part, test: Part, settings: EnrichSettings
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Labels [n, 16] by method: of the test images, and those that segmentation would learn."""
    levels, fine = train.levels, train.levels[-1]
    image_label = np.repeat(fine.labels[:, None], fine.count, axis=1)
    ones = np.ones(image_label.shape, np.float32)
    plain = replace(settings, constraint=False)

    def supervised(labels: NDArray[np.bool_]) -> NDArray[np.float32]:
        network = fitting.fit_targets(
            fine, labels.astype(np.float32), ones, plain, seed=settings.seed
        )
        return InstanceClassifier((network,), settings).of_lattice(test.levels[-1])

    found = {
        "fully supervised": (supervised(train.truth) > 0.5, train.truth),
        "naive": (supervised(image_label) > 0.5, image_label),
    }
    mil = combined_mil(fine, settings, Stages(None, "", 1), name="direct")
    both = {
        name: [
            InstanceClassifier((network,), settings).of_lattice(lattice)
            for lattice in (test.levels[-1], fine)
        ]
        for name, network in mil.networks.items()
    }
    both["union"] = [np.mean(pair, axis=0) for pair in zip(*both.values(), strict=True)]
    names = dict(zip((*criteria.CRITERIA, "union"), ("Max-Max", "Max-Min", "union"), strict=True))
    found |= {names[k]: (a > 0.5, b > 0.5) for k, (a, b) in both.items()}
    faithful = replace(settings, mode="faithful")
    variants = {
        "retrain": (levels[1:], replace(faithful, constraint=False)),
        "+ constraint": (levels[1:], faithful),
        "+ cascade": (levels, replace(faithful, cascade=(2, 2))),
        "robust": (levels[1:], settings),
    }
    for name, (chosen, how) in variants.items():
        enriched = enrich_lattices(chosen, how, Stages(None, "", 1))
        assert enriched.classifier is not None
        said = enriched.classifier.of_lattice(test.levels[-1]) > 0.5
        found[name] = said, enriched.labels.reshape(image_label.shape) == 1
        if name == "robust":
            print("  ", *enriched.history, sep="\n   ")
    return found


def measured(
    said: NDArray[np.bool_], learnt: NDArray[np.bool_], train: Part, test: Part
) -> dict[str, float]:
    truth, masks = test.truth, test.images.masks == 1
    blocks = painted(said.reshape(-1, GRID, GRID), masks.shape[1]) == 1
    return {
        "sensitivity": float(said[truth].mean()),
        "specificity": float((~said[~truth]).mean()),
        "blocks": iou(blocks, masks),
        "learnt labels": iou(learnt, train.truth),
    }


def iou(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((said & truth).sum() / max((said | truth).sum(), 1))


def pixel_iou(learnt: NDArray[np.bool_], train: Part, test: Part, seed: int) -> float:
    """IoU on test images, shrunk by 4, of a U-Net that learnt from painted labels."""
    small, masks = shrunk(train.images.pixels), painted(learnt.reshape(-1, GRID, GRID), SIDE_PX)
    settings = SegmentSettings(
        epochs=PIXEL_EPOCHS, batch=8, mpp=SHRINK * train.images.mpp, seed=seed, threads=1
    )
    segmenter = train_segmenter(small, masks[:, ::SHRINK, ::SHRINK], settings)
    said = segmenter.predict(shrunk(test.images.pixels)) > 0.5
    return iou(said, test.images.masks[:, SHRINK // 2 :: SHRINK, SHRINK // 2 :: SHRINK] == 1)


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean over squares of 4 × 4 pixels."""
    n, side = pixels.shape[:2]
    squares = pixels.reshape(n, side // SHRINK, SHRINK, side // SHRINK, SHRINK, 3)
    return squares.mean(axis=(2, 4)).astype(np.uint8)


Figures = Mapping[tuple[str, str], list[dict[str, float]]]


def mean(figures: Figures, regime: str, name: str, key: str) -> float:
    return float(np.mean([one[key] for one in figures[regime, name]]))


def cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def page(figures: Figures, n_seeds: int) -> list[str]:
    seeds = f"{n_seeds} seed" + ("s (mean ± standard deviation)" if n_seeds > 1 else "")
    lines = [
        "# CAMEL", "", ABOUT.format(n=SLIDES * PER_SLIDE, slides=SLIDES, seeds=seeds),
    ]  # fmt: skip
    for regime in REGIMES:
        first = figures[regime, ROWS[0]][0]
        rows = [
            [name, *(cell([f[key] for f in figures[regime, name] if key in f]) for key in first)]
            for name in ROWS
        ]
        lines += ["", f"## {regime}", "", *table(["method", *first], rows)]
    dense, *_, sparse = REGIMES
    lines += ["", "## Bars", ""]
    for key in ("blocks", "pixels"):
        if key not in figures[dense, ROWS[0]][0]:
            continue
        lines += [
            verdict(
                f"faithful (+ constraint) beside supervised, dense, {key}",
                mean(figures, dense, "+ constraint", key) / mean(figures, dense, ROWS[0], key),
                0.97,
            ),
            verdict(
                f"robust beside supervised, sparse, {key}",
                mean(figures, sparse, "robust", key) / mean(figures, sparse, ROWS[0], key),
                0.9,
            ),
        ]
    for key in ("blocks", "learnt labels"):
        least = min(
            ours[key] / theirs[key]
            for regime in REGIMES
            for ours, theirs in zip(
                figures[regime, "robust"], figures[regime, "naive"], strict=True
            )
        )
        lines.append(verdict(f"robust beside naive, least of all runs, {key}", least, 1.0))
    lines += [
        "", "## The paper's figures", "",
        PAPER_ABOUT,
        "", *table(["trained on", "DeepLabv2", "U-Net"], PAPER), "", measured_on("torch"),
    ]  # fmt: skip
    return lines


def main() -> None:
    quick = "--quick" in sys.argv
    seeds = range(1 if quick else 3)
    figures: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for regime, positives in REGIMES.items():
        for seed in seeds:
            train, test = part(seed, positives), part(seed + 100, positives)
            results = methods(train, test, replace(SETTINGS, seed=seed))
            for name in ROWS:
                said, learnt = results[name]
                found = measured(said, learnt, train, test)
                if not quick and name in PIXEL_ROWS:
                    found["pixels"] = pixel_iou(learnt, train, test, seed)
                figures[regime, name].append(found)
                print(regime, seed, name, found, flush=True)
    write_report("camel.md", page(figures, len(seeds)))


if __name__ == "__main__":
    main()
