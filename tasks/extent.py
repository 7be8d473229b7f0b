"""How much tissue there is on a slide, and how much of it speaks for the model's class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engine.tissue import SUFFIX as TISSUE_SUFFIX
from ..engine.tissue import TissueMask, read_tissue, require_fit
from ..engine.tissue.store import slide_label_path
from ..storage.errors import BadGeometry
from ..storage.predictions import SlidePrediction
from .rasters import Dense, on_own_grid

THRESHOLD = 0.5
"""A tile's score that says nothing, where there are two classes; above it speaks for the class."""

Source = Literal["mask", "tiles"]


@dataclass(frozen=True)
class Extent:
    """How much of a slide is positive.

    Attributes
    ----------
    source
        What the tissue is measured by: the mask, or the tiles, where there is no mask.
    tissue_mm2
        Area of the tissue.
    regions_mm2
        float64 [k]: area of each positive region, the largest first.
    threshold
        Score from which a place is positive.
    """

    source: Source
    tissue_mm2: float
    regions_mm2: NDArray[np.float64]
    threshold: float

    @property
    def positive_mm2(self) -> float:
        """Area of what is positive."""
        return float(self.regions_mm2.sum())

    @property
    def share(self) -> float:
        """Share of the tissue that is positive, 0 … 1; NaN without tissue."""
        return self.positive_mm2 / self.tissue_mm2 if self.tissue_mm2 else math.nan

    @property
    def largest_mm2(self) -> float:
        """Area of the largest region; 0 without any."""
        return float(self.regions_mm2.max(initial=0.0))


def measure_extent(
    prediction: SlidePrediction, mask: TissueMask | None = None, *, threshold: float = THRESHOLD
) -> Extent:
    """Measure where the tiles' scores, averaged where tiles overlap, reach a threshold.

    With a mask a place counts where it is tissue; the tissue that no tile covers counts as tissue
    and is not positive. Without one every tile counts whole. A region is what hangs together by
    the sides of tiles, not by their corners, whatever gaps the mask has inside it.

    Parameters
    ----------
    mask
        Of the same slide.
    threshold
        0 … 1.

    Raises
    ------
    BadGeometry
        There are no tiles.
    """
    from scipy import ndimage

    if not len(prediction):
        raise BadGeometry("the prediction has no tiles", where=prediction.id)

    dense = on_own_grid(prediction, prediction.score)
    # On the tiles' own grid: in a finer one the rounding of corners leaves seams between tiles.
    numbers, count = ndimage.label(dense.values >= threshold)
    if mask is None:
        tissue, pixel_px = np.isfinite(dense.values), dense.pixel_px
    else:
        tissue, pixel_px = mask.tissue, mask.downsample
        numbers = _at_pixels_of(mask, numbers, dense)
    pixel_mm2 = _pixel_mm2(prediction, pixel_px)
    areas = np.bincount(numbers[tissue], minlength=count + 1)[1:] * pixel_mm2
    return Extent(
        "tiles" if mask is None else "mask",
        float(tissue.sum()) * pixel_mm2,
        np.sort(areas[areas > 0])[::-1],
        threshold,
    )


def find_mask(prediction: SlidePrediction, masks: Path | None = None) -> TissueMask | None:
    """The tissue mask of a slide: the given one, else the label in its own OME-Zarr, else none.

    Parameters
    ----------
    masks
        Folder of ``<id>.tissue.zarr``, which must then hold the slide's.

    Raises
    ------
    MissingFile, BadProduct, BadGeometry
        The mask is not there; or damaged; or that of another slide.
    """
    if masks is not None:
        place = masks / f"{prediction.id}{TISSUE_SUFFIX}"
    elif prediction.source and slide_label_path(Path(prediction.source)).is_dir():
        place = Path(prediction.source)
    else:
        return None
    mask = read_tissue(place)
    require_fit(mask, prediction.slide_px, where=place)
    return mask


def area_facts(
    prediction: SlidePrediction,
    quality: Mapping[str, NDArray[np.float32]],
    mask: TissueMask | None = None,
) -> dict[str, str]:
    """Area of the tissue and what it was measured by, area of the tiles, and mean quality."""
    covered = _covered_mm2(prediction, np.ones(len(prediction), np.float32))
    if mask is not None:
        area, by = float(mask.tissue.sum()) * _pixel_mm2(prediction, mask.downsample), "of the mask"
    elif "tissue" in quality:
        area, by = _covered_mm2(prediction, quality["tissue"]), "of the tiles, by the share in each"
    else:
        area, by = covered, "of whole tiles: there is no mask"
    others = {name: column for name, column in quality.items() if name != "tissue"}
    return {
        "tissue": f"{area:.2f} mm² ({by})",
        "area of the tiles": f"{covered:.2f} mm²",
        **{f"mean {name}": f"{np.nanmean(v):.3g}" for name, v in others.items() if len(v)},
    }


def _covered_mm2(prediction: SlidePrediction, share: NDArray[np.float32]) -> float:
    """Area under the tiles, what several cover counted once."""
    if not len(prediction):
        return 0.0
    dense = on_own_grid(prediction, share)
    return float(np.nansum(dense.values, dtype=np.float64)) * _pixel_mm2(prediction, dense.pixel_px)


def _pixel_mm2(prediction: SlidePrediction, pixel_px: tuple[float, float]) -> float:
    return math.prod(pixel_px) * math.prod(prediction.slide_mpp) / 1e6


def _at_pixels_of(mask: TissueMask, numbers: NDArray[np.int32], dense: Dense) -> NDArray[np.int32]:
    """What lies under the centre of each pixel of a mask; 0 beyond the tiles: int32 [h, w]."""
    places = [
        np.floor(((np.arange(n) + 0.5) * down - origin) / pixel).astype(np.intp)
        for n, down, origin, pixel in zip(
            mask.labels.shape, mask.downsample, dense.origin_px, dense.pixel_px, strict=True
        )
    ]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, numbers.shape, strict=True)]
    found = np.zeros(mask.labels.shape, np.int32)
    within = np.ix_(*inside)
    found[within] = numbers[np.ix_(*(p[i] for p, i in zip(places, inside, strict=True)))]
    return found
