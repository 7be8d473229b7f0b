"""What is asked of a cohort: the regressors that are tested, and those only accounted for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import CohortError
from .matrices import Array


@dataclass(frozen=True, eq=False)
class Design:
    """A linear model: values = tested · β + nuisance · γ + error.

    Attributes
    ----------
    tested
        float64 [s, q]: regressors whose effect is asked for. One gives a signed t, several an F.
    nuisance
        float64 [s, k]: intercept and covariates.
    blocks
        int64 [s]: rows are exchanged within a block only. None: among all.

    Raises
    ------
    CohortError
        Values missing, no degrees of freedom left, or what is tested is told by the covariates.
    """

    tested: Array
    nuisance: Array
    blocks: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        shapes = self.tested.shape, self.nuisance.shape
        if self.tested.ndim != 2 or self.nuisance.ndim != 2 or shapes[0][0] != shapes[1][0]:
            raise CohortError(f"regressors {shapes[0]} and {shapes[1]} are not of the same rows")
        if self.blocks is not None and self.blocks.shape != (len(self),):
            raise CohortError(f"{len(self.blocks)} exchange blocks do not fit {len(self)} rows")
        columns = np.hstack([self.tested, self.nuisance])
        if not np.isfinite(columns).all():
            raise CohortError("a regressor has a missing value")
        if np.linalg.matrix_rank(columns) < self.q + np.linalg.matrix_rank(self.nuisance):
            raise CohortError(
                "what is tested cannot be told from the covariates",
                remedy="Leave out the covariate that determines it, or group differently",
            )
        if self.df < 1:
            raise CohortError(
                f"{len(self)} rows are too few for {columns.shape[1]} regressors",
                remedy="Use fewer covariates",
            )

    def __len__(self) -> int:
        return len(self.tested)

    @property
    def q(self) -> int:
        """Number of regressors that are tested."""
        return int(self.tested.shape[1])

    @property
    def df(self) -> int:
        """Residual degrees of freedom."""
        return len(self) - self.q - int(np.linalg.matrix_rank(self.nuisance))

    @classmethod
    def between(
        cls,
        groups: ArrayLike,
        covariates: ArrayLike | None = None,
        blocks: ArrayLike | None = None,
    ) -> Design:
        """Compare groups of people: two give a t (second minus first, sorted), more an F.

        Parameters
        ----------
        groups
            [s] labels.
        covariates
            [s, c] numbers.
        blocks
            [s] labels: people are exchanged with those of their own block only, as of one site or
            scanner. That they differ in level has to be a covariate besides.
        """
        names, number = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) < 2:
            raise CohortError("two groups are needed to compare")
        tested = np.eye(len(names))[number][:, 1:]
        return cls(tested, _nuisance(covariates, len(number)), _numbers(blocks))

    @classmethod
    def along(
        cls,
        variable: ArrayLike,
        covariates: ArrayLike | None = None,
        blocks: ArrayLike | None = None,
    ) -> Design:
        """Relate values to a number for each person, such as age or a score: [s].

        The other parameters are those of :meth:`between`.
        """
        column = np.asarray(variable, np.float64)
        return cls(column[:, None], _nuisance(covariates, len(column)), _numbers(blocks))

    @classmethod
    def paired(cls, conditions: ArrayLike, people: ArrayLike) -> Design:
        """Compare two conditions within people, each measured once in each: a paired t.

        Parameters
        ----------
        conditions, people
            [s] labels; the second condition, sorted, minus the first.

        Raises
        ------
        CohortError
            Not two conditions, or somebody was not measured exactly once in each.
        """
        names, condition = np.unique(np.asarray(conditions), return_inverse=True)
        _, person = np.unique(np.asarray(people), return_inverse=True)
        seen = np.zeros((person.max() + 1, len(names)), np.int64)
        np.add.at(seen, (person, condition), 1)
        if len(names) != 2 or (seen != 1).any():
            raise CohortError(
                "a paired comparison needs everybody once in each of two conditions",
                remedy="Leave out the people with one session, or compare groups",
            )
        return cls(
            condition[:, None].astype(np.float64),
            np.eye(person.max() + 1)[person],
            person.astype(np.int64),
        )


def _numbers(labels: ArrayLike | None) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    return np.asarray(np.unique(np.asarray(labels), return_inverse=True)[1], np.int64)


def _nuisance(covariates: ArrayLike | None, n: int) -> Array:
    """Intercept and covariates, centred, which changes nothing but the rounding."""
    if covariates is None:
        return np.ones((n, 1))
    columns = np.asarray(covariates, np.float64)
    if columns.ndim != 2 or len(columns) != n:
        raise CohortError(f"covariates {columns.shape} do not fit {n} subjects")
    return np.hstack([np.ones((n, 1)), columns - columns.mean(axis=0)])
