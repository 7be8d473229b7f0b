"""Encoders that were exported as ONNX, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import BadModel, MissingDependency
from ..devices import own_gpu, worker_name
from .base import BATCH_TILES, Features, NetworkEncoder, Tiles, check_tiles
from .torch_encoder import DEFAULT_MPP, first_sentence, require_file

SUFFIX = ".onnx"
STATED = ("tile_px", "mpp", "mean", "std", "licence")
"""What a file may say of itself in its ``metadata_props``: numbers and lists as JSON, and text."""

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_VERSION_DIGITS = 12
_LOCATION = re.compile(rb"\n\x08location\x12([\x01-\x7f])")
"""Of ``external_data`` in the protobuf of a tensor: the key, then the length of the path."""


@dataclass(frozen=True)
class OnnxEncoder(NetworkEncoder):
    """A graph of ONNX as an encoder.

    Attributes
    ----------
    session
        ``onnxruntime.InferenceSession``: [b, 3, tile_px, tile_px] to [b, dim].
    input_name, output_name, dtype
        Of the graph.
    batch_tiles
        How many tiles the graph is given at once, filled up with blank ones; None for any number.
    version
        Digest of the file, and of the files of weights that it names.
    """

    session: Any
    input_name: str
    output_name: str
    dtype: str
    batch_tiles: int | None

    def encode(self, tiles: Tiles) -> Features:
        """See :class:`~microtome.tasks.encoders.base.Encoder`."""
        check_tiles(tiles, self.tile_px, self.name)
        if not len(tiles):
            return np.empty((0, self.dim), np.float32)
        step = self.batch_tiles or len(tiles)
        parts = [self._run(tiles[start : start + step]) for start in range(0, len(tiles), step)]
        return np.concatenate(parts)

    def _run(self, tiles: Tiles) -> Features:
        n = len(tiles)
        if self.batch_tiles is not None and n < self.batch_tiles:
            blank = np.zeros((self.batch_tiles - n, *tiles.shape[1:]), np.uint8)
            tiles = np.concatenate([tiles, blank])
        batch = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2), np.float32)
        batch /= 255
        batch -= np.array(self.mean, np.float32)[:, None, None]
        batch /= np.array(self.std, np.float32)[:, None, None]
        values = {self.input_name: batch.astype(self.dtype, copy=False)}
        (features,) = self.session.run([self.output_name], values)
        return np.asarray(features[:n], np.float32)


def load_onnx_encoder(
    path: Path, *, device: str = "cpu", mpp: float | None = None, tile_px: int | None = None
) -> OnnxEncoder:
    """Load an encoder that was exported as ONNX.

    Parameters
    ----------
    path
        A graph of one input [b, 3, h, w], float32 or float16, and one output [b, d]; others of
        its outputs may have another rank. It may state ``tile_px``, ``mpp``, ``mean``, ``std``
        and ``licence`` in its metadata (:data:`STATED`); otherwise it is handed RGB in 0 … 1.
    device
        ``auto`` takes CUDA where ONNX Runtime has it.
    mpp
        Micrometres per pixel of the tiles; 0.5 where neither this nor the file says.
    tile_px
        Side of the tiles, where the graph leaves it open.

    Raises
    ------
    BadModel
        Unreadable, or no graph from tiles to vectors; or of what size of tiles nobody states.
    MissingFile
        The file is not there.
    MissingDependency
        ONNX Runtime is absent, or has no CUDA where that is asked for.
    """
    require_file(path)
    version = _digest(path)
    session = _session(path, device)
    stated = _stated(session.get_modelmeta().custom_metadata_map, path)
    own_px, own_mpp = stated.pop("tile_px", None), stated.pop("mpp", None)
    tiles, vectors = _input(session, path), _output(session, path)
    batch, _, *sides = tiles.shape
    fixed_batch = batch if isinstance(batch, int) else None
    if fixed_batch is None and session.get_providers()[0] == _CUDA:
        # Kernels are chosen for the shape of a batch: a slide's last tiles get the same ones.
        fixed_batch = BATCH_TILES
    encoder = OnnxEncoder(
        session,
        input_name=tiles.name,
        output_name=vectors.name,
        dtype=_DTYPES[tiles.type],
        batch_tiles=fixed_batch,
        name=path.name,
        version=version,
        tile_px=_side(sides, tile_px, own_px, path),
        mpp=mpp or own_mpp or DEFAULT_MPP,
        dim=0,
        **stated,
    )
    return replace(encoder, dim=_probed_dim(encoder, path))


def _runtime(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            "ONNX files are run by ONNX Runtime, which is not installed",
            where=path,
            remedy="pip install 'microtome[onnx]'",
        ) from error
    return onnxruntime


def _faults(runtime: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its errors have no base of their own."""
    state = runtime.capi.onnxruntime_pybind11_state
    names = (
        "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile",
        "NotImplemented", "RuntimeException", "EPFail",
    )  # fmt: skip
    return tuple(getattr(state, name) for name in names)


def _session(path: Path, device: str) -> Any:
    runtime = _runtime(path)
    import torch

    kind, _, number = device.partition(":")
    has_cuda = _CUDA in runtime.get_available_providers() and torch.cuda.is_available()
    is_on_cuda = kind == "cuda" or (kind == "auto" and has_cuda)
    if kind not in ("cpu", "cuda", "auto"):
        raise BadModel(f"ONNX files run on cpu or cuda, not on {device}", where=path)
    providers: list[Any] = [_CPU]
    if is_on_cuda:
        gpu = int(number) if number else own_gpu(worker_name(), torch.cuda.device_count() or 1)
        # Products of fp32 are meant when fp32 is.
        providers.insert(0, (_CUDA, {"device_id": gpu, "use_tf32": "0"}))
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    # One reading of how many cores this process may use: torch's, which workers are given.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        if is_on_cuda and not has_cuda:
            raise _no_cuda(device)
        session = runtime.InferenceSession(path, options, providers=providers)
    except _faults(runtime) as error:
        raise BadModel(
            f"this is no ONNX file that can be run ({first_sentence(error)})",
            where=path,
            remedy="Export it again; check it with onnx.checker.check_model",
        ) from error
    if is_on_cuda and session.get_providers()[0] != _CUDA:
        raise _no_cuda(device)
    return session


def _no_cuda(device: str) -> MissingDependency:
    return MissingDependency(
        "ONNX Runtime sees no CUDA device",
        where=device,
        remedy="pip install onnxruntime-gpu in place of onnxruntime, or pass --device cpu",
    )


def _stated(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What the file says of itself, each in its type."""
    found: dict[str, Any] = {}
    for key in set(STATED) & metadata.keys():
        text = metadata[key]
        try:
            if key == "licence":
                found[key] = text
            elif key == "tile_px":
                found[key] = int(text)
            elif key == "mpp":
                found[key] = float(text)
            else:
                red, green, blue = (float(value) for value in json.loads(text))
                found[key] = (red, green, blue)
        except (TypeError, ValueError) as error:
            raise BadModel(
                f"its metadata state {key} as {text!r}",
                where=path,
                remedy='State tile_px and mpp as numbers, mean and std as "[0.5, 0.5, 0.5]"',
            ) from error
    return found


def _input(session: Any, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) == 1 and inputs[0].type in _DTYPES and len(inputs[0].shape) == 4:
        channels = inputs[0].shape[1]
        if channels == 3 or not isinstance(channels, int):
            return inputs[0]
    raise BadModel(
        f"the graph takes {_signature(inputs)}, where one float input [b, 3, h, w] is wanted",
        where=path,
        remedy="Export the part that goes from pixels to vectors",
    )


def _output(session: Any, path: Path) -> Any:
    outputs = session.get_outputs()
    vectors = [output for output in outputs if len(output.shape) == 2]
    if len(vectors) == 1 and vectors[0].type in _DTYPES:
        return vectors[0]
    raise BadModel(
        f"the graph gives {_signature(outputs)}, where one output [b, d] is wanted",
        where=path,
        remedy="Export it with its pooled vector as the output",
    )


def _signature(nodes: Any) -> str:
    return ", ".join(f"{node.name}: {node.type} {node.shape}" for node in nodes)


def _side(sides: list[Any], asked: int | None, stated: int | None, path: Path) -> int:
    fixed = {side for side in sides if isinstance(side, int)}
    if len(fixed) > 1:
        raise BadModel(f"the graph takes {sides} px, and tiles are square", where=path)
    own = next(iter(fixed), None)
    size = asked or own or stated
    if size is None:
        raise BadModel(
            "the file does not say what tiles it takes",
            where=path,
            remedy="Pass --tile-px (and --mpp), or state tile_px in its metadata",
        )
    if own is not None and size != own:
        raise BadModel(
            f"the model takes tiles of {own} px, not {size}; tiles are never resized",
            where=path,
            remedy="Leave --tile-px out",
        )
    return size


def _probed_dim(encoder: OnnxEncoder, path: Path) -> int:
    """Length of the vectors, found by encoding one blank tile."""
    px = encoder.tile_px
    try:
        features = encoder.encode(np.full((1, px, px, 3), 255, np.uint8))
    except _faults(_runtime(path)) as error:
        raise BadModel(
            f"the graph does not take [b, 3, {px}, {px}] ({first_sentence(error)})",
            where=path,
            remedy="Pass the --tile-px that it was made for",
        ) from error
    if features.ndim != 2 or len(features) != 1:
        raise BadModel(
            f"the graph gives {list(features.shape)} for one tile, where [1, d] is wanted",
            where=path,
            remedy="Pool its output to one vector a tile",
        )
    return int(features.shape[1])


def _digest(path: Path) -> str:
    """Version of a file, with the files of weights beside it that it names."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for name in sorted(set(_external_names(path))):
        weights = path.parent / name
        require_file(weights)
        with weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:_VERSION_DIGITS]


def _external_names(path: Path) -> Iterator[str]:
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for found in _LOCATION.finditer(content):
            raw = content[found.end() : found.end() + found[1][0]]
            name = raw.decode("utf-8", "replace")
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise BadModel("its weights are said to lie outside its folder", where=name)
            yield name
