"""The models a user can name, with the hyper-parameters that are tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...graphs.dgl_backend import has_dgl, import_dgl
from ...graphs.harmonise import Unseen
from ...storage.errors import CohortError
from .graph_model import Architecture, Backend, GraphModel
from .models import CovariateModel, Family, LinearKind, LinearModel, Model, SiteModel
from .multiplex_model import MultiplexModel
from .population import PopulationModel
from .steps import Harmonise, Pipeline, Tangent

DENSITIES = (0.05, 0.2)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
SPARSE_PENALTIES = (0.02, 0.05, 0.2)
CORRELATIONS = ("pearson", "msn")
FISHER = "fisher-z-"

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
    "population": PopulationModel(),
    "population-alone": PopulationModel(joined=False),
    "covariates": CovariateModel(),
    "site": SiteModel(),
}
_NEEDS = {
    "site": ("site",),
    "covariates": ("covariates",),
    "population": ("site", "covariates"),
    "population-alone": ("site", "covariates"),
}
"""One of these has to be known."""

NAMES = (*_MESSAGES, *_LINEAR, "tangent", *_SINGLE, "multiplex")
QUICK = ("linear", "svm", "covariates", "site")
"""Models that are evaluated in a second or so."""
BLIND = ("covariates", "site")
"""Controls that see no connectome."""
LAYERED = ("multiplex", *_LINEAR, *BLIND)
"""Models for several connectomes a person."""


@dataclass(frozen=True)
class Known:
    """What models can be told of the examples.

    Attributes
    ----------
    columns
        Which of ``site`` and ``covariates``.
    measure
        What a weight is, as :class:`~microtome.storage.connectomes.Connectome` says.
    n_layers
        Connectomes of a person.
    """

    columns: Collection[str] = ("site", "covariates")
    measure: str = "fisher-z-pearson"
    n_layers: int = 1


def families(
    names: Sequence[str],
    *,
    backend: Literal["auto", "dgl", "dense"] = "auto",
    known: Known | None = None,
    harmonise: Unseen | None = None,
) -> tuple[Family, ...]:
    """Models by name, in the given order.

    ``gcn``, ``gin``, ``sage``, ``gat``, ``cheb``: graph networks over the strongest 5 or 20 % of
    connections. ``no-graph``: the network of ``gcn`` without messages. ``brainnetcnn``,
    ``transformer``: networks on the whole matrix. ``multiplex``: a graph network over several
    connectomes a person. ``population``: a graph of people; ``population-alone``: the same without
    edges. ``linear``, ``svm``, ``elastic-net``: linear machines on all edges. ``tangent``: logistic
    regression in tangent space. ``covariates``, ``site``: controls that see no connectome.

    Parameters
    ----------
    backend
        How messages are passed; ``auto`` takes DGL where it imports. Results are the same.
    known
        Of the examples; everything by default, in one layer of Fisher's z.
    harmonise
        Take the site out of connectomes first, with what becomes of unseen sites
        (:class:`~microtome.tasks.diagnosis.steps.Harmonise`).

    Raises
    ------
    CohortError
        No such model, or one that does not fit the examples.
    MissingDependency
        DGL was asked for and does not import.
    """
    known = known or Known()
    if not names:
        raise _refused("no model is named", f"Choose from {', '.join(NAMES)}")
    for name in names:
        _check(name, known)
    if harmonise is not None and "site" not in known.columns:
        raise CohortError(
            "harmonising needs sites", where="--harmonise", remedy="Name the column with --site"
        )
    through = _backend(backend) if set(_MESSAGES) & set(names) else "dense"
    return tuple(
        Family(name, tuple(_harmonised(model, name, harmonise) for model in models))
        for name in dict.fromkeys(names)
        for models in [_candidates(name, through, known.measure)]
    )


def _check(name: str, known: Known) -> None:
    if name not in NAMES:
        raise _refused(f"no model {name!r}", f"Choose from {', '.join(NAMES)}")
    needs = _NEEDS.get(name, ())
    if needs and not set(needs) & set(known.columns):
        options = " or ".join(f"--{need}" for need in needs)
        raise _refused(f"the model {name!r} needs {' or '.join(needs)}",
                       f"Name the column with {options}")  # fmt: skip
    if known.n_layers > 1 and name not in LAYERED:
        raise _refused(
            f"the model {name!r} reads one connectome a person",
            f"With --layer choose from {', '.join(LAYERED)}",
        )
    if known.n_layers == 1 and name == "multiplex":
        raise _refused("the model 'multiplex' reads several layers", "Name them with --layer")
    if name == "tangent" and known.measure.removeprefix(FISHER) not in CORRELATIONS:
        raise _refused(
            f"tangent space is for correlations, not for {known.measure!r}",
            f"Build connectomes with one of the methods {', '.join(CORRELATIONS)}",
        )


def _refused(what: str, remedy: str) -> CohortError:
    return CohortError(what, where="--models", remedy=remedy)


def _candidates(name: str, backend: Backend, measure: str) -> tuple[Model, ...]:
    if name in _MESSAGES:
        layer = _MESSAGES[name]
        return tuple(GraphModel(d, layer=layer, backend=backend) for d in DENSITIES)
    if name in _LINEAR:
        kind, penalties = _LINEAR[name]
        return tuple(LinearModel(c, kind) for c in penalties)
    if name == "tangent":
        step = Tangent(fisher=measure.startswith(FISHER))
        return tuple(Pipeline(step, LinearModel(c)) for c in PENALTIES)
    if name == "multiplex":
        return tuple(MultiplexModel(d) for d in DENSITIES)
    return (_SINGLE[name],)


def _harmonised(model: Model, name: str, unseen: Unseen | None) -> Model:
    if unseen is None or name in BLIND:
        return model
    return Pipeline(Harmonise(unseen), model)


def _backend(backend: Literal["auto", "dgl", "dense"]) -> Backend:
    if backend == "auto":
        return "dgl" if has_dgl() else "dense"
    if backend == "dgl":
        import_dgl()
    return backend
