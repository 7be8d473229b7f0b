"""A model beside its baseline and its controls, under the same folds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster_cohort import SiteTest
from ..evaluation import Estimate, Fold, permute_labels
from .choose import Nested
from .controls import bag_sizes, mean_colours, predict_from, site_columns, site_from_features
from .crossval import CrossValidation, cross_validate
from .figures import CHANCE, HEADLINE, headline, measured
from .kept_members import NOTHING_KEPT, KeptMembers
from .targets import Target, as_target
from .train import Features, Places, TrainOptions

_SHUFFLES, _SITE_LEVEL = 100, 0.05

CHOSEN = "chosen"
"""Name of a model that is another one in every fold."""

Figures = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Comparison:
    """What was found under one set of folds.

    Attributes
    ----------
    found
        Out-of-fold predictions of the model.
    figures
        By name of model or control, then of metric; intervals over patients. Controls have the
        headline only (:data:`~microtome.tasks.mil.figures.HEADLINE`).
    permutation_p
        How often the model's predictions fit labels exchanged between patients as well.
    notes
        Controls that could not be had, and why.
    """

    found: CrossValidation
    figures: Figures
    permutation_p: float
    notes: tuple[str, ...]


def compare(
    bags: Sequence[Features],
    labels: NDArray[np.int64] | Target,
    patients: NDArray[Any],
    folds: Sequence[Fold],
    options: TrainOptions | Nested,
    *,
    feature_names: Sequence[str] = (),
    sites: NDArray[Any] | None = None,
    places_um: Places | None = None,
    views: Sequence[Sequence[Features]] = (),
    kept: KeptMembers = NOTHING_KEPT,
    on_fold: Callable[[], None] = lambda: None,
) -> Comparison:
    """Cross-validate a model, mean pooling, and what needs no look at the tissue.

    The controls: a linear model (logistic regression of classes) on the size of the bag, one on
    its mean colour, and the model itself with labels exchanged between patients. Of the last, an
    AUC above one half is a leak's; one below is usual where patients are few and of few kinds, as
    the labels that a kind has in a test part are those that it lacks in training.

    Where a model is chosen within the folds, so it is of exchanged labels.

    Where ``sites`` [b] are named, one more: the label from the site alone, and whether the mean
    features tell the site. Where both can be, the model may have learnt the site; a note says so.

    Parameters are those of :func:`~microtome.tasks.mil.crossval.cross_validate` otherwise.
    """
    notes, target = [], as_target(labels)
    fold_of = np.empty(len(target), np.int64)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number

    def held_out(truth: Target, how: TrainOptions | Nested, name: str) -> CrossValidation:
        return cross_validate(
            bags,
            truth,
            patients,
            folds,
            how,
            places_um=places_um,
            views=views,
            kept=kept.at(name),
            on_fold=on_fold,
        )

    def figures(truth: Target, said: NDArray[Any], *, brief: bool = True) -> dict[str, Estimate]:
        return measured(truth, said, patients, fold_of, brief=brief)

    first = options.candidates[0] if isinstance(options, Nested) else options
    model = held_out(target, options, "model")
    table: Figures = {name_of(options): figures(target, model.probabilities, brief=False)}
    if name_of(options) != "mean":
        plain = held_out(target, replace(first, model="mean"), "mean")
        table["mean"] = figures(target, plain.probabilities, brief=False)
    table["bag_size"] = figures(target, predict_from(bag_sizes(bags), target, folds))
    colours = mean_colours(bags, feature_names)
    if colours is None:
        notes.append("no control by mean colour: no feature of this encoder states one")
    else:
        table["mean_colour"] = figures(target, predict_from(colours, target, folds))
    if sites is not None and len(np.unique(sites)) < 2:
        notes.append("no control by site: the cohort does not name two sites")
    elif sites is not None:
        table["site"] = figures(target, predict_from(site_columns(sites), target, folds))
        told = site_from_features(bags, sites, patients, seed=first.seed)
        notes += _site_notes(table["site"][HEADLINE[target.kind]], CHANCE[target.kind], told)
    inner = options.inner if isinstance(options, Nested) else ()
    every_fold = [*folds, *(part for parts in inner for part in parts)]
    shuffled = shuffled_target(target, patients, every_fold, seed=first.seed)
    if shuffled is None:
        notes.append("no control by shuffled labels: too few patients to exchange them")
    else:
        table["shuffled"] = figures(
            shuffled, held_out(shuffled, _for_shuffled(options), "shuffled").probabilities
        )
        if table["shuffled"][HEADLINE[target.kind]].low > CHANCE[target.kind]:
            notes.append("shuffled labels seem to be learnt: look for a leak between the folds")
    chance = chance_p(target, model.probabilities, patients, fold_of)
    return Comparison(model, table, chance, tuple(notes))


def _site_notes(alone: Estimate, chance: float, told: SiteTest | None) -> list[str]:
    """What the label has to do with the site, and the site with the features."""
    if told is None:
        return ["whether features tell the site is not known: a site has a single patient"]
    under = f"{told.slides} slides, {told.folds} folds by patient"
    notes = [f"features tell the site with AUC {told.auc:.2f}, p = {told.p:.2f} ({under})"]
    if alone.low > chance and told.p <= _SITE_LEVEL:
        notes.append(
            f"confounded: the site alone says the label ({alone}), and features tell the site. "
            "The figures may be the site's; those of sites that were not trained on are had with "
            "folds of sites (--split-by each-site)"
        )
    return notes


def name_of(options: TrainOptions | Nested) -> str:
    """What the figures of a model are named by: its name, or that it was chosen among several."""
    if not isinstance(options, Nested):
        return options.model
    return options.candidates[0].model if len(options.candidates) == 1 else CHOSEN


def _for_shuffled(options: TrainOptions | Nested) -> TrainOptions | Nested:
    """As the model is fitted, without inner folds in which there is nothing to choose."""
    if isinstance(options, Nested) and len(options.candidates) == 1:
        return options.candidates[0]
    return options


def n_predictors(options: TrainOptions | Nested, n_folds: int) -> int:
    """How many predictors :func:`compare` fits: of model, baseline, shuffled labels."""
    plain = 0 if name_of(options) == "mean" else n_folds
    return _n_fits(options, n_folds) + plain + _n_fits(_for_shuffled(options), n_folds)


def _n_fits(options: TrainOptions | Nested, n_folds: int) -> int:
    if not isinstance(options, Nested):
        return n_folds
    return n_folds + len(options.candidates) * sum(map(len, options.inner))


def shuffled_target(
    target: Target, patients: NDArray[Any], folds: Sequence[Fold], *, seed: int
) -> Target | None:
    """Truth exchanged between patients that can be learnt in every fold; None where none can."""
    rng = np.random.default_rng(seed)
    for _ in range(_SHUFFLES):
        shuffled = target.take(permute_labels(np.arange(len(target)), patients, rng))
        if not np.array_equal(shuffled.truth, target.truth, equal_nan=True) and all(
            shuffled.take(fold.train).scarcest(patients[fold.train]) >= 2 for fold in folds
        ):
            return shuffled
    return None


def chance_p(
    target: Target,
    said: NDArray[Any],
    patients: NDArray[Any],
    fold: NDArray[np.int64],
    *,
    n: int = 2000,
    seed: int = 0,
) -> float:
    """How often what was said fits truth exchanged between patients as well as its own.

    By the headline figure; see :func:`~microtome.tasks.evaluation.permutation_p`.
    """
    rng, rows = np.random.default_rng(seed), np.arange(len(target))
    found, hits = headline(target, said, fold), 0
    for _ in range(n):
        exchanged = target.take(permute_labels(rows, patients, rng))
        hits += headline(exchanged, said, fold) >= found
    return (1 + hits) / (1 + n)
