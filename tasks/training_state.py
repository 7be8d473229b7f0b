"""What training goes on from, as named tensors: a network's weights, an optimiser's moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_NETWORK = "network."
_OPTIMISER = "optimiser."


def pack_state(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Tensors ``network.NAME`` and ``optimiser.NUMBER.MOMENT``, on the CPU, as safetensors takes.

    ``NUMBER`` counts the parameters as the optimiser does.
    """
    tensors = {_NETWORK + name: value for name, value in network.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": value for name, value in moments.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def unpack_state(
    tensors: Mapping[str, torch.Tensor], network: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Put network and optimiser where they were; the optimiser keeps its own settings.

    Raises
    ------
    RuntimeError, ValueError
        The tensors are of another network, or others are among them.
    """
    own = {k.removeprefix(_NETWORK): v for k, v in tensors.items() if k.startswith(_NETWORK)}
    network.load_state_dict(own)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name in sorted(k for k in tensors if not k.startswith(_NETWORK)):
        _, number, moment = name.split(".")
        state.setdefault(int(number), {})[moment] = tensors[name]
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
