"""Very many tiles: coarsened, said aloud, and within a bounded memory."""

from __future__ import annotations

import gzip
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.storage.qupath import Frame, PathClass, Tiles, write_tiles
from microtome.storage.qupath_check import check_geojson, read_features, read_metadata
from microtome.storage.qupath_coarse import coarsen

TUMOUR, STROMA = PathClass("Tumor", (200, 0, 0)), PathClass("Stroma", (150, 200, 150))


def lattice(rows: int, columns: int, side: float = 10.0, **changes) -> Tiles:
    index = np.arange(rows * columns)
    corners = np.stack([index // columns, index % columns], axis=1) * side
    values = {"score": index.astype(np.float64)}
    return Tiles(np.rint(corners).astype(np.int64), (side, side), values, **changes)


def test_few_tiles_are_left_alone():
    tiles = lattice(4, 6)
    assert coarsen(tiles, 24) == (tiles, 1)


def test_four_tiles_become_one_with_their_mean_and_their_commonest_class():
    # 0 1  0 1
    # 1 -  - -
    classes = np.array([0, 1, 0, 1, 1, -1, -1, -1])
    coarse, side = coarsen(lattice(2, 4, classes=(TUMOUR, STROMA), class_index=classes), 2)
    assert side == 2
    assert coarse.coords_px.tolist() == [[0, 0], [0, 20]]
    assert coarse.footprint_px == (20.0, 20.0)
    assert coarse.measurements["score"].tolist() == [2.5, 4.5]
    # The second wins by two to one; of two as frequent the first.
    assert coarse.class_index.tolist() == [1, 0]


def test_a_value_that_is_not_finite_counts_for_nothing():
    tiles = Tiles(
        np.array([[0, 0], [0, 10], [40, 40]]), (10.0, 10.0), {"v": np.array([np.nan, 3.0, np.inf])}
    )
    coarse, _ = coarsen(tiles, 2)
    np.testing.assert_array_equal(coarse.measurements["v"], [3.0, np.nan])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.floats(7.5, 300), st.integers(1, 300),
    st.integers(0, 9),
)  # fmt: skip
def test_coarse_tiles_are_few_enough_and_hold_what_they_stand_for(
    rows, columns, side, at_most, seed
):
    tiles = lattice(rows, columns, side)
    keep = np.random.default_rng(seed).random(len(tiles)) < 0.6
    keep[0] = True
    some = Tiles(tiles.coords_px[keep], tiles.footprint_px, {"one": np.ones(keep.sum())})
    coarse, k = coarsen(some, at_most)
    assert len(coarse) <= max(at_most, 1)
    assert (k == 1) == (keep.sum() <= at_most)
    assert (coarse.measurements["one"] == 1).all()
    # The centre of every tile lies in a square, of every square some tile's: by brute force.
    centres = some.coords_px + side / 2
    low, high = coarse.coords_px, coarse.coords_px + np.array(coarse.footprint_px)
    inside = (centres[:, None] >= low - 0.5) & (centres[:, None] <= high + 0.5)
    assert inside.all(axis=2).any(axis=1).all()
    assert inside.all(axis=2).any(axis=0).all()


def test_an_export_of_too_many_says_so_and_still_breaks_no_rule(tmp_path):
    path = tmp_path / "a.geojson"
    made = write_tiles(path, lattice(20, 30), Frame((200, 300)), slide="s", kind="k", at_most=200)
    assert (made.objects, made.coarsened) == (150, 2)
    about = read_metadata(path)
    assert (about["tiles"], about["coarsened"]) == (600, 2)
    assert check_geojson(path) == []
    whole = write_tiles(path, lattice(20, 30), Frame((200, 300)), slide="s", kind="k", at_most=None)
    assert (whole.objects, whole.coarsened) == (600, 1)
    assert "coarsened" not in read_metadata(path)
    assert len(read_features(path)) == 600


MILLION = """
import sys
from pathlib import Path
import numpy as np
from microtome.storage.qupath import Frame, Tiles, write_tiles

n = 1_000_000
i = np.arange(n)
coords = np.stack([i // 1000 * 256, i % 1000 * 256], axis=1)
names = ("score", "score rank", "attention", "attention rank")
tiles = Tiles(coords, (256.0, 256.0), {k: np.linspace(0, 1, n, dtype=np.float32) for k in names})
written = write_tiles(
    Path(sys.argv[1]), tiles, Frame((256_000, 256_000)), slide="s", kind="k", at_most=None
)
assert written.objects == n
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_tiles_are_exported_within_200_megabytes(tmp_path):
    path = tmp_path / "a.geojson.gz"
    run = subprocess.run(
        [sys.executable, "-c", MILLION, str(path)], capture_output=True, text=True, check=True
    )
    # Of the whole process, with Python, numpy, shapely and the tiles themselves.
    assert int(run.stdout) * 1024 < 200e6
    with gzip.open(path, "rb") as file:
        assert sum(line.startswith(b'{"type":"Feature"') for line in file) == 1_000_000
