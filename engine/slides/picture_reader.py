"""Plain pictures as slides: PNG, JPEG and BMP, held in memory whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import UnreadableFile
from . import resolution
from .base import Bounds, Closing, Level, Pixels, SlideInfo, require_inside

_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"BM": "bmp"}
_MODES = ("RGB", "RGBA", "P")
_MAX_PX = 150_000_000
_ORIENTATION = 0x0112


def is_ours(path: Path) -> bool:
    """Whether a file begins as a PNG, a JPEG or a BMP."""
    return _format(path) is not None


def _format(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(8)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


class PictureSlide(Closing):
    """A picture of one level, without a resolution unless one is given.

    What such files say of a resolution is how large to print them; it is not read. The picture is
    decoded at the first reading, and kept.
    """

    def __init__(self, path: Path, mpp: resolution.Override | None = None) -> None:
        from PIL import Image

        self._path = path
        found = resolution.resolve([], mpp)
        kind = _format(path)
        if kind is None:
            raise UnreadableFile(
                "neither PNG nor JPEG nor BMP", where=path, remedy="Let the reader be chosen"
            )
        try:
            with Image.open(path, formats=[kind.upper()]) as image:
                width, height = image.size
                mode = image.mode
                # To ask a PNG would decode it.
                turned = image.getexif().get(_ORIENTATION, 1) if kind == "jpeg" else 1
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._damaged(error) from error
        self._require_plain(mode, turned, height * width)
        self._pixels: Pixels | None = None
        self._info = SlideInfo(
            path=path,
            backend="picture",
            vendor=kind,
            levels=(Level(height, width, 1.0, 1.0),),
            mpp=found.mpp,
            mpp_source=found.source,
            objective_power=None,
            bounds=None,
            associated=(),
            properties={"mode": mode},
        )

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        require_inside(self._info, level, Bounds(y_px, x_px, height_px, width_px))
        if self._pixels is None:
            self._pixels = self._decode()
        return self._pixels[y_px : y_px + height_px, x_px : x_px + width_px].copy()

    def associated_image(self, name: str) -> Pixels:
        """Raise KeyError: a picture has none."""
        raise KeyError(name)

    def close(self) -> None:
        """Release the memory."""
        self._pixels = None

    def _decode(self) -> Pixels:
        import simplejpeg
        from PIL import Image

        try:
            if self._info.vendor == "jpeg":
                # Pillow passes libjpeg's warnings over: damage would be grey in silence.
                pixels: Pixels = simplejpeg.decode_jpeg(self._path.read_bytes(), "RGB")
                self._require_size(pixels)
                return pixels
            with Image.open(self._path) as image:
                return _over_white(image)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise self._damaged(error) from error

    def _require_size(self, pixels: Pixels) -> None:
        if pixels.shape[:2] != (self._info.height_px, self._info.width_px):
            raise ValueError("its header and its pixels differ in size")

    def _require_plain(self, mode: str, turned: int, count: int) -> None:
        if mode not in _MODES:
            raise UnreadableFile(
                f"its pixels are {mode}, not 8-bit RGB",
                where=self._path,
                remedy="Export it as 8-bit RGB, or as TIFF where it has grey values",
            )
        if turned != 1:
            raise UnreadableFile(
                f"its rows and columns are stored turned or mirrored (Orientation {turned})",
                where=self._path,
                remedy="Export it upright; we do not turn tissue unasked",
            )
        if count > _MAX_PX:
            raise UnreadableFile(
                f"a plain picture of {count / 1e6:.0f} megapixels",
                where=self._path,
                remedy="Convert it to a tiled TIFF, for instance with libvips' tiffsave",
            )

    def _damaged(self, error: Exception) -> UnreadableFile:
        return UnreadableFile(
            f"the picture cannot be decoded: {error}",
            where=self._path,
            remedy="Copy the file again from its source",
        )


def _over_white(image: Any) -> Pixels:
    """A Pillow image as RGB; what is transparent is white."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
