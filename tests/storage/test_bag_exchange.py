"""Bags of CLAM, TRIDENT and STAMP: as their own code writes and reads them, and round again."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import sample_bags
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sample_bags import assert_same

from microtome.storage.bag_records import bags_in, list_records
from microtome.storage.bags import Bag, write_bag
from microtome.storage.errors import (
    BadGeometry,
    BadProduct,
    BadResolution,
    CohortError,
    MicrotomeError,
    MissingFile,
    NoResolution,
    UnreadableFile,
    UnwritableOutput,
)
from microtome.storage.exchange import Facts, export_clam, export_pt, export_stamp, import_bag

SLIDE = Facts(slide_mpp=(0.25, 0.25), slide_px=(60_000, 80_000), source="case-17.svs")
FEATURES = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
XY = np.stack([np.arange(12) * 1024 + 256, np.arange(12)[::-1] * 512], axis=1)


def a_bag() -> Bag:
    return sample_bags.a_bag(features=FEATURES, coords_px=XY[:, ::-1].astype(np.int64))


def like_trident(path: Path, features: np.ndarray = FEATURES, **changes: Any) -> Path:
    """What TRIDENT's ``coords_to_h5`` and ``save_h5`` write, attribute by attribute."""
    attributes = {
        "patch_size": 512, "patch_size_level0": 512 * 40 // 20, "level0_magnification": 40,
        "target_magnification": 20, "overlap": 0, "name": "case-17", "savetodir": "out",
        "level0_width": 80_000, "level0_height": 60_000,
    } | changes  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", XY)):
            chunks = (1, *values.shape[1:])
            file.create_dataset(
                name, data=values, maxshape=(None, *values.shape[1:]), chunks=chunks
            )
        for name, value in attributes.items():
            if value is not None:
                file["coords"].attrs[name] = value
    return path


def like_clam(folder: Path) -> tuple[Path, Path]:
    """CLAM's two files: features without attributes, coordinates of level 1 with them."""
    with h5py.File(folder / "case-17.h5", "w") as file:
        file["features"], file["coords"] = FEATURES, XY.astype(np.int32)
    with h5py.File(folder / "coords.h5", "w") as file:
        file["coords"] = XY.astype(np.int32)
        file["coords"].attrs.update(
            {
                "patch_size": 256,
                "patch_level": 1,
                "downsample": (4.0, 4.0),
                "name": "case-17",
                "downsampled_level_dim": (20_000, 15_000),
                "level_dim": (20_000, 15_000),
                "save_path": "patches",
            }
        )
    return folder / "case-17.h5", folder / "coords.h5"


def like_stamp(path: Path, **changes: Any) -> Path:
    """What ``stamp.preprocessing.extract_`` writes."""
    attributes = {
        "stamp_version": "2.4.0", "extractor": "uni2", "unit": "um", "tile_size_um": 256.0,
        "tile_size_px": 224, "code_hash": "0123abcd", "feat_type": "tile",
    } | changes  # fmt: skip
    with h5py.File(path, "w") as file:
        file["coords"] = (XY * 0.25).astype(np.float32)
        file["feats"] = FEATURES.astype(np.float16)
        for name, value in attributes.items():
            if value is not None:
                file.attrs[name] = value
    return path


class TestOut:
    def test_clam_and_trident_find_what_they_read(self, tmp_path):
        export_clam(a_bag(), tmp_path / "case-17.h5", key="k")
        with h5py.File(tmp_path / "case-17.h5") as file:
            np.testing.assert_array_equal(file["features"][:], FEATURES)
            np.testing.assert_array_equal(file["coords"][:], XY)
            assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int64)
            stated = dict(file["coords"].attrs)
        assert (stated["patch_size"], stated["patch_size_level0"], stated["overlap"]) == (
            512,
            1024,
            0,
        )
        assert (stated["level0_magnification"], stated["target_magnification"]) == (40, 20)
        assert (stated["level0_width"], stated["level0_height"]) == (80_000, 60_000)
        assert stated["name"] == "case-17"
        assert "patch_level" not in stated

    def test_tiles_of_level_0_say_so_in_clam_s_words(self, tmp_path):
        export_clam(replace(a_bag(), footprint_px=(512, 512)), tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5") as file:
            stated = file["coords"].attrs
            assert stated["patch_level"] == 0
            np.testing.assert_array_equal(stated["level_dim"], (80_000, 60_000))

    def test_overlap_is_in_the_encoder_s_pixels(self, tmp_path):
        coords_px = np.stack([np.zeros(12), np.arange(12) * 768], axis=1).astype(np.int64)
        export_clam(replace(a_bag(), coords_px=coords_px), tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["coords"].attrs["overlap"] == 128

    def test_a_tensor_loads_as_clam_loads_it(self, tmp_path):
        export_pt(a_bag(), tmp_path / "case-17.pt")
        loaded = torch.load(tmp_path / "case-17.pt", weights_only=True)
        assert torch.equal(loaded, torch.from_numpy(FEATURES))

    def test_stamp_gets_micrometres(self, tmp_path):
        export_stamp(a_bag(), tmp_path / "case-17.h5")
        with h5py.File(tmp_path / "case-17.h5") as file:
            np.testing.assert_allclose(file["coords"][:], XY * 0.25)
            np.testing.assert_array_equal(file["feats"][:], FEATURES)
            stated = dict(file.attrs)
        assert (stated["unit"], stated["feat_type"], stated["extractor"]) == (
            "um",
            "tile",
            "uni@abc",
        )
        assert (stated["tile_size_um"], stated["tile_size_px"]) == (256.0, 512)

    def test_equal_bags_give_equal_bytes(self, tmp_path):
        for export in (export_clam, export_stamp, export_pt):
            export(a_bag(), tmp_path / "one")
            export(a_bag(), tmp_path / "two")
            assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_nothing_half_is_left_where_writing_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        for export in (export_clam, export_stamp, export_pt):
            with pytest.raises(UnwritableOutput):
                export(a_bag(), tmp_path / "file" / "case-17.h5")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestRound:
    @settings(max_examples=10, deadline=None)
    @given(
        n=st.integers(0, 7),
        d=st.integers(1, 4),
        bounds=st.none() | st.just((1, 2, 3, 4)),
        data=st.data(),
    )
    def test_a_bag_comes_back_whole(self, tmp_path_factory, n, d, bounds, data):
        bag = Bag(
            id=data.draw(st.text(max_size=9).filter(lambda s: "\0" not in s)),
            features=data.draw(arrays(np.float32, (n, d))),
            coords_px=data.draw(arrays(np.int64, (n, 2))),
            footprint_px=data.draw(st.tuples(st.floats(1, 1e5), st.floats(1, 1e5))),
            slide_px=(data.draw(st.integers(1, 10**6)), 10**6),
            mpp=data.draw(st.floats(0.1, 20)),
            slide_mpp=(data.draw(st.floats(0.1, 20)), 0.3),
            tile_px=data.draw(st.integers(1, 4096)),
            encoder="e@1",
            bounds_px=bounds,
            feature_names=data.draw(st.sampled_from([(), tuple(f"f{i}" for i in range(d))])),
            quality={"focus": data.draw(arrays(np.float32, (n,)))},
        )
        path = tmp_path_factory.mktemp("h5") / "x.h5"
        export_clam(bag, path)
        assert_same(import_bag(path), bag)

    def test_tiles_at_both_ends_of_numbers_share_nothing(self, tmp_path):
        most = np.iinfo(np.int64).max
        coords_px = np.array([[most, -1], [most, most]])
        bag = sample_bags.a_bag(2, coords_px=coords_px)
        export_clam(bag, tmp_path / "x.h5")
        with h5py.File(tmp_path / "x.h5") as file:
            assert file["coords"].attrs["overlap"] == 0
        assert_same(import_bag(tmp_path / "x.h5"), bag)

    def test_by_way_of_stamp_nothing_moves(self, tmp_path):
        export_stamp(a_bag(), tmp_path / "case-17.h5")
        facts = replace(SLIDE, bounds_px=a_bag().bounds_px)
        back = import_bag(tmp_path / "case-17.h5", facts=facts)
        assert_same(back, replace(a_bag(), quality={}, corrupt_tiles=0))

    def test_by_way_of_a_tensor_and_coordinates(self, tmp_path):
        export_pt(a_bag(), tmp_path / "case-17.pt")
        coords = like_trident(tmp_path / "coords.h5")
        facts = replace(SLIDE, encoder="uni@abc", bounds_px=a_bag().bounds_px)
        back = import_bag(tmp_path / "case-17.pt", facts=facts, coords=coords)
        assert_same(back, replace(a_bag(), quality={}, corrupt_tiles=0))

    def test_by_way_of_a_tensor_and_our_own_coordinates(self, tmp_path):
        bag = replace(a_bag(), footprint_px=(1023.7, 1024.2), mpp=0.4998)
        export_clam(bag, tmp_path / "h5.h5")
        export_pt(bag, tmp_path / "case-17.pt")
        facts = Facts(encoder="another")
        back = import_bag(tmp_path / "case-17.pt", facts=facts, coords=tmp_path / "h5.h5")
        assert_same(back, replace(bag, encoder="another", quality={}))


class TestIn:
    def test_trident_says_all_but_resolution_and_encoder(self, tmp_path):
        facts = replace(SLIDE, encoder="uni_v1")
        bag = import_bag(like_trident(tmp_path / "case-17.h5"), facts=facts)
        np.testing.assert_array_equal(bag.coords_px, XY[:, ::-1])
        np.testing.assert_array_equal(bag.features, FEATURES)
        assert (bag.id, bag.encoder, bag.tile_px) == ("case-17", "uni_v1", 512)
        assert (bag.footprint_px, bag.mpp, bag.slide_px) == ((1024, 1024), 0.5, (60_000, 80_000))

    @pytest.mark.parametrize("shape", [(1, 12, 5), (12, 5)])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_shapes_and_types_that_are_about(self, tmp_path, shape, dtype):
        path = like_trident(tmp_path / "a.h5", FEATURES.astype(dtype).reshape(shape))
        bag = import_bag(path, facts=replace(SLIDE, encoder="e"))
        assert bag.features.dtype == np.float32
        np.testing.assert_array_equal(bag.features, FEATURES.astype(dtype).astype(np.float32))

    def test_an_encoder_that_shrank_its_tiles_saw_a_coarser_resolution(self, tmp_path):
        facts = replace(SLIDE, encoder="uni_v1", tile_px=448)
        bag = import_bag(like_trident(tmp_path / "a.h5"), facts=facts)
        assert (bag.tile_px, bag.mpp) == (448, pytest.approx(0.5 * 512 / 448))

    def test_the_tiles_resolution_tells_the_slide_s(self, tmp_path):
        facts = Facts(encoder="e", mpp=0.5)
        assert import_bag(like_trident(tmp_path / "a.h5"), facts=facts).slide_mpp == (0.25, 0.25)

    def test_clam_s_levels_are_level_0_after_all(self, tmp_path):
        features, coords = like_clam(tmp_path)
        bag = import_bag(features, facts=replace(SLIDE, encoder="resnet50"), coords=coords)
        assert (bag.footprint_px, bag.tile_px, bag.mpp) == ((1024, 1024), 256, 1.0)
        np.testing.assert_array_equal(bag.coords_px, XY[:, ::-1])

    def test_a_bare_clam_file_needs_only_options(self, tmp_path):
        features, _ = like_clam(tmp_path)
        facts = replace(SLIDE, encoder="resnet50", tile_px=256, mpp=1.0)
        assert import_bag(features, facts=facts).footprint_px == (1024, 1024)

    @pytest.mark.parametrize("old", [False, True])
    def test_stamp_of_either_layout(self, tmp_path, old):
        changes = {"tile_size": 256.0, "tile_size_um": None} if old else {}
        bag = import_bag(like_stamp(tmp_path / "case-17.h5", **changes), facts=SLIDE)
        np.testing.assert_array_equal(bag.coords_px, XY[:, ::-1])
        assert (bag.encoder, bag.tile_px, bag.footprint_px) == ("uni2", 224, (1024, 1024))
        assert bag.mpp == pytest.approx(256 / 224)
        np.testing.assert_array_equal(bag.features, FEATURES.astype(np.float16))


class TestNothingIsGuessed:
    @pytest.mark.parametrize(
        ("facts", "changes", "says"),
        [
            (Facts(encoder="e"), {}, "--slide-mpp"),
            (SLIDE, {}, "--encoder"),
            (replace(SLIDE, encoder="e"), {"patch_size": None}, "--tile-px"),
            (Facts(encoder="e", mpp=0.5), {"level0_width": None}, "--slides"),
            (
                replace(SLIDE, encoder="e", tile_px=512),
                {"patch_size_level0": None, "patch_size": None},
                "--mpp",
            ),
        ],
    )
    def test_what_trident_s_file_lacks_is_asked_for(self, tmp_path, facts, changes, says):
        path = like_trident(tmp_path / "a.h5", **changes)
        with pytest.raises(NoResolution, match=says):
            import_bag(path, facts=facts)

    @pytest.mark.parametrize(
        ("facts", "changes", "says"),
        [
            (Facts(slide_px=(9, 9)), {}, "--slide-mpp"),
            (Facts(slide_mpp=(0.25, 0.25)), {}, "--slides"),
            (SLIDE, {"tile_size_px": None}, "--tile-px"),
            (SLIDE, {"extractor": None}, "--encoder"),
            (SLIDE, {"tile_size_um": None, "unit": None}, "STAMP 1"),
        ],
    )
    def test_what_stamp_s_file_lacks_is_asked_for(self, tmp_path, facts, changes, says):
        with pytest.raises(NoResolution, match=says):
            import_bag(like_stamp(tmp_path / "a.h5", **changes), facts=facts)

    def test_contradictions_are_refused(self, tmp_path):
        path = like_trident(tmp_path / "a.h5")
        with pytest.raises(BadResolution, match="µm/px"):
            import_bag(path, facts=replace(SLIDE, encoder="e", mpp=1.0))
        with pytest.raises(BadResolution, match="level 0"):
            import_bag(path, facts=replace(SLIDE, encoder="e", slide_px=(80_000, 60_000)))
        with pytest.raises(BadResolution, match="across"):
            import_bag(path, facts=replace(SLIDE, encoder="e", slide_mpp=(0.25, 0.5)))
        with pytest.raises(BadResolution, match="tiles"):
            import_bag(like_stamp(tmp_path / "b.h5"), facts=replace(SLIDE, mpp=0.5))

    def test_tiles_of_another_slide_are_refused(self, tmp_path):
        facts = replace(SLIDE, encoder="e", slide_px=(60_000, 5_000))
        path = like_trident(tmp_path / "a.h5", level0_width=5_000)
        with pytest.raises(BadGeometry, match="7 of 12"):
            import_bag(path, facts=facts)

    def test_coordinates_of_another_run_are_refused(self, tmp_path):
        features, coords = like_clam(tmp_path)
        with h5py.File(coords, "a") as file:
            file["coords"][0, 0] += 1
        with pytest.raises(BadProduct, match="one run"):
            import_bag(features, facts=replace(SLIDE, encoder="e"), coords=coords)
        export_pt(
            replace(a_bag(), features=FEATURES[:3], coords_px=XY[:3], quality={}), tmp_path / "b.pt"
        )
        with pytest.raises(BadProduct, match="3 tiles"):
            import_bag(tmp_path / "b.pt", facts=replace(SLIDE, encoder="e"), coords=coords)
        with pytest.raises(BadProduct, match="--coords"):
            import_bag(tmp_path / "b.pt", facts=replace(SLIDE, encoder="e"))


class TestDamage:
    @pytest.mark.parametrize("make", [like_trident, like_stamp])
    def test_truncated_files_are_named(self, tmp_path, make):
        good = make(tmp_path / "good.h5").read_bytes()
        for length in [0, 1, 7, 8, 100, *range(512, len(good), max(1, len(good) // 40))]:
            (tmp_path / "bad.h5").write_bytes(good[:length])
            with pytest.raises(MicrotomeError, match=r"bad\.h5"):
                import_bag(tmp_path / "bad.h5", facts=replace(SLIDE, encoder="e"))

    @pytest.mark.parametrize("make", [like_trident, like_stamp])
    def test_files_that_end_in_zeros_are_named_or_whole(self, tmp_path, make):
        """What a copy leaves that reserved its room and was cut off."""
        good = make(tmp_path / "good.h5").read_bytes()
        facts, named = replace(SLIDE, encoder="e"), 0
        for length in range(0, len(good), max(1, len(good) // 40)):
            (tmp_path / "bad.h5").write_bytes(good[:length].ljust(len(good), b"\0"))
            try:
                bag = import_bag(tmp_path / "bad.h5", facts=facts)
                assert (len(bag), bag.tile_px) in ((12, 512), (12, 224))
            except MicrotomeError:
                named += 1
        assert named >= 10

    def test_tensors_that_are_none_are_named(self, tmp_path):
        class Harm:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        (tmp_path / "harm.pt").write_bytes(pickle.dumps(Harm(), protocol=2))
        buffer = io.BytesIO()
        torch.save(torch.ones(40, 3), buffer)
        (tmp_path / "half.pt").write_bytes(buffer.getvalue()[:300])
        (tmp_path / "text.pt").write_text("no tensor")
        (tmp_path / "empty.pt").touch()
        for name in ("harm", "half", "text", "empty"):
            with pytest.raises(UnreadableFile, match=name):
                import_bag(tmp_path / f"{name}.pt", facts=SLIDE)
        assert not (tmp_path / "ran").exists()
        torch.save({"features": torch.ones(2, 3)}, tmp_path / "dict.pt")
        torch.save(torch.ones(2, dtype=torch.int64), tmp_path / "whole.pt")
        for name, says in (("dict", "not a tensor"), ("whole", "floats")):
            with pytest.raises(BadProduct, match=says):
                import_bag(tmp_path / f"{name}.pt", facts=SLIDE)
        with pytest.raises(MissingFile):
            import_bag(tmp_path / "absent.pt")

    def test_files_of_something_else_are_named(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["imgs"] = np.zeros((2, 3))
        with pytest.raises(BadProduct, match="imgs"):
            import_bag(tmp_path / "a.h5")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["features"] = np.array([b"text"])
        with pytest.raises(BadProduct, match="numbers"):
            import_bag(tmp_path / "b.h5")
        path = like_trident(tmp_path / "c.h5", patch_size="large")
        with pytest.raises(BadProduct, match="patch_size"):
            import_bag(path, facts=SLIDE)
        with pytest.raises(MissingFile):
            import_bag(tmp_path / "absent.h5")

    def test_a_header_that_claims_the_impossible_allocates_nothing(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("features", (10**9, 1000), np.float32, chunks=(10**4, 1000))
        with pytest.raises(UnreadableFile, match="claims"):
            import_bag(tmp_path / "a.h5")

    def test_coordinates_beyond_any_slide_are_named(self, tmp_path):
        path = like_trident(tmp_path / "a.h5")
        with h5py.File(path, "a") as file:
            file["coords"][0, 0] = 2**40
        with pytest.raises(BadGeometry, match="any slide"):
            import_bag(path, facts=replace(SLIDE, encoder="e"))

    def test_our_own_attribute_damaged_is_named(self, tmp_path):
        export_clam(a_bag(), tmp_path / "a.h5")
        for text in ("", "{}", "[1]", json.dumps({"id": 1})):
            with h5py.File(tmp_path / "a.h5", "a") as file:
                file["coords"].attrs["microtome"] = text
            with pytest.raises(BadProduct, match="damaged"):
                import_bag(tmp_path / "a.h5")


def test_records_tell_of_bags_without_reading_them(tmp_path: Path) -> None:
    write_bag(tmp_path / "b.bag.zarr", a_bag(), key="k2")
    write_bag(tmp_path / "a.bag.zarr", replace(a_bag(), encoder="e@1"), key="k1")
    for chunk in tmp_path.glob("*/features/c/*/*"):
        chunk.unlink()
    (tmp_path / "c.bag.zarr").mkdir()
    (tmp_path / "d.bag.zarr").mkdir()
    (tmp_path / "d.bag.zarr" / "commit.json").write_text("{")
    a, b, c, d = list_records(tmp_path)
    assert (a.id, a.encoder, a.key, a.problem) == ("a", "e@1", "k1", "")
    assert (b.tiles, b.dim, b.mpp, b.tile_px, b.corrupt_tiles) == (12, 5, 0.5, 512, 3)
    assert "not a finished bag" in c.problem
    assert "damaged" in d.problem
    with pytest.raises(MissingFile):
        list_records(tmp_path / "absent")


def test_bags_are_named_or_in_folders_that_are(tmp_path: Path) -> None:
    for name in ("one/a", "one/b", "two/a"):
        write_bag(tmp_path / f"{name}.bag.zarr", a_bag(), key="k")
    one, other = tmp_path / "one", tmp_path / "two" / "a.bag.zarr"
    assert [path.name for path in bags_in([one])] == ["a.bag.zarr", "b.bag.zarr"]
    assert bags_in([other, other]) == [other]
    with pytest.raises(CohortError, match="two bags of one id"):
        bags_in([one, other])
    with pytest.raises(MissingFile):
        bags_in([tmp_path])
