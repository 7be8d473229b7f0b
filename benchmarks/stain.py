"""Tiles per second and core: stain normalisation by slide statistics beside tiatoolbox's by tile.

Run: ``python benchmarks/stain.py`` (a minute; writes docs/benchmarks).
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tables import measured_on, table, write_report
from tiatoolbox.data import stain_norm_target
from tiatoolbox.tools.stainaugment import StainAugmentor
from tiatoolbox.tools.stainnorm import get_normalizer

from microtome.engine.stain import (
    METHODS,
    REFERENCE_TARGET,
    augment,
    estimate_stains,
    make_normaliser,
    statistics_of,
)
from microtome.engine.synthetic import Painter, plan_slide

Tiles = NDArray[np.uint8]
Work = Callable[[], object]
TILES, PX, ROUNDS, PEER_TILES = 48, 256, 5, 12
OURS, THEIRS = "microtome", "tiatoolbox, as made: a fit per tile"
ABOUT = (
    f"Written by `benchmarks/stain.py`: one run, one thread, the same tiles of {PX} px of one "
    f"synthetic slide ({TILES} of them; tiatoolbox takes {PEER_TILES}). Processor time, median of "
    f"{ROUNDS} rounds taken in turns; decoding is not in it. Microtome looks at a slide's stains "
    "once and then changes pixels; tiatoolbox's `transform` fits every tile anew. What that does "
    "to the pixels is in the second table: two windows of the slide that overlap by half, "
    "normalised each by itself, and how far the pixels they share differ."
)

VAHADANE = (
    "tiatoolbox's Vahadane is shown for its speed; with this scikit-learn its stains are none "
    "(see [the how-to](../how-to/stain.md))."
)


def painted(side: int) -> Tiles:
    """A synthetic slide with tissue on most of it, uint8 [h, w, 3]."""
    recipe = plan_slide(0, height_px=side, width_px=side, tissue_fraction=0.7, tumour_fraction=0.2)
    return Painter(recipe).paint(0, 0, side, side)


def windows(image: Tiles, shift_px: int) -> Tiles:
    """Tiles side by side from column ``shift_px`` on: uint8 [n, t, t, 3]."""
    rows, columns = image.shape[0] // PX, (image.shape[1] - shift_px) // PX
    cut = image[: rows * PX, shift_px : shift_px + columns * PX]
    return np.ascontiguousarray(
        cut.reshape(rows, PX, columns, PX, 3).swapaxes(1, 2).reshape(-1, PX, PX, 3)
    )


def stained(tiles: Tiles) -> NDArray[np.bool_]:
    """Which tiles hold some tissue."""
    enough: NDArray[np.bool_] = (tiles.min(axis=3) < 200).mean(axis=(1, 2)) > 0.3
    return enough


def tiles_per_second(works: dict[str, tuple[Work, int]]) -> dict[str, float]:
    """Median over rounds that are taken in turns, after one to warm up."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(ROUNDS + 1):
        for name, (work, count) in works.items():
            start = time.process_time()
            work()
            if turn:
                spent[name].append((time.process_time() - start) / count)
    return {name: 1 / statistics.median(seconds) for name, seconds in spent.items()}


def per_tile(method: str) -> Callable[[Tiles], Tiles]:
    """tiatoolbox's normaliser with its own target, tile by tile."""
    theirs = get_normalizer(method)
    theirs.fit(stain_norm_target())
    return lambda tiles: np.stack([theirs.transform(tile.copy()) for tile in tiles])


def fitted_by_tile(tiles: Tiles) -> Tiles:
    """Ours used as it should not be, with tiatoolbox's fit to every tile: like with like."""
    out = []
    for tile in tiles:
        fit = estimate_stains(tile, background="luminosity")
        own = replace(REFERENCE_TARGET, macenko=fit)
        out.append(make_normaliser("macenko", own, if_unknown="unchanged").apply(tile[None])[0])
    return np.stack(out)


def speeds(tiles: Tiles) -> list[list[str]]:
    """The first table's rows."""
    sample = statistics_of(tiles[:, ::4, ::4])
    few, rng, tensors = tiles[:PEER_TILES], np.random.default_rng(0), torch.from_numpy(tiles)
    ours = {method: make_normaliser(method, sample) for method in METHODS}
    works: dict[str, tuple[Work, int]] = {
        "statistics": (lambda: statistics_of(tiles[:, ::4, ::4]), 1),
        "by tile": (lambda: fitted_by_tile(few), PEER_TILES),
        "torch": (lambda: ours["macenko"].apply_torch(tensors), TILES),
        "augment": (lambda: augment(tiles, sample.macenko, rng), TILES),
    }
    for method in METHODS:
        theirs = per_tile(method)
        works[method] = (lambda n=ours[method]: n.apply(tiles), TILES)
        works[f"{method} peer"] = (lambda f=theirs: f(few), PEER_TILES)
    augmentor = StainAugmentor("macenko", stain_matrix=sample.macenko.vectors)
    works["augment peer"] = (lambda: [augmentor(tile.copy()) for tile in few], PEER_TILES)
    found = tiles_per_second(works)
    rows = [
        [name, f"{found[name]:,.0f}", f"{found[f'{name} peer']:,.1f}",
         f"{found[name] / found[f'{name} peer']:.3g} ×"]
        for name in (*METHODS, "augment")
    ]  # fmt: skip
    by_tile = [f"{found['by tile']:,.0f}", "", f"{found['by tile'] / found['macenko peer']:.3g} ×"]
    rows.insert(1, ["macenko, a fit per tile as theirs", *by_tile])
    rows.insert(2, ["macenko, torch on the CPU", f"{found['torch']:,.0f}", "", ""])
    return [*rows, ["statistics of a slide, once", f"{1000 / found['statistics']:,.0f} ms", "", ""]]


def disagreements(image: Tiles) -> list[list[str]]:
    """The second table's rows: grey levels between equal pixels of overlapping windows."""
    rows, columns = (side // PX for side in image.shape[:2])
    left = windows(image, 0).reshape(rows, columns, PX, PX, 3)[:, :-1].reshape(-1, PX, PX, 3)
    right = windows(image, PX // 2)
    both = np.flatnonzero(stained(left) & stained(right))[:PEER_TILES]
    lefts, rights = left[both], right[both]
    sample = statistics_of(left[:, ::4, ::4])
    lines = []
    for method in METHODS:
        row = [method]
        for change in (make_normaliser(method, sample).apply, per_tile(method)):
            shared = change(lefts)[:, :, PX // 2 :].astype(int), change(rights)[:, :, : PX // 2]
            apart = np.abs(shared[0] - shared[1])
            row.append(f"{apart.mean():.1f} (at most {apart.max()})")
        lines.append(row)
    return lines


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    image = painted(10 * PX)
    tiles = windows(image, 0)
    tiles = tiles[stained(tiles)][:TILES]
    lines = ["# Stain normalisation", "", ABOUT, ""]
    lines += table(("tiles/s per core", OURS, THEIRS, "ratio"), speeds(tiles))
    lines += ["", *table(("grey levels apart", OURS, THEIRS), disagreements(image))]
    lines += [
        "",
        VAHADANE,
        "",
        measured_on("numpy", "opencv-python-headless", "scikit-learn", "tiatoolbox", "torch"),
    ]
    print("\n".join(lines))
    write_report("stain.md", lines)


if __name__ == "__main__":
    main()
