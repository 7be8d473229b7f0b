"""Scans become bags that MIL learns from, with labels of scans alone; places and maps are exact."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.schedule import Skipped
from microtome.engine.synthetic.scan import BLOOD_HU, simulate_head, write_heads
from microtome.engine.volumes import open_volume
from microtome.storage.bags import Bag, ScanPlaces, read_bag, write_bag
from microtome.storage.commit import require_commit
from microtome.storage.errors import BadModel, InputError, NoModality, NoUptake, StaleProduct
from microtome.storage.predictions import read_predictions
from microtome.tasks.bag_exchange import export_file
from microtome.tasks.encode_scan import encode_scan
from microtome.tasks.encoders import load_encoder
from microtome.tasks.encoders.block_texture import BlockTexture, describe_features
from microtome.tasks.encoders.slice_pictures import pictures
from microtome.tasks.scan_heatmap import score_map, write_scan_heatmap
from microtome.tasks.scan_options import ScanOptions
from microtome.tasks.slide_list import SlideItem

HEAD_TRUTH = "heads/truth/head-02.nii.gz"
CUBES = ScanOptions(modality="ct", spacing_mm=4.0, block_mm=16.0, edge="drop")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads"), 2, seed=1, spacing_mm=(4, 4, 4)).parent


@pytest.fixture(scope="module")
def item(heads) -> SlideItem:
    return SlideItem("head", heads / "scans/head-02.nii.gz")


def voxels_of(path: Path) -> np.ndarray:
    """By nibabel, in our order of axes."""
    return np.asarray(nibabel.load(path).dataobj).T


def shares_of_blood(bag: Bag, truth: np.ndarray) -> np.ndarray:
    """How much of each block's whole voxels is blood."""
    assert bag.scan is not None
    low = np.ceil(bag.scan.corner_vox).astype(int)
    high = np.floor(bag.scan.corner_vox + bag.scan.footprint_vox).astype(int)
    boxes = [tuple(map(slice, *pair)) for pair in zip(low.tolist(), high.tolist(), strict=True)]
    return np.array([truth[box].mean() for box in boxes])


def instance_aucs(study: Path, bags: Path, truth: Path) -> list[float]:
    """Of held-out scores within each positive scan, against the planted outlines."""
    found = []
    for said in read_predictions(study / "predictions"):
        if said.label == "haemorrhage":
            bag = read_bag(bags / f"{said.id}.bag.zarr")
            share = shares_of_blood(bag, voxels_of(truth / f"{said.id}.nii.gz"))
            found.append(float(roc_auc_score(share > 0.1, said.score)))
    return found


def learn(folder: Path, scans: int, side_mm: float, model: str, folds: int) -> dict[str, float]:
    """As a user would: simulate, encode, train."""
    table, bags, study = folder / "heads/cohort.csv", folder / "bags", folder / model
    if not table.exists():
        run("simulate", "heads", "--out", table.parent, "--scans", scans, "--spacing-mm", side_mm)
        blocks = ("--modality", "ct", "--spacing-mm", side_mm, "--block-mm", 24)
        run("encode", table, *blocks, "--out", bags)
    run("mil", "train", table, "--bags", bags, "--out", study, "--model", model, "--folds", folds)
    figures = json.loads((study / "metrics.json").read_text())["figures"]
    return {name: values["auc"]["value"] for name, values in figures.items()}


class TestShows:
    def test_scan_labels_alone_find_the_lesion(self, tmp_path):
        auc = learn(tmp_path, scans=24, side_mm=4.0, model="max", folds=3)
        assert auc["max"] >= 0.9
        for control in ("mean", "bag_size", "mean_colour", "shuffled"):
            assert auc["max"] > auc[control] + 0.1
        aucs = instance_aucs(tmp_path / "max", tmp_path / "bags", tmp_path / "heads/truth")
        assert len(aucs) == 12
        assert np.mean(aucs) >= 0.9
        run(
            "heatmap", "scan", tmp_path / "max/model", tmp_path / "bags", "--out", tmp_path / "maps"
        )
        scan = nibabel.load(tmp_path / "heads/scans/head-02.nii.gz")
        found = nibabel.load(tmp_path / "maps/head-02.scores.nii.gz")
        np.testing.assert_array_equal(found.affine, scan.affine)
        scores, blood = voxels_of(found.get_filename()), voxels_of(tmp_path / HEAD_TRUTH) > 0
        known = np.isfinite(scores)
        assert roc_auc_score(blood[known], scores[known]) >= 0.9

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_in_more_and_finer_scans_so_does_attention(self, tmp_path):
        for model in ("abmil", "max"):
            auc = learn(tmp_path, scans=48, side_mm=3.0, model=model, folds=4)
            assert auc[model] >= 0.9
            assert auc[model] > max(v for name, v in auc.items() if name != model) + 0.05
            aucs = instance_aucs(tmp_path / model, tmp_path / "bags", tmp_path / "heads/truth")
            assert np.mean(aucs) >= 0.9


class TestSimulation:
    def test_bleeds_are_the_only_difference(self):
        clear, bled = simulate_head(7), simulate_head(7, bleeds=2)
        np.testing.assert_array_equal(clear.affine, bled.affine)
        grown = nearby(bled.blood, 3)
        np.testing.assert_array_equal(clear.hu[~grown], bled.hu[~grown])
        assert not clear.blood.any()
        assert BLOOD_HU[0] - 10 < np.median(bled.hu[bled.blood]) < BLOOD_HU[1] + 10

    def test_one_table_for_nibabel_and_us(self, heads):
        rows = list(csv.DictReader((heads / "cohort.csv").read_text().splitlines()))
        assert [row["label"] for row in rows] == ["clear", "haemorrhage"]
        scan = nibabel.load(heads / rows[1]["path"])
        np.testing.assert_allclose(scan.affine, open_volume(heads / rows[1]["path"]).affine)
        np.testing.assert_allclose(nibabel.affines.voxel_sizes(scan.affine), 4, rtol=1e-6)


def nearby(mask: np.ndarray, steps: int) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, np.ones((3, 3, 3)), iterations=steps)


class TestOneScan:
    def test_features_and_places_by_hand(self, item, tmp_path):
        """Spacing and voxels are 4 mm, so a block is 4 x 4 x 4 voxels as they are."""
        bag = read_bag(encode_scan(item, out=tmp_path, options=CUBES).path)
        hu, affine = voxels_of(item.path), nibabel.load(item.path).affine
        assert bag.scan is not None
        assert bag.scan.scan_vox == hu.shape
        corner = bag.scan.corner_vox.astype(int)
        np.testing.assert_array_equal(corner, bag.scan.corner_vox)
        np.testing.assert_array_equal(bag.coords_px, corner[:, 1:])
        np.testing.assert_allclose(
            bag.scan.centre_mm, apply_affine(affine, corner[:, ::-1] + 1.5), atol=1e-4
        )
        names = bag.feature_names
        assert names == tuple(describe_features(["brain", "subdural", "bone"]))
        for row, (z, y, x) in zip(bag.features, corner.tolist(), strict=True):
            block = hu[z : z + 4, y : y + 4, x : x + 4]
            brain, bone = np.clip(block / 80, 0, 1), np.clip((block + 800) / 2800, 0, 1)
            assert row[names.index("mean_brain")] == pytest.approx(brain.mean(), abs=1e-5)
            assert row[names.index("bone_sd")] == pytest.approx(bone.std(), abs=1e-5)
            assert row[names.index("brain_p90")] == pytest.approx(
                np.percentile(brain, 90), abs=1e-5
            )
        assert bag.encoder == "block-texture@1+CT:brain,subdural,bone"
        assert (bag.mpp, bag.tile_px) == (4000.0, 4)
        # The head fills about a third of the field of view.
        assert 0.2 < len(bag) / (hu.size / 64) < 0.6

    def test_twice_is_once_and_other_options_are_refused(self, item, tmp_path):
        first = encode_scan(item, out=tmp_path, options=CUBES)
        assert not isinstance(first, Skipped)
        again = encode_scan(item, out=tmp_path, options=CUBES)
        assert isinstance(again, Skipped)
        assert again.value == first
        for other in (
            replace(CUBES, block_mm=20.0),
            replace(CUBES, windows=("lung",)),
            replace(CUBES, stride_px=2),
        ):
            with pytest.raises(StaleProduct):
                encode_scan(item, out=tmp_path, options=other)

    def test_a_stored_scan_is_the_same_scan(self, item, tmp_path):
        run("ingest", item.path, "--out", tmp_path)
        options = ("--modality", "ct", "--spacing-mm", 4, "--block-mm", 16, "--edge", "drop")
        run("encode", tmp_path / "head-02.ome.zarr", *options, "--out", tmp_path / "bags")
        stored = read_bag(tmp_path / "bags/head-02.bag.zarr")
        bag = read_bag(encode_scan(item, out=tmp_path, options=CUBES).path)
        np.testing.assert_array_equal(stored.features, bag.features)
        np.testing.assert_array_equal(stored.scan.centre_mm, bag.scan.centre_mm)

    def test_the_name_without_its_suffix_is_the_id(self, item, tmp_path):
        given = SlideItem(item.path.stem, item.path)
        assert encode_scan(given, out=tmp_path, options=CUBES).path.name == "head-02.bag.zarr"

    def test_a_slice_is_what_its_encoder_gives_for_the_picture(self, item, tmp_path):
        options = replace(CUBES, encoder="timm:test_resnet", edge="pad", min_foreground=0.01)
        bag = read_bag(encode_scan(item, out=tmp_path, options=options).path)
        hu, encoder = voxels_of(item.path), load_encoder("timm:test_resnet")
        assert bag.scan is not None
        z, y, x = bag.scan.corner_vox[5].astype(int)
        tile = np.zeros((160, 160, 3), np.uint8)
        lows, highs = (0, -20, -800), (80, 180, 2000)
        for c, (low, high) in enumerate(zip(lows, highs, strict=True)):
            grey = np.rint(np.clip((hu[z] - low) / (high - low), 0, 1) * 255)
            tile[-y : -y + hu.shape[1], -x : -x + hu.shape[2], c] = grey
        np.testing.assert_allclose(bag.features[5], encoder.encode(tile[None])[0], atol=1e-4)

    def test_a_slice_and_its_neighbours_are_red_green_and_blue(self, item, tmp_path):
        options = replace(
            CUBES, encoder="timm:test_resnet", depth=3, tile_px=32, min_foreground=0.5
        )
        bag = read_bag(encode_scan(item, out=tmp_path, options=options).path)
        assert bag.scan is not None
        assert bag.scan.footprint_vox == (3, 32, 32)
        z, y, x = bag.scan.corner_vox[0].astype(int)
        three = voxels_of(item.path)[z : z + 3, y : y + 32, x : x + 32]
        tile = np.rint(np.clip(three / 80, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        expected = load_encoder("timm:test_resnet", tile_px=32).encode(tile[None])[0]
        np.testing.assert_allclose(bag.features[0], expected, atol=1e-4)
        assert bag.encoder.endswith("/3+CT:brain")

    def test_real_slices_of_a_dicom_series(self, shared_data, tmp_path):
        series = shared_data / "scans/ct_philips_head_phantom"
        options = ScanOptions(encoder="timm:test_resnet", tile_px=160, windows=("40/80",))
        bag = read_bag(
            encode_scan(SlideItem("phantom", series), out=tmp_path, options=options).path
        )
        assert bag.scan is not None
        assert bag.scan.scan_vox == (28, 512, 512)
        np.testing.assert_allclose(np.array(bag.scan.footprint_vox)[1:] * 0.45, 160, rtol=0.01)

    def test_what_nobody_says_is_asked_for(self, item, shared_data, tmp_path):
        with pytest.raises(NoModality, match="--modality"):
            encode_scan(item, out=tmp_path, options=replace(CUBES, modality=None))
        pet = SlideItem("pet", shared_data / "scans/nifti/spm12_PET.nii")
        asked = ScanOptions(modality="pt", spacing_mm=4.0)
        with pytest.raises(NoUptake, match="--robust"):
            encode_scan(pet, out=tmp_path, options=asked)
        bag = read_bag(encode_scan(pet, out=tmp_path, options=replace(asked, robust=True)).path)
        assert bag.feature_names[0] == "mean_intensity"
        with pytest.raises(NoModality, match="this is PT"):
            encode_scan(pet, out=tmp_path, options=replace(asked, windows=("brain",)))
        with pytest.raises(BadModel, match="stained slides"):
            encode_scan(item, out=tmp_path, options=replace(CUBES, encoder="stain-texture"))
        with pytest.raises(BadModel, match="no picture"):
            encode_scan(
                item,
                out=tmp_path,
                options=replace(CUBES, encoder="timm:test_resnet", windows=("brain", "bone")),
            )

    def test_mr_is_scaled_within_the_head(self, shared_data, tmp_path):
        t1 = SlideItem("t1", shared_data / "scans/nifti/spm12_single_subj_T1.nii")
        options = ScanOptions(modality="mr", spacing_mm=6.0, block_mm=24.0)
        bag = read_bag(encode_scan(t1, out=tmp_path, options=options).path)
        assert bag.encoder == "block-texture@1+MR:unbiased"
        mean = bag.features[:, 0]
        assert 0.2 < np.median(mean) < 0.8


class TestBags:
    def test_a_bag_of_a_slide_is_kept_as_before(self, tmp_path):
        bag = Bag("a", np.ones((3, 2), np.float32), np.zeros((3, 2), np.int64), (4.0, 4.0),
                  (9, 9), 0.5, (0.5, 0.5), 8, "e@1")  # fmt: skip
        write_bag(tmp_path / "a.bag.zarr", bag, key="k")
        assert "scan" not in require_commit(tmp_path / "a.bag.zarr", "bag").about
        assert not (tmp_path / "a.bag.zarr/corner_vox").exists()
        assert read_bag(tmp_path / "a.bag.zarr").scan is None

    def test_other_tools_are_not_given_blocks_as_tiles(self, item, tmp_path):
        path = encode_scan(item, out=tmp_path, options=CUBES).path
        with pytest.raises(InputError, match="that of a scan"):
            export_file(path, form="clam", out=tmp_path / "h5")


class TestMap:
    def test_scores_lie_where_the_blocks_are(self, item, tmp_path):
        bag = read_bag(encode_scan(item, out=tmp_path, options=CUBES).path)
        scores = np.random.default_rng(0).random(len(bag), np.float32)
        write_scan_heatmap(tmp_path / "map.nii.gz", bag, scores)
        found, scan = nibabel.load(tmp_path / "map.nii.gz"), nibabel.load(item.path)
        assert found.shape == scan.shape
        np.testing.assert_array_equal(found.affine, scan.affine)
        assert bag.scan is not None
        index = apply_affine(np.linalg.inv(found.affine), bag.scan.centre_mm)
        i, j, k = np.rint(index - 0.25).astype(int).T
        np.testing.assert_allclose(np.asarray(found.dataobj)[i, j, k], scores, rtol=1e-6)
        assert np.isfinite(found.dataobj).sum() == len(bag) * 64

    def test_overlapping_and_broken_voxels_have_the_mean_by_cover(self):
        corner = np.array([[0, 0, 0], [0, 0, 1.5]])
        places = ScanPlaces(corner, (1.0, 1.0, 2.5), (1, 1, 5), np.eye(4))
        mapped = score_map(places, np.array([1, 0], np.float32))[0, 0]
        np.testing.assert_allclose(mapped, [1, 1 / 1.5, 0.5 / 1.5, 0, np.nan], rtol=1e-6)

    def test_a_bag_of_a_slide_has_no_map(self, tmp_path):
        bag = Bag("a", np.ones((3, 2), np.float32), np.zeros((3, 2), np.int64), (4.0, 4.0),
                  (9, 9), 0.5, (0.5, 0.5), 8, "e@1")  # fmt: skip
        with pytest.raises(InputError, match="that of a slide"):
            write_scan_heatmap(tmp_path / "a.nii", bag, np.ones(3, np.float32))


class TestBlockTexture:
    def test_a_row_depends_on_its_own_block_alone(self):
        blocks = np.random.default_rng(0).random((5, 2, 6, 7, 8), np.float32)
        encoder = BlockTexture(("a", "b"))
        whole = encoder.encode(blocks)
        assert whole.shape == (5, 24)
        np.testing.assert_array_equal(whole[3], encoder.encode(blocks[3:4])[0])

    def test_flat_blocks_have_a_mean_and_nothing_else(self):
        names = BlockTexture(("a",)).feature_names
        row = BlockTexture(("a",)).encode(np.full((1, 1, 5, 5, 5), 0.25, np.float32))[0]
        level = {"mean_a", "a_p10", "a_p50", "a_p90", "a_p98"}
        expected = [0.25 if name in level else 0 for name in names]
        np.testing.assert_allclose(row, expected, atol=1e-6)

    def test_a_ramp_has_its_slope(self):
        ramp = np.broadcast_to(np.arange(8, dtype=np.float32) / 20, (1, 1, 8, 8, 8))
        encoder = BlockTexture(("a",))
        found = dict(zip(encoder.feature_names, encoder.encode(ramp)[0], strict=True))
        assert found["a_gradient"] == pytest.approx(0.05, rel=1e-5)
        assert found["mean_a"] == pytest.approx(3.5 / 20, rel=1e-5)

    def test_blocks_without_depth_or_of_other_channels_are_refused(self):
        for shape in ((1, 1, 1, 4, 4), (1, 2, 4, 4, 4), (1, 4, 4, 4)):
            with pytest.raises(ValueError, match="block-texture takes"):
                BlockTexture(("a",)).encode(np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match="2 planes"):
            pictures(np.zeros((1, 2, 1, 4, 4), np.float32))
