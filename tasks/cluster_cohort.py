"""Tiles of a whole cohort in clusters: one vocabulary for all slides, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .evaluation import auc, grouped_folds, permute_labels

Method = Literal["kmeans", "gmm", "hdbscan"]
METHODS: tuple[Method, ...] = get_args(Method)
Features = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Vocabulary:
    """Clusters found in the tiles of some slides, to be read in any.

    Attributes
    ----------
    mean, deviation
        float [d]: how features are standardised; constant ones become 0.
    axes
        float [p, d]: principal components that are kept.
    prototypes
        float [k, p]: the centre of each cluster, the most frequent first.
    reach
        float [k]: beyond this distance from its prototype a tile is of no cluster; infinite but
        for HDBSCAN, where it is that of the farthest tile that was fitted.
    precisions
        float [k, p, p] and log_weights [k], for the Gaussian mixture only: its posterior decides.
    """

    method: Method
    mean: Points
    deviation: Points
    axes: Points
    prototypes: Points
    reach: Points
    precisions: Points | None = None
    log_weights: Points | None = None

    def __len__(self) -> int:
        return len(self.prototypes)

    def reduced(self, features: Features) -> Points:
        """Standardise features [n, d] and project them: [n, p]."""
        scaled = (features.astype(np.float64) - self.mean) / self.deviation
        reduced: Points = scaled @ self.axes.T
        return reduced

    def distances(self, features: Features) -> Points:
        """Distance of tiles [n, d] from the prototypes: [n, k]."""
        points = self.reduced(features)
        apart = points[:, None] - self.prototypes[None]
        distances: Points = np.sqrt((apart**2).sum(-1))
        return distances

    def assign(self, features: Features) -> NDArray[np.int64]:
        """Cluster of each tile [n, d]: int [n], -1 for none."""
        distances = self.distances(features)
        if self.precisions is not None and self.log_weights is not None:
            apart = self.reduced(features)[:, None] - self.prototypes[None]
            squared = np.einsum("nkp,kpq,nkq->nk", apart, self.precisions, apart)
            _, log_determinants = np.linalg.slogdet(self.precisions)
            chosen = (self.log_weights + (log_determinants - squared) / 2).argmax(1)
        else:
            chosen = distances.argmin(1)
        near = distances[np.arange(len(chosen)), chosen] <= self.reach[chosen]
        return np.where(near, chosen, -1)


def sample(
    bags: Sequence[Features], per_bag: int, *, seed: int
) -> tuple[Features, NDArray[np.int64]]:
    """At most so many tiles of each bag, so that no large slide rules: [m, d], and bags [m]."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(len(bag))[:per_bag] for bag in bags]
    of_bag = np.repeat(np.arange(len(bags)), [len(chosen) for chosen in rows])
    taken = [bag[np.sort(chosen)] for bag, chosen in zip(bags, rows, strict=True)]
    return np.concatenate(taken), of_bag


def fit_vocabulary(
    tiles: Features, method: Method = "kmeans", k: int = 8, *, seed: int = 0, components: int = 16
) -> Vocabulary:
    """Cluster tiles [m, d] on the leading principal components of their standardised features.

    Parameters
    ----------
    method
        Mini-batch k-means (Sculley 2010); a Gaussian mixture with full covariances (EM); HDBSCAN
        (Campello, Moulavi & Sander 2013), which finds the number of clusters itself and leaves
        tiles out.
    k
        Clusters; for HDBSCAN a cluster has at least 1 / (10 k) of the tiles.

    Raises
    ------
    ValueError
        Fewer distinct tiles than clusters, or, with HDBSCAN, no cluster at all.
    """
    x = tiles.astype(np.float64)
    mean, spread = x.mean(0), x.std(0)
    deviation = np.where(spread > 1e-6 * np.abs(mean) + 1e-12, spread, np.inf)
    scaled = (x - mean) / deviation
    if len(np.unique(scaled, axis=0)) < k:
        raise ValueError(f"fewer than {k} tiles differ: no {k} clusters")
    axes = np.linalg.svd(scaled, full_matrices=False)[2][:components]
    points = scaled @ axes.T
    labels, centres, precisions, weights = _cluster(points, method, k, seed)
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    reach = np.full(len(order), np.inf)
    if method == "hdbscan":
        centres = np.stack([points[labels == c].mean(0) for c in order])
        apart = [
            np.linalg.norm(points[labels == c] - m, axis=1)
            for c, m in zip(order, centres, strict=True)
        ]
        reach = np.array([distances.max() for distances in apart])
    else:
        centres = centres[order]
    mixture = precisions is not None and weights is not None
    return Vocabulary(
        method,
        mean,
        deviation,
        axes,
        centres,
        reach,
        precisions[order] if mixture else None,
        np.log(weights[order]) if mixture else None,
    )


def _cluster(points: Points, method: Method, k: int, seed: int) -> tuple[Any, Any, Any, Any]:
    """Labels [m], centres [k, p], and of a mixture precisions and weights."""
    if method == "kmeans":
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(k, n_init=10, random_state=seed).fit(points)
        return means.labels_, means.cluster_centers_, None, None
    if method == "gmm":
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(k, random_state=seed, reg_covar=1e-4).fit(points)
        return mixture.predict(points), mixture.means_, mixture.precisions_, mixture.weights_
    from sklearn.cluster import HDBSCAN

    smallest = max(5, len(points) // (10 * k))
    labels = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(points)
    if labels.max() < 0:
        raise ValueError("HDBSCAN finds no cluster: all tiles are noise to it")
    return labels, None, None, None


def composition(index: Sequence[NDArray[np.int64]], k: int) -> Points:
    """Share of each cluster in each bag: [b, k + 1], the last of tiles in none."""
    rows = [np.bincount(np.where(i < 0, k, i), minlength=k + 1) / len(i) for i in index]
    return np.stack(rows).astype(np.float64)


@dataclass(frozen=True)
class Stability:
    """How alike clusters of resampled slides are to those of all; 1 is the same, 0 chance.

    Attributes
    ----------
    ari, ami
        float [n]: adjusted Rand index and adjusted mutual information of each resample.
    """

    ari: Points
    ami: Points


def stability(
    bags: Sequence[Features],
    vocabulary: Vocabulary,
    *,
    k: int,
    per_bag: int = 100,
    n: int = 10,
    seed: int = 0,
) -> Stability:
    """Fit again on slides drawn with replacement, and hold both readings of all tiles together.

    References
    ----------
    Hubert & Arabie (1985), Comparing partitions; Vinh, Epps & Bailey (2010), Information
    theoretic measures for clusterings comparison; the bootstrap of Hennig (2007), Cluster-wise
    assessment of cluster stability.
    """
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    tiles, _ = sample(bags, per_bag, seed=seed)
    first = vocabulary.assign(tiles)
    rng = np.random.default_rng(seed)
    ari, ami = [], []
    for turn in range(n):
        drawn = [bags[i] for i in rng.integers(0, len(bags), len(bags))]
        taken, _ = sample(drawn, per_bag, seed=seed + turn + 1)
        again = fit_vocabulary(taken, vocabulary.method, k, seed=seed + turn + 1).assign(tiles)
        ari.append(adjusted_rand_score(first, again))
        ami.append(adjusted_mutual_info_score(first, again))
    return Stability(np.array(ari), np.array(ami))


@dataclass(frozen=True)
class SiteTest:
    """Whether the composition of slides gives their site away.

    Attributes
    ----------
    auc
        Of patients that were not fitted on; one half by chance. Macro average over the sites.
    p
        How often sites exchanged between patients, and learnt anew, are told as well.
    folds
        By patient.
    """

    auc: float
    p: float
    folds: int
    slides: int


def site_test(
    shares: Points,
    sites: NDArray[Any],
    patients: NDArray[Any],
    *,
    n_folds: int = 5,
    n: int = 200,
    seed: int = 0,
) -> SiteTest:
    """Predict the site from the composition [b, k], cross-validated by patient.

    The classifier is fitted anew for every permutation: the p-value of what is learnt, not of a
    fixed score. Phipson & Smyth (2010): never 0.

    Raises
    ------
    LabelError
        One site only, or a site with fewer patients than two.
    """
    names, truth = np.unique(sites, return_inverse=True)
    scarcest = min(len(np.unique(patients[truth == s])) for s in range(len(names)))
    folds = grouped_folds(truth, patients, max(2, min(n_folds, scarcest)), seed=seed)

    def told(y: NDArray[np.int64]) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        said = np.zeros((len(y), len(names)))
        for fold in folds:
            logistic = LogisticRegression(class_weight="balanced")
            model = make_pipeline(StandardScaler(), logistic)
            if len(np.unique(y[fold.train])) < 2:
                continue
            model.fit(shares[fold.train], y[fold.train])
            said[np.ix_(fold.test, model.classes_)] = model.predict_proba(shares[fold.test])
        return auc(y, said[:, 1] if len(names) == 2 else said)

    rng, found = np.random.default_rng(seed), told(truth)
    hits = sum(told(permute_labels(truth, patients, rng)) >= found for _ in range(n))
    return SiteTest(found, (1 + hits) / (1 + n), len(folds), len(truth))
