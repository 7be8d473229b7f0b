"""``microtome connectome export`` and ``import``: networks to and from files of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .common import Connectomes, NewFolder, Overwrite, console


class Format(StrEnum):
    """What a network is written as."""

    CSV = "csv"
    TSV = "tsv"
    NPY = "npy"
    MAT = "mat"
    GRAPHML = "graphml"


def register(connectome_app: typer.Typer) -> None:
    """Add the commands."""
    connectome_app.command("export")(export_cohort)
    connectome_app.command("import")(import_files)


def export_cohort(
    cohort: Connectomes,
    *,
    out: NewFolder,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="csv: with region names. tsv: with names and a .json as in BIDS. npy: bare. mat: "
            "MATLAB 5. graphml: for networkx, igraph, Gephi, Cytoscape.",
        ),
    ] = Format.CSV,
) -> None:
    """Every network of a cohort as a file of its own.

    Example: [bold]microtome connectome export rest.connectomes.zarr --format graphml -o rest[/]
    """
    from ..graphs.exchange import export_networks
    from ..storage.connectomes import read_connectomes

    written = export_networks(read_connectomes(cohort), out, f".{form.value}")
    console.print(f"{len(written)} networks in {out}")


def import_files(
    files: Annotated[list[Path], typer.Argument(help="One network a file.", exists=True)],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.connectomes.zarr to write.")],
    measure: Annotated[
        str | None, typer.Option(help="What a weight is, where files do not say: streamlines …")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="What it was measured with, where files do not say: dMRI …")
    ] = None,
    directed: Annotated[
        bool | None,
        typer.Option("--directed/--undirected", help="Whether weights differ with direction."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Variable of .mat files.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Networks made elsewhere, one a file, to a cohort.

    Reads .csv (region names in first row and column), .tsv and .npy (bare), .mat and .graphml.

    Example: [bold]microtome connectome import tracts/*.csv --measure streamlines --modality dMRI
    -o tracts[/]
    """
    from ..graphs.build_cohort import cohort_path
    from ..graphs.exchange import import_networks
    from ..storage.commit import file_identity, product_key
    from ..storage.connectomes import KIND, write_connectomes

    cohort = import_networks(files, measure=measure, modality=modality, directed=directed, key=key)
    path = cohort_path(out)
    said = [measure, modality, directed, key]
    identity = product_key(kind=KIND, inputs=[file_identity(file) for file in files], said=said)
    write_connectomes(path, cohort, key=identity, about={"method": "import"}, overwrite=overwrite)
    console.print(f"{len(cohort)} networks of {len(cohort.regions)} regions in {path}")
