"""``microtome cluster``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Bags, Out, Overwrite, Seed, console, exit_unless_all_done, run_with_progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cluster)


def cluster(
    bags: Bags,
    *,
    out: Out,
    method: Annotated[
        Literal["kmeans", "gmm", "hdbscan"],
        typer.Option(help="Mini-batch k-means, Gaussian mixture, or HDBSCAN."),
    ] = "kmeans",
    k: Annotated[
        int, typer.Option("--k", min=2, max=8, help="Clusters; HDBSCAN finds how many, up to 8.")
    ] = 6,
    cohort: Annotated[
        Path | None,
        typer.Option(help="Table with id, patient and site: do clusters tell the site?"),
    ] = None,
    per_bag: Annotated[
        int, typer.Option("--per-bag", min=1, help="Tiles of each slide to learn from, at most.")
    ] = 500,
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap resamples of the slides.")] = 10,
    map_by: Annotated[
        Literal["pca", "umap"],
        typer.Option("--map", help="Lay clusters.png out on two principal components, or by UMAP."),
    ] = "pca",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Group the tiles of a cohort by what they look like: one set of clusters for all slides.

    Writes OUT/<id>.clusters.geojson.gz for QuPath, OUT/composition.csv (share of each cluster in
    each slide), OUT/prototypes.csv (the tiles nearest to each centre), OUT/report.html with their
    pictures and a map of all, and OUT/clusters.json with stability and, with --cohort, whether
    composition tells the site.

    Example: [bold]microtome cluster bags --out clusters --cohort cohort.csv[/]
    """
    from functools import partial

    from ..report import write_report
    from ..report.clusters import cluster_report
    from ..storage.bag_records import bag_id, bags_in
    from ..storage.qupath_script import write_load_script
    from ..tasks.cluster_run import export_clusters, learn_clusters

    paths = bags_in(bags)
    found = learn_clusters(
        paths,
        out,
        method=method,
        k=k,
        cohort=cohort,
        per_bag=per_bag,
        resamples=resamples,
        map_by=map_by,
        seed=seed,
        overwrite=overwrite,
    )

    def say(tiles: int) -> str:
        return f"{tiles:,} tiles"

    work = partial(export_clusters, found=found, out=out)
    outcomes = run_with_progress("cluster", paths, work, name=bag_id, say=say)
    for line in found.lines():
        console.print(line, soft_wrap=True, markup=False)
    write_load_script(out)
    parameters = {"method": method, "k": str(k), "seed": str(seed), "slides": str(len(paths))}
    report = write_report(cluster_report(found, out, parameters), out / "report.html")
    console.print(f"report: {report}")
    exit_unless_all_done(outcomes)
