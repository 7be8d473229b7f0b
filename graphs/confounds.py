"""What is not of the brain in a BOLD series: fMRIPrep's tables, scrubbing, filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..storage.errors import BadSeries, CohortError, MissingFile, UnreadableFile, first_line
from .matrices import Array

STRATEGIES = {
    "motion-6": ("trans_?", "rot_?"),
    "motion-24": ("trans_?*", "rot_?*"),
    "wm-csf": ("white_matter", "csf"),
    "global": ("global_signal",),
    "cosine": ("cosine[0-9]*",),
    "acompcor": ("a_comp_cor_0[0-4]",),
    "non-steady": ("non_steady_state_outlier[0-9]*",),
}
"""Words for columns of fMRIPrep's tables. ``acompcor`` is the first five components."""

_TABLES = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")


@dataclass(frozen=True)
class Cleaning:
    """How series are cleaned.

    Attributes
    ----------
    confounds
        A table of fMRIPrep, or a folder with one for each input, found by its BIDS name.
    columns
        Words of :data:`STRATEGIES`, and names of columns, with ``*`` for several; regressed out.
    max_fd_mm, max_dvars
        Time points with more framewise displacement, or standardised DVARS, are left out.
    min_segment
        Stretches between such points that are shorter are left out too.
    low_pass_hz, high_pass_hz
        Frequencies to keep up to and from.
    tr_s
        Time between two points; by default the scan's own.
    """

    confounds: Path | None = None
    columns: tuple[str, ...] = ()
    max_fd_mm: float | None = None
    max_dvars: float | None = None
    min_segment: int = 5
    low_pass_hz: float | None = None
    high_pass_hz: float | None = None
    tr_s: float | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is asked for beside the time between two points."""
        return replace(self, tr_s=None) != Cleaning()

    def table_for(self, path: Path) -> Path | None:
        """The table of an input.

        Raises
        ------
        CohortError
            There is none in the folder, or several.
        """
        if self.confounds is None or self.confounds.is_file():
            return self.confounds
        return table_beside(path, self.confounds)


def table_beside(path: Path, folder: Path) -> Path:
    """The table of fMRIPrep in a folder whose BIDS entities are all among those of a scan."""
    own = set(path.name.split("_"))
    found = [
        table
        for ending in _TABLES
        for table in sorted(folder.glob(f"*_{ending}"))
        if set(table.name.removesuffix(f"_{ending}").split("_")) <= own
    ]
    if len(found) != 1:
        raise CohortError(
            f"{len(found)} tables of confounds are there for {path.name}",
            where=folder,
            remedy="One must be called as the scan is, with desc-confounds_timeseries.tsv",
        )
    return found[0]


def read_confounds(path: Path) -> dict[str, Array]:
    """Read a table of fMRIPrep: column -> float64 [t].

    Derivatives have no value at the first time point; the second one's is taken, as nilearn does.
    Framewise displacement and DVARS keep NaN there.

    Raises
    ------
    MissingFile, UnreadableFile
    """
    import pandas as pd

    if not path.is_file():
        raise MissingFile("no such table of confounds", where=path, remedy="Check the path")
    try:
        frame: Any = pd.read_csv(path, sep="\t", na_values="n/a").astype(np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"no table of numbers ({error})", where=path) from error
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def chosen_columns(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Names that words of :data:`STRATEGIES` or patterns stand for, in the order of the table.

    Raises
    ------
    CohortError
        A word or pattern stands for no column.
    """
    chosen: set[str] = set()
    for word in wanted:
        patterns = STRATEGIES.get(word, (word,))
        found = [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
        if not found:
            raise CohortError(
                f"the table of confounds has no column {word}",
                remedy=f"Name columns, or use {', '.join(STRATEGIES)}",
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def kept_points(table: dict[str, Array], cleaning: Cleaning) -> NDArray[np.bool_]:
    """Time points that are not scrubbed: bool [t].

    References
    ----------
    Power et al. (2012), NeuroImage 59:2142; Power et al. (2014), NeuroImage 84:320.
    """
    n = len(next(iter(table.values())))
    moved = np.zeros(n, bool)
    for column, limit in (
        ("framewise_displacement", cleaning.max_fd_mm),
        ("std_dvars", cleaning.max_dvars),
    ):
        if limit is not None:
            if column not in table:
                raise CohortError(f"the table of confounds has no column {column}")
            moved |= np.nan_to_num(table[column], nan=0.0) > limit
    if not moved.any():
        return ~moved
    edges = np.flatnonzero(np.diff(np.r_[True, moved, True]))
    for start, stop in edges.reshape(-1, 2):
        moved[start:stop] |= stop - start < cleaning.min_segment
    return ~moved


def clean_series(
    series: ArrayLike, cleaning: Cleaning, *, path: Path | None = None, tr_s: float | None = None
) -> Array:
    """Series without confounds, beyond a band and scrubbed: float64 [t', r], with their means.

    Confounds are filtered as the series are, and regressed out of the points that are kept.

    Parameters
    ----------
    path
        Of the input, to find its table by.
    tr_s
        Of the scan, where ``cleaning`` gives none.

    Raises
    ------
    BadSeries
        The table has another number of time points, or a confound no value in one; a filter without
        a time between points; nothing is left.
    """
    from nilearn.signal import clean

    array = np.asarray(series, np.float64)
    table = _table(cleaning, path)
    step = cleaning.tr_s or tr_s
    if step is None and (cleaning.low_pass_hz or cleaning.high_pass_hz):
        raise BadSeries("a filter needs the time between two points", remedy="Pass --tr-s")
    kept = np.ones(len(array), bool) if not table else kept_points(table, cleaning)
    if len(kept) != len(array):
        raise BadSeries(f"{len(kept)} rows of confounds for {len(array)} time points")
    if not kept.any():
        raise BadSeries("no time point is left after scrubbing", remedy="Raise --max-fd-mm")
    try:
        cleaned = clean(
            array,
            confounds=_regressors(table, cleaning.columns),
            sample_mask=None if kept.all() else np.flatnonzero(kept),
            detrend=False,
            standardize=None,
            filter="butterworth" if cleaning.low_pass_hz or cleaning.high_pass_hz else False,
            low_pass=cleaning.low_pass_hz,
            high_pass=cleaning.high_pass_hz,
            t_r=step,
        )
    except ValueError as error:
        raise BadSeries(
            f"{int(kept.sum())} time points cannot be cleaned so ({first_line(error)})",
            remedy="Scrub or filter less, or use longer series",
        ) from error
    restored: Array = cleaned - cleaned.mean(axis=0) + array[kept].mean(axis=0)
    return restored


def _table(cleaning: Cleaning, path: Path | None) -> dict[str, Array]:
    scrubs = cleaning.max_fd_mm is not None or cleaning.max_dvars is not None
    source = None if path is None else cleaning.table_for(path)
    if source is None and path is None:
        source = cleaning.confounds
    if source is None and (scrubs or cleaning.columns):
        raise CohortError("confounds are asked for of no table", remedy="Pass --confounds")
    return {} if source is None else read_confounds(source)


def _regressors(table: dict[str, Array], columns: Sequence[str]) -> Array | None:
    names = chosen_columns(list(table), columns)
    if not names:
        return None
    values = np.stack([table[name] for name in names], axis=1)
    first = np.isnan(values[0])
    values[0, first] = values[1, first]
    lacking = ~np.isfinite(values).all(axis=0)
    if lacking.any():
        missing = ", ".join(names[i] for i in np.flatnonzero(lacking)[:5])
        raise BadSeries(f"confounds without a value: {missing}")
    return values
