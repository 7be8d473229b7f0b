"""``microtome connectome build``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import connectome_report
from .common import (
    Atlas,
    AtlasNames,
    Jobs,
    LeaveOut,
    Overwrite,
    ResampleAtlas,
    console,
    exit_unless_all_done,
    number_range,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..storage.connectomes import Connectome


class Method(StrEnum):
    """How a network is made."""

    PEARSON = "pearson"
    PARTIAL = "partial"
    COVARIANCE = "covariance"
    PRECISION = "precision"
    LASSO = "lasso"
    MUTUAL_INFORMATION = "mutual-information"
    COHERENCE = "coherence"
    LAGGED = "lagged"
    JSSE = "jsse"
    KLSE = "klse"
    JSD = "jsd"
    KLS = "kls"
    MSN = "msn"
    MIND = "mind"
    EFFECT_SIZE = "effect-size"
    PERTURBATION = "perturbation"
    GROUP_COVARIANCE = "group-covariance"


class Rows(StrEnum):
    """What a row of a file of time series is."""

    TIME = "time"
    REGIONS = "regions"


def register(connectome_app: typer.Typer) -> None:
    """Add the command."""
    connectome_app.command()(build)


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
            help="pearson, partial, covariance, precision, lasso, mutual-information, coherence, "
            "lagged: of time series (.csv .tsv .npy .mat .1D), or of BOLD scans with an atlas. "
            "jsse, klse: of PET, jsd, kls: of MRI, with an atlas. msn: of a folder of FreeSurfer "
            "tables or subjects. mind: of each subject's folder of FreeSurfer. effect-size, "
            "perturbation: of each row of a table, beside "
            "--controls. group-covariance: of one table with a row a subject."
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
    confounds: Annotated[
        Path | None,
        typer.Option(exists=True, help="fMRIPrep's table, or a folder with one for each input."),
    ] = None,
    confound: Annotated[
        list[str] | None,
        typer.Option(help="Column to regress out, or motion-24, wm-csf, cosine …; repeatable."),
    ] = None,
    max_fd_mm: Annotated[
        float | None, typer.Option(min=0, help="Leave out time points that moved more.")
    ] = None,
    max_dvars: Annotated[
        float | None, typer.Option(min=0, help="Leave out time points of more std_dvars.")
    ] = None,
    low_pass_hz: Annotated[float | None, typer.Option(min=0, help="Keep slower than this.")] = None,
    high_pass_hz: Annotated[
        float | None, typer.Option(min=0, help="Keep faster than this.")
    ] = None,
    tr_s: Annotated[
        float | None, typer.Option(min=0.001, help="Time between points; else the scan's.")
    ] = None,
    band_hz: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Band of --method coherence.")
    ] = None,
    max_lag: Annotated[
        int, typer.Option(min=0, help="Longest delay of --method lagged, in time points.")
    ] = 3,
    atlas: Atlas = None,
    atlas_names: AtlasNames = None,
    coordinates: Annotated[
        Path | None,
        typer.Option(exists=True, help="Table with x, y, z (mm) of spheres, in place of an atlas."),
    ] = None,
    radius_mm: Annotated[float, typer.Option(min=0.1, help="Radius of the spheres.")] = 5.0,
    resample: ResampleAtlas = False,
    leave_out: LeaveOut = None,
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
    report: Annotated[
        Path | None, typer.Option(help="HTML file to show the networks in, too.")
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

    [bold]microtome connectome build *_desc-preproc_bold.nii.gz --atlas aal.nii --resample
    --confounds derivatives/ --confound motion-24 --confound wm-csf --max-fd-mm 0.5 -o bold[/]

    [bold]microtome connectome build *_pet.nii.gz --method jsse --atlas aal.nii --resample -o pet[/]

    [bold]microtome connectome build suvr.csv --method effect-size --controls normal.csv -o es[/]

    [bold]microtome connectome build freesurfer/ --method msn -o morphometry[/]

    [bold]microtome connectome build freesurfer/sub-* --method mind -o mind[/]

    [bold]microtome connectome build thickness.csv --method group-covariance -o group[/]
    """
    from functools import partial

    from ..graphs.build_cohort import (
        build_network,
        cohort_path,
        keep_networks,
        lost_regions,
        plan_build,
        stored_networks,
    )
    from ..graphs.functional import CORRELATIONS
    from ..storage.connectomes import SUFFIX
    from ..tasks.run.brain import build_options
    from ..tasks.run.parts import BuildPart

    if fisher and method.value not in CORRELATIONS:
        raise typer.BadParameter(f"--fisher is for correlations, not for {method.value}")
    part = BuildPart(
        inputs=tuple(inputs),
        method=method.value,
        fisher=fisher,
        detrend=detrend,
        min_timepoints=min_timepoints,
        rows=None if rows is None else rows.value,
        key=key,
        regions=regions,
        centroids=centroids,
        confounds=confounds,
        confound=tuple(confound or ()),
        max_fd_mm=max_fd_mm,
        max_dvars=max_dvars,
        low_pass_hz=low_pass_hz,
        high_pass_hz=high_pass_hz,
        tr_s=tr_s,
        band_hz=None if band_hz is None else number_range(band_hz),
        max_lag=max_lag,
        atlas=atlas,
        atlas_names=atlas_names,
        coordinates=coordinates,
        radius_mm=radius_mm,
        resample=resample,
        leave_out=tuple(leave_out or ()),
        drop_lost=drop_lost,
        subject_column=subject_column,
        reference=reference,
        modality=modality,
        controls=controls,
    )
    options = build_options(part)
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
    if made and report is not None:
        connectome_report.report(path, out=report, jobs=jobs)
    exit_unless_all_done(outcomes)
