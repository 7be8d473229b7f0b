"""Views of slides (``microtome ingest --profile virtual``), read by the slide's own reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...storage.errors import BadProduct
from ...storage.virtual import open_view
from . import resolution
from .base import Closing, JpegTiled, Pixels, SlideInfo


class ViewSlide(Closing):
    """A slide under another name, with the pixel size that it was ingested with.

    Raises
    ------
    MissingFile, StaleProduct
        The slide is not there any more, or has changed.
    """

    def __init__(self, path: Path, mpp: resolution.Override | None = None) -> None:
        from .registry import find_reader

        view = open_view(path)
        file = view.original.find(path)
        try:
            reader, given = str(view.about["reader"]), view.about.get("mpp_override")
            if mpp is None and given is not None:
                y, x = given["mpp"]
                mpp = resolution.Statement(given["source"], (float(y), float(x)))
        except (KeyError, TypeError, ValueError) as error:
            raise BadProduct(f"damaged view ({error!r})", where=path) from error
        slide = find_reader(file, reader).open(file, mpp)
        assert isinstance(slide, JpegTiled)
        self._slide = slide
        notes = (*slide.info.notes, f"a view: its pixels are those of {file}")
        self._info = replace(slide.info, path=path, notes=notes)

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        return self._slide.read(level, y_px, x_px, height_px, width_px)

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where there is none."""
        return self._slide.associated_image(name)

    def require_jpeg_tiles(self) -> None:
        """Raise NoJpegTiles unless every level is made of JPEG tiles of RGB."""
        self._slide.require_jpeg_tiles()

    def jpeg_tile(self, level: int, row: int, column: int) -> bytes | None:
        """A tile as it is; see :class:`~microtome.engine.slides.base.JpegTiled`."""
        return self._slide.jpeg_tile(level, row, column)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()
