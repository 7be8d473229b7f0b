"""Whole cohorts of networks: measuring each, and tables of the measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..storage.connectomes import Connectome, ConnectomeCohort
from ..storage.errors import BadConnectome, CohortError
from .matrices import Array, without_diagonal
from .summary import area_over_densities, global_measures, nodal_measures, null_measures
from .tables import write_rows
from .threshold import (
    disparity_backbone,
    orthogonal_trees,
    proportional,
    tree_and_strongest,
)

Keep = Literal["strongest", "tree", "backbone", "trees", "all"]


def choose_network(cohort: ConnectomeCohort, subject: str | None) -> Connectome:
    """One subject's network, or the mean over all where none is named and there are several.

    Raises
    ------
    CohortError
        There is no such subject.
    """
    if subject is None and len(cohort) == 1:
        return cohort[0]
    if subject is None:
        mean = replace(cohort[0], adjacency=cohort.adjacency.mean(axis=0))
        return replace(mean, subject=f"mean of {len(cohort)}")
    if subject not in cohort.subjects:
        raise CohortError(
            f"there is no subject {subject!r}", remedy=f"The first is {cohort.subjects[0]!r}"
        )
    return cohort[cohort.subjects.index(subject)]


@dataclass(frozen=True)
class Measured:
    """Measures of one network; ``nodal`` is empty unless asked for."""

    subject: str
    regions: tuple[str, ...]
    whole: Mapping[str, float]
    nodal: Mapping[str, Array]


def measure_network(
    connectome: Connectome,
    *,
    density: float = 0.15,
    keep: Keep = "strongest",
    nodal: bool = False,
    n_nulls: int = 0,
    densities: Sequence[float] = (),
    seed: int = 0,
) -> Measured:
    """Threshold a network and measure it.

    Parameters
    ----------
    keep
        ``strongest``: :func:`.threshold.proportional`; ``tree``:
        :func:`.threshold.tree_and_strongest`. Whatever ``density``, ``backbone``:
        :func:`.threshold.disparity_backbone`, ``trees``: :func:`.threshold.orthogonal_trees`, both
        of the positive weights; ``all``: every edge.
    n_nulls
        Compare with so many random networks: :func:`.summary.null_measures`.
    densities
        Also the area of each measure over these, named ``…_area``:
        :func:`.summary.area_over_densities`. With ``strongest`` or ``tree`` only.

    Raises
    ------
    BadConnectome
        A density cannot be reached, or densities are asked for where none is chosen.
    """
    if densities and keep not in _AT_DENSITY:
        raise BadConnectome(
            f"{keep} has one density of its own, and no area over several",
            remedy="Keep the strongest or the tree, or leave the densities out",
        )
    weights = _KEPT[keep](connectome.adjacency, density)
    whole = global_measures(weights, seed=seed)
    if n_nulls:
        whole |= null_measures(weights, n_nulls, seed=seed)
    if densities:
        areas = area_over_densities(connectome.adjacency, densities, keep=_KEPT[keep], seed=seed)
        whole |= {f"{name}_area": value for name, value in areas.items()}
    return Measured(
        connectome.subject,
        connectome.regions,
        whole,
        nodal_measures(weights, seed=seed) if nodal else {},
    )


def density_range(text: str) -> tuple[float, ...]:
    """Densities that ``LOW:HIGH:STEP`` stands for, both ends included.

    Raises
    ------
    BadConnectome
        It is not of that form, or names no range between 0 and 1.
    """
    try:
        low, high, step = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = step = math.nan
    if not (0 < low < high <= 1 and 0 < step <= high - low + 1e-9):
        raise BadConnectome(
            f"{text!r} is no range of densities", remedy="Write LOW:HIGH:STEP, as 0.05:0.3:0.05"
        )
    n = math.floor((high - low) / step + 1e-9)
    return tuple(round(low + i * step, 10) for i in range(n + 1))


def _backbone(weights: ArrayLike, _density: float) -> Array:
    return disparity_backbone(np.maximum(weights, 0.0))


def _trees(weights: ArrayLike, _density: float) -> Array:
    return orthogonal_trees(np.maximum(weights, 0.0))


def _all_edges(weights: ArrayLike, _density: float) -> Array:
    return without_diagonal(weights)


_KEPT: dict[Keep, Callable[[ArrayLike, float], Array]] = {
    "strongest": proportional,
    "tree": tree_and_strongest,
    "backbone": _backbone,
    "trees": _trees,
    "all": _all_edges,
}
_AT_DENSITY = ("strongest", "tree")


def write_global_table(path: Path, measured: Iterable[Measured]) -> None:
    """Write a CSV with a row for each subject."""
    write_rows(path, [{"subject": m.subject, **m.whole} for m in measured])


def write_nodal_table(path: Path, measured: Iterable[Measured]) -> None:
    """Write a CSV with a row for each region of each subject."""
    rows = [
        {"subject": m.subject, "region": region, **{k: v[i] for k, v in m.nodal.items()}}
        for m in measured
        for i, region in enumerate(m.regions)
    ]
    write_rows(path, rows)
