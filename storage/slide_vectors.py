"""One vector a slide, or a patient: a table to read, and the same numbers exactly."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .commit import new_product, require_commit, write_bytes, write_text
from .errors import BadProduct

KIND = "vectors"
TABLE = "vectors.csv"
ARRAYS = "vectors.npz"

How = Literal["mean", "attention", "prototype"]


@dataclass(frozen=True)
class Prototypes:
    """Centres that tiles are compared with.

    Attributes
    ----------
    centres
        float64 [k, d], of standardised features.
    mean, deviation
        float64 [d]: what features are standardised by.
    variance
        Of the tiles of a prototype, in each of the d directions.
    """

    centres: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    variance: float


@dataclass(frozen=True)
class SlideVectors:
    """Vectors of m slides or patients.

    Attributes
    ----------
    ids
        m slides or patients, in order of the alphabet.
    vectors
        float32 [m, d].
    tiles, slides
        int64 [m]: how many instances, and how many slides, each row speaks of.
    names
        d names of columns.
    how, by
        How instances were pooled, and what a row is: ``slide`` or ``patient``.
    encoder
        ``name@version``.
    prototypes
        Those that ``prototype`` counted by.
    """

    ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    tiles: NDArray[np.int64]
    slides: NDArray[np.int64]
    names: tuple[str, ...]
    how: How
    by: Literal["slide", "patient"]
    encoder: str
    prototypes: Prototypes | None = None

    def __post_init__(self) -> None:
        m = len(self.ids)
        shapes_fit = (
            self.vectors.shape == (m, len(self.names)) and self.tiles.shape == self.slides.shape
        )
        if not shapes_fit or self.tiles.shape != (m,):
            raise ValueError("ids, vectors and names do not fit together")

    def __len__(self) -> int:
        return len(self.ids)


_FACTS = ("how", "by", "encoder")


def write_vectors(
    path: Path,
    vectors: SlideVectors,
    *,
    key: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Keep vectors as a folder: ``vectors.csv`` to read, ``vectors.npz`` to the last bit.

    The npz has ``ids``, ``vectors``, ``tiles``, ``slides`` and ``names``, and of prototypes
    ``centres``, ``mean``, ``deviation`` and ``variance``; none needs pickle.

    Raises
    ------
    StaleProduct
        Vectors made with another key are there and ``overwrite`` is false.
    """
    facts = {name: getattr(vectors, name) for name in _FACTS}
    about = {**about, **facts, "rows": len(vectors), "columns": len(vectors.names)}
    with new_product(path, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        write_text(folder / TABLE, _table(vectors))
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **_arrays(vectors))
        write_bytes(folder / ARRAYS, buffer.getvalue())


def _arrays(vectors: SlideVectors) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "ids": np.array(vectors.ids, np.str_),
        "vectors": np.asarray(vectors.vectors, np.float32),
        "tiles": np.asarray(vectors.tiles, np.int64),
        "slides": np.asarray(vectors.slides, np.int64),
        "names": np.array(vectors.names, np.str_),
    }
    if vectors.prototypes is not None:
        arrays |= vars(vectors.prototypes)
    return arrays


def _table(vectors: SlideVectors) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([vectors.by, "slides", "tiles", *vectors.names])
    rows = zip(vectors.ids, vectors.slides, vectors.tiles, vectors.vectors, strict=True)
    for identity, slides, tiles, values in rows:
        # Nine digits give back every float32.
        table.writerow([identity, slides, tiles, *(f"{value:.9g}" for value in values)])
    return text.getvalue()


def read_vectors(path: str | Path) -> SlideVectors:
    """Read vectors that :func:`write_vectors` kept.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or no vectors.
    """
    path = Path(path)
    about = require_commit(path, KIND).about
    try:
        with (path / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
        prototypes = None
        if "centres" in found:
            centres, mean, deviation = (found[n] for n in ("centres", "mean", "deviation"))
            prototypes = Prototypes(centres, mean, deviation, float(found["variance"]))
        facts: dict[str, Any] = {name: about[name] for name in _FACTS}
        return SlideVectors(
            ids=tuple(map(str, found["ids"])),
            vectors=found["vectors"],
            tiles=found["tiles"],
            slides=found["slides"],
            names=tuple(map(str, found["names"])),
            prototypes=prototypes,
            **facts,
        )
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadProduct(
            f"the vectors are damaged ({error})", where=path, remedy="Pool the bags again"
        ) from error
