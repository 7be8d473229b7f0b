"""Tiles as they are exported to QuPath, and how such a file is written and read as JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from microtome.storage.qupath import Frame, PathClass, Tiles, write_tiles

FRAME = Frame(slide_px=(4000, 6000))
TUMOUR, STROMA = PathClass("Tumor", (200, 0, 0)), PathClass("Stroma", (150, 200, 150))


def some_tiles(**changes) -> Tiles:
    columns = {
        "score": np.array([0.1, 0.9, np.nan, 1.0], np.float32),
        "attention": np.array([1e-7, 0.25, np.inf, 0.5], np.float32),
    }
    facts = {
        "coords_px": np.array([[0, 0], [0, 256], [256, 0], [256, 256]]),
        "footprint_px": (256.0, 256.0),
        "measurements": columns,
        "classes": (TUMOUR, STROMA),
        "class_index": np.array([0, 1, -1, 0]),
    }
    return Tiles(**{**facts, **changes})


def export(path: Path, tiles: Tiles, frame: Frame = FRAME, **options):
    write_tiles(path, tiles, frame, **{"slide": "case-1", "kind": "score", **options})
    return json.loads(path.read_text() if path.suffix == ".geojson" else gzip.open(path).read())
