"""Where torch computes: the device that is meant, and a GPU for each worker."""

from __future__ import annotations

import re
import sys

from ..storage.errors import MissingDependency


def pick_device(device: str) -> str:
    """The device that is meant.

    Parameters
    ----------
    device
        ``cpu``; ``cuda:1``, that GPU of those that ``CUDA_VISIBLE_DEVICES`` leaves; ``cuda``, the
        first, or among several the one of this Dask worker's number; ``auto``, CUDA where there is
        one, else the CPU.

    Raises
    ------
    MissingDependency
        CUDA is asked for and absent.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    if device.startswith("cuda") and not has_cuda:
        raise MissingDependency(
            "torch sees no CUDA device", where=device, remedy="Pass --device cpu, or auto"
        )
    if device == "cuda" and torch.cuda.device_count() > 1:
        return f"cuda:{own_gpu(worker_name(), torch.cuda.device_count())}"
    return device


def own_gpu(worker: object, count: int) -> int:
    """Which of ``count`` GPUs a Dask worker takes: by the number that its name is, or ends in.

    Workers of one machine are numbered one after the other, so that as many workers as there are
    GPUs have one each, and more share them evenly. 0 without a number.
    """
    number = re.search(r"\d+$", str(worker))
    return int(number[0]) % count if number else 0


def worker_name() -> object:
    """Name of the Dask worker that runs this thread; None where none does."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker().name
    except ValueError:
        return None


def in_words(device: str) -> str:
    """What ``auto`` comes to here, and why."""
    chosen = pick_device(device)
    if chosen == "cpu":
        return "--device auto: torch sees no CUDA device, the CPU computes"
    return f"--device auto: {chosen} computes"
