"""Microtome: whole-slide pathology and multimodal brain graphs, from pixels to a reviewed result.

Nothing heavy is imported here: a public name loads its module the first time it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "open_slide": "engine.slides",
    "TileGrid": "engine.grid",
    "find_tissue": "engine.tissue",
    "open_volume": "engine.volumes",
    "encode": "tasks.encode",
    "export_qupath": "tasks.heatmap",
    "load_encoder": "tasks.encoders",
    "Bag": "storage.bags",
    "read_bag": "storage.bags",
    "MicrotomeError": "storage.errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604 - names are resolved lazily


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
