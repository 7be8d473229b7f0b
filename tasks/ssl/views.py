"""Views: what a tile might have looked like as well, for all tiles of a batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ...engine.stain import REFERENCE
from ...engine.stain.density import GLASS_DENSITY, TISSUE_DENSITY

_BLUR_REACH_PX = 4
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ViewOptions:
    """How different two views of a tile may be.

    Attributes
    ----------
    zoom
        A square part of the tile is enlarged up to this, and laid on its side or mirrored.
    stain_alpha, stain_beta
        The amounts c of haematoxylin and eosin become ``α c + β``, α from 1 ± ``stain_alpha`` and
        β from ± ``stain_beta`` (:func:`microtome.engine.stain.augment`).
    tint
        Optical density of red, green and blue is multiplied by factors from 1 ± this, each its
        own: dyes of another hue.
    brightness, contrast
        Of the scanner: factors from 1 ± these.
    blur_px
        Standard deviation of a Gaussian blur, from 0 to this, for every other tile.
    grey
        Share of tiles that lose their colour.
    """

    zoom: float = 1.5
    stain_alpha: float = 0.2
    stain_beta: float = 0.2
    tint: float = 0.2
    brightness: float = 0.1
    contrast: float = 0.1
    blur_px: float = 1.0
    grey: float = 0.1

    def __post_init__(self) -> None:
        if self.zoom < 1 or not 0 <= self.stain_alpha <= 1 or not 0 <= self.grey <= 1:
            raise ValueError("zoom is at least 1, stain_alpha and grey lie in 0 … 1")


@dataclass(frozen=True)
class View:
    """What is done to each of n tiles.

    Attributes
    ----------
    zoom, turns, is_mirrored
        float [n] and int [n]: enlargement, quarter turns, and 1 or 0.
    shift
        float [n, 2]: where in (x, y) the part lies that is enlarged; -1 … 1 from edge to edge.
    alpha, beta
        float [n, 2]: of haematoxylin and eosin.
    tint
        float [n, 3]: of red, green and blue.
    brightness, contrast, blur_px
        float [n].
    is_grey
        bool [n].
    """

    zoom: Tensor
    turns: Tensor
    is_mirrored: Tensor
    shift: Tensor
    alpha: Tensor
    beta: Tensor
    tint: Tensor
    brightness: Tensor
    contrast: Tensor
    blur_px: Tensor
    is_grey: Tensor

    def rows(self, which: slice) -> View:
        """The same for some of the tiles."""
        return View(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def to(self, device: torch.device) -> View:
        """The same on another device."""
        return View(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def draw_view(count: int, options: ViewOptions, generator: torch.Generator) -> View:
    """Draw what is done to ``count`` tiles; equal states of the generator give equal views."""

    def evenly(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *more, generator=generator)

    def whole(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator)

    blur_px = evenly(0, options.blur_px) * whole(2)
    return View(
        zoom=evenly(1, options.zoom),
        turns=whole(4),
        is_mirrored=whole(2),
        shift=evenly(-1, 1, 2),
        alpha=1 + options.stain_alpha * evenly(-1, 1, 2),
        beta=options.stain_beta * evenly(-1, 1, 2),
        tint=1 + options.tint * evenly(-1, 1, 3),
        brightness=1 + options.brightness * evenly(-1, 1),
        contrast=1 + options.contrast * evenly(-1, 1),
        blur_px=blur_px,
        is_grey=evenly(0, 1) < options.grey,
    )


def make_view(tiles: Tensor, view: View) -> Tensor:
    """Tiles as they might have looked as well.

    Parameters
    ----------
    tiles
        float32 [n, 3, t, t], RGB in 0 … 1.
    view
        For n tiles, on the same device.

    Returns
    -------
    float32 [n, 3, t, t]
        0 … 1.
    """
    seen = restain(crop(tiles, view), view.alpha, view.beta)
    seen = seen.clamp(min=1 / 255) ** view.tint[..., None, None]
    seen = blur(expose(seen, view.brightness, view.contrast), view.blur_px)
    grey = (seen * seen.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True).expand_as(seen)
    return torch.where(view.is_grey[:, None, None, None], grey, seen).clamp(0, 1)


def crop(tiles: Tensor, view: View) -> Tensor:
    """Cut a square part out of each tile, turn and mirror it, and enlarge it to the tile's size.

    Tiles are only ever enlarged, so that nothing aliases. Without zoom, pixels stay what they are.
    """
    angle = view.turns * (math.pi / 2)
    cosine, sine = torch.cos(angle).round(), torch.sin(angle).round()
    mirror = 1 - 2 * view.is_mirrored
    side = 1 / view.zoom
    x, y = (view.shift * (1 - side)[:, None]).unbind(1)
    affine = torch.stack(
        [
            torch.stack([side * mirror * cosine, -side * sine, x], 1),
            torch.stack([side * mirror * sine, side * cosine, y], 1),
        ],
        1,
    )
    places = torch.nn.functional.affine_grid(affine, list(tiles.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        tiles, places, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def restain(tiles: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Change how strongly haematoxylin and eosin show, by Ruifrok & Johnston's two vectors.

    :func:`microtome.engine.stain.augment` for a batch on any device; glass is left untouched.

    Parameters
    ----------
    tiles
        float32 [n, 3, t, t], RGB in 0 … 1.
    alpha, beta
        float [n, 2]: amounts c, in decadic optical density, become ``alpha c + beta``.
    """
    density = -torch.log10(tiles.clamp(min=1 / 255))
    unmixing = tiles.new_tensor(np.linalg.inv(REFERENCE.matrix).T[:2])
    amounts = torch.einsum("sc,nchw->nshw", unmixing, density).clamp(min=0)
    changed = (amounts * alpha[..., None, None] + beta[..., None, None]).clamp(min=0)
    strength = density.square().sum(1, keepdim=True).sqrt()
    weight = (strength - GLASS_DENSITY) / (TISSUE_DENSITY - GLASS_DENSITY)
    more = (changed - amounts) * weight.clamp(0, 1)
    absorbed = torch.einsum("sc,nshw->nchw", tiles.new_tensor(REFERENCE.vectors), more)
    return (tiles * 10**-absorbed).clamp(0, 1)


def expose(tiles: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Scale each tile [n, 3, t, t] by its brightness [n], and about its mean by its contrast."""
    lit = tiles * brightness[:, None, None, None]
    mean = lit.mean((1, 2, 3), keepdim=True)
    return (mean + (lit - mean) * contrast[:, None, None, None]).clamp(0, 1)


def blur(tiles: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur each tile [n, 3, t, t] by a Gaussian of its own deviation [n]; 0 leaves it alone."""
    n, channels, height, width = tiles.shape
    away = torch.arange(-_BLUR_REACH_PX, _BLUR_REACH_PX + 1, device=tiles.device)
    weights = torch.exp(-0.5 * (away / sigma_px.clamp(min=1e-3)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = tiles.reshape(1, n * channels, height, width)
    margin = _BLUR_REACH_PX
    for shape in ((-1, 1, len(away), 1), (-1, 1, 1, len(away))):
        pad = (0, 0, margin, margin) if shape[2] > 1 else (margin, margin, 0, 0)
        wide = torch.nn.functional.pad(planes, pad, mode="reflect")
        planes = torch.nn.functional.conv2d(wide, weights.view(shape), groups=n * channels)
    return planes.view(n, channels, height, width)
