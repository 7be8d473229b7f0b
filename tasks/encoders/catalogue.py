"""Pathology foundation models: what each takes, gives and allows, and where that is said.

A table, and no code: :mod:`~microtome.tasks.encoders.foundation` loads what it describes. Values
were looked up in the authors' own repositories where these say them, else in code that others run
the model with; ``source`` names both. What could not be looked up is not filled in by analogy:
such an entry has ``is_verified`` false, and ``note`` says what is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Route = Literal["timm", "transformers", "package"]
Pooling = Literal["class", "class+mean", "projection"]
Colour = tuple[float, float, float]

IMAGENET: tuple[Colour, Colour] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION: tuple[Colour, Colour] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP: tuple[Colour, Colour] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
BIOPTIMUS: tuple[Colour, Colour] = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
HIBOU: tuple[Colour, Colour] = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
LUNIT: tuple[Colour, Colour] = (
    (0.70322989, 0.53606487, 0.66096631),
    (0.21716536, 0.26081574, 0.20723464),
)

_TRIDENT = "github.com/mahmoodlab/TRIDENT: README.md, trident/patch_encoder_models/load.py"
_EVA = "github.com/kaiko-ai/eva: docs/user-guide/advanced/replicate_evaluations.md"
_LAZYSLIDE = "github.com/rendeirolab/lazyslide-models"

_NC_ND = "CC-BY-NC-ND-4.0"
_SHRUNK = (
    "The authors shrink 256 px at 0.5 µm/px to 224: --mpp 0.5714 gives tiles of that footprint"
)


@dataclass(frozen=True)
class FoundationModel:
    """One model of the table.

    Attributes
    ----------
    name
        What the user asks for it by.
    hub_id
        ``owner/name`` on the Hugging Face hub; empty where it is not there.
    route
        ``timm``: built here from ``architecture`` and ``arguments``; ``transformers``: by the
        class ``architecture`` from the model's own configuration; ``package``: needs its authors'
        own code, which is not run from here.
    dim
        Length of a feature vector, pooled as ``pooling`` says.
    input_px
        Side of the tiles that it takes.
    mpps
        Micrometres per pixel that it was trained at, the usual one first; empty where its
        training images had no common one.
    colours
        Mean and standard deviation per channel of RGB in 0 … 1.
    interpolation
        How the authors' transform resizes. Never used here: tiles are read at the size and
        resolution that the model takes.
    pooling
        ``class``: the class token; ``class+mean``: with the mean of the patch tokens after it,
        register tokens left out; ``projection``: the image embedding of a CLIP model.
    is_gated
        Whether the hub asks for consent to terms, and a token.
    hub_file
        The file of weights on the hub, for ``timm``.
    parameters_m
        Millions of parameters as published; 0 where not looked up.
    is_swiglu
        Whether the transformer's MLP is SwiGLU, which timm needs as classes.
    """

    name: str
    title: str
    hub_id: str
    route: Route
    dim: int
    input_px: int
    mpps: tuple[float, ...]
    colours: tuple[Colour, Colour] | None
    licence: str
    is_gated: bool
    paper: str
    source: str
    pooling: Pooling = "class"
    interpolation: str = "bilinear"
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_swiglu: bool = False
    hub_file: str = "pytorch_model.bin"
    parameters_m: float = 0.0
    is_verified: bool = True
    note: str = ""


def _timm(
    name: str, title: str, hub_id: str, architecture: str, /, **values: Any
) -> FoundationModel:
    usual: dict[str, Any] = {"input_px": 224, "mpps": (0.5,), "colours": IMAGENET}
    usual |= {"architecture": architecture, "is_gated": True}
    return FoundationModel(name, title, hub_id, "timm", **(usual | values))


def _virchow(name: str, title: str, hub_id: str, /, **values: Any) -> FoundationModel:
    arguments = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": ""}
    return _timm(
        name, title, hub_id, "vit_huge_patch14_224",
        dim=2560,
        pooling="class+mean",
        arguments=arguments | values.pop("more", {}) | {"dynamic_img_size": True},
        is_swiglu=True,
        interpolation="bicubic",
        **values,
    )  # fmt: skip


def _optimus(name: str, title: str, hub_id: str, /, **values: Any) -> FoundationModel:
    return _timm(
        name, title, hub_id, "vit_giant_patch14_reg4_dinov2",
        dim=1536,
        arguments={"img_size": 224, "init_values": 1e-5, "global_pool": "token"},
        colours=BIOPTIMUS,
        parameters_m=1130,
        **values,
    )  # fmt: skip


def _kaiko(size: str, architecture: str, dim: int, /, **values: Any) -> FoundationModel:
    return _timm(
        f"kaiko-{size}", f"Kaiko {size}",
        f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms", architecture,
        dim=dim,
        colours=INCEPTION,
        licence="Kaiko, non-commercial",
        is_gated=False,
        hub_file="model.safetensors",
        paper="arXiv:2404.15217",
        source=f"github.com/kaiko-ai/towards_large_pathology_fms: hubconf.py; {_EVA}; {_TRIDENT}",
        **{"arguments": {"img_size": 224, "dynamic_img_size": True}, "note": _SHRUNK} | values,
    )  # fmt: skip


def _lunit(patch: int) -> FoundationModel:
    architecture = f"vit_small_patch{patch}_224"
    return _timm(
        f"lunit-dino-s{patch}", f"Lunit DINO ViT-S/{patch}", f"1aurent/{architecture}.lunit_dino",
        architecture,
        dim=384,
        arguments={"img_size": 224},
        colours=LUNIT,
        licence="Lunit, non-commercial",
        is_gated=False,
        hub_file="model.safetensors",
        paper="arXiv:2212.04690",
        source=f"github.com/lunit-io/benchmark-ssl-pathology: README.md; {_EVA}; {_LAZYSLIDE}",
        parameters_m={8: 21.7, 16: 0.0}[patch],
        is_verified=False,
        note="The training resolution was not looked up; TRIDENT reads 20x",
    )  # fmt: skip


def _foreign(
    name: str, title: str, hub_id: str, dim: int, input_px: int, /, **values: Any
) -> FoundationModel:
    usual: dict[str, Any] = {"mpps": (0.5,), "colours": None, "is_gated": True}
    return FoundationModel(name, title, hub_id, "package", dim, input_px, **(usual | values))


def _transformers(
    name: str, title: str, hub_id: str, architecture: str, /, **values: Any
) -> FoundationModel:
    usual: dict[str, Any] = {"input_px": 224, "mpps": (0.5,), "colours": IMAGENET}
    usual |= {"architecture": architecture, "is_gated": False}
    return FoundationModel(name, title, hub_id, "transformers", **(usual | values))


_MODELS = (
    _timm(
        "uni", "UNI", "MahmoodLab/UNI", "vit_large_patch16_224",
        dim=1024,
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        licence=_NC_ND,
        paper="doi:10.1038/s41591-024-02857-3",
        source=f"github.com/mahmoodlab/UNI: README.md; {_TRIDENT}",
        parameters_m=303,
        note=_SHRUNK,
    ),
    _timm(
        "uni2", "UNI2-h", "MahmoodLab/UNI2-h", "vit_giant_patch14_224",
        dim=1536,
        arguments={
            "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5,
            "embed_dim": 1536, "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        is_swiglu=True,
        licence=_NC_ND,
        paper="doi:10.1038/s41591-024-02857-3",
        source=f"github.com/mahmoodlab/UNI: README.md; {_TRIDENT}",
        parameters_m=681,
        note=_SHRUNK,
    ),
    _foreign(
        "conch", "CONCH", "MahmoodLab/CONCH", 512, 448,
        licence=_NC_ND,
        paper="doi:10.1038/s41591-024-02856-4",
        source=f"github.com/mahmoodlab/CONCH: README.md; {_TRIDENT}",
        is_verified=False,
        note="Its package conch brings the transform, which shrinks 512 px at 20x; not looked up",
    ),
    _foreign(
        "conch15", "CONCH v1.5", "MahmoodLab/conchv1_5", 768, 448,
        licence=_NC_ND,
        paper="arXiv:2411.19666",
        source=f"github.com/mahmoodlab/TITAN: README.md; {_TRIDENT}",
        is_verified=False,
        note="TITAN's code brings the transform, which shrinks 512 px at 20x; not looked up",
    ),
    _virchow(
        "virchow", "Virchow", "paige-ai/Virchow",
        licence="Apache-2.0",
        paper="doi:10.1038/s41591-024-03141-0",
        source=_TRIDENT,
        parameters_m=632,
    ),
    _virchow(
        "virchow2", "Virchow2", "paige-ai/Virchow2",
        more={"reg_tokens": 4},
        mpps=(0.5, 0.25, 1.0, 2.0),
        licence=_NC_ND,
        paper="arXiv:2408.00738",
        source=f"{_TRIDENT}; arXiv:2408.00738",
        parameters_m=632,
    ),
    _optimus(
        "h-optimus-0", "H-optimus-0", "bioptimus/H-optimus-0",
        licence="Apache-2.0",
        paper="github.com/bioptimus/releases",
        source=f"github.com/bioptimus/releases: models/h-optimus/v0/README.md; {_TRIDENT}",
    ),
    _optimus(
        "h-optimus-1", "H-optimus-1", "bioptimus/H-optimus-1",
        licence=_NC_ND,
        paper="huggingface.co/bioptimus/H-optimus-1",
        source=_TRIDENT,
    ),
    _timm(
        "h0-mini", "H0-mini", "bioptimus/H0-mini", "vit_base_patch14_reg4_dinov2",
        dim=1536,
        pooling="class+mean",
        arguments={
            "img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, "global_pool": "",
        },
        is_swiglu=True,
        colours=BIOPTIMUS,
        interpolation="bicubic",
        licence=_NC_ND,
        paper="arXiv:2501.16239",
        source=f"docs.bioptimus.com/sdk-reference/models/types; {_LAZYSLIDE}; {_TRIDENT}",
        parameters_m=85.7,
        is_verified=False,
        note="MLP ratio and file name are inferred from H-optimus-0; the parameters add up",
    ),
    _timm(
        "gigapath", "Prov-GigaPath", "prov-gigapath/prov-gigapath", "vit_giant_patch14_dinov2",
        dim=1536,
        arguments={
            "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24,
            "mlp_ratio": 5.33334, "dynamic_img_size": True,
        },
        interpolation="bicubic",
        licence="Apache-2.0; research use",
        paper="doi:10.1038/s41586-024-07441-w",
        source=f"github.com/prov-gigapath/prov-gigapath: README.md; {_TRIDENT}",
        parameters_m=1135,
        note="The authors cut the middle 224 px out of 256: the same pixels as tiles of 224",
    ),
    _transformers(
        "phikon", "Phikon", "owkin/phikon", "ViTModel",
        dim=768,
        arguments={"add_pooling_layer": False},
        licence="Owkin, non-commercial",
        paper="doi:10.1101/2023.07.21.23292757",
        source=f"github.com/owkin/HistoSSLscaling: README.md; {_TRIDENT}",
    ),
    _transformers(
        "phikon2", "Phikon-v2", "owkin/phikon-v2", "Dinov2Model",
        dim=1024,
        licence="Owkin, non-commercial",
        paper="arXiv:2409.09173",
        source=f"{_TRIDENT}; ramonkaspar.github.io/wsistream/recipes/phikon",
    ),
    _foreign(
        "hibou-b", "Hibou-B", "histai/hibou-B", 768, 224,
        colours=HIBOU,
        interpolation="bicubic",
        licence="Apache-2.0",
        paper="arXiv:2406.05074",
        source=f"github.com/HistAI/hibou: README.md; {_EVA}; {_LAZYSLIDE}",
        is_verified=False,
        note="Training resolution not looked up. Its code on the hub breaks in transformers 5",
    ),
    _foreign(
        "hibou-l", "Hibou-L", "histai/hibou-L", 1024, 224,
        colours=HIBOU,
        interpolation="bicubic",
        licence="Apache-2.0",
        paper="arXiv:2406.05074",
        source=f"github.com/HistAI/hibou: README.md; {_EVA}; {_TRIDENT}",
        is_verified=False,
        note="Training resolution not looked up. Its code on the hub breaks in transformers 5",
    ),
    _kaiko("vits8", "vit_small_patch8_224", 384),
    _kaiko("vits16", "vit_small_patch16_224", 384),
    _kaiko("vitb8", "vit_base_patch8_224", 768),
    _kaiko("vitb16", "vit_base_patch16_224", 768),
    _kaiko(
        "vitl14", "vit_large_patch14_reg4_dinov2", 1024,
        arguments={"img_size": 518, "dynamic_img_size": True},
        is_verified=False,
        note="Sources name two places on the hub, and positions of 518 px and of 224 px",
    ),
    _transformers(
        "midnight", "Midnight-12k", "kaiko-ai/midnight", "Dinov2Model",
        dim=3072,
        pooling="class+mean",
        mpps=(0.5, 0.25, 1.0, 2.0),
        colours=INCEPTION,
        licence="MIT",
        paper="arXiv:2504.05186",
        source=f"{_LAZYSLIDE}: vision/midnight.py; {_TRIDENT}; arXiv:2504.05186",
        parameters_m=1140,
        is_verified=False,
        note="Sources disagree on whether it is gated",
    ),
    _foreign(
        "ctranspath", "CTransPath", "", 768, 224,
        mpps=(1.0,),
        colours=IMAGENET,
        licence="GPL-3.0",
        is_gated=False,
        paper="doi:10.1016/j.media.2022.102559",
        source=f"github.com/owkin/HistoSSLscaling: README.md (resolution); {_TRIDENT}",
        note="A Swin with a convolutional stem, which needs its own fork of timm",
    ),
    _foreign(
        "musk", "MUSK", "xiangjx/musk", 1024, 384,
        colours=INCEPTION,
        interpolation="bicubic",
        licence=_NC_ND,
        paper="doi:10.1038/s41586-024-08378-w",
        source=f"github.com/lilab-stanford/MUSK: README.md; {_TRIDENT}",
        is_verified=False,
        note="The training resolution was not looked up; TRIDENT reads 20x",
    ),
    _transformers(
        "plip", "PLIP", "vinid/plip", "CLIPVisionModelWithProjection",
        dim=512,
        mpps=(),
        pooling="projection",
        colours=CLIP,
        licence="not stated; others call it non-commercial",
        paper="doi:10.1038/s41591-023-02504-3",
        source=f"github.com/KatherLab/STAMP: preprocessing/extractor/plip.py; {_LAZYSLIDE}",
        is_verified=False,
        note="Trained on pictures of the web at no common resolution: --mpp must be given",
    ),
    _timm(
        "gpfm", "GPFM", "majiabo/GPFM", "vit_large_patch14_dinov2",
        dim=1024,
        mpps=(0.5714,),
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        interpolation="bicubic",
        licence="MIT",
        is_gated=False,
        hub_file="GPFM.pth",
        paper="arXiv:2407.18449",
        source=f"github.com/birkhoffkiki/GPFM: README.md; {_TRIDENT}",
        note="Trained at native resolution; the authors prefer 512 px of 40x, shrunk to 224",
    ),
    _lunit(8),
    _lunit(16),
)  # fmt: skip

CATALOGUE: Mapping[str, FoundationModel] = {model.name: model for model in _MODELS}
"""The models by name."""
