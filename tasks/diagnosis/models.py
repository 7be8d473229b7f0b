"""Models of a diagnosis on one interface: parameters in, fitted on training rows, scores out.

A model is a frozen record of hyper-parameters; fitting returns another record, which holds all that
was learnt, standardisation included. Nothing is learnt anywhere else, so nothing can leak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .examples import Examples

Array = NDArray[np.float64]
LinearKind = Literal["ridge", "elastic-net", "svm"]


class Fitted(Protocol):
    """A model that has learnt."""

    def predict_proba(self, examples: Examples) -> Array:
        """Probability of the positive class: float64 [s]."""


class Model(Protocol):
    """Hyper-parameters, before learning. Equal seeds give equal fits."""

    def fit(self, train: Examples, *, seed: int = 0) -> Fitted:
        """Learn from the given rows alone."""

    def describe(self) -> Mapping[str, Any]:
        """Hyper-parameters by name, as JSON takes them."""


@dataclass(frozen=True)
class Family:
    """A model with the hyper-parameters to choose from.

    Attributes
    ----------
    name
        What the user calls it.
    candidates
        Tried in an inner cross-validation; of equals the first is taken.
    """

    name: str
    candidates: tuple[Model, ...]


@dataclass(frozen=True)
class LinearModel:
    """A linear machine on the standardised weights of all edges, of all layers side by side.

    The edges of a layer that a person lacks count as the mean.

    Attributes
    ----------
    c
        Inverse of the penalty's strength.
    kind
        ``ridge``: logistic regression with an L2 penalty. ``elastic-net``: with half of it L1,
        which leaves most edges out. ``svm``: support vectors; its scores are no probabilities.

    References
    ----------
    Dadi et al. (2019), Benchmarking functional connectome-based predictive models, NeuroImage 192:
    hard to beat.
    """

    c: float
    kind: LinearKind = "ridge"

    def fit(self, train: Examples, *, seed: int = 0) -> FittedLinear:
        """Learn mean and spread of each edge, then a weight for it."""
        edges = train.edges
        mean, sd = moments(edges)
        fit = partial(_MACHINES[self.kind], seed=seed)
        weights, intercept = fit(standardised(edges, mean, sd), train.labels, self.c)
        return FittedLinear(mean, sd, weights, intercept, self)

    def describe(self) -> Mapping[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Line:
    """A weight for each standardised value: float64 [k] each."""

    mean: Array
    sd: Array
    weights: Array
    intercept: float

    def log_odds(self, values: Array) -> Array:
        """Of rows of values [s, k]: float64 [s]."""
        return standardised(values, self.mean, self.sd) @ self.weights + self.intercept


@dataclass(frozen=True, eq=False)
class FittedLinear(_Line):
    """What :class:`LinearModel` learnt, over edges i < j."""

    model: LinearModel

    def decision(self, examples: Examples) -> Array:
        """Log-odds of the positive class."""
        return self.log_odds(examples.edges)

    def predict_proba(self, examples: Examples) -> Array:
        return sigmoid(self.decision(examples))


@dataclass(frozen=True)
class CovariateModel:
    """What covariates alone say of the diagnosis: a control that looks at no connectome.

    Attributes
    ----------
    c
        Inverse of the penalty's strength.
    """

    c: float = 1.0

    def fit(self, train: Examples, *, seed: int = 0) -> FittedCovariates:
        """Learn mean and spread of each covariate, then a weight. The seed has no effect."""
        values = _covariates(train)
        mean, sd = values.mean(0), spread(values)
        weights, intercept = _ridge((values - mean) / sd, train.labels, self.c)
        return FittedCovariates(mean, sd, weights, intercept, self)

    def describe(self) -> Mapping[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class FittedCovariates(_Line):
    """What :class:`CovariateModel` learnt, over covariates."""

    model: CovariateModel

    def predict_proba(self, examples: Examples) -> Array:
        return sigmoid(self.log_odds(_covariates(examples)))


@dataclass(frozen=True)
class SiteModel:
    """What the site alone says of the diagnosis: a control that looks at no connectome.

    Attributes
    ----------
    c
        Inverse of the penalty's strength.
    alpha
        Sites count only where their shares of patients differ in the training rows at this level
        (chi-squared over people). Without that, a site balanced in the cohort scores below chance:
        where it has more patients among the training rows, it has fewer among the held-out ones.
    """

    c: float = 1.0
    alpha: float = 0.05

    def fit(self, train: Examples, *, seed: int = 0) -> FittedSite:
        """Learn a weight for each site of the training rows. The seed has no effect."""
        _, person = np.unique(train.groups, return_index=True)
        sites = np.unique(_sites(train))
        if not _differ(_sites(train)[person], train.labels[person], self.alpha):
            return FittedSite(self, sites, np.zeros(len(sites)), 0.0)
        weights, intercept = _ridge(_one_hot(_sites(train), sites), train.labels, self.c)
        return FittedSite(self, sites, weights, intercept)

    def describe(self) -> Mapping[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class FittedSite:
    """What :class:`SiteModel` learnt; a site that it has not seen gets the intercept."""

    model: SiteModel
    sites: NDArray[np.str_]
    weights: Array
    intercept: float

    def predict_proba(self, examples: Examples) -> Array:
        return sigmoid(_one_hot(_sites(examples), self.sites) @ self.weights + self.intercept)


def spread(values: Array) -> Array:
    """Standard deviation over the first axis; 1 where nothing varies, so that 0 stays 0."""
    sd: Array = values.std(0)
    return np.where(sd > 1e-12, sd, 1.0)


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation over the first axis, of what is there (not nan).

    The mean is 0 where nothing is there, the deviation 1 where nothing varies.
    """
    there = ~np.isnan(values)
    n = np.maximum(there.sum(0), 1)
    mean: Array = np.where(there, values, 0).sum(0) / n
    sd = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(0) / n)
    return mean, np.where(sd > 1e-12, sd, 1.0)


def standardised(values: Array, mean: Array, sd: Array) -> Array:
    """In standard deviations from the mean; 0, the mean, where nothing is there (nan)."""
    standard: Array = (values - mean) / sd
    return np.where(np.isnan(standard), 0, standard)


def sigmoid(logits: Array) -> Array:
    """Log-odds to probabilities."""
    from scipy.special import expit

    return np.asarray(expit(logits), np.float64)


def _ridge(
    features: Array, labels: NDArray[np.int64], c: float, *, seed: int = 0
) -> tuple[Array, float]:
    from sklearn.linear_model import LogisticRegression

    machine = LogisticRegression(C=c, class_weight="balanced", max_iter=2000)
    return _learnt(machine.fit(features, labels))


def _elastic_net(
    features: Array, labels: NDArray[np.int64], c: float, *, seed: int = 0
) -> tuple[Array, float]:
    from sklearn.linear_model import LogisticRegression

    machine = LogisticRegression(
        C=c, l1_ratio=0.5, solver="saga", class_weight="balanced", max_iter=5000,
        random_state=seed,
    )  # fmt: skip
    return _learnt(machine.fit(features, labels))


def _svm(
    features: Array, labels: NDArray[np.int64], c: float, *, seed: int = 0
) -> tuple[Array, float]:
    from sklearn.svm import SVC

    return _learnt(SVC(C=c, kernel="linear", class_weight="balanced").fit(features, labels))


def _learnt(machine: Any) -> tuple[Array, float]:
    return np.asarray(machine.coef_[0], np.float64), float(machine.intercept_[0])


_MACHINES: Mapping[LinearKind, Callable[..., tuple[Array, float]]] = {
    "ridge": _ridge,
    "elastic-net": _elastic_net,
    "svm": _svm,
}


def _covariates(examples: Examples) -> Array:
    if examples.covariates is None:
        raise ValueError("the model of covariates needs covariates")
    return examples.covariates


def _sites(examples: Examples) -> NDArray[np.str_]:
    if examples.sites is None:
        raise ValueError("the site model needs sites")
    return examples.sites


def _one_hot(values: NDArray[np.str_], categories: NDArray[np.str_]) -> Array:
    return np.asarray(values[:, None] == categories[None, :], np.float64)


def _differ(sites: NDArray[np.str_], labels: NDArray[np.int64], alpha: float) -> bool:
    from scipy.stats import chi2_contingency

    names = np.unique(sites)
    counts = np.array([[np.sum((sites == n) & (labels == k)) for k in (0, 1)] for n in names])
    return len(names) > 1 and float(chi2_contingency(counts).pvalue) < alpha
