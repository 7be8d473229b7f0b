"""What goes in comes out, pixel for pixel and bit for bit."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import openslide
import pytest
import tifffile
import yaozarrs
import zarr
from nibabel.orientations import io_orientation, ornt_transform
from ome_zarr_models.v05 import Image
from products import done, files_of

from microtome.engine.ingest import ingest_slide, ingest_volume, product_id
from microtome.engine.schedule import Skipped
from microtome.engine.slides import Slide, open_slide
from microtome.engine.volumes import export_nifti, open_volume
from microtome.storage.commit import RECORD, claim
from microtome.storage.errors import (
    BadProduct,
    InputError,
    OutputBusy,
    StaleProduct,
)
from microtome.storage.stored_slides import open_stored_slide

SVS = "slides/aperio/CMU-1-Small-Region.svs"


pytestmark = pytest.mark.usefixtures("reproducible")


# --- slides


@pytest.mark.parametrize("profile", ["archive", "compatible"])
def test_a_real_slide_keeps_its_pixels_place_and_size(
    shared_data: Path, tmp_path: Path, profile: str
) -> None:
    made = done(ingest_slide(shared_data / SVS, tmp_path, profile=profile))
    group = zarr.open_group(made.path, mode="r")
    with openslide.OpenSlide(shared_data / SVS) as original:
        size = original.dimensions
        expected = np.asarray(original.read_region((0, 0), 0, size).convert("RGB"))
        mpp = float(original.properties["openslide.mpp-y"])
    # Two JPEG decoders may differ by a rounding.
    here = group["0"][...].transpose(1, 2, 0)
    assert here.shape == expected.shape
    assert np.abs(here.astype(int) - expected).max() <= 2
    image = Image.from_zarr(group)
    (scale, *_) = image.attributes.ome.multiscales[0].datasets[0].coordinateTransformations
    assert scale.scale == [1.0, mpp, mpp]
    yaozarrs.validate_zarr_store(made.path)
    assert made.pixels == size[0] * size[1]


def test_a_lossless_slide_comes_back_exactly(slide: Path, undisturbed: Path) -> None:
    expected = tifffile.imread(slide)
    zarrs = zarr.open_group(undisturbed, mode="r")
    np.testing.assert_array_equal(zarrs["0"][...].transpose(1, 2, 0), expected)
    stored = open_stored_slide(undisturbed)
    assert stored.mpp == (0.5, 0.5)
    top, left = 2040, 4090
    part = stored.read(0, top, left, 300, 400)
    np.testing.assert_array_equal(part, expected[top : top + 300, left : left + 400])


@pytest.mark.parametrize("name", ["slides/synthetic/boxes.tiff", "slides/plain/kidney-48-5.tif"])
def test_other_slides_equal_another_reader(shared_data: Path, tmp_path: Path, name: str) -> None:
    made = done(ingest_slide(shared_data / name, tmp_path, mpp=0.5))
    expected = tifffile.imread(shared_data / name, key=0)
    here = zarr.open_group(made.path, mode="r")["0"][...].transpose(1, 2, 0)
    assert np.abs(here.astype(int) - expected[..., :3]).max() <= 2


def test_an_ingested_slide_is_a_slide_again(shared_data: Path, tmp_path: Path) -> None:
    made = done(ingest_slide(shared_data / SVS, tmp_path, profile="compatible"))
    with open_slide(shared_data / SVS) as before, open_slide(made.path) as after:
        assert isinstance(after, Slide)
        assert (after.info.backend, after.info.vendor) == ("ome-zarr", before.info.vendor)
        assert after.info.mpp == before.info.mpp
        assert after.info.objective_power == before.info.objective_power
        box = (0, 700, 300, 900, 1100)
        np.testing.assert_array_equal(after.read(*box), before.read(*box))
        for level, found in enumerate(after.info.levels):
            assert found.downsample_y == found.downsample_x == 2**level
            last = (found.height_px - 1, found.width_px - 1)
            assert after.read(level, *last, 1, 1).shape == (1, 1, 3)
        with pytest.raises(ValueError, match="leaves level 1"):
            after.read(1, 0, 0, 1485, 1)
        with pytest.raises(KeyError):
            after.associated_image("label")
    with open_slide(made.path, mpp=0.3) as told:
        assert (told.info.mpp, told.info.mpp_source) == ((0.3, 0.3), "--slide-mpp")
    metadata = json.loads((made.path / "zarr.json").read_text())
    del metadata["attributes"]["microtome"]["bounds_px"]
    (made.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(BadProduct, match="bounds_px"):
        open_slide(made.path)


@pytest.mark.parametrize(
    "name", ["broken.svs", "broken-html.svs", "unreadable.svs", "unopenable.tiff"]
)
def test_a_bad_slide_is_refused_and_leaves_nothing(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError) as caught:
        ingest_slide(shared_data / "slides" / "bad" / name, tmp_path)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_re_encoding_with_loss_is_named_wherever_the_product_is_looked_at(
    shared_data: Path, tmp_path: Path
) -> None:
    from microtome.engine.describe import describe
    from microtome.storage.codecs import codec_named

    source, jpeg = shared_data / SVS, codec_named("jpeg", quality=70)
    made = done(ingest_slide(source, tmp_path, profile="compatible", codec=jpeg))
    found = describe(made.path)
    assert (found["about"]["lossy"], found["kind"]) == ("JPEG, quality 70", "product")
    with open_slide(made.path) as after, open_slide(source) as before:
        assert any("lossy" in note and "JPEG, quality 70" in note for note in after.info.notes)
        error = after.read(0, 0, 0, 2967, 2220).astype(float) - before.read(0, 0, 0, 2967, 2220)
    assert 30 < 10 * np.log10(255**2 / np.mean(error**2)) < 50
    group = zarr.open_group(made.path, mode="r")
    assert group.attrs["microtome"]["lossy"] == "JPEG, quality 70"
    Image.from_zarr(group)
    # Another codec is another product; so is another quality.
    for other in (None, codec_named("jpeg"), codec_named("blosc")):
        with pytest.raises(StaleProduct):
            ingest_slide(source, tmp_path, profile="compatible", codec=other)
    with pytest.raises(ValueError, match="takes no codec"):
        ingest_slide(source, tmp_path, profile="archive", codec=jpeg)


def test_what_is_done_is_skipped_and_what_differs_is_not_mixed(
    shared_data: Path, tmp_path: Path
) -> None:
    first = done(ingest_slide(shared_data / SVS, tmp_path))
    before = files_of(first.path)
    assert isinstance(ingest_slide(shared_data / SVS, tmp_path), Skipped)
    with pytest.raises(StaleProduct, match="--overwrite"):
        ingest_slide(shared_data / SVS, tmp_path, mpp=0.25)
    assert files_of(first.path) == before
    ingest_slide(shared_data / SVS, tmp_path, mpp=0.25, overwrite=True)
    assert open_stored_slide(first.path).mpp == (0.25, 0.25)


def test_another_slide_of_the_same_name_is_not_taken_for_this_one(
    shared_data: Path, tmp_path: Path
) -> None:
    ingest_slide(shared_data / SVS, tmp_path)
    with pytest.raises(StaleProduct):
        ingest_slide(
            shared_data / "slides/synthetic/boxes.tiff", tmp_path, name="CMU-1-Small-Region"
        )


def test_two_writers_of_one_image(slide: Path, tmp_path: Path) -> None:
    with claim(tmp_path / "case.ome.zarr"), pytest.raises(OutputBusy):
        ingest_slide(slide, tmp_path)


def test_progress_counts_every_pixel_once(slide: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    made = done(ingest_slide(slide, tmp_path, on_progress=lambda *step: told.append(step)))
    assert [total for _, total in told] == [made.pixels] * len(told)
    counts = [count for count, _ in told]
    assert counts == sorted(set(counts))
    assert counts[-1] == made.pixels == 6000 * 6001


def test_the_name_of_a_product() -> None:
    names = ["a.svs", "b.ome.tif", "c.nii.gz", "d.nii", "e.v2.tiff"]
    assert [product_id(Path(name)) for name in names] == ["a", "b", "c", "d", "e.v2"]


# --- scans

NIFTI = [
    "scans/nifti/spm12_PET.nii",
    "scans/nifti/spm12_single_subj_T1.nii",
    "scans/nifti/nibabel_example4d.nii.gz",
    "scans/nifti/nibabel_example_nifti2.nii.gz",
    "scans/nifti/nibabel_anatomical.nii",
    "scans/nifti/nibabel_functional.nii",
    "brain/nifti/spm_EPI.nii.gz",
    "brain/nifti/spm_PET.nii.gz",
    "brain/nifti/spm_SPECT.nii.gz",
    "brain/nifti/spm_avg152T1.nii.gz",
    "brain/nifti/spm_csf.nii.gz",
    "brain/nifti/spm_grey.nii.gz",
    "brain/nifti/spm_single_subj_T1.nii.gz",
    "brain/nifti/spm_white.nii.gz",
    "brain/atlas/labels_Neuromorphometrics.nii.gz",
]
DICOM = {
    "ct_abdomen_3slice": "reference_dcm2niix.nii.gz",
    "ct_philips_head_phantom": "reference_dcm2niix.nii.gz",
    "mr_ge_epi_4d": "reference_dcm2niix.nii",
    "mr_rle_compressed": "reference_dicom2nifti.nii.gz",
    "mr_siemens_mosaic": "reference_dcm2niix.nii",
    "mr_siemens_multiframe": "reference_dicom2nifti.nii.gz",
}


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


@pytest.mark.parametrize("name", NIFTI)
def test_nifti_comes_back_bit_for_bit(shared_data: Path, tmp_path: Path, name: str) -> None:
    made = done(ingest_volume(shared_data / name, tmp_path))
    out = tmp_path / f"back.nii{'.gz' if name.endswith('.gz') else ''}"
    export_nifti(open_volume(made.path), out)
    assert unpacked(out) == unpacked(shared_data / name)
    yaozarrs.validate_zarr_store(made.path)
    Image.from_zarr(zarr.open_group(made.path, mode="r"))


@pytest.mark.parametrize("name", DICOM)
def test_dicom_through_zarr_to_nifti_equals_another_converter(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    folder = shared_data / "scans" / name
    made = done(ingest_volume(folder / "dicom", tmp_path, name=name))
    export_nifti(open_volume(made.path), tmp_path / "back.nii")
    ours, reference = nibabel.load(tmp_path / "back.nii"), nibabel.load(folder / DICOM[name])
    turn = ornt_transform(io_orientation(reference.affine), io_orientation(ours.affine))
    turned = reference.as_reoriented(turn)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(turned.dataobj))
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n) for n in ours.shape[:3]))])
    # A qform has room for right angles only; directions rounded by the scanner are not quite so.
    for affine, bound_mm in ((ours.get_sform(), 1e-3), (ours.get_qform(), 0.02)):
        assert np.abs(corners @ (affine - turned.affine).T).max() < bound_mm
    assert ours.header.get_xyzt_units() == ("mm", "sec")
    if ours.ndim == 4:
        assert ours.header.get_zooms()[3] == pytest.approx(reference.header.get_zooms()[3])


def test_a_stored_scan_opens_as_the_scan_that_it_was(shared_data: Path, tmp_path: Path) -> None:
    for name in ("scans/nifti/nibabel_functional.nii", "scans/ct_abdomen_3slice/dicom"):
        original = open_volume(shared_data / name)
        back = open_volume(done(ingest_volume(shared_data / name, tmp_path)).path)
        assert back.stored.dtype == original.stored.dtype.newbyteorder("=")
        np.testing.assert_array_equal(np.asarray(back.data), np.asarray(original.data))
        np.testing.assert_array_equal(back.affine, original.affine)
        assert (back.modality, back.unit) == (original.modality, original.unit)
        assert back.spacing_mm == original.spacing_mm
        assert back.repetition_time_s == original.repetition_time_s
        assert dict(back.properties) == dict(original.properties)
        part = (..., slice(5, 0, -2), 3)
        np.testing.assert_array_equal(back.data[part], original.data[part])


def test_scaled_integers_stay_integers_and_time_has_its_unit(
    shared_data: Path, tmp_path: Path
) -> None:
    made = done(ingest_volume(shared_data / "scans/nifti/nibabel_functional.nii", tmp_path))
    group = zarr.open_group(made.path, mode="r")
    assert group["0"].dtype == np.int16
    (multiscale,) = Image.from_zarr(group).attributes.ome.multiscales
    assert [(a.name, a.unit) for a in multiscale.axes] == [
        ("t", "second"), ("z", "millimeter"), ("y", "millimeter"), ("x", "millimeter"),
    ]  # fmt: skip
    assert multiscale.datasets[0].coordinateTransformations[0].scale == [2.0, 8.0, 4.0, 4.0]


def nifti_of(path: Path, values: np.ndarray, **header: Any) -> Path:
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2, 3, 1]))
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def test_an_interrupted_scan_is_resumed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-900, 900, (5, 6, 600)).astype(np.int16)
    source = nifti_of(tmp_path / "long.nii", values)

    def stop(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_volume(source, tmp_path / "out", on_progress=stop)
    made = done(ingest_volume(source, tmp_path / "out"))
    assert (made.written, made.kept) == (2, 1)
    np.testing.assert_array_equal(np.asarray(open_volume(made.path).data), values.T)
    other = done(ingest_volume(source, tmp_path / "other"))
    assert files_of(other.path) == files_of(made.path)
    assert isinstance(ingest_volume(source, tmp_path / "out"), Skipped)


def test_slices_with_slopes_of_their_own_are_exported_as_they_truly_are(tmp_path: Path) -> None:
    from dataclasses import replace

    source = nifti_of(tmp_path / "a.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    slopes = np.arange(1, 6, dtype=np.float64)[:, None, None] / 4
    volume = replace(open_volume(source), slope=slopes, header=b"", modality="PT")
    export_nifti(volume, tmp_path / "b.nii")
    back = nibabel.load(tmp_path / "b.nii")
    assert back.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(back.dataobj).T, np.asarray(volume.data))


def test_a_pair_is_exported_as_one_file(tmp_path: Path) -> None:
    values = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    image = nibabel.Nifti1Pair(values, np.diag([1.0, 2, 3, 1]))
    nibabel.save(image, tmp_path / "a.hdr")
    made = done(ingest_volume(tmp_path / "a.hdr", tmp_path / "out"))
    export_nifti(open_volume(made.path), tmp_path / "b.nii")
    back = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), values)
    np.testing.assert_array_equal(back.affine, image.affine)


def test_export_refuses_what_it_would_lose(tmp_path: Path, slide: Path, undisturbed: Path) -> None:
    source = nifti_of(tmp_path / "a.nii", np.zeros((2, 3, 4), np.int16))
    before = source.read_bytes()
    with pytest.raises(StaleProduct):
        export_nifti(open_volume(source), source)
    assert source.read_bytes() == before
    with pytest.raises(ValueError, match=r"\.nii"):
        export_nifti(open_volume(source), tmp_path / "a.mgz")
    with pytest.raises(BadProduct, match="slide image, not a scan"):
        open_volume(undisturbed)


def test_a_damaged_stored_scan_is_named(tmp_path: Path) -> None:
    source = nifti_of(tmp_path / "a.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    made = done(ingest_volume(source, tmp_path / "out"))
    (shard,) = [p for p in made.path.rglob("*") if p.is_file() and p.suffix != ".json"]
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(BadProduct, match="cut off"):
        open_volume(made.path).data[...]
    metadata = json.loads((made.path / "zarr.json").read_text())
    del metadata["attributes"]["microtome"]["affine"]
    (made.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(BadProduct, match="affine"):
        open_volume(made.path)
    (made.path / RECORD).unlink()
    with pytest.raises(InputError):
        open_volume(made.path)
