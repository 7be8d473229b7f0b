"""ComBat: taking out what a scanner adds to region values or edges, learnt on training people only.

:func:`fit_combat` learns, :meth:`Combat.transform` applies, and never learns: fit it within each
training fold, as any other part of a model. Covariates whose effect is to be kept, such as age and
sex, are asked for both times, since people of another age may not be taken for another scanner.
**Never pass what is to be predicted as a covariate**: the values would be moved towards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import CohortError
from .matrices import Array

Unseen = Literal["refuse", "leave"]

_CONVERGED = 1e-6
_MAX_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class Combat:
    """What a harmonisation learnt.

    Attributes
    ----------
    sites
        b names, sorted: those that can be harmonised.
    n_covariates
        Columns that :meth:`transform` expects.
    mean, slopes, scale
        float64 [f], [c, f], [f]: the mean over all training rows, effects of the covariates,
        and the standard deviation within sites.
    shift, spread
        float64 [b, f]: what each site adds to the standardised values (γ*), and the factor of its
        variance (δ*²).
    """

    sites: tuple[str, ...]
    n_covariates: int
    mean: Array
    slopes: Array
    scale: Array
    shift: Array
    spread: Array

    def transform(
        self,
        values: ArrayLike,
        sites: Sequence[str],
        covariates: ArrayLike | None = None,
        *,
        unseen: Unseen = "refuse",
    ) -> Array:
        """Take the effect of the sites out; nothing is learnt from these rows.

        Parameters
        ----------
        values
            [n, f], features as in training.
        sites
            n names.
        covariates
            [n, c], columns as in training.
        unseen
            What to do with rows of a site that was not in training: ``refuse``, or ``leave`` their
            values as they are. There is nothing to know of such a site.

        Returns
        -------
        float64 [n, f]

        Raises
        ------
        CohortError
            A site that is not known, or columns that do not fit.
        """
        array, columns = _checked(values, sites, covariates)
        if array.shape[1] != len(self.mean) or columns.shape[1] != self.n_covariates:
            raise CohortError(
                f"{array.shape[1]} features and {columns.shape[1]} covariates do not fit a "
                f"harmonisation of {len(self.mean)} and {self.n_covariates}"
            )
        number = {name: i for i, name in enumerate(self.sites)}
        known = np.array([site in number for site in sites], bool)
        if unseen == "refuse" and not known.all():
            names = sorted({site for site in sites if site not in number})
            raise CohortError(
                f"sites that the harmonisation was not fitted on: {', '.join(names[:5])}",
                remedy="Have some people of each site in training, or leave the values of new sites"
                " as they are with unseen='leave'",
            )
        site = [number.get(name, 0) for name in sites]
        expected = self.mean + columns @ self.slopes
        standard = (array - expected) / self.scale
        found = (standard - self.shift[site]) / np.sqrt(self.spread[site]) * self.scale + expected
        return np.where(known[:, None], found, array)


def fit_combat(
    values: ArrayLike,
    sites: Sequence[str],
    covariates: ArrayLike | None = None,
    *,
    empirical_bayes: bool = True,
    mean_only: bool = False,
) -> Combat:
    r"""Learn what each site adds to and multiplies each feature with, from training rows.

    .. math:: y_{ijf} = \alpha_f + x_{ij} \beta_f + \gamma_{if} + \delta_{if}\,\varepsilon_{ijf}

    for person j of site i. Values are standardised by the pooled mean, slopes and residual
    deviation; :math:`\gamma_{if}` and :math:`\delta_{if}^2` are estimated at each feature and drawn
    towards their means over features, a normal and an inverse gamma prior whose parameters are
    matched to the features' moments (empirical Bayes).

    Parameters
    ----------
    values
        [n, f]: thickness, volumes, uptake, or edges (:func:`.matrices.edges_of`).
    sites
        n names of scanners or centres.
    covariates
        [n, c] numbers whose effect is kept; code categories as 0 and 1.
    empirical_bayes
        Without, each feature is adjusted by itself; then an own scale for each site is the more
        uncertain the fewer people it has.
    mean_only
        Leave the variances of sites as they are.

    Returns
    -------
    Combat
        With a single site, one that changes nothing.

    Raises
    ------
    CohortError
        A value is missing, a site has one person, covariates cannot be told from the sites, or a
        feature does not vary.

    References
    ----------
    Johnson, Li & Rabinovic (2007), Biostatistics 8:118; Fortin et al. (2018), NeuroImage 167:104.
    """
    array, columns = _checked(values, sites, covariates)
    names, number, count = np.unique(np.asarray(sites), return_inverse=True, return_counts=True)
    if count.min() < 2:
        alone = ", ".join(str(name) for name in names[count < 2][:5])
        raise CohortError(
            f"sites with a single person: {alone}",
            remedy="Leave them out, or join them with a like scanner",
        )
    indicator = np.eye(len(names))[number]
    mean, slopes = _pooled(array, indicator, columns, count)
    fitted = np.hstack([indicator, columns]) @ _solved(array, indicator, columns)
    scale = np.sqrt(((array - fitted) ** 2).mean(axis=0))
    flat = scale <= 1e-10 * np.abs(array).max(axis=0)
    if flat.any():
        raise CohortError(
            f"{int(flat.sum())} features do not vary within sites, the first is {flat.argmax()}",
            remedy="Leave out features, such as edges, that are the same in everybody",
        )
    standard = (array - mean - columns @ slopes) / scale
    estimates = [
        _site_effect(standard[number == i], empirical_bayes=empirical_bayes, mean_only=mean_only)
        if len(names) > 1
        else (np.zeros(len(scale)), np.ones(len(scale)))
        for i in range(len(names))
    ]
    shift, spread = (np.stack(part) for part in zip(*estimates, strict=True))
    known = tuple(str(name) for name in names)
    return Combat(known, columns.shape[1], mean, slopes, scale, shift, spread)


def _checked(
    values: ArrayLike, sites: Sequence[str], covariates: ArrayLike | None
) -> tuple[Array, Array]:
    array = np.asarray(values, np.float64)
    columns = np.empty((len(array), 0)) if covariates is None else np.asarray(covariates, float)
    if array.ndim != 2 or columns.ndim != 2 or not len(array) == len(sites) == len(columns):
        raise CohortError(
            f"values {array.shape}, {len(sites)} sites and covariates {columns.shape} do not fit"
        )
    if not (np.isfinite(array).all() and np.isfinite(columns).all()):
        raise CohortError("a value or a covariate is missing")
    return array, columns


def _solved(array: Array, indicator: Array, columns: Array) -> Array:
    """Least squares of sites and covariates: float64 [b + c, f]."""
    design = np.hstack([indicator, columns])
    solved, _, rank, _ = np.linalg.lstsq(design, array, rcond=None)
    if rank < design.shape[1]:
        raise CohortError(
            "covariates cannot be told from the sites, or from each other",
            remedy="Leave out the covariate that is the same for all of a site",
        )
    return np.asarray(solved, np.float64)


def _pooled(
    array: Array, indicator: Array, columns: Array, count: NDArray[np.int64]
) -> tuple[Array, Array]:
    solved = _solved(array, indicator, columns)
    of_sites, slopes = solved[: len(count)], solved[len(count) :]
    return count @ of_sites / count.sum(), slopes


def _site_effect(standard: Array, *, empirical_bayes: bool, mean_only: bool) -> tuple[Array, Array]:
    """Shift γ* and spread δ*² of one site, float64 [f] each."""
    n = len(standard)
    shift = standard.mean(axis=0)
    spread = np.ones(len(shift)) if mean_only else standard.var(axis=0, ddof=1)
    if not empirical_bayes or len(shift) < 2:
        return shift, spread
    expected, variance = shift.mean(), shift.var(ddof=1)
    if mean_only:
        return _drawn_mean(shift, expected, variance, n, spread), spread
    shape, rate = _inverse_gamma(spread)
    mean, scale = shift, spread
    for _ in range(_MAX_ITERATIONS):
        new_mean = _drawn_mean(shift, expected, variance, n, scale)
        squares = ((standard - new_mean) ** 2).sum(axis=0)
        new_scale = (0.5 * squares + rate) / (n / 2 + shape - 1)
        change = max(_change(new_mean, mean), _change(new_scale, scale))
        mean, scale = new_mean, new_scale
        if change < _CONVERGED:
            break
    return mean, scale


def _drawn_mean(shift: Array, expected: float, variance: float, n: int, scale: Array) -> Array:
    drawn: Array = (n * variance * shift + scale * expected) / (n * variance + scale)
    return drawn


def _inverse_gamma(spread: Array) -> tuple[float, float]:
    """Shape and rate of the distribution that has the mean and variance of the spreads."""
    mean, variance = (
        spread.mean(),
        max(float(spread.var(ddof=1)), 1e-12 * float(spread.mean()) ** 2),
    )
    return float(mean**2 / variance + 2), float(mean * (mean**2 / variance + 1))


def _change(new: Array, old: Array) -> float:
    return float((np.abs(new - old) / np.maximum(np.abs(old), 1e-3)).max())
