"""Slides that ``microtome ingest`` made, read like the files that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...storage.commit import read_commit
from ...storage.errors import BadProduct, DamagedChunk, UnreadableFile
from ...storage.jpeg import Jpeg
from ...storage.stored_slides import KIND, StoredSlide, open_stored_slide
from ...storage.virtual import KIND as VIEW
from . import resolution
from .base import Bounds, Closing, Level, Pixels, Slide, SlideInfo, native_box, require_inside


def is_ours(path: Path) -> bool:
    """Whether a folder is a slide that Microtome made."""
    try:
        record = read_commit(path)
    except BadProduct:
        return False
    return record is not None and record.kind in (KIND, VIEW)


def open_stored(path: Path, mpp: resolution.Override | None = None) -> Slide:
    """Open a slide that Microtome made: with pixels of its own, or a view of another's."""
    record = read_commit(path)
    if record is not None and record.kind == VIEW:
        from .view_reader import ViewSlide

        return ViewSlide(path, mpp)
    return OmeZarrSlide(path, mpp)


class OmeZarrSlide(Closing):
    """A slide in Microtome's OME-Zarr; holds no open file, so it may be used by any process."""

    def __init__(self, path: Path, mpp: resolution.Override | None = None) -> None:
        self._stored = open_stored_slide(path)
        try:
            self._info = _describe(self._stored, self._stored.about, mpp)
        except (KeyError, TypeError, ValueError) as error:
            raise BadProduct(f"damaged metadata ({error!r})", where=path) from error

    @property
    def info(self) -> SlideInfo:
        """What is known of the slide without decoding it."""
        return self._info

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level; see :class:`~microtome.engine.slides.base.Slide`."""
        require_inside(self._info, level, Bounds(y_px, x_px, height_px, width_px))
        try:
            return self._stored.read(level, y_px, x_px, height_px, width_px)
        except DamagedChunk as error:
            if not isinstance(self._stored.levels[level].codec, Jpeg):
                raise
            # Kept as it was found: the same error as the slide that it came from gives.
            raise UnreadableFile(
                f"a tile of level {level} cannot be decoded: {error.what}",
                where=error.where,
                remedy="Compare it with the slide's file; if it is no better there, scan anew",
            ) from error

    def native_tile(self, level: int, row: int, column: int) -> Pixels:
        """Decode a chunk; see :class:`~microtome.engine.slides.base.NativeTiled`."""
        box = native_box(self._info.levels[level], row, column)
        return self.read(level, box.y_px, box.x_px, box.height_px, box.width_px)

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where none was kept."""
        return self._stored.associated_image(name)

    def close(self) -> None:
        """Nothing is open."""


def _describe(
    stored: StoredSlide, about: Mapping[str, Any], mpp: resolution.Override | None
) -> SlideInfo:
    stated = resolution.Statement(str(about["mpp_source"]), stored.mpp) if stored.mpp else None
    found = resolution.resolve([stated] if stated else [], mpp)
    bounds, power = about["bounds_px"], about["objective_power"]
    return SlideInfo(
        path=stored.path,
        backend="ome-zarr",
        vendor=str(about["vendor"]),
        levels=tuple(
            Level(
                height_px=array.shape[1],
                width_px=array.shape[2],
                downsample_y=downsample_y,
                downsample_x=downsample_x,
                tile_px=(array.chunk[1], array.chunk[2]),
            )
            for array, (downsample_y, downsample_x) in zip(
                stored.levels, _downsamples(stored, about), strict=True
            )
        ),
        mpp=found.mpp,
        mpp_source=found.source,
        mpp_refused=found.refused,
        objective_power=None if power is None else float(power),
        bounds=None if bounds is None else Bounds(**bounds),
        associated=tuple(about.get("associated", ())),
        properties={"microtome.source": str(about["source"]), **about.get("properties", {})},
        notes=(*_loss(about), *about["notes"]),
    )


def _loss(about: Mapping[str, Any]) -> list[str]:
    if not about.get("lossy"):
        return []
    return [f"lossy: its pixels were encoded anew ({about['lossy']}), and are not the slide's own"]


def _downsamples(stored: StoredSlide, about: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(y, x) level-0 pixels per pixel of each level: those of the file, or powers of two."""
    if "levels" not in about:
        return [(float(2**level),) * 2 for level in range(len(stored.levels))]
    stated = [level["downsample"] for level in about["levels"]]
    return [(float(y), float(x)) for y, x in stated]
