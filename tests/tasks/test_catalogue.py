"""Foundation models: the table beside real architectures, and loading with random weights."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microtome.storage.errors import BadModel, BadResolution, MissingFile
from microtome.tasks.encoders import CATALOGUE, Encoder, FoundationModel, load_encoder
from microtome.tasks.encoders.foundation import build_timm, load_foundation

TIMM = [name for name, model in CATALOGUE.items() if model.route == "timm"]

SMALL = replace(
    CATALOGUE["virchow2"],
    architecture="vit_tiny_patch16_224",
    arguments={"img_size": 64, "reg_tokens": 4, "global_pool": "", "init_values": 1e-5, "depth": 2},
    dim=2 * 192,
    input_px=64,
)
"""Virchow2 but for its size: registers, SwiGLU, class token and mean of the patches."""

SMALL_CLASS = replace(
    CATALOGUE["uni"],
    architecture="vit_tiny_patch16_224",
    arguments={"img_size": 64, "depth": 2},
    dim=192,
    input_px=64,
)


def tiles_of(model: FoundationModel, n: int = 3) -> np.ndarray:
    shape = (n, model.input_px, model.input_px, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def random_backbone(model: FoundationModel):
    import timm
    import torch

    torch.manual_seed(1)
    swiglu = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    backbone = timm.create_model(
        model.architecture,
        num_classes=0,
        **model.arguments | (swiglu if model.is_swiglu else {}),
    )
    # timm starts biases and positions at zero, which would hide a wrong order of them.
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return backbone.eval()


def by_torchvision(model: FoundationModel, tiles: np.ndarray):
    """The transform that the authors of Virchow and UNI publish."""
    import torch
    from PIL import Image
    from torchvision import transforms

    mean, std = model.colours
    transform = transforms.Compose(
        [
            transforms.Resize(model.input_px, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(model.input_px),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return torch.stack([transform(Image.fromarray(tile)) for tile in tiles])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random weights of both small models, as files of each kind."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    for name, model in (("mean", SMALL), ("class", SMALL_CLASS)):
        state = random_backbone(model).state_dict()
        save_file(state, folder / f"{name}.safetensors")
        torch.save(state, folder / f"{name}.bin")
        torch.save({"epoch_of": {}, "state_dict": state}, folder / f"{name}.pth")
    return folder


class TestTable:
    @pytest.mark.parametrize("name", TIMM)
    def test_architectures_give_the_stated_dimension_and_size(self, name):
        import torch

        model = CATALOGUE[name]
        module = build_timm(model)
        with torch.inference_mode():
            found = module(torch.empty(1, 3, model.input_px, model.input_px, device="meta"))
        assert tuple(found.shape) == (1, model.dim)
        parameters_m = sum(p.numel() for p in module.parameters()) / 1e6
        if model.parameters_m:
            assert parameters_m == pytest.approx(model.parameters_m, rel=0.01)

    def test_every_entry_says_what_it_must(self):
        assert len(CATALOGUE) >= 24
        for model in CATALOGUE.values():
            assert all((model.paper, model.source, model.licence)), model.name
            assert model.is_verified or model.note, model.name
            assert all(0.1 < mpp < 4 for mpp in model.mpps), model.name
            assert model.colours is not None or model.route == "package", model.name
            assert bool(model.architecture) == (model.route != "package"), model.name
            assert ":" not in model.name

    def test_the_page_is_current(self, monkeypatch):
        script = Path(__file__).parents[2] / "scripts" / "encoder_table.py"
        spec = importlib.util.spec_from_file_location("encoder_table", script)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        assert module.document() == module.REPORT.read_text(), "run scripts/encoder_table.py"


class TestLoading:
    @pytest.mark.parametrize("kind", ["safetensors", "bin", "pth"])
    def test_class_token_and_mean_of_patches_without_registers(self, saved, kind):
        import torch

        ours = load_foundation(SMALL, weights=saved / f"mean.{kind}")
        tiles = tiles_of(SMALL)
        with torch.inference_mode():
            tokens = random_backbone(SMALL)(by_torchvision(SMALL, tiles))
        assert tokens.shape == (3, 1 + 4 + 16, 192)
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)
        np.testing.assert_allclose(ours.encode(tiles), expected.numpy(), rtol=1e-4, atol=1e-5)
        assert isinstance(ours, Encoder)
        assert (ours.tile_px, ours.mpp, ours.dim) == (64, 0.5, 384)
        assert ours.licence == "CC-BY-NC-ND-4.0"

    def test_the_class_token_is_what_timm_itself_gives(self, saved):
        import torch

        ours = load_foundation(SMALL_CLASS, weights=saved / "class.safetensors")
        tiles = tiles_of(SMALL_CLASS)
        with torch.inference_mode():
            expected = random_backbone(SMALL_CLASS)(by_torchvision(SMALL_CLASS, tiles))
        np.testing.assert_allclose(ours.encode(tiles), expected.numpy(), rtol=1e-4, atol=1e-5)

    def test_equal_weights_are_one_version_and_others_another(self, saved, tmp_path):
        from safetensors.torch import load_file, save_file

        versions = {
            load_foundation(SMALL, weights=saved / f"mean.{kind}").version
            for kind in ("safetensors", "bin")
        }
        state = load_file(saved / "mean.safetensors")
        state["norm.bias"] += 1
        save_file(state, tmp_path / "other.safetensors")
        versions.add(load_foundation(SMALL, weights=tmp_path / "other.safetensors").version)
        assert len(versions) == 2

    def test_half_precision_weights_are_computed_in_fp32(self, saved, tmp_path):
        from safetensors.torch import load_file, save_file

        state = {k: v.half() for k, v in load_file(saved / "mean.safetensors").items()}
        save_file(state, tmp_path / "half.safetensors")
        ours = load_foundation(SMALL, weights=tmp_path / "half.safetensors")
        assert {str(p.dtype) for p in ours.module.parameters()} == {"torch.float32"}

    def test_names_of_dinov2_s_own_code_are_known(self, tmp_path):
        import torch

        model = replace(
            CATALOGUE["gpfm"],
            architecture="vit_tiny_patch16_224",
            arguments={"img_size": 64, "depth": 2, "init_values": 1e-5},
            dim=192,
            input_px=64,
        )
        backbone = random_backbone(model)
        theirs = backbone.state_dict() | {"mask_token": torch.zeros(1, 192)}
        torch.save(theirs, tmp_path / "dinov2.pth")
        tiles = tiles_of(model)
        ours = load_foundation(model, weights=tmp_path / "dinov2.pth")
        with torch.inference_mode():
            expected = backbone(by_torchvision(model, tiles))
        np.testing.assert_allclose(ours.encode(tiles), expected.numpy(), rtol=1e-4, atol=1e-5)
        stretched = replace(model, arguments=model.arguments | {"img_size": 96}, input_px=96)
        with pytest.raises(BadModel, match="not of GPFM"):
            load_foundation(stretched, weights=tmp_path / "dinov2.pth")

    @pytest.mark.parametrize("pooling", ["class", "class+mean"])
    def test_models_of_transformers(self, tmp_path, pooling):
        import torch
        from transformers import ViTConfig, ViTModel

        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = ViTConfig(**size, intermediate_size=64, image_size=64, patch_size=16)
        torch.manual_seed(0)
        theirs = ViTModel(config, add_pooling_layer=False).eval()
        theirs.save_pretrained(tmp_path)
        dim = 32 if pooling == "class" else 64
        model = replace(CATALOGUE["phikon"], dim=dim, input_px=64, pooling=pooling)
        tiles = tiles_of(model)
        with torch.inference_mode():
            tokens = theirs(pixel_values=by_torchvision(model, tiles)).last_hidden_state
        expected = tokens[:, 0]
        if pooling == "class+mean":
            expected = torch.cat([expected, tokens[:, 1:].mean(1)], dim=-1)
        for given in (tmp_path, tmp_path / "model.safetensors"):
            ours = load_foundation(model, weights=given)
            np.testing.assert_allclose(ours.encode(tiles), expected.numpy(), rtol=1e-4, atol=1e-5)
        assert load_foundation(model, weights=tmp_path).version == ours.version

    def test_the_image_embedding_of_clip(self, tmp_path):
        import torch
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = CLIPVisionConfig(
            **size, intermediate_size=64, image_size=64, patch_size=32, projection_dim=16
        )
        theirs = CLIPVisionModelWithProjection(config).eval()
        theirs.save_pretrained(tmp_path)
        model = replace(CATALOGUE["plip"], dim=16, input_px=64)
        tiles = tiles_of(model)
        with torch.inference_mode():
            expected = theirs(pixel_values=by_torchvision(model, tiles)).image_embeds
        ours = load_foundation(model, weights=tmp_path, mpp=0.5)
        np.testing.assert_allclose(ours.encode(tiles), expected.numpy(), rtol=1e-4, atol=1e-5)

    def test_weights_of_another_model_of_transformers_are_refused(self, tmp_path):
        from transformers import ViTConfig, ViTModel

        size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = ViTConfig(**size, intermediate_size=64, image_size=64, patch_size=16)
        ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
        model = replace(CATALOGUE["phikon2"], dim=32, input_px=64)
        with pytest.raises(BadModel, match="Phikon-v2"):
            load_foundation(model, weights=tmp_path)
        with pytest.raises(MissingFile, match=r"config\.json"):
            load_foundation(model, weights=tmp_path / "absent" / "model.safetensors")


class TestRefusals:
    def test_weights_that_do_not_fit(self, saved):
        with pytest.raises(BadModel, match="not of UNI"):
            load_encoder("uni", weights=saved / "mean.safetensors")
        with pytest.raises(BadModel, match="not of Virchow2"):
            load_foundation(SMALL, weights=saved / "class.bin")
        with pytest.raises(BadModel, match="384 features"):
            load_foundation(replace(SMALL, dim=192), weights=saved / "mean.bin")

    def test_files_that_hold_no_weights(self, tmp_path, saved):
        import torch

        class Harm:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        (tmp_path / "harm.bin").write_bytes(pickle.dumps(Harm(), protocol=2))
        (tmp_path / "half.bin").write_bytes((saved / "mean.bin").read_bytes()[:5000])
        (tmp_path / "half.safetensors").write_bytes((saved / "mean.safetensors").read_bytes()[:500])
        (tmp_path / "text.pt").write_text("no weights")
        torch.save([1, 2], tmp_path / "list.pt")
        (tmp_path / "weights.onnx").touch()
        for name in (
            "harm.bin",
            "half.bin",
            "half.safetensors",
            "text.pt",
            "list.pt",
            "weights.onnx",
        ):
            with pytest.raises(BadModel, match=name):
                load_encoder(f"uni2:{tmp_path / name}")
        assert not (tmp_path / "ran").exists()
        with pytest.raises(MissingFile):
            load_encoder("uni2", weights=tmp_path / "absent.bin")

    def test_another_resolution_than_it_was_trained_at(self, saved):
        weights = saved / "class.safetensors"
        for mpp in (1.0, 0.25, 0.6):
            with pytest.raises(BadResolution, match=r"trained at 0\.5"):
                load_foundation(SMALL_CLASS, weights=weights, mpp=mpp)
        assert load_foundation(SMALL_CLASS, weights=weights, mpp=0.5714).mpp == 0.5714
        assert load_foundation(SMALL, weights=saved / "mean.bin", mpp=2.0).mpp == 2.0
        with pytest.raises(BadResolution, match="--mpp"):
            load_encoder("plip")

    def test_tiles_are_never_resized(self, saved):
        with pytest.raises(BadModel, match="never resized"):
            load_foundation(SMALL, weights=saved / "mean.bin", tile_px=224)

    @pytest.mark.parametrize("name", ["conch", "musk", "ctranspath", "hibou-l"])
    def test_models_of_foreign_code_say_the_way(self, name):
        with pytest.raises(BadModel, match=r"package\.module:function"):
            load_encoder(name)

    def test_weights_without_a_model_and_models_that_are_none(self, saved):
        with pytest.raises(BadModel, match="uni2:FILE"):
            load_encoder(str(saved / "mean.safetensors"))
        with pytest.raises(BadModel, match="catalogue"):
            load_encoder("timm:resnet18", weights=saved / "mean.bin")


class TestHub:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch, tmp_path):
        """The hub's client with a cache of its own and no network."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def test_without_a_network_it_says_what_to_fetch(self):
        for name in ("uni2", "h-optimus-0"):
            with pytest.raises(BadModel, match=rf"pytorch_model\.bin.*{name}:FILE"):
                load_encoder(name)
        with pytest.raises(BadModel, match="phikon:FOLDER"):
            load_encoder("phikon")

    def test_what_was_fetched_before_is_taken_from_the_cache(self, saved, tmp_path):
        repository = tmp_path / "cache" / "models--paige-ai--Virchow2"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "pytorch_model.bin").write_bytes((saved / "mean.bin").read_bytes())
        fetched = load_foundation(SMALL)
        assert fetched.version == load_foundation(SMALL, weights=saved / "mean.bin").version

    def test_a_gated_model_says_where_to_ask(self, monkeypatch):
        import httpx
        import huggingface_hub
        from huggingface_hub.errors import GatedRepoError

        def refuse(*_):
            request = httpx.Request("GET", "https://example.org")
            raise GatedRepoError("401", response=httpx.Response(401, request=request))

        # Nobody's consent can be withdrawn for a test: the client's own error stands in.
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
        with pytest.raises(BadModel, match="HF_TOKEN"):
            load_encoder("uni2")
