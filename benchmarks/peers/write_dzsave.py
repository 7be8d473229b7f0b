"""libvips: a DeepZoom pyramid of JPEG tiles."""

import sys

import pyvips

source, out = sys.argv[1:]
image = pyvips.Image.new_from_file(source, access="sequential")
image.dzsave(out, suffix=".jpg[Q=85]", tile_size=256, overlap=0)
