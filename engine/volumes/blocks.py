"""Which blocks of a scan, where, from which samples: pure geometry, and the reading of them.

A scan is brought onto one lattice of samples by area: a sample is the mean of the voxels that it
covers, each by the part covered. That is a box filter as wide as a sample, so what is finer than
the lattice is averaged away and not folded into it; nothing is ever enlarged. Blocks are cut from
that one lattice, so those that overlap or touch agree to the bit. Axes stay those of the scan:
nothing is turned or flipped, and where head and left are is in the affine alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, BadResolution
from .base import Volume

Edge = Literal["drop", "keep", "pad"]
Triple = tuple[float, float, float]
Samples = NDArray[np.float32]

TOLERANCE = 0.005
"""Voxels within this fraction of the spacing asked for are taken as they are."""

_SHEAR = 0.02
"""Cosine between two axes of the voxels above which a block would be no cuboid."""

_SLAB = 32


@dataclass(frozen=True)
class BlockGrid:
    """A lattice of blocks over a scan, at an exact spacing.

    Attributes
    ----------
    block_px, stride_px
        (z, y, x) size of a block and step between blocks, in samples.
    spacing_mm
        (z, y, x) distance between samples that was asked for.
    step_vox
        (z, y, x) voxels of the scan per sample, at least 1; exactly 1 where the voxels are within
        0.5 % of the spacing, and then taken as they are.
    lattice_px
        (z, y, x) whole samples over the scan, from the outer corner of its first voxel.
    starts_px
        int64 [n, 3]: first sample of each block, in the order of the array. Below 0, or with an
        end beyond ``lattice_px``, only where ``edge`` is ``pad``.
    scan_vox, affine
        Of the scan: (z, y, x) voxels; voxel (x, y, z) -> RAS mm.
    edge
        ``drop``: whole blocks of the lattice, what is left over shared by both sides. ``keep``:
        all of the scan, the last blocks moved inwards until they lie in it, over their neighbours.
        ``pad``: all of the scan, blocks at both sides filled up with NaN.
    """

    block_px: tuple[int, int, int]
    stride_px: tuple[int, int, int]
    spacing_mm: Triple
    step_vox: Triple
    lattice_px: tuple[int, int, int]
    starts_px: NDArray[np.int64]
    scan_vox: tuple[int, int, int]
    affine: NDArray[np.float64]
    edge: Edge

    def __len__(self) -> int:
        return len(self.starts_px)

    @property
    def footprint_vox(self) -> Triple:
        """(z, y, x) extent of a block in voxels of the scan; exact."""
        z, y, x = (n * step for n, step in zip(self.block_px, self.step_vox, strict=True))
        return z, y, x

    @property
    def corner_vox(self) -> NDArray[np.float64]:
        """float64 [n, 3]: (z, y, x) where blocks begin; the first voxel reaches from 0 to 1."""
        corner: NDArray[np.float64] = self.starts_px * np.array(self.step_vox)
        return corner

    @property
    def sample_mm(self) -> Triple:
        """(z, y, x) distance between samples as it is: within 0.5 % of ``spacing_mm``."""
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]
        z, y, x = (float(mm * step) for mm, step in zip(sides, self.step_vox, strict=True))
        return z, y, x

    def select(self, keep: NDArray[np.bool_]) -> BlockGrid:
        """The same grid with only the blocks for which ``keep`` [n] is true."""
        return replace(self, starts_px=self.starts_px[keep])

    @classmethod
    def over(
        cls,
        volume: Volume,
        *,
        spacing_mm: float,
        block_mm: float | None = None,
        block_px: int | None = None,
        stride_px: int | None = None,
        edge: Edge = "keep",
    ) -> BlockGrid:
        """Lay cubes over a scan, at one spacing along all axes.

        Parameters
        ----------
        spacing_mm
            Distance between samples.
        block_mm, block_px
            Side of a block, in millimetres or in samples: one of the two.
        stride_px
            Step between blocks in samples; the side of a block by default.

        Raises
        ------
        BadResolution
            The scan is coarser than ``spacing_mm`` along some axis: it would have to be enlarged.
        BadGeometry
            Sizes that are not positive; a block that is no whole number of samples, or larger than
            the scan; a scan with time points, or with voxels that are not right-angled.
        """
        _check_spacing(spacing_mm, volume.path)
        side = _side_px(block_mm, block_px, spacing_mm, volume.path)
        stride = side if stride_px is None else stride_px
        return _laid(volume, (side,) * 3, (stride,) * 3, (spacing_mm,) * 3, edge)

    @classmethod
    def slices(
        cls,
        volume: Volume,
        *,
        tile_px: int,
        spacing_mm: float,
        depth: int = 1,
        stride_px: int | None = None,
        edge: Edge = "drop",
    ) -> BlockGrid:
        """Lay squares over every slice of a scan along its first axis, or over stacks of slices.

        Slices are taken as they are, at their own distance; in the plane of a slice samples are
        ``spacing_mm`` apart. Parameters and errors otherwise as :meth:`over`.

        Parameters
        ----------
        depth
            Slices of a stack; there is one stack for each slice that has neighbours enough.
        """
        _check_spacing(spacing_mm, volume.path)
        _require_one_volume(volume)
        apart = volume.spacing_mm[0]
        stride = tile_px if stride_px is None else stride_px
        size, step = (depth, tile_px, tile_px), (1, stride, stride)
        return _laid(volume, size, step, (apart, spacing_mm, spacing_mm), edge)


def _check_spacing(spacing_mm: float, path: Path) -> None:
    if not 0 < spacing_mm < math.inf:
        raise BadGeometry("the spacing must be positive", where=path)


def _require_one_volume(volume: Volume) -> None:
    if len(volume.shape) != 3:
        raise BadGeometry(
            f"the scan has {volume.shape[0]} time points; blocks are cut from one volume",
            where=volume.path,
            remedy="Write the time point, or the mean over time, to a file of its own",
        )


def _side_px(block_mm: float | None, block_px: int | None, spacing_mm: float, path: Path) -> int:
    if (block_mm is None) == (block_px is None):
        raise ValueError("the side of a block is given in mm or in px")
    if block_px is not None:
        return block_px
    assert block_mm is not None
    side = round(block_mm / spacing_mm)
    if side < 1 or abs(side * spacing_mm / block_mm - 1) > TOLERANCE:
        low = max(1, math.floor(block_mm / spacing_mm))
        raise BadGeometry(
            f"a block of {block_mm:g} mm is no whole number of samples of {spacing_mm:g} mm",
            where=path,
            remedy=f"Ask for --block-mm {low * spacing_mm:g} or {(low + 1) * spacing_mm:g}",
        )
    return side


def _laid(
    volume: Volume,
    block: tuple[int, int, int],
    stride: tuple[int, int, int],
    spacing_mm: Triple,
    edge: Edge,
) -> BlockGrid:
    _require_one_volume(volume)
    _check_angles(volume)
    if min(*block, *stride) < 1:
        raise BadGeometry("block size and stride must be positive", where=volume.path)
    z, y, x = (_step(volume, axis, mm) for axis, mm in enumerate(spacing_mm))
    depth, height, width = (int(n) for n in volume.shape)
    lattice = tuple(
        math.floor(n / s + 1e-6) for n, s in zip((depth, height, width), (z, y, x), strict=True)
    )
    starts = [_starts(*sizes, edge) for sizes in zip(lattice, block, stride, strict=True)]
    if any(len(axis) == 0 for axis in starts):
        raise BadGeometry(
            f"not one block of {_product(block)} samples lies in the scan, which has "
            f"{_product(lattice)} of {_product(spacing_mm)} mm",
            where=volume.path,
            remedy="Ask for a smaller --block-mm or --tile-px, a finer --spacing-mm, or --edge pad",
        )
    places = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)
    return BlockGrid(
        block_px=block,
        stride_px=stride,
        spacing_mm=spacing_mm,
        step_vox=(z, y, x),
        lattice_px=(lattice[0], lattice[1], lattice[2]),
        starts_px=places.astype(np.int64),
        scan_vox=(depth, height, width),
        affine=volume.affine,
        edge=edge,
    )


def _product(sizes: tuple[float, ...]) -> str:
    return " × ".join(f"{size:g}" for size in sizes)


def _check_angles(volume: Volume) -> None:
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR:
        raise BadGeometry(
            "its voxels are not right-angled: no block of them is a cuboid",
            where=volume.path,
            remedy="Resample it onto a right-angled grid first",
        )


def _step(volume: Volume, axis: int, spacing_mm: float) -> float:
    step = spacing_mm / volume.spacing_mm[axis]
    if abs(step - 1) <= TOLERANCE:
        return 1.0
    if step < 1:
        raise BadResolution(
            f"the scan's voxels are {_product(volume.spacing_mm)} mm (z, y, x), coarser than the "
            f"{spacing_mm:g} mm asked for",
            where=volume.path,
            remedy="Ask for a coarser --spacing-mm, or for slices with a 2-D encoder; a scan is "
            "never enlarged",
        )
    return step


def _starts(n: int, block: int, stride: int, edge: Edge) -> NDArray[np.int64]:
    """First samples of blocks along an axis of n."""
    last = n - block
    count = max(1, math.ceil(last / stride) + 1) if edge == "pad" else max(0, last // stride + 1)
    starts = np.arange(count, dtype=np.int64) * stride
    over = last - int(starts[-1]) if count else 0
    if edge == "keep":
        return np.append(starts, last) if over else starts
    # Rounded so that the odd sample falls to the far side.
    return np.asarray(starts + over // 2)


def read_lattice(volume: Volume, grid: BlockGrid) -> Samples:
    """All samples of a grid's lattice, by area; the scan is read a few slices at a time.

    Returns
    -------
    float32 [z, y, x]
        True values (HU, SUV …); NaN where a voxel that a sample covers is none.
    """
    along_z, along_y, along_x = (
        _area_weights(voxels, samples, step)
        for voxels, samples, step in zip(grid.scan_vox, grid.lattice_px, grid.step_vox, strict=True)
    )
    lattice = np.zeros(grid.lattice_px, np.float32)
    for start in range(0, grid.scan_vox[0], _SLAB):
        slab = np.asarray(volume.data[start : start + _SLAB], np.float32)
        for z, plane in enumerate(slab, start):
            small = (along_x @ (along_y @ plane).T).T
            column = along_z[:, [z]].tocoo()
            for row, weight in zip(column.row, column.data, strict=True):
                lattice[row] += weight * small
    return lattice


def _area_weights(voxels: int, samples: int, step: float) -> Any:
    """Sparse [samples, voxels]: how much of a sample each voxel is; rows sum to 1."""
    from scipy.sparse import coo_array

    low = np.arange(samples)[:, None] * step
    column = np.floor(low).astype(np.int64) + np.arange(math.ceil(step) + 1)
    covered = np.minimum(low + step, column + 1) - np.maximum(low, column)
    # A speck of a voxel is rounding, not image: it may not carry its NaN over.
    used = (covered > 1e-9 * step) & (column < voxels)
    row = np.broadcast_to(np.arange(samples)[:, None], column.shape)
    share = np.where(used, covered, 0)
    share /= share.sum(axis=1, keepdims=True)
    weights = coo_array(
        (share[used].astype(np.float32), (row[used], column[used])), shape=(samples, voxels)
    )
    return weights.tocsr()


def cut_blocks(lattice: Samples, grid: BlockGrid, *, at_once: int = 64) -> Iterator[Samples]:
    """Cut the blocks of a grid from its lattice, in order, a few at a time.

    Parameters
    ----------
    lattice
        float32 [z, y, x], as :func:`read_lattice` gives it.

    Yields
    ------
    float32 [b, z, y, x]
        NaN beyond the lattice.
    """
    for first in range(0, len(grid), at_once):
        starts = grid.starts_px[first : first + at_once]
        blocks = np.full((len(starts), *grid.block_px), np.nan, np.float32)
        for block, start in zip(blocks, starts.tolist(), strict=True):
            inside, there = _spans(start, grid)
            block[inside] = lattice[there]
        yield blocks


def read_blocks(volume: Volume, grid: BlockGrid) -> Samples:
    """All blocks of a grid: float32 [n, z, y, x], true values, NaN beyond the scan."""
    lattice = read_lattice(volume, grid)
    return np.concatenate(list(cut_blocks(lattice, grid)))


def _spans(start: list[int], grid: BlockGrid) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a block that lies on the lattice, counted in the block and on the lattice."""
    inside, there = [], []
    for first, size, limit in zip(start, grid.block_px, grid.lattice_px, strict=True):
        low, high = max(first, 0), min(first + size, limit)
        inside.append(slice(low - first, high - first))
        there.append(slice(low, high))
    return tuple(inside), tuple(there)


def foreground_fraction(grid: BlockGrid, foreground: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fraction of each block that is foreground, float32 [n]; beyond the scan there is none."""
    size = math.prod(grid.block_px)
    counts = [
        np.count_nonzero(foreground[_spans(start, grid)[1]]) for start in grid.starts_px.tolist()
    ]
    return np.array(counts, np.float32) / np.float32(size)
