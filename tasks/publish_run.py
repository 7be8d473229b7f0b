"""What is to be published of a folder of results, each part for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..engine.schedule import Skipped
from ..storage.commit import RECORD
from ..storage.errors import MissingFile
from ..storage.publishing import Published, is_private, publish


def parts_of(folder: Path) -> list[Path]:
    """The outermost products in a folder, and all files that are in none.

    Raises
    ------
    MissingFile
        There is no such folder.
    """
    if not folder.is_dir():
        raise MissingFile("no such folder", where=folder, remedy="Check the path")
    return list(_parts(folder))


def _parts(folder: Path) -> Iterator[Path]:
    if (folder / RECORD).is_file():
        yield folder
        return
    for child in sorted(folder.iterdir()):
        if is_private(child):
            continue
        if child.is_dir():
            yield from _parts(child)
        else:
            yield child


def publish_part(
    part: Path, *, folder: Path, url: str, overwrite: bool = False
) -> Published | Skipped[Published]:
    """Publish one part of a folder to the place that it has below ``url``."""
    place = "/".join((url.rstrip("/"), *part.relative_to(folder).parts))
    done = publish(part, place, overwrite=overwrite)
    return done if done.sent else Skipped(done)
