"""Encoders: every feature against a computation that is not ours."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.storage.errors import BadModel, MissingFile
from microtome.tasks.encoders import Encoder, load_encoder
from microtome.tasks.encoders.nuclei import find_nuclei
from microtome.tasks.encoders.stain_texture import FEATURES, StainTexture
from microtome.tasks.encoders.texture import (
    coherence,
    glcm_properties,
    lbp_histogram,
    pyramid_energies,
)

FAMILIES = {
    "purple": np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]),
    "blue": np.array([[0.82, 0.50, 0.28], [0.10, 0.92, 0.38]]),
}
TIMM = "test_resnet"
KINDS = ("tumour", "lymphocytes", "stroma", "fat")


def ellipse(shape, centre, semi_axes, angle=0.0) -> np.ndarray:
    y, x = np.indices(shape) - np.reshape(centre, (2, 1, 1))
    c, s = np.cos(angle), np.sin(angle)
    return ((c * y + s * x) / semi_axes[0]) ** 2 + ((c * x - s * y) / semi_axes[1]) ** 2 <= 1


def expose(amounts: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * 10.0 ** -(amounts @ stains)), 0, 255).astype(np.uint8)


def draw(kind: str, rng: np.random.Generator, px: int = 256) -> np.ndarray:
    """Amounts of haematoxylin and eosin [px, px, 2] of a tile at 0.5 µm/px."""
    import cv2

    grain = cv2.GaussianBlur(rng.normal(size=(px, px)).astype(np.float32), (0, 0), 2) * 0.3
    fibres = cv2.GaussianBlur(
        rng.normal(size=(px, px)).astype(np.float32), (0, 0), sigmaX=20, sigmaY=2
    )
    eosin = {"stroma": 0.45 + 2 * fibres, "fat": 0.01 + 0 * grain}.get(kind, 0.25 + grain)
    n, mean_px, irregular = {
        "tumour": (45, 10.0, 0.25),
        "lymphocytes": (190, 5.5, 0.05),
        "stroma": (25, 6.0, 0.1),
        "fat": (3, 5.0, 0.1),
    }[kind]
    haematoxylin = np.full((px, px), 0.02)
    for y, x in rng.uniform(0, px, (n, 2)):
        radius = mean_px * rng.lognormal(0, irregular)
        long = radius * (2.2 if kind == "stroma" else rng.uniform(1, 1 + 2 * irregular))
        mask = ellipse((px, px), (y, x), (radius, long), rng.uniform(0, np.pi) * (kind != "stroma"))
        haematoxylin[mask] = rng.normal(0.6, 0.08)
    eosin = np.where(haematoxylin > 0.1, 0.3 * eosin, eosin)
    return np.clip(np.stack([haematoxylin + 0.1 * grain, eosin], axis=-1), 0, None)


@pytest.fixture(scope="module")
def atlas() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tiles and kinds, one slide for each laboratory: other tissue, other stains."""
    slides = {}
    for seed, (family, stains) in enumerate(FAMILIES.items()):
        rng = np.random.default_rng(seed)
        kinds = np.repeat(np.arange(len(KINDS)), 8)
        strength = 1.0 if family == "purple" else 0.7
        tiles = [expose(strength * draw(KINDS[k], rng), stains) for k in kinds]
        slides[family] = (np.stack(tiles), kinds)
    return slides


@pytest.fixture(scope="module")
def encoder(atlas) -> StainTexture:
    return StainTexture().for_slide(atlas["purple"][0])


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    image = np.zeros((256, 256), np.float32)
    shapes = [((40, 40), (12, 8), 0.3), ((40, 120), (9, 9), 0), ((120, 60), (16, 6), 1.2)]
    shapes += [((180, 180), (14, 10), 2.0), ((100, 200), (6, 5), 0.7)]
    for centre, axes, angle in shapes:
        image[ellipse(image.shape, centre, axes, angle)] = 1
    return image


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    import cv2

    noise = np.random.default_rng(0).normal(128, 60, (96, 128)).astype(np.float32)
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 1) * 1.0, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def deep():
    return load_encoder(f"timm:{TIMM}")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("script") / "pool.pt"
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return path, module


class TestNuclei:
    def test_isolated_nuclei_measure_as_regionprops_has_it(self, drawn):
        from skimage.measure import label, perimeter_crofton, regionprops

        nuclei = find_nuclei(drawn, 0.5, 0.5)
        theirs = {tuple(np.round(p.centroid, 3)): p for p in regionprops(label(drawn))}
        assert len(nuclei) == len(theirs) == 5
        props = [theirs[tuple(np.round(c, 3))] for c in nuclei.centroid_px]
        np.testing.assert_array_equal(nuclei.area_px, [p.area for p in props])
        np.testing.assert_allclose(
            nuclei.perimeter_px, [perimeter_crofton(p.image) for p in props], rtol=1e-12
        )
        # Ours are moments of unit squares, theirs of points: 1/12 px² apart.
        for ours, name in ((nuclei.major_px, "major"), (nuclei.minor_px, "minor")):
            axes = np.array([getattr(p, f"axis_{name}_length") for p in props])
            np.testing.assert_allclose((ours / 4) ** 2, (axes / 4) ** 2 + 1 / 12, rtol=1e-9)
        assert not nuclei.is_clumped.any()
        assert nuclei.is_whole.all()

    def test_an_ellipse_has_the_eccentricity_and_fit_of_geometry(self):
        image = ellipse((200, 200), (100, 100), (40, 24), 0.5).astype(np.float32)
        nuclei = find_nuclei(image, 0.5, 0.25)
        assert nuclei.eccentricity[0] == pytest.approx(np.sqrt(1 - (24 / 40) ** 2), abs=0.01)
        assert nuclei.ellipse_fit[0] == pytest.approx(1, abs=0.01)
        assert nuclei.area_px[0] == pytest.approx(np.pi * 40 * 24, rel=0.01)

    def test_ragged_outlines_are_less_round_and_fit_less(self):
        y, x = np.indices((200, 200)) - 100
        radius, angle = np.hypot(y, x), np.arctan2(y, x)
        disc = (radius <= 40).astype(np.float32)
        star = (radius <= 40 * (1 + 0.25 * np.cos(5 * angle))).astype(np.float32)
        round_one, ragged = (find_nuclei(i, 0.5, 0.25) for i in (disc, star))
        assert round_one.roundness[0] == pytest.approx(1, abs=0.03)
        assert ragged.roundness[0] < 0.75
        assert ragged.ellipse_fit[0] < 0.95 < round_one.ellipse_fit[0]

    def test_touching_nuclei_are_parted(self):
        image = np.zeros((80, 120), np.float32)
        image[ellipse(image.shape, (40, 40), (14, 14))] = 1
        image[ellipse(image.shape, (40, 64), (14, 14))] = 1
        nuclei = find_nuclei(image, 0.5, 0.5)
        assert len(nuclei) == 2
        assert nuclei.is_clumped.all()
        np.testing.assert_allclose(nuclei.area_px, image.sum() / 2, rtol=0.05)
        np.testing.assert_allclose(np.sort(nuclei.centroid_px[:, 1]), [40, 64], atol=2)

    def test_specks_are_no_nuclei_and_cut_ones_are_not_whole(self):
        image = np.zeros((64, 64), np.float32)
        image[10:13, 10:13] = 1  # 2.25 µm²
        image[ellipse(image.shape, (0, 40), (10, 10))] = 1
        nuclei = find_nuclei(image, 0.5, 0.5)
        assert len(nuclei) == 1
        assert not nuclei.is_whole[0]

    def test_amounts_and_neighbours(self, drawn):
        from scipy.spatial.distance import cdist

        nuclei = find_nuclei(drawn, 0.5, 0.5)
        channel = np.random.default_rng(0).random(drawn.shape).astype(np.float32)
        mean, sd = nuclei.amounts(channel)
        for k in range(len(nuclei)):
            inside = channel[nuclei.labels == k + 1].astype(float)
            assert mean[k] == pytest.approx(inside.mean())
            assert sd[k] == pytest.approx(inside.std())
        between = cdist(nuclei.centroid_px, nuclei.centroid_px)
        np.fill_diagonal(between, np.inf)
        np.testing.assert_allclose(nuclei.neighbour_px(), between.min(1))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000), st.floats(0.3, 2.0))
    def test_labels_are_parts_of_the_mask(self, seed, um_per_px):
        import cv2
        from skimage.measure import label

        noise = np.random.default_rng(seed).normal(size=(96, 96)).astype(np.float32)
        image = cv2.GaussianBlur(noise, (0, 0), 4) * 10
        nuclei = find_nuclei(image, 0.3, um_per_px)
        found = nuclei.labels > 0
        assert not (found & (image <= 0.3)).any()
        assert (np.bincount(nuclei.labels.ravel())[1:] == nuclei.area_px).all()
        components = label(image > 0.3, connectivity=2)
        for k in range(1, len(nuclei) + 1):
            assert len(np.unique(components[nuclei.labels == k])) == 1


class TestTexture:
    def test_local_binary_patterns_follow_the_definition(self, image):
        small = image[:24, :32]
        counts = np.zeros(10)
        ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
        for y in range(1, small.shape[0] - 1):
            for x in range(1, small.shape[1] - 1):
                bits = [int(small[y + dy, x + dx]) >= int(small[y, x]) for dy, dx in ring]
                changes = sum(bits[i] != bits[i - 1] for i in range(8))
                counts[sum(bits) if changes <= 2 else 9] += 1
        np.testing.assert_allclose(lbp_histogram(small), counts / counts.sum(), rtol=1e-6)

    def test_local_binary_patterns_of_large_structures_are_those_of_skimage(self):
        """On smooth slopes it hardly matters that skimage's ring is round and ours is square."""
        import cv2
        from skimage.feature import local_binary_pattern

        noise = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
        smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)
        grey = smooth.astype(np.uint8)
        theirs = local_binary_pattern(grey, 8, 1, "uniform")[1:-1, 1:-1]
        theirs = np.bincount(theirs.astype(int).ravel(), minlength=10) / theirs.size
        assert np.abs(lbp_histogram(grey) - theirs).sum() < 0.35
        assert np.abs(lbp_histogram(grey) - np.roll(theirs, 1)).sum() > 0.5

    @pytest.mark.parametrize("distance", [1, 4])
    def test_cooccurrence_equals_skimage(self, image, distance):
        from skimage.feature import graycomatrix, graycoprops

        # skimage rounds its diagonals back onto the grid.
        steps = [(distance, 0), (distance, np.pi / 2)]
        steps += [(distance * np.sqrt(2), np.pi / 4), (distance * np.sqrt(2), 3 * np.pi / 4)]
        matrices = [
            graycomatrix(image // 8, [d], [a], levels=32, symmetric=True, normed=True)
            for d, a in steps
        ]
        mean = np.mean(matrices, axis=0)
        theirs = [
            graycoprops(mean, p)[0, 0] for p in ("contrast", "homogeneity", "energy", "correlation")
        ]
        np.testing.assert_allclose(glcm_properties(image, distance), theirs, rtol=1e-5)

    def test_pyramid_bands_answer_to_their_own_scale(self):
        x = np.arange(256)
        energies = [
            pyramid_energies(np.tile(np.sin(2 * np.pi * x / wave), (256, 1)).astype(np.float32))
            for wave in (3, 12, 24, 48)
        ]
        assert [int(e.argmax()) for e in energies] == [0, 1, 2, 3]

    def test_pyramid_bands_equal_burt_and_adelsons(self, image):
        from scipy.ndimage import convolve1d

        kernel = np.array([1, 4, 6, 4, 1]) / 16

        def blur(a, k):
            return convolve1d(convolve1d(a, k, axis=0, mode="mirror"), k, axis=1, mode="mirror")

        level, expected = image.astype(float), []
        for _ in range(4):
            coarser = blur(level, kernel)[::2, ::2]
            spread = np.zeros_like(level)
            spread[::2, ::2] = coarser
            expected.append((level - blur(spread, 2 * kernel)).std())
            level = coarser
        # OpenCV treats the last row and column a little differently.
        np.testing.assert_allclose(pyramid_energies(image.astype(np.float32)), expected, rtol=0.02)

    @pytest.mark.parametrize("angle", [0.0, 0.4, 1.2])
    def test_coherence_is_one_for_fibres_of_any_direction(self, angle):
        y, x = np.indices((128, 128))
        fibres = np.sin(0.5 * (np.cos(angle) * x + np.sin(angle) * y)).astype(np.float32)
        assert coherence(fibres) > 0.98

    def test_coherence_is_none_for_noise_and_for_nothing(self):
        noise = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
        assert coherence(noise) < 0.05
        assert coherence(np.ones((64, 64), np.float32)) == 0


class TestStainTexture:
    def test_names_every_feature_once(self, encoder, atlas):
        features = encoder.encode(atlas["purple"][0][:2])
        assert isinstance(encoder, Encoder)
        assert features.shape == (2, encoder.dim)
        assert features.dtype == np.float32
        assert len(set(encoder.feature_names)) == encoder.dim == len(FEATURES)
        assert set(encoder.describe(atlas["purple"][0][0])) == set(FEATURES)
        assert [n for n in FEATURES if n.startswith("mean_")] == [
            "mean_red", "mean_green", "mean_blue",
        ]  # fmt: skip

    def test_colour_and_stain_statistics_are_those_of_numpy(self, encoder, atlas):
        tile = atlas["purple"][0][3]
        values = encoder.describe(tile)
        h, e = np.moveaxis(encoder.stains.separate(tile).astype(float), -1, 0)
        assert values["mean_green"] == pytest.approx(tile[..., 1].mean() / 255)
        for name, amount in (("haematoxylin", h), ("eosin", e)):
            assert values[f"{name}_mean"] == pytest.approx(amount.mean(), rel=1e-4)
            assert values[f"{name}_sd"] == pytest.approx(amount.std(), rel=1e-4)
            for p in (10, 50, 90):
                assert values[f"{name}_p{p}"] == pytest.approx(np.percentile(amount, p), abs=0.01)
        assert values["stain_correlation"] == pytest.approx(
            np.corrcoef(h.ravel(), e.ravel())[0, 1], abs=1e-4
        )

    def test_drawn_nuclei_are_counted_and_measured_in_um(self, encoder):
        px, amounts = 256, np.zeros((256, 256, 2))
        amounts[..., 1] = 0.25
        for y in range(32, px, 64):
            for x in range(32, px, 64):
                amounts[ellipse((px, px), (y, x), (12, 8), 0.1 * x)] = (0.6, 0.08)
        values = encoder.describe(expose(amounts, FAMILIES["purple"]))
        assert values["nuclei_per_mm2"] == pytest.approx(16 / (0.128 * 0.128), rel=0.01)
        assert values["nuclei_area_um2"] == pytest.approx(np.pi * 6 * 4, rel=0.1)
        assert values["nuclei_eccentricity"] == pytest.approx(np.sqrt(1 - (8 / 12) ** 2), abs=0.03)
        assert values["nuclei_neighbour_um"] == pytest.approx(32, abs=0.5)
        assert values["nuclei_area_fraction"] == pytest.approx(16 * np.pi * 12 * 8 / px**2, rel=0.1)
        assert values["nuclei_clumped_fraction"] == 0

    def test_a_row_depends_on_its_own_tile_alone(self, encoder, atlas):
        tiles = atlas["purple"][0][::4]
        together = encoder.encode(tiles)
        order = np.random.default_rng(0).permutation(len(tiles))
        np.testing.assert_array_equal(encoder.encode(tiles[order]), together[order])
        np.testing.assert_array_equal(
            np.concatenate([encoder.encode(t[None]) for t in tiles]), together
        )

    @pytest.mark.parametrize("grey", [0, 127, 255])
    def test_blank_tiles_have_finite_features_and_no_nuclei(self, encoder, grey):
        features = encoder.encode(np.full((1, 256, 256, 3), grey, np.uint8))
        assert np.isfinite(features).all()
        if grey == 255:
            assert features[0, list(FEATURES).index("nuclei_per_mm2")] == 0
            assert features[0, list(FEATURES).index("clear_fraction")] == 1

    def test_tissues_learnt_in_one_laboratory_are_told_apart_in_another(self, atlas):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        columns = [i for i, name in enumerate(FEATURES) if not name.startswith("mean_")]
        x, y = {}, {}
        for family, (tiles, kinds) in atlas.items():
            x[family] = StainTexture().for_slide(tiles).encode(tiles)[:, columns]
            y[family] = kinds
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        model.fit(x["purple"], y["purple"])
        assert model.score(x["blue"], y["blue"]) >= 0.9

    def test_refuses_tiles_of_another_size(self, encoder):
        with pytest.raises(ValueError, match="256"):
            encoder.encode(np.zeros((1, 224, 224, 3), np.uint8))

    def test_micrometres_follow_the_resolution(self, atlas):
        import cv2

        tile = atlas["purple"][0][0]
        finer = cv2.resize(tile, (512, 512), interpolation=cv2.INTER_CUBIC)
        at_half = StainTexture().describe(tile)
        at_quarter = StainTexture(tile_px=512, mpp=0.25).describe(finer)
        for name in ("nuclei_area_um2", "nuclei_per_mm2", "nuclei_neighbour_um"):
            assert at_quarter[name] == pytest.approx(at_half[name], rel=0.1)


class TestDeepEncoders:
    @staticmethod
    def by_hand(model, tiles) -> np.ndarray:
        import timm
        import torch
        from PIL import Image

        config = timm.data.resolve_model_data_config(model)
        transform = timm.data.create_transform(**config | {"crop_pct": 1.0})
        batch = torch.stack([transform(Image.fromarray(t)) for t in tiles])
        with torch.inference_mode():
            return model.eval()(batch).numpy()

    def test_timm_gives_what_timm_gives_by_hand(self, deep, tiles, tmp_path):
        import timm
        from safetensors.torch import save_file

        model = timm.create_model(TIMM, num_classes=5)
        save_file(model.state_dict(), tmp_path / "w.safetensors")
        ours = load_encoder(f"timm:{TIMM}:{tmp_path / 'w.safetensors'}")
        model.reset_classifier(0)
        np.testing.assert_allclose(
            ours.encode(tiles), self.by_hand(model, tiles), rtol=1e-5, atol=1e-6
        )
        assert (ours.tile_px, ours.name) == (160, f"timm:{TIMM}")
        assert ours.version != deep.version

    def test_untrained_weights_are_the_same_in_every_run(self, deep, tiles):
        import torch

        torch.manual_seed(123)
        state = torch.random.get_rng_state()
        again = load_encoder(f"timm:{TIMM}")
        assert again.version == deep.version
        np.testing.assert_array_equal(again.encode(tiles), deep.encode(tiles))
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_a_torchscript_file_gives_what_its_module_gives(self, script, tiles):
        import torch

        path, module = script
        ours = load_encoder(str(path), tile_px=160, mpp=1.0)
        batch = torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            np.testing.assert_allclose(ours.encode(tiles), module(batch).numpy(), rtol=1e-5)
        assert (ours.dim, ours.mpp) == (4, 1.0)

    def test_a_module_by_import_path_brings_its_own_sizes(self, tmp_path, monkeypatch, tiles):
        (tmp_path / "our_lab_encoder.py").write_text(
            "import torch\n"
            "class Mean(torch.nn.Module):\n"
            "    tile_px, mpp, mean, std, licence = 160, 0.25, (.5,) * 3, (.5,) * 3, 'MIT'\n"
            "    def forward(self, x):\n"
            "        return x.mean((2, 3))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        ours = load_encoder("our_lab_encoder:Mean")
        assert (ours.tile_px, ours.mpp, ours.dim, ours.licence) == (160, 0.25, 3, "MIT")
        expected = tiles.mean((1, 2)) / 255 * 2 - 1
        np.testing.assert_allclose(ours.encode(tiles), expected, atol=1e-5)

    def test_tile_size_must_be_known(self, script):
        with pytest.raises(BadModel, match="--tile-px"):
            load_encoder(str(script[0]))

    def test_tiles_are_never_resized_to_fit(self):
        with pytest.raises(BadModel, match="never resized"):
            load_encoder("timm:test_vit", tile_px=256)

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ("timm:resnet81", "resnet18"),
            ("nothing-like-that", "encoder list"),
            ("json:dumps_it", "encoder list"),
            ("collections:OrderedDict", "torch.nn.Module"),
        ],
    )
    def test_unknown_encoders_are_named(self, spec, says):
        with pytest.raises(BadModel, match=says):
            load_encoder(spec)

    def test_files_that_are_no_models_are_named(self, tmp_path, script):
        import torch

        torch.save({"weight": torch.ones(3)}, tmp_path / "state.pt")
        (tmp_path / "text.pt").write_text("not a model")
        (tmp_path / "weights.safetensors").write_text("not weights")
        (tmp_path / "pickled.pth").write_bytes(b"\x80\x04.")
        for name in ("state.pt", "text.pt", "pickled.pth"):
            with pytest.raises(BadModel, match=name):
                load_encoder(str(tmp_path / name), tile_px=160)
        with pytest.raises(BadModel, match=r"weights\.safetensors"):
            load_encoder(f"timm:{TIMM}:{tmp_path / 'weights.safetensors'}")
        with pytest.raises(BadModel, match="run code"):
            load_encoder(f"timm:{TIMM}:{script[0]}")
        with pytest.raises(MissingFile):
            load_encoder(str(tmp_path / "absent.pt"))

    def test_weights_of_another_model_are_refused(self, tmp_path):
        import timm
        from safetensors.torch import save_file

        other = timm.create_model("test_efficientnet")
        save_file(other.state_dict(), tmp_path / "other.safetensors")
        with pytest.raises(BadModel, match="do not fit"):
            load_encoder(f"timm:{TIMM}:{tmp_path / 'other.safetensors'}")

    def test_output_that_is_no_vector_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "our_lab_map.py").write_text(
            "import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 3)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(BadModel, match="one vector a tile"):
            load_encoder("our_lab_map:make", tile_px=64)
