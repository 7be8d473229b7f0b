"""JPEG streams: their headers, strict decoding, and the chunks of an array that are such streams.

libjpeg goes on after damage, and makes the rest up in grey; imagecodecs does not pass its warnings
on. simplejpeg raises them.

The codec's name and configuration follow the open proposal of Zarr's extensions
(https://github.com/zarr-developers/zarr-extensions/pull/66). Nothing else in Microtome knows them:
should the proposal change, this module does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
ColourSpace = Literal["ycbcr", "rgb"]
Sampling = tuple[tuple[int, int], ...]

NAME = "jpeg"
FILL = 255
"""White: what a tile that was never scanned reads as, and what lies beyond the slide's edge."""

QUALITY = 90
"""Of what Microtome encodes itself. Decoding does not depend on it."""

_SCAN, _ADOBE = 0xDA, 0xEE
_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's APP14 marker with transform 0: the components are red, green and blue as they are."""
_ORDER = [1, 2, 0]
_FULL: Sampling = ((1, 1),) * 3
_HALVED: Sampling = ((2, 2), (1, 1), (1, 1))
_NAMED = {_FULL: "444", ((2, 1), (1, 1), (1, 1)): "422", _HALVED: "420"}


@dataclass(frozen=True)
class Frame:
    """What a stream's headers say of its image.

    Attributes
    ----------
    height_px, width_px
        Its size.
    sampling
        (horizontal, vertical) sampling factors of each component.
    is_rgb
        The components are red, green and blue, by an Adobe marker or by their names.
    """

    height_px: int
    width_px: int
    sampling: Sampling
    is_rgb: bool


def segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of each header before the image, that of its scan last.

    Raises
    ------
    ValueError
        The headers make no sense, or end before the image.
    """
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        stop = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        yield marker, at, stop
        if marker == _SCAN:
            return
        at = stop
    raise ValueError("its JPEG data end before the image")


def standalone(segment: bytes, tables: bytes | None, *, is_rgb: bool) -> bytes:
    """A tile or strip of a TIFF, or a frame of DICOM, as a JPEG file of its own.

    Parameters
    ----------
    segment
        What lies in the file: a JPEG stream, abbreviated where there are ``tables``.
    tables
        What the file keeps apart.
    is_rgb
        The components are red, green and blue, which the stream does not say of itself.

    Raises
    ------
    ValueError
        It does not begin as a JPEG stream.
    """
    if segment[:2] != _START:
        raise ValueError("its JPEG data do not begin as such")
    head = _START if tables is None else tables[: tables.rfind(_END)]
    if not is_rgb:
        return b"".join((head, memoryview(segment)[2:]))
    # Of several colour statements the last is believed.
    *_, (_, at, _) = segments(segment)
    whole = memoryview(segment)
    return b"".join((head, whole[2:at], _ADOBE_RGB, whole[at:]))


def frame_of(stream: bytes) -> Frame:
    """Read a stream's headers.

    Raises
    ------
    ValueError
        They make no sense, or the stream has no end. What lies between is not looked at.
    """
    components: list[bytes] = []
    size, transform = (0, 0), None
    for marker, start, stop in segments(stream):
        body = stream[start + 4 : stop]
        if marker in _FRAMES and len(body) >= 6:
            size = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            components = [body[n : n + 3] for n in range(6, len(body) - 2, 3)]
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
    if stream[:2] != _START or stream.rfind(_END) < 0:
        raise ValueError("its JPEG data have no beginning or no end")
    if min(size) < 1 or not components:
        raise ValueError("its JPEG data do not say how large the image is")
    sampling = tuple((part[1] >> 4, part[1] & 15) for part in components)
    named_rgb = bytes(part[0] for part in components) == b"RGB"
    is_rgb = transform == 0 if transform is not None else named_rgb
    return Frame(*size, sampling, is_rgb and len(components) == 3)


def decode_strict(stream: bytes, size_px: tuple[int, int], samples: int = 3) -> Pixels:
    """Decode a stream, each of libjpeg's warnings an error.

    Parameters
    ----------
    stream
        A JPEG file.
    size_px
        (height, width) of the memory that its pixels may take at most.
    samples
        3 for colour, 1 for a plane of one colour.

    Returns
    -------
    uint8 [h, w, samples]
        Of the size that the stream has.

    Raises
    ------
    ValueError
        The stream is damaged in any way that libjpeg notices, or its image is larger.
    """
    import simplejpeg

    out = np.empty((*size_px, samples), np.uint8)
    pixels: Pixels = simplejpeg.decode_jpeg(stream, "RGB" if samples == 3 else "GRAY", buffer=out)
    return pixels


def decode_tile(stream: bytes, size_px: tuple[int, int]) -> Pixels:
    """Decode a tile of uint8 [h, w, 3]; one that was cut at the slide's edge is filled up, white.

    Raises
    ------
    ValueError
        The stream is damaged in any way that libjpeg notices, or its image is larger than a tile.
    """
    pixels = decode_strict(stream, size_px)
    height, width = pixels.shape[:2]
    if (height, width) == size_px:
        return pixels
    if height > size_px[0] or width > size_px[1]:
        raise ValueError(f"it is {height} × {width} px, not {size_px[0]} × {size_px[1]}")
    whole = np.full((*size_px, 3), FILL, np.uint8)
    whole[:height, :width] = pixels
    return whole


@dataclass(frozen=True)
class Jpeg:
    """Chunks (3, h, w) of red, green and blue, each a JPEG stream.

    Kept streams are decoded by what they say of themselves; the attributes describe them, and say
    how a further chunk would be encoded.

    Attributes
    ----------
    quality
        0 … 100.
    colour_space
        Of the streams' components.
    sampling
        (horizontal, vertical) factors of luma and of both colours; 4:4:4 by default.
    """

    quality: int = QUALITY
    colour_space: ColourSpace = "ycbcr"
    sampling: Sampling = _FULL

    @classmethod
    def like(cls, frame: Frame) -> Jpeg:
        """The codec that describes streams like this one."""
        if len(frame.sampling) != 3:
            return cls()
        return cls(colour_space="rgb" if frame.is_rgb else "ycbcr", sampling=frame.sampling)

    @classmethod
    def from_metadata(cls, chain: Sequence[Mapping[str, Any]]) -> Jpeg:
        """The codec that a chain of ``transpose`` and ``jpeg`` names; KeyError for others."""
        if list(chain[0]["configuration"]["order"]) != _ORDER:
            raise KeyError("transpose")
        return cls.from_configuration(**chain[1]["configuration"])

    @classmethod
    def from_configuration(
        cls,
        *,
        quality: int,
        encoded_color_space: ColourSpace = "ycbcr",
        subsampling: Sequence[Sequence[int]] | None = None,
    ) -> Jpeg:
        """The codec of a configuration; ValueError where it makes no sense."""
        default = _FULL if encoded_color_space == "rgb" else _HALVED
        sampling = default if subsampling is None else tuple((h, v) for h, v in subsampling)
        if not 0 <= quality <= 100 or encoded_color_space not in ("ycbcr", "rgb"):
            raise ValueError(f"no JPEG has quality {quality} in {encoded_color_space!r}")
        return cls(quality, encoded_color_space, sampling)

    @property
    def loss(self) -> str:
        """What encoding a chunk does to its pixels, in words."""
        return f"JPEG, quality {self.quality}"

    def configuration(self) -> dict[str, Any]:
        """What Zarr's metadata say of the codec."""
        return {
            "quality": self.quality,
            "encoded_color_space": self.colour_space,
            "subsampling": [list(factors) for factors in self.sampling],
        }

    def metadata(self) -> list[dict[str, Any]]:
        """The codec chain, as Zarr v3 writes it inside a shard."""
        return [
            {"name": "transpose", "configuration": {"order": _ORDER}},
            {"name": NAME, "configuration": self.configuration()},
        ]

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Encode one whole chunk (3, h, w), with loss."""
        return self.encode_pixels(chunk.transpose(1, 2, 0))

    def decode(self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode a chunk into (3, h, w), colours innermost in memory; ValueError on damage."""
        return decode_tile(data, (shape[1], shape[2])).transpose(2, 0, 1)

    def encode_pixels(self, pixels: Pixels) -> bytes:
        """Encode uint8 [h, w, 3]."""
        import simplejpeg

        subsampling = _NAMED.get(self.sampling)
        if self.colour_space == "rgb" or subsampling is None:
            raise ValueError(f"streams of {self.colour_space} {self.sampling} are kept, not made")
        contiguous = np.ascontiguousarray(pixels)
        return bytes(simplejpeg.encode_jpeg(contiguous, self.quality, "RGB", subsampling))
