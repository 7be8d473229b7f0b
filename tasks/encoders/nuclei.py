"""Nuclei in the haematoxylin channel of one tile: where they are, how large, how regular."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_AREA_UM2 = 8.0
"""Smaller specks are no nuclei: a lymphocyte's nucleus has some 30 µm²."""

_SEED_DISTANCE_UM = 2.0


@dataclass(frozen=True)
class Nuclei:
    """One value per nucleus, in order of label.

    Attributes
    ----------
    labels
        int32 [h, w]: 0 is background, nucleus k has label k + 1.
    area_px
        Number of pixels.
    centroid_px
        [n, 2] (y, x).
    perimeter_px
        Crofton's formula over four directions.
    major_px, minor_px
        Axes of the ellipse with the same second moments.
    is_clumped
        Whether it touches another nucleus.
    is_whole
        Whether it lies clear of the tile's border.
    """

    labels: NDArray[np.int32]
    area_px: Floats
    centroid_px: Floats
    perimeter_px: Floats
    major_px: Floats
    minor_px: Floats
    is_clumped: NDArray[np.bool_]
    is_whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.area_px)

    @property
    def eccentricity(self) -> Floats:
        """0 for a circle, towards 1 for a line."""
        eccentricity: Floats = np.sqrt(1 - (self.minor_px / self.major_px) ** 2)
        return eccentricity

    @property
    def roundness(self) -> Floats:
        """``4π · area / perimeter²``: 1 for a circle, less for long or ragged outlines."""
        roundness: Floats = 4 * np.pi * self.area_px / np.maximum(self.perimeter_px, 1) ** 2
        return roundness

    @property
    def ellipse_fit(self) -> Floats:
        """Area over that of the ellipse with the same second moments: 1 for an ellipse, less
        for an irregular shape."""
        return self.area_px / (np.pi / 4 * self.major_px * self.minor_px)

    def amounts(self, channel: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of a channel [h, w] inside each nucleus."""
        at = np.flatnonzero(self.labels)
        of, values = self.labels.ravel()[at] - 1, channel.ravel()[at].astype(np.float64)
        mean = _sums(of, values, len(self)) / self.area_px
        variance = _sums(of, (values - mean[of]) ** 2, len(self)) / self.area_px
        return mean, np.sqrt(variance)

    def neighbour_px(self) -> Floats:
        """Distance of each centroid to the nearest other; empty where there are fewer than two."""
        from scipy.spatial import KDTree

        if len(self) < 2:
            return np.empty(0)
        distance: Floats = KDTree(self.centroid_px).query(self.centroid_px, k=2)[0][:, 1]
        return distance


def find_nuclei(haematoxylin: NDArray[np.float32], threshold: float, um_per_px: float) -> Nuclei:
    """Find and measure nuclei: threshold, then split clumps at the peaks of their depth.

    Every peak of the smoothed distance to the background, highest within 2 µm, seeds a nucleus;
    a pixel of a clump goes to the nearest seed. A component with one seed is left as it is.

    Parameters
    ----------
    haematoxylin
        float32 [h, w], smoothed.
    threshold
        More than this is nucleus.
    um_per_px
        Micrometres per pixel.
    """
    mask = (haematoxylin > threshold).view(np.uint8)
    labels, is_clumped = _split(mask, um_per_px)
    return _measure(labels, is_clumped, MIN_AREA_UM2 / um_per_px**2)


def _split(
    mask: NDArray[np.uint8], um_per_px: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Label nuclei [h, w]; the second array says of labels 0 … n whether they are of a clump."""
    import cv2

    n_components, components = cv2.connectedComponents(mask, connectivity=8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    depth = cv2.GaussianBlur(depth, (0, 0), max(0.5 / um_per_px, 0.5))
    reach = max(1, round(_SEED_DISTANCE_UM / um_per_px))
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    peaks = ((depth >= cv2.dilate(depth, window)) & (mask > 0)).view(np.uint8)
    seeds: Any
    n_seeds, seeds = cv2.connectedComponents(peaks, connectivity=8)

    inside = np.flatnonzero(mask)
    component = components.ravel()[inside]
    seed = _nearest_seed(peaks, seeds).ravel()[inside]
    owner = np.zeros(n_seeds, np.int64)
    flat_seeds = seeds.ravel()[inside]
    owner[flat_seeds[flat_seeds > 0]] = component[flat_seeds > 0]
    seeds_in = np.bincount(owner[1:], minlength=n_components)

    # A component of one seed is one nucleus, whatever seed of a neighbour lies nearer.
    only_seed = np.zeros(n_components, np.int64)
    only_seed[owner[1:]] = np.arange(1, n_seeds)
    nucleus = np.where(seeds_in[component] == 1, only_seed[component], seed)
    nucleus[owner[nucleus] != component] = 0
    labels = np.zeros(mask.size, np.int32)
    labels[inside] = nucleus
    is_clumped = seeds_in[owner] > 1
    is_clumped[0] = False
    return labels.reshape(mask.shape), is_clumped


def _nearest_seed(peaks: NDArray[np.uint8], seeds: NDArray[np.int32]) -> NDArray[np.int32]:
    import cv2

    # OpenCV numbers the zero pixels' components its own way: the table leads back to ours.
    _, nearest = cv2.distanceTransformWithLabels(
        1 - peaks, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
    )
    table = np.zeros(int(nearest.max()) + 1, np.int32)
    at = np.flatnonzero(peaks)
    table[nearest.ravel()[at]] = seeds.ravel()[at]
    nearest_seed: NDArray[np.int32] = table[nearest]
    return nearest_seed


def _measure(
    labels: NDArray[np.int32], is_clumped: NDArray[np.bool_], min_area_px: float
) -> Nuclei:
    flat = labels.ravel()
    area = np.bincount(flat, minlength=len(is_clumped)).astype(np.float64)
    keep = area >= min_area_px
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    labels = renumber[labels]
    n, area = int(keep.sum()), area[keep]

    at = np.flatnonzero(labels)
    of = labels.ravel()[at] - 1
    y, x = np.divmod(at, labels.shape[1])
    mean_y, mean_x = _sums(of, y, n) / area, _sums(of, x, n) / area
    dy, dx = y - mean_y[of], x - mean_x[of]
    # A pixel is a unit square, with a second moment of its own: 1/12.
    yy = _sums(of, dy * dy, n) / area + 1 / 12
    xx = _sums(of, dx * dx, n) / area + 1 / 12
    xy = _sums(of, dx * dy, n) / area
    spread = np.sqrt((yy - xx) ** 2 + 4 * xy**2)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    is_whole = np.bincount(border, minlength=n + 1)[1:] == 0
    return Nuclei(
        labels=labels,
        area_px=area,
        centroid_px=np.stack([mean_y, mean_x], axis=1),
        perimeter_px=_perimeters(labels, n),
        major_px=np.sqrt(8 * (yy + xx + spread)),
        minor_px=np.sqrt(8 * np.maximum(yy + xx - spread, 0)),
        is_clumped=is_clumped[keep],
        is_whole=is_whole,
    )


def _sums(of: NDArray[np.int32], values: NDArray[Any], n: int) -> Floats:
    return np.bincount(of, weights=values, minlength=n).astype(np.float64, copy=False)


def _perimeters(labels: NDArray[np.int32], n: int) -> Floats:
    padded = np.pad(labels, 1)
    horizontal = _crossings(padded[:, :-1], padded[:, 1:], n)
    vertical = _crossings(padded[:-1], padded[1:], n)
    falling = _crossings(padded[:-1, :-1], padded[1:, 1:], n)
    rising = _crossings(padded[1:, :-1], padded[:-1, 1:], n)
    perimeters: Floats = np.pi / 8 * (horizontal + vertical + (falling + rising) / np.sqrt(2))
    return perimeters


def _crossings(a: NDArray[np.int32], b: NDArray[np.int32], n: int) -> Floats:
    """How often lines of one direction cross the outline of each nucleus."""
    differ = np.flatnonzero(a != b)
    sides = np.concatenate([a.ravel()[differ], b.ravel()[differ]])
    return np.bincount(sides, minlength=n + 1)[1:].astype(np.float64)
