"""What is done to connectomes before a model sees them, learnt on the model's training rows alone.

A :class:`Step` and the model behind it are one model, a :class:`Pipeline`: wherever that is fitted,
in an outer fold, in an inner one, or on everybody in the end, the step is fitted anew on the same
rows. A step fitted on a whole cohort cannot be given to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...graphs.harmonise import Combat, Unseen, fit_combat
from ...graphs.tangent import TangentSpace
from ...storage.errors import CohortError
from .examples import Examples
from .models import Fitted, Model

Array = NDArray[np.float64]

_FLAT = 1e-10


class FittedStep(Protocol):
    """A step that has learnt."""

    def transform(self, examples: Examples) -> Examples:
        """The same rows, seen otherwise; nothing is learnt from them."""


class Step(Protocol):
    """What to do, before anything is learnt."""

    def fit(self, train: Examples) -> FittedStep:
        """Learn from training rows, without a look at their labels."""

    def describe(self) -> Mapping[str, Any]:
        """Its settings by name, as JSON takes them."""


@dataclass(frozen=True)
class Pipeline:
    """A model behind a step."""

    step: Step
    model: Model

    def fit(self, train: Examples, *, seed: int = 0) -> FittedPipeline:
        """Fit the step, then the model on what it makes of the same rows."""
        step = self.step.fit(train)
        return FittedPipeline(step, self.model.fit(step.transform(train), seed=seed))

    def describe(self) -> Mapping[str, Any]:
        return {**self.step.describe(), **self.model.describe()}


@dataclass(frozen=True, eq=False)
class FittedPipeline:
    """What :class:`Pipeline` learnt."""

    step: FittedStep
    fitted: Fitted

    def predict_proba(self, examples: Examples) -> Array:
        return self.fitted.predict_proba(self.step.transform(examples))


def fit_each(models: Sequence[Model], train: Examples, seed: int) -> list[Fitted]:
    """Fit several models on the same rows; what they begin with alike is fitted once.

    Returns
    -------
    list of Fitted
        Equal to ``[model.fit(train, seed=seed) for model in models]``.
    """
    found: dict[int, Fitted] = {}
    behind: dict[Step, list[int]] = {}
    for number, model in enumerate(models):
        if isinstance(model, Pipeline):
            behind.setdefault(model.step, []).append(number)
        else:
            found[number] = model.fit(train, seed=seed)
    for step, numbers in behind.items():
        fitted = step.fit(train)
        inner = [model.model for n in numbers if isinstance(model := models[n], Pipeline)]
        after = fit_each(inner, fitted.transform(train), seed)
        for number, one in zip(numbers, after, strict=True):
            found[number] = FittedPipeline(fitted, one)
    return [found[number] for number in range(len(models))]


def seen_by(fitted: Fitted, examples: Examples) -> tuple[Fitted, Examples]:
    """The model at the end of all steps, and the rows as it sees them."""
    if not isinstance(fitted, FittedPipeline):
        return fitted, examples
    return seen_by(fitted.fitted, fitted.step.transform(examples))


@dataclass(frozen=True)
class Harmonise:
    """Take out what scanners add to edges (ComBat), keeping the effects of covariates.

    Each layer by itself, from the people who have it. Edges that do not vary within any site, such
    as those that nobody has, stay as they are. The diagnosis plays no part.

    Attributes
    ----------
    unseen
        What becomes of a row whose site the training rows do not know: ``refuse``, or ``leave`` it
        as it is. One training row is not enough to know a site by.

    References
    ----------
    Johnson, Li & Rabinovic (2007), Biostatistics 8:118; Fortin et al. (2018), NeuroImage 167:104.
    """

    unseen: Unseen = "refuse"

    def fit(self, train: Examples) -> Harmonised:
        """Learn each layer's harmonisation.

        Raises
        ------
        CohortError
            No sites are known; or as :func:`~microtome.graphs.harmonise.fit_combat` says.
        """
        sites, width = _sites(train), train.edges.shape[1] // train.layers.shape[1]
        found = []
        for layer, present in enumerate(train.present.T):
            known = self.unseen == "refuse" or _in_company(sites, present)
            there = present & known
            values = train.edges[:, layer * width : (layer + 1) * width]
            found.append(_fit_layer(values[there], sites[there], _rows(train.covariates, there)))
        return Harmonised(self, tuple(found))

    def describe(self) -> Mapping[str, Any]:
        return {"harmonise": self.unseen}


@dataclass(frozen=True, eq=False)
class LayerCombat:
    """Harmonisation of one layer: ``varies`` bool [e] says which edges ``combat`` is of."""

    combat: Combat
    varies: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Harmonised:
    """What :class:`Harmonise` learnt: one harmonisation a layer."""

    step: Harmonise
    layers: tuple[LayerCombat, ...]

    def transform(self, examples: Examples) -> Examples:
        """Rows with the effect of their site taken out.

        Raises
        ------
        CohortError
            A site that is not known, and ``unseen`` is ``refuse``.
        """
        sites, edges = _sites(examples), examples.edges.copy()
        width = edges.shape[1] // len(self.layers)
        for layer, (one, there) in enumerate(zip(self.layers, examples.present.T, strict=True)):
            block = np.ix_(there, layer * width + np.flatnonzero(one.varies))
            edges[block] = one.combat.transform(
                edges[block],
                sites[there].tolist(),
                _rows(examples.covariates, there),
                unseen=self.step.unseen,
            )
        return examples.with_edges(edges)


@dataclass(frozen=True)
class Tangent:
    r"""See correlations as deviations from their geometric mean over the training rows.

    The weights are turned back into correlations C and shrunk, :math:`(1 - s) C + s I`, since those
    of short series have no logarithm; eigenvalues below zero, which no correlations of complete
    series have, count as zero. The diagonal of a tangent is left out.

    Attributes
    ----------
    fisher
        Weights are Fisher's z of correlations.
    shrinkage
        s.

    References
    ----------
    Varoquaux et al. (2010), MICCAI, LNCS 6361:200. Dadi et al. (2019), NeuroImage 192: tangents and
    logistic regression are hard to beat.
    """

    fisher: bool
    shrinkage: float = 0.1

    def fit(self, train: Examples) -> FittedTangent:
        """Find the reference."""
        return FittedTangent(self, TangentSpace.of_covariances(self.correlations(train)))

    def describe(self) -> Mapping[str, Any]:
        return asdict(self)

    def correlations(self, examples: Examples) -> Array:
        """Shrunk correlations with ones on the diagonal: float64 [s, r, r]."""
        weights = np.tanh(examples.adjacency) if self.fisher else examples.adjacency
        one = np.eye(weights.shape[-1])
        values, vectors = np.linalg.eigh(weights + one)
        whole = (vectors * np.maximum(values, 0)[:, None, :]) @ vectors.swapaxes(-1, -2)
        shrunk: Array = (1 - self.shrinkage) * whole + self.shrinkage * one
        return shrunk


@dataclass(frozen=True, eq=False)
class FittedTangent:
    """What :class:`Tangent` learnt: the point that tangents are taken at."""

    step: Tangent
    space: TangentSpace

    def transform(self, examples: Examples) -> Examples:
        tangents = self.space.tangents(self.step.correlations(examples))
        i, j = np.triu_indices(tangents.shape[-1], 1)
        return examples.with_edges(tangents[:, i, j])


def _fit_layer(values: Array, sites: NDArray[np.str_], covariates: Array | None) -> LayerCombat:
    if not len(values):
        raise CohortError(
            "no site of a training fold has two people with this layer",
            remedy="Use fewer folds, or leave --harmonise out",
        )
    within = np.max([np.ptp(values[sites == site], axis=0) for site in np.unique(sites)], axis=0)
    varies = np.asarray(within > _FLAT * np.abs(values).max(axis=0))
    return LayerCombat(fit_combat(values[:, varies], sites.tolist(), covariates), varies)


def _in_company(sites: NDArray[np.str_], there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows of sites of which at least two rows are there: bool [s]."""
    names, counts = np.unique(sites[there], return_counts=True)
    return np.isin(sites, names[counts > 1])


def _rows(values: Array | None, rows: NDArray[np.bool_]) -> Array | None:
    return None if values is None else values[rows]


def _sites(examples: Examples) -> NDArray[np.str_]:
    if examples.sites is None:
        raise CohortError("harmonising needs sites", remedy="Name the column with --site")
    return examples.sites
