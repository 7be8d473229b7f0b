"""Synthetic images with lesions of a chosen extent, and their true masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .noise import key_of
from .paint import BLOCK_PX, Painter
from .plan import star_radii
from .recipe import SITES, Blob, Site, SlideRecipe
from .tissue_map import centres

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SIDE_PX = BLOCK_PX
_PITCH = 3
_TRIES = 2000
_STEP_PX = 8


@dataclass(frozen=True)
class LesionImages:
    """Images of which every pixel is known.

    Attributes
    ----------
    pixels
        uint8 [n, 512, 512, 3].
    masks
        uint8 [n, 512, 512]: 1 where there is tumour.
    slides
        Name of the slide of each image: images of one slide share stain and scanner.
    mpp
        Micrometres per pixel.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    slides: tuple[str, ...]
    mpp: float

    @property
    def labels(self) -> Mask:
        """bool [n]: whether there is any tumour."""
        return np.asarray(self.masks.any(axis=(1, 2)))

    def instance_truth(self, grid: int) -> NDArray[np.uint8]:
        """uint8 [n, grid, grid]: 1 where the instance holds any tumour, as in CAMEL's paper."""
        return _positive(self.masks, grid).astype(np.uint8)


def lesion_images(
    seed: int,
    *,
    n_slides: int,
    per_slide: int,
    positives: tuple[int, int],
    grid: int = 4,
    site: Site = SITES[0],
) -> LesionImages:
    """Paint images, every second one of a slide with tumour.

    Parameters
    ----------
    seed
        Equal seeds and parameters give equal images.
    positives
        Least and greatest number of instances of a positive image that hold tumour.
    grid
        Instances along a side.

    Raises
    ------
    ValueError
        No lesion of that extent was found.
    """
    slides = [
        _slide(seed, number, per_slide, positives, grid=grid, site=site)
        for number in range(n_slides)
    ]
    names = tuple(f"slide-{seed}-{k}" for k in range(n_slides) for _ in range(per_slide))
    pixels = np.concatenate([pixels for pixels, _ in slides])
    return LesionImages(pixels, np.concatenate([masks for _, masks in slides]), names, site.mpp)


def _slide(
    seed: int, number: int, count: int, positives: tuple[int, int], *, grid: int, site: Site
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(key_of(seed, "lesions", number))
    stain = site.draw(rng)
    tumour: list[Blob] = []
    benign: list[Blob] = []
    for place in range(count):
        left = place * _PITCH * SIDE_PX
        lesions = _lesions(rng, positives, grid, left) if place % 2 == 0 else []
        tumour += lesions
        benign += _benign(rng, left, lesions)
    recipe = SlideRecipe(
        seed=key_of(seed, "lesions", number) % 2**31,
        height_px=SIDE_PX,
        width_px=count * _PITCH * SIDE_PX,
        mpp=site.mpp,
        site=site.name,
        stain=stain,
        # Tissue everywhere: what lies below is not reached.
        threshold=-1e3,
        tumour=tuple(tumour),
        benign=tuple(benign),
        lymphocytes=float(rng.uniform(0.03, 0.09)),
        fat=float(rng.uniform(0.02, 0.10)),
    )
    painter = Painter(recipe)
    lefts = [place * _PITCH * SIDE_PX for place in range(count)]
    pixels = np.stack([painter.paint(0, left, SIDE_PX, SIDE_PX) for left in lefts])
    masks = np.stack([_mask(tumour, left, 1) for left in lefts]).astype(np.uint8)
    return pixels, masks


def _lesions(
    rng: np.random.Generator, positives: tuple[int, int], grid: int, left: int
) -> list[Blob]:
    """Draw one to three regions until the number of positive instances is the one wanted."""
    low, high = positives
    wanted = int(rng.integers(low, high + 1))
    instance_px = SIDE_PX / grid
    for _ in range(_TRIES):
        # Half the instances that a region touches it does not fill.
        share = rng.uniform(0.3, 1.3)
        count = int(rng.integers(1, 4)) if wanted > 2 else 1
        radius = instance_px * np.sqrt(share * wanted / count / np.pi)
        blobs = [_blob(rng, radius, left, inset_px=0.3 * instance_px) for _ in range(count)]
        if all(_positives(blobs, left, step, grid) == wanted for step in (_STEP_PX, 1)):
            return blobs
    raise ValueError(f"no lesion over {wanted} of {grid**2} instances was found")


def _benign(rng: np.random.Generator, left: int, lesions: list[Blob]) -> list[Blob]:
    """Regions of benign epithelium that keep off the tumour: what is easily taken for it."""
    lesion = _mask(lesions, left, _STEP_PX)
    blobs = [
        _blob(rng, SIDE_PX * rng.uniform(0.08, 0.25), left) for _ in range(int(rng.integers(0, 4)))
    ]
    return [blob for blob in blobs if not (_mask([blob], left, _STEP_PX) & lesion).any()]


def _blob(rng: np.random.Generator, radius: float, left: int, inset_px: float = 0.0) -> Blob:
    y, x = rng.uniform(inset_px, SIDE_PX - inset_px, 2)
    radii = star_radii(rng, min(radius, 0.8 * SIDE_PX))
    return Blob(float(y), float(x) + left, tuple(np.round(radii, 2).tolist()))


def _mask(blobs: list[Blob], left: int, step_px: int) -> Mask:
    y = centres(SIDE_PX // step_px, step_px)
    x = y + left
    inside = np.zeros((len(y), len(x)), bool)
    for blob in blobs:
        inside |= blob.depth_px(y[:, None], x[None, :]) > 0
    return inside


def _positives(blobs: list[Blob], left: int, step_px: int, grid: int) -> int:
    return int(_positive(_mask(blobs, left, step_px)[None], grid).sum())


def _positive(masks: NDArray[np.generic], grid: int) -> Mask:
    n, side, _ = masks.shape
    px = side // grid
    return np.asarray((masks != 0).reshape(n, grid, px, grid, px).any(axis=(2, 4)))
