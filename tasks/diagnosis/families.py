"""The models a user can name, with the hyper-parameters that are tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from ...graphs.dgl_backend import has_dgl, import_dgl
from ...storage.errors import CohortError
from .graph_model import Architecture, Backend, GraphModel
from .models import CovariateModel, Family, LinearKind, LinearModel, Model, SiteModel

DENSITIES = (0.05, 0.2)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
SPARSE_PENALTIES = (0.02, 0.05, 0.2)

_MESSAGES: Mapping[str, Architecture] = {
    "gcn": "gcn-root",
    "gin": "gin",
    "sage": "sage",
    "gat": "gat",
    "cheb": "cheb",
}
_LINEAR: Mapping[str, tuple[LinearKind, Sequence[float]]] = {
    "linear": ("ridge", PENALTIES),
    "svm": ("svm", PENALTIES),
    "elastic-net": ("elastic-net", SPARSE_PENALTIES),
}
_SINGLE: Mapping[str, Model] = {
    "no-graph": GraphModel(0, backend="dense"),
    "brainnetcnn": GraphModel(0, layer="brainnetcnn", backend="dense"),
    "transformer": GraphModel(
        0, layer="transformer", epochs=60, learning_rate=0.005, weight_decay=0.1, backend="dense"
    ),
    "covariates": CovariateModel(),
    "site": SiteModel(),
}
_NEEDS = {"site": "--site", "covariates": "--covariates"}

NAMES = (*_MESSAGES, *_LINEAR, *_SINGLE)
QUICK = ("linear", "svm", "covariates", "site")
"""Models that are evaluated in a second or so."""


def families(
    names: Sequence[str],
    *,
    backend: Literal["auto", "dgl", "dense"] = "auto",
    known: Collection[str] = ("site", "covariates"),
) -> tuple[Family, ...]:
    """Models by name, in the given order.

    ``gcn``, ``gin``, ``sage``, ``gat``, ``cheb``: graph networks over the strongest 5 or 20 % of
    connections. ``no-graph``: the network of ``gcn`` without messages. ``brainnetcnn``,
    ``transformer``: networks on the whole matrix. ``linear``, ``svm``, ``elastic-net``: linear
    machines on all edges. ``covariates``, ``site``: controls that see no connectome.

    Parameters
    ----------
    backend
        How messages are passed; ``auto`` takes DGL where it imports. Results are the same.
    known
        Which of ``site`` and ``covariates`` are known; the models of these names need them.

    Raises
    ------
    CohortError
        No such model, or one that needs what is not known.
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
    for name, option in _NEEDS.items():
        if name in names and name not in known:
            raise CohortError(
                f"the model {name!r} needs what it is named after",
                where="--models",
                remedy=f"Name the column with {option}",
            )
    through = _backend(backend) if set(_MESSAGES) & set(names) else "dense"
    return tuple(Family(name, _candidates(name, through)) for name in dict.fromkeys(names))


def _candidates(name: str, backend: Backend) -> tuple[Model, ...]:
    if name in _MESSAGES:
        layer = _MESSAGES[name]
        return tuple(GraphModel(d, layer=layer, backend=backend) for d in DENSITIES)
    if name in _LINEAR:
        kind, penalties = _LINEAR[name]
        return tuple(LinearModel(c, kind) for c in penalties)
    return (_SINGLE[name],)


def _backend(backend: Literal["auto", "dgl", "dense"]) -> Backend:
    if backend == "auto":
        return "dgl" if has_dgl() else "dense"
    if backend == "dgl":
        import_dgl()
    return backend
