"""Tiles per second and core: ``stain-texture`` beside scikit-image and an untrained ResNet-18.

Run: ``python benchmarks/encoder_speed.py`` (under a minute; writes docs/benchmarks).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import skimage
import timm
import torch
from numpy.typing import NDArray
from skimage.color import rgb2hed
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops_table
from tables import measured_on, write_report

from microtome.engine.synthetic import Painter, plan_slide
from microtome.tasks.encoders import load_encoder

Tiles = NDArray[np.uint8]
TILES, PX, ROUNDS = 48, 256, 3
ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
ABOUT = (
    "Written by `benchmarks/encoder_speed.py`: one thread, one run, the same "
    f"{TILES} tiles of a synthetic slide. Processor time, median of {ROUNDS} rounds; decoding "
    "is not in it. The scikit-image line computes comparable statistics (stain moments, LBP, "
    "co-occurrence, region properties) without splitting touching nuclei."
)
SHAPE = ("area", "eccentricity", "perimeter_crofton", "intensity_mean")


def synthetic_tiles() -> Tiles:
    """Tiles of one synthetic slide that hold some tissue."""
    side = 12 * PX
    recipe = plan_slide(0, height_px=side, width_px=side, tissue_fraction=0.7, tumour_fraction=0.2)
    pixels = Painter(recipe).paint(0, 0, side, side)
    tiles = pixels.reshape(12, PX, 12, PX, 3).swapaxes(1, 2).reshape(-1, PX, PX, 3)
    stained = (tiles.min(axis=3) < 200).mean(axis=(1, 2)) > 0.3
    return np.ascontiguousarray(tiles[stained][:TILES])


def with_skimage(tiles: Tiles) -> list[NDArray[np.float64]]:
    """Comparable statistics, as one would write them: moments, LBP, GLCM, region properties."""
    rows = []
    for tile in tiles:
        stains = rgb2hed(tile)
        row = [tile.mean((0, 1)), tile.std((0, 1))]
        for amount in (stains[..., 0], stains[..., 1]):
            grey = np.clip(amount * 255 / 0.4, 0, 255).astype(np.uint8)
            patterns = local_binary_pattern(grey, 8, 1, "uniform")
            row.append(np.bincount(patterns.astype(int).ravel(), minlength=10) / grey.size)
            matrix = graycomatrix(grey // 8, [4], ANGLES, levels=32, symmetric=True, normed=True)
            row.extend(
                graycoprops(matrix, p).mean(axis=1)
                for p in ("contrast", "homogeneity", "energy", "correlation")
            )
            row.append(np.percentile(amount, [10, 50, 90]))
        h = cv2.GaussianBlur(stains[..., 0], (0, 0), 1)
        nuclei = regionprops_table(label(h > threshold_otsu(h)), h, properties=SHAPE)
        large = nuclei["area"] >= 32
        row.extend(np.array([v[large].mean(), v[large].std()]) for v in nuclei.values())
        rows.append(np.concatenate(row))
    return rows


def seconds_per_tile(work: Callable[[], object]) -> float:
    """Median processor seconds of one thread over the rounds, after one to warm up."""
    work()
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return statistics.median(spent) / TILES


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    tiles = synthetic_tiles()
    ours = load_encoder().for_slide(tiles)
    deep = load_encoder("timm:resnet18")
    small = np.ascontiguousarray(tiles[:, : deep.tile_px, : deep.tile_px])
    rows = {
        f"stain-texture@{ours.version}": (ours.dim, PX, lambda: ours.encode(tiles)),
        f"scikit-image {skimage.__version__}": (
            len(with_skimage(tiles[:1])[0]), PX, lambda: with_skimage(tiles),
        ),
        f"timm {timm.__version__} resnet18": (deep.dim, deep.tile_px, lambda: deep.encode(small)),
    }  # fmt: skip
    lines = [
        "# Encoder speed",
        "",
        ABOUT,
        "",
        "| encoder | features | tile px | tiles/s per core |",
        "|---|---|---|---|",
    ]
    for name, (dim, px, work) in rows.items():
        lines.append(f"| {name} | {dim} | {px} | {1 / seconds_per_tile(work):.0f} |")
        print(lines[-1])
    lines += ["", measured_on()]
    write_report("encoder_speed.md", lines)


if __name__ == "__main__":
    main()
