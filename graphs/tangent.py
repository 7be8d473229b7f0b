"""Networks as deviations from a reference, in the tangent space of covariance matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadConnectome, BadSeries
from .functional import standardised
from .matrices import Array

_CONVERGED = 1e-7
_MAX_ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class TangentSpace:
    r"""Where covariances are seen from: a reference point, of training subjects only.

    .. math:: T = \log\bigl(G^{-1/2}\, \Sigma\, G^{-1/2}\bigr)

    with the geometric mean G of the training covariances (Ledoit and Wolf's, of standardised
    series) and the matrix logarithm. A tangent belongs to its reference: tangents of two references
    cannot be compared.

    Attributes
    ----------
    reference
        float64 [r, r]: the geometric mean.

    References
    ----------
    Varoquaux et al. (2010), MICCAI, LNCS 6361:200; Pennec, Fillard & Ayache (2006), Int. J. Comput.
    Vis. 66:41.
    """

    reference: Array

    @classmethod
    def fit(cls, series: Sequence[ArrayLike]) -> TangentSpace:
        """Find the reference of training subjects, through nilearn.

        Parameters
        ----------
        series
            For each subject [t, r].

        Raises
        ------
        BadSeries
            Fewer than two subjects, or subjects with different regions.
        """
        from nilearn.connectome import ConnectivityMeasure

        arrays = [standardised(one) for one in series]
        if len(arrays) < 2 or len({one.shape[-1] for one in arrays}) > 1:
            raise BadSeries(
                "a reference needs two subjects or more, over the same regions",
                remedy="Check which axis is time",
            )
        measure = ConnectivityMeasure(kind="tangent", standardize="zscore_sample").fit(arrays)
        return cls(np.asarray(measure.mean_, np.float64))

    @classmethod
    def of_covariances(cls, covariances: ArrayLike) -> TangentSpace:
        """Find the reference of training subjects' covariances or correlations, [s, r, r].

        Raises
        ------
        BadConnectome
            A matrix is not positive definite.
        """
        return cls(geometric_mean(covariances))

    def transform(self, series: Sequence[ArrayLike]) -> Array:
        """Tangents of subjects, each by itself: float64 [s, r, r], symmetric."""
        from sklearn.covariance import ledoit_wolf

        arrays = [standardised(one) for one in series]
        if any(one.shape[-1] != len(self.reference) for one in arrays):
            raise BadSeries(f"series are not of the {len(self.reference)} regions of the reference")
        return self.tangents([ledoit_wolf(one)[0] for one in arrays])

    def tangents(self, covariances: ArrayLike) -> Array:
        """Tangents of covariances [s, r, r], each by itself: float64 [s, r, r], symmetric."""
        root = _of_eigenvalues(lambda value: 1 / np.sqrt(value), self.reference)
        return _of_eigenvalues(np.log, _even(root @ np.asarray(covariances, np.float64) @ root))

    def covariances(self, tangents: ArrayLike) -> Array:
        """Covariances that tangents are of: float64 [s, r, r]."""
        root = _of_eigenvalues(np.sqrt, self.reference)
        whole = _of_eigenvalues(np.exp, np.asarray(tangents, np.float64))
        return np.asarray(root @ whole @ root, np.float64)


def geometric_mean(covariances: ArrayLike) -> Array:
    r"""The matrix at which tangents of all add up to nothing: float64 [r, r].

    Found by descent on the manifold, :math:`G \leftarrow G^{1/2} \exp(\tau \bar{T}) G^{1/2}` with
    the mean tangent :math:`\bar{T}`; a step τ that would make its norm grow is halved.

    Parameters
    ----------
    covariances
        [s, r, r], symmetric and positive definite.

    Raises
    ------
    BadConnectome
        A matrix is not positive definite.

    References
    ----------
    Fletcher & Joshi (2007), Signal Processing 87:250, algorithm 1.
    """
    matrices = np.asarray(covariances, np.float64)
    if not (np.linalg.eigvalsh(matrices) > 0).all():
        raise BadConnectome("a covariance is not positive definite", remedy="Shrink it first")
    mean = _of_eigenvalues(np.exp, _of_eigenvalues(np.log, matrices).mean(axis=0))
    away, step = _mean_tangent(mean, matrices), 1.0
    for _ in range(_MAX_ITERATIONS):
        if np.linalg.norm(away) < _CONVERGED * len(mean):
            break
        root = _of_eigenvalues(np.sqrt, mean)
        tried = _even(root @ _of_eigenvalues(np.exp, step * away) @ root)
        left = _mean_tangent(tried, matrices)
        if np.linalg.norm(left) < np.linalg.norm(away):
            mean, away = tried, left
        else:
            step /= 2
    return mean


def _mean_tangent(reference: Array, matrices: Array) -> Array:
    found: Array = TangentSpace(reference).tangents(matrices).mean(axis=0)
    return found


def _even(matrices: Array) -> Array:
    """Without the asymmetry that rounding left."""
    halved: Array = (matrices + matrices.swapaxes(-1, -2)) / 2
    return halved


def _of_eigenvalues(function: Callable[[Array], Array], symmetric: Array) -> Array:
    values, vectors = np.linalg.eigh(symmetric)
    found: Array = (vectors * function(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
    return found
