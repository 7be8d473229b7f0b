"""Whole cohorts to and from files of other tools, one network a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..storage.adjacency import RELMAT, read_adjacency, write_adjacency
from ..storage.connectomes import ConnectomeCohort
from ..storage.errors import BadConnectome

_BIDS = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*")


def bids_name(subject: str, measure: str) -> str:
    """Name of a BIDS-like matrix: ``sub-01_ses-2_meas-pearson_relmat.dense.tsv``.

    A subject that is not named as in BIDS becomes ``sub-`` and its letters and numbers.
    """
    who = subject if _BIDS.fullmatch(subject) else f"sub-{_plain(subject)}"
    return f"{who}_meas-{_plain(measure)}{RELMAT}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text) or "unnamed"


def export_networks(cohort: ConnectomeCohort, folder: Path, suffix: str) -> list[Path]:
    """Write every network of a cohort as a file of its own, ``.tsv`` with BIDS-like names.

    Raises
    ------
    BadConnectome
        Two subjects would have one file.
    """
    names = [
        bids_name(subject, cohort.measure) if suffix == ".tsv" else f"{subject}{suffix}"
        for subject in cohort.subjects
    ]
    doubled = {name for name in names if names.count(name) > 1}
    outside = [name for name in names if Path(name).name != name]
    if doubled or outside:
        shown = ", ".join([*sorted(doubled), *outside][:5])
        raise BadConnectome(
            f"subjects do not name files of their own: {shown}",
            remedy="Rename the subjects, or choose another format",
        )
    for number, name in enumerate(names):
        write_adjacency(folder / name, cohort[number])
    return [folder / name for name in names]


def import_networks(
    paths: Sequence[Path],
    *,
    measure: str | None = None,
    modality: str | None = None,
    directed: bool | None = None,
    key: str | None = None,
) -> ConnectomeCohort:
    """Read one network a file into a cohort; see :func:`.adjacency.read_adjacency`.

    Raises
    ------
    MissingFile, UnreadableFile, BadConnectome
        A file cannot be read, or one has other regions than the first.
    """
    return ConnectomeCohort.of(
        [
            read_adjacency(path, measure=measure, modality=modality, directed=directed, key=key)
            for path in paths
        ]
    )
