"""Maps of the cortex and their places, from tables; every pair of maps tested by spins."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.errors import CohortError, blaming
from .matrices import Array
from .spin import Correlation, Match, spin_orders, spin_test
from .statistics import false_discovery_rate
from .tables import read_table

_PLACE = ("x", "y", "z", "hemisphere")


def compare_maps(
    maps: Path,
    sphere: Path,
    *,
    n: int = 1000,
    match: Match = "once",
    correlation: Correlation = "pearson",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Correlate every pair of maps, with the p of spins.

    Parameters
    ----------
    maps
        Table with a row a place, its name in the first column, and a column a map; an empty cell
        is a place without a value.
    sphere
        Table with the same names in its first column, and ``x``, ``y``, ``z`` on the sphere and
        ``hemisphere`` (L or R).
    n, match, seed
        As :func:`.spin.spin_orders`.
    correlation
        As :func:`.spin.spin_test`.

    Returns
    -------
    list of dict
        ``one``, ``other``, ``places`` that both have, ``correlation``, ``p``, and ``p_fdr``, the
        false discovery rate over all pairs.

    Raises
    ------
    MissingFile, UnreadableFile, CohortError, BadConnectome
        Files, columns or names that do not fit; coordinates that lie on no sphere.
    """
    names, columns = _read_maps(maps)
    places, sides = _read_places(sphere, names)
    with blaming(sphere):
        orders = spin_orders(places, sides, n, match=match, seed=seed)
    rows: list[dict[str, Any]] = []
    for one, other in combinations(columns, 2):
        with blaming(maps):
            found = spin_test(columns[one], columns[other], orders, correlation=correlation)
        both = int(np.isfinite(columns[one] + columns[other]).sum())
        row = {"one": one, "other": other, "places": both, "correlation": found.correlation}
        rows.append({**row, "p": found.p})
    rates = false_discovery_rate([row["p"] for row in rows])
    return [{**row, "p_fdr": float(rate)} for row, rate in zip(rows, rates, strict=True)]


def _read_maps(path: Path) -> tuple[list[str], dict[str, Array]]:
    table = read_table(path)
    names = _names(table, path)
    text = [c for c in table.columns[1:] if not np.issubdtype(table[c].to_numpy().dtype, np.number)]
    if text or len(table.columns) < 3:
        raise CohortError(
            f"columns that are not numbers: {', '.join(map(str, text[:5]))}"
            if text
            else "two maps or more are needed, a column each",
            where=path,
        )
    return names, {str(c): table[c].to_numpy(np.float64) for c in table.columns[1:]}


def _read_places(path: Path, names: list[str]) -> tuple[Array, list[str]]:
    table = read_table(path)
    missing = [name for name in _PLACE if name not in table.columns]
    if missing:
        raise CohortError(f"there is no column {', '.join(missing)}", where=path)
    table = table.set_axis(_names(table, path), axis=0)
    lost = [name for name in names if name not in table.index]
    if lost:
        raise CohortError(f"no place for {', '.join(lost[:5])}", where=path)
    own = table.loc[names]
    return own[["x", "y", "z"]].to_numpy(np.float64), [str(side) for side in own["hemisphere"]]


def _names(table: Any, path: Path) -> list[str]:
    names = [str(name) for name in table.iloc[:, 0]]
    if len(set(names)) < len(names):
        raise CohortError(f"a place is there twice in column {table.columns[0]!r}", where=path)
    return names
