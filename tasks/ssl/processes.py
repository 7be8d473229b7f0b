"""One process, or several that ``torchrun`` started, which train one network together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import pick_device

_PATH_BYTES = 4096


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them.

    Attributes
    ----------
    device
        Where this one computes.
    rank, size
        Which of how many.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the processes.

        On CUDA its batch normalisation sees the tiles of all; elsewhere torch has none that does.
        """
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes; gradients flow into one's own alone.

        With the loss multiplied by :attr:`size`, the average over the processes is the gradient.
        """
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        torch.distributed.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def agree(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        said = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(said, 0)
        return float(said)

    def agree_on_path(self, path: Path | None) -> Path:
        """The first process's path."""
        text = torch.zeros(_PATH_BYTES, dtype=torch.uint8)
        if path is not None:
            name = os.fsencode(path)
            text[: len(name)] = torch.frombuffer(bytearray(name), dtype=torch.uint8)
        if self.size > 1:
            text = text.to(self.device)
            torch.distributed.broadcast(text, 0)
        return Path(os.fsdecode(bytes(text.cpu().tolist()).rstrip(b"\0")))

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            torch.distributed.barrier()


def rank_here() -> int:
    """Which of the processes that ``torchrun`` started this is; 0 without it."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the processes that ``torchrun`` started, or be the only one.

    Parameters
    ----------
    device
        ``cuda`` is the GPU of this process's ``LOCAL_RANK``.

    Raises
    ------
    MissingDependency
        CUDA is asked for and absent.
    """
    chosen = pick_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(torch.device(chosen))
        return
    if chosen == "cuda":
        chosen = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(chosen)
    backend: Any = torch.distributed
    backend.init_process_group("nccl" if chosen.startswith("cuda") else "gloo")
    try:
        yield Group(torch.device(chosen), rank_here(), size)
    finally:
        backend.destroy_process_group()
