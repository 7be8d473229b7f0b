"""Partial volume correction: what regions would show if the scanner did not blur.

The width of the blur (FWHM of the point spread function, in mm) is that of scanner, reconstruction
and filter together. It is always given, never guessed from the scan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array, vstack

from ..storage.errors import BadGeometry, BadSeries
from .matrices import Array
from .regions import Parcellation

Millimetres = float | Sequence[float]
"""One width for all axes, or one each for (z, y, x)."""

MIN_GREY = 0.3
"""Blurred fraction of grey matter below which a voxel has no corrected value."""

_PURE_WHITE = 0.95
_WIDEST_SIGMA = 4.0
_SIGMA_PER_FWHM = 1 / np.sqrt(8 * np.log(2))
_ILL_CONDITIONED = 1e4


def blur(image: ArrayLike, fwhm_mm: Millimetres, spacing_mm: Sequence[float]) -> Array:
    """A Gaussian point spread function over an image, 0 outside of it: float64 [z, y, x].

    Parameters
    ----------
    fwhm_mm
        Full width at half maximum.
    spacing_mm
        Of the voxels, (z, y, x).
    """
    return np.asarray(
        gaussian_filter(
            np.asarray(image, np.float64),
            _sigma_vox(fwhm_mm, spacing_mm),
            mode="constant",
            truncate=_WIDEST_SIGMA,
        ),
        np.float64,
    )


def transfer_matrix(
    parcellation: Parcellation, fwhm_mm: Millimetres, spacing_mm: Sequence[float]
) -> Array:
    r"""Geometric transfer matrix: how much of each region's activity is seen in each other.

    .. math:: \omega_{ij} = \frac{1}{|i|} \sum_{v \in i} (\mathbf{1}_j \otimes h)(v)

    Returns
    -------
    float64 [r + 1, r + 1]
        Rows see, columns are seen. The last is all that is in no region. The diagonal holds the
        recovery coefficients.

    Raises
    ------
    BadGeometry
        Regions share voxels.

    References
    ----------
    Rousset, Ma & Evans (1998), J. Nucl. Med. 39:904.
    """
    members = _with_rest(parcellation)
    counts = np.asarray(members.sum(axis=1), np.float64)
    sigma = _sigma_vox(fwhm_mm, spacing_mm)
    seen = np.zeros((members.shape[0],) * 2)
    for region in range(len(parcellation.names)):
        seen[:, region] = members @ _spread(members, region, parcellation.shape, sigma)
    # Blurring is linear, so that the rest is seen where no region is.
    inside = gaussian_filter(np.ones(parcellation.shape), sigma, mode="constant", truncate=4.0)
    seen[:, -1] = members @ inside.ravel() - seen[:, :-1].sum(axis=1)
    transfer: Array = seen / np.maximum(counts, 1)[:, None]
    return transfer


def correct_means(values: ArrayLike, parcellation: Parcellation, transfer: Array) -> Array:
    """Mean of each region, corrected with the geometric transfer matrix.

    Activity is taken for even within each region, and within all that is in none.

    Parameters
    ----------
    values
        [z, y, x], or [t, z, y, x]: each frame by itself.
    transfer
        Of :func:`transfer_matrix`.

    Returns
    -------
    float64 [r] or [t, r]

    Raises
    ------
    BadSeries
        A voxel has no finite value; regions that cannot be told apart through such a blur.
    """
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise BadSeries(
            "voxels without a value cannot be corrected for partial volume",
            remedy="Mask nothing out before: what is outside the brain spills into it too",
        )
    members = _with_rest(parcellation)
    counts = np.asarray(members.sum(axis=1), np.float64)
    flat = array.reshape(-1, members.shape[1])
    used = counts > 0
    observed = (members @ flat.T)[used] / counts[used, None]
    system = transfer[np.ix_(used, used)]
    if np.linalg.cond(system) > _ILL_CONDITIONED:
        weakest = int(np.diag(system)[: len(parcellation.names)].argmin())
        raise BadSeries(
            "regions cannot be told apart through such a blur; the most blurred is "
            f"{parcellation.names[weakest]}, of which {system[weakest, weakest]:.0%} is recovered",
            remedy="Leave small regions out with --leave-out, or join them",
        )
    corrected: Array = np.linalg.solve(system, observed).T[:, : len(parcellation.names)]
    return corrected if array.ndim == 4 else corrected[0]


def mueller_gaertner(
    activity: ArrayLike,
    grey: ArrayLike,
    white: ArrayLike,
    *,
    fwhm_mm: Millimetres,
    spacing_mm: Sequence[float],
    csf: ArrayLike | None = None,
    white_uptake: float | None = None,
    csf_uptake: float = 0.0,
    min_grey: float = MIN_GREY,
) -> Array:
    r"""Image of grey matter without the spill from white matter and fluid, and without its own.

    .. math:: C_{GM} = \frac{I - C_{WM}\,(p_{WM} \otimes h) - C_{CSF}\,(p_{CSF} \otimes h)}
                            {p_{GM} \otimes h}

    Parameters
    ----------
    activity, grey, white, csf
        [z, y, x]: the scan, and fractions of tissue from 0 to 1 on its grid.
    white_uptake
        Activity of white matter, which is taken for even; by default the mean where the blurred
        fraction of white matter is at least 0.95.
    csf_uptake
        Of fluid.
    min_grey
        Blurred fraction of grey matter from which on a voxel is corrected.

    Returns
    -------
    float64 [z, y, x]
        NaN where there is too little grey matter.

    Raises
    ------
    BadGeometry
        Images on different grids, fractions beyond 0 … 1.
    BadSeries
        No voxel is white matter alone, or none has enough grey matter.

    References
    ----------
    Müller-Gärtner et al. (1992), J. Cereb. Blood Flow Metab. 12:571; Rousset et al. (1998),
    J. Nucl. Med. 39:904, for the uptake of white matter.
    """
    image = np.asarray(activity, np.float64)
    fluid = np.zeros(image.shape) if csf is None else np.asarray(csf, np.float64)
    tissues = [np.asarray(tissue, np.float64) for tissue in (grey, white, fluid)]
    for name, tissue in zip(("grey matter", "white matter", "fluid"), tissues, strict=True):
        if tissue.shape != image.shape or image.ndim != 3:
            raise BadGeometry(f"{name} {tissue.shape} is not on the grid of the scan {image.shape}")
        if not (tissue.min() >= -1e-6 and tissue.max() <= 1 + 1e-6):
            raise BadGeometry(f"fractions of {name} are beyond 0 to 1")
    seen_grey, seen_white, seen_fluid = (blur(tissue, fwhm_mm, spacing_mm) for tissue in tissues)
    if white_uptake is None:
        pure = seen_white >= _PURE_WHITE
        if not pure.any():
            raise BadSeries(
                f"no voxel is white matter alone after a blur of {fwhm_mm} mm",
                remedy="Give the uptake of white matter",
            )
        white_uptake = float(image[pure].mean())
    enough = seen_grey >= min_grey
    if not enough.any():
        raise BadSeries("no voxel has enough grey matter", remedy="Check the images of tissue")
    corrected = np.full(image.shape, np.nan)
    own = image - white_uptake * seen_white - csf_uptake * seen_fluid
    corrected[enough] = own[enough] / seen_grey[enough]
    return corrected


def _sigma_vox(fwhm_mm: Millimetres, spacing_mm: Sequence[float]) -> Array:
    widths = np.broadcast_to(np.asarray(fwhm_mm, np.float64), (3,))
    if not (np.isfinite(widths).all() and (widths > 0).all()):
        raise BadGeometry(f"{fwhm_mm} mm is no width of a point spread function")
    sigma: Array = widths * _SIGMA_PER_FWHM / np.asarray(spacing_mm, np.float64)
    return sigma


def _with_rest(parcellation: Parcellation) -> csr_array:
    """Members of the regions, and of what is in none, [r + 1, voxels]."""
    members = parcellation.members
    covered = np.asarray(members.sum(axis=0))
    if covered.max() > 1:
        raise BadGeometry(
            "regions share voxels, so that their activity cannot be told apart",
            remedy="Use an atlas of labels, or smaller spheres",
        )
    return csr_array(vstack([members, csr_array((covered == 0).astype(np.float64)[None])]))


def _spread(members: csr_array, region: int, shape: tuple[int, int, int], sigma: Array) -> Array:
    """A region through the blur, over the whole grid; worked out around the region only."""
    start, stop = members.indptr[region : region + 2]
    places = np.unravel_index(members.indices[start:stop], shape)
    reach = np.ceil(_WIDEST_SIGMA * sigma).astype(int) + 1
    box = tuple(
        slice(max(0, at.min() - margin), min(size, at.max() + margin + 1))
        for at, margin, size in zip(places, reach, shape, strict=True)
    )
    within = np.zeros(shape)
    within[places] = 1.0
    spread = np.zeros(shape)
    spread[box] = gaussian_filter(within[box], sigma, mode="constant", truncate=_WIDEST_SIGMA)
    return spread.ravel()
