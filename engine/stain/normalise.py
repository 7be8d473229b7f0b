"""Give the tiles of every slide the same stains: Macenko, Vahadane and Reinhard behind one door."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import NoStains
from .density import Floats, Stains, tissue_weight
from .statistics import REFERENCE_TARGET, VERSION, LabMoments, StainStatistics

if TYPE_CHECKING:
    from torch import Tensor

Tiles = NDArray[np.uint8]
Method = Literal["macenko", "vahadane", "reinhard"]
METHODS: tuple[Method, ...] = ("macenko", "vahadane", "reinhard")

_LN_LIGHT = np.log(np.maximum(np.arange(256), 1) / 255.0).astype(np.float32)
_LEAST_STD = 0.5
"""A colour channel that varies less than this over a slide (of L 0 … 100) is uniform."""


@dataclass(frozen=True)
class StainMap:
    """One slide's stains in place of another's: a 3 × 3 matrix on optical density.

    With S and T the stains of source and target as rows, and s and t their 99th percentiles,
    ``OD' = OD · pinv(S) · diag(t / s) · T``. What is neither stain is dropped, as in Macenko's and
    Vahadane's method.
    """

    source: Stains
    target: Stains

    @cached_property
    def matrix(self) -> Floats:
        """[3, 3], for row vectors of optical density."""
        ratio = np.array(self.target.scale) / np.array(self.source.scale)
        return np.asarray(np.linalg.pinv(self.source.vectors) * ratio @ self.target.vectors)

    @cached_property
    def _affine(self) -> NDArray[np.float32]:
        """For logarithms of light, which are negative densities; the rest makes 255 of 1."""
        return np.hstack([self.matrix.T, np.full((3, 1), math.log(255))]).astype(np.float32)

    def apply(self, tile: Tiles) -> Tiles:
        """One tile, uint8 [h, w, 3]."""
        import cv2

        light: Any = cv2.transform(cv2.LUT(tile, _LN_LIGHT), self._affine)
        return np.asarray(cv2.convertScaleAbs(cv2.exp(light, light)), np.uint8)

    def apply_torch(self, tiles: Tensor) -> Tensor:
        """A batch on its own device: uint8 [b, h, w, 3] to the same."""
        import torch

        matrix = torch.as_tensor(self.matrix, dtype=torch.float32, device=tiles.device)
        light = tiles.clamp(min=1).float().div_(255).log_() @ matrix
        return light.exp_().mul_(255).round_().clamp_(max=255).to(torch.uint8)


@dataclass(frozen=True)
class LabMap:
    """One slide's mean and spread of colour in place of another's: ``(x - m) · σ'/σ + m'``.

    In the 8 bits of OpenCV's CIELAB, with fractions cut off: bit for bit what tiatoolbox's
    ``ReinhardNormalizer`` does with the same moments, except for glass, which would take the
    opposite colour of the slide's stains: up to an optical density of 0.1 it stays as it is, and
    from 0.2 on a pixel is changed in full.
    """

    source: LabMoments
    target: LabMoments

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        """[1, 256, 3]: there are but 256 values per channel."""
        values = np.arange(256, dtype=np.float32)
        columns = []
        for k, (factor, shift) in enumerate(((2.55, 0.0), (1.0, 128.0), (1.0, 128.0))):
            ratio = self.target.std[k] / self.source.std[k]
            level = (values - np.float32(shift)) / np.float32(factor)
            level = (level - np.float32(self.source.mean[k])) * np.float32(ratio)
            level = (level + np.float32(self.target.mean[k])) * np.float32(factor)
            columns.append(np.clip(level + np.float32(shift), 0, 255).astype(np.uint8))
        return np.stack(columns, axis=-1)[None]

    def apply(self, tile: Tiles) -> Tiles:
        """One tile, uint8 [h, w, 3]."""
        import cv2

        lab = cv2.LUT(cv2.cvtColor(tile, cv2.COLOR_RGB2LAB), self._table)
        changed = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
        weight = tissue_weight(tile)
        return np.asarray(cv2.blendLinear(changed, tile, weight, 1 - weight), np.uint8)


@dataclass(frozen=True)
class Normaliser:
    """Changes the stains of one slide into those of a target; made by :func:`make_normaliser`.

    Attributes
    ----------
    method
        ``unchanged`` where the slide's stains could not be told and that was asked for.
    target
        What the target's statistics came from.
    transform
        What is done to every pixel by itself; none for ``unchanged``.
    """

    method: Method | Literal["unchanged"]
    target: str
    transform: StainMap | LabMap | None
    version: int = VERSION

    @property
    def name(self) -> str:
        """Method, version and target: for the records of what was made with it."""
        return f"{self.method}@{self.version}:{self.target}"

    def apply(self, tiles: Tiles) -> Tiles:
        """Normalise tiles.

        Every pixel depends on itself and the slide's statistics alone, so tiles fit together as
        before, in whatever batches they come.

        Parameters
        ----------
        tiles
            uint8 [b, t, t, 3] RGB.

        Returns
        -------
        uint8 [b, t, t, 3]
            An array of its own.

        Raises
        ------
        ValueError
            Pixels that are not these.
        """
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[-1] != 3:
            raise ValueError(f"tiles are uint8 [b, t, t, 3], not {tiles.dtype} {tiles.shape}")
        if self.transform is None or not tiles.size:
            return tiles.copy()
        out = np.empty_like(tiles, order="C")
        for normalised, tile in zip(out, tiles, strict=True):
            normalised[:] = self.transform.apply(np.ascontiguousarray(tile))
        return out

    def apply_torch(self, tiles: Tensor) -> Tensor:
        """The same on a tensor, on its own device; equal to :meth:`apply` to one grey level.

        Raises
        ------
        ValueError
            Reinhard's method: its colour space is OpenCV's, which knows no tensors.
        """
        if self.transform is None:
            return tiles.clone()
        if isinstance(self.transform, LabMap):
            raise ValueError("reinhard works on NumPy arrays only; use apply")
        return self.transform.apply_torch(tiles)


def make_normaliser(
    method: Method,
    statistics: StainStatistics,
    *,
    target: StainStatistics = REFERENCE_TARGET,
    if_unknown: Literal["refuse", "unchanged"] = "refuse",
) -> Normaliser:
    """Make the normaliser of a slide.

    Parameters
    ----------
    method
        ``macenko`` and ``vahadane`` exchange the stains; ``reinhard`` shifts and stretches the
        colour of tissue as a whole, whichever stain it comes from.
    statistics
        Of the slide: :func:`~microtome.engine.stain.stain_statistics`.
    target
        Of what the slide shall look like: a fixed reference, or any slide of the user's.
    if_unknown
        What to do with a slide on which haematoxylin and eosin cannot be told apart, as it is
        empty, has but one stain, or others (immunohistochemistry): refuse it, or leave its pixels
        as they are. They are never made to look like stains that are not there.

    Raises
    ------
    NoStains
        See ``if_unknown``; or the target is such a slide.
    ValueError
        There is no such method.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis,
    ISBI, 1107-1110. Vahadane et al. (2016), IEEE TMI 35:1962-1971. Reinhard et al. (2001), Color
    transfer between images, IEEE Computer Graphics and Applications 21(5):34-41.
    """
    if method not in METHODS:
        raise ValueError(f"no stain method {method!r}; there are {', '.join(METHODS)}")
    if not _is_known(method, target):
        raise _without_stains(target, "Take another slide for a target")
    if not _is_known(method, statistics):
        if if_unknown == "unchanged":
            return Normaliser("unchanged", target.source, None)
        raise _without_stains(statistics, "Leave it out, or leave it unchanged")
    if method == "reinhard":
        return Normaliser(method, target.source, LabMap(statistics.reinhard, target.reinhard))
    source, goal = getattr(statistics, method), getattr(target, method)
    return Normaliser(method, target.source, StainMap(source, goal))


def _is_known(method: Method, statistics: StainStatistics) -> bool:
    if method == "reinhard":
        is_varied = min(statistics.reinhard.std) >= _LEAST_STD
        return is_varied and statistics.macenko.source != "reference"
    stains: Stains = getattr(statistics, method)
    return stains.source != "reference"


def _without_stains(statistics: StainStatistics, remedy: str) -> NoStains:
    return NoStains(
        f"haematoxylin and eosin cannot be told apart on {statistics.pixels} stained pixels",
        where=statistics.source or None,
        remedy=remedy,
    )
