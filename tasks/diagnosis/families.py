"""The models a user can name, with the hyper-parameters that are tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...graphs.dgl_backend import has_dgl, import_dgl
from ...storage.errors import CohortError
from .graph_model import Backend, GraphModel
from .models import Family, LinearModel, SiteModel

NAMES = ("gcn", "gin", "no-graph", "linear", "site")
QUICK = ("linear", "site")
"""Models that are evaluated in a second or so."""

DENSITIES = (0.05, 0.2)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def families(
    names: Sequence[str],
    *,
    backend: Literal["auto", "dgl", "dense"] = "auto",
    has_sites: bool = True,
) -> tuple[Family, ...]:
    """Models by name, in the given order.

    ``gcn``, ``gin``: graph networks over the strongest 5 or 20 % of connections. ``no-graph``: the
    network of ``gcn`` without messages. ``linear``: penalised logistic regression on all edges.
    ``site``: the site alone.

    Parameters
    ----------
    backend
        How messages are passed; ``auto`` takes DGL where it imports. Results are the same.
    has_sites
        Whether sites are known, without which there is no ``site`` model.

    Raises
    ------
    CohortError
        No such model, or one that needs sites where there are none.
    MissingDependency
        DGL was asked for and does not import.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise CohortError(
            f"no model {unknown[0]!r}" if unknown else "no model is named",
            where="--models",
            remedy=f"Choose from {', '.join(NAMES)}",
        )
    if "site" in names and not has_sites:
        raise CohortError(
            "the site model needs sites", where="--models", remedy="Name the column with --site"
        )
    through = _backend(backend) if {"gcn", "gin"} & set(names) else "dense"
    return tuple(_family(name, through) for name in dict.fromkeys(names))


def _family(name: str, backend: Backend) -> Family:
    match name:
        case "gcn":
            return Family(name, tuple(GraphModel(d, backend=backend) for d in DENSITIES))
        case "gin":
            return Family(
                name, tuple(GraphModel(d, layer="gin", backend=backend) for d in DENSITIES)
            )
        case "no-graph":
            return Family(name, (GraphModel(0, backend="dense"),))
        case "linear":
            return Family(name, tuple(LinearModel(c) for c in PENALTIES))
        case _:
            return Family(name, (SiteModel(),))


def _backend(backend: Literal["auto", "dgl", "dense"]) -> Backend:
    if backend == "auto":
        return "dgl" if has_dgl() else "dense"
    if backend == "dgl":
        import_dgl()
    return backend
