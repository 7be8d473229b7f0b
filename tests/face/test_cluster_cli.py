"""``microtome cluster``, on bags whose kinds of tile are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.bags import Bag, write_bag
from microtome.storage.errors import CohortError, InputError, StaleProduct
from microtome.storage.qupath_check import check_geojson, read_features
from microtome.tasks.cluster_gallery import SHOWN_PX, placed
from microtome.tasks.cluster_run import learn_clusters

KINDS = np.repeat([0, 1, 2], [30, 20, 10])


def some_bag(number: int, encoder: str = "e@1") -> Bag:
    rng = np.random.default_rng(number)
    features = 9 * np.eye(5)[KINDS] + rng.normal(size=(60, 5))
    y, x = np.divmod(np.arange(60), 10)
    return Bag(
        id=f"s{number}",
        features=features.astype(np.float32),
        coords_px=(np.stack([y, x], axis=1) * 100).astype(np.int64),
        footprint_px=(100.0, 100.0),
        slide_px=(1000, 1000),
        mpp=0.5,
        slide_mpp=(0.5, 0.5),
        tile_px=100,
        encoder=encoder,
    )


@pytest.fixture
def bags(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "bags" / f"s{number}.bag.zarr" for number in range(8)]
    for number, path in enumerate(paths):
        write_bag(path, some_bag(number), key=str(number))
    return paths


def test_one_set_of_clusters_for_all_slides(bags: list[Path], tmp_path: Path) -> None:
    rows = [f"s{i},p{i},{'AB'[i % 2]}" for i in range(8)]
    (tmp_path / "cohort.csv").write_text("\n".join(["id,patient,site", *rows]))
    out = tmp_path / "out"
    line = f"cluster {tmp_path}/bags --out {out} --k 3 --resamples 3 --cohort {tmp_path}/cohort.csv"
    ended = CliRunner().invoke(app, line.split())
    assert ended.exit_code == 0, ended.output
    record = json.loads((out / "clusters.json").read_text())
    assert record["stability"]["ari"]["low"] > 0.99
    assert record["site"]["p"] > 0.05
    shares = pd.read_csv(out / "composition.csv", index_col="id")
    np.testing.assert_allclose(shares.to_numpy(), [[1 / 2, 1 / 3, 1 / 6, 0]] * 8, atol=0.02)
    for number in range(8):
        path = out / f"s{number}.clusters.geojson.gz"
        assert not check_geojson(path)
        said = [f["properties"]["measurements"]["cluster"] for f in read_features(path)]
        assert adjusted_rand_score(KINDS, said) > 0.9
    nearest = pd.read_csv(out / "prototypes.csv")
    assert nearest.groupby("cluster").size().tolist() == [10, 10, 10]
    assert nearest.groupby("cluster")["id"].nunique().tolist() == [8, 8, 8]
    with pytest.raises(StaleProduct, match="clusters are here already"):
        learn_clusters(bags, out)


def test_what_cannot_be_clustered_is_refused(bags: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("id,patient,site\ns0,p0,A\ns1,p1,B")
    with pytest.raises(CohortError, match="no site is given of s2, s3"):
        learn_clusters(bags, tmp_path / "out", k=3, cohort=tmp_path / "cohort.csv")
    with pytest.raises(InputError, match="fewer than 500 tiles differ"):
        learn_clusters(bags, tmp_path / "out", k=500)
    write_bag(tmp_path / "other.bag.zarr", some_bag(9, "f@1"), key="9")
    with pytest.raises(InputError, match="bags of 2 encoders"):
        learn_clusters([*bags, tmp_path / "other.bag.zarr"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_report_shows_the_tiles_of_each_cluster(tmp_path: Path) -> None:
    """Each kind of tile has a colour on the slide: a cluster's gallery has that colour alone."""
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    lattice = np.zeros((10, 10, 3), np.uint8)
    lattice[:6] = colours[KINDS].reshape(6, 10, 3)
    slide = tmp_path / "slide.tif"
    pixels = lattice.repeat(100, 0).repeat(100, 1)
    tifffile.imwrite(slide, pixels, tile=(256, 256), photometric="rgb", resolution=(2e4, 2e4),
                     resolutionunit="CENTIMETER")  # fmt: skip
    for number in range(4):
        bag = replace(some_bag(number), source=str(slide) if number < 3 else "gone.tif")
        write_bag(tmp_path / "bags" / f"s{number}.bag.zarr", bag, key=str(number))
    out = tmp_path / "out"
    line = f"cluster {tmp_path}/bags --out {out} --k 3 --resamples 2"
    ended = CliRunner().invoke(app, line.split())
    assert ended.exit_code == 0, ended.output
    assert "no tiles are shown of 1 slides: s3" in ended.output
    for number, colour in enumerate(colours, start=1):
        picture = np.asarray(Image.open(out / "gallery" / f"cluster-{number}.png").convert("RGB"))
        assert picture.shape[0] == SHOWN_PX
        gap = (picture == 255).all(2)
        assert (picture[~gap] == colour).all()
        assert (~gap[0]).sum() == 7 * SHOWN_PX or (~gap[0]).sum() == 8 * SHOWN_PX
    report = (out / "report.html").read_text()
    assert report.count("<img") == 4
    assert "Cluster 3, nearest to its centre" in report


@pytest.mark.slow
def test_neighbours_stay_neighbours_by_umap() -> None:
    rng = np.random.default_rng(0)
    points = 20 * np.eye(5)[KINDS] + rng.normal(size=(60, 5))
    first = placed(points, "umap", seed=3)
    np.testing.assert_array_equal(first, placed(points, "umap", seed=3))
    apart = cdist(first, first) + np.diag(np.full(60, np.inf))
    assert np.mean(KINDS[apart.argmin(1)] == KINDS) > 0.9


def test_a_map_by_components_is_the_first_two() -> None:
    points = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(placed(points, "pca"), points[:, :2])
    np.testing.assert_array_equal(placed(points[:, :1], "pca")[:, 1], 0)
