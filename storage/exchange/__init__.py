"""Bags of other tools, in and out: CLAM, TRIDENT, STAMP (h5, pt), AnnData, SpatialData (Zarr)."""

from __future__ import annotations

from pathlib import Path

from ..bags import Bag
from ..errors import BadProduct
from .anndata import export_anndata, read_anndata
from .clam import FEATURES as CLAM_FEATURES
from .clam import export_clam, export_pt, read_clam, read_pt
from .facts import Facts
from .hdf5 import opened
from .spatialdata import export_spatialdata
from .stamp import FEATURES as STAMP_FEATURES
from .stamp import export_stamp, read_stamp

__all__ = [
    "Facts", "export_anndata", "export_clam", "export_pt", "export_spatialdata", "export_stamp",
    "import_bag",
]  # fmt: skip


def import_bag(path: Path, *, facts: Facts | None = None, coords: Path | None = None) -> Bag:
    """Read a bag of CLAM, TRIDENT, STAMP or AnnData; whose it is, its datasets say.

    Nothing is guessed: what neither the file nor ``facts`` says is an error that names the
    option that would say it, and what they contradict each other in is an error as well.

    Parameters
    ----------
    path
        ``<id>.h5`` with ``features`` (CLAM, TRIDENT) or ``feats`` (STAMP), or ``<id>.pt``, a
        tensor [n, d]; or ``<id>.zarr``, AnnData or SpatialData that was exported here. The bag's id
        is the file's stem.
    facts
        What is known besides the file: of the slide, of the encoder.
    coords
        h5 file with ``coords`` and their attributes, where ``path`` has none of its own.

    Raises
    ------
    MissingFile, UnreadableFile
        Nothing is there; or it is damaged.
    BadProduct
        No bag, or one whose parts do not fit together.
    NoResolution, BadResolution, BadGeometry
        The tiles' place or size is unknown, contradictory, or off the slide.
    """
    facts = facts or Facts()
    if path.is_dir():
        return read_anndata(path)
    if path.suffix.lower() == ".pt":
        return read_pt(path, facts, coords)
    with opened(path) as file:
        # In a damaged file names may be bytes that are no text.
        found = set(map(str, file))
    if STAMP_FEATURES in found:
        return read_stamp(path, facts)
    if CLAM_FEATURES in found:
        return read_clam(path, facts, coords)
    raise BadProduct(
        f"no bag: neither {CLAM_FEATURES} (CLAM, TRIDENT) nor {STAMP_FEATURES} (STAMP) is among "
        f"its datasets ({', '.join(sorted(found)) or 'none'})",
        where=path,
        remedy="Name a file of features; one of coordinates goes with --coords",
    )
