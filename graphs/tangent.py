"""Networks as deviations from a reference, in the tangent space of covariance matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..storage.errors import BadSeries
from .functional import standardised
from .matrices import Array


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

    def transform(self, series: Sequence[ArrayLike]) -> Array:
        """Tangents of subjects, each by itself: float64 [s, r, r], symmetric."""
        from sklearn.covariance import ledoit_wolf

        arrays = [standardised(one) for one in series]
        if any(one.shape[-1] != len(self.reference) for one in arrays):
            raise BadSeries(f"series are not of the {len(self.reference)} regions of the reference")
        root = _of_eigenvalues(lambda value: 1 / np.sqrt(value), self.reference)
        seen = [root @ ledoit_wolf(one)[0] @ root for one in arrays]
        return np.stack([_of_eigenvalues(np.log, (one + one.T) / 2) for one in seen])

    def covariances(self, tangents: ArrayLike) -> Array:
        """Covariances that tangents are of: float64 [s, r, r]."""
        root = _of_eigenvalues(np.sqrt, self.reference)
        whole = [_of_eigenvalues(np.exp, one) for one in np.asarray(tangents, np.float64)]
        return np.stack([root @ one @ root for one in whole])


def _of_eigenvalues(function: Callable[[Array], Array], symmetric: Array) -> Array:
    values, vectors = np.linalg.eigh(symmetric)
    found: Array = (vectors * function(values)) @ vectors.T
    return found
