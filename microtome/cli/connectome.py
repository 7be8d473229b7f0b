"""``microtome connectome``: build networks of the brain, measure and draw them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import compare, connectome_exchange, connectome_report, diagnose
from .common import (
    Connectomes,
    Jobs,
    Overwrite,
    Seed,
    console,
    exit_unless_all_done,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..graphs.cohorts import Measured
    from ..storage.connectomes import Connectome

connectome_app = typer.Typer(
    name="connectome",
    help="Brain networks from MRI, fMRI and PET: build, measure, compare, draw, diagnose.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Method(StrEnum):
    """How a network is made."""

    PEARSON = "pearson"
    PARTIAL = "partial"
    COVARIANCE = "covariance"
    JSSE = "jsse"
    KLSE = "klse"
    JSD = "jsd"
    KLS = "kls"
    MSN = "msn"
    EFFECT_SIZE = "effect-size"
    PERTURBATION = "perturbation"
    GROUP_COVARIANCE = "group-covariance"


class Rows(StrEnum):
    """What a row of a file of time series is."""

    TIME = "time"
    REGIONS = "regions"


class Keep(StrEnum):
    """Which edges are kept before a network is measured."""

    STRONGEST = "strongest"
    TREE = "tree"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    compare.register(connectome_app)
    connectome_report.register(connectome_app)
    connectome_exchange.register(connectome_app)
    diagnose.register(connectome_app)
    app.add_typer(connectome_app)


@connectome_app.command()
def build(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="One file of series or one scan a subject; a table; a folder.", exists=True
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.connectomes.zarr to write.")],
    method: Annotated[
        Method,
        typer.Option(
            help="pearson, partial, covariance: of time series (.csv .tsv .npy .mat .1D), or of "
            "BOLD scans with an atlas. jsse, klse: of PET, jsd, kls: of MRI, with an atlas. msn: "
            "of a folder of FreeSurfer tables or subjects. effect-size, perturbation: of each row "
            "of a table, beside --controls. group-covariance: of one table with a row a subject."
        ),
    ] = Method.PEARSON,
    fisher: Annotated[bool, typer.Option("--fisher", help="Fisher's z of correlations.")] = False,
    detrend: Annotated[
        bool, typer.Option("--detrend", help="Take a straight line out of each series.")
    ] = False,
    min_timepoints: Annotated[
        int, typer.Option(min=2, help="Reject series that are shorter.")
    ] = 10,
    rows: Annotated[
        Rows | None, typer.Option(help="What a row of a series file is, where it cannot be told.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Variable of .mat files, where there are several.")
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Names of the regions, one a line; of a table, its columns."
        ),
    ] = None,
    centroids: Annotated[
        Path | None, typer.Option(exists=True, help="Centroids of the regions: x y z in mm a line.")
    ] = None,
    atlas: Annotated[
        Path | None, typer.Option(exists=True, help="Label image that divides scans into regions.")
    ] = None,
    atlas_names: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Names of labels: SPM .xml, or a table with index and name."
        ),
    ] = None,
    coordinates: Annotated[
        Path | None,
        typer.Option(exists=True, help="Table with x, y, z (mm) of spheres, in place of an atlas."),
    ] = None,
    radius_mm: Annotated[float, typer.Option(min=0.1, help="Radius of the spheres.")] = 5.0,
    resample: Annotated[
        bool, typer.Option("--resample", help="Move labels to the scan's grid, nearest neighbour.")
    ] = False,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Region of the atlas to do without; may be repeated.")
    ] = None,
    drop_lost: Annotated[
        bool, typer.Option("--drop-lost", help="Do without regions that the scan does not reach.")
    ] = False,
    subject_column: Annotated[
        str | None, typer.Option(help="Column of a table that names the rows; the first one.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Region of a table of uptake to divide by (SUVR).")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="What a table was measured with; PET beside controls or sMRI."),
    ] = None,
    controls: Annotated[
        Path | None, typer.Option(exists=True, help="Table of people to compare each row with.")
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Time series, scans or tables to a cohort of connectomes.

    Writes OUT and, beside it, NAME.ledger.jsonl. What is done already, from the same inputs with
    the same options, is skipped.

    Examples:

    [bold]microtome connectome build series/*.csv --fisher -o rest[/]

    [bold]microtome connectome build hcp_*.mat --key tc --rows regions --method partial -o hcp[/]

    [bold]microtome connectome build sub-*_bold.nii.gz --coordinates power_2011.csv -o bold[/]

    [bold]microtome connectome build *_pet.nii.gz --method jsse --atlas aal.nii --resample -o pet[/]

    [bold]microtome connectome build suvr.csv --method effect-size --controls normal.csv -o es[/]

    [bold]microtome connectome build freesurfer/ --method msn -o morphometry[/]

    [bold]microtome connectome build thickness.csv --method group-covariance -o group[/]
    """
    from functools import partial

    from ..graphs.build import AtlasRecipe, SeriesRecipe
    from ..graphs.build_cohort import (
        BuildOptions,
        build_network,
        cohort_path,
        keep_networks,
        lost_regions,
        plan_build,
        stored_networks,
    )
    from ..storage.connectomes import SUFFIX

    options = BuildOptions(
        method=method.value,
        series=SeriesRecipe(
            fisher=fisher,
            min_timepoints=min_timepoints,
            detrend=detrend,
            rows=None if rows is None else rows.value,
            key=key,
            regions=regions,
            centroids=centroids,
        ),
        regions=AtlasRecipe(
            atlas=atlas,
            names=atlas_names,
            coordinates=coordinates,
            radius_mm=radius_mm,
            resample=resample,
            leave_out=tuple(leave_out or ()),
            drop_lost=drop_lost,
        ),
        subject_column=subject_column,
        reference=reference,
        modality=modality or ("sMRI" if controls is None else "PET"),
        controls=controls,
    )
    plan = plan_build(inputs, options)
    path = cohort_path(out)
    stored = stored_networks(plan, path, overwrite=overwrite)

    def say(made: Connectome) -> str:
        return f"{len(made.regions)} regions, {made.modality} {made.measure}"

    outcomes = run_with_progress(
        "build",
        plan.sources,
        partial(build_network, plan=plan, stored=stored),
        name=lambda source: source.subject,
        jobs=jobs,
        ledger=path.with_name(path.name.removesuffix(SUFFIX) + ".ledger.jsonl"),
        say=say,
    )
    made = [outcome.value for outcome in outcomes if outcome.value is not None]
    if len(made) > len(stored):
        kept = keep_networks(path, plan, made, overwrite=overwrite)
        lost = lost_regions(options.regions, kept.regions)
        if lost:
            console.print(f"without {len(lost)} regions beyond the scan: {', '.join(lost)}")
    if made:
        console.print(f"{len(made)} connectomes in {path}")
    exit_unless_all_done(outcomes)


@connectome_app.command()
def metrics(
    cohort: Connectomes,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV with a row a subject.")],
    nodal: Annotated[
        Path | None, typer.Option(help="CSV with a row for each region of each subject.")
    ] = None,
    density: Annotated[
        float, typer.Option(min=0.0001, max=1.0, help="Share of pairs that keep their edge.")
    ] = 0.15,
    keep: Annotated[
        Keep,
        typer.Option(
            help="strongest edges up to the density; tree: the spanning tree first; all edges."
        ),
    ] = Keep.STRONGEST,
    nulls: Annotated[
        int,
        typer.Option(
            min=0, help="Random networks of the same degrees to compare with: small-worldness."
        ),
    ] = 0,
    densities: Annotated[
        str | None,
        typer.Option(help="LOW:HIGH:STEP; also the area under each measure over these densities."),
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = 1,
) -> None:
    """Measures of every network: clustering, paths, efficiency, modules …

    Weights are divided by the largest of each network. An empty cell is a measure that is not
    defined. The ledger is beside the table.

    Examples:

    [bold]microtome connectome metrics rest.connectomes.zarr --density 0.15 -o rest.csv[/]

    [bold]microtome connectome metrics rest.connectomes.zarr --nulls 100 --densities 0.05:0.3:0.05
    -o rest.csv[/]
    """
    from functools import partial

    from ..graphs.cohorts import (
        density_range,
        measure_network,
        write_global_table,
        write_nodal_table,
    )
    from ..storage.connectomes import read_connectomes

    networks = read_connectomes(cohort)

    def say(made: Measured) -> str:
        words = ("clustering_weighted", "global_efficiency_weighted", "modularity_weighted")
        return ", ".join(f"{word} {made.whole[word]:.3f}" for word in words)

    outcomes = run_with_progress(
        "metrics",
        [networks[i] for i in range(len(networks))],
        partial(
            measure_network,
            density=density,
            keep=keep.value,
            nodal=nodal is not None,
            n_nulls=nulls,
            densities=density_range(densities) if densities else (),
            seed=seed,
        ),
        name=lambda network: network.subject,
        jobs=jobs,
        ledger=out.with_suffix(".ledger.jsonl"),
        say=say,
    )
    measured = [outcome.value for outcome in outcomes if outcome.value is not None]
    if measured:
        write_global_table(out, measured)
        console.print(f"{len(measured)} rows in {out}")
    if measured and nodal is not None:
        write_nodal_table(nodal, measured)
    exit_unless_all_done(outcomes)


@connectome_app.command()
def draw(
    cohort: Connectomes,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    subject: Annotated[
        str | None, typer.Option(help="Whose network; the mean of all by default.")
    ] = None,
    edges: Annotated[int, typer.Option(min=1, help="How many of the strongest to draw.")] = 150,
) -> None:
    """Picture of a network: from three sides, and as a matrix ordered by module.

    Example: [bold]microtome connectome draw rest.connectomes.zarr -o rest.png[/]
    """
    from ..graphs.cohorts import choose_network
    from ..graphs.plots import plot_connectome
    from ..storage.connectomes import read_connectomes

    plot_connectome(choose_network(read_connectomes(cohort), subject), out, max_edges=edges)
    console.print(f"drawn: {out}")
