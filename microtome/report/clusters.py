"""The report of clusters: what they look like, what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ..tasks.cluster_run import CAVEAT, FoundClusters
from .model import BrainSection, Picture, Report
from .render import versions

LIMITS = (
    f"Nobody told the program what is in a tile: {CAVEAT}.",
    "Clusters are of the slides that they were fitted on.",
    "For research; not for diagnosis.",
)


def cluster_report(found: FoundClusters, folder: Path, parameters: Mapping[str, str]) -> Report:
    """A report of the clusters that lie in ``folder``."""
    shown = [(name, folder / file) for name, file in found.pictures.items()]
    galleries = tuple(
        Picture(path, f"Tiles nearest to the centre of {name}", f"{name}, nearest to its centre")
        for name, path in shown
    )
    maps = Picture(
        folder / "clusters.png",
        "Tiles that were learnt from, coloured by cluster",
        f"Tiles that were learnt from, {found.map_words}",
    )
    return Report(
        title="Clusters of tiles",
        summary=f"{len(found.vocabulary)} clusters by {found.vocabulary.method}.",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        brain=BrainSection(
            ". ".join(found.lines()), pictures=(*galleries, maps), title="What they look like"
        ),
        parameters=parameters,
        versions=versions(("microtome", "scikit-learn", "umap-learn")),
        limits=LIMITS,
    )
