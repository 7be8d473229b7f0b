"""Foreign HDF5 files, read by a process of their own.

HDF5's library may crash, or never come back, on a file in which bytes were altered. That costs
this process its file, and the run nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import errors
from ..bags import Bag
from ..errors import MicrotomeError, UnreadableFile, WorkerDied
from . import import_bag
from .clam import OWN, OWN_FACTS, restored
from .facts import Facts

_LEAST_S = 120.0
_LEAST_BYTES_PER_S = 1e6
_ARRAYS, _RECORD, _REFUSAL = "arrays.npz", "record.json", "refusal.json"
_START = f"from {__name__} import main; main()"


def is_hdf5(path: Path) -> bool:
    """Whether a file goes by an HDF5 name."""
    return path.suffix.lower() in (".h5", ".hdf5")


def import_apart(path: Path, *, facts: Facts | None = None, coords: Path | None = None) -> Bag:
    """:func:`~microtome.storage.exchange.import_bag` in a process of its own.

    Raises
    ------
    UnreadableFile
        Among others, where reading crashed, or did not end.
    WorkerDied
        The process was killed from outside, or could not work.
    """
    size = path.stat().st_size if path.is_file() else 0
    # What may crash the library: of a tensor and its coordinates, the coordinates.
    suspect = path if coords is None or is_hdf5(path) else coords
    with TemporaryDirectory(prefix="microtome-") as folder:
        request = {
            "path": str(path.absolute()),
            "facts": asdict(facts or Facts()),
            "coords": None if coords is None else str(coords.absolute()),
            "folder": folder,
        }
        try:
            ended = subprocess.run(
                [sys.executable, "-c", _START],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                check=False,
                timeout=_LEAST_S + size / _LEAST_BYTES_PER_S,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired as error:
            raise _crashed("did not end", suspect) from error
        _require_life(ended, suspect)
        return _received(Path(folder), path)


def _require_life(ended: subprocess.CompletedProcess[str], path: Path) -> None:
    if ended.returncode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE):
        raise _crashed(f"crashed ({signal.Signals(-ended.returncode).name})", path)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise WorkerDied(
            f"the process that read it ended with code {ended.returncode} ({last[:200]})",
            where=path,
            remedy="Try again, with more memory",
        )


def _crashed(how: str, path: Path) -> UnreadableFile:
    return UnreadableFile(
        f"this HDF5 file is damaged: its library {how} on it",
        where=path,
        remedy="Copy it again, or have its tool make it again",
    )


def _received(folder: Path, path: Path) -> Bag:
    refusal = folder / _REFUSAL
    if refusal.is_file():
        said = json.loads(refusal.read_text())
        kind: type[MicrotomeError] = getattr(errors, said.pop("kind"))
        raise kind(said.pop("what"), **said)
    with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
        found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
    features, places = found.pop("features"), found.pop("places")
    quality = {name.removeprefix("quality."): column for name, column in found.items()}
    stated = {OWN: (folder / _RECORD).read_text()}
    return restored(features, places, stated, path, quality=quality)


def main() -> None:
    """Read a file and hand over what is in it; the request comes by standard input."""
    request = json.loads(sys.stdin.read())
    folder, coords = Path(request["folder"]), request["coords"]
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in request["facts"].items()
    }
    try:
        bag = import_bag(
            Path(request["path"]),
            facts=Facts(**known),
            coords=None if coords is None else Path(coords),
        )
    except MicrotomeError as error:
        said = {
            "kind": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "remedy": error.remedy,
        }
        (folder / _REFUSAL).write_text(json.dumps(said))
        return
    columns: dict[str, Any] = {f"quality.{name}": column for name, column in bag.quality.items()}
    np.savez(folder / _ARRAYS, features=bag.features, places=bag.coords_px[:, ::-1], **columns)
    record = {name: getattr(bag, name) for name in OWN_FACTS}
    (folder / _RECORD).write_text(json.dumps(record))
