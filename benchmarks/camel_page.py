"""The page on CAMEL's figures."""

from __future__ import annotations

import numpy as np
from tables import measured_on, table, verdict

REGIMES = {"dense (8-16 of 16)": (8, 16), "medium (3-7)": (3, 7), "sparse (1-2)": (1, 2)}
DENSE, _, SPARSE = REGIMES
SUPERVISED, TRUE_LABELS, CONSTRAINED = (
    "fully supervised (pixels)", "true labels of instances", "+ constraint",
)  # fmt: skip
ROWS = (
    SUPERVISED, TRUE_LABELS, "naive", "Max-Max", "Max-Min", "union", "retrain", CONSTRAINED,
    "+ cascade", "robust",
)  # fmt: skip
COLUMNS = {
    "pixels": "pixel IoU",
    "sensitivity": "instance sensitivity",
    "specificity": "instance specificity",
    "learnt labels": "learnt labels",
    "blocks": "blocks",
}
FAITHFUL = (CONSTRAINED, "+ cascade")

Figures = dict[str, dict[str, dict[str, float]]]
"""By extent and seed, then by method, then by column."""

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
{slides} slides to learn from, as many of other slides to test on, for {seeds} seeds (mean ±
standard deviation). Instances are described by the built-in features and told apart by a small
network; pixels are segmented by a small DeepLabv3+ from scratch, at 4 µm/px, in 10 passes. Image
labels alone are learnt from, but for the first two rows. Settings were chosen on cohorts of other
seeds.

*Pixel IoU* is of the segmenter's map at one half with the true masks of the test images. It learnt
from the true masks (*fully supervised*), from the true label of every instance painted on it, or
from what a method painted: whole instances, and for *robust* parts of them. *Instance sensitivity*
and *specificity* are those of the instance classifier at one half on the test images. *Learnt
labels* is the IoU of instances in the images that were learnt from. *Blocks* is the IoU of the
classifier's labels, painted on whole test instances, with the true masks: true labels do badly
there, as a sliver of tumour paints a whole instance, so who misses slivers is rewarded.

*union*: mean of both classifiers; *retrain*: on what both select; *+ constraint*, *+ cascade*
(2 × 2): each with all before it. *naive*: a classifier of image labels; its learnt labels are the
image's label on every instance."""


def page(figures: Figures, n_seeds: int, *, images: int, slides: int) -> list[str]:
    """All lines of it."""
    lines = ["# CAMEL", "", ABOUT.format(n=images, slides=slides, seeds=n_seeds)]
    for regime in REGIMES:
        rows = [[name, *(_cell(figures, regime, name, key) for key in COLUMNS)] for name in ROWS]
        lines += ["", f"## {regime}", "", *table(["method", *COLUMNS.values()], rows)]
    return [
        *lines, "", "## Bars", "", *bars(figures),
        "", "## The paper's figures", "", PAPER_ABOUT, "",
        *table(["trained on", "DeepLabv2", "U-Net"], PAPER), "", measured_on("torch"),
    ]  # fmt: skip


def bars(figures: Figures) -> list[str]:
    """What the method is held to."""
    lines = []
    for ceiling in (SUPERVISED, TRUE_LABELS):
        for who, name, regime, bar in (
            ("faithful (+ constraint)", CONSTRAINED, DENSE, 0.97),
            ("robust", "robust", SPARSE, 0.9),
        ):
            ratio = _mean(figures, regime, name) / _mean(figures, regime, ceiling)
            what = f"{who} beside {ceiling}, {regime}, pixel IoU"
            lines.append(verdict(what, ratio, bar))
    for key in ("pixels", "learnt labels", "blocks"):
        for whom, names in (("naive", ("naive",)), ("the better faithful", FAITHFUL)):
            ratios = {
                regime: _mean(figures, regime, "robust", key)
                / max(_mean(figures, regime, name, key) for name in names)
                for regime in REGIMES
            }
            worst = min(ratios, key=lambda regime: ratios[regime])
            what = f"robust beside {whom}, {COLUMNS[key]}, least of all extents ({worst})"
            lines.append(verdict(what, ratios[worst], 1.0))
            each = [
                run["robust"][key] / max(1e-9, *(run[name][key] for name in names))
                for run in figures.values()
            ]
            lower = sum(ratio < 1 for ratio in each)
            what = f"the same, least of single runs (lower in {lower} of {len(each)})"
            lines.append(verdict(what, min(each), 1.0))
    return lines


def _of(figures: Figures, regime: str, name: str, key: str) -> list[float]:
    return [
        methods[name][key]
        for run, methods in figures.items()
        if run.startswith(regime) and key in methods[name]
    ]


def _mean(figures: Figures, regime: str, name: str, key: str = "pixels") -> float:
    return float(np.mean(_of(figures, regime, name, key)))


def _cell(figures: Figures, regime: str, name: str, key: str) -> str:
    values = _of(figures, regime, name, key)
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else ""
