"""Users' own loops: levels as Dask arrays, tiles by torch's DataLoader."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import DataLoader

from microtome.engine.datasets import TileDataset, TiledSlide
from microtome.engine.grid import TileGrid
from microtome.engine.handles import SlideHandles
from microtome.engine.lazy import level_array
from microtome.engine.slides import open_slide
from microtome.engine.tiles import read_tiles
from microtome.storage.bags import read_bag
from microtome.storage.errors import MissingFile
from microtome.tasks.encode import EncodeOptions, SlideItem, encode_slide

SVS = Path("slides/aperio/CMU-1-Small-Region.svs")
OME = Path("slides/derived/CMU-1-Small-Region.ome.tif")


def test_a_level_is_what_tifffile_reads_of_it(shared_data):
    image = level_array(shared_data / SVS, chunk_px=700)
    assert isinstance(image, da.Array)
    assert image.chunks[0][:-1] == (720,) * 4
    np.testing.assert_array_equal(image.compute(), tifffile.imread(shared_data / SVS, key=0))


def test_a_part_of_a_level_is_read_alone_and_in_other_processes(shared_data):
    image = level_array(shared_data / SVS)
    part = image[100:300, 50:90]
    expected = tifffile.imread(shared_data / SVS, key=0)[100:300, 50:90]
    np.testing.assert_array_equal(part.compute(scheduler="processes", num_workers=2), expected)


def test_channels_stay_channels(shared_data, tmp_path):
    values = np.random.default_rng(0).integers(0, 4000, (3, 300, 400), np.uint16)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, values, tile=(128, 128), metadata={"axes": "CYX"})
    image = level_array(path, chunk_px=128)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image.compute(), values)


def test_what_is_not_there_is_named(shared_data, tmp_path):
    with pytest.raises(IndexError, match="no level 7"):
        level_array(shared_data / SVS, 7)
    with pytest.raises(MissingFile):
        level_array(tmp_path / "none.svs")


def tiled(path: Path, tile_px: int, mpp: float) -> TiledSlide:
    with open_slide(path) as slide:
        return TiledSlide(path, TileGrid.over(slide.info, tile_px=tile_px, mpp=mpp))


@pytest.fixture
def dataset(shared_data) -> Iterator[TileDataset]:
    slides = [tiled(shared_data / SVS, 256, 1.0), tiled(shared_data / OME, 256, 1.0)]
    tiles = TileDataset(slides, open_slides=1)
    yield tiles
    tiles.close()


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_workers_give_the_tiles_that_one_process_reads(dataset, context):
    expected = []
    for source in dataset.slides:
        with open_slide(source.path) as slide:
            expected += [tile for _, batch in read_tiles(slide, source.grid) for tile in batch]
    # Opened here first: a fork inherits the handle, and must not use it.
    np.testing.assert_array_equal(dataset[0]["tile"], expected[0])
    workers = 0 if context is None else 2
    batches = list(DataLoader(dataset, 4, num_workers=workers, multiprocessing_context=context))
    assert batches[0]["tile"].dtype == torch.uint8
    np.testing.assert_array_equal(torch.cat([b["tile"] for b in batches]).numpy(), expected)
    sizes = [len(source.grid) for source in dataset.slides]
    assert torch.cat([b["slide"] for b in batches]).tolist() == [0] * sizes[0] + [1] * sizes[1]
    coords = np.concatenate([source.grid.coords_px for source in dataset.slides])
    np.testing.assert_array_equal(torch.cat([b["coords_px"] for b in batches]), coords)


def test_indices_are_pythons(dataset):
    assert (dataset[-1]["tile"] == dataset[len(dataset) - 1]["tile"]).all()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_bag_gives_its_tiles_back(shared_data, tmp_path):
    item = SlideItem("a", shared_data / SVS, mpp=0.4)
    made = encode_slide(item, out=tmp_path, options=EncodeOptions(mpp=0.8, tile_px=128))
    bag = read_bag(made.path)
    dataset = TileDataset([TiledSlide.of_bag(bag)], transform=np.mean)
    assert len(dataset) == len(bag)
    with open_slide(shared_data / SVS, mpp=0.4) as slide:
        y, x = bag.coords_px[3]
        mean = slide.read(0, int(y), int(x), 256, 256).mean()
    assert dataset[3]["tile"] == pytest.approx(mean, abs=1.0)


class TestHandles:
    def test_are_few_and_the_least_used_goes(self, shared_data):
        handles = SlideHandles(2)
        first = handles.get(shared_data / SVS)
        handles.get(shared_data / OME)
        assert handles.get(shared_data / SVS) is first
        handles.get(shared_data / SVS, 0.5)
        assert len(handles) == 2
        assert handles.get(shared_data / SVS) is first
        handles.close()
        assert len(handles) == 0

    def test_do_not_travel(self, shared_data):
        handles = SlideHandles()
        handles.get(shared_data / SVS)
        assert len(copy.copy(handles)) == 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_of_a_parent_are_not_a_childs(self, shared_data):
        handles = SlideHandles()
        mine = handles.get(shared_data / SVS)
        child = os.fork()
        if child == 0:
            os._exit(0 if handles.get(shared_data / SVS) is not mine else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert handles.get(shared_data / SVS) is mine
