"""What a diagnosis keeps of each family: its model for use on others, and what that rests on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graphs.plots import plot_connectome
from ...storage.connectomes import Connectome
from ...storage.files import write_text
from .evaluate import OutOfFold, choose, fold_models
from .explain import Array, node_importance, top_edges
from .explanations import explain, layer_use, layers_as_json
from .store import write_model
from .threads import one_thread

if TYPE_CHECKING:
    from .study import Study

N_EDGES = 50


def keep_family(
    folder: Path, study: Study, end: OutOfFold, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a family's model, fitted on all rows, and the connections that it rests on.

    Parameters
    ----------
    end
        The family's trial on the true labels.
    card
        Of the model.

    Returns
    -------
    dict
        ``explanation`` and ``layers`` for ``results.json``; None where there is nothing to say.
    """
    examples, plan, name = study.examples, study.plan, end.trial.family
    family = next(f for f in plan.families if f.name == name)
    said: dict[str, Any] = {"explanation": None, "layers": None}
    with one_thread():
        model = choose(family, examples, plan.n_inner, plan.seed)
        fitted = model.fit(examples, seed=plan.seed)
        folds = fold_models(end, examples, plan)
        found = explain(model, fitted, examples, folds, plan.seed)
        if found is not None and len(study.layers) > 1:
            used = layer_use(end, examples, folds, list(study.layers), plan.seed)
            said["layers"] = layers_as_json(used)
    write_model(folder / "models" / name, fitted, card)
    if found is not None:
        said["explanation"] = found.as_json()
        for layer, matrix in _by_layer(found.importance, study):
            _keep_importance(folder, study, f"{name}-{layer}" if layer else name, matrix)
    return said


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as a table."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _by_layer(importance: Array, study: Study) -> Iterator[tuple[str, Array]]:
    if importance.ndim == 2:
        yield "", importance
    else:
        yield from zip(study.layers, importance, strict=True)


def _keep_importance(folder: Path, study: Study, name: str, importance: Array) -> None:
    edges, regions = top_edges(importance, N_EDGES), study.cohort.regions
    rows = [{"a": regions[e.i], "b": regions[e.j], "importance": e.importance} for e in edges]
    write_text(folder / f"edges-{name}.csv", as_csv(rows))
    nodes = node_importance(importance)
    write_text(
        folder / f"regions-{name}.csv",
        as_csv(
            [
                {"region": regions[i], "importance": float(nodes[i])}
                for i in np.argsort(-nodes, kind="stable")
            ]
        ),
    )
    plot_connectome(
        Connectome(
            importance,
            regions,
            "importance",
            study.cohort.modality,
            "",
            study.cohort.centroids_mm,
            False,
        ),
        folder / f"edges-{name}.png",
        max_edges=N_EDGES,
        title=f"{name}: what the model rests on",
    )
