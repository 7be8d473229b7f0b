"""The report of a diagnosis: figures beside their controls, and what the models rest on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .model import BrainSection, FigureRow, FigureTable, Picture, Report, Table
from .render import versions

CONTROLS = ("covariates", "site", "no-graph", "population-alone")
LIMITS = (
    "A model that does not clear its controls, the linear one among them, has shown nothing.",
    "What a model rests on is not what the disease does: read it with its faithfulness.",
    "Figures hold for people like these, scanned like these.",
    "For research; not for diagnosis.",
)


def diagnosis_report(content: Mapping[str, Any], folder: Path) -> Report:
    """A report of what ``results.json`` says, with the pictures that lie in ``folder``."""
    positive, negative = content["positive"], content["negative"]
    summary = (
        f"{positive['class']} ({positive['rows']}) against {negative['class']} "
        f"({negative['rows']}): {content['people']} people, {content['regions']} regions, "
        f"{', '.join(content['layers'])}; {content['split']}."
    )
    pictures = tuple(
        Picture(path, f"Important edges, {path.stem[6:]}", path.stem[6:], wide=True)
        for path in sorted(folder.glob("edges-*.png"))
    )
    return Report(
        title="Diagnosis from connectomes",
        summary=summary,
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        brain=BrainSection(
            "Every figure is of people whom the model had not seen.",
            figures=(_aucs(content),),
            pictures=pictures,
            tables=(*_explanations(content), *_layers(content)),
            title="Models and controls",
        ),
        parameters={
            "split": content["split"],
            "inner folds": str(content["n_inner"]),
            "harmonised": content["harmonise"] or "no",
            "seed": str(content["seed"]),
            "left out": str(len(content["excluded"])),
        },
        versions=versions(("microtome", "torch", "scikit-learn", "numpy")),
        limits=LIMITS,
    )


def _aucs(content: Mapping[str, Any]) -> FigureTable:
    rows = []
    for model in content["models"]:
        name, found, shuffled = model["model"], model["auc"], model["shuffled_auc"]
        note = f"p {model['p_value']:.3f}" if len(shuffled) >= 19 else ""
        control = name in CONTROLS
        rows.append(
            FigureRow(name, found["value"], found["low"], found["high"], found["n"], control, note)
        )
        if shuffled:
            mean, ends = sum(shuffled) / len(shuffled), (min(shuffled), max(shuffled))
            words = f"{name}, shuffled labels"
            rows.append(FigureRow(words, mean, *ends, control=True, note=f"{len(shuffled)} times"))
    return FigureTable(
        "Told apart",
        tuple(rows),
        caption="Intervals over people; of shuffled labels, from the least to the most.",
    )


def _explanations(content: Mapping[str, Any]) -> tuple[Table, ...]:
    rows = []
    for model in content["models"]:
        found = model["explanation"]
        if found is None:
            continue
        at = found["fractions"].index(0.1)
        figures = [
            *(found[name][at] for name in ("deletion", "random_deletion")),
            *(found[name][at] for name in ("insertion", "random_insertion")),
            *(found[f"rank_correlation_{over}"] for over in ("seeds", "folds")),
        ]
        rows.append((model["model"], *(f"{figure:.2f}" for figure in figures)))
    if not rows:
        return ()
    header = (
        "model", "without the top 10 %", "without 10 % at random", "top 10 % alone",
        "10 % at random alone", "same ranks, other seeds", "same ranks, other folds",
    )  # fmt: skip
    caption = (
        "Faithfulness: correlation of the model's log-odds in held-out people with what they were, "
        "when edges are held at their mean. Important edges should matter more than random ones. "
        "Stability: rank correlation of the importance of all edges."
    )
    return (Table("Can the explanations be relied upon?", header, tuple(rows), caption),)


def _layers(content: Mapping[str, Any]) -> tuple[Table, ...]:
    rows = [
        (
            f"{model['model']}: {layer['layer']}",
            *(_interval(layer[part]) for part in ("whole", "without", "alone")),
            "–" if layer["share"] is None else f"{layer['share']:.2f}",
        )
        for model in content["models"]
        for layer in model["layers"] or ()
    ]
    if not rows:
        return ()
    header = ("layer", "AUC with all", "without it", "it alone", "share")
    caption = "Held-out people who have more than one layer; the models stay the same."
    return (Table("Which layers are used?", header, tuple(rows), caption),)


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
