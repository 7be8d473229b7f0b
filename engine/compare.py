"""A stored image beside its source: what is the same, and what is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage.archive import Archive, chunks_of
from ..storage.errors import BadProduct, UnreadableFile
from ..storage.pyramid import Pyramid, halved_pixels
from ..storage.shards import Index, ShardedArray, read_box
from ..storage.stored_slides import StoredSlide
from .profiles import Lender, Plan, file_tile
from .slides import Slide

Square = tuple[int, int, int, int]
"""(y, x, height, width) on a level."""


def is_sound(
    stored: StoredSlide,
    plan: Plan,
    lender: Lender,
    level: int,
    index: Index,
    *,
    is_below_whole: bool,
) -> bool:
    """Whether a shard of a stored slide is what it should be, as far as that can be known."""
    if isinstance(plan, Pyramid) and plan.profile == "ngff04":
        return _holds_pixels(stored, plan, lender, level, index, is_below_whole=is_below_whole)
    is_known = isinstance(plan, Archive) and (level < len(plan.kept) or is_below_whole)
    if isinstance(plan, Pyramid) or not is_known:
        return _is_decodable(stored.levels[level], stored.folder(level), index)
    path = stored.levels[level].file(stored.folder(level), index)
    chunks = chunks_of(plan, level, index, stored.path, partial(file_tile, lender))
    return path.is_file() and path.read_bytes() == b"".join(plan.arrays[level].packed(chunks))


def _holds_pixels(
    stored: StoredSlide,
    plan: Pyramid,
    lender: Lender,
    level: int,
    index: Index,
    *,
    is_below_whole: bool,
) -> bool:
    """Whether a chunk without a checksum holds what it should, as far as that can be known."""
    array = stored.levels[level]
    channel, rows, columns = array.box(index)
    box = rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
    try:
        found = read_box(array, stored.folder(level), array.box(index))[0]
        if level > 0 and not is_below_whole:
            return True
        if level == 0:
            expected = lender.slide.read(0, *box)
        else:
            expected = halved_pixels(plan, level, stored.path, box)
    except BadProduct:
        return False
    return bool(np.array_equal(found, expected[..., channel.start]))


def _is_decodable(array: ShardedArray, folder: Path, index: Index) -> bool:
    try:
        read_box(array, folder, array.box(index))
    except BadProduct:
        return False
    return True


def agree(stored: StoredSlide, slide: Slide, box: Square) -> bool:
    """Whether both give the same pixels, or neither any: a tile that is corrupt is kept so."""
    if stored.about.get("lossy"):
        return _agrees_once_encoded(stored, slide, box)
    try:
        expected = slide.read(0, *box)
    except UnreadableFile:
        expected = None
    try:
        found = stored.read(0, *box)
    except BadProduct:
        found = None
    if expected is None or found is None:
        return expected is found
    return bool(np.array_equal(found, expected))


def _agrees_once_encoded(stored: StoredSlide, slide: Slide, box: Square) -> bool:
    """Whether the chunk at a square is what the source's pixels are after the same loss."""
    array = stored.levels[0]
    _, tall, wide = array.chunk
    y, x = box[0] // tall * tall, box[1] // wide * wide
    part = y, x, min(tall, array.shape[1] - y), min(wide, array.shape[2] - x)
    pixels = slide.read(0, *part)
    beyond = [(0, tall - part[2]), (0, wide - part[3]), (0, 0)]
    chunk = np.pad(pixels, beyond, mode="edge").transpose(2, 0, 1)
    expected = array.codec.decode(array.codec.encode(chunk), array.chunk, array.dtype)
    try:
        found = stored.read(0, *part)
    except BadProduct:
        return False
    return bool(np.array_equal(found, expected.transpose(1, 2, 0)[: part[2], : part[3]]))


def agree_in_view(array: Any, slide: Slide, level: int, box: Square) -> bool:
    """Whether both give the same pixels, or neither any."""
    y, x, height, width = box
    expected: NDArray[np.uint8] | None
    found: NDArray[np.uint8] | None
    try:
        expected = slide.read(level, *box)
    except UnreadableFile:
        expected = None
    try:
        found = array[:, y : y + height, x : x + width].transpose(1, 2, 0)
    except (UnreadableFile, ValueError):
        found = None
    if expected is None or found is None:
        return expected is found
    return bool(np.array_equal(found, expected))


def other_images(stored: StoredSlide, lender: Lender) -> set[Path]:
    """The files of label, macro and thumbnail, where these are not the source's."""
    damaged: set[Path] = set()
    for name in stored.about.get("associated", {}):
        expected = lender.slide.associated_image(name)
        try:
            same = np.array_equal(stored.associated_image(name), expected)
        except BadProduct:
            same = False
        if not same:
            array, folder = stored.associated_array(name)
            damaged |= {array.file(folder, index) for index in array.indices()}
    return damaged
