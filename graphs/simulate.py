"""A seeded cohort of regional time series whose truth is known: modules, planted edges, sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ..storage.errors import CohortError

_SEMI_AXES_MM = np.array([58.0, 82.0, 58.0])
_HALF_GAP_MM = np.array([4.0, 0.0, 0.0])
_CENTRE_MM = np.array([0.0, -18.0, 14.0])
_AUTOCORRELATION = 0.4
_N_OWN_FACTORS = 4


@dataclass(frozen=True, eq=False)
class SimulatedCohort:
    """Time series of a cohort, and what was planted in them.

    Attributes
    ----------
    series
        float64 [s, t, r]: one row a session.
    ids
        s unique names of the sessions (``sub-001_ses-1``).
    subjects
        s names of the people; those with two sessions occur twice. Split by these.
    labels
        int64 [s]: 0 control, 1 patient.
    sites
        s names of scanners; balanced over labels, so that a site says nothing about a label.
    regions
        r names, ``L-001`` and ``R-001`` mirrored.
    modules
        int64 [r]: the functional module of each region.
    planted
        bool [r, r]: edges whose correlation differs between the groups; symmetric.
    effect
        By how much, in population correlation.
    centroids_mm
        float64 [r, 3]: (x, y, z), RAS, in the shape and size of an MNI brain.
    tr_s
        Time between two samples.
    """

    series: NDArray[np.float64]
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: NDArray[np.int64]
    sites: tuple[str, ...]
    regions: tuple[str, ...]
    modules: NDArray[np.int64]
    planted: NDArray[np.bool_]
    effect: float
    centroids_mm: NDArray[np.float64]
    tr_s: float = 2.0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def planted_regions(self) -> NDArray[np.int64]:
        """Regions with a planted edge, ascending."""
        return np.flatnonzero(self.planted.any(axis=0)).astype(np.int64)


def simulate_cohort(
    n_subjects: int = 60,
    n_regions: int = 60,
    n_timepoints: int = 200,
    effect: float = 0.25,
    seed: int = 0,
    *,
    n_sites: int = 2,
    n_modules: int = 6,
    n_planted: int | None = None,
    repeated: float = 0.2,
    within_module: float = 0.3,
    common: float = 0.1,
    individual: float = 0.2,
) -> SimulatedCohort:
    r"""Draw a cohort from a Gaussian factor model with AR(1) dynamics.

    Region i of person s is

    .. math:: x_i = \sqrt{a}\,m_{k(i)} + \sqrt{b}\,g + w_{si} \cdot h_s + \sqrt{e_{si}}\,f
              + \sqrt{1 - a - b - c - e_{si}}\,\varepsilon_i

    with a module signal m, a signal g common to the brain, the person's own factors h (loadings w
    of squared norm c, the same in both sessions) and a factor f that only the planted regions of
    patients share (e is ``effect`` there, else 0). Every region keeps unit variance, so the
    population correlation of the planted edges is higher by exactly ``effect`` in patients, and
    that of every other edge equal. A scanner then adds global signal, noise, gain and baseline.

    Parameters
    ----------
    n_subjects
        People; half of them patients.
    effect
        Difference of the planted edges' correlation, before the scanner's noise; 0 plants none.
    n_planted
        Regions that the planted edges join, all with all, spread over the modules. By default an
        eighth of the regions, at least 4.
    repeated
        Fraction of the people with a second session.
    within_module, common, individual
        a, b, c above: shares of variance.

    Raises
    ------
    CohortError
        Too few people or regions, or shares of variance that add up to 1 or more.
    """
    if n_subjects < 4 or n_regions < 4 or n_timepoints < 2:
        raise CohortError("a simulated cohort needs at least 4 people, 4 regions and 2 time points")
    if min(effect, within_module, common, individual) < 0 or (
        effect + within_module + common + individual >= 1
    ):
        raise CohortError(
            "effect and shares of variance must be positive and add up to less than 1",
            remedy="Use a smaller effect",
        )
    rng = np.random.default_rng(seed)
    regions, centroids = _brain(n_regions)
    modules = _modules(centroids, min(n_modules, n_regions // 2))
    chosen = _spread(modules, n_planted or max(4, n_regions // 8), rng)
    labels, sites = _groups(n_subjects, n_sites, rng)
    scanners = [_Scanner.draw(rng, n_regions) for _ in range(n_sites)]
    model = _Model(modules, chosen, effect, within_module, common, individual)
    second = set(rng.permutation(n_subjects)[: round(repeated * n_subjects)].tolist())
    series, rows, ids = [], [], []
    for person in range(n_subjects):
        own = _own_loadings(rng, n_regions, individual)
        for session in range(2 if person in second else 1):
            clean = model.draw(rng, n_timepoints, own, patient=bool(labels[person]))
            series.append(scanners[sites[person]].measure(rng, clean))
            rows.append(person)
            ids.append(f"sub-{person + 1:03d}_ses-{session + 1}")
    planted = np.zeros((n_regions, n_regions), bool)
    if effect > 0:
        planted[np.ix_(chosen, chosen)] = True
        np.fill_diagonal(planted, False)
    return SimulatedCohort(
        series=np.stack(series),
        ids=tuple(ids),
        subjects=tuple(name.split("_")[0] for name in ids),
        labels=labels[rows],
        sites=tuple(f"site-{sites[person] + 1}" for person in rows),
        regions=regions,
        modules=modules,
        planted=planted,
        effect=effect,
        centroids_mm=centroids,
    )


@dataclass(frozen=True)
class _Model:
    modules: NDArray[np.int64]
    chosen: NDArray[np.int64]
    effect: float
    within_module: float
    common: float
    individual: float

    def draw(
        self,
        rng: np.random.Generator,
        n_timepoints: int,
        own: NDArray[np.float64],
        *,
        patient: bool,
    ) -> NDArray[np.float64]:
        r, k = len(self.modules), int(self.modules.max()) + 1
        streams = _autoregressive(rng, n_timepoints, r + k + own.shape[1] + 2)
        noise, module, shared = streams[:, :r], streams[:, r : r + k], streams[:, r + k :]
        extra = np.zeros(r)
        if patient:
            extra[self.chosen] = self.effect
        rest = 1 - self.within_module - self.common - self.individual - extra
        signal: NDArray[np.float64] = (
            np.sqrt(self.within_module) * module[:, self.modules]
            + np.sqrt(self.common) * shared[:, :1]
            + np.sqrt(extra) * shared[:, 1:2]
            + shared[:, 2:] @ own.T
            + np.sqrt(rest) * noise
        )
        return signal


@dataclass(frozen=True)
class _Scanner:
    gain: NDArray[np.float64]
    baseline: NDArray[np.float64]
    noise: float
    global_signal: float

    @classmethod
    def draw(cls, rng: np.random.Generator, n_regions: int) -> _Scanner:
        return cls(
            gain=rng.uniform(5, 15) * rng.uniform(0.8, 1.2, n_regions),
            baseline=rng.uniform(800, 1200, n_regions),
            noise=float(rng.uniform(0.1, 0.4)),
            global_signal=float(rng.uniform(0.05, 0.35)),
        )

    def measure(self, rng: np.random.Generator, clean: NDArray[np.float64]) -> NDArray[np.float64]:
        breathing = _autoregressive(rng, len(clean), 1) * self.global_signal
        thermal = rng.standard_normal(clean.shape) * self.noise
        return self.baseline + self.gain * (clean + breathing + thermal)


def _autoregressive(rng: np.random.Generator, n: int, streams: int) -> NDArray[np.float64]:
    innovations = rng.standard_normal((n, streams)) * np.sqrt(1 - _AUTOCORRELATION**2)
    innovations[0] /= np.sqrt(1 - _AUTOCORRELATION**2)
    return np.asarray(lfilter([1.0], [1.0, -_AUTOCORRELATION], innovations, axis=0), np.float64)


def _own_loadings(rng: np.random.Generator, n_regions: int, share: float) -> NDArray[np.float64]:
    raw = rng.standard_normal((n_regions, _N_OWN_FACTORS))
    loadings: NDArray[np.float64] = raw * np.sqrt(share) / np.linalg.norm(raw, axis=1)[:, None]
    return loadings


def _groups(
    n: int, n_sites: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = rng.permutation(n)
    labels, sites = np.empty(n, np.int64), np.empty(n, np.int64)
    labels[order], sites[order] = np.arange(n) % 2, np.arange(n) // 2 % n_sites
    return labels, sites


def _brain(n_regions: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Points spread evenly over half an ellipsoid (golden spiral), and mirrored."""
    n = (n_regions + 1) // 2
    i = np.arange(n)
    x = -(i + 0.5) / n
    turn = i * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - x**2)
    left = np.stack([x, radius * np.cos(turn), radius * np.sin(turn)], axis=1) * _SEMI_AXES_MM
    left -= _HALF_GAP_MM
    both: NDArray[np.float64] = np.stack([left, left * [-1, 1, 1]], axis=1).reshape(-1, 3)
    both += _CENTRE_MM
    names = tuple(f"{side}-{k + 1:03d}" for k in range(n) for side in "LR")
    return names[:n_regions], both[:n_regions]


def _modules(centroids_mm: NDArray[np.float64], n_modules: int) -> NDArray[np.int64]:
    """Bands from front to back, each in both hemispheres."""
    rank = np.argsort(np.argsort(-centroids_mm[:, 1], kind="stable"), kind="stable")
    return (rank // 2 * n_modules // ((len(rank) + 1) // 2)).astype(np.int64)


def _spread(modules: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose n regions, one of each module in turn."""
    shuffled = rng.permutation(len(modules))
    turn = np.empty(len(modules), np.int64)
    for module in np.unique(modules):
        members = shuffled[modules[shuffled] == module]
        turn[members] = np.arange(len(members))
    order = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return np.sort(order[:n]).astype(np.int64)
