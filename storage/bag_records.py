"""What there is in a folder of bags, from their records alone: no feature is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bags import KIND, SUFFIX, find_bags
from .commit import Commit, require_commit
from .errors import BadProduct, CohortError, MissingFile


@dataclass(frozen=True)
class BagRecord:
    """One bag, as its commit record has it.

    Attributes
    ----------
    tiles, dim
        Number of instances and length of a feature vector.
    mpp, tile_px
        Resolution (µm/px) and side of the tiles as the encoder saw them.
    corrupt_tiles
        Tiles that are missing because they could not be decoded.
    problem
        Why there is no record; empty where there is one.
    """

    id: str
    path: Path
    tiles: int = 0
    dim: int = 0
    encoder: str = ""
    mpp: float = 0.0
    tile_px: int = 0
    corrupt_tiles: int = 0
    made: str = ""
    key: str = ""
    problem: str = ""


def list_records(folder: Path) -> Iterator[BagRecord]:
    """Bags of a folder in order of id; one that is damaged or unfinished says so.

    Raises
    ------
    MissingFile
        There is no such folder.
    """
    if not folder.is_dir():
        raise MissingFile("no such folder", where=folder, remedy="Check the path")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX))
    return (_record(folder / name) for name in names)


def bags_in(places: Sequence[Path]) -> list[Path]:
    """Bags that are named, and those in folders that are named.

    Raises
    ------
    MissingFile
        A place is neither.
    CohortError
        Two bags of one id.
    """
    found: dict[str, Path] = {}
    for place in places:
        inside = [place] if place.name.endswith(SUFFIX) else list(find_bags(place).values())
        if not inside:
            raise MissingFile("no bag, nor a folder of bags", where=place, remedy="Check the path")
        for path in inside:
            if found.setdefault(path.name, path) != path:
                raise CohortError(f"two bags of one id: {found[path.name]}", where=path)
    return list(found.values())


def bag_id(path: Path) -> str:
    """Slide id of a bag, by its file name."""
    return path.name.removesuffix(SUFFIX)


def _record(path: Path) -> BagRecord:
    identity = bag_id(path)
    try:
        return _said(identity, path, require_commit(path, KIND))
    except BadProduct as error:
        return BagRecord(identity, path, problem=error.what)
    except (KeyError, TypeError, ValueError) as error:
        return BagRecord(identity, path, problem=f"the commit record is damaged ({error})")


def _said(identity: str, path: Path, record: Commit) -> BagRecord:
    about = record.about
    return BagRecord(
        id=identity,
        path=path,
        tiles=int(about["instances"]),
        dim=int(about["features"]),
        encoder=str(about["encoder"]),
        mpp=float(about["mpp"]),
        tile_px=int(about["tile_px"]),
        corrupt_tiles=int(about["corrupt_tiles"]),
        made=record.made,
        key=record.key,
    )
