"""A segmenter over whole slides: overlapping windows, blended, block by block into a map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.grid import TileGrid, covered, tissue_fraction
from ...engine.schedule import Skipped
from ...engine.slides import Mpp, Slide, open_slide
from ...engine.slides.base import Pixels, SlideInfo
from ...engine.tissue import VERSION as TISSUE_VERSION
from ...engine.tissue import find_tissue, read_tissue, require_fit
from ...storage.commit import file_identity, is_done, new_product, product_key, require_commit
from ...storage.errors import BadGeometry, NoTissue
from ...storage.maps import KIND, MapFrame, MapPlan, Probabilities
from ..tile_reader import TileReader, default_readers
from .segmenter import Segmenter

VERSION = 1
"""Goes up with every change that alters a map."""

OnProgress = Callable[[int, int], None]
Predictor = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class WindowOptions:
    """How a slide is gone over.

    Attributes
    ----------
    window_px, stride_px
        Side of a window and step to the next, in pixels at the model's mpp. By default the side
        that the model was trained on, 512 at most, and half of the window.
    batch
        Windows at once; it decides nothing.
    device
        Where torch computes.
    readers
        Threads that read windows; as many as there are cores by default.
    """

    window_px: int | None = None
    stride_px: int | None = None
    batch: int = 8
    device: str = "cpu"
    readers: int | None = None

    def sizes_px(self, side_px: int) -> tuple[int, int]:
        """(window, stride) for a model that was trained on images of this side."""
        window = min(side_px, 512) if self.window_px is None else self.window_px
        stride = max(1, window // 2) if self.stride_px is None else self.stride_px
        if not 0 < stride <= window:
            raise BadGeometry(
                f"windows of {window} px, {stride} px apart, leave gaps",
                remedy="Take a stride that is no larger than the window",
            )
        return window, stride


@dataclass(frozen=True)
class Windows:
    """Windows of a slide, and the map that they make together.

    Attributes
    ----------
    grid
        One tile a window, in grid order: those on tissue.
    corners_px
        int64 [n, 2]: (y, x) of their corners in pixels of the map.
    frame
        Of the map.
    """

    grid: TileGrid
    corners_px: NDArray[np.int64]
    frame: MapFrame

    @classmethod
    def over(cls, info: SlideInfo, *, window_px: int, stride_px: int, mpp: float) -> Windows:
        """Lay windows over all that was scanned of a slide; those at its end are padded.

        Raises
        ------
        NoResolution, BadResolution, BadGeometry
            As :meth:`~microtome.engine.grid.TileGrid.over`.
        """
        grid = TileGrid.over(info, tile_px=window_px, stride_px=stride_px, mpp=mpp, edge="pad")
        area = covered(info, info.levels[grid.level])
        pixel = (grid.footprint_px[0] / window_px, grid.footprint_px[1] / window_px)
        shape = tuple(
            int(np.ceil(extent / side - 1e-9))
            for extent, side in zip((area.height_px, area.width_px), pixel, strict=True)
        )
        corners = np.stack(
            [np.unique(grid.coords_px[:, axis], return_inverse=True)[1] for axis in (0, 1)], axis=1
        )
        bounds = info.bounds
        assert info.mpp is not None
        frame = MapFrame(
            shape=(shape[0], shape[1]),
            origin_px=(float(area.y_px), float(area.x_px)),
            pixel_px=pixel,
            mpp=info.mpp,
            slide_px=(info.height_px, info.width_px),
            bounds_px=None
            if bounds is None
            else (bounds.y_px, bounds.x_px, bounds.height_px, bounds.width_px),
        )
        return cls(grid, corners.astype(np.int64) * stride_px, frame)

    def select(self, keep: NDArray[np.bool_]) -> Windows:
        """The same map of some of the windows; keep is bool [n]."""
        return Windows(self.grid.select(keep), self.corners_px[keep], self.frame)

    def touching(self, block: tuple[slice, slice]) -> Windows:
        """Those that reach into a block of the map."""
        low = np.array([part.start for part in block])
        high = np.array([part.stop for part in block])
        after = self.corners_px + self.grid.tile_px > low
        return self.select(np.asarray((after & (self.corners_px < high)).all(axis=1)))


def blend_weights(window_px: int) -> NDArray[np.float32]:
    """What each pixel of a window counts where windows overlap: sin² to the edge, never 0.

    Returns
    -------
    float32 [window_px, window_px]
    """
    ramp = np.sin(np.pi * (np.arange(window_px) + 0.5) / window_px) ** 2
    return np.asarray(ramp[:, None] * ramp, np.float32)


class Blend:
    """Overlapping windows put together on a block of a map: the weighted mean at every pixel.

    Parameters
    ----------
    block
        (rows, columns) of the map.
    window_px
        Side of the windows.
    """

    def __init__(self, block: tuple[slice, slice], window_px: int) -> None:
        shape = tuple(part.stop - part.start for part in block)
        self._low = tuple(part.start for part in block)
        self._weights = blend_weights(window_px)
        self._sum, self._weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def add(self, corner_px: tuple[int, int], values: NDArray[np.float32]) -> None:
        """Add a window, float32 [w, w], whose corner is given in pixels of the map."""
        there, here = [], []
        sides = zip(corner_px, self._low, self._sum.shape, values.shape, strict=True)
        for corner, low, size, side in sides:
            first = corner - low
            start, stop = max(0, first), min(size, first + side)
            there.append(slice(start, stop))
            here.append(slice(start - first, stop - first))
        to, of = tuple(there), tuple(here)
        self._sum[to] += values[of] * self._weights[of]
        self._weight[to] += self._weights[of]

    def mean(self) -> Probabilities:
        """float32 [h, w]; NaN where no window was."""
        covered_ = self._weight > 0
        mean = np.full(self._sum.shape, np.nan, np.float32)
        np.divide(self._sum, self._weight, out=mean, where=covered_)
        return mean


def fill_map(
    slide: Slide,
    windows: Windows,
    predict: Predictor,
    plan: MapPlan,
    folder: Path,
    *,
    readers: int | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the shards of a map that are not there yet, block by block.

    In memory are one block and three batches of windows, however large the slide is. A block's
    windows are always read in the same batches, so that a resumed run writes the same bytes.

    Parameters
    ----------
    predict
        uint8 [b, w, w, 3] to float32 [b, w, w].
    readers
        Threads that read windows; as many as there are cores by default.
    on_progress
        Told of (windows done, in all); those that reach into two blocks count twice.

    Raises
    ------
    CorruptTiles
        A window cannot be decoded.
    """
    tell = on_progress or (lambda done, total: None)
    blocks = list(plan.blocks())
    total = sum(len(windows.touching(block).grid) for block in blocks)
    done = 0
    for block in blocks:
        missing, own = plan.missing(folder, block), windows.touching(block)
        if missing:
            blend = Blend(block, windows.grid.tile_px)
            for count in _add_windows(blend, slide, own, predict, readers):
                tell(done + count, total)
            plan.write(folder, block, blend.mean(), missing)
        done += len(own.grid)
        tell(done, total)


def _add_windows(
    blend: Blend, slide: Slide, windows: Windows, predict: Predictor, readers: int | None
) -> Iterator[int]:
    """Read, predict and blend windows; yields how many are done."""
    if not len(windows.grid):
        return
    reader = TileReader(slide, windows.grid, 0, readers=readers or default_readers())
    for batch in reader.batches(lambda tiles: (tiles, {})):
        found = predict(batch.tiles)
        for index, values in zip(batch.indices.tolist(), found, strict=True):
            y, x = windows.corners_px[index].tolist()
            blend.add((y, x), values)
        yield int(batch.indices[-1]) + 1


@dataclass(frozen=True)
class Mapped:
    """A map that was made, or was there.

    Attributes
    ----------
    windows
        So many were looked at.
    """

    path: Path
    windows: int


def predict_slide(
    segmenter: Segmenter,
    slide_path: Path,
    path: Path,
    *,
    options: WindowOptions | None = None,
    slide_mpp: Mpp | None = None,
    tissue: Path | None = None,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
) -> Mapped | Skipped[Mapped]:
    """Write the probability map of one slide file at ``path``, an OME-Zarr.

    Windows without tissue are not looked at. A run that was killed goes on where it was, and
    ends with the same bytes.

    Parameters
    ----------
    slide_mpp
        Micrometres per level-0 pixel, where the file states none or a wrong one.
    tissue
        A mask of the slide; it is found where none is given.
    on_progress
        Told of (windows done, in all).

    Raises
    ------
    NoResolution, BadResolution, BadGeometry, NoTissue, UnreadableFile, MissingFile
        The slide, or its mask, cannot be used.
    StaleProduct, OutputBusy, UnwritableOutput
        What is wrong with the output; running again resumes.
    """
    options, card = options or WindowOptions(), segmenter.card
    window, stride = options.sizes_px(card.side_px)
    with open_slide(slide_path, mpp=slide_mpp) as slide:
        windows = Windows.over(slide.info, window_px=window, stride_px=stride, mpp=card.mpp)
        plan = MapPlan(windows.frame)
        key = product_key(
            kind=KIND,
            version=VERSION,
            model=segmenter.key,
            slide=file_identity(slide_path),
            frame=asdict(windows.frame),
            window=window,
            stride=stride,
            tissue=_tissue_identity(tissue),
        )
        if is_done(path, kind=KIND, key=key, overwrite=overwrite):
            return Skipped(Mapped(path, int(require_commit(path, KIND).about["windows"])))
        windows = on_tissue(windows, slide, tissue)
        about = _about(segmenter, slide_path, windows, stride)
        predict = partial(segmenter.predict, device=options.device, batch=options.batch)
        with new_product(
            path, kind=KIND, key=key, about=about, overwrite=overwrite, resume=True
        ) as folder:
            fill_map(
                slide, windows, predict, plan, folder,
                readers=options.readers, on_progress=on_progress,
            )  # fmt: skip
            plan.finish(folder, slide_path.stem, about)
    return Mapped(path, len(windows.grid))


def on_tissue(windows: Windows, slide: Slide, mask_path: Path | None = None) -> Windows:
    """The windows that touch tissue, which is found where no mask is given.

    Raises
    ------
    NoTissue
        None does.
    BadGeometry
        The mask is another slide's.
    """
    size_px = windows.frame.slide_px
    if mask_path is None:
        mask = find_tissue(slide)
    else:
        mask = read_tissue(mask_path)
        require_fit(mask, size_px, where=mask_path)
    kept = windows.select(tissue_fraction(windows.grid, mask.tissue, size_px) > 0)
    if not len(kept.grid):
        raise NoTissue("no window touches tissue", where=slide.info.path)
    return kept


def _tissue_identity(mask_path: Path | None) -> int | str:
    if mask_path is None:
        return TISSUE_VERSION
    from ...engine.tissue import KIND as TISSUE_KIND

    return require_commit(mask_path, TISSUE_KIND).key


def _about(
    segmenter: Segmenter, slide_path: Path, windows: Windows, stride_px: int
) -> Mapping[str, Any]:
    return {
        "source": slide_path.name,
        "model": segmenter.key,
        "classes": list(segmenter.card.classes),
        "working_mpp": segmenter.card.mpp,
        "window_px": windows.grid.tile_px,
        "stride_px": stride_px,
        "windows": len(windows.grid),
    }
