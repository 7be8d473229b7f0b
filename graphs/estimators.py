"""Connectomes in scikit-learn's pipelines: vectors of edges, thresholds, tangents, harmonisation.

Each is fitted on what a pipeline passes it, so that within
:func:`~sklearn.model_selection.cross_val_score` nothing is learnt from people who are held out.
Edges are rows [n, e] of the pairs i < j, row by row, as :func:`.matrices.edges_of` has them.
"""

# scikit-learn's interface names what it is passed X.
# ruff: noqa: N803

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_is_fitted,
    validate_data,
)

from ..storage.errors import BadConnectome
from .harmonise import Unseen, fit_combat
from .matrices import Array, as_network, edges_of, networks_of
from .tangent import TangentSpace
from .threshold import Strength, strongest

__all__ = ["DensityThreshold", "EdgeVectoriser", "Harmoniser", "TangentEmbedding"]

Column = int | str


class EdgeVectoriser(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Networks [n, r, r] as rows of edges [n, e].

    Attributes
    ----------
    n_regions_
        Regions of the networks that it was fitted on.
    """

    def fit(self, X: ArrayLike, y: Any = None) -> EdgeVectoriser:
        """Take note of the regions.

        Raises
        ------
        BadConnectome
            Not square, not finite, not symmetric.
        """
        self.n_regions_ = _networks(X).shape[-1]
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Edges float64 [n, e] of networks [n, r, r]; raises as :meth:`fit`."""
        check_is_fitted(self)
        networks = _networks(X)
        if networks.shape[-1] != self.n_regions_:
            raise BadConnectome(
                f"networks of {networks.shape[-1]} regions, but fitted on {self.n_regions_}"
            )
        return edges_of(networks)

    def inverse_transform(self, X: ArrayLike) -> Array:
        """Networks float64 [n, r, r] of edges [n, e], 0 on the diagonal."""
        check_is_fitted(self)
        return networks_of(X, self.n_regions_)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """``i-j`` of each edge, numbers of its regions from 0."""
        check_is_fitted(self)
        i, j = np.triu_indices(self.n_regions_, 1)
        return np.array([f"{a}-{b}" for a, b in zip(i, j, strict=True)], object)

    def __sklearn_tags__(self) -> Any:
        return _of_three_dimensions(super().__sklearn_tags__())


class DensityThreshold(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The strongest edges of each person, up to a density; the others are 0.

    Of the person's own edges alone: nothing is learnt. What counts is
    :func:`.threshold.proportional`'s.

    Parameters
    ----------
    density
        Share of all pairs that are kept, above 0, at most 1.
    by
        ``value``: the largest weights, which must be positive. ``magnitude``: the largest absolute
        weights, signs kept.
    is_binary
        Whether edges that are kept become 1.
    """

    def __init__(
        self, density: float = 0.15, *, by: Strength = "value", is_binary: bool = False
    ) -> None:
        self.density = density
        self.by = by
        self.is_binary = is_binary

    def fit(self, X: ArrayLike, y: Any = None) -> DensityThreshold:
        """Take note of the number of edges."""
        validate_data(self, X, dtype=np.float64)
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Edges float64 [n, e] of edges [n, e].

        Raises
        ------
        BadConnectome
            A density that is none, or for which a person has too few edges.
        """
        check_is_fitted(self)
        edges = validate_data(self, X, dtype=np.float64, reset=False)
        strength = edges if self.by == "value" else np.abs(edges)
        kept = np.stack([strongest(row, self.density) for row in strength])
        return np.where(kept, 1.0 if self.is_binary else edges, 0.0)


class TangentEmbedding(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Time series as deviations from the training people's reference, [n, r (r + 1) / 2].

    Of :class:`.tangent.TangentSpace`, as vectors whose distances are those of the matrices
    (edges between two regions times √2).

    Attributes
    ----------
    space_
        The reference, of the people in ``fit`` only.
    """

    def fit(self, X: Sequence[ArrayLike], y: Any = None) -> TangentEmbedding:
        """Find the reference of series, [t, r] of each person, t of any length.

        Raises
        ------
        BadSeries
            Fewer than two people, or people with different regions.
        """
        self.space_ = TangentSpace.fit(X)
        return self

    def transform(self, X: Sequence[ArrayLike]) -> Array:
        """Vectors float64 [n, r (r + 1) / 2]; BadSeries where the regions are others."""
        from nilearn.connectome import sym_matrix_to_vec

        check_is_fitted(self)
        # nilearn halves the squares: the diagonal over √2, the rest as it is.
        vectors = np.sqrt(2) * sym_matrix_to_vec(self.space_.transform(X))
        return np.asarray(vectors, np.float64)

    def __sklearn_tags__(self) -> Any:
        return _of_three_dimensions(super().__sklearn_tags__())


class Harmoniser(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """ComBat within a pipeline: the site travels with each person's row, as a column.

    The columns of site and covariates are left out of the result, so that no model behind it sees
    the site. **Never name what is to be predicted as a covariate.**

    Parameters
    ----------
    site
        Name, or position, of the column that says the site; None where all are of one, which
        changes nothing.
    covariates
        Names or positions of columns whose effect is kept, numbers.
    empirical_bayes, mean_only, unseen
        As :func:`.harmonise.fit_combat` and :meth:`.harmonise.Combat.transform`.

    Attributes
    ----------
    combat_
        What was learnt of the rows in ``fit``.
    """

    def __init__(
        self,
        site: Column | None = 0,
        covariates: Sequence[Column] = (),
        *,
        empirical_bayes: bool = True,
        mean_only: bool = False,
        unseen: Unseen = "refuse",
    ) -> None:
        self.site = site
        self.covariates = covariates
        self.empirical_bayes = empirical_bayes
        self.mean_only = mean_only
        self.unseen = unseen

    def fit(self, X: Any, y: Any = None) -> Harmoniser:
        """Learn what each site adds, from these rows.

        Parameters
        ----------
        X
            [n, f]: an array, or a table with names.

        Raises
        ------
        CohortError
            As :func:`.harmonise.fit_combat`.
        """
        table = validate_data(self, X, dtype=None, ensure_min_samples=2)
        self.combat_ = fit_combat(
            *self._parts(table), empirical_bayes=self.empirical_bayes, mean_only=self.mean_only
        )
        return self

    def transform(self, X: Any) -> Array:
        """Values without the sites' effects, float64 [n, f']; CohortError for unknown sites."""
        check_is_fitted(self)
        table = validate_data(self, X, dtype=None, reset=False)
        return self.combat_.transform(*self._parts(table), unseen=self.unseen)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Names of the columns that are harmonised."""
        check_is_fitted(self)
        names = np.asarray(_check_feature_names_in(self, input_features), object)
        harmonised: np.ndarray[Any, Any] = names[self._harmonised()]
        return harmonised

    def _parts(self, table: Any) -> tuple[Array, list[str], Array]:
        """Values [n, f'], names of sites, covariates [n, c]."""
        values = np.asarray(table[:, self._harmonised()], np.float64)
        covariates = np.asarray(table[:, [self._place(c) for c in self.covariates]], np.float64)
        if self.site is None:
            return values, ["all"] * len(values), covariates
        return values, [str(name) for name in table[:, self._place(self.site)]], covariates

    def _harmonised(self) -> np.ndarray[Any, Any]:
        kept = np.ones(self.n_features_in_, bool)
        kept[[self._place(column) for column in self.covariates]] = False
        if self.site is not None:
            kept[self._place(self.site)] = False
        return kept

    def _place(self, column: Column) -> int:
        if isinstance(column, str):
            names = list(getattr(self, "feature_names_in_", ()))
            if column not in names:
                raise ValueError(f"there is no column {column!r}: pass a table that has it")
            return names.index(column)
        if not -self.n_features_in_ <= column < self.n_features_in_:
            raise ValueError(f"there is no column {column} among {self.n_features_in_}")
        return int(column)


def _networks(networks: ArrayLike) -> Array:
    array = np.asarray(networks, np.float64)
    if array.ndim != 3 or not len(array):
        raise BadConnectome(f"networks of people are [n, r, r], not {array.shape}")
    return np.stack([as_network(one, signed=True) for one in array])


def _of_three_dimensions(tags: Any) -> Any:
    tags.input_tags.two_d_array = False
    tags.input_tags.three_d_array = True
    return tags
