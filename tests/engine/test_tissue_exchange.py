"""Tissue masks to QuPath and back, and as a label in the slide's OME-Zarr."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image, ImageLabel
from shapely.geometry import mapping, shape
from skimage.measure import label as label_pieces

from microtome.engine.ingest import ingest_slide
from microtome.engine.schedule import Skipped
from microtome.engine.slides import SlideInfo, open_slide
from microtome.engine.slides.base import Bounds
from microtome.engine.tissue import (
    LABELS,
    TissueMask,
    annotations_of,
    blank_mask,
    find_tissue,
    import_tissue,
    make_tissue,
    mask_from_annotations,
    read_tissue,
    tissue_annotations,
    tissue_key,
    write_slide_label,
    write_tissue_annotations,
)
from microtome.engine.tissue.exchange import AREA, tissue_frame
from microtome.storage.annotations import read_annotations
from microtome.storage.commit import file_identity, read_commit
from microtome.storage.errors import (
    BadGeometry,
    BadProduct,
    CohortError,
    LabelError,
    MissingFile,
    NoTissue,
    StaleProduct,
)
from microtome.storage.qupath import Annotation, PathClass
from microtome.storage.qupath_check import check_geojson, read_features, read_metadata

SVS = "slides/aperio/CMU-1-Small-Region.svs"
DOWN, MPP = (16.1, 15.9), (8.05, 7.95)


@pytest.fixture(scope="module")
def info(shared_data) -> SlideInfo:
    with open_slide(shared_data / SVS) as slide:
        return slide.info


@pytest.fixture(scope="module")
def ingested(shared_data, tmp_path_factory) -> Path:
    """A real slide as OME-Zarr; tests work on copies."""
    folder = tmp_path_factory.mktemp("zarr")
    ingest_slide(shared_data / SVS, folder, name="skin")
    return folder / "skin.ome.zarr"


def slide_of(info: SlideInfo, mask: TissueMask, bounds: Bounds | None = None) -> SlideInfo:
    """A slide that the mask covers."""
    height, width = (round(n * d) for n, d in zip(mask.labels.shape, mask.downsample, strict=True))
    level = replace(info.levels[0], height_px=height, width_px=width)
    return replace(info, levels=(level,), bounds=bounds)


def random_mask(seed: int, height: int, width: int, share: float) -> TissueMask:
    """Labels pixel by pixel: pieces with holes, touching in corners, of one pixel."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 7, (height, width)) * (rng.random((height, width)) < share)
    labels[rng.integers(height), rng.integers(width)] = 1
    return TissueMask(labels.astype(np.uint8), DOWN, MPP)


MASKS = st.builds(
    random_mask,
    st.integers(0, 2**32 - 1),
    st.integers(1, 24),
    st.integers(1, 24),
    st.floats(0.05, 1.0),
)


class TestToQuPath:
    @settings(max_examples=25, deadline=None)
    @given(mask=MASKS)
    def test_areas_are_those_of_the_pixels_and_every_piece_is_one(self, mask):
        annotations = tissue_annotations(mask)
        for value, style in LABELS.items():
            name = "Tissue" if value == 1 else f"Artefact: {style.name}"
            mine = [a for a in annotations if a.path_class == PathClass(name, style.colour)]
            pixels = mask.labels == value
            assert len(mine) == label_pieces(pixels, connectivity=1).max()
            area_px = sum(a.geometry.area for a in mine)
            assert area_px == pytest.approx(pixels.sum() * DOWN[0] * DOWN[1], rel=1e-9)
            area_mm2 = sum(a.measurements[AREA] for a in mine)
            assert area_mm2 == pytest.approx(pixels.sum() * MPP[0] * MPP[1] / 1e6, rel=1e-9)

    @settings(max_examples=25, deadline=None)
    @given(mask=MASKS)
    def test_qupath_imports_every_feature_of_the_file(self, info, tmp_path_factory, mask):
        path = tmp_path_factory.mktemp("q") / "a.tissue.geojson"
        written = write_tissue_annotations(mask, slide_of(info, mask), path)
        assert check_geojson(path) == []
        assert written.objects == len(read_features(path)) == len(tissue_annotations(mask))

    def test_a_hole_is_a_hole_and_an_artefact_makes_one(self, info, tmp_path):
        labels = np.zeros((20, 20), np.uint8)
        labels[2:18, 2:18] = 1
        labels[5:8, 5:8] = 0
        labels[10:12, 10:12] = 2
        mask = TissueMask(labels, DOWN, MPP)
        write_tissue_annotations(mask, slide_of(info, mask), tmp_path / "a.geojson")
        tissue, pen = read_features(tmp_path / "a.geojson")
        assert tissue["properties"]["classification"]["name"] == "Tissue"
        assert pen["properties"]["classification"]["name"] == "Artefact: pen"
        assert len(shape(tissue["geometry"]).interiors) == 2
        assert tissue["properties"]["objectType"] == "annotation"


class TestBack:
    @settings(max_examples=40, deadline=None)
    @given(mask=MASKS)
    def test_a_mask_comes_back_bit_for_bit(self, mask):
        like = TissueMask(np.zeros_like(mask.labels), DOWN, MPP)
        back = mask_from_annotations(tissue_annotations(mask), like)
        assert np.array_equal(back.labels, mask.labels)
        assert (back.downsample, back.mpp) == (mask.downsample, mask.mpp)

    @settings(max_examples=40, deadline=None)
    @given(mask=MASKS, data=st.data(), crop=st.booleans())
    def test_so_it_does_through_a_file_of_a_slide_with_bounds(
        self, info, tmp_path_factory, mask, data, crop
    ):
        plain = slide_of(info, mask)
        y = data.draw(st.integers(0, plain.height_px // 2))
        x = data.draw(st.integers(0, plain.width_px // 2))
        height = data.draw(st.integers(1, plain.height_px - y))
        width = data.draw(st.integers(1, plain.width_px - x))
        slide = slide_of(info, mask, Bounds(y, x, height, width))
        path = tmp_path_factory.mktemp("b") / "a.tissue.geojson"
        write_tissue_annotations(mask, slide, path, crop=crop)
        # As QuPath gives it back: features alone, nothing that says where the origin is.
        path.write_text(json.dumps(read_features(path)))
        found = read_annotations(path, frame=tissue_frame(slide, crop=crop))
        assert found.problems == ()
        rows, columns = (
            (np.arange(n) + 0.5) * d for n, d in zip(mask.labels.shape, DOWN, strict=True)
        )
        shown = np.ones(mask.labels.shape, bool)
        if crop:
            shown = ((y <= rows) & (rows < y + height))[:, None] & (x <= columns)
            shown = shown & (columns < x + width)
        wanted = np.where(shown, mask.labels, 0)
        if not (wanted == 1).any():
            return
        back = mask_from_annotations(found.annotations, mask)
        assert np.array_equal(back.labels, wanted)

    def test_the_centre_of_a_pixel_decides(self):
        like = TissueMask(np.zeros((4, 4), np.uint8), (10.0, 10.0), (5.0, 5.0))
        just = Annotation(shapely.box(14.9, 4.9, 30, 15.1), PathClass("Tissue", None))
        short = Annotation(shapely.box(15.1, 24.9, 30, 30), PathClass("tissue", None))
        back = mask_from_annotations([just, short], like)
        assert back.labels.tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]

    def test_artefacts_override_tissue_and_the_later_one_the_earlier(self):
        like = TissueMask(np.zeros((3, 9), np.uint8), (1.0, 1.0), (1.0, 1.0))
        drawn = [("Artefact: pen", 0, 4), ("Artefact: fold", 3, 6), ("Tissue", 0, 9)]
        annotations = [
            Annotation(shapely.box(left, 0, right, 3), PathClass(name, None))
            for name, left, right in drawn
        ]
        assert mask_from_annotations(annotations, like).labels[1].tolist() == [
            2, 2, 2, 3, 3, 3, 1, 1, 1,
        ]  # fmt: skip

    def test_no_label_is_guessed(self):
        like = TissueMask(np.zeros((3, 3), np.uint8), (1.0, 1.0), (1.0, 1.0))
        box = shapely.box(0, 0, 3, 3)
        annotations = [
            Annotation(box, PathClass("Tissue", None)),
            Annotation(box, PathClass("Tumor", None)),
            Annotation(box),
        ]
        with pytest.raises(LabelError, match=r"known: Tumor, Unclassified.*--class"):
            mask_from_annotations(annotations, like)
        some = {"tumor": "fold", "Unclassified": "ignore"}
        assert (mask_from_annotations(annotations[1:] + annotations[:1], like, classes={
            "Tumor": "tissue", "unclassified": "ignore",
        }).labels == 1).all()  # fmt: skip
        with pytest.raises(NoTissue):
            mask_from_annotations(annotations, like, classes=some)
        with pytest.raises(LabelError, match="'tumour', which is no label"):
            mask_from_annotations(annotations, like, classes={"Tumor": "tumour"})


class TestProducts:
    def test_the_blank_mask_has_the_pixels_of_the_found_one(self, shared_data):
        for name, mpp in ((SVS, 8.0), ("slides/derived/CMU-1-Small-Region.ome.tif", 5.3)):
            with open_slide(shared_data / name) as slide:
                found, blank = find_tissue(slide, mpp=mpp), blank_mask(slide.info, mpp=mpp)
            assert blank.labels.shape == found.labels.shape
            assert (blank.downsample, blank.mpp) == (found.downsample, found.mpp)
            assert not blank.labels.any()

    def test_a_real_mask_survives_the_loop_and_says_that_a_person_had_it(
        self, shared_data, tmp_path
    ):
        made = make_tissue(shared_data / SVS, tmp_path / "a.tissue.zarr")
        drawn = tmp_path / "a.tissue.geojson"
        assert check_geojson(drawn) == []
        assert read_metadata(drawn)["slide"] == "CMU-1-Small-Region"
        back = import_tissue(shared_data / SVS, drawn, tmp_path / "back.tissue.zarr")
        ours, theirs = read_tissue(made.path), read_tissue(back.path)
        assert np.array_equal(ours.labels, theirs.labels)
        assert (ours.downsample, ours.mpp) == (theirs.downsample, theirs.mpp)
        record = read_commit(back.path)
        assert record.kind == read_commit(made.path).kind
        assert record.key != read_commit(made.path).key
        assert record.about["source"] == "annotations"
        assert (tmp_path / "back.tissue.zarr.png").is_file()
        again = import_tissue(shared_data / SVS, drawn, tmp_path / "back.tissue.zarr")
        assert isinstance(again, Skipped)

    def test_what_was_cut_away_is_gone_and_nothing_else(self, shared_data, tmp_path):
        make_tissue(shared_data / SVS, tmp_path / "a.tissue.zarr")
        features = read_features(tmp_path / "a.tissue.geojson")
        cut = shapely.box(0, 0, 1300, 1500)
        for feature in features:
            feature["geometry"] = mapping(shape(feature["geometry"]) - cut)
        (tmp_path / "edited.geojson").write_text(json.dumps(features))
        made = import_tissue(
            shared_data / SVS, tmp_path / "edited.geojson", tmp_path / "b.tissue.zarr"
        )
        before, after = read_tissue(tmp_path / "a.tissue.zarr"), read_tissue(made.path)
        rows, columns = (
            (np.arange(n) + 0.5) * d
            for n, d in zip(before.labels.shape, before.downsample, strict=True)
        )
        gone = (rows < 1500)[:, None] & (columns < 1300)
        assert (before.tissue & gone).any()
        assert np.array_equal(after.tissue, before.tissue & ~gone)

    def test_another_edit_is_another_product(self, shared_data, tmp_path):
        box = {"type": "Polygon", "coordinates": [[[0, 0], [999, 0], [999, 999], [0, 0]]]}
        feature = {"type": "Feature", "geometry": box, "properties": {"classification": "Tissue"}}
        edited, path = tmp_path / "e.geojson", tmp_path / "a.tissue.zarr"
        edited.write_text(json.dumps([feature]))
        import_tissue(shared_data / SVS, edited, path)
        edited.write_text(json.dumps([feature | {"id": "x"}]))
        with pytest.raises(StaleProduct):
            import_tissue(shared_data / SVS, edited, path)
        with pytest.raises(StaleProduct):
            make_tissue(shared_data / SVS, path)
        point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
        edited.write_text(json.dumps([feature, point]))
        made = import_tissue(shared_data / SVS, edited, path, overwrite=True)
        assert "feature 1" in made.warning
        assert import_tissue(shared_data / SVS, edited, path).value.warning == made.warning

    def test_what_someone_edited_in_place_is_never_overwritten(self, shared_data, tmp_path):
        make_tissue(shared_data / SVS, tmp_path / "a.tissue.zarr")
        drawn = tmp_path / "a.tissue.geojson"
        drawn.write_text(json.dumps(read_features(drawn)))
        edited = drawn.read_bytes()
        with pytest.raises(StaleProduct, match="edited"):
            make_tissue(shared_data / SVS, tmp_path / "a.tissue.zarr", mpp=10.0, overwrite=True)
        assert drawn.read_bytes() == edited

    def test_errors_name_the_file(self, shared_data, tmp_path):
        edited = tmp_path / "e.geojson"
        for classification in ("Tumor", "Artefact: pen"):
            box = {"type": "Polygon", "coordinates": [[[0, 0], [999, 0], [999, 999], [0, 0]]]}
            properties = {"classification": classification}
            edited.write_text(json.dumps([{"geometry": box, "properties": properties}]))
            with pytest.raises((LabelError, NoTissue), match=r"e\.geojson"):
                import_tissue(shared_data / SVS, edited, tmp_path / "a.tissue.zarr")


class TestFilesOfSlides:
    def test_a_file_is_taken_as_it_is_and_in_a_folder_by_the_name(self, tmp_path):
        assert annotations_of(tmp_path / "x.geojson", "a") == tmp_path / "x.geojson"
        for name in ("a.geojson", "b.tissue.geojson", "c.geojson.gz", "ab.geojson"):
            (tmp_path / name).touch()
        assert annotations_of(tmp_path, "a").name == "a.geojson"
        assert annotations_of(tmp_path, "b").name == "b.tissue.geojson"
        assert annotations_of(tmp_path, "c").name == "c.geojson.gz"

    def test_none_and_two_are_errors(self, tmp_path):
        with pytest.raises(MissingFile, match=r"a\.geojson"):
            annotations_of(tmp_path, "a")
        (tmp_path / "a.geojson").touch()
        (tmp_path / "a.tissue.geojson").touch()
        with pytest.raises(CohortError, match=r"a\.tissue\.geojson"):
            annotations_of(tmp_path, "a")


def copy_of(image: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-r", str(image), str(folder)], check=True)
    return folder / image.name


class TestLabelOfTheSlide:
    @pytest.fixture
    def image(self, ingested, tmp_path) -> Path:
        return copy_of(ingested, tmp_path)

    def test_it_is_valid_and_lies_where_the_image_does(self, image, tmp_path):
        make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        yaozarrs.validate_zarr_store(image)
        whole = Image.from_zarr(zarr.open_group(image, mode="r"))
        ours = ImageLabel.from_zarr(zarr.open_group(image / "labels" / "tissue", mode="r"))
        assert whole.labels is not None
        assert whole.labels.attributes.ome.labels == ["tissue"]
        image_levels = whole.ome_attributes.multiscales[0].datasets
        levels = ours.ome_attributes.multiscales[0].datasets
        assert len(levels) == len(image_levels)
        assert ours.ome_attributes.image_label.source.image == "../../"
        mask = read_tissue(tmp_path / "a.tissue.zarr")
        mpp = image_levels[0].coordinateTransformations[0].scale[1:]
        for number, level in enumerate(levels):
            scale, move = (t for t in level.coordinateTransformations)
            labels = zarr.open_array(image / "labels" / "tissue" / str(number), mode="r")[...]
            assert set(np.unique(labels)) <= set(np.unique(mask.labels))
            for axis in (0, 1):
                down = mask.downsample[axis] * 2**number
                assert scale.scale[axis] == pytest.approx(down * mpp[axis], rel=1e-12)
                # The first pixel's corner is the corner of the image's first pixel.
                corner = move.translation[axis] - scale.scale[axis] / 2
                assert corner == pytest.approx(-mpp[axis] / 2, rel=1e-9)
                covered = labels.shape[axis] * down
                assert 0 <= covered - mask.labels.shape[axis] * mask.downsample[axis] < down

    def test_levels_take_every_other_pixel(self, image):
        stored_px = zarr.open_array(image / "0", mode="r").shape[1:]
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 3, (stored_px[0] // 16, stored_px[1] // 16)).astype(np.uint8)
        down = tuple(px / n for px, n in zip(stored_px, labels.shape, strict=True))
        write_slide_label(image, TissueMask(labels, down, (8.0, 8.0)), key="k")
        group = zarr.open_group(image / "labels" / "tissue", mode="r")
        for level in range(len(group)):
            assert np.array_equal(group[str(level)][...], labels[:: 2**level, :: 2**level])

    def test_the_image_beside_it_is_untouched_and_stays_the_same_slide(self, image, tmp_path):
        before = {p: p.read_bytes() for p in image.rglob("*") if p.is_file()}
        identity = file_identity(image)
        with open_slide(image) as slide:
            key = tissue_key(slide)
        make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        assert {p: p.read_bytes() for p in before} == before
        assert file_identity(image) == identity
        with open_slide(image) as slide:
            assert tissue_key(slide) == key
        assert isinstance(make_tissue(image, tmp_path / "a.tissue.zarr", into=image), Skipped)

    def test_it_is_read_back_from_the_slide(self, image, tmp_path):
        make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        inside, beside = read_tissue(image), read_tissue(tmp_path / "a.tissue.zarr")
        assert np.array_equal(inside.labels, beside.labels)
        assert (inside.downsample, inside.mpp) == (beside.downsample, beside.mpp)
        with pytest.raises(BadProduct, match="slide image"):
            read_tissue(copy_without_labels(image, tmp_path))

    def test_a_mask_that_is_there_is_put_in_later(self, image, tmp_path):
        make_tissue(image, tmp_path / "a.tissue.zarr")
        assert not (image / "labels").exists()
        put = make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        assert not isinstance(put, Skipped)
        assert np.array_equal(read_tissue(image).labels, read_tissue(put.path).labels)

    def test_other_labels_stay_listed(self, image, tmp_path):
        nuclei = {"ome": {"version": "0.5", "labels": ["nuclei"]}}
        zarr.open_group(image / "labels", mode="w", zarr_format=3, attributes=nuclei)
        make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        group = zarr.open_group(image / "labels", mode="r")
        assert group.attrs["ome"]["labels"] == ["nuclei", "tissue"]

    @pytest.mark.parametrize("text", ["{", "{}", "[]"])
    def test_a_damaged_list_of_labels_is_named_and_left(self, image, tmp_path, text):
        (image / "labels").mkdir()
        (image / "labels" / "zarr.json").write_text(text)
        with pytest.raises(BadProduct, match=r"labels/zarr\.json"):
            make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        assert [p.name for p in (image / "labels").iterdir()] == ["zarr.json"]
        assert (image / "labels" / "zarr.json").read_text() == text

    def test_an_edited_mask_takes_its_place_only_when_asked(self, image, tmp_path):
        make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        drawn = tmp_path / "a.tissue.geojson"
        with pytest.raises(StaleProduct):
            import_tissue(image, drawn, tmp_path / "b.tissue.zarr", into=image)
        assert not (tmp_path / "b.tissue.zarr").exists()
        import_tissue(image, drawn, tmp_path / "b.tissue.zarr", into=image, overwrite=True)
        record = read_commit(image / "labels" / "tissue")
        assert record.about["source"] == "annotations"
        yaozarrs.validate_zarr_store(image)

    def test_a_mask_of_another_slide_is_refused(self, image):
        mask = TissueMask(np.ones((9, 9), np.uint8), (16.0, 16.0), (8.0, 8.0))
        with pytest.raises(BadGeometry, match="144 x 144"):
            write_slide_label(image, mask, key="k")
        assert not (image / "labels").exists()

    def test_what_is_no_slide_of_ours_is_refused_before_any_work(self, shared_data, tmp_path):
        with pytest.raises(MissingFile):
            make_tissue(
                shared_data / SVS, tmp_path / "a.tissue.zarr", into=tmp_path / "no.ome.zarr"
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_kill_while_it_is_written_leaves_a_slide_that_is_whole(self, image, tmp_path):
        script = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "import numpy as np\n"
            "from microtome.engine.tissue import TissueMask, write_slide_label, store\n"
            "write = store.write_label\n"
            "def killed(*arguments):\n"
            "    write(*arguments)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "store.write_label = killed\n"
            "image, y, x = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])\n"
            "mask = TissueMask(np.ones((y // 10, x // 10), np.uint8), (10., 10.), (5., 5.))\n"
            "write_slide_label(image, mask, key='k')\n"
        )
        y, x = zarr.open_array(image / "0", mode="r").shape[1:]
        command = [sys.executable, "-c", script, str(image), str(y), str(x)]
        assert subprocess.run(command, check=False).returncode == -9
        assert not (image / "labels" / "tissue").exists()
        with open_slide(image) as slide:
            assert slide.info.backend == "ome-zarr"
        make_tissue(image, tmp_path / "a.tissue.zarr", into=image)
        yaozarrs.validate_zarr_store(image)
        assert sorted(p.name for p in (image / "labels").iterdir()) == ["tissue", "zarr.json"]


def copy_without_labels(image: Path, folder: Path) -> Path:
    (folder / "bare").mkdir()
    bare = copy_of(image, folder / "bare")
    subprocess.run(["rm", "-r", str(bare / "labels")], check=True)
    return bare
