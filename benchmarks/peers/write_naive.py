"""What everybody writes: OpenSlide by dask blocks into Zarr, each level coarsened from the last."""

import sys

import dask
import dask.array as da
import numpy as np
import openslide
import zarr

SIDE_PX = 1024
source, out = sys.argv[1:]


def block(block_info):
    (top, bottom), (left, right), _ = block_info[None]["array-location"]
    region = openslide.OpenSlide(source).read_region((left, top), 0, (right - left, bottom - top))
    return np.asarray(region.convert("RGB"))


def sizes(length):
    return tuple(min(SIDE_PX, length - start) for start in range(0, length, SIDE_PX))


if __name__ == "__main__":
    width, height = openslide.OpenSlide(source).dimensions
    chunks = (sizes(height), sizes(width), (3,))
    group = zarr.open_group(out, mode="w")
    image = da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 3), np.uint8))
    level = 0
    with dask.config.set(scheduler="threads", num_workers=2):
        while True:
            image.to_zarr(group.store, component=str(level))
            stored = da.from_zarr(group.store, component=str(level))
            if max(stored.shape) <= 256:
                break
            mean = da.coarsen(np.mean, stored, {0: 2, 1: 2}, trim_excess=True)
            image = mean.astype(np.uint8).rechunk((SIDE_PX, SIDE_PX, 3))
            level += 1
