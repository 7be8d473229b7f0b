"""Names of the channels of a fluorescence image, as its file states them."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET


def from_ome(xml: str, size_px: tuple[int, int], count: int) -> tuple[str, ...]:
    """Names of the channels of the OME image of a given (height, width)."""
    for pixels in _parsed(xml).iter():
        if not pixels.tag.endswith("}Pixels"):
            continue
        if (pixels.get("SizeY"), pixels.get("SizeX")) == tuple(str(side) for side in size_px):
            channels = [part for part in pixels if part.tag.endswith("}Channel")]
            return _filled([channel.get("Name", "") for channel in channels], count)
    return _filled([], count)


def from_qptiff(descriptions: Sequence[str]) -> tuple[str, ...]:
    """Names of the bands of a PerkinElmer/Akoya QPTIFF, one description a band."""
    names = [(_parsed(text).findtext("Name") or "").strip() for text in descriptions]
    return _filled(names, len(descriptions))


def unnamed(count: int) -> tuple[str, ...]:
    """Names where the file states none."""
    return _filled([], count)


def _filled(names: Sequence[str], count: int) -> tuple[str, ...]:
    stated = [*names, *[""] * count][:count]
    return tuple(name or f"channel {number}" for number, name in enumerate(stated, 1))


def _parsed(xml: str) -> ET.Element:
    # QPTIFF declares utf-16 and is not; without the declaration a str is read as it is.
    body = xml.strip().rstrip("\0")
    if body.startswith("<?xml"):
        body = body.partition("?>")[2].lstrip()
    try:
        return ET.fromstring(body)
    except ET.ParseError:
        return ET.Element("unreadable")
