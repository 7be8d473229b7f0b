"""Further ways in which time courses go together: information, rhythm, delay.

Pure functions of one subject's series, [t, r], as in :mod:`.functional`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import BadSeries
from .matrices import Array

Band = tuple[float, float]

_N_SEGMENTS = 8


def mutual_information(series: ArrayLike, *, n_bins: int | None = None) -> Array:
    r"""Normalised mutual information between all pairs: float64 [r, r], 0 … 1, 1 on the diagonal.

    .. math:: I(x, y) / \sqrt{H(x) H(y)}

    of ranks in bins of equal count, so that any monotonous change of a series leaves it as it is.
    Estimates from few time points are too high, the more so the more bins.

    Parameters
    ----------
    n_bins
        By default the cube root of the number of time points, at least 2.

    References
    ----------
    Strehl & Ghosh (2002), J. Mach. Learn. Res. 3:583, for the normalisation.
    """
    array = np.asarray(series, np.float64)
    t, r = array.shape
    bins = n_bins or max(2, round(np.cbrt(t)))
    if not 2 <= bins <= t:
        raise BadSeries(f"{t} time points do not fill {bins} bins")
    rank = array.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    which = rank * bins // t
    one_hot = (which[:, :, None] == np.arange(bins)).astype(np.float64).reshape(t, r * bins)
    joint = (one_hot.T @ one_hot).reshape(r, bins, r, bins).transpose(0, 2, 1, 3) / t
    both = -_plogp(joint).sum(axis=(2, 3))
    # A value has only itself for company on the diagonal: there both is the entropy of one.
    single = np.diag(both)
    shared = single[:, None] + single - both
    found: Array = np.clip(shared / np.sqrt(np.outer(single, single)), 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def coherence(series: ArrayLike, *, tr_s: float, band_hz: Band) -> Array:
    r"""Magnitude-squared coherence between all pairs, averaged over a band: float64 [r, r], 0 … 1.

    .. math:: C_{xy}(f) = |P_{xy}(f)|^2 / (P_{xx}(f) P_{yy}(f))

    with Welch's estimate over eight Hann windows that overlap by half. Unrelated series have about
    1/6 by chance.

    Parameters
    ----------
    tr_s
        Time between two points.
    band_hz
        Lowest and highest frequency, both included.

    Raises
    ------
    BadSeries
        No frequency of the estimate is in the band.

    References
    ----------
    Welch (1967), IEEE Trans. Audio Electroacoust. 15:70; Sun, Miller & D'Esposito (2004),
    NeuroImage 21:647.
    """
    from scipy.signal import csd

    array = np.asarray(series, np.float64).T
    width = 2 * array.shape[1] // (_N_SEGMENTS + 1)
    frequencies = np.fft.rfftfreq(max(width, 1), tr_s)
    inside = (frequencies >= band_hz[0]) & (frequencies <= band_hz[1])
    if not inside.any():
        raise BadSeries(
            f"no frequency of {array.shape[1]} time points every {tr_s:g} s is between "
            f"{band_hz[0]:g} and {band_hz[1]:g} Hz",
            remedy="Widen the band, or use longer series",
        )
    rows = [csd(one, array, fs=1 / tr_s, nperseg=width)[1][:, inside] for one in array]
    spectra = np.stack(rows)
    power = np.stack([spectra[i, i].real for i in range(len(array))])
    found: Array = (np.abs(spectra) ** 2 / (power[:, None] * power[None])).mean(axis=-1)
    found = np.clip((found + found.T) / 2, 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def lagged(series: ArrayLike, *, max_lag: int) -> tuple[Array, NDArray[np.int64]]:
    """Correlation of all pairs at the delay at which it is strongest.

    Parameters
    ----------
    max_lag
        Longest delay that is tried, in time points; parts that overlap are correlated.

    Returns
    -------
    float64 [r, r]
        The correlation of largest size, of either sign; symmetric, 1 on the diagonal.
    int64 [r, r]
        The delay: the row leads the column by so many time points. Of equal sizes the shortest.

    Raises
    ------
    BadSeries
        Fewer than three time points would overlap.
    """
    array = np.asarray(series, np.float64)
    if not 0 <= max_lag <= len(array) - 3:
        raise BadSeries(f"a delay of {max_lag} leaves too little of {len(array)} time points")
    peak = _shifted(array, 0)
    lag = np.zeros(peak.shape, np.int64)
    for delay in range(1, max_lag + 1):
        leads = _shifted(array, delay)
        for found, sign in ((leads, 1), (leads.T, -1)):
            better = np.abs(found) > np.abs(peak) + 1e-12
            peak = np.where(better, found, peak)
            lag[better] = sign * delay
    np.fill_diagonal(peak, 1.0)
    np.fill_diagonal(lag, 0)
    return peak, lag


def _shifted(array: Array, delay: int) -> Array:
    """Correlation of each row now with each column ``delay`` points later."""
    now, later = array[: len(array) - delay], array[delay:]
    z = [(part - part.mean(axis=0)) / part.std(axis=0) for part in (now, later)]
    found: Array = np.clip(z[0].T @ z[1] / len(now), -1.0, 1.0)
    return found if delay else (found + found.T) / 2


def _plogp(p: Array) -> Array:
    found: Array = p * np.log(p, out=np.zeros_like(p), where=p > 0)
    return found
