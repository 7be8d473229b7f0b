"""What is kept: products, commits, bags, OME-Zarr, exchange formats."""
