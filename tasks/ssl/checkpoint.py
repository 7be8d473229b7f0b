"""How far training has come, in one file: tensors, and the rest as JSON in its header."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...storage.commit import write_bytes
from ...storage.errors import BadProduct, first_line
from ..training_state import pack_state, unpack_state

_HEADER = "state"


@dataclass(frozen=True)
class Entry:
    """One line of the history.

    Attributes
    ----------
    step
        Steps done.
    loss, learning_rate
        Of the last of them.
    spread
        Of its embeddings (:func:`~microtome.tasks.ssl.loss.spread`).
    """

    step: int
    loss: float
    learning_rate: float
    spread: float


@dataclass(frozen=True)
class State:
    """What, besides the tensors, is needed to go on.

    Attributes
    ----------
    step
        Steps done.
    seconds
        That they took, in all runs together.
    replaced
        Tiles that could not be decoded.
    history
        Entries so far.
    """

    step: int = 0
    seconds: float = 0.0
    replaced: int = 0
    history: tuple[Entry, ...] = ()


def save_checkpoint(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, state: State
) -> None:
    """Write a checkpoint whole or not at all, in place of the one before."""
    from safetensors.torch import save

    tensors = pack_state(network, optimiser)
    write_bytes(path, save(tensors, {_HEADER: json.dumps(asdict(state))}))


def load_checkpoint(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer
) -> State | None:
    """Take up a checkpoint; None, and nothing changed, where there is none.

    Raises
    ------
    BadProduct
        It cannot be read, or is of another network.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = _state(json.loads(file.metadata()[_HEADER]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        unpack_state(tensors, network, optimiser)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise BadProduct(
            f"this checkpoint cannot be read ({first_line(error)})",
            where=path,
            remedy="Delete it, and training begins anew",
        ) from error
    return state


def _state(raw: dict[str, Any]) -> State:
    entries = tuple(Entry(**entry) for entry in raw.pop("history"))
    return State(history=entries, **raw)
