"""Time-activity curves of PET: the activity of regions over the frames of a dynamic scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..engine.volumes import Volume
from ..storage.errors import BadFrames, BadSeries
from .matrices import Array
from .regions import Parcellation
from .scans import region_series

_SAME_S = 1e-3


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """When the frames of a dynamic scan began and ended, in seconds from the injection.

    Attributes
    ----------
    start_s, end_s
        float64 [t]; frames in order, none over another. There may be a pause between two.

    Raises
    ------
    BadFrames
        None; of unequal number; a frame that ends before it begins, or begins before the one before
        it has ended. Names the frame.
    """

    start_s: Array
    end_s: Array

    def __post_init__(self) -> None:
        start, end = (np.asarray(times, np.float64) for times in (self.start_s, self.end_s))
        object.__setattr__(self, "start_s", start)
        object.__setattr__(self, "end_s", end)
        if start.ndim != 1 or start.shape != end.shape or not len(start):
            raise BadFrames(f"{start.size} starts and {end.size} ends make no frames")
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise BadFrames("a time is missing or no number")
        for frame in np.flatnonzero(end <= start)[:1]:
            raise BadFrames(f"{self._words(frame)} does not end after it begins")
        for frame in np.flatnonzero(start[1:] < end[:-1] - _SAME_S)[:1]:
            raise BadFrames(f"{self._words(frame + 1)} begins within {self._words(frame)}")

    @classmethod
    def of_durations(cls, start_s: ArrayLike, duration_s: ArrayLike) -> FrameTimes:
        """Frames of given starts and durations."""
        start = np.asarray(start_s, np.float64)
        return cls(start, start + np.asarray(duration_s, np.float64))

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def mid_s(self) -> Array:
        """Middle of each frame: float64 [t]."""
        middle: Array = (self.start_s + self.end_s) / 2
        return middle

    @property
    def duration_s(self) -> Array:
        """Length of each frame: float64 [t]."""
        duration: Array = self.end_s - self.start_s
        return duration

    def within(self, start_s: float, end_s: float) -> NDArray[np.int64]:
        """Frames of a window that begins and ends with a frame.

        Raises
        ------
        BadFrames
            The window cuts a frame, or holds none; names the times that would do.
        """
        inside = (self.start_s >= start_s - _SAME_S) & (self.end_s <= end_s + _SAME_S)
        touched = (self.start_s < end_s - _SAME_S) & (self.end_s > start_s + _SAME_S)
        covered = inside.any() and (
            abs(self.start_s[inside][0] - start_s) < _SAME_S
            and abs(self.end_s[inside][-1] - end_s) < _SAME_S
        )
        if not covered or (inside != touched).any():
            near = self.start_s[np.abs(self.start_s - start_s).argmin()]
            far = self.end_s[np.abs(self.end_s - end_s).argmin()]
            raise BadFrames(
                f"no frames make up the window from {start_s:g} to {end_s:g} s",
                remedy=f"Frames begin and end near {near:g} and {far:g} s",
            )
        return np.flatnonzero(inside).astype(np.int64)

    def require_whole(self) -> None:
        """Refuse frames that do not follow each other from the injection on.

        Raises
        ------
        BadFrames
            The integral of activity from the injection is not known.
        """
        if self.start_s[0] > _SAME_S:
            raise BadFrames(
                f"the first frame begins {self.start_s[0]:g} s after the injection",
                remedy="Models of kinetics need the whole scan; of a late one there is SUVR",
            )
        gaps = np.flatnonzero(self.start_s[1:] > self.end_s[:-1] + _SAME_S)
        if len(gaps):
            raise BadFrames(
                f"nothing was measured from {self.end_s[gaps[0]]:g} to "
                f"{self.start_s[gaps[0] + 1]:g} s",
                remedy="Models of kinetics need a scan without a pause",
            )

    def _words(self, frame: int) -> str:
        return f"frame {frame + 1} ({self.start_s[frame]:g} to {self.end_s[frame]:g} s)"


@dataclass(frozen=True, eq=False)
class TimeActivity:
    """Activity of regions over frames.

    Attributes
    ----------
    activity
        float64 [t, r]: the mean over each frame, corrected for decay; NaN where a file has none.
    frames
        t of them.
    regions
        r unique names.
    unit
        Of the activity; empty where it is not said.
    volumes_ml
        float64 [r], or None.
    """

    activity: Array
    frames: FrameTimes
    regions: tuple[str, ...]
    unit: str = ""
    volumes_ml: Array | None = None

    def __post_init__(self) -> None:
        if self.activity.shape != (len(self.frames), len(self.regions)):
            raise BadFrames(
                f"activity of shape {self.activity.shape} does not fit {len(self.frames)} frames "
                f"of {len(self.regions)} regions"
            )
        if len(set(self.regions)) < len(self.regions):
            twice = next(name for name in self.regions if self.regions.count(name) > 1)
            raise BadSeries(f"region {twice} is there twice")

    def mean_over(self, start_s: float, end_s: float) -> Array:
        """Mean activity over a window, each frame weighed by its length: float64 [r].

        Raises
        ------
        BadFrames
            As :meth:`FrameTimes.within`.
        """
        chosen = self.frames.within(start_s, end_s)
        mean: Array = np.average(
            self.activity[chosen], axis=0, weights=self.frames.duration_s[chosen]
        )
        return mean

    def pooled(self, positions: Sequence[int]) -> Array:
        """Curve of several regions taken as one: float64 [t], weighed by volume where known.

        Raises
        ------
        BadSeries
            None is given, or one has no value in a frame.
        """
        if not len(positions):
            raise BadSeries("no region to take the curve of")
        chosen = list(positions)
        weights = None if self.volumes_ml is None else self.volumes_ml[chosen]
        curve: Array = np.average(self.activity[:, chosen], axis=1, weights=weights)
        if not np.isfinite(curve).all():
            names = ", ".join(self.regions[i] for i in chosen)
            raise BadSeries(f"no value in frame {_first_missing(curve)} of {names}")
        return curve

    def without(self, left_out: Sequence[str]) -> TimeActivity:
        """The same without some regions, by name; an unknown one is a BadSeries."""
        unknown = [name for name in left_out if name not in self.regions]
        if unknown:
            raise BadSeries(f"there is no curve of {', '.join(unknown)}")
        kept = [i for i, name in enumerate(self.regions) if name not in left_out]
        return replace(
            self,
            activity=self.activity[:, kept],
            regions=tuple(self.regions[i] for i in kept),
            volumes_ml=None if self.volumes_ml is None else self.volumes_ml[kept],
        )

    def complete(self) -> Array:
        """The activity, which has a value everywhere.

        Raises
        ------
        BadSeries
            A region has none in a frame; names the regions.
        """
        lacking = ~np.isfinite(self.activity).all(axis=0)
        if lacking.any():
            names = [self.regions[i] for i in np.flatnonzero(lacking)]
            first = _first_missing(self.activity[:, lacking][:, 0])
            raise BadSeries(
                f"no value in {', '.join(names[:5])}, first in frame {first}",
                remedy="Leave them out with --leave-out",
            )
        return self.activity


def time_activity(volume: Volume, parcellation: Parcellation, frames: FrameTimes) -> TimeActivity:
    """Curves of the regions of a dynamic scan.

    Raises
    ------
    BadFrames
        Another number of frames than the scan has.
    BadGeometry, LostRegion
        As :func:`.scans.region_series`.
    """
    series = region_series(volume, parcellation)
    if len(series) != len(frames):
        raise BadFrames(
            f"{len(frames)} frame times for a scan of {len(series)} frames",
            where=volume.path,
            remedy="Give the table of frames of this scan",
        )
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    volumes_ml = np.asarray(parcellation.n_voxels * voxel_ml, np.float64)
    return TimeActivity(series, frames, parcellation.names, volume.unit, volumes_ml)


def _first_missing(curve: Array) -> int:
    return int(np.flatnonzero(~np.isfinite(curve))[0]) + 1
