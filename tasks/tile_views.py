"""Views: the tiles of a slide as they might have been turned and stained, for training."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..engine.stain import REFERENCE, augment
from .encoders import Tiles

VERSION = 1
"""Goes up when the same tile would be altered in another way."""

STAIN_SIGMA = 0.1
"""Between the light (0.05) and the strong (0.2) of :func:`~microtome.engine.stain.augment`."""


def view_folder(bags: Path, view: int) -> Path:
    """Where the bags of a view are, beside those of the tiles as they are: ``<bags>/view-1`` …"""
    return bags / f"view-{view}" if view else bags


def viewed(look: Callable[[Tiles], Tiles], view: int) -> Callable[[Tiles], Tiles]:
    """A look, and after it a view of the tiles; the look alone for view 0."""
    return (lambda tiles: altered(look(tiles), view)) if view else look


def altered(tiles: Tiles, view: int) -> Tiles:
    """Turn, mirror and restain each tile as its own pixels and the number of the view decide.

    By nothing else: whatever tiles are with it, and in whatever order, a tile is altered alike.
    By 0, 90, 180 or 270 degrees, mirrored or not, all with the same chance; stains as in
    :func:`~microtome.engine.stain.augment`, by the reference stains.

    Parameters
    ----------
    tiles
        uint8 [b, t, t, 3] RGB.
    view
        From 1.

    Returns
    -------
    uint8 [b, t, t, 3]
    """
    out = np.empty_like(tiles)
    for seen, tile in zip(out, tiles, strict=True):
        rng = np.random.default_rng([view, zlib.crc32(tile.tobytes())])
        turned = np.rot90(tile, int(rng.integers(4)))
        turned = turned[:, ::-1] if rng.integers(2) else turned
        pixels = np.ascontiguousarray(turned)[None]
        seen[:] = augment(pixels, REFERENCE, rng, sigma_alpha=STAIN_SIGMA, sigma_beta=STAIN_SIGMA)[
            0
        ]
    return out
