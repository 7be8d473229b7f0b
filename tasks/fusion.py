"""Late fusion: what models of slides and of scans say of one patient, as one probability."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..storage.errors import CohortError, LabelError, LeakError
from .evaluation import some

Values = NDArray[np.float64]

LEAST = 5
"""Patients of each class that a stack is fitted on; of fewer, log odds are averaged."""
_EDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Modality:
    """Out-of-fold probabilities of one kind of data, one a patient.

    Attributes
    ----------
    name
        As it is called in results.
    classes
        The two classes; probabilities are of the second.
    patients
        n names, none twice.
    labels
        int64 [n]: 0 or 1.
    probabilities
        float64 [n].
    fold
        int64 [n]: the fold in which the patient was held out.
    """

    name: str
    classes: tuple[str, str]
    patients: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: Values
    fold: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Patients:
    """What m modalities say of n patients.

    Attributes
    ----------
    modalities
        m names.
    names
        n patients, sorted.
    log_odds
        float64 [n, m]; nan where a patient lacks the modality.
    """

    modalities: tuple[str, ...]
    classes: tuple[str, str]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    log_odds: Values
    fold: NDArray[np.int64]

    def having(self, modalities: Sequence[int]) -> NDArray[np.bool_]:
        """Who has all of some modalities: bool [n]."""
        return np.asarray(np.isfinite(self.log_odds[:, list(modalities)]).all(axis=1))

    def sets(self) -> list[tuple[int, ...]]:
        """The sets of modalities that patients have, the largest first."""
        there = {tuple(np.flatnonzero(row).tolist()) for row in np.isfinite(self.log_odds)}
        return sorted(there, key=lambda found: (-len(found), found))


@dataclass(frozen=True)
class Stack:
    """Log odds of a patient from those of k modalities: an intercept and a weight for each.

    Attributes
    ----------
    fitted_on
        Patients; 0 where log odds are only averaged.
    """

    intercept: float
    weights: tuple[float, ...]
    fitted_on: int = 0

    def __call__(self, log_odds: Values) -> Values:
        """Probabilities [n] from log odds [n, k]."""
        return sigmoid(self.intercept + log_odds @ np.array(self.weights))


@dataclass(frozen=True, eq=False)
class Fused:
    """Fused probabilities of n patients, each from stacks of the other folds.

    Attributes
    ----------
    probabilities
        float64 [n].
    averaged
        bool [n]: too few others have these modalities, so that log odds were averaged.
    """

    probabilities: Values
    averaged: NDArray[np.bool_]


def one_a_patient(
    name: str,
    classes: tuple[str, str],
    patients: Sequence[str],
    *,
    labels: NDArray[np.int64],
    probabilities: Values,
    fold: NDArray[np.int64],
) -> Modality:
    """Bring rows [r] of slides or sessions to one a patient: the mean of their log odds.

    Raises
    ------
    LeakError
        A patient is in two folds.
    LabelError
        A patient has two labels.
    """
    names, first, member = np.unique(
        np.array(patients, np.str_), return_index=True, return_inverse=True
    )
    torn = names[np.unique(member[fold != fold[first][member]])].tolist()
    if torn:
        raise LeakError(
            f"{len(torn)} patients are in two folds of {name}: {some(torn)}",
            remedy="Split by patient",
        )
    two = names[np.unique(member[labels != labels[first][member]])].tolist()
    if two:
        raise LabelError(
            f"{len(two)} patients have two labels in {name}: {some(two)}",
            remedy="Fusion is of patients: give all slides or sessions of one the same label",
        )
    total = np.bincount(member, log_odds_of(probabilities)) / np.bincount(member)
    return Modality(
        name, classes, tuple(names.tolist()), labels[first], sigmoid(total), fold[first]
    )


def join(modalities: Sequence[Modality]) -> Patients:
    """Put modalities side by side, patient by patient; folds take the first's numbers.

    Raises
    ------
    CohortError
        Fewer than two, two of one name, other classes, or folds that no patient links.
    LabelError
        A patient's label is not the same in all.
    LeakError
        Folds differ: a patient would be tested with what was fitted on that patient.
    """
    if len({one.name for one in modalities}) < max(2, len(modalities)):
        raise CohortError("fusion needs two modalities or more, each with a name of its own")
    first = modalities[0]
    label: dict[str, int] = {}
    fold: dict[str, int] = {}
    for one in modalities:
        if one.classes != first.classes:
            raise CohortError(
                f"{one.name} tells {' from '.join(one.classes)}, {first.name} "
                f"{' from '.join(first.classes)}",
                remedy="Train both on one pair of classes, the same one --positive",
            )
        renamed = _matched(one, fold, first.name) if fold else one.fold
        for patient, y, k in zip(one.patients, one.labels.tolist(), renamed.tolist(), strict=True):
            if label.setdefault(patient, y) != y:
                raise LabelError(
                    f"{patient} is {one.classes[y]} in {one.name} and not elsewhere",
                    remedy="Take labels from one table",
                )
            fold.setdefault(patient, k)
    names = tuple(sorted(label))
    log_odds = np.full((len(names), len(modalities)), np.nan)
    row = {patient: i for i, patient in enumerate(names)}
    for column, one in enumerate(modalities):
        log_odds[[row[p] for p in one.patients], column] = log_odds_of(one.probabilities)
    return Patients(
        tuple(one.name for one in modalities),
        first.classes,
        names,
        np.array([label[patient] for patient in names], np.int64),
        log_odds,
        np.array([fold[patient] for patient in names], np.int64),
    )


def _matched(one: Modality, known: Mapping[str, int], elsewhere: str) -> NDArray[np.int64]:
    """Folds [n] of a modality under the numbers that its patients have elsewhere."""
    folds = one.fold.tolist()
    shared = [(p, k) for p, k in zip(one.patients, folds, strict=True) if p in known]
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for patient, k in shared:
        votes[k][known[patient]] += 1
    number = {k: of.most_common(1)[0][0] for k, of in votes.items()}
    torn = [patient for patient, k in shared if known[patient] != number[k]]
    if torn or len(set(number.values())) < len(number):
        raise LeakError(
            f"the folds of {one.name} are not those of {elsewhere}"
            + (f": {some(torn)}" if torn else ""),
            remedy="Give both one split: the column fold of the first's predictions.csv, in the "
            "second's table, with --split-by",
        )
    alone = sorted(set(folds) - set(number))
    if alone:
        raise CohortError(
            f"folds {some(alone)} of {one.name} have no patient in common with {elsewhere}",
            remedy="Use fewer folds, so that each holds patients with both",
        )
    return np.array([number[k] for k in folds], np.int64)


def fit_stack(log_odds: Values, labels: NDArray[np.int64]) -> Stack:
    r"""Logistic regression of labels [n] on log odds [n, k], weights not negative.

    Log odds are standardised; :math:`\tfrac12 \lVert w \rVert^2` is added to the negative log
    likelihood. A modality that says nothing gets a weight near 0, and never one against what it
    says.

    References
    ----------
    Wolpert (1992), Stacked generalization, Neural Networks 5. Breiman (1996), Stacked regressions,
    Machine Learning 24: weights that are not negative.
    """
    from scipy.optimize import minimize

    mean, deviation = log_odds.mean(axis=0), log_odds.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    x = np.column_stack([np.ones(len(labels)), (log_odds - mean) / deviation])

    def loss(parameters: Values) -> tuple[float, Values]:
        z, w = x @ parameters, np.append(0, parameters[1:])
        value = np.logaddexp(0, z).sum() - z[labels == 1].sum() + (w**2).sum() / 2
        return float(value), x.T @ (sigmoid(z) - labels) + w

    k = log_odds.shape[1]
    bounds = [(None, None), *[(0, None)] * k]
    found = minimize(loss, np.zeros(1 + k), jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = found[1:] / deviation
    return Stack(float(found[0] - weights @ mean), tuple(weights.tolist()), len(labels))


def fit_stacks(patients: Patients, rows: NDArray[np.bool_]) -> dict[tuple[int, ...], Stack]:
    """A stack for each set of modalities that a patient has, from some patients [n] with all of it.

    A single modality has one too, so that its probabilities speak as the others do. Sets without
    :data:`LEAST` patients of each class get the mean of the log odds.
    """
    stacks = {}
    for chosen in patients.sets():
        whole = rows & patients.having(chosen)
        labels = patients.labels[whole]
        enough = np.bincount(labels, minlength=2).min() >= LEAST
        even = (1 / len(chosen),) * len(chosen)
        given = patients.log_odds[whole][:, list(chosen)]
        stacks[chosen] = fit_stack(given, labels) if enough else Stack(0.0, even)
    return stacks


def fuse(patients: Patients) -> Fused:
    """Fuse every patient by stacks that were fitted on the other folds' patients."""
    n = len(patients.names)
    probabilities, averaged = np.empty(n), np.zeros(n, bool)
    for number in np.unique(patients.fold):
        here = patients.fold == number
        stacks = fit_stacks(patients, ~here)
        for chosen, stack in stacks.items():
            mine = here & (np.isfinite(patients.log_odds) == _mask(chosen, patients)).all(axis=1)
            probabilities[mine] = stack(patients.log_odds[mine][:, list(chosen)])
            averaged[mine] = not stack.fitted_on
    return Fused(probabilities, averaged)


def _mask(chosen: Sequence[int], patients: Patients) -> NDArray[np.bool_]:
    return np.isin(np.arange(len(patients.modalities)), chosen)


def log_odds_of(probabilities: Values) -> Values:
    """Log odds, of probabilities no nearer to 0 and 1 than a millionth."""
    inside = np.clip(probabilities, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside), np.float64)


def sigmoid(z: Values) -> Values:
    """Probabilities of log odds."""
    from scipy.special import expit

    return np.asarray(expit(z), np.float64)
