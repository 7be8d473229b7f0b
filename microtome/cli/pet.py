"""``microtome pet``: uptake and binding of regions, and partial volume correction."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    Atlas,
    AtlasNames,
    Jobs,
    LeaveOut,
    NewFolder,
    Overwrite,
    ResampleAtlas,
    console,
    exit_unless_all_done,
    number_range,
    run_with_progress,
)

if TYPE_CHECKING:
    from ..graphs.uptake import CurveRecipe, Uptake

pet_app = typer.Typer(
    name="pet",
    help="Regions of PET scans: curves, uptake ratios, binding, partial volume correction.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Scans (with --atlas), or files of curves: .tac, .voistat, .dft.", exists=True
    ),
]
Reference = Annotated[
    str, typer.Option(help="Reference region: its name, or a part of the names of several.")
]
Table = Annotated[Path, typer.Option("--out", "-o", help="CSV with a row a subject.")]
Frames = Annotated[
    Path | None,
    typer.Option(
        exists=True, help="Frame times: PMOD .acqtimes, BIDS .json; else the sidecar of a scan."
    ),
]
Corrected = Annotated[
    bool, typer.Option("--corrected", help="Of PMOD's curves those corrected for partial volume.")
]
Psf = Annotated[
    float | None,
    typer.Option("--psf-mm", min=0.1, help="Undo a blur of this FWHM in regions of a scan (GTM)."),
]


class Model(StrEnum):
    """How binding is worked out."""

    LOGAN = "logan"
    SRTM = "srtm"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(pet_app)


@pet_app.command()
def curves(
    inputs: Inputs,
    *,
    out: NewFolder,
    atlas: Atlas = None,
    atlas_names: AtlasNames = None,
    resample: ResampleAtlas = False,
    leave_out: LeaveOut = None,
    frames: Frames = None,
    corrected: Corrected = False,
    psf_mm: Psf = None,
) -> None:
    """Time-activity curves of dynamic scans, as PMOD's .tac: OUT/SUBJECT.tac.

    Example: [bold]microtome pet curves sub-*_pet.nii.gz --atlas aal.nii --resample -o curves[/]
    """
    from ..graphs.build import subject_of
    from ..graphs.time_activity_files import write_tac
    from ..graphs.uptake import curves_of

    recipe = _recipe(
        atlas, atlas_names, resample, leave_out, frames=frames, corrected=corrected, psf_mm=psf_mm
    )

    def keep(path: Path) -> int:
        found = curves_of(path, recipe)
        out.mkdir(parents=True, exist_ok=True)
        write_tac(out / f"{subject_of(path)}.tac", found)
        return len(found.frames)

    outcomes = run_with_progress(
        "curves", inputs, keep, name=subject_of, say=lambda n: f"{n} frames"
    )
    exit_unless_all_done(outcomes)


@pet_app.command()
def suvr(
    inputs: Inputs,
    *,
    reference: Reference,
    out: Table,
    window: Annotated[
        str | None,
        typer.Option(metavar="START:END", help="Of a dynamic scan, in seconds; whole frames."),
    ] = None,
    atlas: Atlas = None,
    atlas_names: AtlasNames = None,
    resample: ResampleAtlas = False,
    leave_out: LeaveOut = None,
    frames: Frames = None,
    corrected: Corrected = False,
    psf_mm: Psf = None,
    jobs: Jobs = 1,
) -> None:
    """Uptake of regions over that of a reference region.

    Examples:

    [bold]microtome pet suvr *.tac --reference cerebellum --window 3000:4200 -o suvr.csv[/]

    [bold]microtome pet suvr *_pet.nii.gz --atlas aal.nii --resample --reference cerebelum
    --psf-mm 6 -o suvr.csv[/]
    """
    from ..graphs.uptake import suvr_of

    recipe = _recipe(
        atlas, atlas_names, resample, leave_out, frames=frames, corrected=corrected, psf_mm=psf_mm
    )
    work = partial(
        suvr_of,
        recipe=recipe,
        reference=reference,
        window=None if window is None else number_range(window),
    )
    _tabulate("suvr", inputs, work, out, jobs=jobs)


@pet_app.command()
def binding(
    inputs: Inputs,
    *,
    reference: Reference,
    out: Table,
    model: Annotated[
        Model, typer.Option(help="Logan's plot, or the simplified reference tissue model.")
    ] = Model.LOGAN,
    t_star_s: Annotated[
        float | None,
        typer.Option(min=0, help="Logan: frames from here on; else the earliest within 10 %."),
    ] = None,
    k2_prime_per_min: Annotated[
        float | None, typer.Option(min=0, help="Logan: efflux constant of the reference.")
    ] = None,
    details: Annotated[
        Path | None, typer.Option(help="CSV with a row a region: DVR, R1, k2, t* …")
    ] = None,
    atlas: Atlas = None,
    atlas_names: AtlasNames = None,
    resample: ResampleAtlas = False,
    leave_out: LeaveOut = None,
    frames: Frames = None,
    corrected: Corrected = False,
    psf_mm: Psf = None,
    jobs: Jobs = 1,
) -> None:
    """Binding potential (BPnd) of regions from dynamic scans or curves.

    Example: [bold]microtome pet binding *.tac --reference cerebellum --t-star-s 1200 -o bp.csv[/]
    """
    from ..graphs.uptake import binding_of, write_details

    recipe = _recipe(
        atlas, atlas_names, resample, leave_out, frames=frames, corrected=corrected, psf_mm=psf_mm
    )
    work = partial(
        binding_of,
        recipe=recipe,
        reference=reference,
        model=model.value,
        t_star_s=t_star_s,
        k2_prime_per_min=k2_prime_per_min,
    )
    keep = None if details is None else partial(write_details, details)
    _tabulate("binding", inputs, work, out, jobs=jobs, also=keep)


@pet_app.command()
def correct(
    scan: Annotated[Path, typer.Argument(exists=True, help="One volume of PET.")],
    *,
    grey: Annotated[Path, typer.Option(exists=True, help="Fraction of grey matter, 0 to 1.")],
    white: Annotated[Path, typer.Option(exists=True, help="Fraction of white matter.")],
    psf_mm: Annotated[float, typer.Option(min=0.1, help="FWHM of the scanner's blur.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NIfTI to write.")],
    csf: Annotated[Path | None, typer.Option(exists=True, help="Fraction of fluid.")] = None,
    white_uptake: Annotated[
        float | None, typer.Option(help="Activity of white matter; else measured where pure.")
    ] = None,
    csf_uptake: Annotated[float, typer.Option(help="Activity of fluid.")] = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Grey matter of a scan without spill-out and without what shines in (Müller-Gärtner).

    Example: [bold]microtome pet correct pet.nii.gz --grey c1.nii --white c2.nii --psf-mm 6
    -o grey.nii.gz[/]
    """
    from ..engine.volumes import export_nifti
    from ..graphs.uptake import correct_scan

    corrected = correct_scan(
        scan,
        grey=grey,
        white=white,
        csf=csf,
        psf_mm=psf_mm,
        white_uptake=white_uptake,
        csf_uptake=csf_uptake,
    )
    export_nifti(corrected, out, overwrite=overwrite)
    console.print(f"corrected: {out}")


def _recipe(
    atlas: Path | None,
    names: Path | None,
    resample: bool,
    leave_out: list[str] | None,
    *,
    frames: Path | None,
    corrected: bool,
    psf_mm: float | None,
) -> CurveRecipe:
    """What all commands but ``correct`` say of their inputs."""
    from ..graphs.build import AtlasRecipe
    from ..graphs.uptake import CurveRecipe

    regions = AtlasRecipe(
        atlas=atlas, names=names, resample=resample, leave_out=tuple(leave_out or ())
    )
    return CurveRecipe(regions, frames, corrected, psf_mm)


def _tabulate(
    title: str,
    inputs: list[Path],
    work: Callable[[Path], Uptake],
    out: Path,
    *,
    jobs: int,
    also: Callable[[list[Uptake]], None] | None = None,
) -> None:
    from ..graphs.build import subject_of
    from ..graphs.uptake import write_uptake

    def say(found: Uptake) -> str:
        return f"{len(found.regions)} regions over {', '.join(found.reference)}"

    outcomes = run_with_progress(
        title,
        inputs,
        work,
        name=subject_of,
        jobs=jobs,
        ledger=out.with_suffix(".ledger.jsonl"),
        say=say,
    )
    made = [outcome.value for outcome in outcomes if outcome.value is not None]
    if made:
        write_uptake(out, made)
        console.print(f"{len(made)} rows in {out}")
    if made and also is not None:
        also(made)
    exit_unless_all_done(outcomes)
