"""OME-Zarr 0.4 in Zarr v2, for QuPath and other tools that read no newer one.

Layout: a container ``bioformats2raw.layout`` 3 (https://ngff.openmicroscopy.org/0.4/): the image
in the group ``0``, further ones in ``1``, ``2`` …, and ``OME/METADATA.ome.xml``, from which
Bio-Formats' reader of OME-Zarr, and so QuPath 0.6 and later, takes pixel size and channels. That
reader takes arrays c, y, x as they are (two to five axes), and of compressors it knows zlib and
Blosc; Blosc with Zstandard inside is the smallest of what it can read.

A file is one chunk of one colour, for Bio-Formats reads colours one by one. It is a Blosc frame,
whose header states its length: one that was cut off is noticed. Blosc has no checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import ngff
from .codecs import BLOSC_HEADER_BYTES, Blosc, is_whole_blosc
from .errors import BadProduct
from .files import write_text
from .ome_xml import OmeImage, ome_xml
from .shards import Index, ShardedArray, read_metadata, write_metadata

VERSION = "0.4"
IMAGE = "0"
"""The group of the slide itself in its container."""

CHUNK_PX = 1024

_GROUP, _ATTRIBUTES, _ARRAY = ".zgroup", ".zattrs", ".zarray"


@dataclass(frozen=True)
class ChunkedArray(ShardedArray):
    """An array of Zarr v2: each file is one chunk, and has no index."""

    writes_empty: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard != self.chunk or not isinstance(self.codec, Blosc):
            raise ValueError("a file of Zarr v2 is one chunk, here by Blosc")

    def file(self, folder: Path, index: Index) -> Path:
        """The file of a chunk, in the folder of the array."""
        return folder.joinpath(*map(str, index))

    def metadata(self) -> dict[str, Any]:
        """The array's ``.zarray``."""
        assert isinstance(self.codec, Blosc)
        return {
            "zarr_format": 2,
            "shape": list(self.shape),
            "chunks": list(self.chunk),
            "dtype": self.dtype.newbyteorder("<").str,
            "compressor": {
                "id": "blosc",
                "cname": "zstd",
                "clevel": self.codec.level,
                "shuffle": 0,
                "blocksize": 0,
            },
            "fill_value": self.fill,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ChunkedArray:
        """The layout that a ``.zarray`` of ours describes; KeyError or BadProduct for others."""
        compressor = metadata["compressor"]
        if (compressor["id"], compressor["cname"]) != ("blosc", "zstd"):
            raise BadProduct("the array is not compressed as Microtome does it")
        return cls(
            shape=tuple(metadata["shape"]),
            dtype=np.dtype(metadata["dtype"]),
            shard=tuple(metadata["chunks"]),
            chunk=tuple(metadata["chunks"]),
            names=("c", "y", "x"),
            codec=Blosc(int(compressor["clevel"])),
            fill=int(metadata["fill_value"]),
        )

    def packed(self, chunks: Iterable[bytes | None]) -> Iterator[bytes]:
        """What a file holds: its only chunk."""
        (chunk,) = chunks
        assert chunk is not None
        yield chunk

    def index_of(self, file: FileIO, path: Path) -> NDArray[np.uint64]:
        """The whole file is the chunk; BadProduct where it is shorter than it states."""
        size = file.seek(0, 2)
        file.seek(0)
        plain = int(np.prod(self.chunk)) * self.dtype.itemsize
        if not is_whole_blosc(file.read(BLOSC_HEADER_BYTES), size, plain):
            raise BadProduct("a chunk is cut off or damaged", where=path, remedy=_AGAIN)
        return np.array([[0, size]], "<u8")


_AGAIN = "Delete the product and make it again"


def chunked(
    shape: tuple[int, ...], chunk_px: int = CHUNK_PX, codec: Blosc | None = None
) -> ChunkedArray:
    """Layout of a level (3, h, w) of a slide."""
    chunk = (1, chunk_px, chunk_px)
    names = ("c", "y", "x")
    return ChunkedArray(shape, np.dtype(np.uint8), chunk, chunk, names, codec or Blosc())


@dataclass(frozen=True)
class Series:
    """An image of a container.

    Attributes
    ----------
    described
        As OME-XML describes it.
    arrays
        Layout of each level, finest first.
    downsamples
        (y, x) level-0 pixels per pixel of each level.
    """

    described: OmeImage
    arrays: Sequence[ShardedArray]
    downsamples: Sequence[tuple[float, float]]


def write_container(folder: Path, series: Sequence[Series], about: Mapping[str, Any]) -> None:
    """Write the metadata of a container and its images; the last thing before the commit.

    Parameters
    ----------
    about
        Goes into the container's attribute ``microtome``.
    """
    names = [str(number) for number in range(len(series))]
    for name, image in zip(names, series, strict=True):
        for level, array in enumerate(image.arrays):
            write_metadata(folder / name / str(level), array.metadata(), _ARRAY)
        _write_group(folder / name, _attributes(image))
    _write_group(folder / "OME", {"series": names})
    document = ome_xml([image.described for image in series])
    write_text(folder / "OME" / "METADATA.ome.xml", _DECLARATION + document)
    _write_group(folder, {"bioformats2raw.layout": 3, "microtome": dict(about)})


_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    write_metadata(folder, {"zarr_format": 2}, _GROUP)
    write_metadata(folder, attributes, _ATTRIBUTES)


def _attributes(image: Series) -> dict[str, Any]:
    """An image's metadata: those of 0.5, with the version where 0.4 has it."""
    described = image.described
    method = "area average" if len(image.arrays) > 1 else None
    stated = ngff.slide_image(described.name, described.mpp, image.downsamples, method)
    (multiscale,) = stated["multiscales"]
    return {
        "multiscales": [{"version": VERSION, **multiscale}],
        "omero": {"version": VERSION, **stated["omero"]},
    }


def is_container(folder: Path) -> bool:
    """Whether a folder is of this layout."""
    return (folder / _GROUP).is_file()


def read_container(folder: Path) -> tuple[dict[str, Any], Mapping[str, Any], list[ShardedArray]]:
    """Attributes of a container, metadata of its first image, and the layout of its levels.

    Raises
    ------
    BadProduct, KeyError
        It is damaged.
    """
    ome = read_metadata(folder / IMAGE, _ATTRIBUTES)
    datasets = ome["multiscales"][0]["datasets"]
    levels = [read_level(folder / IMAGE / level["path"]) for level in datasets]
    return read_metadata(folder, _ATTRIBUTES), ome, levels


def read_level(folder: Path) -> ShardedArray:
    """Layout of one level; raises as :func:`read_container` does."""
    return ChunkedArray.from_metadata(read_metadata(folder, _ARRAY))
