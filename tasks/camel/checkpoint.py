"""Checkpoints of training: tensors as safetensors, and a record that is written after them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...storage.commit import writable, write_text
from ...storage.errors import StaleProduct
from ...storage.files import remove_strays, write_bytes
from ..training_state import pack_state, unpack_state

if TYPE_CHECKING:
    import torch

RECORD = "checkpoint.json"


@dataclass(frozen=True)
class Progress:
    """How far training had come.

    Attributes
    ----------
    key
        Of what is trained, on what.
    epochs
        So many were done.
    losses
        Mean loss of each.
    tensors
        File of the weights, and of the optimiser's moments.
    sha256
        Of that file.
    """

    key: str
    epochs: int
    losses: tuple[float, ...]
    tensors: str = ""
    sha256: str = ""


def save_checkpoint(
    folder: Path, progress: Progress, network: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Keep everything that training goes on from; the one before stays until this one is whole."""
    from safetensors.torch import save

    data = save(pack_state(network, optimiser))
    name = f"epoch-{progress.epochs:05d}.safetensors"
    digest = hashlib.sha256(data).hexdigest()
    whole = Progress(progress.key, progress.epochs, progress.losses, name, digest)
    with writable(folder / name):
        write_bytes(folder / name, data)
        write_text(folder / RECORD, json.dumps(asdict(whole), indent=1))
    for other in folder.glob("epoch-*.safetensors"):
        if other.name != name:
            other.unlink(missing_ok=True)


def load_checkpoint(
    folder: Path, key: str, network: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> Progress | None:
    """Put network and optimiser where they were; None, and nothing done, without a checkpoint.

    A checkpoint that is damaged counts as none.

    Raises
    ------
    StaleProduct
        The checkpoint is of other data or settings.
    """
    from safetensors.torch import load

    if folder.is_dir():
        remove_strays(folder)
    try:
        progress = Progress(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
        data = (folder / progress.tensors).read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    if progress.key != key:
        raise StaleProduct(
            "the checkpoint is of other images or settings",
            where=folder,
            remedy="Choose another folder, or delete this one to begin anew",
        )
    if hashlib.sha256(data).hexdigest() != progress.sha256:
        return None
    unpack_state(load(data), network, optimiser)
    return progress
