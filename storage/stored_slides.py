"""Slides at rest: what all our images of slides have in common, however their pixels are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ngff, ngff04
from .commit import Commit, require_commit
from .errors import BadProduct
from .shards import ShardedArray, read_box, read_metadata, write_metadata

SUFFIX = ".ome.zarr"
KIND = "slide image"
Pixels = NDArray[np.uint8]


def write_slide_metadata(
    folder: Path,
    arrays: Sequence[ShardedArray],
    downsamples: Sequence[tuple[float, float]],
    *,
    name: str,
    mpp: tuple[float, float] | None,
    about: Mapping[str, Any],
    method: str | None,
) -> None:
    """Write the metadata of an image and its levels; the last thing before the commit.

    Parameters
    ----------
    arrays
        Layout of each level, finest first.
    downsamples
        (y, x) level-0 pixels per pixel of each level.
    mpp
        (y, x) micrometres per level-0 pixel, or None.
    about
        Goes into the group's attribute ``microtome``.
    method
        How the levels were made from each other, or None where they were not.
    """
    for level, array in enumerate(arrays):
        write_metadata(folder / str(level), array.metadata())
    ome = ngff.slide_image(name, mpp, downsamples, method)
    write_metadata(folder, ngff.group({"ome": ome, "microtome": dict(about)}))


@dataclass(frozen=True)
class StoredSlide:
    """A finished image of a slide, for reading; holds no open file.

    Attributes
    ----------
    path
        The ``.ome.zarr`` folder.
    commit
        Its record.
    levels
        Layout of each level, finest first.
    ome
        Its OME-Zarr metadata.
    about
        What they have no word for: the attribute ``microtome``.
    """

    path: Path
    commit: Commit
    levels: tuple[ShardedArray, ...]
    ome: Mapping[str, Any]
    about: Mapping[str, Any]

    def folder(self, level: int) -> Path:
        """Where a level lies."""
        return image_folder(self.path) / str(level)

    @property
    def mpp(self) -> tuple[float, float] | None:
        """(y, x) micrometres per level-0 pixel, or None."""
        stated = self.commit.about["mpp"]
        return None if stated is None else (float(stated[0]), float(stated[1]))

    def read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> Pixels:
        """Read a rectangle of a level, given in that level's pixels, as uint8 [h, w, 3].

        Raises
        ------
        ValueError
            The rectangle leaves the level.
        BadProduct
            A shard is missing or damaged.
        DamagedChunk
            One chunk of it cannot be decoded.
        """
        array = self.levels[level]
        low = min(y_px, x_px) < 0 or min(height_px, width_px) < 1
        if low or y_px + height_px > array.shape[1] or x_px + width_px > array.shape[2]:
            raise ValueError(f"({y_px}, {x_px}, {height_px}, {width_px}) leaves level {level}")
        rows, columns = slice(y_px, y_px + height_px, 1), slice(x_px, x_px + width_px, 1)
        return read_pixels(array, self.folder(level), rows, columns)

    def associated_array(self, name: str) -> tuple[ShardedArray, Path]:
        """Layout and folder of a label, macro or thumbnail; KeyError where none was kept."""
        folder = self.path / self.about.get("associated", {})[name]
        if ngff04.is_container(self.path):
            return ngff04.read_level(folder), folder
        return ShardedArray.from_metadata(read_metadata(folder)), folder

    def associated_image(self, name: str) -> Pixels:
        """Label, macro or thumbnail as uint8 [h, w, 3]; KeyError where none was kept."""
        array, folder = self.associated_array(name)
        rows, columns = (slice(0, size, 1) for size in array.shape[1:])
        return read_pixels(array, folder, rows, columns)


def open_stored_slide(path: str | Path) -> StoredSlide:
    """Open an image of a slide that Microtome wrote.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or not a slide.
    """
    path = Path(path)
    commit = require_commit(path, KIND)
    try:
        if ngff04.is_container(path):
            attributes, ome, levels = ngff04.read_container(path)
        else:
            attributes = read_metadata(path)["attributes"]
            ome = attributes["ome"]
            datasets = ome["multiscales"][0]["datasets"]
            levels = [
                ShardedArray.from_metadata(read_metadata(path / level["path"]))
                for level in datasets
            ]
        about = attributes["microtome"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadProduct(f"damaged metadata ({error!r})", where=path) from error
    return StoredSlide(path, commit, tuple(levels), ome, about)


def image_folder(product: Path) -> Path:
    """Where the levels of an image lie: in a container of OME-Zarr 0.4 in its first group."""
    return product / ngff04.IMAGE if ngff04.is_container(product) else product


def read_pixels(array: ShardedArray, folder: Path, rows: slice, columns: slice) -> Pixels:
    """Read a rectangle of an array c, y, x as uint8 [h, w, 3]; raises as ``read_box`` does."""
    pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
    read_box(array, folder, (slice(0, 3, 1), rows, columns), pixels.transpose(2, 0, 1))
    return pixels
