"""What clusters look like: the tiles nearest to each centre, and a map of all that were learnt."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..storage.bags import Bag
from ..storage.errors import InputError, MissingDependency
from .evaluation import some
from .overlay import DISTINCT

if TYPE_CHECKING:
    import pandas as pd

    from ..engine.slides.base import Slide

Image = NDArray[np.uint8]
Map = Literal["pca", "umap"]

SHOWN_PX, _GAP_PX, _WHITE = 128, 4, 255
GREY = (160, 160, 160)
_NEIGHBOURS = 15


def gallery(bags: Sequence[Bag], nearest: pd.DataFrame) -> tuple[dict[int, Image], tuple[str, ...]]:
    """Pictures of the nearest tiles of each cluster, read from the slides.

    Parameters
    ----------
    nearest
        Columns ``cluster``, ``id``, ``y_px`` and ``x_px``, the nearest first.

    Returns
    -------
    pictures
        uint8 [128, w, 3] by number of the cluster: its tiles side by side.
    notes
        Slides that could not be read, and why.
    """
    ids, order = nearest["id"].tolist(), nearest["cluster"].tolist()
    corners = nearest[["y_px", "x_px"]].to_numpy(np.int64)
    tiles: dict[int, Image] = {}
    lost: dict[str, str] = {}
    for bag in bags:
        wanted = [i for i, name in enumerate(ids) if name == bag.id]
        try:
            tiles |= dict(zip(wanted, _read(bag, corners[wanted]), strict=True))
        except InputError as error:
            lost[bag.id] = error.what
    pictures = {
        int(cluster): side_by_side([tiles[i] for i in sorted(tiles) if order[i] == cluster])
        for cluster in sorted({order[i] for i in tiles})
    }
    if not lost:
        return pictures, ()
    why = next(iter(lost.values()))
    return pictures, (f"no tiles are shown of {len(lost)} slides: {some([*lost])} ({why})",)


def _read(bag: Bag, corners: NDArray[np.int64]) -> list[Image]:
    from ..engine.slides import open_slide

    if not len(corners):
        return []
    if not bag.source:
        raise InputError("the bag does not say which file it was made from")
    with open_slide(bag.source) as slide:
        return [_tile(slide, corner, bag.footprint_px) for corner in corners]


def _tile(slide: Slide, corner: NDArray[np.int64], footprint_px: tuple[float, float]) -> Image:
    """A tile as a picture of :data:`SHOWN_PX`, from the coarsest level that has as many pixels."""
    from PIL import Image as Pillow

    info = slide.info
    scales = [info.levels[0].height_px / level.height_px for level in info.levels]
    fits = [k for k, scale in enumerate(scales) if min(footprint_px) / scale >= SHOWN_PX]
    number = max(fits, default=0)
    level, scale = info.levels[number], scales[number]
    height, width = (max(1, round(side / scale)) for side in footprint_px)
    height, width = min(height, level.height_px), min(width, level.width_px)
    y = min(round(int(corner[0]) / scale), level.height_px - height)
    x = min(round(int(corner[1]) / scale), level.width_px - width)
    picture = Pillow.fromarray(slide.read(number, y, x, height, width))
    return np.asarray(picture.resize((SHOWN_PX, SHOWN_PX), Pillow.Resampling.BOX))


def side_by_side(tiles: Sequence[Image]) -> Image:
    """Tiles [h, w, 3] in a row, a gap between them: uint8 [h, n w + gaps, 3]."""
    gap = np.full((len(tiles[0]), _GAP_PX, 3), _WHITE, np.uint8)
    parts = [part for tile in tiles for part in (gap, tile)]
    return np.concatenate(parts[1:], axis=1)


def placed(points: NDArray[np.float64], by: Map, *, seed: int = 0) -> NDArray[np.float64]:
    """Where points [n, p] lie on a map: float64 [n, 2].

    Parameters
    ----------
    by
        ``pca``: the first two of the components that they have. ``umap``: neighbours near each
        other, distances otherwise without meaning.

    Raises
    ------
    MissingDependency
        umap-learn is not installed.

    References
    ----------
    McInnes, Healy & Melville (2018), UMAP: uniform manifold approximation and projection for
    dimension reduction, arXiv 1802.03426.
    """
    if by == "pca":
        flat = np.zeros((len(points), 2))
        flat[:, : points.shape[1]] = points[:, :2]
        return flat
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingDependency(
            "a map by UMAP needs umap-learn, which is not installed",
            remedy="pip install umap-learn, or choose --map pca",
        ) from error
    neighbours = min(_NEIGHBOURS, len(points) - 1)
    mapped: Any = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(points)
    return np.asarray(mapped, np.float64)


def scatter(
    at: NDArray[np.float64], index: NDArray[np.int64], names: Sequence[str], by: Map
) -> bytes:
    """PNG of tiles at [n, 2], coloured by the number of their cluster [n], -1 for none."""
    from matplotlib.figure import Figure

    axis = "component" if by == "pca" else "UMAP"
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    colours = np.array([*DISTINCT, GREY]) / 255
    for number, name in [*enumerate(names), (-1, "none")]:
        mine = index == number
        if mine.any():
            axes.scatter(at[mine, 0], at[mine, 1], s=4, color=colours[number], label=name)
    axes.legend(markerscale=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
