"""Deep encoders: timm models by name, TorchScript files, and modules of the user's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...storage.errors import BadModel, MissingFile, first_line
from ..devices import pick_device
from .base import BATCH_TILES, Features, NetworkEncoder, Tiles, check_tiles
from .torch_forward import Precision, forward

if TYPE_CHECKING:
    import torch

DEFAULT_MPP = 0.5
TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".jit")
_WEIGHTS_ONLY = ".safetensors"
_PICKLED_SUFFIXES = (".pth", ".ckpt", ".bin", ".pkl", ".pt2")
_VERSION_DIGITS = 12


@dataclass(frozen=True)
class TorchEncoder(NetworkEncoder):
    """A torch module as an encoder.

    Attributes
    ----------
    module
        float32 [b, 3, tile_px, tile_px] to [b, dim].
    version
        Digest of the weights: other weights are another encoder.
    device
        ``cpu``, ``cuda`` or ``cuda:1`` …
    precision
        ``bf16`` and ``fp16`` run the module under autocast; features are float32 in either case.
    is_compiled
        ``module`` went through ``torch.compile``.
    """

    module: torch.nn.Module
    device: str = "cpu"
    precision: Precision = "fp32"
    is_compiled: bool = False

    def encode(self, tiles: Tiles) -> Features:
        """See :class:`~microtome.tasks.encoders.base.Encoder`."""
        check_tiles(tiles, self.tile_px, self.name)
        features: Features = forward(
            self.module,
            tiles,
            mean=self.mean,
            std=self.std,
            device=self.device,
            precision=self.precision,
            is_one_shape=self.is_compiled or self.device.startswith("cuda"),
        )
        return features


def load_torch_encoder(
    spec: str,
    *,
    device: str = "cpu",
    mpp: float | None = None,
    tile_px: int | None = None,
    precision: Precision = "fp32",
) -> TorchEncoder:
    """Load a deep encoder.

    Parameters
    ----------
    spec
        ``timm:NAME`` (untrained, fixed seed: a control), ``timm:NAME:pretrained`` (downloaded by
        timm), ``timm:NAME:FILE.safetensors``, a TorchScript file, or ``package.module:factory``
        where ``factory()`` returns a module.
    device
        As :func:`~microtome.tasks.devices.pick_device` takes it.
    mpp
        Micrometres per pixel of the tiles; 0.5 where neither this nor the module says.
    tile_px
        Side of the tiles. A timm model states its own; a module may, as an attribute ``tile_px``
        (likewise ``mpp``, ``mean``, ``std``, ``licence``). Other modules are handed RGB in 0 … 1.

    Raises
    ------
    BadModel
        Unknown, unreadable, needs tiles of a size that nobody states, or gives no [b, dim].
    MissingFile
        The file is not there.
    MissingDependency
        CUDA is asked for and absent.
    """
    device = pick_device(device)
    if spec.startswith("timm:"):
        parts = _timm(spec)
    elif Path(spec).suffix in (*TORCHSCRIPT_SUFFIXES, *_PICKLED_SUFFIXES):
        parts = _torchscript(Path(spec), device)
    elif Path(spec).suffix == _WEIGHTS_ONLY:
        raise _no_module(Path(spec))
    else:
        parts = _imported(spec)
    size = tile_px or parts.tile_px
    if size is None:
        raise BadModel(
            "the module does not say what tiles it takes",
            where=spec,
            remedy="Pass --tile-px (and --mpp), or give the module an attribute tile_px",
        )
    if parts.is_fixed_size and size != parts.tile_px:
        raise BadModel(
            f"the model takes tiles of {parts.tile_px} px, not {size}; tiles are never resized",
            where=spec,
            remedy="Leave --tile-px out",
        )
    module = channels_last(parts.module.to(device)).eval()
    return TorchEncoder(
        module=module,
        name=parts.name,
        version=parts.version,
        tile_px=size,
        mpp=mpp or parts.mpp or DEFAULT_MPP,
        dim=probe_dim(module, size, device, spec),
        licence=parts.licence,
        mean=parts.mean,
        std=parts.std,
        device=device,
        precision=precision,
    )


def channels_last(module: Any) -> torch.nn.Module:
    """The module with its weights as pixels come: convolutions need not turn them round first."""
    import torch

    turned: torch.nn.Module = module.to(memory_format=torch.channels_last)
    return turned


def compiled(encoder: TorchEncoder) -> TorchEncoder:
    """The encoder with its module compiled by ``torch.compile``, for batches of one shape.

    Raises
    ------
    BadModel
        It cannot be compiled here.
    """
    import torch

    made: Any = torch.compile(encoder.module, dynamic=False)
    fast = replace(encoder, module=made, is_compiled=True)
    try:
        fast.encode(np.full((BATCH_TILES, *(encoder.tile_px,) * 2, 3), 255, np.uint8))
    except RuntimeError as error:
        raise BadModel(
            f"torch.compile could not compile the model ({first_sentence(error)})",
            where=encoder.name,
            remedy="Leave --compile out",
        ) from error
    return fast


def _no_module(path: Path) -> BadModel:
    return BadModel(
        "weights without a model",
        where=path,
        remedy="Say of which: timm:NAME:FILE.safetensors, or uni2:FILE and the like",
    )


@dataclass(frozen=True)
class _Parts:
    module: torch.nn.Module
    name: str
    version: str
    licence: str = "not stated"
    tile_px: int | None = None
    mpp: float | None = None
    is_fixed_size: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


def _timm(spec: str) -> _Parts:
    import timm

    _, name, *rest = spec.split(":", 2)
    weights = rest[0] if rest else ""
    module = create_timm(name, pretrained=weights == "pretrained")
    if weights not in ("", "pretrained"):
        _load_safetensors(module, Path(weights))
    data: Any = timm.data
    config = data.resolve_model_data_config(module)
    return _Parts(
        module,
        name=f"timm:{name}",
        version=digest_weights(module, name),
        licence=str(module.pretrained_cfg.get("license") or "not stated"),
        tile_px=int(config["input_size"][1]),
        is_fixed_size=bool(module.pretrained_cfg.get("fixed_input_size")),
        mean=config["mean"],
        std=config["std"],
    )


def _alike(name: str) -> str:
    import difflib

    import timm

    alike = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f"Did you mean {', '.join(alike)}?" if alike else "See timm.list_models()"


def create_timm(
    name: str,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    *,
    pretrained: bool = False,
    seed: int = 0,
) -> Any:
    """A timm model that gives one vector a tile; untrained weights follow the seed alone.

    Raises
    ------
    BadModel
        timm knows no such model, or cannot make it.
    """
    import timm
    import torch

    if not timm.is_model(name.split(".", 1)[0]):
        raise BadModel("timm knows no such model", where=name, remedy=_alike(name))
    # Untrained weights are a control, and a control is the same in every run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise BadModel(
                f"timm could not make the model ({first_sentence(error)})",
                where=name,
                remedy="Without a network, give the weights as timm:NAME:FILE.safetensors",
            ) from error


def _load_safetensors(module: Any, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_file(path)
    if path.suffix != ".safetensors":
        raise BadModel(
            "weights are read from .safetensors files only: other files can run code",
            where=path,
            remedy="Convert them with safetensors.torch.save_file",
        )
    try:
        weights = load_file(path)
        heads = _head_names(module.pretrained_cfg.get("classifier"))
        body = {k: v for k, v in weights.items() if not k.startswith(heads)}
        module.load_state_dict(body)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BadModel(
            f"these weights do not fit the model ({first_sentence(error)})",
            where=path,
            remedy="Name the timm model that they were trained for",
        ) from error


def _head_names(classifier: str | Iterable[str] | None) -> tuple[str, ...]:
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return tuple(f"{name}." for name in names)


def _torchscript(path: Path, device: str) -> _Parts:
    import torch

    require_file(path)
    if path.suffix in _PICKLED_SUFFIXES:
        raise BadModel(
            "this kind of file can run code when it is loaded, and is not",
            where=path,
            remedy="Save the module with torch.jit.save, or name it as package.module:factory",
        )
    try:
        jit: Any = torch.jit
        module = jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise BadModel(
            f"this is not a TorchScript file ({first_sentence(error)})",
            where=path,
            remedy="Save the module with torch.jit.save; a bare state dict is no model",
        ) from error
    with path.open("rb") as file:
        version = hashlib.file_digest(file, "sha256").hexdigest()[:_VERSION_DIGITS]
    return _from_module(module, path.name, version)


def _imported(spec: str) -> _Parts:
    import torch

    module_name, _, attribute = spec.partition(":")
    try:
        factory: Callable[[], Any] = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadModel(
            f"there is no such encoder ({first_sentence(error)})",
            where=spec,
            remedy="See `microtome encoder list`",
        ) from error
    module = factory()
    if not isinstance(module, torch.nn.Module):
        raise BadModel(f"this gives a {type(module).__name__}, no torch.nn.Module", where=spec)
    return _from_module(module, spec, digest_weights(module, repr(module)))


def _from_module(module: Any, name: str, version: str) -> _Parts:
    stated = {
        key: getattr(module, key)
        for key in ("tile_px", "mpp", "mean", "std", "licence")
        if hasattr(module, key)
    }
    for key in {"mean", "std"} & stated.keys():
        stated[key] = tuple(float(v) for v in stated[key])
    return _Parts(module, name, version, **stated)


def digest_weights(module: torch.nn.Module, *parts: str) -> str:
    """Version of a module: digest of its weights, and of what else decides its features."""
    import torch

    digest = hashlib.sha256("\0".join(parts).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:_VERSION_DIGITS]


def probe_dim(module: torch.nn.Module, tile_px: int, device: str, spec: str) -> int:
    """Length of the vectors, found by encoding one blank tile."""
    blank = np.full((1, tile_px, tile_px, 3), 255, np.uint8)
    try:
        features = forward(module, blank, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise BadModel(
            f"the module does not take [b, 3, {tile_px}, {tile_px}] ({first_sentence(error)})",
            where=spec,
            remedy="Pass the --tile-px that it was made for",
        ) from error
    if features is None or features.ndim != 2 or len(features) != 1:
        shape = "no tensor" if features is None else list(features.shape)
        raise BadModel(
            f"the module gives {shape} for one tile, where [1, d] is wanted",
            where=spec,
            remedy="Pool its output to one vector a tile",
        )
    return int(features.shape[1])


def require_file(path: Path) -> None:
    """Refuse a file that is not there."""
    if not path.is_file():
        raise MissingFile("no such file", where=path, remedy="Check the path")


def first_sentence(error: BaseException) -> str:
    """What an error says, cut to one sentence."""
    return first_line(error).split(". ")[0]
