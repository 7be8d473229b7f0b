"""Draw a recipe from a seed: how much tissue, where the regions lie, which stain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .noise import key_of
from .recipe import SITES, Blob, Site, SlideRecipe
from .tissue_map import centres, tissue_level, tissue_mask

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_VERTICES = 96
_MAP_SIDE = 384
_INSET_UM = 40.0


def plan_slide(
    seed: int,
    *,
    height_px: int,
    width_px: int,
    site: Site = SITES[0],
    tumour_fraction: float = 0.0,
    benign_fraction: float = 0.15,
    tissue_fraction: float = 0.5,
) -> SlideRecipe:
    """Draw a slide.

    Parameters
    ----------
    seed
        Equal seeds and parameters give equal slides.
    height_px, width_px
        Size of level 0.
    site
        Laboratory: stain family and resolution.
    tumour_fraction, benign_fraction
        Share of the tissue that regions of tumour and of benign epithelium aim at. Regions stay
        inside the tissue and apart, so they may come out smaller.
    tissue_fraction
        Share of the slide that is tissue, to within a per cent or so.

    Raises
    ------
    ValueError
        Fractions that leave no room.
    """
    if not 0 < tissue_fraction < 0.8 or not 0 <= tumour_fraction + benign_fraction < 0.8:
        raise ValueError("tissue, tumour and benign fractions must leave room for the rest")
    rng = np.random.default_rng(key_of(seed, "plan"))
    recipe = SlideRecipe(
        seed=seed,
        height_px=height_px,
        width_px=width_px,
        mpp=site.mpp,
        site=site.name,
        stain=site.draw(rng),
        threshold=0.0,
        lymphocytes=float(rng.uniform(0.03, 0.09)),
        fat=float(rng.uniform(0.02, 0.10)),
    )
    step = max(16, max(height_px, width_px) // _MAP_SIDE)
    recipe = replace(recipe, threshold=_threshold(recipe, step, tissue_fraction))
    tissue = tissue_mask(recipe, step)
    free = _eroded(tissue, _INSET_UM / site.mpp / step)
    tumour = _regions(rng, free, tumour_fraction * tissue.sum(), step)
    for blob in tumour:
        free &= ~_covered(blob, free.shape, step, _INSET_UM / site.mpp)
    benign = _regions(rng, free, benign_fraction * tissue.sum(), step)
    return replace(recipe, tumour=tumour, benign=benign)


def _threshold(recipe: SlideRecipe, step: int, tissue_fraction: float) -> float:
    y, x = centres(recipe.height_px // step, step), centres(recipe.width_px // step, step)
    return float(np.quantile(tissue_level(recipe, y, x), 1 - tissue_fraction))


def _eroded(mask: Mask, radius: float) -> Mask:
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > radius)


def _regions(rng: np.random.Generator, free: Mask, wanted: float, step: int) -> tuple[Blob, ...]:
    """Place star-shaped regions in free tissue until they cover ``wanted`` map pixels."""
    from scipy.ndimage import distance_transform_edt

    free, covered = free.copy(), 0.0
    blobs: list[Blob] = []
    part = wanted / rng.integers(1, 4)
    while covered < 0.9 * wanted and len(blobs) < 8:
        room = distance_transform_edt(np.pad(free, 1))[1:-1, 1:-1]
        if room.max() < 4:
            break
        radius = float(np.sqrt(min(part, 1.1 * (wanted - covered)) / np.pi))
        candidates = np.argwhere(room >= min(0.7 * radius, 0.8 * room.max()))
        centre = candidates[rng.integers(len(candidates))]
        blob = _grow(rng, free, centre, radius, step)
        covered += blob.area_px / step**2
        free &= ~_covered(blob, free.shape, step, 4 * step)
        blobs.append(blob)
    return tuple(blobs)


def _grow(
    rng: np.random.Generator, free: Mask, centre: NDArray[np.int64], radius: float, step: int
) -> Blob:
    wanted = star_radii(rng, radius)
    angle = _angles()
    allowed = _room_along_rays(free, centre, angle, wanted.max())
    # The least of three neighbours keeps the straight edge between two vertices inside as well.
    allowed = np.minimum.reduce([np.roll(allowed, k) for k in (-1, 0, 1)])
    radii = np.minimum(wanted, allowed) * step
    y, x = (centre + 0.5) * step
    return Blob(float(y), float(x), tuple(np.round(radii, 2).tolist()))


def star_radii(rng: np.random.Generator, radius: float) -> Floats:
    """Distances of an irregular border from its centre, float64 [96], about ``radius``."""
    angle = _angles()
    shape = sum(
        rng.normal() * 0.16 / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(1, 8)
    )
    return np.asarray(radius * np.clip(1 + np.asarray(shape) * 1.6, 0.5, 1.7))


def _angles() -> Floats:
    return np.asarray(2 * np.pi * np.arange(_VERTICES) / _VERTICES)


def _room_along_rays(free: Mask, centre: NDArray[np.int64], angle: Floats, limit: float) -> Floats:
    along = np.arange(1, int(limit) + 2)
    rows = np.rint(centre[0] + np.outer(np.sin(angle), along)).astype(np.int64)
    columns = np.rint(centre[1] + np.outer(np.cos(angle), along)).astype(np.int64)
    inside = (rows >= 0) & (rows < free.shape[0]) & (columns >= 0) & (columns < free.shape[1])
    hit = ~inside
    hit[inside] = ~free[rows[inside], columns[inside]]
    hit[:, -1] = True
    return np.asarray(np.maximum(np.argmax(hit, axis=1), 1), np.float64)


def _covered(blob: Blob, shape: tuple[int, ...], step: int, around_px: float) -> Mask:
    y, x = centres(shape[0], step), centres(shape[1], step)
    return np.asarray(blob.depth_px(y[:, None], x[None, :]) > -around_px)
