"""Images with one label each, the lattice of instances in them, and labels painted back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadGeometry, LabelError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """Equally large square images, each with one label.

    Attributes
    ----------
    pixels
        uint8 [n, side_px, side_px, 3], RGB.
    labels
        bool [n]: whether any part of the image is positive.
    slides
        Slide of each image, [n]: its images share stains.
    patients
        Patient of each image, [n]: images of one never part in a split. The slides by default.

    Raises
    ------
    BadGeometry
        Pixels of another shape.
    LabelError
        Not one label, one slide and one patient an image.
    """

    pixels: Pixels
    labels: NDArray[np.bool_]
    slides: tuple[str, ...]
    patients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        is_square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        if self.pixels.dtype != np.uint8 or not is_square:
            raise BadGeometry(
                f"images are uint8 [n, side, side, 3], not {self.pixels.dtype} {list(shape)}"
            )
        counts = (len(self.labels), len(self.slides), len(self.groups))
        if self.labels.ndim != 1 or set(counts) != {len(self)}:
            raise LabelError(
                f"{len(self)} images, but {counts[0]} labels, {counts[1]} slides and "
                f"{counts[2]} patients",
                remedy="Give one label and one slide for each image, and one patient or none",
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def groups(self) -> tuple[str, ...]:
        """What never parts in a split: the patients, or the slides where none are named."""
        return self.patients or self.slides

    @property
    def side_px(self) -> int:
        """Side of an image."""
        return int(self.pixels.shape[1])

    def subset(self, rows: NDArray[np.int64]) -> ImageSet:
        """Some of the images, in the order of ``rows``."""
        slides = tuple(self.slides[row] for row in rows)
        patients = tuple(self.patients[row] for row in rows) if self.patients else ()
        return ImageSet(self.pixels[rows], self.labels[rows], slides, patients)


def instances(images: Pixels, grid: int) -> Pixels:
    """Cut images into lattices of equally large squares.

    Parameters
    ----------
    images
        uint8 [n, side_px, side_px, 3].
    grid
        Squares along a side: N of the paper, where N² instances make an image.

    Returns
    -------
    uint8 [n, grid, grid, side_px / grid, side_px / grid, 3]
        ``[i, r, c]`` is the square in row r, column c of image i. A view where NumPy can give one.

    Raises
    ------
    BadGeometry
        The side is no multiple of ``grid``: no pixel is dropped or made up.
    """
    n, side, _, channels = images.shape
    if grid < 1 or side % grid:
        raise BadGeometry(
            f"{side} px do not part into {grid} equal instances",
            remedy=f"Choose a lattice that divides {side}, or images of another size",
        )
    px = side // grid
    return images.reshape(n, grid, px, grid, px, channels).swapaxes(2, 3)


def painted(instance_labels: NDArray[np.generic], side_px: int) -> Pixels:
    """Give every pixel the label of its instance: the coarse masks that segmentation learns from.

    Parameters
    ----------
    instance_labels
        [n, grid, grid]; nonzero is positive.
    side_px
        Side of the images.

    Returns
    -------
    uint8 [n, side_px, side_px]
        0 or 1.

    Raises
    ------
    BadGeometry
        The side is no multiple of the lattice.
    """
    grid = instance_labels.shape[1]
    if side_px % grid:
        raise BadGeometry(f"{side_px} px do not part into {grid} equal instances")
    labels: Pixels = (instance_labels != 0).astype(np.uint8)
    return labels.repeat(side_px // grid, axis=1).repeat(side_px // grid, axis=2)
