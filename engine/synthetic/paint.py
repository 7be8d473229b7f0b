"""Paint any part of a synthetic slide: concentrations first, then Beer and Lambert's law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import Cells, cells, key_of
from .recipe import SlideRecipe
from .stamps import (
    BENIGN,
    LYMPHOCYTE,
    STROMA,
    TUMOUR,
    UNIT,
    Stamp,
    fibres,
    grain,
    nuclei,
    vacuoles,
)
from .tissue_map import STEP_PX, Fields, edge_distance, fields

Plane = NDArray[np.uint8]
Floats = NDArray[np.float64]

BLOCK_PX = 512
"""Side of the squares that are painted at once; a slide is the same however it is asked for."""

_MARGIN_PX = STEP_PX
_CANVAS_PX = BLOCK_PX + 2 * _MARGIN_PX
_GLASS_PERIOD_PX = 256
_ANGLES = 16

_EDGE: Plane = np.clip((np.arange(256) - 124) * 24, 0, 255).astype(np.uint8)
_EOSIN_LEFT: Plane = np.clip(255 - 1.3 * np.arange(256), 115, 255).astype(np.uint8)
"""Nuclei hold less eosin than what surrounds them."""


@dataclass(frozen=True)
class _Layer:
    """One kind of nucleus or hole: its lattice and its shapes."""

    name: str
    pitch_um: float
    stamps: Sequence[Stamp]
    follows_fibres: bool = False
    jitter: float = 0.28

    @property
    def reach_px(self) -> int:
        return max(len(stamp) for stamp in self.stamps) // 2


@dataclass(frozen=True)
class _Canvas:
    """A square to paint: a block with a margin, and its coarse fields, which reach further."""

    top_px: int
    left_px: int
    ring: int
    coarse: Fields

    def upsampled(self, field: Floats, dtype: type = np.uint8) -> NDArray[Any]:
        """Interpolate coarse samples to the pixels of the canvas."""
        import cv2

        if dtype is np.uint8:
            field = np.clip(np.rint(field), 0, 255)
        cut = slice(self.ring - 1, len(field) - self.ring + 1)
        side = _CANVAS_PX + 2 * STEP_PX
        near: NDArray[Any] = np.ascontiguousarray(field[cut, cut], dtype)
        fine = cv2.resize(near, (side, side), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(fine[STEP_PX:-STEP_PX, STEP_PX:-STEP_PX])

    def at(self, field: Floats, spots: Cells) -> Floats:
        """Coarse samples nearest to the spots."""
        row = ((spots.y_px - self.top_px) // STEP_PX).astype(np.int64) + self.ring
        column = ((spots.x_px - self.left_px) // STEP_PX).astype(np.int64) + self.ring
        return field[row, column]

    def spots(self, key: int, layer: _Layer, mpp: float, where: Floats) -> Cells:
        """Places of a layer's lattice that ``where`` accepts and that are seen on the canvas."""
        start_y, start_x = self.top_px - layer.reach_px, self.left_px - layer.reach_px
        side = _CANVAS_PX + 2 * layer.reach_px
        box = (start_y, start_x, start_y + side, start_x + side)
        found = cells(key, layer.pitch_um / mpp, box, jitter=layer.jitter)
        return found.keep(found.accept < self.at(where, found))

    def paste(
        self, plane: Plane, spots: Cells, shapes: Sequence[Stamp], reach_px: int, combine: np.ufunc
    ) -> Plane:
        """Combine shapes into a plane, each with its middle at its spot."""
        padded = np.pad(plane, 2 * reach_px + 1)
        rows = np.rint(spots.y_px).astype(np.int64) - self.top_px + 2 * reach_px + 1
        columns = np.rint(spots.x_px).astype(np.int64) - self.left_px + 2 * reach_px + 1
        for y, x, shape in zip(rows.tolist(), columns.tolist(), shapes, strict=True):
            half = len(shape) // 2
            view = padded[y - half : y + half + 1, x - half : x + half + 1]
            combine(view, shape, out=view)
        inner = slice(2 * reach_px + 1, -2 * reach_px - 1)
        return np.ascontiguousarray(padded[inner, inner])


class Painter:
    """Paints a slide from its recipe; keeps the shapes and textures that it pastes."""

    def __init__(self, recipe: SlideRecipe) -> None:
        self.recipe = recipe
        mpp = recipe.mpp
        rng = np.random.default_rng(key_of(recipe.seed, "shapes"))
        self._layers = (
            _Layer("stroma", 15.0, nuclei(STROMA, mpp, rng, angles=_ANGLES, variants=4), True),
            _Layer("benign", 8.0, nuclei(BENIGN, mpp, rng, angles=8, variants=6)),
            _Layer("tumour", 13.0, nuclei(TUMOUR, mpp, rng, angles=8, variants=16)),
            _Layer("lymphocytes", 7.2, nuclei(LYMPHOCYTE, mpp, rng, angles=4, variants=8)),
        )
        self._holes = (
            _Layer("fat", 50.0, vacuoles((18.0, 23.0), mpp, rng, variants=12), jitter=0.1),
            _Layer("benign", 110.0, vacuoles((8.0, 17.0), mpp, rng, variants=12)),
        )
        reach_px = max(layer.reach_px for layer in self._layers + self._holes)
        self._ring = 2 + reach_px // STEP_PX
        self._fibres, self._grain = fibres(rng), grain(rng)
        self._glass = _glass(recipe, rng)
        self._light = tuple(
            _transmittance(vector, gain)
            for vector, gain in (
                (recipe.stain.haematoxylin, recipe.stain.haematoxylin_gain),
                (recipe.stain.eosin, recipe.stain.eosin_gain),
            )
        )

    @property
    def glass_tile(self) -> Plane:
        """What every tile without tissue looks like: uint8 [256, 256, 3]."""
        return self._glass[:_GLASS_PERIOD_PX, :_GLASS_PERIOD_PX]

    def paint(self, y_px: int, x_px: int, height_px: int, width_px: int) -> Plane:
        """Paint a rectangle of level 0; it may reach over the slide's edges, where glass goes on.

        Returns
        -------
        uint8 [height_px, width_px, 3]
            The same pixels whatever rectangle they are asked for in.
        """
        out = np.empty((height_px, width_px, 3), np.uint8)
        for row in range(y_px // BLOCK_PX, -(-(y_px + height_px) // BLOCK_PX)):
            for column in range(x_px // BLOCK_PX, -(-(x_px + width_px) // BLOCK_PX)):
                top, left = row * BLOCK_PX - y_px, column * BLOCK_PX - x_px
                to_y, from_y = _overlap(top, height_px)
                to_x, from_x = _overlap(left, width_px)
                block = self.block(row, column)
                out[to_y, to_x] = (self._glass if block is None else block)[from_y, from_x]
        return out

    def block(self, row: int, column: int) -> Plane | None:
        """Paint square (``row``, ``column``) of the slide; None where there is glass only."""
        import cv2

        top, left = row * BLOCK_PX - _MARGIN_PX, column * BLOCK_PX - _MARGIN_PX
        side = _CANVAS_PX // STEP_PX + 2 * self._ring
        start = (top // STEP_PX - self._ring, left // STEP_PX - self._ring)
        distance = edge_distance(self.recipe, *start, side, side)
        if distance.max() < -2 * STEP_PX:
            return None
        canvas = _Canvas(top, left, self._ring, fields(self.recipe, *start, distance))
        texture = _window(self._grain, canvas)
        tissue = self._tissue(canvas, texture)
        if not tissue.any():
            return None
        haematoxylin = self._haematoxylin(canvas, texture)
        eosin = self._eosin(canvas, texture)
        kept = cv2.multiply(eosin, cv2.LUT(haematoxylin, _EOSIN_LEFT), scale=1 / 255)
        return self._develop(haematoxylin, np.asarray(kept, np.uint8), tissue)

    def _tissue(self, canvas: _Canvas, texture: Plane) -> Plane:
        """How much of the tissue is there: 0 on glass and in vacuoles, 255 inside."""
        import cv2

        coarse = canvas.coarse
        edge = canvas.upsampled(128 + 4 * coarse.tissue_px * self.recipe.mpp / 0.5)
        rough = cv2.addWeighted(edge, 1.0, texture, 0.6, -0.6 * 128)
        tissue = np.asarray(cv2.LUT(rough, _EDGE), np.uint8)
        for layer in self._holes:
            tissue = self._grown(canvas, layer, getattr(coarse, layer.name), tissue, np.minimum)
        return tissue

    def _haematoxylin(self, canvas: _Canvas, texture: Plane) -> Plane:
        import cv2

        coarse = canvas.coarse
        ground = 0.05 + 0.13 * (coarse.tumour + coarse.benign) + 0.12 * coarse.lymphocytes
        ground = canvas.upsampled(ground * UNIT)
        plane = np.asarray(cv2.multiply(ground, texture, scale=1 / 128), np.uint8)
        grows = {
            "stroma": 0.75 * coarse.stroma,
            "benign": 0.96 * coarse.benign,
            "tumour": 0.96 * coarse.tumour,
            "lymphocytes": 0.95 * coarse.lymphocytes + 0.02 * coarse.stroma,
        }
        for layer in self._layers:
            plane = self._grown(canvas, layer, grows[layer.name], plane, np.maximum)
        return plane

    def _grown(
        self, canvas: _Canvas, layer: _Layer, where: Floats, plane: Plane, combine: np.ufunc
    ) -> Plane:
        if not where.any():
            return plane
        key = key_of(self.recipe.seed, layer.name, layer.pitch_um)
        spots = canvas.spots(key, layer, self.recipe.mpp, where)
        pick = spots.pick % len(layer.stamps)
        if layer.follows_fibres:
            variants = len(layer.stamps) // _ANGLES
            pick = _fibre_angle(canvas, spots) * variants + spots.pick % variants
        shapes = [layer.stamps[k] for k in pick.tolist()]
        return canvas.paste(plane, spots, shapes, layer.reach_px, combine)

    def _eosin(self, canvas: _Canvas, texture: Plane) -> Plane:
        import cv2

        coarse = canvas.coarse
        places = np.arange(_CANVAS_PX, dtype=np.float32)
        size = len(self._fibres)
        rows, columns = places + canvas.top_px % size, places + canvas.left_px % size
        at_y = canvas.upsampled(coarse.warp_y, np.float32) + rows[:, None]
        at_x = canvas.upsampled(coarse.warp_x, np.float32) + columns[None, :]
        strands = cv2.remap(self._fibres, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        epithelium, thick = coarse.tumour + coarse.benign, 1 + 0.18 * coarse.density
        base = 0.16 * coarse.stroma * thick + 0.42 * epithelium
        base += 0.22 * coarse.lymphocytes + 0.45 * coarse.fat
        gain = 0.75 * coarse.stroma * thick + 0.05 * epithelium
        eosin = cv2.multiply(strands, canvas.upsampled(gain * UNIT), scale=1 / 255)
        eosin = cv2.add(eosin, canvas.upsampled(base * UNIT))
        return np.asarray(cv2.multiply(eosin, texture, scale=1 / 128), np.uint8)

    def _develop(self, haematoxylin: Plane, eosin: Plane, tissue: Plane) -> Plane:
        """Light through both stains: ``I = glass * exp(-(c_H v_H + c_E v_E))``, after the blur."""
        import cv2

        image = self._glass
        inner = slice(_MARGIN_PX, -_MARGIN_PX)
        for plane, light in zip((haematoxylin, eosin), self._light, strict=True):
            left = cv2.multiply(plane, tissue, scale=1 / 255)
            left = cv2.GaussianBlur(left, (5, 5), self.recipe.stain.blur_px)[inner, inner]
            passed = cv2.LUT(cv2.cvtColor(left, cv2.COLOR_GRAY2RGB), light)
            image = np.asarray(cv2.multiply(image, passed, scale=1 / 255), np.uint8)
        return image


def _fibre_angle(canvas: _Canvas, spots: Cells) -> NDArray[np.int64]:
    """Direction of the fibres, along which y + warp_y is constant, in steps of π / _ANGLES."""
    slope_y, slope_x = np.gradient(canvas.coarse.warp_y, STEP_PX)
    angle = canvas.at(np.arctan2(-slope_x, 1 + slope_y), spots)
    return np.rint(angle / np.pi * _ANGLES).astype(np.int64) % _ANGLES


def _window(texture: Plane, canvas: _Canvas) -> Plane:
    rows = np.arange(canvas.top_px, canvas.top_px + _CANVAS_PX) % len(texture)
    columns = np.arange(canvas.left_px, canvas.left_px + _CANVAS_PX) % len(texture)
    return texture[rows][:, columns]


def _overlap(start: int, extent: int) -> tuple[slice, slice]:
    low, high = max(start, 0), min(start + BLOCK_PX, extent)
    return slice(low, high), slice(low - start, high - start)


def _transmittance(vector: tuple[float, float, float], gain: float) -> Plane:
    concentration = np.arange(256)[:, None] / UNIT * gain
    light = 255 * np.exp(-concentration * np.array(vector)[None, :])
    table: Plane = np.rint(light).astype(np.uint8)[None]
    return table


def _glass(recipe: SlideRecipe, rng: np.random.Generator) -> Plane:
    """Empty glass under the scanner's uneven light; repeats, so that its tiles are all equal."""
    ramp = np.cos(2 * np.pi * (np.arange(_GLASS_PERIOD_PX) + 0.5) / _GLASS_PERIOD_PX)
    shade = 1 - 0.004 * (ramp[:, None] + ramp[None, :])
    noise = 1 + rng.normal(0, recipe.stain.noise, (_GLASS_PERIOD_PX, _GLASS_PERIOD_PX))
    tile = (shade * noise)[..., None] * np.array(recipe.stain.glass)
    repeats = BLOCK_PX // _GLASS_PERIOD_PX
    return np.tile(np.clip(np.rint(tile), 0, 255).astype(np.uint8), (repeats, repeats, 1))
