"""Members that are fitted already: what a killed study goes on from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ...storage.files import writable, write_bytes


@dataclass(frozen=True)
class KeptMembers:
    """A folder of weights, one file a member, each named by what it was fitted for.

    Fitting follows a seed of its own for each member, so that those which are there and those
    which are not yet make the same study as if none had been.

    Attributes
    ----------
    folder
        Of one study; None keeps nothing.
    place
        What in the study the members are for.
    """

    folder: Path | None = None
    place: str = ""

    def at(self, part: str) -> KeptMembers:
        """The members of a part of this place."""
        return replace(self, place=f"{self.place}{part}.")

    def load(self, number: int, model: nn.Module) -> bool:
        """Give a model the weights that are kept; False, and nothing done, where none are whole."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(number)
        if path is None or not path.is_file():
            return False
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError):
            return False
        return True

    def save(self, number: int, model: nn.Module) -> None:
        """Keep a fitted model, whole or not at all."""
        from safetensors.torch import save

        path = self._path(number)
        if path is None:
            return
        weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        with writable(path):
            write_bytes(path, save(weights))

    def clear(self) -> None:
        """Let all of the study's go."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{self.place}member-{number}.safetensors"


NOTHING_KEPT = KeptMembers()
