"""Bags as CLAM and TRIDENT keep them: h5 with ``features`` and ``coords``, or a bare tensor.

The layout is that of ``save_h5`` and ``coords_to_h5`` in TRIDENT (trident/IO.py) and of
``save_hdf5`` in CLAM: ``features`` [n, d], ``coords`` [n, 2] as (x, y) of a tile's top left
corner in level-0 pixels, the geometry in the attributes of ``coords``.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bags import Bag
from ..errors import BadProduct, MissingFile, UnreadableFile
from ..files import writable, write_bytes
from .facts import (
    Facts,
    Pair,
    checked_coords,
    checked_features,
    first,
    needed,
    require_inside,
    tile_mpp,
    whole_pixels,
)
from .hdf5 import array, attributes, new_h5, number, opened, put

FEATURES, COORDS, QUALITY, OWN = "features", "coords", "quality", "microtome"

STATED = (
    "patch_size", "patch_size_level0", "level0_width", "level0_height", "patch_level", "level_dim",
    "downsample", "custom_downsample", OWN,
)  # fmt: skip
"""Attributes of coordinates that say where tiles lie, in TRIDENT's words or in CLAM's."""

OWN_FACTS = (
    "id", "footprint_px", "slide_px", "mpp", "slide_mpp", "tile_px", "encoder", "bounds_px",
    "feature_names", "source", "corrupt_tiles",
)  # fmt: skip


def export_clam(bag: Bag, path: Path, *, key: str = "") -> None:
    """Write a bag as TRIDENT does; CLAM reads the same file.

    ``level0_magnification`` and ``target_magnification`` are nominal, 10 / mpp rounded, because
    those tools know no other; ``patch_size_level0`` is what they place tiles by. What the layout
    has no room for is kept in the attribute ``microtome`` and in ``quality``, which others pass
    over, so that :func:`~microtome.storage.exchange.import_bag` gives back the same bag.

    Parameters
    ----------
    path
        ``<id>.h5``.
    key
        Of the bag as a product, kept as the file's attribute ``microtome_key``.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    with new_h5(path) as file:
        file.attrs["microtome_key"] = key
        features = put(file, FEATURES, np.asarray(bag.features, np.float32))
        features.attrs["name"] = bag.id
        features.attrs["encoder"] = bag.encoder
        coords = put(file, COORDS, np.asarray(bag.coords_px[:, ::-1], np.int64))
        for name, value in _attributes(bag).items():
            coords.attrs[name] = value
        for name, column in bag.quality.items():
            put(file, f"{QUALITY}/{name}", np.asarray(column, np.float32))


def _attributes(bag: Bag) -> dict[str, Any]:
    height, width = bag.slide_px
    footprint = round(sum(bag.footprint_px) / 2)
    stated = {
        "patch_size": bag.tile_px,
        "patch_size_level0": footprint,
        "level0_magnification": round(20 / sum(bag.slide_mpp)),
        "target_magnification": round(10 / bag.mpp),
        "overlap": _overlap(bag),
        "name": bag.id,
        "level0_width": width,
        "level0_height": height,
        OWN: json.dumps({name: getattr(bag, name) for name in OWN_FACTS}),
    }
    if all(side == bag.tile_px for side in bag.footprint_px):
        # In CLAM's words the tiles were read from level 0; of others the level is not known.
        stated |= {"patch_level": 0, "downsample": (1.0, 1.0)}
        stated |= {"level_dim": (width, height), "downsampled_level_dim": (width, height)}
    return stated


def _overlap(bag: Bag) -> int:
    """Pixels, as the encoder saw them, that neighbouring tiles share."""
    stride = _least_step(bag.coords_px[:, 1])
    shared = max(bag.footprint_px[1] - stride, 0) if stride else 0
    return round(shared * bag.tile_px / bag.footprint_px[1])


def _least_step(values: NDArray[np.int64]) -> int:
    # They ascend; as unsigned numbers even the widest step does not turn negative.
    steps = np.diff(np.unique(values).view(np.uint64))
    return int(steps.min()) if len(steps) else 0


def export_pt(bag: Bag, path: Path) -> None:
    """Write the features alone as CLAM's ``pt_files`` have them: a float32 tensor [n, d].

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.array(bag.features, np.float32)), buffer)
    with writable(path):
        write_bytes(path, buffer.getvalue())


def read_clam(path: Path, facts: Facts, coords: Path | None = None) -> Bag:
    """Read an h5 file of CLAM or TRIDENT; see :func:`~microtome.storage.exchange.import_bag`."""
    with opened(path) as file:
        features = checked_features(array(file, FEATURES, path), path)
        own = COORDS in file and OWN in file[COORDS].attrs
        if own:
            return _own(file, features, path)
        about = attributes(file[FEATURES], ("encoder",))
        has_coords = COORDS in file
        stated = attributes(file[COORDS], STATED) if has_coords else {}
        places = array(file, COORDS, path) if has_coords else None
    if coords is not None:
        places, stated = _read_coords(coords, places)
    encoder = str(about["encoder"]) if about.get("encoder") else None
    return _placed(path, features, places=places, stated=stated, facts=facts, encoder=encoder)


def read_pt(path: Path, facts: Facts, coords: Path | None) -> Bag:
    """Read a tensor [n, d]; see :func:`~microtome.storage.exchange.import_bag`."""
    features = checked_features(_tensor(path), path)
    places, stated = (None, {}) if coords is None else _read_coords(coords, None)
    return _placed(path, features, places=places, stated=stated, facts=facts, encoder=None)


def _tensor(path: Path) -> NDArray[Any]:
    import torch

    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")
    try:
        # weights_only: a pickle may hold code, and this one came from elsewhere.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError,
        IndexError, AttributeError,
    ) as error:  # fmt: skip
        raise UnreadableFile(
            "this is no file of one tensor, or it is damaged",
            where=path,
            remedy="Give the .h5 file instead; files that hold more than tensors are not loaded",
        ) from error
    if not isinstance(found, torch.Tensor):
        raise BadProduct(f"this holds a {type(found).__name__}, not a tensor", where=path)
    values: NDArray[Any] = (found.float() if found.is_floating_point() else found).numpy()
    return values


def _read_coords(path: Path, known: NDArray[Any] | None) -> tuple[NDArray[Any], dict[str, Any]]:
    with opened(path) as file:
        places = array(file, COORDS, path)
        stated = attributes(file[COORDS], STATED)
    if known is not None and not np.array_equal(known, places):
        raise BadProduct(
            "these are not the coordinates that the features' own file has",
            where=path,
            remedy="Features and coordinates must be of one run",
        )
    return places, stated


def _own(file: Any, features: NDArray[np.float32], path: Path) -> Bag:
    """A bag that :func:`export_clam` wrote."""
    stated = attributes(file[COORDS], STATED)
    names = sorted(file[QUALITY]) if QUALITY in file else ()
    quality = {name: array(file, f"{QUALITY}/{name}", path) for name in names}
    places = checked_coords(array(file, COORDS, path), len(features), path)
    return restored(features, places, stated, path, quality=quality)


def restored(
    features: NDArray[np.float32],
    places: NDArray[Any],
    stated: dict[str, Any],
    path: Path,
    **known: Any,
) -> Bag:
    """A bag as the attribute of ours says it was, but for what is known otherwise."""
    try:
        found = json.loads(stated[OWN])
        scalars: dict[str, Any] = {name: found[name] for name in OWN_FACTS}
        for name in ("footprint_px", "slide_px", "slide_mpp", "bounds_px", "feature_names"):
            scalars[name] = None if scalars[name] is None else tuple(scalars[name])
        coords_px = np.ascontiguousarray(places[:, ::-1], np.int64)
        return Bag(features=features, coords_px=coords_px, **{**scalars, **known})
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadProduct(
            f"the attribute {OWN} is damaged ({error})", where=path, remedy="Export the bag again"
        ) from error


def _placed(
    path: Path,
    features: NDArray[np.float32],
    *,
    places: NDArray[Any] | None,
    stated: dict[str, Any],
    facts: Facts,
    encoder: str | None,
) -> Bag:
    if places is None:
        raise BadProduct(
            "there are no coordinates",
            where=path,
            remedy="Pass --coords with the h5 file of coordinates that belongs to it",
        )
    places = checked_coords(places, len(features), path)
    if OWN in stated:
        # Coordinates of ours beside features of another file: of another encoder, it may be.
        encoder = needed(facts.encoder or encoder, "which encoder made it", "--encoder", path)
        known = {"id": path.stem, "encoder": encoder, "feature_names": ()}
        return restored(features, places, stated, path, **known)
    slide_px = _slide_px(stated, facts, path)
    patch_px = number(stated, "patch_size", path)
    tile_px = facts.tile_px or (None if patch_px is None else round(patch_px))
    tile_px = needed(tile_px, "how many pixels wide its tiles are", "--tile-px", path)
    footprint = _footprint(stated, patch_px, tile_px, facts, path)
    slide_mpp = _slide_mpp(footprint, tile_px, facts, path)
    bag = Bag(
        id=path.stem,
        features=features,
        coords_px=whole_pixels(places[:, ::-1], path),
        footprint_px=footprint,
        slide_px=slide_px,
        mpp=tile_mpp(footprint, tile_px, slide_mpp, path),
        slide_mpp=slide_mpp,
        tile_px=tile_px,
        encoder=needed(encoder or facts.encoder, "which encoder made it", "--encoder", path),
        bounds_px=facts.bounds_px,
        source=facts.source,
    )
    return require_inside(bag, path)


def _slide_px(stated: dict[str, Any], facts: Facts, path: Path) -> tuple[int, int]:
    height, width = (number(stated, f"level0_{side}", path) for side in ("height", "width"))
    in_file = None if height is None or width is None else (height, width)
    if in_file is None and stated.get("patch_level") == 0:
        in_file = _pair_of(stated.get("level_dim"))
    found = first("the size of level 0", path, in_file, facts.slide_px)
    height, width = needed(found, "how large the slide is", "--slides", path)
    return round(height), round(width)


def _pair_of(value: Any) -> Pair | None:
    """(y, x) of an attribute that holds (x, y), or one number for both."""
    values = np.asarray(value if value is not None else (), np.float64).ravel()
    values = np.repeat(values, 2) if len(values) == 1 else values
    return (float(values[1]), float(values[0])) if len(values) == 2 else None


def _footprint(
    stated: dict[str, Any], patch_px: float | None, tile_px: int, facts: Facts, path: Path
) -> Pair:
    side = number(stated, "patch_size_level0", path)
    if side is not None:
        return side, side
    downsample = _pair_of(stated.get("downsample"))
    if downsample is None and stated.get("patch_level") == 0:
        downsample = (1.0, 1.0)
    if downsample is not None and patch_px is not None:
        custom = number(stated, "custom_downsample", path) or 1.0
        return patch_px * custom * downsample[0], patch_px * custom * downsample[1]
    what, option = "how much of the slide a tile covers", "--mpp, and --slides or --slide-mpp"
    mpp, slide_mpp = needed(facts.mpp, what, option, path), facts.slide_mpp
    slide_mpp = needed(slide_mpp, what, option, path)
    return tile_px * mpp / slide_mpp[0], tile_px * mpp / slide_mpp[1]


def _slide_mpp(footprint: Pair, tile_px: int, facts: Facts, path: Path) -> Pair:
    by_tiles: Pair | None = None
    if facts.mpp is not None:
        um = facts.mpp * tile_px
        by_tiles = um / footprint[0], um / footprint[1]
    name = "the resolution of level 0 (µm/px)"
    found: Pair = needed(
        first(name, path, facts.slide_mpp, by_tiles),
        "how large the slide's pixels are",
        "--slides or --slide-mpp",
        path,
    )
    return found
