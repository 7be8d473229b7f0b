"""Named errors: what is wrong, where, and what to do about it.

Every error that a user can cause or mend is a :class:`MicrotomeError`. It has a short
``reason`` that goes into the ledger, and a ``state``: an item whose input is at fault ends
``rejected``, an item that we or the machine could not finish ends ``failed``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, Self

ItemState = Literal["done", "skipped", "rejected", "failed"]


class MicrotomeError(Exception):
    """Base of all named errors.

    Parameters
    ----------
    what
        What is wrong, in one sentence without a full stop.
    where
        The file, column or option that it concerns.
    remedy
        What the user can do now.
    """

    reason: ClassVar[str] = "error"
    state: ClassVar[ItemState] = "failed"

    def __init__(
        self, what: str, *, where: str | Path | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f". {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments would be lost on the way back from a Dask worker.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(
    kind: type[MicrotomeError], what: str, where: str | None, remedy: str | None
) -> MicrotomeError:
    return kind(what, where=where, remedy=remedy)


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to stand within one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class InputError(MicrotomeError):
    """The input is at fault; the item ends ``rejected``."""

    reason = "bad_input"
    state = "rejected"


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Let an error of the input that does not say which file it concerns name this one."""
    try:
        yield
    except InputError as error:
        error.where = error.where or str(path)
        raise


class MissingFile(InputError):
    """A file or folder that was named does not exist."""

    reason = "missing"


class EmptyFile(InputError):
    """The file has no bytes, or no image in it."""

    reason = "empty"


class UnreadableFile(InputError):
    """No reader understands the file, or its pixels cannot be decoded."""

    reason = "unreadable"


class NotBrightfield(InputError):
    """An image of channels, such as fluorescence, where RGB is asked for."""

    reason = "not_rgb"


class TruncatedFile(UnreadableFile):
    """The file ends before the data that its header promises."""

    reason = "truncated"


class NoJpegTiles(InputError):
    """A slide whose tiles cannot be kept as they are, because they are no JPEG tiles of RGB."""

    reason = "no_jpeg_tiles"


class CorruptTiles(UnreadableFile):
    """More of a slide's tiles cannot be decoded than is allowed."""

    reason = "corrupt"


class NoResolution(InputError):
    """The image does not say how large its pixels are."""

    reason = "no_mpp"


class BadResolution(InputError):
    """The image states a pixel size that cannot be, or that the request cannot be met with."""

    reason = "bad_mpp"


class NoTissue(InputError):
    """No tissue was found."""

    reason = "no_tissue"


class NoStains(InputError):
    """Haematoxylin and eosin cannot be told apart: too little stain, one alone, or others."""

    reason = "no_stains"


class BadGeometry(InputError):
    """A scan whose slices do not form one regular volume, or a grid that does not fit."""

    reason = "bad_geometry"


class NoModality(InputError):
    """A scan that does not say whether it is CT, MR or PET, or that is another than was said."""

    reason = "no_modality"


class NoUptake(InputError):
    """A PET scan that does not say what an uptake value needs: a dose, a time, a weight."""

    reason = "no_suv"


class BadConnectome(InputError):
    """No network: an adjacency not square, not symmetric, not finite, or with names doubled."""

    reason = "bad_connectome"


class BadSeries(InputError):
    """Region values that cannot be related: constant, too short, not finite, of unequal length."""

    reason = "bad_series"


class BadFrames(InputError):
    """Times of the frames of a dynamic scan that contradict each other, the scan or a request."""

    reason = "bad_frames"


class LostRegion(InputError):
    """A region of the atlas that no voxel of the scan falls into."""

    reason = "lost_region"


class CohortError(InputError):
    """A cohort table that cannot be used: a column or a row is wrong."""

    reason = "bad_cohort"


class LabelError(CohortError):
    """Labels that cannot be learnt from: missing, a single class, too few of one."""

    reason = "wrong_labels"


class LeakError(CohortError):
    """What was trained on would be tested on: a patient or subject in two splits."""

    reason = "leak"


class BadModel(InputError):
    """A model file that cannot be used, or does not fit the bags it is given."""

    reason = "bad_model"

    @classmethod
    def unusable(cls, where: Path, error: Exception) -> Self:
        """Of a model that was kept: a library's error in reading it, or in putting it together."""
        return cls(
            f"the model cannot be used ({first_line(error)})",
            where=where,
            remedy="Train it again, or copy it anew",
        )


class BadProduct(InputError):
    """A product of ours that is incomplete, damaged, or of another kind than asked for."""

    reason = "bad_product"


class DamagedChunk(BadProduct):
    """One chunk of a product cannot be decoded; the file around it is whole."""


class StaleProduct(MicrotomeError):
    """The output exists but was made from another input or with other parameters."""

    reason = "stale_product"


class OutputBusy(MicrotomeError):
    """Another run is writing the same output."""

    reason = "output_busy"


class UnwritableOutput(MicrotomeError):
    """The output cannot be written: permission, read-only or full file system."""

    reason = "unwritable"


class MissingDependency(MicrotomeError):
    """An optional package is absent or does not import here."""

    reason = "missing_dependency"


class WorkerDied(MicrotomeError):
    """The process that worked on an item died, for want of memory or by a fault in a library."""

    reason = "worker_died"


class NoCluster(MicrotomeError):
    """The Dask scheduler that was named cannot be reached, or no worker is there, or left."""

    reason = "no_cluster"


class NoStore(MicrotomeError):
    """An object store does not answer, lets nobody in, or gives what it does not say it holds."""

    reason = "no_store"


class TookTooLong(MicrotomeError):
    """An item was not done in the time that it was given: a mount that hangs, a slide too large."""

    reason = "timeout"


class Quarantined(MicrotomeError):
    """An item that killed its process, or hung, at every try; it is left alone until told."""

    reason = "quarantined"


class NotReady(MicrotomeError):
    """A stage over all items, of which some failed that may yet be done."""

    reason = "not_ready"


class PlanError(MicrotomeError):
    """A plan that cannot be used: an unknown key, a wrong value, a stage without its input."""

    reason = "bad_plan"
