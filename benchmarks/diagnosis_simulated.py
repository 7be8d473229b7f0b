"""Diagnosis where the truth is known: AUC against the planted effect, and what explanations find.

    python benchmarks/diagnosis_simulated.py [--keep FOLDER] [--quick]

About ten minutes of one core. Each evaluation that is done is kept in ``--keep`` and not done
again. ``--quick`` takes quick models and writes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from diagnosis_simulated_page import write_page
from numpy.typing import NDArray
from tables import ROOT, kept

from microtome.graphs.functional import fisher_z
from microtome.graphs.simulate import SimulatedCohort, simulate_cohort
from microtome.graphs.simulate_layers import simulate_layers
from microtome.tasks.diagnosis.evaluate import OutOfFold, Plan, Trial, fold_models, run_trial
from microtome.tasks.diagnosis.examples import Examples
from microtome.tasks.diagnosis.explain import top_edges
from microtome.tasks.diagnosis.explanations import explain, layer_use, layers_as_json
from microtome.tasks.diagnosis.families import BLIND, NAMES, Known, families
from microtome.tasks.evaluation import auc, bootstrap

EFFECTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
STRONG = 0.3
COHORTS = 2
PEOPLE, REGIONS, TIMEPOINTS = 100, 24, 150
FURTHER = 3000
"""People whom the ceiling learns from."""

SITE_SHARE = 0.8
"""Of patients at the first scanner, where site and diagnosis go together."""

SITE_SHIFT = 0.2
"""Standard deviation of what the first scanner adds to an edge of the second layer."""

LAYERS = ("signal", "site alone")
SETTINGS = {
    "even": (False, False),
    "with the diagnosis": (True, False),
    "with the diagnosis, harmonised": (True, True),
}
"""Whether site and diagnosis go together, and whether sites are taken out."""

QUICK = ("linear", "svm", "tangent", "site")
TOLD = tuple(name for name in NAMES if name not in ("multiplex", "covariates"))
EXPLAINED = tuple(name for name in TOLD if name not in (*BLIND, "population", "population-alone"))


@dataclass(frozen=True, eq=False)
class World:
    """People to diagnose, those whom only the ceiling sees, and what was planted."""

    studied: Examples
    further: Examples
    planted: NDArray[np.bool_]


def networks(simulated: SimulatedCohort) -> Examples:
    """Fisher's z of the correlations of every person."""
    found = np.stack([np.corrcoef(series.T) for series in simulated.series])
    found[:, np.arange(REGIONS), np.arange(REGIONS)] = 0
    return Examples(
        fisher_z(found),
        simulated.labels,
        np.array(simulated.subjects, np.str_),
        np.array(simulated.sites, np.str_),
        np.array(simulated.ids, np.str_),
    )


@cache
def world(effect: float, cohort: int) -> World:
    """One draw of the simulator: all its people share scanners and planted regions."""
    simulated = simulate_cohort(
        PEOPLE + FURTHER, REGIONS, TIMEPOINTS, effect, seed=cohort, repeated=0
    )
    rows = networks(simulated)
    each = np.arange(len(rows))
    return World(rows.take(each[:PEOPLE]), rows.take(each[PEOPLE:]), simulated.planted)


def ceiling(effect: float, cohort: int) -> float:
    """AUC in the studied people of the linear discriminant of the further ones.

    With its 3,000 people and 276 edges it is as good as the best linear rule of the simulator;
    edges are close to normal with nearly equal covariances, where no other rule is better.
    """
    here = world(effect, cohort)
    x, y = here.further.edges, here.further.labels
    gap = x[y == 1].mean(0) - x[y == 0].mean(0)
    within = (np.cov(x[y == 1].T) + np.cov(x[y == 0].T)) / 2
    return auc(here.studied.labels, here.studied.edges @ np.linalg.solve(within, gap))


def evaluated(name: str, effect: float, cohort: int) -> dict[str, Any]:
    """AUC of a model under nested cross-validation, or of the ceiling; at the strong setting with
    what the model's explanation is worth.
    """
    if name == "ceiling":
        return {"auc": ceiling(effect, cohort)}
    here = world(effect, cohort)
    rows, plan = here.studied, Plan(families([name], backend="dense"), seed=cohort)
    end = run_trial(Trial(name), rows, plan)
    found = bootstrap(end.labels, end.scores, rows.groups, n=500)
    print(f"{name}, effect {effect}, cohort {cohort}: {found}", flush=True)
    figures = {"auc": found.value, "low": found.low, "high": found.high}
    if effect < STRONG or name not in EXPLAINED:
        return figures
    return {**figures, "explanation": explained(end, here, plan, cohort)}


def explained(end: OutOfFold, here: World, plan: Plan, seed: int) -> dict[str, Any]:
    """Precision of a model's explanation, its faithfulness and stability."""
    rows, (family,) = here.studied, plan.families
    model = next(m for m in family.candidates if m.describe() == end.chosen[0])
    folds = fold_models(end, rows, plan)
    found = explain(model, model.fit(rows, seed=seed), rows, folds, seed)
    assert found is not None
    k = int(here.planted.sum()) // 2
    hits = [bool(here.planted[e.i, e.j]) for e in top_edges(found.importance, k)]
    print(f"{family.name} explained: precision at {k} {np.mean(hits):.2f}", flush=True)
    return {"precision": float(np.mean(hits)), "k": k, **found.as_json()}


def layered(*, confounded: bool) -> Examples:
    """People with two layers, the second of which knows the scanner alone; some lack one."""
    signal, other = (
        networks(one) for one in simulate_layers((STRONG, 0.0), 200, REGIONS, TIMEPOINTS)
    )
    at_first = np.asarray(signal.sites == "site-1")
    shift = np.random.default_rng(0).normal(0, SITE_SHIFT, other.edges.shape[1])
    other = other.with_edges(other.edges + at_first[:, None] * shift)
    adjacency = np.stack([signal.adjacency, other.adjacency], axis=1)
    adjacency[0::6, 0] = np.nan
    adjacency[3::6, 1] = np.nan
    rows = replace(signal, adjacency=adjacency)
    if not confounded:
        return rows
    wanted = at_first == (rows.labels == 1)
    kept_people = np.random.default_rng(0).random(len(rows)) < np.where(
        wanted, SITE_SHARE, 1 - SITE_SHARE
    )
    return rows.take(np.flatnonzero(kept_people))


def used(name: str, *, confounded: bool, harmonise: bool) -> list[dict[str, Any]]:
    """What each layer does for a model in held-out people."""
    rows = layered(confounded=confounded)
    chosen = families(
        [name], known=Known(n_layers=2), harmonise="refuse" if harmonise else None, backend="dense"
    )
    plan = Plan(chosen, n_folds=4)
    end = run_trial(Trial(name), rows, plan)
    print(f"{name}, layers, confounded {confounded}: {end.auc:.3f}", flush=True)
    return layers_as_json(layer_use(end, rows, fold_models(end, rows, plan), LAYERS, 0))


def measure(keep: Path, names: Sequence[str]) -> dict[str, Any]:
    """All figures; what an earlier run kept is not done again."""
    keep.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"auc": {}, "layers": {}}
    for words, (confounded, harmonise) in SETTINGS.items():
        for name in ("multiplex", "linear"):
            content["layers"][f"{name}; sites {words}"] = kept(
                keep / f"layers-{name}-{confounded}-{harmonise}.json",
                partial(used, name, confounded=confounded, harmonise=harmonise),
            )
    for effect in reversed(EFFECTS):
        for name in ("ceiling", *names):
            content["auc"].setdefault(name, {})[str(effect)] = [
                kept(
                    keep / f"{name}-{effect}-{cohort}.json",
                    partial(evaluated, name, effect, cohort),
                )
                for cohort in range(COHORTS)
            ]
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, default=ROOT / ".benchmarks" / "diagnosis_simulated")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    content = measure(asked.keep, QUICK if asked.quick else TOLD)
    write_page(content, write=not asked.quick)


if __name__ == "__main__":
    main()
