"""Foundation models of the catalogue, loaded from a file or by the user's own access to the hub."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import BadModel, BadResolution, MissingDependency
from ..devices import pick_device
from .catalogue import CATALOGUE, FoundationModel
from .torch_encoder import (
    TorchEncoder,
    digest_weights,
    first_sentence,
    probe_dim,
    require_file,
)
from .torch_forward import Precision

MPP_TOLERANCE = 0.15
"""A model takes tiles this far from a resolution that it was trained at: the authors of UNI
themselves shrink 256 px to 224, which is 14 %."""

_WRAPPERS = ("state_dict", "model")
_PICKLED = (".bin", ".pt", ".pth", ".torch")


def load_foundation(
    model: FoundationModel | str,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    mpp: float | None = None,
    tile_px: int | None = None,
    precision: Precision = "fp32",
) -> TorchEncoder:
    """Load a foundation model.

    Parameters
    ----------
    model
        An entry of the catalogue, or its name.
    weights
        File of weights; for models of transformers the folder with ``config.json``, or a file in
        it. Without it they are fetched from the hub, once, with the user's own token
        (``HF_TOKEN``, or ``hf auth login``).
    device, precision
        See :func:`~microtome.tasks.encoders.torch_encoder.load_torch_encoder`.
    mpp
        Micrometres per pixel of the tiles, within 15 % of one that the model was trained at.
    tile_px
        Only what the model takes: tiles are never resized.

    Raises
    ------
    BadModel
        Weights that cannot be fetched or read or do not fit, or a model that needs its authors'
        own code.
    BadResolution
        A resolution that the model was not trained at, or none where it has no usual one.
    MissingFile, MissingDependency
        The file, or the package transformers, is not there.
    """
    model = CATALOGUE[model] if isinstance(model, str) else model
    device = pick_device(device)
    resolution = _resolution(model, mpp)
    if tile_px not in (None, model.input_px):
        raise BadModel(
            f"the model takes tiles of {model.input_px} px, not {tile_px}; tiles are never resized",
            where=model.name,
            remedy="Leave --tile-px out",
        )
    module = _module(model, weights).float().to(device).eval()
    dim = probe_dim(module, model.input_px, device, model.name)
    if dim != model.dim:
        raise BadModel(
            f"these weights give {dim} features a tile where the model has {model.dim}",
            where=weights or model.name,
            remedy="Check that the file is of this model",
        )
    assert model.colours is not None
    mean, std = model.colours
    return TorchEncoder(
        module=module,
        name=model.name,
        version=digest_weights(module, model.name, model.pooling),
        tile_px=model.input_px,
        mpp=resolution,
        dim=dim,
        licence=model.licence,
        mean=mean,
        std=std,
        device=device,
        precision=precision,
    )


def _resolution(model: FoundationModel, mpp: float | None) -> float:
    trained = ", ".join(f"{value:g}" for value in model.mpps)
    if mpp is None:
        if not model.mpps:
            raise BadResolution(
                "this model has no resolution of its own", where=model.name, remedy="Pass --mpp"
            )
        return model.mpps[0]
    if model.mpps and not any(np.isclose(mpp, at, rtol=MPP_TOLERANCE, atol=0) for at in model.mpps):
        raise BadResolution(
            f"this model was trained at {trained} µm/px, not at {mpp:g}",
            where=model.name,
            remedy="Leave --mpp out, or take another model",
        )
    return mpp


def _module(model: FoundationModel, weights: Path | None) -> Any:
    if model.route == "package":
        raise BadModel(
            f"{model.title} needs its authors' own code, which is not run from here",
            where=model.name,
            remedy=f"Load it in a function of yours that returns the module, with tile_px = "
            f"{model.input_px}, and pass package.module:function; or save it with torch.jit.save",
        )
    if model.route == "transformers":
        return _from_transformers(model, weights)
    return _from_timm(model, weights or _fetched(model))


def build_timm(model: FoundationModel) -> Any:
    """The architecture of a model of timm, without weights: its tensors are on the meta device."""
    import timm
    import torch

    from .pooled import TimmPooled

    arguments = dict(model.arguments)
    if model.is_swiglu:
        layers: Any = timm.layers
        arguments |= {"mlp_layer": layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    # A billion random numbers that are thrown away would take half a minute.
    with torch.device("meta"):
        backbone = timm.create_model(
            model.architecture, pretrained=False, num_classes=0, **arguments
        )
    return TimmPooled(backbone, model.pooling)


def _from_timm(model: FoundationModel, path: Path) -> Any:
    module = build_timm(model)
    weights = _in_timm_s_names(read_weights(path), module.backbone)
    try:
        module.backbone.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise BadModel(
            f"these weights are not of {model.title} ({first_sentence(error)})",
            where=path,
            remedy=f"Take {model.hub_file} of {model.hub_id} on the hub",
        ) from error
    return module


def _in_timm_s_names(weights: dict[str, Any], backbone: Any) -> dict[str, Any]:
    """Weights as DINOv2's own code names them, renamed; others as they are."""
    if "mask_token" not in weights:
        return weights
    positions = weights.get("pos_embed")
    if positions is None or positions.shape != backbone.pos_embed.shape:
        # timm would stretch them in silence.
        return weights
    from timm.models.vision_transformer import checkpoint_filter_fn

    return dict(checkpoint_filter_fn(weights, backbone))


def read_weights(path: Path) -> dict[str, Any]:
    """Read tensors by name from a safetensors file, or a pickled one that holds no more than them.

    Raises
    ------
    MissingFile, BadModel
        Nothing is there; or it is damaged, or holds something else.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_file(path)
    found: Any
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        elif path.suffix in _PICKLED:
            # weights_only: what is not a tensor may be code, and is refused.
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise BadModel(
                "weights are read from .safetensors, .bin, .pt, .pth and .torch", where=path
            )
    except (
        SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError,
        KeyError, TypeError, IndexError, AttributeError,
    ) as error:  # fmt: skip
        raise BadModel(
            f"no weights can be read from this file ({first_sentence(error)})",
            where=path,
            remedy="Copy it again; files that hold more than tensors are not loaded",
        ) from error
    while isinstance(found, Mapping) and (inner := [k for k in _WRAPPERS if k in found]):
        found = found[inner[0]]
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        raise BadModel("this file holds something else than tensors by name", where=path)
    return dict(found)


def _fetched(model: FoundationModel) -> Path:
    """The weights on the hub, or in its cache on this machine."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return Path(hf_hub_download(model.hub_id, model.hub_file))
    except GatedRepoError as error:
        raise BadModel(
            f"{model.title} is given to those who accept its terms ({model.licence})",
            where=model.hub_id,
            remedy="Accept them on its page on the hub, then set HF_TOKEN or run hf auth login",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise BadModel(
            f"its weights cannot be fetched from the hub ({first_sentence(error)})",
            where=model.hub_id,
            remedy=f"Fetch {model.hub_file} where there is a network, and pass {model.name}:FILE",
        ) from error


def _from_transformers(model: FoundationModel, weights: Path | None) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency(
            f"{model.title} needs the package transformers", remedy="Install transformers"
        ) from error
    from safetensors import SafetensorError

    from .pooled import TransformersPooled

    source = model.hub_id if weights is None else str(_folder_of(weights))
    kind: Any = getattr(transformers, model.architecture)
    try:
        backbone, said = kind.from_pretrained(
            source,
            output_loading_info=True,
            local_files_only=weights is not None,
            **model.arguments,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise BadModel(
            f"{model.title} cannot be loaded ({first_sentence(error)})",
            where=source,
            remedy=f"Fetch the files of {model.hub_id} where there is a network, and pass "
            f"{model.name}:FOLDER",
        ) from error
    strange = [*said["missing_keys"], *said["mismatched_keys"]]
    if strange:
        raise BadModel(
            f"these weights are not of {model.title}: {len(strange)} tensors are not there or "
            f"of another shape",
            where=source,
            remedy=f"Take the files of {model.hub_id} on the hub",
        )
    return TransformersPooled(backbone, model.pooling)


def _folder_of(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    require_file(folder / "config.json")
    return folder
