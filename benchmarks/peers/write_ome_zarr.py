"""ome-zarr-py: level 0 through tifffile and dask, defaults otherwise."""

import sys

import dask.array as da
import tifffile
import zarr
from ome_zarr.writer import write_image

source, out = sys.argv[1:]
with tifffile.TiffFile(source) as tif:
    level = da.from_zarr(zarr.open(tif.series[0].aszarr(level=0), mode="r"))
    write_image(da.moveaxis(level, 2, 0), out, axes="cyx")
