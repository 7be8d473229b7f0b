"""Diagnosis on real tables: every model beside the plain linear one, covariates, site and chance.

Run: ``python benchmarks/diagnosis.py ABIDE_FOLDER`` (about 40 minutes of one core; writes
docs/benchmarks/diagnosis.md). ABIDE_FOLDER holds FreeSurfer's tables of ABIDE I and the phenotypes;
by default the shared data beside the repository. Each evaluation that is done is kept in ``--keep``
and not done again. ``--quick`` takes the quick models and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import ROOT, measured_on, table, write_report

from microtome.graphs.build_cohort import BuildOptions, build_network, plan_build
from microtome.storage.connectomes import ConnectomeCohort
from microtome.tasks.diagnosis.evaluate import Plan, Trial, folds_by, run_trial
from microtome.tasks.diagnosis.examples import Examples, examples_of
from microtome.tasks.diagnosis.families import NAMES, Known, families
from microtome.tasks.diagnosis.phenotypes import Columns, read_phenotypes
from microtome.tasks.evaluation import Fold, auc, bootstrap, grouped_folds

ABIDE = ROOT.parent / "shared" / "data" / "brain" / "abide_smri"
FOLDS, SITES = "5 folds", "each site held out"
BY_SITE = ("linear", "svm", "gcn", "sage", "brainnetcnn", "covariates", "site")
HARMONISED = "linear, harmonised"
OF_FOLDS = (*(name for name in NAMES if name != "multiplex"), HARMONISED)
QUICK = ("linear", "svm", "covariates", "site")
SHUFFLES = {"linear": 10, "svm": 10, "gcn": 1, "sage": 1, "brainnetcnn": 1}
TABLE = "the tables themselves, linear"
LEAK = 0.75

ABOUT = (
    "Written by `benchmarks/diagnosis.py`. Autism against controls in ABIDE I, from FreeSurfer's "
    "tables: 789 people of 18 sites (Di Martino et al. 2014; CC BY-NC-SA 3.0, not part of "
    "Microtome). Networks are morphometric similarity (MSN) of 68 regions. Nested "
    "cross-validation: what is chosen, is chosen within training folds; the folds are the same for "
    "all. AUC of held-out people with intervals of 95 % (bootstrap over people). *Shuffled* is the "
    "same with labels exchanged within sites: chance. *The tables themselves* are thickness, "
    "volume and subcortical volume by L2-penalised logistic regression (C = 0.001, fixed "
    "beforehand, not tuned). *Harmonised*: ComBat, fitted in each training fold, age and sex kept."
)


def read(folder: Path) -> tuple[Examples, NDArray[np.float64]]:
    """Networks, and the numbers of the tables in the same order."""
    plan = plan_build([folder], BuildOptions(method="msn"))
    cohort = ConnectomeCohort.of([build_network(source, plan, {}) for source in plan.sources])
    columns = Columns(
        "DX_GROUP", subject="FILE_ID", site="SITE_ID", covariates=("AGE_AT_SCAN", "SEX")
    )
    phenotypes = read_phenotypes(folder / "phenotypic.csv", cohort.subjects, columns, positive="1")
    names = ("lh.aparc_table_thickness", "rh.aparc_table_thickness", "lh.aparc_table_volume",
             "rh.aparc_table_volume", "aseg_table")  # fmt: skip
    frames = [pd.read_csv(folder / f"{name}.tsv", sep="\t", index_col=0) for name in names]
    whole = pd.concat(frames, axis=1).loc[list(phenotypes.subjects)]
    return examples_of(cohort, phenotypes), whole.to_numpy(np.float64)


def scores_of_table(
    features: NDArray[np.float64], examples: Examples, folds: Sequence[Fold]
) -> NDArray[np.float64]:
    """Held-out probabilities of the plain linear model."""
    scores = np.full(len(examples), np.nan)
    for fold in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000))
        model.fit(features[fold.train], examples.labels[fold.train])
        scores[fold.test] = model.predict_proba(features[fold.test])[:, 1]
    return scores


def kept(
    trial: Trial, split: str, examples: Examples, folds: Sequence[Fold], keep: Path
) -> dict[str, Any]:
    """What became of an evaluation: done now, or before."""
    path = keep / f"{trial.family}-{trial.shuffle}-{split.replace(' ', '-')}.json"
    if not path.is_file():
        (family,) = families(
            [trial.family.removesuffix(", harmonised")],
            backend="dense",
            known=Known(measure="msn"),
            harmonise="refuse" if trial.family == HARMONISED else None,
        )
        plan = Plan((replace(family, name=trial.family),))
        end = run_trial(trial, examples, plan, folds=folds)
        found = {"labels": end.labels.tolist(), "scores": end.scores.tolist(), "auc": end.auc}
        path.write_text(json.dumps(found), encoding="utf-8")
        print(trial, split, f"{end.auc:.3f}", flush=True)
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return done


def row_of(
    name: str, split: str, examples: Examples, folds: Sequence[Fold], keep: Path
) -> list[str]:
    """A model's line."""
    true = kept(Trial(name), split, examples, folds, keep)
    count = SHUFFLES.get(name, 0) if split == FOLDS else 0
    shuffled = [
        kept(Trial(name, n), split, examples, folds, keep)["auc"] for n in range(1, count + 1)
    ]
    chance = f"{np.mean(shuffled):.3f} ({count})" if shuffled else "–"
    return [name, split, _figure(np.array(true["scores"]), examples), chance]


def _figure(scores: NDArray[np.float64], examples: Examples) -> str:
    found = bootstrap(examples.labels, scores, examples.groups, seed=0)
    if found.value > LEAK:
        raise SystemExit(f"AUC {found.value:.3f}: above {LEAK} these tables mean a leak")
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ABIDE)
    parser.add_argument("--keep", type=Path, default=ROOT / ".benchmarks" / "diagnosis")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    examples, features = read(asked.folder)
    assert examples.sites is not None
    splits = {
        FOLDS: grouped_folds(examples.labels, examples.groups, 5, seed=0),
        SITES: folds_by(examples.sites.tolist(), examples.groups),
    }
    rows = []
    for split, folds in splits.items():
        scores = scores_of_table(features, examples, folds)
        assert auc(examples.labels, scores) > 0
        rows.append([TABLE, split, _figure(scores, examples), "–"])
        names = QUICK if asked.quick else OF_FOLDS if split == FOLDS else BY_SITE
        rows += [row_of(name, split, examples, folds, asked.keep) for name in names]
    lines = ["# Diagnosis on real tables", "", ABOUT, ""]
    lines += table(["model", "split", "AUC", "shuffled (how many)"], rows)
    lines += ["", measured_on("torch", "scikit-learn", "numpy")]
    print("\n".join(lines))
    if not asked.quick:
        write_report("diagnosis.md", lines)


if __name__ == "__main__":
    main()
