"""The page of ``benchmarks/diagnosis_simulated.py``: tables, bars, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tables import REPORTS, measured_on, table, verdict, write_report

PICTURE = REPORTS.parent / "pictures" / "diagnosis_simulated.png"
CEILING = "ceiling"
BAR = 0.8

ABOUT = """Written by `benchmarks/diagnosis_simulated.py`. Cohorts of 100 people and 24 regions by
`microtome.graphs.simulate`: in patients the six correlations among four regions are higher by the
effect, in the population; beside it people differ, and two scanners do, which see as many patients
as controls. Five folds by person, three inner ones; the mean AUC in held-out people of two
cohorts. **Ceiling**: the linear discriminant that 3,000 further people of the same simulator teach,
in the same 100. For normal edges with equal covariances it is the likelihood ratio; nothing that
learns from 100 people should do better."""

EXPLAINED = """At the strong setting (effect 0.3). *Precision*: share of planted edges among the k
most important ones, k as many as were planted. *Deletion* and *insertion*: by how much more than
random edges the most important ones change, or keep, the log-odds of held-out people (areas between
curves of correlations). *Ranks*: correlation of the importance of all edges between seeds, and
between folds. Means over the cohorts."""

LAYERS = """200 people with two layers: one with the effect 0.3, and one that knows the scanner
alone, where each edge is shifted by N(0, 0.2) at the first; a sixth of the people lack the one and
a sixth the other. *Even*: as many patients at both scanners; *with the diagnosis*: half of the
people, such that four fifths of the patients are at one scanner and of the controls at the other.
The layer is taken from held-out people, or is all that they are left."""


def write_page(content: Mapping[str, Any], *, write: bool) -> None:
    """Print the page; with ``write``, put it and its picture into the documentation."""
    lines = ["# Diagnosis where the truth is known", "", ABOUT, "", *_aucs(content["auc"]), ""]
    lines += ["![AUC against effect](../pictures/diagnosis_simulated.png)", ""]
    lines += ["## Are explanations right?", "", EXPLAINED, "", *_explained(content["auc"])]
    lines += ["", "## Is the layer used that carries the signal?", "", LAYERS, ""]
    lines += [*_layers(content["layers"]), "", measured_on("torch", "scikit-learn", "numpy")]
    print("\n".join(lines))
    if write:
        _draw(content["auc"], PICTURE)
        write_report("diagnosis_simulated.md", lines)


def _mean(found: Any) -> float:
    return float(np.mean([one["auc"] for one in found]))


def _aucs(found: Mapping[str, Any]) -> list[str]:
    effects = sorted(found[CEILING], key=float)
    rows = [[name, *(f"{_mean(found[name][e]):.3f}" for e in effects)] for name in found]
    return table(["effect", *effects], rows)


def _explained(found: Mapping[str, Any]) -> list[str]:
    parts = ("precision", "deletion_gap", "insertion_gap", "rank_correlation_seeds",
             "rank_correlation_folds")  # fmt: skip
    rows, bars = [], []
    strongest = max(found[CEILING], key=float)
    for name, by_effect in found.items():
        cohorts = [one["explanation"] for one in by_effect[strongest] if "explanation" in one]
        if not cohorts:
            continue
        figures = [float(np.mean([one[part] for one in cohorts])) for part in parts]
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])
        bars.append(verdict(f"{name}: precision", figures[0], BAR))
    header = ["model", "precision", "deletion", "insertion", "ranks, seeds", "ranks, folds"]
    return [*table(header, rows), "", *bars]


def _layers(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, layers in found.items():
        for layer in layers:
            figures = [_interval(layer[part]) for part in ("whole", "without", "alone")]
            share = "–" if layer["share"] is None else f"{layer['share']:.2f}"
            rows.append([name, layer["layer"], *figures, share])
    return table(["model", "layer", "AUC with all", "without it", "it alone", "share"], rows)


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _draw(found: Mapping[str, Any], path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained", dpi=110)
    axis = figure.subplots()
    for number, (name, by_effect) in enumerate(found.items()):
        effects = sorted(map(float, by_effect))
        values = [_mean(by_effect[str(effect)]) for effect in effects]
        look: dict[str, Any] = {"color": colormaps["tab20"](number), "lw": 1.1, "marker": "."}
        if name == CEILING:
            look = {"color": "black", "lw": 2, "ls": "--"}
        axis.plot(effects, values, label=name, **look)
    axis.axhline(0.5, color="0.7", lw=0.8)
    axis.set(xlabel="planted effect (difference of correlation)", ylabel="AUC, held-out people")
    axis.legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Software": None})
