"""Whether a stored image is whole, and what its source holds; what is not is made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.commit import file_identity, writable
from ..storage.errors import BadProduct, StaleProduct
from ..storage.pyramid import Pyramid
from ..storage.scans import StoredScan, open_stored_scan, write_scan_shards
from ..storage.shards import Index, ShardedArray, read_metadata
from ..storage.stored_slides import StoredSlide, open_stored_slide
from ..storage.virtual import open_view
from .compare import Square, agree, agree_in_view, is_sound, other_images
from .ingest import scan_identity
from .profiles import Lender, Plan, choose_plan, keep_images, make_part, plan_parts
from .schedule import Pool, open_pool, run_items
from .slides import Mpp, Slide, open_slide
from .volumes import Volume, open_volume

SAMPLES = 64
_AGAIN = "Run ingest with --verify on the source: it is made again"

Progress = Callable[[int, int], None]
"""Told of (shards looked at, in all)."""


@dataclass(frozen=True)
class Verified:
    """What a look at every shard found.

    Attributes
    ----------
    path
        The ``.ome.zarr``.
    shards
        How many it has.
    compared
        Pixels or voxels that were compared with the source's.
    damaged
        Files that were missing, cut off, undecodable, or held something else than the source.
    """

    path: Path
    shards: int
    compared: int
    damaged: tuple[Path, ...] = ()

    def require_whole(self) -> None:
        """Raise BadProduct where something is damaged."""
        if self.damaged:
            names = ", ".join(str(path.relative_to(self.path)) for path in self.damaged[:5])
            more = f" and {len(self.damaged) - 5} more" if len(self.damaged) > 5 else ""
            raise BadProduct(
                f"{len(self.damaged)} of {self.shards} shards are damaged: {names}{more}",
                where=self.path,
                remedy=_AGAIN,
            )


def verify_slide(
    product: Path,
    source: Path,
    *,
    mpp: Mpp | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Verified:
    """Look at every shard of a stored slide, and at its pixels beside the source's.

    Where the file's own tiles were kept, every shard is compared with what it should be, byte for
    byte; of OME-Zarr 0.4, whose chunks have no checksum, every chunk, pixel by pixel. Elsewhere
    every index is checked by its CRC-32C, and every chunk by its own checksum. Then ``samples``
    squares of level 0, of a chunk's size, are compared pixel by pixel.

    Parameters
    ----------
    product, source
        The ``.ome.zarr``, and the slide that it was made from.
    mpp
        As it was given to ``ingest``.
    samples, seed
        How many squares, and which.

    Raises
    ------
    StaleProduct
        The source is not what the image was made from.
    MissingFile, BadProduct
        There is no finished image of a slide; single shards are no error but counted.
    """
    stored = open_stored_slide(product)
    _require_same(product, source, stored.about, file_identity(source))
    with Lender(source, mpp) as lender:
        plan = _plan_of(stored, lender.slide)
        shards = list(_shards(stored.levels))
        damaged: set[Path] = set()
        broken: set[int] = set()
        for done, (level, index) in enumerate(shards, 1):
            if not is_sound(
                stored, plan, lender, level, index, is_below_whole=level - 1 not in broken
            ):
                damaged.add(_file(stored, level, index))
                broken.add(level)
            if on_progress is not None:
                on_progress(done, len(shards))
        # Of OME-Zarr 0.4 every pixel was compared by now.
        is_all = isinstance(plan, Pyramid) and plan.profile == "ngff04"
        finest = stored.levels[0]
        compared = finest.shape[1] * finest.shape[2] if is_all else 0
        for box in _squares(finest.shape, finest.chunk, 0 if is_all else samples, seed):
            compared += box[2] * box[3]
            if not agree(stored, lender.slide, box):
                damaged |= set(_files_of(stored, box))
        damaged |= other_images(stored, lender)
    return Verified(product, len(shards), compared, tuple(sorted(damaged)))


def repair_slide(
    found: Verified, source: Path, *, mpp: Mpp | None = None, pool: Pool | None = None
) -> None:
    """Make the damaged shards of a slide again; all others stay as they are.

    Raises
    ------
    StaleProduct
        The source is not what the image was made from.
    UnwritableOutput
        The output cannot be written.
    """
    if not found.damaged:
        return
    stored = open_stored_slide(found.path)
    _require_same(found.path, source, stored.about, file_identity(source))
    for path in found.damaged:
        path.unlink(missing_ok=True)
    with (
        Lender(source, mpp) as lender,
        open_pool(1) if pool is None else nullcontext(pool) as active,
    ):
        plan = _plan_of(stored, lender.slide)
        work = partial(make_part, plan=plan, lender=lender, product=found.path, folder=found.path)
        for stage in range(plan.stages):
            run_items(plan_parts(plan, stage, active.jobs), work, pool=active, debug=True)
        if names := stored.about.get("associated"):
            images = {name: lender.slide.associated_image(name) for name in names}
            with writable(found.path):
                keep_images(plan, found.path, images)


def verify_view(
    product: Path, source: Path, *, mpp: Mpp | None = None, samples: int = SAMPLES, seed: int = 0
) -> Verified:
    """Compare what zarr-python reads through a view with what the slide's own reader reads.

    Parameters
    ----------
    product, source
        The view, and the slide that it is a view of.
    mpp
        As it was given to ``ingest``.
    samples, seed
        How many squares of each level, and which.

    Returns
    -------
    Verified
        ``shards`` counts the levels; ``damaged`` lists the indices of those that differ.

    Raises
    ------
    StaleProduct
        The source is not what this is a view of.
    MissingFile, BadProduct
        There is no finished view.
    """
    import zarr

    from ..storage.virtual_store import VirtualStore

    if open_view(product).original.identity != file_identity(source):
        raise _other(product, source)
    group = zarr.open_group(VirtualStore(product), mode="r")
    compared, damaged = 0, []
    with open_slide(source, mpp=mpp) as slide:
        for level in range(len(slide.info.levels)):
            array: Any = group[str(level)]
            boxes = list(_squares(array.shape, array.chunks, samples, seed))
            compared += sum(height * width for _, _, height, width in boxes)
            if not all(agree_in_view(array, slide, level, box) for box in boxes):
                damaged.append(product / f"{level}.npy")
    return Verified(product, len(slide.info.levels), compared, tuple(damaged))


def _plan_of(stored: StoredSlide, slide: Slide) -> Plan:
    """The plan that an image was made by."""
    profile = stored.commit.about["profile"]
    codec = stored.levels[0].codec if profile == "compatible" else None
    return choose_plan(slide, profile, codec)[0]


def _shards(arrays: Sequence[ShardedArray]) -> Iterator[tuple[int, Index]]:
    return ((level, index) for level, array in enumerate(arrays) for index in array.indices())


def _file(stored: StoredSlide, level: int, index: Index) -> Path:
    return stored.levels[level].file(stored.folder(level), index)


def _squares(
    shape: Sequence[int], chunk: Sequence[int], samples: int, seed: int
) -> Iterator[Square]:
    """Squares of a chunk's size, anywhere on a level, so that most touch four chunks."""
    sizes, sides = shape[1:], chunk[1:]
    height, width = (min(size, side) for size, side in zip(sizes, sides, strict=True))
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        y, x = (
            int(rng.integers(size - side + 1))
            for size, side in zip(sizes, (height, width), strict=True)
        )
        yield y, x, height, width


def _files_of(stored: StoredSlide, box: Square) -> Iterator[Path]:
    """The shards of level 0 that a square touches."""
    array = stored.levels[0]
    y, x, height, width = box
    for index in array.indices():
        _, rows, columns = array.box(index)
        apart = rows.start >= y + height or y >= rows.stop
        if not (apart or columns.start >= x + width or x >= columns.stop):
            yield _file(stored, 0, index)


def _require_same(product: Path, source: Path, about: Mapping[str, Any], identity: str) -> None:
    if about["identity"] != identity:
        raise _other(product, source)


def _other(product: Path, source: Path) -> StaleProduct:
    return StaleProduct(
        f"{source} is not the file that this was made from, or has changed since",
        where=product,
        remedy="Compare with the file that it was made from, or pass --overwrite",
    )


def verify_volume(
    product: Path,
    source: Path,
    *,
    series: str | None = None,
    resample: bool = False,
    on_progress: Progress | None = None,
) -> Verified:
    """Compare every voxel of a stored scan with the source's.

    Parameters
    ----------
    series, resample
        As they were given to ``ingest``.

    Raises
    ------
    StaleProduct
        The source is not what the image was made from.
    MissingFile, BadProduct
        There is no finished image of a scan; single shards are no error but counted.
    """
    stored, volume = _both(product, source, series, resample)
    shards = list(stored.array.indices())
    damaged = []
    for done, index in enumerate(shards, 1):
        if not _holds(stored, volume, index):
            damaged.append(stored.array.file(product / "0", index))
        if on_progress is not None:
            on_progress(done, len(shards))
    voxels = int(np.prod(stored.array.shape))
    return Verified(product, len(shards), voxels, tuple(damaged))


def repair_volume(
    found: Verified, source: Path, *, series: str | None = None, resample: bool = False
) -> None:
    """Make the damaged shards of a scan again; raises as :func:`repair_slide` does."""
    stored, volume = _both(found.path, source, series, resample)
    for path in found.damaged:
        path.unlink(missing_ok=True)
    write_scan_shards(stored.array, found.path / "0", volume.stored.read_box)


def _both(
    product: Path, source: Path, series: str | None, resample: bool
) -> tuple[StoredScan, Volume]:
    stored = open_stored_scan(product)
    volume = open_volume(source, series=series, resample=resample)
    about = read_metadata(product)["attributes"]["microtome"]
    _require_same(product, source, about, scan_identity(volume))
    return stored, volume


def _holds(stored: StoredScan, volume: Volume, index: Index) -> bool:
    box = tuple(slice(part.start, part.stop, 1) for part in stored.array.box(index))
    try:
        found = stored.read(box)
    except BadProduct:
        return False
    # By their bytes: a NaN is no other NaN's equal.
    expected = volume.stored.read_box(box).astype(found.dtype, copy=False)
    return found.tobytes() == expected.tobytes()
