"""What, besides the slide, decides a bag."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..engine.grid import Edge
from ..engine.stain import REFERENCE_TARGET, Method
from ..engine.stain import VERSION as STAIN_VERSION
from ..engine.tissue import KIND as TISSUE_KIND
from ..engine.tissue import SUFFIX as TISSUE_SUFFIX
from ..engine.tissue import VERSION as TISSUE_VERSION
from ..storage.bags import KIND
from ..storage.commit import file_identity, product_key, require_commit
from .encoders import DEFAULT, Encoder, Precision, load_encoder
from .slide_list import SlideItem
from .tile_views import VERSION as VIEW_VERSION

PIPELINE_VERSION = 2
"""Goes up with every change that alters the tiles, the columns or the files of a bag."""


@dataclass(frozen=True)
class EncodeOptions:
    """What, besides the slide, decides a bag; small enough to travel between processes.

    Attributes
    ----------
    encoder
        As :func:`~microtome.tasks.encoders.load_encoder` takes it.
    mpp, tile_px
        In place of what the encoder asks for.
    stride_px
        Step between tiles at ``mpp``; by default tiles neither overlap nor leave gaps.
    min_tissue
        Tiles with less than this fraction of tissue are left out.
    max_corrupt
        A slide of whose tiles more than this fraction cannot be decoded is rejected.
    precision, device
        Of deep encoders.
    masks
        Folder of ``<id>.tissue.zarr`` to take in place of finding the tissue: masks that were
        made otherwise, or that a person edited. A slide that has none there is rejected.
    stain
        How tiles are given one look before they are encoded, by statistics of the whole slide
        (:func:`~microtome.engine.stain.make_normaliser`); none by default.
    edge
        What becomes of tiles at the edge (:class:`~microtome.engine.grid.TileGrid`).
    readers
        Threads that read a slide, as :func:`encode` takes them; no bit of a bag depends on it.
    is_compiled
        Deep encoders go through ``torch.compile`` first.
    half
        Features are kept in 16 bits.
    views
        So many views of each slide are encoded besides, to bags in ``view-1`` … beside its own
        (:mod:`~microtome.tasks.tile_views`).
    """

    encoder: str = DEFAULT
    mpp: float | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    min_tissue: float = 0.5
    max_corrupt: float = 0.02
    precision: Precision = "fp32"
    device: str = "cpu"
    masks: Path | None = None
    stain: Method | None = None
    edge: Edge = "drop"
    readers: int | None = None
    is_compiled: bool = False
    half: bool = False
    views: int = 0

    def mask_path(self, id_: str) -> Path | None:
        """The mask that the user gave for a slide; None where the tissue is to be found."""
        return None if self.masks is None else self.masks / f"{id_}{TISSUE_SUFFIX}"

    def load(self) -> Encoder:
        """Load the encoder; the same one each time within a process."""
        return _load(
            self.encoder,
            device=self.device,
            mpp=self.mpp,
            tile_px=self.tile_px,
            precision=self.precision,
            is_compiled=self.is_compiled,
        )


@lru_cache(maxsize=1)
def _load(spec: str, **how: Any) -> Encoder:
    return load_encoder(spec, **how)


def bag_key(item: SlideItem, options: EncodeOptions, encoder: Encoder, view: int = 0) -> str:
    """Of a bag as a product: of all that decides it, and of nothing else.

    Raises
    ------
    MissingFile, UnreadableFile, BadProduct
        The slide, or its mask, is not there or cannot be read.
    """
    parameters = asdict(options)
    for name in ("device", "masks", "readers", "views"):
        del parameters[name]
    for name in ("is_compiled", "half"):
        if not parameters[name]:
            del parameters[name]
    mask = options.mask_path(item.id)
    parameters |= {"encoder": f"{encoder.name}@{encoder.version}"}
    parameters |= {"tile_px": encoder.tile_px, "mpp": encoder.mpp}
    if options.stain is not None:
        parameters["stain"] = f"{options.stain}@{STAIN_VERSION}:{REFERENCE_TARGET.source}"
    if view:
        parameters["view"] = f"{view}@{VIEW_VERSION}"
    return product_key(
        kind=KIND,
        pipeline=PIPELINE_VERSION,
        tissue=TISSUE_VERSION if mask is None else require_commit(mask, TISSUE_KIND).key,
        slide=file_identity(item.path),
        slide_mpp=item.mpp,
        **parameters,
    )
