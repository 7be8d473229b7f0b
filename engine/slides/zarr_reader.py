"""OME-Zarr images as slides: versions 0.4 (Zarr v2) and 0.5 (Zarr v3, sharded or not)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import UnreadableFile
from . import resolution
from .base import (
    Bounds,
    Closing,
    Level,
    Pixels,
    SlideInfo,
    downsample,
    not_brightfield,
    require_inside,
)
from .tiff_layout import PARSE_ERRORS

Values = NDArray[Any]

_MARKERS = ("zarr.json", ".zattrs", ".zgroup")
_AXES = frozenset("tczyx")
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_COLOURS = ["FF0000", "00FF00", "0000FF"]
_RGB = 3
_AGAIN = "Copy it again from its source, or check the URL"


def is_ours(path: Path) -> bool:
    """Whether a folder is an OME-Zarr image, or a container of one; a label image is neither."""
    if not (path.is_dir() and any((path / marker).is_file() for marker in _MARKERS)):
        return False
    try:
        found = _image(str(path))
    except PARSE_ERRORS:
        return False
    return found is not None and "image-label" not in found[1]


class ZarrSlide(Closing):
    """A slide in an OME-Zarr image, local or wherever fsspec reaches.

    Parameters
    ----------
    place
        A folder, or a URL such as ``s3://bucket/slide.ome.zarr``.
    mpp
        Overrides the file's resolution.

    Notes
    -----
    Three 8-bit channels are RGB where the file says that they are red, green and blue; otherwise
    they stay channels. A chunk that is not there reads as the fill value: in Zarr that is how a
    chunk of nothing else is written.
    """

    def __init__(self, place: str | Path, mpp: resolution.Override | None = None) -> None:
        self._path = Path(place)
        try:
            found = _image(str(place))
            if found is None:
                raise ValueError("it has no multiscales")
            group, ome = found
            self._arrays, self._info = _describe(self._path, group, ome, mpp)
        except PARSE_ERRORS as error:
            raise UnreadableFile(
                f"no OME-Zarr image of a slide: {error}", where=self._path, remedy=_AGAIN
            ) from error

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        if self._info.channels:
            raise not_brightfield(self._info)
        values = self.read_channels(level, y_px, x_px, height_px, width_px)
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    def read_channels(
        self, level: int, y_px: int, x_px: int, height_px: int, width_px: int
    ) -> Values:
        """Read values [c, h, w]; see :class:`~microtome.engine.slides.base.ChannelSlide`."""
        require_inside(self._info, level, Bounds(y_px, x_px, height_px, width_px))
        array, axes = self._arrays[level]
        spans = {"y": slice(y_px, y_px + height_px), "x": slice(x_px, x_px + width_px)}
        part = tuple(spans.get(axis, slice(None) if axis == "c" else 0) for axis in axes)
        try:
            values = np.asarray(array[part])
        except PARSE_ERRORS as error:
            raise UnreadableFile(
                f"level {level}, {height_px} × {width_px} px at y {y_px}, x {x_px} cannot be "
                f"decoded: {error}",
                where=self._path,
                remedy=_AGAIN,
            ) from error
        return values.reshape(-1, height_px, width_px).astype(self._info.dtype, copy=False)

    def associated_image(self, name: str) -> Pixels:
        """Raise KeyError: OME-Zarr has no such images."""
        raise KeyError(name)

    def close(self) -> None:
        """Let go of the arrays; no file stays open between readings."""
        self._arrays = []


def _image(place: str) -> tuple[Any, Mapping[str, Any]] | None:
    """The group of an image with its OME metadata; of several in a container, the first."""
    import zarr

    group: Any = zarr.open_group(place, mode="r")
    ome = _ome(group)
    if "multiscales" not in ome and "bioformats2raw.layout" in ome:
        group = group["0"]
        ome = _ome(group)
    return (group, ome) if "multiscales" in ome else None


def _ome(group: Any) -> Mapping[str, Any]:
    attributes: dict[str, Any] = group.attrs.asdict()
    inner = attributes.get("ome", attributes)
    return inner if isinstance(inner, dict) else {}


def _describe(
    path: Path, group: Any, ome: Mapping[str, Any], mpp: resolution.Override | None
) -> tuple[list[tuple[Any, str]], SlideInfo]:
    scales = ome["multiscales"][0]
    axes = "".join(axis["name"] for axis in scales["axes"])
    arrays = [group[dataset["path"]] for dataset in scales["datasets"]]
    _require_plane(axes, arrays)
    sizes = [(array.shape[axes.index("y")], array.shape[axes.index("x")]) for array in arrays]
    dtype = np.dtype(arrays[0].dtype).newbyteorder("=")
    count = arrays[0].shape[axes.index("c")] if "c" in axes else 1
    stated = _channels(ome)
    is_rgb = dtype == np.uint8 and _is_rgb(stated, count)
    found = resolution.resolve(_statements(scales, axes), mpp)
    info = SlideInfo(
        path=path,
        backend="zarr",
        vendor=f"ome-zarr {ome.get('version') or scales.get('version', '')}".strip(),
        levels=tuple(
            Level(*size, *downsample(sizes[0], size), _chunk_px(array, axes))
            for size, array in zip(sizes, arrays, strict=True)
        ),
        mpp=found.mpp,
        mpp_source=found.source,
        objective_power=None,
        bounds=None,
        associated=(),
        properties={"name": str(scales.get("name", "")), "axes": axes},
        mpp_refused=found.refused,
        channels=() if is_rgb else _names(stated, count),
        dtype=str(dtype),
    )
    return [(array, axes) for array in arrays], info


def _require_plane(axes: str, arrays: Sequence[Any]) -> None:
    if not (axes.endswith("yx") and set(axes) <= _AXES):
        raise ValueError(f"its axes are {axes}, not … y, x")
    for array in arrays:
        if len(array.shape) != len(axes):
            raise ValueError(f"a level has {len(array.shape)} axes where {axes} are stated")
        for axis, name in (("t", "times"), ("z", "depths")):
            if axis in axes and array.shape[axes.index(axis)] != 1:
                raise ValueError(f"{array.shape[axes.index(axis)]} {name}; none is picked unasked")
    if not arrays or np.dtype(arrays[0].dtype).kind not in "uif":
        raise ValueError("its values are no numbers")


def _channels(ome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stated = ome.get("omero", {}).get("channels", [])
    return [channel for channel in stated if isinstance(channel, dict)]


def _is_rgb(stated: Sequence[Mapping[str, Any]], count: int) -> bool:
    colours = [str(channel.get("color", "")).upper() for channel in stated]
    return count == _RGB and colours == _COLOURS


def _names(stated: Sequence[Mapping[str, Any]], count: int) -> tuple[str, ...]:
    labels = [str(channel.get("label") or "") for channel in stated][:count]
    labels += [""] * (count - len(labels))
    return tuple(label or f"channel {number}" for number, label in enumerate(labels, 1))


def _statements(scales: Mapping[str, Any], axes: str) -> list[resolution.Statement]:
    """The scale of level 0, where y and x have a unit of length."""
    units = [axis.get("unit") for axis in scales["axes"]]
    steps = [
        scales["datasets"][0].get("coordinateTransformations", []),
        scales.get("coordinateTransformations", []),
    ]
    found = [step["scale"] for some in steps for step in some if step.get("type") == "scale"]
    um = [_UM.get(units[axes.index(axis)] or "") for axis in "yx"]
    if not found or None in um:
        return []
    y, x = (
        math.prod(float(scale[axes.index(axis)]) for scale in found) * (unit or math.nan)
        for axis, unit in zip("yx", um, strict=True)
    )
    return [resolution.Statement("OME-Zarr scale", (y, x))]


def _chunk_px(array: Any, axes: str) -> tuple[int, int]:
    return int(array.chunks[axes.index("y")]), int(array.chunks[axes.index("x")])
