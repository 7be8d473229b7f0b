"""Tiles grouped by what they look like, without labels: a first map of an unknown slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.slides.base import Slide
from ..storage.bags import Bag
from ..storage.qupath import PathClass
from .heatmap import HeatmapProducts, export_qupath, notes, save_picture
from .overlay import DISTINCT, colourise, with_key
from .picture import MAX_PX, blend, canvas_for, layers
from .rasters import rasterise

MAX_CLUSTERS = len(DISTINCT)


@dataclass(frozen=True)
class Clusters:
    """Tiles of one bag in groups.

    Attributes
    ----------
    index
        int64 [n]: the cluster of each tile; 0 is the largest.
    distance
        float32 [n]: how far a tile lies from its cluster's centre, in standard deviations of the
        bag's features: large for what fits nowhere.
    count
        How many clusters there are: at most as many as were asked for.
    """

    index: NDArray[np.int64]
    distance: NDArray[np.float32]
    count: int

    @property
    def names(self) -> tuple[str, ...]:
        """``Cluster 1`` …, the largest first."""
        return tuple(f"Cluster {number}" for number in range(1, self.count + 1))


def cluster_tiles(bag: Bag, k: int = 5, *, seed: int = 0, components: int = 16) -> Clusters:
    """Group a bag's tiles by k-means on the leading principal components of their features.

    Features are brought to zero mean and unit variance within the bag first; constant ones are
    dropped. Nothing is said of what a cluster is: that is for a pathologist.

    Parameters
    ----------
    k
        Clusters asked for, 1 … 8: as many as there are colours that everybody can tell apart.
    components
        Principal components to keep.

    References
    ----------
    Sculley (2010), Web-scale k-means clustering, WWW: the mini-batch algorithm.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    if not 1 <= k <= MAX_CLUSTERS:
        raise ValueError(f"k must be 1 … {MAX_CLUSTERS}, not {k}")
    features = bag.features.astype(np.float64)
    spread = features.std(axis=0)
    varies = spread > 1e-12
    scaled = (features[:, varies] - features[:, varies].mean(axis=0)) / spread[varies]
    distinct = len(np.unique(scaled, axis=0))
    if min(k, distinct) < 2:
        return Clusters(np.zeros(len(bag), np.int64), np.zeros(len(bag), np.float32), 1)
    kept = min(components, *scaled.shape)
    reduced = PCA(kept, svd_solver="full", random_state=seed).fit_transform(scaled)
    means = MiniBatchKMeans(min(k, distinct), n_init=10, random_state=seed).fit(reduced)
    found, index = np.unique(means.labels_, return_inverse=True)
    order = np.argsort(-np.bincount(index), kind="stable")
    place = np.argsort(order)
    distance = np.linalg.norm(reduced - means.cluster_centers_[means.labels_], axis=1)
    return Clusters(place[index], (distance / np.sqrt(kept)).astype(np.float32), len(found))


def cluster_map(
    bag: Bag,
    out: Path,
    k: int = 5,
    *,
    seed: int = 0,
    slide: Slide | None = None,
    crop: bool = True,
    max_px: int = MAX_PX,
) -> HeatmapProducts:
    """Write ``<id>.clusters.geojson.gz`` with a class a cluster, and ``<id>.clusters.png``.

    Parameters
    ----------
    slide
        The opened slide; without it the picture is left out.
    crop
        False keeps the whole of level 0 where a slide states bounds, as QuPath's ``--no-crop``.
    """
    clusters = cluster_tiles(bag, k, seed=seed)
    path = out / f"{bag.id}.clusters.geojson.gz"
    export = export_qupath(
        bag,
        path,
        columns={
            "cluster": clusters.index + 1,
            "cluster distance": clusters.distance,
            **bag.quality,
        },
        classes=tuple(map(PathClass, clusters.names, DISTINCT)),
        class_index=clusters.index,
        kind="cluster",
        crop=crop,
        about={"clusters": clusters.count, "seed": seed},
    )
    canvas = canvas_for(bag, slide, crop=crop, max_px=max_px)
    table = np.array(DISTINCT[: clusters.count], np.uint8)
    # Where tiles overlap, the cluster of most of them.
    shares = [
        rasterise(bag, clusters.index == number, canvas.downsample, canvas.shape)
        for number in range(clusters.count)
    ]
    most = np.where(np.isnan(shares[0]), np.nan, np.argmax(shares, axis=0))
    colours = colourise(most, table, high=max(1, clusters.count - 1))
    picture = blend(canvas, colours)
    overlay = None
    if picture is not None:
        overlay = out / f"{bag.id}.clusters.png"
        save_picture(overlay, with_key(picture, DISTINCT, clusters.names, "looks alike"))
    return HeatmapProducts(
        id=bag.id,
        geojson=path,
        overlay=overlay,
        objects=export.objects,
        layers=layers(canvas, colours),
        notes=tuple(notes(export, canvas)),
    )
