"""How a slide is to be kept: the plan for it, and the work on one part of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from ..storage import ngff04
from ..storage.archive import Archive, Batch, KeptLevel, write_batch
from ..storage.associated import write_associated
from ..storage.codecs import Blosc, ChunkCodec, Zstd
from ..storage.commit import writable
from ..storage.errors import DamagedChunk, NoJpegTiles, UnreadableFile
from ..storage.jpeg import Frame, Jpeg, frame_of
from ..storage.pyramid import Cell, CellRecord, Pyramid, sum_records, write_cell
from .slides import Mpp, Slide, open_slide
from .slides.base import JpegTiled, Level, Pixels, bad_tile, no_jpeg_tiles

Profile = Literal["auto", "archive", "compatible", "ngff04", "virtual"]
Plan = Pyramid | Archive

_MOST_CELLS, _PARTS_A_JOB = 8, 16


def choose_plan(
    slide: Slide, profile: Profile, codec: ChunkCodec | None = None
) -> tuple[Plan, str]:
    """The plan for a slide, and why it is that one.

    Parameters
    ----------
    profile
        ``archive`` keeps the file's JPEG tiles as they are, ``compatible`` encodes its pixels anew
        with Zstandard, ``auto`` takes the first where the file has such tiles, else the second.
        ``ngff04`` encodes them anew too, as OME-Zarr 0.4.
    codec
        Of ``compatible``: another one.

    Raises
    ------
    NoJpegTiles
        There are none to keep for ``archive``.
    ValueError
        There is no such profile, or it takes no codec.
    """
    if profile not in ("auto", "archive", "compatible", "ngff04"):
        raise ValueError(f"no profile is called {profile!r}")
    if codec is not None and profile != "compatible":
        raise ValueError(f"the profile {profile!r} takes no codec")
    size = slide.info.height_px, slide.info.width_px
    if profile == "ngff04":
        side = ngff04.CHUNK_PX
        return Pyramid(
            *size, chunk_px=side, shard_px=side, profile=profile, codec=Blosc()
        ), "asked for"
    anew = Pyramid(*size, codec=Zstd() if codec is None else codec)
    if profile == "compatible":
        return anew, "asked for"
    try:
        plan = archive_plan(slide)
    except NoJpegTiles as error:
        if profile == "archive":
            raise
        return anew, error.what
    return plan, "asked for" if profile == "archive" else "the file holds JPEG tiles"


def archive_plan(slide: Slide) -> Archive:
    """The plan that keeps every level of a file.

    Raises
    ------
    NoJpegTiles
        A level is not made of JPEG tiles of RGB.
    """
    info = slide.info
    if not isinstance(slide, JpegTiled):
        raise no_jpeg_tiles(info.path, f"the reader {info.backend} gives pixels only")
    slide.require_jpeg_tiles()
    return Archive(tuple(_kept(slide, number) for number in range(len(info.levels))))


def _kept(slide: JpegTiled, number: int) -> KeptLevel:
    level = slide.info.levels[number]
    if level.tile_px is None:
        raise no_jpeg_tiles(slide.info.path, f"level {number} is not tiled")
    downsample = (level.downsample_y, level.downsample_x)
    codec = _codec(slide, number, level, level.tile_px)
    return KeptLevel(level.height_px, level.width_px, level.tile_px, downsample, codec)


def _codec(slide: JpegTiled, number: int, level: Level, tile_px: tuple[int, int]) -> Jpeg:
    """What describes a level's tiles, by the first of them that is there."""
    for row in range(-(-level.height_px // tile_px[0])):
        for column in range(-(-level.width_px // tile_px[1])):
            if (stream := slide.jpeg_tile(number, row, column)) is not None:
                return Jpeg.like(_frame(slide, number, row, column, stream))
    return Jpeg()


def plan_key(plan: Plan) -> dict[str, Any]:
    """What a plan adds to a product's key."""
    if isinstance(plan, Pyramid):
        geometry = asdict(plan)
        del geometry["codec"]
        return {"plan": geometry, "codec": plan.codec.metadata()}
    return {"plan": asdict(plan), "layout": [array.metadata() for array in plan.arrays]}


def plan_parts(plan: Plan, stage: int, jobs: int) -> list[tuple[Cell, ...]] | list[Batch]:
    """The tasks of a stage: each opens the slide once, and ends with a word of progress."""
    if isinstance(plan, Archive):
        return plan.batches(stage, jobs)
    cells = plan.cells(stage)
    size = 1 if jobs == 1 else max(1, min(_MOST_CELLS, len(cells) // (_PARTS_A_JOB * jobs)))
    return [tuple(cells[n : n + size]) for n in range(0, len(cells), size)]


def keep_images(plan: Plan, folder: Path, images: Mapping[str, Pixels]) -> dict[str, str]:
    """Write a slide's label, macro and thumbnail beside it; says where each lies."""
    is_container = isinstance(plan, Pyramid) and plan.profile == "ngff04"
    return write_associated(folder, images, is_container=is_container)


class Lender:
    """A slide that is opened when it is first wanted, and closed by the outermost ``with``.

    Sent to another process it is a new one, to be opened there.
    """

    def __init__(self, path: Path, mpp: Mpp | None) -> None:
        self.path = path
        self._mpp = mpp
        self._slide: Slide | None = None
        self._depth = 0

    def __reduce__(self) -> tuple[object, ...]:
        return Lender, (self.path, self._mpp)

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._slide is not None:
            self._slide.close()
            self._slide = None

    @property
    def slide(self) -> Slide:
        """The slide, opened."""
        if self._slide is None:
            self._slide = open_slide(self.path, mpp=self._mpp)
        return self._slide


def make_part(
    part: tuple[Cell, ...] | Batch, *, plan: Plan, lender: Lender, product: Path, folder: Path
) -> CellRecord:
    """Make one task's part of an image.

    Parameters
    ----------
    product
        What the image will be.
    folder
        Where it is made.

    Raises
    ------
    UnreadableFile
        A tile cannot be decoded where it has to be, or its headers make no sense.
    UnwritableOutput
        The output cannot be written.
    """
    # The slide is not opened where all shards are there already.
    with lender, writable(product):
        if isinstance(plan, Pyramid):
            assert isinstance(part, tuple)
            source = partial(_level_0, lender)
            return sum_records([write_cell(plan, cell, folder, source) for cell in part])
        assert isinstance(part, Batch)
        try:
            return write_batch(plan, part, folder, partial(file_tile, lender))
        except DamagedChunk as error:
            raise UnreadableFile(
                f"a coarser level cannot be made: {error.what}",
                where=lender.path,
                remedy="Copy the file again from its source; if it is no better there, scan anew",
            ) from error


def _level_0(lender: Lender, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
    return lender.slide.read(0, y_px, x_px, height_px, width_px)


def file_tile(lender: Lender, number: int, row: int, column: int) -> bytes | None:
    """A tile as it is; refused where its headers show that it could not be decoded later."""
    # By the plan it is: asking each time would cost more than the tile.
    slide = cast(JpegTiled, lender.slide)
    stream = slide.jpeg_tile(number, row, column)
    if stream is None:
        return None
    frame = _frame(slide, number, row, column, stream)
    level = slide.info.levels[number]
    assert level.tile_px is not None
    tall, wide = level.tile_px
    # Some encoders cut tiles at the edge to the image, no more.
    height = min(tall, level.height_px - row * tall)
    width = min(wide, level.width_px - column * wide)
    if not (height <= frame.height_px <= tall and width <= frame.width_px <= wide):
        why = f"it is {frame.height_px} × {frame.width_px} px, not {tall} × {wide}"
        raise bad_tile(slide.info.path, f"level {number}", row, column, why)
    return stream


def _frame(slide: JpegTiled, number: int, row: int, column: int, stream: bytes) -> Frame:
    try:
        return frame_of(stream)
    except ValueError as error:
        raise bad_tile(slide.info.path, f"level {number}", row, column, error) from error
