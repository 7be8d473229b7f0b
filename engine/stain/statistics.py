"""The stain statistics of a slide: looked at once, from tiles all over it, and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadResolution, CorruptTiles, NoTissue, UnreadableFile
from ..grid import TileGrid, tissue_fraction, without_mpp
from ..slides.base import Slide
from ..tiles import read_tile
from .density import Stains, optical_density, stained
from .macenko import estimate_stains
from .vahadane import estimate_stains_vahadane

if TYPE_CHECKING:
    from ..tissue import TissueMask

VERSION = 1
"""Goes up with every change that alters a statistic or a normalised pixel."""

SAMPLE_STEP_PX = 4
"""Every fourth pixel of every fourth row of a sampled tile is looked at."""

_MOSTLY_TISSUE = 0.5
_COARSEST_MPP = 2.0

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LabMoments:
    """Mean and standard deviation of L (0 … 100), a and b (-128 … 127) of CIELAB."""

    mean: Triple
    std: Triple


@dataclass(frozen=True)
class StainStatistics:
    """What normalisation needs to know of a slide.

    Attributes
    ----------
    macenko, vahadane
        Haematoxylin and eosin by either method, with the 99th percentiles of their amounts.
    reinhard
        Moments of the stained pixels' colour.
    tiles, pixels
        How many tiles were sampled, and how many of their pixels were stained.
    source
        What the pixels came from.
    """

    macenko: Stains
    vahadane: Stains
    reinhard: LabMoments
    tiles: int
    pixels: int
    source: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """All of it in terms of JSON."""
        return {"version": VERSION, **_as_lists(asdict(self))}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """What :attr:`record` gave; ValueError where another version of the method made it."""
        if record.get("version") != VERSION:
            raise ValueError(
                f"stain statistics of version {record.get('version')}, this is {VERSION}"
            )
        return cls(
            macenko=_stains(record["macenko"]),
            vahadane=_stains(record["vahadane"]),
            reinhard=LabMoments(
                tuple(record["reinhard"]["mean"]), tuple(record["reinhard"]["std"])
            ),
            tiles=record["tiles"],
            pixels=record["pixels"],
            source=record["source"],
        )


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _stains(record: Mapping[str, Any]) -> Stains:
    return Stains(
        haematoxylin=tuple(record["haematoxylin"]),
        eosin=tuple(record["eosin"]),
        scale=tuple(record["scale"]),
        source=record["source"],
    )


_PUBLISHED = Stains(
    haematoxylin=(0.5626, 0.7201, 0.4062),
    eosin=(0.2159, 0.8012, 0.5581),
    scale=(1.9705 / math.log(10), 1.0308 / math.log(10)),
    source="published",
)

REFERENCE_TARGET = StainStatistics(
    macenko=_PUBLISHED,
    vahadane=_PUBLISHED,
    reinhard=LabMoments((56.285, 26.485, -11.933), (11.415, 4.583, 5.140)),
    tiles=0,
    pixels=0,
    source="reference",
)
"""The look that slides are given unless the user has a target.

Stains and their 99th percentiles are the reference values of Veta's implementation of Macenko et
al. (``HERef``, ``maxCRef``), which most others took over. The moments, for which there is no such
custom, are those of the stained pixels of the target image that tiatoolbox 2.1 ships
(``stain_norm_target``) once it has these stains, so that all methods aim at one look.
"""


def lab_moments(rgb: NDArray[np.uint8]) -> LabMoments:
    """Mean and standard deviation in 8-bit CIELAB, uint8 [..., 3] RGB; all pixels count."""
    import cv2

    lab: Any = cv2.cvtColor(np.ascontiguousarray(rgb).reshape(-1, 1, 3), cv2.COLOR_RGB2LAB)
    mean, std = (np.asarray(found).ravel() for found in cv2.meanStdDev(lab))
    return LabMoments(
        (float(mean[0]) / 2.55, float(mean[1]) - 128, float(mean[2]) - 128),
        (float(std[0]) / 2.55, float(std[1]), float(std[2])),
    )


def statistics_of(tiles: NDArray[np.uint8], *, source: str = "") -> StainStatistics:
    """Statistics of pixels that stand for a slide.

    Parameters
    ----------
    tiles
        uint8 [n, h, w, 3] RGB from all over the slide, at full resolution; every pixel is looked
        at, so a sparse sample (``tiles[:, ::4, ::4]``) is enough.
    source
        What they came from.
    """
    is_stained = stained(optical_density(tiles))
    pixels = tiles[is_stained]
    return StainStatistics(
        macenko=estimate_stains(tiles),
        vahadane=estimate_stains_vahadane(tiles),
        reinhard=lab_moments(pixels) if len(pixels) else LabMoments((100, 0, 0), (0, 0, 0)),
        tiles=len(tiles),
        pixels=len(pixels),
        source=source,
    )


def stain_statistics(
    slide: Slide, mask: TissueMask, *, mpp: float = 0.5, tile_px: int = 256, tiles: int = 64
) -> StainStatistics:
    """Look at the stains of a slide once, so that all its tiles are treated alike.

    A fit per tile, which is what most scripts do, makes two tiles of one slide differ in what was
    the same: a tile of stroma, without nuclei, is given some.

    Parameters
    ----------
    mask
        Where its tissue is.
    mpp
        Micrometres per pixel of the tiles. A slide that is coarser is taken as it is, up to
        2 µm/px: beyond, nuclei are not apart from what is around them, and no pixel shows
        haematoxylin alone.
    tile_px, tiles
        At most ``tiles`` tiles of this side are read, evenly spread over those that are at least
        half tissue (or, where none is, over those with the most). Each is thinned to every fourth
        pixel both ways, so memory does not grow with the slide: 0.8 MB with the defaults.

    Raises
    ------
    NoResolution, BadResolution
        The slide has no mpp, or is coarser than 2 µm/px.
    NoTissue
        No tile with tissue.
    CorruptTiles
        Not one of the tiles can be decoded.
    """
    info = slide.info
    if info.mpp is None:
        raise without_mpp(info)
    if max(info.mpp) > _COARSEST_MPP:
        raise BadResolution(
            f"the slide has {max(info.mpp):.4g} µm/px; stains are told apart up to "
            f"{_COARSEST_MPP:g}, where nuclei can be seen",
            where=info.path,
            remedy="Take a level or a scan that shows nuclei, or do not normalise this slide",
        )
    grid = TileGrid.over(info, tile_px=tile_px, mpp=max(mpp, *info.mpp))
    share = tissue_fraction(grid, mask.tissue, (info.height_px, info.width_px))
    if not share.any():
        raise NoTissue(
            f"no tile of {tile_px} px has tissue to take the stains from",
            where=info.path,
            remedy="Ask for smaller tiles, or look at the tissue mask",
        )
    candidates = np.flatnonzero(share >= min(_MOSTLY_TISSUE, float(share.max())))
    chosen = np.linspace(0, len(candidates) - 1, min(tiles, len(candidates)))
    sample = _sampled(slide, grid, candidates[chosen.round().astype(np.intp)])
    return statistics_of(sample, source=info.path.name)


def _sampled(slide: Slide, grid: TileGrid, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Thinned tiles, uint8 [n, h, w, 3]; what cannot be decoded is left out."""
    read: list[NDArray[np.uint8]] = []
    for index in indices.tolist():
        try:
            tile = read_tile(slide, grid, index)
        except UnreadableFile:
            continue
        read.append(tile[::SAMPLE_STEP_PX, ::SAMPLE_STEP_PX].copy())
    if not read:
        raise CorruptTiles(
            f"not one of {len(indices)} tiles can be decoded",
            where=slide.info.path,
            remedy="Copy the slide again",
        )
    return np.stack(read)
