"""States of a cohort: from files of time series to networks that recur, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..storage.commit import file_identity, product_key
from ..storage.connectomes import KIND, SUFFIX, ConnectomeCohort, write_connectomes
from ..storage.errors import CohortError, blaming
from .build import SeriesRecipe, series_of, subject_of
from .build_cohort import by_content, cohort_path
from .dynamic import States, find_states, sliding_pearson
from .matrices import Array, without_diagonal
from .tables import write_rows

_VERSION = 1


@dataclass(frozen=True)
class StateRecipe:
    """How states are found.

    Attributes
    ----------
    series
        How series are read.
    window, step, taper
        See :func:`.dynamic.sliding_pearson`.
    n_states, seed
        See :func:`.dynamic.find_states`.
    """

    series: SeriesRecipe
    window: int
    step: int = 1
    taper: float = 3.0
    n_states: int = 4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Windows:
    """Networks of the windows of one subject: float64 [w, r, r]."""

    subject: str
    networks: Array
    regions: tuple[str, ...]
    centroids_mm: Array | None


def windows_of(path: Path, recipe: StateRecipe) -> Windows:
    """Networks of the windows of a file of series."""
    with blaming(path):
        found = series_of(path, recipe.series)
        networks = sliding_pearson(
            found.values, window=recipe.window, step=recipe.step, taper=recipe.taper
        )
    return Windows(subject_of(path), networks, found.regions, found.centroids_mm)


def keep_states(
    out: Path,
    inputs: Sequence[Path],
    windows: Sequence[Windows],
    recipe: StateRecipe,
    *,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Find the states of subjects, and write their networks and a table.

    Returns
    -------
    Path, Path
        ``NAME.connectomes.zarr`` with a network a state, and ``NAME.states.csv``.

    Raises
    ------
    CohortError
        Subjects have different regions.
    """
    first = windows[0]
    for other in windows:
        if other.regions != first.regions:
            raise CohortError(f"regions of {other.subject} and {first.subject} differ")
    states = find_states([one.networks for one in windows], recipe.n_states, seed=recipe.seed)
    path = cohort_path(out)
    cohort = ConnectomeCohort(
        np.stack([without_diagonal(network) for network in states.networks]),
        tuple(f"state-{k + 1}" for k in range(recipe.n_states)),
        first.regions,
        "pearson-state",
        "fMRI",
        first.centroids_mm,
    )
    key = product_key(
        kind=KIND,
        version=_VERSION,
        inputs=[file_identity(one) for one in inputs],
        options=by_content(asdict(recipe)),
    )
    about = {"method": "states", "inputs": [one.name for one in inputs]}
    write_connectomes(path, cohort, key=key, about=about, overwrite=overwrite)
    table = path.with_name(path.name.removesuffix(SUFFIX) + ".states.csv")
    write_rows(table, [_row(one.subject, states, i) for i, one in enumerate(windows)])
    return path, table


def _row(subject: str, states: States, i: int) -> dict[str, str | float]:
    moves = states.transitions[i]
    row: dict[str, str | float] = {"subject": subject, "windows": str(len(states.labels[i]))}
    row |= {f"fraction_{k + 1}": value for k, value in enumerate(states.fractions[i])}
    row |= {f"dwell_windows_{k + 1}": value for k, value in enumerate(states.dwell[i])}
    return row | {"changes": str(moves.sum() - np.trace(moves))}
