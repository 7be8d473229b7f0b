"""Label, macro and properties: kept where asked, given back alike, no patient unasked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pydicom
import pytest
import tifffile
import yaozarrs
import zarr
from ome_zarr_models.v04 import Image as Image04
from ome_zarr_models.v05 import Image as Image05

from microtome.engine.extras import Extras, is_harmless
from microtome.engine.ingest import Ingested, ingest_slide
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.verify import repair_slide, verify_slide
from microtome.storage.associated import associated_paths
from microtome.storage.errors import StaleProduct

SVS = "slides/aperio/CMU-1-Small-Region.svs"
DICOM = "slides/derived/CMU-1-Small-Region_dicom_exact"
PICTURES = ("label", "macro", "thumbnail")


def texts(product: Path) -> str:
    """Everything in a product that a human could read."""
    return "\n".join(
        path.read_text(encoding="utf-8")
        for path in product.rglob("*")
        if path.is_file() and (path.suffix in (".json", ".xml") or path.name.startswith(".z"))
    )


@pytest.mark.parametrize("profile", ["archive", "compatible", "ngff04"])
def test_pictures_come_back_as_they_were(shared_data: Path, tmp_path: Path, profile: str) -> None:
    source = shared_data / SVS
    made = ingest_slide(source, tmp_path, profile=profile, extras=Extras(associated=True))
    assert isinstance(made, Ingested)
    group = zarr.open_group(made.path, mode="r")
    paths = group.attrs["microtome"]["associated"]
    with open_slide(made.path) as after, open_slide(source) as before:
        assert sorted(after.info.associated) == sorted(PICTURES)
        for name in PICTURES:
            expected = before.associated_image(name)
            np.testing.assert_array_equal(after.associated_image(name), expected)
            theirs = group[paths[name]][...].transpose(1, 2, 0)
            np.testing.assert_array_equal(theirs, expected)
        with pytest.raises(KeyError):
            after.associated_image("nothing")
    with openslide.OpenSlide(source) as other:
        label = np.asarray(other.associated_images["label"].convert("RGB"))
    with open_slide(made.path) as after:
        assert np.abs(after.associated_image("label").astype(int) - label).max() <= 2
    yaozarrs.validate_zarr_store(made.path)
    for path in paths.values():
        valid = Image04 if profile == "ngff04" else Image05
        valid.from_zarr(group[path.removesuffix("/0")])
    if profile == "ngff04":
        assert group["OME"].attrs["series"] == ["0", "1", "2", "3"]
        xml = (made.path / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
        images = tifffile.xml2dict(xml)["OME"]["Image"]
        names = [image["Name"] for image in images]
        assert names == ["CMU-1-Small-Region", *paths]
        for image in images[1:]:
            height, width = group[paths[image["Name"]]].shape[1:]
            assert (image["Pixels"]["SizeY"], image["Pixels"]["SizeX"]) == (height, width)
            assert "PhysicalSizeX" not in image["Pixels"]


@pytest.mark.parametrize("profile", ["compatible", "ngff04"])
def test_a_lost_picture_is_named_and_made_again(
    shared_data: Path, tmp_path: Path, profile: str
) -> None:
    source = shared_data / SVS
    made = ingest_slide(source, tmp_path, profile=profile, extras=Extras(associated=True))
    assert isinstance(made, Ingested)
    with open_slide(made.path) as slide:
        before = slide.associated_image("macro")
    folder = made.path / ("2" if profile == "ngff04" else "associated/macro")
    lost = next(path for path in folder.rglob("*") if path.is_file() and path.name.isdigit())
    lost.unlink()
    found = verify_slide(made.path, source, samples=2)
    assert lost in found.damaged
    repair_slide(found, source)
    verify_slide(made.path, source, samples=2).require_whole()
    with open_slide(made.path) as slide:
        np.testing.assert_array_equal(slide.associated_image("macro"), before)


def test_nothing_is_kept_unasked_and_what_is_asked_is_another_product(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / SVS
    made = ingest_slide(source, tmp_path)
    assert isinstance(made, Ingested)
    with open_slide(made.path) as slide:
        assert slide.info.associated == ()
        assert list(slide.info.properties) == ["microtome.source"]
        with pytest.raises(KeyError):
            slide.associated_image("label")
    for extras in (Extras(associated=True), Extras(properties=True), Extras(False, True, True)):
        with pytest.raises(StaleProduct):
            ingest_slide(source, tmp_path, extras=extras)
    assert isinstance(ingest_slide(source, tmp_path, extras=Extras()), Skipped)
    with pytest.raises(ValueError, match="properties"):
        Extras(patient_data=True)
    with pytest.raises(ValueError, match="virtual"):
        ingest_slide(source, tmp_path, profile="virtual", extras=Extras(associated=True))


# What Aperio's description of this slide says of its maker, its place and its day.
APERIO_SECRETS = ["CPAPERIOCS", "b414003d-95c6-48b0-9369-8010ed517ba7", "12/29/09", "1004486"]


@pytest.mark.parametrize("profile", ["archive", "ngff04"])
def test_aperio_properties(shared_data: Path, tmp_path: Path, profile: str) -> None:
    source = shared_data / SVS
    made = ingest_slide(source, tmp_path / "a", profile=profile, extras=Extras(properties=True))
    assert isinstance(made, Ingested)
    with open_slide(made.path) as slide:
        kept = slide.info.properties
    assert (kept["aperio.AppMag"], kept["aperio.MPP"]) == ("20", "0.4990")
    assert kept["tiff.ImageWidth"] == "2220"
    told = texts(made.path)
    assert not [secret for secret in APERIO_SECRETS if secret in told]
    extras = Extras(properties=True, patient_data=True)
    full = ingest_slide(source, tmp_path / "b", profile=profile, extras=extras)
    assert isinstance(full, Ingested)
    told = texts(full.path)
    assert all(secret in json.dumps(told).replace("\\/", "/") for secret in APERIO_SECRETS)
    with open_slide(full.path) as after, open_slide(source) as before:
        assert before.info.properties.items() <= after.info.properties.items()


# The first table of identifying attributes of DICOM PS3.15 Annex E, as far as slides have them.
IDENTIFYING = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "OtherPatientIDs",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "SeriesDate", "ContentDate",
    "ContentTime", "AcquisitionDateTime", "AcquisitionDate", "InstitutionName",
    "InstitutionAddress", "ReferringPhysicianName", "OperatorsName", "StationName",
    "StudyDescription", "SeriesDescription", "ImageComments", "DeviceSerialNumber",
    "ContainerIdentifier", "BarcodeValue", "LabelText", "SpecimenIdentifier", "SpecimenUID",
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "MediaStorageSOPInstanceUID",
    "FrameOfReferenceUID", "ClinicalTrialSubjectID", "PatientComments", "DateOfSecondaryCapture",
    "TextValue", "PersonName", "IssuerOfPatientID",
]  # fmt: skip


@pytest.mark.parametrize("keyword", IDENTIFYING)
def test_identifying_attributes_of_dicom_are_not_harmless(keyword: str) -> None:
    assert pydicom.datadict.tag_for_keyword(keyword) is not None
    assert not is_harmless(f"dicom.{keyword}")
    assert not is_harmless(f"dicom.OpticalPathSequence[0].{keyword}")
    # Nor is anything below one that may hold them.
    assert not is_harmless("dicom.AdmittingDiagnosesCodeSequence[0].CodeMeaning")


@pytest.mark.parametrize(
    "name",
    [
        "tiff.ImageDescription", "tiff.DateTime", "tiff.Artist", "tiff.HostComputer",
        "tiff.DocumentName", "openslide.comment", "aperio.Filename", "aperio.User", "aperio.Date",
        "aperio.Time", "aperio.Title", "aperio.ScanScope ID", "aperio.ImageID", "aperio.Barcode",
        "hamamatsu.Reference", "mirax.GENERAL.SLIDE_NAME", "philips.DICOM_DEVICE_SERIAL_NUMBER",
        "openslide.barcode", "unknown", "", "aperio.", "dicom.",
    ],
)  # fmt: skip
def test_free_text_names_and_what_is_unknown_are_not_harmless(name: str) -> None:
    assert not is_harmless(name)


def test_every_harmless_attribute_of_dicom_exists_and_is_no_person_date_or_text() -> None:
    from microtome.engine.extras import _ALLOWED

    people = {"PN", "DA", "DT", "TM", "AS", "LT", "ST", "UT", "UI"}
    meant = {"SOPClassUID", "MediaStorageSOPClassUID", "TransferSyntaxUID"}
    for keyword in _ALLOWED["dicom"]:
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None, keyword
        assert keyword in meant or pydicom.datadict.dictionary_VR(tag) not in people, keyword


def test_dicom_properties_of_a_slide_with_a_patient(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    folder.mkdir()
    secrets = {
        "PatientName": "Roe^Jane", "PatientID": "MRN-4711", "PatientBirthDate": "19510203",
        "AccessionNumber": "S26-00815", "ContainerIdentifier": "BLOCK-0099",
    }  # fmt: skip
    for path in (shared_data / DICOM).iterdir():
        data = pydicom.dcmread(path)
        for keyword, value in secrets.items():
            setattr(data, keyword, value)
        data.save_as(folder / path.name)
    made = ingest_slide(folder, tmp_path / "a", extras=Extras(properties=True))
    assert isinstance(made, Ingested)
    told = texts(made.path)
    assert not [value for value in secrets.values() if value in told]
    with open_slide(made.path) as slide:
        kept = slide.info.properties
    assert (kept["dicom.Modality"], kept["dicom.BurnedInAnnotation"]) == ("SM", "NO")
    assert any(name.endswith("IlluminationTypeCodeSequence[0].CodeMeaning") for name in kept)
    full = ingest_slide(folder, tmp_path / "b", extras=Extras(False, True, True))
    assert isinstance(full, Ingested)
    assert all(value in texts(full.path) for value in secrets.values())


def test_the_description_of_an_ome_tiff_is_not_kept(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "slides/derived/CMU-1-Small-Region.ome.tif"
    made = ingest_slide(source, tmp_path, extras=Extras(properties=True))
    assert isinstance(made, Ingested)
    with open_slide(made.path) as slide:
        assert "tiff.ImageDescription" not in slide.info.properties
        assert slide.info.properties["tiff.TileWidth"] == "256"


def test_names_that_no_file_system_likes_have_paths_of_their_own() -> None:
    images = dict.fromkeys(["a b", "a/b", "../label", "label"], np.zeros((1, 1, 3), np.uint8))
    paths = associated_paths(images, is_container=False)
    assert len(set(paths.values())) == 4
    assert all(".." not in path and path.count("/") == 2 for path in paths.values())
    assert list(associated_paths(images, is_container=True).values()) == [
        "1/0", "2/0", "3/0", "4/0",
    ]  # fmt: skip
