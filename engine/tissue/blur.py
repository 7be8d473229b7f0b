"""Tissue out of focus, measured at 2 µm per pixel in patches of 64 µm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid import TOLERANCE, TileGrid, tissue_fraction
from ..slides.base import Pixels, Slide
from ..tiles import read_tile
from .shapes import Mask, without_specks

MPP = 2.0
PATCH_PX = 32
_TILE_PX = 512
_PATCHES = _TILE_PX // PATCH_PX
_WINDOW = 3
"""Sums are taken over 3 × 3 patches."""
_LEAST_TISSUE = 1 / 3
_LEAST_VARIANCE = 9.0
"""Of grey values; with less there is nothing that could be sharp."""
_LEAST_PATCHES = 20
"""Of fewer, nobody can say how sharp the slide usually is."""

_OWN_SHARE = 0.25
_SURELY_SHARP = 0.75
_SURELY_BLURRED = 0.1
_NO_DETAIL = 0.05
_LEAST_REBLUR = 0.15
_SMALLEST_PATCHES = 4


@dataclass(frozen=True)
class FocusMap:
    """Sums over patches of 64 µm; every array is float64 [h, w] but where it is said.

    Attributes
    ----------
    n, grey, grey_squared
        Number, sum and sum of squares of the grey values of the tissue pixels.
    edges, edges_reblurred
        Sum of squares of the Laplacian of the tissue pixels; and of the picture blurred once
        more, by a Gaussian of one pixel.
    noise, noise_reblurred
        Mean squares of the same two on glass, as numbers.
    """

    n: NDArray[np.float64]
    grey: NDArray[np.float64]
    grey_squared: NDArray[np.float64]
    edges: NDArray[np.float64]
    edges_reblurred: NDArray[np.float64]
    noise: float
    noise_reblurred: float


def blurred(slide: Slide, tissue: Mask) -> Mask:
    """Find tissue that is out of focus.

    Only what has tissue is read, a tile of 1 mm at a time, at 2 µm per pixel; slides that are
    coarser have no focus to be measured, and nothing is found.

    Parameters
    ----------
    tissue
        bool [h, w] over the whole of level 0.

    Returns
    -------
    bool [h, w]
    """
    import cv2

    info = slide.info
    nothing = np.zeros(tissue.shape, bool)
    if info.mpp is None or max(info.mpp) > MPP * (1 + TOLERANCE) or not tissue.any():
        return nothing
    patches = blurred_patches(measure_focus(slide, tissue))
    if not patches.any():
        return nothing
    # A patch is where its pixels are: the last row and column may reach beyond the slide.
    side_px = [PATCH_PX * MPP / mpp for mpp in info.mpp]
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * size / n / side).astype(np.intp), many - 1)
        for n, size, side, many in zip(
            tissue.shape, (info.height_px, info.width_px), side_px, patches.shape, strict=True
        )
    )
    found = cv2.medianBlur(patches[np.ix_(rows, columns)].astype(np.uint8), 5)
    return np.asarray((found > 0) & tissue)


def measure_focus(slide: Slide, tissue: Mask) -> FocusMap:
    """Sum up, patch by patch, what tells sharp tissue from blurred."""
    info = slide.info
    slide_px = (info.height_px, info.width_px)
    grid = TileGrid.over(info, tile_px=_TILE_PX, mpp=MPP, edge="pad", within_bounds=False)
    rows, columns = (np.unique(grid.coords_px[:, axis]) for axis in (0, 1))
    sums = np.zeros((5, len(rows) * _PATCHES, len(columns) * _PATCHES))
    noises = []
    for index in np.flatnonzero(tissue_fraction(grid, tissue, slide_px) > 0).tolist():
        tile = read_tile(slide, grid, index)
        inside = _cut(tissue, grid, index, slide_px)
        figures, noise = _sum_up(tile, inside)
        top, left = (
            int(np.searchsorted(starts, grid.coords_px[index, axis])) * _PATCHES
            for axis, starts in enumerate((rows, columns))
        )
        sums[:, top : top + _PATCHES, left : left + _PATCHES] = figures
        noises.append(noise)
    glass = np.concatenate(noises, axis=1) if noises else np.zeros((2, 0))
    noise = np.quantile(glass, 0.25, axis=1) if glass.shape[1] else np.zeros(2)
    n, grey, grey_squared, edges, reblurred = sums
    return FocusMap(n, grey, grey_squared, edges, reblurred, float(noise[0]), float(noise[1]))


def _cut(tissue: Mask, grid: TileGrid, index: int, slide_px: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask under a tile, at the tile's pixels: bool [512, 512]."""
    centres = (np.arange(_TILE_PX) + 0.5) / _TILE_PX
    places, inside = [], []
    for axis in (0, 1):
        at = grid.coords_px[index, axis] + centres * grid.footprint_px[axis]
        inside.append(at < slide_px[axis])
        place = (at * tissue.shape[axis] / slide_px[axis]).astype(np.intp)
        places.append(np.minimum(place, tissue.shape[axis] - 1))
    return np.asarray(tissue[np.ix_(*places)] & np.logical_and.outer(*inside))


def _sum_up(
    tile: Pixels, inside: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over the patches of a tile [5, 16, 16], and the two noises of its glass [2, n]."""
    import cv2

    grey = np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY), np.float32)
    reblurred = cv2.GaussianBlur(grey, (0, 0), 1.0)
    edges, edges_reblurred = (
        cv2.Laplacian(picture, cv2.CV_32F, ksize=1) ** 2 for picture in (grey, reblurred)
    )
    planes = (np.ones_like(grey), grey, grey**2, edges, edges_reblurred)
    summed = np.stack([_by_patch(np.where(inside, plane, 0)) for plane in planes])
    padded = cv2.dilate(inside.astype(np.uint8), np.ones((33, 33), np.uint8))
    glass = (_by_patch(padded) == 0) & (_by_patch(grey) < 254 * PATCH_PX**2)
    means = [_by_patch(plane)[glass] / PATCH_PX**2 for plane in (edges, edges_reblurred)]
    return summed, np.stack(means)


def _by_patch(plane: NDArray[np.generic]) -> NDArray[np.float64]:
    parts = plane.reshape(_PATCHES, PATCH_PX, _PATCHES, PATCH_PX)
    return np.asarray(parts.sum(axis=(1, 3), dtype=np.float64))


def blurred_patches(focus: FocusMap) -> Mask:
    """Tell from the sums which patches are blurred.

    Over 3 × 3 patches, and less the noise that is measured on glass, two figures are taken:
    *focus*, the mean square of the Laplacian over the variance of the grey values
    (Pech-Pacheco), and *reblur*, how much of the former is left when the picture is blurred once
    more: of a sharp one hardly anything, of a blurred one a good part (Crété), whatever it shows.

    A patch is blurred where focus is below 0.05; or where reblur is at least 0.15 and focus is
    below 0.1, or below a quarter of the slide's own upper quartile and below 0.75. Patches
    without contrast cannot be judged, single ones are no finding. Beside what was found, a patch
    is judged alone.

    Returns
    -------
    bool [h, w]

    References
    ----------
    Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy, ICPR 3:314-317.
    Crété et al. (2007), The blur effect, Proc SPIE 6492:64920I.
    """
    import cv2

    wide = _figures(focus, _WINDOW)
    limit = _SURELY_BLURRED
    if wide.is_known.sum() >= _LEAST_PATCHES:
        own = float(np.quantile(wide.focus[wide.is_known], 0.75))
        limit = max(limit, min(_OWN_SHARE * own, _SURELY_SHARP))
    core = without_specks(wide.below(limit) & (focus.n > 0), _SMALLEST_PATCHES)
    near = cv2.dilate(core.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.asarray(core | (near & _figures(focus, 1).below(limit)))


@dataclass(frozen=True)
class _Figures:
    focus: NDArray[np.float64]
    reblur: NDArray[np.float64]
    is_known: Mask

    def below(self, limit: float) -> Mask:
        blurred = (self.focus < limit) & (self.reblur >= _LEAST_REBLUR)
        return np.asarray(self.is_known & (blurred | (self.focus < _NO_DETAIL)))


def _figures(sums: FocusMap, window: int) -> _Figures:
    import cv2

    n, grey, grey_squared, edges, reblurred = (
        cv2.boxFilter(
            plane, cv2.CV_64F, (window, window), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        for plane in (sums.n, sums.grey, sums.grey_squared, sums.edges, sums.edges_reblurred)
    )
    enough = n >= window**2 * PATCH_PX**2 * _LEAST_TISSUE
    n = np.maximum(n, 1)
    variance = grey_squared / n - (grey / n) ** 2
    edges = np.maximum(edges / n - sums.noise, 0)
    left = np.maximum(reblurred / n - sums.noise_reblurred, 0)
    focus = edges / np.maximum(variance, _LEAST_VARIANCE)
    reblur = np.where(edges > 0, left / np.maximum(edges, 1e-9), 1.0)
    return _Figures(focus, reblur, np.asarray(enough & (variance > _LEAST_VARIANCE)))
