"""``microtome cluster``: bags in; composition, prototypes, stability, QuPath tiles out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage.bags import Bag, read_bag
from ..storage.commit import writable, write_bytes, write_text
from ..storage.errors import CohortError, InputError, StaleProduct
from ..storage.qupath import PathClass
from .cluster_cohort import (
    Method,
    SiteTest,
    Stability,
    Vocabulary,
    composition,
    fit_vocabulary,
    sample,
    site_test,
    stability,
)
from .cluster_gallery import GREY, Map, gallery, placed, scatter
from .evaluation import some
from .heatmap import export_qupath
from .overlay import DISTINCT, as_png

N_NEAREST = 10
NONE = PathClass("No cluster", GREY)
CAVEAT = "what a cluster is, is for a pathologist to say"


@dataclass(frozen=True)
class FoundClusters:
    """Clusters of a cohort and what is known of them.

    Attributes
    ----------
    pictures
        Files of the nearest tiles, by name of the cluster, relative to the folder of all.
    map_by
        How ``clusters.png`` was laid out.
    """

    vocabulary: Vocabulary
    stability: Stability
    sites: SiteTest | None
    seed: int
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    map_by: Map = "pca"

    @property
    def map_words(self) -> str:
        """How the map was laid out, in words."""
        return "by UMAP" if self.map_by == "umap" else "on their first two principal components"

    @property
    def names(self) -> tuple[str, ...]:
        """``Cluster 1`` …, the most frequent first."""
        return tuple(f"Cluster {number + 1}" for number in range(len(self.vocabulary)))

    def record(self) -> dict[str, Any]:
        """What ``clusters.json`` holds."""
        sites = self.sites
        return {
            "method": self.vocabulary.method,
            "clusters": len(self.vocabulary),
            "seed": self.seed,
            "map": self.map_by,
            "stability": {
                name: {
                    "mean": float(values.mean()),
                    "low": float(values.min()),
                    "high": float(values.max()),
                    "resamples": len(values),
                }
                for name, values in (("ari", self.stability.ari), ("ami", self.stability.ami))
            },
            "site": None
            if sites is None
            else {"auc": sites.auc, "p": sites.p, "folds": sites.folds, "slides": sites.slides},
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The same in words."""
        ari = self.stability.ari
        span = f"ARI {ari.mean():.2f} [{ari.min():.2f}, {ari.max():.2f}]"
        steady = f"{span}, AMI {self.stability.ami.mean():.2f}"
        said = [
            f"{len(self.vocabulary)} clusters by {self.vocabulary.method}; {CAVEAT}",
            f"stability, {len(ari)} resamples of the slides: {steady}",
        ]
        if self.sites is not None:
            said.append(
                f"site told from composition: AUC {self.sites.auc:.2f}, p = {self.sites.p:.3f} "
                f"({self.sites.slides} slides, {self.sites.folds} folds by patient)"
            )
        return [*said, *self.notes]


def learn_clusters(
    paths: Sequence[Path],
    out: Path,
    *,
    method: Method = "kmeans",
    k: int = 6,
    cohort: Path | None = None,
    per_bag: int = 500,
    resamples: int = 10,
    map_by: Map = "pca",
    seed: int = 0,
    overwrite: bool = False,
) -> FoundClusters:
    """Fit on all bags; write composition, prototypes, pictures of the clusters and a record.

    Raises
    ------
    InputError
        Bags of other encoders together, bags of scans, or too few tiles that differ.
    StaleProduct
        ``out`` holds clusters already and ``overwrite`` is false.
    CohortError, LabelError
        The table is wrong, lacks a slide or its site, or has a single site.
    """
    if (out / "clusters.json").exists() and not overwrite:
        raise StaleProduct(
            "clusters are here already",
            where=out / "clusters.json",
            remedy="Choose another --out, or pass --overwrite to replace them",
        )
    bags = [read_bag(path) for path in paths]
    _require_alike(bags)
    features = [bag.features for bag in bags]
    try:
        tiles, _ = sample(features, per_bag, seed=seed)
        vocabulary = fit_vocabulary(tiles, method, k, seed=seed)
    except ValueError as error:
        raise InputError(str(error), remedy="Use fewer clusters with --k") from error
    if len(vocabulary) > len(DISTINCT):
        raise InputError(
            f"{len(vocabulary)} clusters; there are colours for {len(DISTINCT)}",
            remedy="Use a smaller --k: clusters then have more tiles",
        )
    index = [vocabulary.assign(of_bag) for of_bag in features]
    shares = composition(index, len(vocabulary))
    tested = None if cohort is None else _sites(cohort, bags, shares, seed)
    # Resamples are fitted to few tiles: a tile's cluster there is all that is asked.
    steady = stability(features, vocabulary, k=k, n=resamples, seed=seed)
    found = FoundClusters(vocabulary, steady, tested, seed, map_by=map_by)
    return _write(out, bags, found, shares, tiles)


def _require_alike(bags: Sequence[Bag]) -> None:
    scans = [bag.id for bag in bags if bag.scan is not None]
    if scans:
        raise InputError(f"bags of scans have no tiles: {some(scans)}", remedy="Name slides' bags")
    kinds = sorted({f"{bag.encoder} at {bag.mpp:g} µm/px, {bag.features.shape[1]}" for bag in bags})
    if len(kinds) > 1:
        raise InputError(
            f"bags of {len(kinds)} encoders: {some(kinds)}", remedy="Encode all slides alike"
        )


def _sites(cohort: Path, bags: Sequence[Bag], shares: NDArray[Any], seed: int) -> SiteTest:
    from .cohort import read_cohort

    cases = {case.id: case for case in read_cohort(cohort, needs=("site",)).cases}
    lost = [bag.id for bag in bags if bag.id not in cases or not cases[bag.id].site]
    if lost:
        raise CohortError(f"no site is given of {some(lost)}", where=cohort)
    sites = np.array([cases[bag.id].site for bag in bags])
    patients = np.array([cases[bag.id].patient for bag in bags])
    return site_test(shares, sites, patients, seed=seed)


def _write(
    out: Path,
    bags: Sequence[Bag],
    found: FoundClusters,
    shares: NDArray[np.float64],
    tiles: NDArray[np.float32],
) -> FoundClusters:
    import pandas as pd

    table = pd.DataFrame(shares, columns=[*found.names, "none"])
    table.insert(0, "id", [bag.id for bag in bags])
    nearest = nearest_tiles(bags, found.vocabulary)
    shown, notes = gallery(bags, nearest)
    pictures = {found.names[number - 1]: f"gallery/cluster-{number}.png" for number in shown}
    found = replace(found, notes=(*found.notes, *notes), pictures=pictures)
    at = placed(found.vocabulary.reduced(tiles), found.map_by, seed=found.seed)
    images = {
        **{f"gallery/cluster-{number}.png": as_png(image) for number, image in shown.items()},
        "clusters.png": scatter(at, found.vocabulary.assign(tiles), found.names, found.map_by),
    }
    files = {
        "composition.csv": table.to_csv(index=False),
        "prototypes.csv": nearest.to_csv(index=False),
        "clusters.json": json.dumps(found.record(), indent=1),
    }
    for name, image in images.items():
        with writable(out / name):
            write_bytes(out / name, image)
    for name, text in files.items():
        with writable(out / name):
            write_text(out / name, text)
    return found


def nearest_tiles(bags: Sequence[Bag], vocabulary: Vocabulary, count: int = N_NEAREST) -> Any:
    """The tiles nearest to each prototype, one of a slide before a second: a data frame.

    Columns ``cluster``, ``id``, ``y_px``, ``x_px`` (top left corner, level 0) and ``distance``.
    """
    import pandas as pd

    parts = []
    for bag in bags:
        index = vocabulary.assign(bag.features)
        distance = vocabulary.distances(bag.features)[np.arange(len(bag)), index]
        parts.append(
            pd.DataFrame(
                {
                    "cluster": index + 1,
                    "id": bag.id,
                    "y_px": bag.coords_px[:, 0],
                    "x_px": bag.coords_px[:, 1],
                    "distance": distance,
                }
            )
        )
    tiles = pd.concat(parts)
    tiles = tiles[tiles["cluster"] > 0].sort_values("distance", kind="stable")
    turn = tiles.groupby(["cluster", "id"]).cumcount()
    ordered = tiles.assign(turn=turn).sort_values(["cluster", "turn", "distance"], kind="stable")
    return ordered.groupby("cluster").head(count).drop(columns="turn")


def export_clusters(path: Path, *, found: FoundClusters, out: Path) -> int:
    """Write ``<id>.clusters.geojson.gz`` of a bag; how many tiles there are."""
    bag = read_bag(path)
    index = found.vocabulary.assign(bag.features)
    distance = found.vocabulary.distances(bag.features).min(1).astype(np.float32)
    export = export_qupath(
        bag,
        out / f"{bag.id}.clusters.geojson.gz",
        columns={"cluster": index + 1, "cluster distance": distance, **bag.quality},
        classes=(*map(PathClass, found.names, DISTINCT), NONE),
        class_index=np.where(index < 0, len(found.names), index),
        kind="cluster",
        about={"clusters": len(found.names), "seed": found.seed},
    )
    return export.objects
