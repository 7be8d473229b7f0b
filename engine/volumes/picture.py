"""A scan at a glance: three slices through its middle, true to scale, with the sides named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Volume

_PLANES = ((2, 1, 0), (1, 2, 0), (0, 2, 1))
"""RAS axes: across the slice, down and along the picture; axial, coronal, sagittal."""

_SIDES = (("R", "L"), ("A", "P"), ("S", "I"))
"""Where each RAS axis starts and ends in the picture: the patient's right is on the left."""

_WINDOW_PERCENT = (1.0, 99.0)
_MARGIN_PX = 14


@dataclass(frozen=True)
class _Panel:
    """One slice: values [row, column], the size of a pixel, and the letters at its edges."""

    values: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    sides: tuple[tuple[str, str], tuple[str, str]]

    @property
    def size_mm(self) -> tuple[float, float]:
        rows, columns = self.values.shape
        return rows * self.spacing_mm[0], columns * self.spacing_mm[1]


def draw_scan(volume: Volume, *, max_px: int = 1024) -> NDArray[np.uint8]:
    """Draw the middle axial, coronal and sagittal slices side by side.

    As radiologists look: the patient's right on the left, front and head up; the letters come from
    the affine. Of an oblique scan each slice is the one of its own that lies nearest. Grey runs
    from the 1st to the 99th percentile of what is shown; NaN is black. Of several time points the
    middle one is shown.

    Parameters
    ----------
    max_px
        Neither side of the picture is longer.

    Returns
    -------
    ndarray
        uint8 [h, w, 3].
    """
    from PIL import Image, ImageDraw

    panels = [_panel(volume, *plane) for plane in _PLANES]
    low, high = _window(panels)
    widths = sum(panel.size_mm[1] for panel in panels)
    heights = max(panel.size_mm[0] for panel in panels)
    edges = 2 * _MARGIN_PX
    px_per_mm = min((max_px - edges * len(panels)) / widths, (max_px - edges) / heights)
    grey = [_scaled(panel, low, high, px_per_mm) for panel in panels]
    height = max(part.height for part in grey) + edges
    sheet = Image.new("RGB", (sum(part.width + edges for part in grey), height))
    draw, x = ImageDraw.Draw(sheet), 0
    for panel, part in zip(panels, grey, strict=True):
        sheet.paste(part, (x + _MARGIN_PX, _MARGIN_PX))
        (top, bottom), (left, right) = panel.sides
        middle_x, middle_y = x + _MARGIN_PX + part.width / 2, _MARGIN_PX + part.height / 2
        for text, place in (
            (top, (middle_x, _MARGIN_PX / 2)),
            (bottom, (middle_x, _MARGIN_PX * 1.5 + part.height)),
            (left, (x + _MARGIN_PX / 2, middle_y)),
            (right, (x + _MARGIN_PX * 1.5 + part.width, middle_y)),
        ):
            draw.text(place, text, fill=(255, 200, 60), anchor="mm")
        x += part.width + edges
    return np.asarray(sheet)


def _panel(volume: Volume, across: int, down: int, along: int) -> _Panel:
    """A slice through the middle, both axes turned to run against their RAS axis."""
    from nibabel.orientations import io_orientation

    turns = io_orientation(volume.affine)
    # For each RAS axis: the axis of [z, y, x] that runs along it.
    axes = [2 - int(np.flatnonzero(turns[:, 0] == ras)[0]) for ras in range(3)]
    index: list[int | slice] = [slice(None)] * 3
    index[axes[across]] = volume.shape[-3:][axes[across]] // 2
    time = [volume.shape[0] // 2] if len(volume.shape) == 4 else []
    values = np.asarray(volume.data[(*time, *index)], np.float64)
    if axes[down] > axes[along]:
        values = values.T
    for axis, ras in enumerate((down, along)):
        if turns[2 - axes[ras], 1] > 0:
            values = np.flip(values, axis)
    spacing = volume.spacing_mm
    return _Panel(
        values, (spacing[axes[down]], spacing[axes[along]]), (_SIDES[down], _SIDES[along])
    )


def _window(panels: list[_Panel]) -> tuple[float, float]:
    shown = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in panels])
    if shown.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(shown, _WINDOW_PERCENT)
    if low == high:
        low, high = shown.min(), shown.max()
    return float(low), float(high if high > low else low + 1)


def _scaled(panel: _Panel, low: float, high: float, px_per_mm: float) -> Any:
    from PIL import Image

    grey = np.clip((np.nan_to_num(panel.values, nan=low) - low) / (high - low), 0, 1) * 255
    height, width = (max(1, round(mm * px_per_mm)) for mm in panel.size_mm)
    picture = Image.fromarray(grey.astype(np.float32))
    return picture.resize((width, height), Image.Resampling.BILINEAR).convert("L")
