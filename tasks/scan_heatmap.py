"""What a model says of each block of a scan, as a map in the scan's own grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.volumes import Volume, Voxels, export_nifti
from ..storage.bags import Bag, ScanPlaces, read_bag
from ..storage.commit import writable
from ..storage.errors import BadProduct, InputError
from .heatmap_run import HeatmapItem, predict


def score_map(places: ScanPlaces, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put scores of blocks back onto the voxels of their scan.

    A voxel has the mean of the scores of the blocks that cover it, each weighted by the part of
    the voxel that it covers.

    Parameters
    ----------
    scores
        float32 [n], one a block.

    Returns
    -------
    float32 [z, y, x]
        In the voxels of the scan; NaN where no block is.

    Raises
    ------
    ValueError
        Not as many scores as blocks.
    """
    if scores.shape != (len(places.corner_vox),):
        raise ValueError(f"{scores.shape} scores for {len(places.corner_vox)} blocks")
    total = np.zeros(places.scan_vox, np.float32)
    weight = np.zeros(places.scan_vox, np.float32)
    for corner, score in zip(places.corner_vox.tolist(), scores.tolist(), strict=True):
        parts = [
            _covered(low, size, limit)
            for low, size, limit in zip(corner, places.footprint_vox, places.scan_vox, strict=True)
        ]
        box = tuple(span for span, _ in parts)
        z, y, x = (covered for _, covered in parts)
        share = z[:, None, None] * y[:, None] * x
        total[box] += score * share
        weight[box] += share
    weight[weight == 0] = np.nan
    return total / weight


def _covered(low: float, size: float, limit: int) -> tuple[slice, NDArray[np.float32]]:
    """Voxels of an axis that reach into low … low + size, and by how much of each."""
    first = max(0, math.floor(low + 1e-6))
    last = min(limit, math.ceil(low + size - 1e-6))
    voxel = np.arange(first, last)
    covered = np.minimum(low + size, voxel + 1) - np.maximum(low, voxel)
    return slice(first, last), covered.astype(np.float32)


def write_scan_heatmap(
    out: str | Path, bag: Bag, scores: NDArray[np.float32], *, overwrite: bool = False
) -> None:
    """Write scores of a scan's blocks as NIfTI, with the scan's size and affine.

    Parameters
    ----------
    out
        ``.nii`` or ``.nii.gz``.
    bag
        Of the scan.
    scores
        float32 [n]: a model's, its attention, or any column.

    Raises
    ------
    InputError
        The bag is that of a slide.
    StaleProduct, UnwritableOutput
        As :func:`~microtome.engine.volumes.export_nifti`.
    """
    if bag.scan is None:
        raise InputError(
            "the bag is that of a slide, not of a scan",
            where=bag.id,
            remedy="Draw it with microtome heatmap",
        )
    mapped = score_map(bag.scan, scores)
    voxels = Voxels(mapped.shape, mapped.dtype, mapped.__getitem__)
    export_nifti(
        Volume(Path(bag.source), "scores", voxels, bag.scan.affine), out, overwrite=overwrite
    )


def draw_scan_item(item: HeatmapItem, *, out: Path, overwrite: bool = False) -> Path:
    """Predict where that is still to be done, and write ``<out>/<id>.scores.nii.gz``.

    Raises
    ------
    BadProduct
        The prediction was made from another bag.
    InputError, StaleProduct, UnwritableOutput
        As :func:`write_scan_heatmap`.
    """
    if item.bag is None:
        raise ValueError(f"{item.id}: the bag says where the blocks lie, and none is given")
    bag = read_bag(item.bag)
    prediction = item.prediction or predict(item, bag)
    if not np.array_equal(bag.coords_px, prediction.coords_px):
        raise BadProduct(
            "the prediction is of other blocks than the bag's",
            where=item.bag,
            remedy="Predict again from this bag",
        )
    path = out / f"{item.id}.scores.nii.gz"
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
    write_scan_heatmap(path, bag, prediction.score, overwrite=overwrite)
    return path
