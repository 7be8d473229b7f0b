"""Bags that tests make, and whether two are the same."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from microtome.storage.bags import Bag


def a_bag(n: int = 12, d: int = 5, **changes: Any) -> Bag:
    """A bag of ``n`` tiles with ``d`` features, drawn by a fixed seed."""
    draw = np.random.default_rng(0)
    usual = {
        "id": "case-17",
        "features": draw.normal(size=(n, d)).astype(np.float32),
        "coords_px": draw.integers(0, 9000, (n, 2)),
        "footprint_px": (1024.0, 1024.0),
        "slide_px": (60_000, 80_000),
        "mpp": 0.5,
        "slide_mpp": (0.25, 0.25),
        "tile_px": 512,
        "encoder": "uni@abc",
        "bounds_px": (0, 0, 50_000, 70_000),
        "quality": {"tissue": np.linspace(0, 1, n, dtype=np.float32)},
        "source": "case-17.svs",
        "corrupt_tiles": 3,
    }
    return Bag(**usual | changes)


def row_of_tiles(name: str, features: np.ndarray, **changes: Any) -> Bag:
    """A bag of tiles one below the other, float32 [n, d]."""
    n, d = features.shape
    usual = {
        "coords_px": np.stack([np.arange(n) * 512, np.zeros(n, int)], axis=1),
        "footprint_px": (512.0, 512.0),
        "slide_px": (512 * n, 512),
        "mpp": 0.5,
        "slide_mpp": (0.25, 0.25),
        "tile_px": 256,
        "encoder": "stain-texture@1",
        "feature_names": tuple(f"f{i}" for i in range(d)),
        "source": f"{name}.svs",
    }
    return Bag(id=name, features=features, **usual | changes)


def assert_same(one: Bag, other: Bag) -> None:
    """Every field of the two, to the last bit and of the same type."""
    for field in fields(Bag):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "quality":
            assert set(left) == set(right)
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name
