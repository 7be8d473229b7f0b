"""OME-Zarr 0.5 metadata: pure functions from geometry to what goes under ``attributes.ome``.

Specification: https://ngff.openmicroscopy.org/0.5/. Axes run time, channel, space. A level made
by averaging n × n pixels has scale n · s and translation (n - 1) / 2 · s for a level-0 pixel size
s: the centre of its first pixel is the centre of the n × n that it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERSION = "0.5"

Json = dict[str, Any]

_MICROMETRE, _MILLIMETRE, _SECOND = "micrometer", "millimeter", "second"


def group(attributes: Mapping[str, Any]) -> Json:
    """The ``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def slide_image(
    name: str,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[tuple[float, float]],
    method: str | None = "area average",
) -> Json:
    """Metadata of a slide: axes c, y, x; red, green, blue.

    Parameters
    ----------
    name
        The image's name.
    mpp
        (y, x) micrometres per level-0 pixel; None where unknown: scales then count level-0
        pixels and have no unit.
    downsamples
        (y, x) level-0 pixels per pixel of each level, finest first; level 0 has 1.
    method
        How each level was made from the one below, or None where it is not known.
    """
    size = mpp or (1.0, 1.0)
    unit = _MICROMETRE if mpp else None
    return {
        "version": VERSION,
        "multiscales": [
            {
                "name": name,
                **({} if method is None else {"type": method}),
                "axes": [_axis("c"), _axis("y", unit), _axis("x", unit)],
                "datasets": [
                    _dataset(str(level), (1.0, *_scale(size, n)), (0.0, *_centre(size, n)))
                    for level, n in enumerate(downsamples)
                ],
            }
        ],
        "omero": {
            "channels": [
                _channel("Red", "FF0000"), _channel("Green", "00FF00"), _channel("Blue", "0000FF"),
            ],
            "rdefs": {"model": "color"},
        },
    }  # fmt: skip


def slide_label(
    name: str,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[tuple[float, float]],
    colours: Mapping[int, tuple[int, int, int, int]],
) -> Json:
    """Metadata of a label image on a slide: axes y, x; lies in ``labels/<name>`` of the image.

    Parameters
    ----------
    downsamples
        (y, x) level-0 pixels per label pixel, of each level.
    colours
        Red, green, blue, alpha (0 … 255) of each label.
    """
    size = mpp or (1.0, 1.0)
    unit = _MICROMETRE if mpp else None
    return {
        "version": VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": [_axis("y", unit), _axis("x", unit)],
                "datasets": [
                    _dataset(str(level), _scale(size, n), _centre(size, n))
                    for level, n in enumerate(downsamples)
                ],
            }
        ],
        "image-label": {
            "colors": [
                {"label-value": value, "rgba": list(rgba)} for value, rgba in colours.items()
            ],
            "source": {"image": "../../"},
        },
    }


def slide_map(
    name: str,
    mpp: tuple[float, float],
    origin_px: tuple[float, float],
    downsamples: Sequence[tuple[float, float]],
) -> Json:
    """Metadata of one value a place on a slide: axes y, x, in the frame of the slide's image.

    Parameters
    ----------
    mpp
        (y, x) micrometres per level-0 pixel.
    origin_px
        (y, x) level-0 pixels: the corner of the map's first pixel.
    downsamples
        (y, x) level-0 pixels per pixel of each level, finest first.
    """
    y, x = (origin_px[axis] * mpp[axis] for axis in (0, 1))
    return {
        "version": VERSION,
        "multiscales": [
            {
                "name": name,
                "type": "mean of known pixels",
                "axes": [_axis("y", _MICROMETRE), _axis("x", _MICROMETRE)],
                "datasets": [
                    _dataset(
                        str(level),
                        _scale(mpp, n),
                        (y + _centre(mpp, n)[0], x + _centre(mpp, n)[1]),
                    )
                    for level, n in enumerate(downsamples)
                ],
            }
        ],
    }


def labels(names: Sequence[str]) -> Json:
    """Metadata of the group ``labels`` of an image."""
    return {"version": VERSION, "labels": list(names)}


def scan_image(
    name: str,
    spacing_mm: tuple[float, float, float],
    repetition_time_s: float | None,
    with_time: bool,
) -> Json:
    """Metadata of a scan: axes [t,] z, y, x, one level.

    OME-Zarr 0.5 can express distances, not directions: what is said here is the spacing. Where
    the volume lies in the patient is in its affine, kept beside.

    Parameters
    ----------
    spacing_mm
        (z, y, x).
    repetition_time_s
        Seconds between volumes; None where unknown or uneven: the time axis then counts volumes.
    """
    axes = [_axis(axis, _MILLIMETRE) for axis in "zyx"]
    scale: tuple[float, ...] = spacing_mm
    if with_time:
        axes.insert(0, _axis("t", _SECOND if repetition_time_s else None))
        scale = (repetition_time_s or 1.0, *spacing_mm)
    return {
        "version": VERSION,
        "multiscales": [{"name": name, "axes": axes, "datasets": [_dataset("0", scale, None)]}],
    }


def _axis(name: str, unit: str | None = None) -> Json:
    kind = {"t": "time", "c": "channel"}.get(name, "space")
    return {"name": name, "type": kind} | ({"unit": unit} if unit else {})


def _dataset(path: str, scale: Sequence[float], translation: Sequence[float] | None) -> Json:
    transforms: list[Json] = [{"type": "scale", "scale": list(scale)}]
    if translation is not None and any(translation):
        transforms.append({"type": "translation", "translation": list(translation)})
    return {"path": path, "coordinateTransformations": transforms}


def _scale(size: tuple[float, float], n: tuple[float, float]) -> tuple[float, float]:
    return size[0] * n[0], size[1] * n[1]


def _centre(size: tuple[float, float], n: tuple[float, float]) -> tuple[float, float]:
    return (n[0] - 1) / 2 * size[0], (n[1] - 1) / 2 * size[1]


def _channel(label: str, colour: str) -> Json:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": label, "color": colour, "window": window, "active": True}
