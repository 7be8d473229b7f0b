"""Encoders in ONNX files: against the torch modules that were exported."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from microtome.storage.bags import read_bag
from microtome.storage.errors import BadModel, MissingDependency, MissingFile
from microtome.tasks.encode import EncodeOptions, SlideItem, encode_slide
from microtome.tasks.encoders import Encoder, load_encoder

TIMM = "test_resnet"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def export(module, path: Path, *, px: int = 160, batch: int = 1, dynamic=(0,)) -> Path:
    """Export with torch's own exporter; the named axes of the input are left open."""
    import torch

    axes = {"tiles": {axis: f"axis{axis}" for axis in dynamic}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(batch, 3, px, px),),
            path,
            dynamo=False,
            input_names=["tiles"],
            output_names=["vectors"],
            dynamic_axes={**axes, "vectors": {0: "axis0"}} if dynamic else None,
        )
    return path


def state(path: Path, **metadata: str) -> Path:
    """Write metadata into a file, as ``onnx`` does it."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def means(channels: int = 3):
    import torch

    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 160, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    import timm
    import torch

    torch.manual_seed(0)
    return timm.create_model(TIMM, num_classes=0).eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    path = export(model, tmp_path_factory.mktemp("onnx") / "model.onnx")
    stated = {"mean": json.dumps(MEAN), "std": json.dumps(STD), "mpp": "0.25", "licence": "MIT"}
    return state(path, **stated)


def by_hand(module, tiles, mean=(0.0,) * 3, std=(1.0,) * 3) -> np.ndarray:
    import torch
    from torchvision.transforms.functional import normalize, to_tensor

    with torch.inference_mode():
        batch = torch.stack([normalize(to_tensor(tile), mean, std) for tile in tiles])
        return module(batch).numpy()


class TestVectors:
    def test_they_are_those_of_the_module_in_torch(self, file, model, tiles):
        ours = load_encoder(str(file))
        assert isinstance(ours, Encoder)
        expected = by_hand(model, tiles, MEAN, STD)
        np.testing.assert_allclose(ours.encode(tiles), expected, rtol=1e-5, atol=1e-5)
        assert (ours.tile_px, ours.mpp, ours.licence) == (160, 0.25, "MIT")
        assert (ours.name, ours.dim) == ("model.onnx", expected.shape[1])
        assert load_encoder(str(file), mpp=0.5).mpp == 0.5

    @pytest.mark.parametrize("batch", [1, 2, 64])
    def test_a_graph_of_a_fixed_batch_is_filled_up(self, batch, tiles, tmp_path):
        module = means()
        ours = load_encoder(str(export(module, tmp_path / "m.onnx", batch=batch, dynamic=())))
        np.testing.assert_allclose(ours.encode(tiles), by_hand(module, tiles), atol=1e-5)
        assert ours.encode(tiles[:0]).shape == (0, 4)

    def test_half_precision_is_the_files_own(self, file, tiles, tmp_path):
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        weights = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float16)
        graph = helper.make_graph(
            [
                helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
                helper.make_node("Flatten", ["pooled"], ["flat"]),
                helper.make_node("MatMul", ["flat", "w"], ["y"]),
            ],
            "half",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["b", 3, "h", "w"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["b", 7])],
            [numpy_helper.from_array(weights, "w")],
        )
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "h.onnx")
        ours = load_encoder(str(tmp_path / "h.onnx"), tile_px=160)
        expected = tiles.mean((1, 2)) / 255 @ weights.astype(float)
        features = ours.encode(tiles)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=0.01)
        with pytest.raises(BadModel, match="precision of its own"):
            load_encoder(str(file), precision="bf16")

    def test_a_slide_is_encoded_as_with_torch(self, shared_data, tmp_path, monkeypatch):
        (tmp_path / "lab_means.py").write_text(
            "import torch\n"
            "def made():\n"
            "    torch.manual_seed(3)\n"
            "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3),\n"
            "        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        from importlib import import_module

        path = export(import_module("lab_means").made(), tmp_path / "means.onnx", px=224)
        item = SlideItem("s", shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs")
        bags = []
        for name, spec in (("torch", "lab_means:made"), ("onnx", str(path))):
            options = EncodeOptions(encoder=spec, tile_px=224, mpp=0.5)
            bags.append(read_bag(encode_slide(item, out=tmp_path / name, options=options).path))
        np.testing.assert_array_equal(bags[0].coords_px, bags[1].coords_px)
        # The two sum the 49,284 values of a mean in another order.
        np.testing.assert_allclose(bags[0].features, bags[1].features, atol=1e-4)
        assert bags[1].encoder.startswith("means.onnx@")


class TestVersion:
    def test_other_weights_are_another_encoder(self, tmp_path):
        one, two = (load_encoder(str(export(means(), tmp_path / f"{i}.onnx"))) for i in range(2))
        assert one.version != two.version

    def test_weights_in_a_file_beside_it_count(self, tiles, tmp_path):
        import onnx

        module = means()
        model = onnx.load(export(module, tmp_path / "m.onnx"))
        folder = tmp_path / "apart"
        folder.mkdir()
        onnx.save(
            model,
            folder / "m.onnx",
            save_as_external_data=True,
            location="m.weights",
            size_threshold=0,
        )
        first = load_encoder(str(folder / "m.onnx"))
        np.testing.assert_allclose(first.encode(tiles), by_hand(module, tiles), atol=1e-5)
        weights = bytearray((folder / "m.weights").read_bytes())
        weights[3] ^= 1
        (folder / "m.weights").write_bytes(weights)
        assert load_encoder(str(folder / "m.onnx")).version != first.version
        (folder / "m.weights").unlink()
        with pytest.raises(MissingFile, match=r"m\.weights"):
            load_encoder(str(folder / "m.onnx"))

    @pytest.mark.parametrize("place", ["../outside.bin", "/etc/hostname"])
    def test_weights_are_read_from_its_own_folder_only(self, place, tmp_path):
        import onnx

        model = onnx.load(export(means(), tmp_path / "m.onnx"))
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(BadModel, match="outside its folder"):
            load_encoder(str(tmp_path / "m.onnx"))


class TestRefusals:
    def test_without_the_runtime_the_extra_is_named(self, file, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingDependency, match=r"microtome\[onnx\]"):
            load_encoder(str(file))

    def test_cuda_where_there_is_none(self, file):
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("there is one")
        with pytest.raises(MissingDependency, match="onnxruntime-gpu"):
            load_encoder(str(file), device="cuda")
        assert load_encoder(str(file), device="auto").session.get_providers() == [
            "CPUExecutionProvider"
        ]
        with pytest.raises(BadModel, match="cpu or cuda"):
            load_encoder(str(file), device="mps")

    def test_files_that_are_no_graphs(self, tmp_path, file):
        (tmp_path / "text.onnx").write_text("not a graph")
        (tmp_path / "empty.onnx").touch()
        (tmp_path / "half.onnx").write_bytes(file.read_bytes()[:20_000])
        for name in ("text.onnx", "empty.onnx", "half.onnx"):
            with pytest.raises(BadModel, match=name):
                load_encoder(str(tmp_path / name))
        with pytest.raises(MissingFile):
            load_encoder(str(tmp_path / "absent.onnx"))

    def test_graphs_that_do_not_go_from_tiles_to_vectors(self, tmp_path):
        import torch

        grey = export_shape(means(1), tmp_path / "grey.onnx", (1, 1, 32, 32))
        with pytest.raises(BadModel, match=r"\[b, 3, h, w\]"):
            load_encoder(str(grey))
        maps = export(torch.nn.Conv2d(3, 4, 3), tmp_path / "maps.onnx")
        with pytest.raises(BadModel, match=r"\[b, d\]"):
            load_encoder(str(maps))
        oblong = export_shape(means(), tmp_path / "oblong.onnx", (1, 3, 32, 48))
        with pytest.raises(BadModel, match="square"):
            load_encoder(str(oblong))

    def test_the_size_of_tiles_is_stated_and_never_changed(self, tmp_path, file, tiles):
        open_ended = export(means(), tmp_path / "open.onnx", dynamic=(0, 2, 3))
        with pytest.raises(BadModel, match="--tile-px"):
            load_encoder(str(open_ended))
        assert load_encoder(str(open_ended), tile_px=160).encode(tiles).shape == (5, 4)
        assert load_encoder(str(state(open_ended, tile_px="96"))).tile_px == 96
        with pytest.raises(BadModel, match="never resized"):
            load_encoder(str(file), tile_px=224)

    @pytest.mark.parametrize(
        ("key", "value"), [("mpp", "fine"), ("mean", "0.5"), ("std", "[1, 2]")]
    )
    def test_metadata_that_are_no_numbers(self, key, value, tmp_path):
        path = state(export(means(), tmp_path / "m.onnx"), **{key: value})
        with pytest.raises(BadModel, match=f"state {key} as"):
            load_encoder(str(path))


def export_shape(module, path: Path, shape: tuple[int, ...]) -> Path:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.zeros(shape),), path, dynamo=False)
    return path
