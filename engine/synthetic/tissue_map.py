"""Where a synthetic slide has tissue, and of which kind: smooth fields, sampled coarsely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .noise import key_of, value_noise
from .recipe import Blob, SlideRecipe

Floats = NDArray[np.float64]

STEP_PX = 16
"""Spacing of the coarse samples; sample k sits at (k + 0.5) * STEP_PX."""

_SOFT_UM = 12.0
_ENVELOPE = 6.0
_SHORTEST_PX = 512
"""A smaller slide shows a part of a piece of tissue, not a smaller piece."""


@dataclass(frozen=True)
class Fields:
    """Coarse description of a part of a slide; every array is float64 [h, w].

    Attributes
    ----------
    tissue_px
        Signed distance to the edge of the tissue in level-0 pixels, about; positive inside.
    tumour, benign, lymphocytes, fat
        Share of the region kind, 0 … 1, with soft borders.
    density
        How thick the stroma is: zero mean, unit deviation.
    warp_y, warp_x
        Displacement of the fibre texture in level-0 pixels.
    """

    tissue_px: Floats
    tumour: Floats
    benign: Floats
    lymphocytes: Floats
    fat: Floats
    density: Floats
    warp_y: Floats
    warp_x: Floats

    @property
    def stroma(self) -> Floats:
        """What no other kind takes."""
        others = 1 - self.tumour - self.benign - self.lymphocytes - self.fat
        return np.asarray(np.clip(others, 0, 1))


def centres(count: int, step_px: int, first: int = 0) -> Floats:
    """Level-0 positions of the centres of ``count`` samples, ``step_px`` apart: float64 [count]."""
    return np.asarray((np.arange(first, first + count) + 0.5) * step_px, np.float64)


def tissue_level(recipe: SlideRecipe, y_px: Floats, x_px: Floats) -> Floats:
    """The noise whose part above ``recipe.threshold`` is tissue, on the grid ``y_px`` × ``x_px``.

    Octaves from half the slide down to 100 µm under an envelope that keeps the border free.
    """
    short = max(min(recipe.height_px, recipe.width_px), _SHORTEST_PX)
    waves = [short / 2**k for k in range(1, 6)]
    waves += [w / recipe.mpp for w in (300.0, 100.0) if w / recipe.mpp < waves[-1]]
    level = np.zeros((len(y_px), len(x_px)))
    for octave, wave in enumerate(waves):
        noise = value_noise(key_of(recipe.seed, "tissue", octave), wave, y_px, x_px)
        level += 0.55**octave * noise
    edge_y = np.abs(2 * y_px / recipe.height_px - 1) ** 6
    edge_x = np.abs(2 * x_px / recipe.width_px - 1) ** 6
    return np.asarray(level - _ENVELOPE * (edge_y[:, None] + edge_x[None, :]))


def fields(recipe: SlideRecipe, row: int, column: int, tissue_px: Floats) -> Fields:
    """Evaluate the fields on the coarse samples from (``row``, ``column``) on.

    ``tissue_px`` is what :func:`edge_distance` gives there; glass needs no more than that.
    """
    height, width = tissue_px.shape
    y, x = centres(height, STEP_PX, row), centres(width, STEP_PX, column)
    px = 1 / recipe.mpp

    def noise(name: str, wavelength_um: float) -> Floats:
        return value_noise(key_of(recipe.seed, name), wavelength_um * px, y, x)

    inside = partial(_inside, y_px=y, x_px=x, soft_px=_SOFT_UM * px)
    tumour = inside(recipe.tumour)
    benign = inside(recipe.benign) * (1 - tumour)
    free = 1 - tumour - benign
    lymphocytes = free * _above(noise("lymphocytes", 220), recipe.lymphocytes)
    fat = (free - lymphocytes) * _above(noise("fat", 500), recipe.fat)
    return Fields(
        tissue_px=tissue_px,
        tumour=tumour,
        benign=benign,
        lymphocytes=lymphocytes,
        fat=fat,
        density=noise("density", 150),
        warp_y=(noise("warp-y", 450) * 75 + noise("warp-y-fine", 90) * 7) * px,
        warp_x=noise("warp-x", 200) * 20 * px,
    )


def edge_distance(recipe: SlideRecipe, row: int, column: int, height: int, width: int) -> Floats:
    """Signed distance to the edge of the tissue in level-0 pixels, about; positive inside.

    Returns
    -------
    float64 [height, width]
        On the coarse samples from (``row``, ``column``) on.
    """
    y, x = centres(height + 2, STEP_PX, row - 1), centres(width + 2, STEP_PX, column - 1)
    level = tissue_level(recipe, y, x) - recipe.threshold
    slope_y = (level[2:, 1:-1] - level[:-2, 1:-1]) / (2 * STEP_PX)
    slope_x = (level[1:-1, 2:] - level[1:-1, :-2]) / (2 * STEP_PX)
    return level[1:-1, 1:-1] / np.maximum(np.hypot(slope_y, slope_x), 1e-6)


def _inside(blobs: Sequence[Blob], *, y_px: Floats, x_px: Floats, soft_px: float) -> Floats:
    share = np.zeros((len(y_px), len(x_px)))
    for blob in blobs:
        reach = max(blob.radii_px) + soft_px
        near = (
            y_px[-1] > blob.y_px - reach
            and y_px[0] < blob.y_px + reach
            and x_px[-1] > blob.x_px - reach
            and x_px[0] < blob.x_px + reach
        )
        if near:
            depth = blob.depth_px(y_px[:, None], x_px[None, :])
            share = np.maximum(share, np.clip(depth / soft_px + 0.5, 0, 1))
    return share


def _above(noise: Floats, fraction: float) -> Floats:
    """Soft indicator of the highest ``fraction`` of a noise."""
    if fraction <= 0:
        return np.zeros_like(noise)
    return np.clip((noise - NormalDist().inv_cdf(1 - fraction)) / 0.25, 0, 1)


def tissue_mask(recipe: SlideRecipe, downsample: int) -> NDArray[np.bool_]:
    """True tissue at the centres of ``downsample``-pixel squares that lie wholly on the slide.

    Returns
    -------
    bool [height_px // downsample, width_px // downsample]
    """
    y = centres(recipe.height_px // downsample, downsample)
    x = centres(recipe.width_px // downsample, downsample)
    return tissue_level(recipe, y, x) > recipe.threshold
