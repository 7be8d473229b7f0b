"""What is installed, what works here, and how to mend what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "absent", "broken"]

_LIBRARIES = {
    "openslide-python": ("openslide", "vendor slides (SVS, NDPI, MRXS, SCN, DICOM …)"),
    "tifffile": ("tifffile", "TIFF and OME-TIFF, the file's own tiles"),
    "zarr": ("zarr", "everything that is stored"),
    "dask": ("dask", "work on several processes"),
    "torch": ("torch", "MIL and graph networks"),
    "timm": ("timm", "deep encoders by name"),
    "dgl": ("dgl", "graph networks in DGL"),
    "networkx": ("networkx", "graph exchange and communities"),
    "nilearn": ("nilearn", "region series and brain pictures"),
    "nibabel": ("nibabel", "NIfTI scans"),
    "pydicom": ("pydicom", "DICOM scans"),
    "tiatoolbox": ("tiatoolbox", "stain normalisers, annotation store"),
}
_MEND = {
    "dgl": "its last wheel that imports is for Python 3.11; dense torch serves without it",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    purpose: str
    mend: str = ""


def examine() -> Iterator[Check]:
    """Look at libraries, slide readers, accelerator, memory, disk and cluster, in that order."""
    for distribution, (module, purpose) in _LIBRARIES.items():
        yield _library(distribution, module, purpose)
    yield from _readers()
    yield _accelerator()
    yield _memory()
    yield _disk()
    yield _cluster()


def _library(distribution: str, module: str, purpose: str) -> Check:
    # Found, not imported: importing all of them takes half a minute.
    if importlib.util.find_spec(module) is None:
        mend = _MEND.get(distribution, f"pip install {distribution}")
        return Check(distribution, "absent", "not installed", purpose, mend)
    return Check(distribution, "ok", importlib.metadata.version(distribution), purpose)


def _readers() -> Iterator[Check]:
    from .engine.slides.registry import readers
    from .storage.errors import MissingDependency

    try:
        known = readers()
    except MissingDependency as error:
        yield Check("slide readers", "broken", error.what, "slides", error.remedy or "")
        return
    for rank, reader in enumerate(known, 1):
        yield Check(f"reader {reader.name}", "ok", f"asked as number {rank}", reader.what)


def _accelerator() -> Check:
    purpose = "deep encoders and training"
    if importlib.util.find_spec("torch") is None:
        return Check("GPU", "absent", "torch is not installed", purpose, "pip install torch")
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", "ok", ", ".join(names), purpose)
    mend = "nothing to mend: everything runs on the processor, deep encoders slowly"
    return Check("GPU", "absent", "no CUDA device", purpose, mend)


def _memory() -> Check:
    from .engine.memory import memory_budget

    budget = memory_budget() / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{budget:.1f} GiB for this job, {cores} cores"
    mend = "" if budget >= 4 else "ask for at least 4 GiB"
    return Check("memory", "ok" if budget >= 4 else "broken", found, "all work", mend)


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 2**30
    mend = "" if free >= 2 else "free some space, or work in another folder"
    return Check(
        "disk", "ok" if free >= 2 else "broken", f"{free:.0f} GiB free here", "products", mend
    )


def _cluster() -> Check:
    purpose = "batch jobs"
    for command, name in (("sbatch", "SLURM"), ("qsub", "PBS or SGE"), ("bsub", "LSF")):
        if shutil.which(command):
            return Check("cluster", "ok", name, purpose)
    return Check(
        "cluster", "absent", "no batch system found", purpose, "nothing to mend on one machine"
    )
