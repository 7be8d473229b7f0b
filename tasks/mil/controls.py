"""Controls: what can be had without looking at the tissue, under the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import LabelError
from ..cluster_cohort import SiteTest, site_test
from ..evaluation import Fold
from .targets import Target, as_target

if TYPE_CHECKING:
    import torch

    from .train import Features

Values = NDArray[np.float64]

_COMPONENTS, _EXCHANGES = 16, 99

COLOUR_PREFIX = "mean_"
"""Encoders give the mean colour of a tile in features that begin so."""


def bag_sizes(bags: Sequence[Features]) -> NDArray[np.float64]:
    """How much tissue there is: the logarithm of the number of instances, float [b, 1]."""
    return np.log([[len(bag)] for bag in bags])


def mean_colours(
    bags: Sequence[Features], feature_names: Sequence[str]
) -> NDArray[np.float64] | None:
    """The mean colour of the tissue, float [b, k]; None where no feature states a colour."""
    columns = [i for i, name in enumerate(feature_names) if name.startswith(COLOUR_PREFIX)]
    if not columns:
        return None
    return np.stack([bag[:, columns].mean(axis=0, dtype=np.float64) for bag in bags])


def site_columns(sites: NDArray[Any]) -> NDArray[np.float64]:
    """Which site a bag is from, 1 in its column: float [b, k]."""
    return np.asarray(sites[:, None] == np.unique(sites), np.float64)


def site_from_features(
    bags: Sequence[Features], sites: NDArray[Any], patients: NDArray[Any], *, seed: int = 0
) -> SiteTest | None:
    """Whether the mean features of bags [n_i, d] tell their site; None where too few could.

    A logistic regression on their first 16 principal components, or one for every four bags where
    that is less, cross-validated by patient. That the components are of all bags tells nothing:
    no site was looked at.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    means = StandardScaler().fit_transform(
        np.stack([bag.mean(axis=0, dtype=np.float64) for bag in bags])
    )
    k = min(_COMPONENTS, max(1, len(bags) // 4), *means.shape)
    parts = PCA(k, svd_solver="full").fit_transform(means)
    try:
        return site_test(parts, sites, patients, n=_EXCHANGES, seed=seed)
    except LabelError:
        return None


def predict_from(
    values: NDArray[np.float64], labels: NDArray[np.int64] | Target, folds: Sequence[Fold]
) -> NDArray[np.float64]:
    """Out-of-fold outputs [b, c] of a linear model of a few values a bag [b, k].

    Logistic regression of classes, weighted to count the same, and of each label where it is
    known; ridge regression of a value; Cox's model of survival. Values are standardised on the
    training part.
    """
    target = as_target(labels)
    said = np.empty((len(target), len(target.names)))
    for fold in folds:
        mean, deviation = values[fold.train].mean(0), values[fold.train].std(0)
        scaled = (values - mean) / np.where(deviation > 0, deviation, 1)
        said[fold.test] = _linear(scaled[fold.train], target.take(fold.train), scaled[fold.test])
    return said


def _linear(x: Values, target: Target, unseen: Values) -> Values:
    from sklearn.linear_model import LogisticRegression, Ridge

    if target.kind == "regression":
        found: Values = Ridge().fit(x, target.truth).predict(unseen)[:, None]
        return found
    if target.kind == "survival":
        return unseen @ cox_coefficients(x, target.truth)[:, None]
    logistic = LogisticRegression(class_weight="balanced")
    if target.kind == "classes":
        said: Values = logistic.fit(x, target.truth).predict_proba(unseen)
        return said
    columns = []
    for truth in target.truth.T:
        known = ~np.isnan(truth)
        columns.append(logistic.fit(x[known], truth[known]).predict_proba(unseen)[:, 1])
    return np.stack(columns, axis=1)


def cox_coefficients(x: Values, truth: Values) -> Values:
    """Coefficients [k] of Cox's model of values [b, k], with a penalty of half their square.

    Parameters
    ----------
    truth
        [b, 2]: times and events. Ties after Efron.
    """
    import torch

    from .heads import cox_losses

    values, time, event = (torch.from_numpy(a) for a in (x, truth[:, 0].copy(), truth[:, 1].copy()))
    beta = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([beta], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        found = cox_losses(values @ beta, time, event).sum() + beta.square().sum() / 2
        torch.autograd.backward(found)
        return found

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    fitted: Values = beta.detach().numpy()
    return fitted
