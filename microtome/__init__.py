"""Microtome: whole-slide pathology and multimodal brain graphs, from pixels to a reviewed result.

Nothing heavy is imported here: a public name loads its module the first time it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "open_slide": "engine.slides",
    "level_array": "engine.lazy",
    "find_tissue": "engine.tissue",
    "read_tissue": "engine.tissue",
    "TileGrid": "engine.grid",
    "TileDataset": "engine.datasets",
    "TiledSlide": "engine.datasets",
    "open_volume": "engine.volumes",
    "list_series": "engine.volumes",
    "to_suv": "engine.volumes",
    "export_nifti": "engine.volumes",
    "ingest_slide": "engine.ingest",
    "ingest_volume": "engine.ingest",
    "load_encoder": "tasks.encoders",
    "encode": "tasks.encode",
    "read_cohort": "tasks.cohort",
    "export_qupath": "tasks.heatmap",
    "VirtualStore": "storage.virtual_store",
    "Bag": "storage.bags",
    "read_bag": "storage.bags",
    "read_vectors": "storage.slide_vectors",
    "read_predictions": "storage.predictions",
    "Connectome": "storage.connectomes",
    "read_connectomes": "storage.connectomes",
    "MicrotomeError": "storage.errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604 - names are resolved lazily


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
