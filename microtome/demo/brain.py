"""The brain half: simulated series, connectomes, measures, diagnosis beside its controls."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..graphs.functional import functional_connectome
from ..graphs.plots import plot_connectome
from ..graphs.simulate import SimulatedCohort, simulate_cohort
from ..graphs.summary import global_measures
from ..graphs.threshold import proportional
from ..report import BrainSection, FigureRow, FigureTable, Picture
from ..storage.commit import is_done, new_product, product_key, require_commit
from ..storage.connectomes import Connectome, ConnectomeCohort, write_connectomes
from ..storage.files import writable, write_bytes, write_text
from .steps import value_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..tasks.diagnosis.evaluate import Result
    from ..tasks.diagnosis.examples import Examples

KIND = "diagnosis-demo"
MODELS = ("gcn", "linear", "site")
_DENSITY = 0.15
_NAMES = {
    "gcn": "graph network (DGL)",
    "linear": "linear model on all edges",
    "site": "site alone",
}
_MEASURES = {
    "clustering_weighted": "clustering",
    "global_efficiency_weighted": "global efficiency",
    "modularity_weighted": "modularity",
}


@dataclass(frozen=True)
class BrainPlan:
    """Size of the simulated study."""

    n_subjects: int = 72
    n_regions: int = 48
    n_timepoints: int = 200
    effect: float = 0.25
    n_folds: int = 5
    graph_shuffles: int = 3
    linear_shuffles: int = 10
    seed: int = 0


def run_brain(
    out: Path,
    plan: BrainPlan,
    *,
    jobs: int = 1,
    on_step: Callable[[str], None],
    overwrite: bool = False,
) -> BrainSection:
    """Simulate, build, measure, diagnose; keep all of it below ``out``.

    Returns
    -------
    BrainSection
        For the report. What was done by an earlier run with the same plan is read, not repeated.
    """
    key = product_key(kind=KIND, **asdict(plan))
    study = out / "diagnosis"
    if not is_done(study, kind=KIND, key=key, overwrite=overwrite):
        on_step("simulating the cohort")
        simulated = simulate_cohort(
            plan.n_subjects, plan.n_regions, plan.n_timepoints, plan.effect, plan.seed
        )
        _keep_inputs(out, simulated)
        on_step("building connectomes")
        cohort = _connectomes(simulated)
        write_connectomes(
            out / "cohort.connectomes.zarr", cohort, key=key, about={}, overwrite=overwrite
        )
        with new_product(study, kind=KIND, key=key, about={}, overwrite=overwrite) as folder:
            on_step("measuring networks")
            measures = _compare_measures(cohort, simulated)
            results, important = _diagnose(cohort, simulated, plan, jobs, on_step)
            hit = _precision(important, simulated)
            write_text(folder / "results.json", _as_json(results, measures, hit))
            on_step("drawing the connectome")
            _draw(folder / "connectome.png", cohort, important)
    require_commit(study, KIND)
    return _section(json.loads((study / "results.json").read_text()), study, plan)


def _keep_inputs(out: Path, simulated: SimulatedCohort) -> None:
    """Series and table of people as files, for the commands that a user would try on them."""
    import numpy as np

    for series, name in zip(simulated.series, simulated.ids, strict=True):
        path, buffer = out / "series" / f"{name}.npy", io.BytesIO()
        np.save(buffer, series)
        with writable(path):
            write_bytes(path, buffer.getvalue())
    columns = (simulated.ids, simulated.subjects, simulated.labels.tolist(), simulated.sites)
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    write_text(out / "people.csv", "\n".join(["subject,person,patient,site", *rows, ""]))


def _connectomes(simulated: SimulatedCohort) -> ConnectomeCohort:
    return ConnectomeCohort.of(
        [
            functional_connectome(
                series,
                simulated.regions,
                subject=name,
                fisher=True,
                centroids_mm=simulated.centroids_mm,
            )
            for series, name in zip(simulated.series, simulated.ids, strict=True)
        ]
    )


def _compare_measures(cohort: ConnectomeCohort, simulated: SimulatedCohort) -> dict[str, Any]:
    """Means of each group, and Welch's t, of a few measures; the first session of each person."""
    import numpy as np
    from scipy.stats import ttest_ind

    _, first = np.unique(simulated.subjects, return_index=True)
    labels = simulated.labels[first]
    rows = [global_measures(proportional(a, _DENSITY)) for a in cohort.adjacency[first]]
    found = {}
    for measure, name in _MEASURES.items():
        patients, controls = (
            [row[measure] for row, label in zip(rows, labels, strict=True) if label == k]
            for k in (1, 0)
        )
        test = ttest_ind(patients, controls, equal_var=False)
        found[name] = {
            "patients": sum(patients) / len(patients),
            "controls": sum(controls) / len(controls),
            "p": float(test.pvalue),
        }
    return found


def _examples(cohort: ConnectomeCohort, simulated: SimulatedCohort) -> Examples:
    import numpy as np

    from ..graphs.matrices import without_diagonal
    from ..tasks.diagnosis.examples import Examples

    return Examples(
        without_diagonal(cohort.adjacency),
        simulated.labels,
        np.array(simulated.subjects, np.str_),
        np.array(simulated.sites, np.str_),
        np.array(simulated.ids, np.str_),
    )


def _diagnose(
    cohort: ConnectomeCohort,
    simulated: SimulatedCohort,
    plan: BrainPlan,
    jobs: int,
    on_step: Callable[[str], None],
) -> tuple[list[Result], NDArray[np.float64]]:
    from ..engine.schedule import Outcome, run_items
    from ..tasks.diagnosis.evaluate import OutOfFold, Plan, run_trial, summarise, trials
    from ..tasks.diagnosis.explain import edge_importance
    from ..tasks.diagnosis.families import families
    from ..tasks.diagnosis.models import LinearModel

    examples = _examples(cohort, simulated)
    shuffles = {"gcn": plan.graph_shuffles, "linear": plan.linear_shuffles}
    evaluation = Plan(families(MODELS), plan.n_folds, shuffles=shuffles, seed=plan.seed)

    def tell(outcome: Outcome[OutOfFold]) -> None:
        auc = "" if outcome.value is None else f", AUC {outcome.value.auc:.2f}"
        on_step(f"diagnosed: {outcome.item}{auc}")

    on_step("diagnosing under nested cross-validation")
    work = partial(run_trial, examples=examples, plan=evaluation)
    outcomes = run_items(trials(evaluation), work, jobs=jobs, on_done=tell)
    ends = [value_of(outcome) for outcome in outcomes]
    results = summarise(ends, examples, evaluation)
    importance = edge_importance(LinearModel(1e-2).fit(examples), examples)
    assert importance is not None
    return results, importance


def _precision(importance: NDArray[np.float64], simulated: SimulatedCohort) -> float:
    """Fraction of the k most important edges that were planted, k as many as were."""
    from ..tasks.diagnosis.explain import top_edges

    k = int(simulated.planted.sum()) // 2
    return sum(bool(simulated.planted[e.i, e.j]) for e in top_edges(importance, k)) / k


def _as_json(results: list[Result], measures: dict[str, Any], precision: float) -> str:
    models = [
        {
            "model": result.family,
            "auc": asdict(result.auc),
            "balanced_accuracy": asdict(result.balanced_accuracy),
            "shuffled_auc": list(result.shuffled_auc),
        }
        for result in results
    ]
    content = {"models": models, "measures": measures, "precision_at_k": precision}
    return json.dumps(content, indent=1)


def _draw(path: Path, cohort: ConnectomeCohort, importance: NDArray[np.float64]) -> None:
    found = Connectome(
        importance, cohort.regions, "importance", "fMRI", centroids_mm=cohort.centroids_mm
    )
    title = "What the diagnosis rests on: importance of each connection"
    plot_connectome(found, path, max_edges=40, title=title)


def _section(content: dict[str, Any], study: Path, plan: BrainPlan) -> BrainSection:
    rows = []
    for model in content["models"]:
        name, figure = _NAMES[model["model"]], model["auc"]
        rows.append(
            FigureRow(
                name,
                figure["value"],
                figure["low"],
                figure["high"],
                figure["n"],
                control=model["model"] == "site",
            )
        )
        shuffled = model["shuffled_auc"]
        if shuffled:
            rows.append(
                FigureRow(
                    f"{name}, labels shuffled {len(shuffled)}×",
                    sum(shuffled) / len(shuffled),
                    min(shuffled),
                    max(shuffled),
                    figure["n"],
                    control=True,
                    note="mean, lowest and highest",
                )
            )
    measures = {
        f"{name} (density {_DENSITY:.0%})": f"patients {m['patients']:.3f}, controls "
        f"{m['controls']:.3f}, p = {m['p']:.2g}"
        for name, m in content["measures"].items()
    }
    k = f"{content['precision_at_k']:.0%} of the connections it rests on were planted"
    return BrainSection(
        summary=f"{plan.n_subjects} simulated people at two sites, {plan.n_regions} regions; in "
        f"patients a planted subnetwork is more strongly coupled. Nested cross-validation by "
        f"person; {k}.",
        figures=(FigureTable("Diagnosis from connectomes", tuple(rows)),),
        pictures=(
            Picture(
                study / "connectome.png",
                "Brain regions from three sides, joined by the most important connections",
                "Importance of connections to the linear model.",
            ),
        ),
        facts=measures,
    )
