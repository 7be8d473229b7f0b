"""Connectomes: adjacency over the regions of a parcellation, one subject or a cohort of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import get_array, put_array
from .commit import new_product, require_commit
from .errors import BadConnectome, BadProduct

SUFFIX = ".connectomes.zarr"
KIND = "connectome cohort"
SYMMETRY_TOLERANCE = 1e-9
"""Largest |A - Aᵀ|, as a fraction of the largest |A|, that still counts as symmetric."""

_CHUNK_BYTES = 2**20

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Connectome:
    """One subject's network.

    Attributes
    ----------
    adjacency
        float64 [r, r]; ``adjacency[i, j]`` is the weight of the edge from region i to region j. The
        diagonal is not part of the network: measures leave it out.
    regions
        r unique names.
    measure
        What a weight is: ``pearson``, ``fisher-z``, ``msn``, ``jsse`` …
    modality
        What it was measured with: ``fMRI``, ``sMRI``, ``PET``, ``dMRI`` …
    subject
        Identity of the row in its cohort: a subject, or a session where a subject has several.
    centroids_mm
        float64 [r, 3]: (x, y, z) in RAS millimetres, or None.
    directed
        Whether ``adjacency`` may be asymmetric.
    """

    adjacency: Array
    regions: tuple[str, ...]
    measure: str
    modality: str
    subject: str = ""
    centroids_mm: Array | None = None
    directed: bool = False

    def __post_init__(self) -> None:
        if self.adjacency.ndim != 2:
            raise BadConnectome(
                f"an adjacency has two axes, not {self.adjacency.ndim}", where=self.subject or None
            )
        _check(
            self.adjacency[None], (self.subject,), self.regions, self.centroids_mm, self.directed
        )


@dataclass(frozen=True, eq=False)
class ConnectomeCohort:
    """Networks of several subjects over the same regions.

    Attributes
    ----------
    adjacency
        float64 [s, r, r].
    subjects
        s unique names, in the order of ``adjacency``.
    regions, measure, modality, centroids_mm, directed
        As in :class:`Connectome`; the same for all subjects.
    """

    adjacency: Array
    subjects: tuple[str, ...]
    regions: tuple[str, ...]
    measure: str
    modality: str
    centroids_mm: Array | None = None
    directed: bool = False

    def __post_init__(self) -> None:
        if self.adjacency.ndim != 3 or len(self.adjacency) != len(self.subjects):
            raise BadConnectome(
                f"adjacency {self.adjacency.shape} does not hold {len(self.subjects)} subjects"
            )
        _unique("subject", self.subjects)
        _check(self.adjacency, self.subjects, self.regions, self.centroids_mm, self.directed)

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Connectome:
        return Connectome(
            self.adjacency[index],
            self.regions,
            self.measure,
            self.modality,
            self.subjects[index],
            self.centroids_mm,
            self.directed,
        )

    @classmethod
    def of(cls, connectomes: Sequence[Connectome]) -> ConnectomeCohort:
        """Stack connectomes that share regions, measure and modality.

        Raises
        ------
        BadConnectome
            There are none, or one differs from the first.
        """
        if not connectomes:
            raise BadConnectome("no connectome to make a cohort of")
        first = connectomes[0]
        for other in connectomes:
            if _sort(other) != _sort(first):
                raise BadConnectome(
                    f"regions, measure or modality differ from those of {first.subject}",
                    where=other.subject,
                    remedy="Build a cohort from one atlas and one method",
                )
        return cls(
            np.stack([c.adjacency for c in connectomes]),
            tuple(c.subject for c in connectomes),
            first.regions,
            first.measure,
            first.modality,
            first.centroids_mm,
            first.directed,
        )


def _sort(connectome: Connectome) -> tuple[Any, ...]:
    return connectome.regions, connectome.measure, connectome.modality, connectome.directed


def _check(
    adjacency: Array,
    subjects: Sequence[str],
    regions: tuple[str, ...],
    centroids_mm: Array | None,
    directed: bool,
) -> None:
    r = len(regions)
    if r == 0 or adjacency.shape[1:] != (r, r):
        raise BadConnectome(f"adjacency {adjacency.shape[1:]} does not fit {r} regions")
    _unique("region", regions)
    if centroids_mm is not None and centroids_mm.shape != (r, 3):
        raise BadConnectome(f"centroids {centroids_mm.shape} do not fit {r} regions")
    for subject, matrix in zip(subjects, adjacency, strict=True):
        weights = np.where(np.eye(r, dtype=bool), 0.0, matrix)
        if not np.isfinite(weights).all():
            raise BadConnectome(
                "a weight is not a finite number",
                where=subject or None,
                remedy="Leave out the region without data",
            )
        largest = np.abs(weights).max(initial=0.0)
        if not directed and np.abs(weights - weights.T).max() > SYMMETRY_TOLERANCE * largest:
            raise BadConnectome(
                "the adjacency is not symmetric",
                where=subject or None,
                remedy="Symmetrise it, or say that it is directed",
            )


def _unique(what: str, names: Sequence[str]) -> None:
    doubled = [name for name, n in Counter(names).items() if n > 1]
    if doubled:
        raise BadConnectome(f"{what} names occur twice: {', '.join(doubled[:5])}")


def write_connectomes(
    path: Path,
    cohort: ConnectomeCohort,
    *,
    key: str,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Keep a cohort as a Zarr v3 group: ``adjacency`` and, where known, ``centroids_mm``.

    Parameters
    ----------
    about
        Further facts for the commit record: method, atlas, sources.

    Raises
    ------
    StaleProduct
        A cohort made with another key is there and ``overwrite`` is false.
    """
    import zarr

    names: dict[str, Any] = {
        "subjects": list(cohort.subjects),
        "regions": list(cohort.regions),
        "measure": cohort.measure,
        "modality": cohort.modality,
        "directed": cohort.directed,
        "has_centroids": cohort.centroids_mm is not None,
    }
    s, r = cohort.adjacency.shape[:2]
    facts = {**(about or {}), "measure": cohort.measure, "modality": cohort.modality}
    facts.update(n_subjects=s, n_regions=r)
    with new_product(path, kind=KIND, key=key, about=facts, overwrite=overwrite) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3, attributes={"microtome": names})
        rows = max(1, min(s, _CHUNK_BYTES // (r * r * 8)))
        put_array(group, "adjacency", np.asarray(cohort.adjacency, np.float64), (rows, r, r))
        if cohort.centroids_mm is not None:
            centroids = np.asarray(cohort.centroids_mm, np.float64)
            put_array(group, "centroids_mm", centroids, (r, 3))


def read_connectomes(path: str | Path) -> ConnectomeCohort:
    """Read a cohort that :func:`write_connectomes` kept.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished, damaged or not a connectome cohort.
    """
    import zarr

    path = Path(path)
    require_commit(path, KIND)
    try:
        group: Any = zarr.open_group(path, mode="r")
        names = group.attrs["microtome"]
        return ConnectomeCohort(
            get_array(group, "adjacency"),
            tuple(names["subjects"]),
            tuple(names["regions"]),
            names["measure"],
            names["modality"],
            get_array(group, "centroids_mm") if names["has_centroids"] else None,
            names["directed"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, BadConnectome) as error:
        raise BadProduct(
            f"the connectomes are damaged ({error})",
            where=path,
            remedy="Delete them and build again",
        ) from error


def open_adjacency(path: str | Path) -> Any:
    """The networks of a kept cohort as a Dask array, float64 [s, r, r]: read when computed.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished or not a connectome cohort.
    """
    import dask.array as da
    import zarr

    require_commit(Path(path), KIND)
    group: Any = zarr.open_group(path, mode="r")
    return da.from_array(group["adjacency"], chunks=group["adjacency"].chunks)
