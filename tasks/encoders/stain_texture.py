"""``stain-texture``: the default encoder; no weights, and every feature has a name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...engine.stain import REFERENCE, Stains, estimate_stains
from . import texture
from .base import Features, Tiles, check_tiles
from .nuclei import Nuclei, find_nuclei

Amounts = NDArray[np.float32]

_STAINS = ("haematoxylin", "eosin")
_PERCENTILES = (10, 50, 90)
_UNITS_PER_GREY = 2.0 / 255
_GLCM_DISTANCE_UM = 2.0
_SMOOTHING_UM = 0.5
_CLEAR = 0.15
_THRESHOLD_RANGE = (0.2, 0.7)

FEATURES: dict[str, str] = {
    **{f"mean_{c}": f"mean of {c}, 0 to 1, as scanned" for c in ("red", "green", "blue")},
    "clear_fraction": "fraction of the tile with hardly any stain: glass, fat, lumen",
    "stain_correlation": "correlation of haematoxylin and eosin over pixels",
    **{
        f"{s}_{name}": f"{s}: {about}, normalised amount (1: the slide's 99th percentile)"
        for s in _STAINS
        for name, about in (
            ("mean", "mean"),
            ("sd", "standard deviation"),
            *((f"p{p}", f"percentile {p}") for p in _PERCENTILES),
        )
    },
    **{
        f"{s}_detail_{2**k}px": f"{s}: standard deviation of Laplacian pyramid band {k}"
        for s in _STAINS
        for k in range(texture.PYRAMID_BANDS)
    },
    **{
        f"{s}_coherence": f"{s}: how far gradients share one direction (fibres), 0 to 1"
        for s in _STAINS
    },
    **{
        f"{s}_glcm_{p}": f"{s}: co-occurrence {p} at 2 µm, 32 levels"
        for s in _STAINS
        for p in texture.GLCM_NAMES
    },
    **{
        f"{s}_lbp_{k}": f"{s}: fraction of "
        + (f"uniform local binary patterns with {k} ones" if k < 9 else "other patterns")
        for s in _STAINS
        for k in range(texture.LBP_BINS)
    },
    "nuclei_per_mm2": "nuclei per mm² of stained tissue",
    "nuclei_area_fraction": "fraction of stained tissue that is nucleus",
    "nuclei_clumped_fraction": "fraction of nuclei that touch another",
    "nuclei_neighbour_um": "mean distance to the nearest nucleus, µm",
    "nuclei_neighbour_sd_um": "standard deviation of that distance, µm",
    "nuclei_area_um2": "mean nuclear area, µm²",
    "nuclei_area_sd_um2": "standard deviation of nuclear area, µm² (pleomorphism)",
    **{f"nuclei_area_p{p}_um2": f"percentile {p} of nuclear area, µm²" for p in _PERCENTILES},
    "nuclei_eccentricity": "mean eccentricity, 0 round to 1 long",
    "nuclei_eccentricity_sd": "standard deviation of eccentricity",
    "nuclei_roundness": "mean 4π · area / perimeter²",
    "nuclei_roundness_sd": "standard deviation of roundness",
    "nuclei_ellipse_fit": "mean area over that of the ellipse of equal moments (irregularity)",
    "nuclei_haematoxylin": "mean haematoxylin of nuclei",
    "nuclei_haematoxylin_sd": "standard deviation of that between nuclei",
    "nuclei_chromatin_sd": "mean standard deviation of haematoxylin inside a nucleus",
    "nuclei_contrast": "haematoxylin of nuclei less that of the tissue between them",
}
"""Name and meaning of every feature, in order. What nothing can be said of is 0."""


@dataclass(frozen=True)
class StainTexture:
    """Stain-separated colour, texture and nuclear statistics.

    Features are computed on haematoxylin and eosin as the slide at hand shows them (Macenko), in
    units of its own 99th percentiles, so that laboratories with other shades give like features;
    only the three ``mean_*`` colours are as scanned.

    Attributes
    ----------
    stains, nuclear_threshold
        Those of the slide, set by :meth:`for_slide`; without it, published reference stains.
    """

    tile_px: int = 256
    mpp: float = 0.5
    stains: Stains = REFERENCE
    nuclear_threshold: float = 0.35
    name: ClassVar[str] = "stain-texture"
    version: ClassVar[str] = "1"
    licence: ClassVar[str] = "Apache-2.0"
    sample_tiles: ClassVar[int] = 64
    is_threaded: ClassVar[bool] = True
    feature_names: ClassVar[tuple[str, ...]] = tuple(FEATURES)
    dim: ClassVar[int] = len(FEATURES)

    def for_slide(self, tiles: Tiles) -> Self:
        """Find the slide's stains, and the amount of haematoxylin that parts nuclei from the rest.

        The threshold is Otsu's over the stained pixels of the sample: one for the slide, so that a
        tile without nuclei has none.
        """
        stains = estimate_stains(tiles[:, ::4, ::4])
        amounts = np.stack([self._smooth(stains.separate(tile)) for tile in tiles])
        return replace(self, stains=stains, nuclear_threshold=_otsu(amounts))

    def encode(self, tiles: Tiles) -> Features:
        """See :class:`~microtome.tasks.encoders.base.Encoder`."""
        check_tiles(tiles, self.tile_px, self.name)
        features = np.empty((len(tiles), self.dim), np.float32)
        for row, tile in zip(features, tiles, strict=True):
            values = self.describe(tile)
            row[:] = [values[name] for name in FEATURES]
        return features

    def describe(self, tile: Tiles) -> dict[str, float]:
        """Features of one tile, uint8 [h, w, 3], by name."""
        import cv2

        amounts = self.stains.separate(tile)
        smooth = self._smooth(amounts)
        h, e = (np.ascontiguousarray(amounts[..., k]) for k in (0, 1))
        clear = smooth.sum(axis=2) < _CLEAR
        red, green, blue = cv2.mean(tile)[:3]
        values = {
            "mean_red": red / 255,
            "mean_green": green / 255,
            "mean_blue": blue / 255,
            "clear_fraction": float(clear.mean()),
            "stain_correlation": _correlation(h, e),
        }
        for k, (stain, amount) in enumerate(zip(_STAINS, (h, e), strict=True)):
            described = self._texture(amount, smooth[..., k])
            values |= {f"{stain}_{name}": value for name, value in described.items()}
        nuclei = find_nuclei(smooth[..., 0], self.nuclear_threshold, self.mpp)
        values |= {f"nuclei_{name}": v for name, v in _nuclei(nuclei, h, clear, self.mpp).items()}
        return values

    def _smooth(self, amounts: Amounts) -> Amounts:
        import cv2

        smooth: Any = cv2.GaussianBlur(amounts, (0, 0), _SMOOTHING_UM / self.mpp)
        return np.asarray(smooth)

    def _texture(self, amount: Amounts, smooth: Amounts) -> dict[str, float]:
        import cv2

        grey, smooth_grey = _grey(amount), _grey(smooth)
        distance = max(1, round(_GLCM_DISTANCE_UM / self.mpp))
        energies = texture.pyramid_energies(amount)
        (mean,), (sd,) = (np.ravel(v).tolist() for v in cv2.meanStdDev(amount))
        return {
            "mean": mean,
            "sd": sd,
            **_percentiles(grey),
            **{f"detail_{2**k}px": float(v) for k, v in enumerate(energies)},
            "coherence": texture.coherence(smooth),
            **_named("glcm_{}", texture.GLCM_NAMES, texture.glcm_properties(grey, distance)),
            **_named("lbp_{}", range(texture.LBP_BINS), texture.lbp_histogram(smooth_grey)),
        }


def _nuclei(
    nuclei: Nuclei, haematoxylin: Amounts, clear: NDArray[np.bool_], um_per_px: float
) -> dict[str, float]:
    """Statistics of the nuclei of a tile; shapes of those that the border does not cut."""
    um2 = um_per_px**2
    tissue_px = max(float((~clear).sum()), 0.05 * clear.size)
    nuclear_px = nuclei.labels > 0
    between = ~nuclear_px & ~clear
    level, spread = nuclei.amounts(haematoxylin)
    neighbour = nuclei.neighbour_px() * um_per_px
    whole = nuclei.is_whole
    area = nuclei.area_px[whole] * um2
    inside = _mean(haematoxylin[nuclear_px])
    return {
        "per_mm2": len(nuclei) / (tissue_px * um2) * 1e6,
        "area_fraction": float(nuclear_px.sum()) / tissue_px,
        "clumped_fraction": _mean(nuclei.is_clumped),
        "neighbour_um": _mean(neighbour),
        "neighbour_sd_um": _sd(neighbour),
        "area_um2": _mean(area),
        "area_sd_um2": _sd(area),
        **_named("area_p{}_um2", _PERCENTILES, _quantiles(area)),
        "eccentricity": _mean(nuclei.eccentricity[whole]),
        "eccentricity_sd": _sd(nuclei.eccentricity[whole]),
        "roundness": _mean(nuclei.roundness[whole]),
        "roundness_sd": _sd(nuclei.roundness[whole]),
        "ellipse_fit": _mean(nuclei.ellipse_fit[whole]),
        "haematoxylin": _mean(level),
        "haematoxylin_sd": _sd(level),
        "chromatin_sd": _mean(spread),
        "contrast": inside - _mean(haematoxylin[between]) if len(nuclei) else 0.0,
    }


def _grey(amount: Amounts) -> NDArray[np.uint8]:
    import cv2

    # Rounds and saturates; amounts are never negative.
    grey: Any = cv2.convertScaleAbs(amount, alpha=1 / _UNITS_PER_GREY)
    return np.asarray(grey)


def _otsu(amounts: Amounts) -> float:
    """Otsu's threshold of haematoxylin over stained pixels of [b, h, w, 2], kept within reason."""
    import cv2

    stained = amounts[amounts.sum(axis=-1) >= _CLEAR][:, 0]
    if not len(stained):
        return StainTexture.nuclear_threshold
    grey, _ = cv2.threshold(_grey(stained), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(np.clip(grey * _UNITS_PER_GREY, *_THRESHOLD_RANGE))


def _percentiles(grey: NDArray[np.uint8]) -> dict[str, float]:
    below = np.cumsum(texture.grey_counts(grey)) / grey.size
    levels = np.searchsorted(below, np.array(_PERCENTILES) / 100) * _UNITS_PER_GREY
    return _named("p{}", _PERCENTILES, levels)


def _correlation(a: Amounts, b: Amounts) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-6 else 0.0


def _named(pattern: str, names: Iterable[object], values: NDArray[np.floating]) -> dict[str, float]:
    return {pattern.format(n): float(v) for n, v in zip(names, values, strict=True)}


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if values.size else 0.0


def _sd(values: NDArray[np.generic]) -> float:
    return float(values.std()) if values.size else 0.0


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not values.size:
        return np.zeros(len(_PERCENTILES))
    quantiles: NDArray[np.float64] = np.percentile(values, _PERCENTILES)
    return quantiles
