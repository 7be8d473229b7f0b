"""Uptake values are what published headers and formulas give, or the error names the attribute."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from microtome.engine.describe import describe
from microtome.engine.ingest import ingest_volume
from microtome.engine.volumes import Volume, Voxels, open_volume, to_bqml, to_suv
from microtome.engine.volumes.dicom_pet import pet_properties
from microtome.engine.volumes.suv import lean_body_mass_kg
from microtome.storage.errors import NoUptake

# What headers of real scanners say (de-identified sample data of cornerstonejs/calculate-suv)
# and the factor from their unit to SUV by body weight that was computed there beforehand.
SIEMENS = {
    "SeriesTime": "104829.000000", "AcquisitionTime": "104830.351370",
    "FrameReferenceTime": 38513.36, "ActualFrameDuration": 74324, "PatientWeight": 67,
    "RadionuclideTotalDose": 374000000, "RadionuclideHalfLife": 6586.2,
    "RadiopharmaceuticalStartDateTime": "20201217083045.000000 ",
}  # fmt: skip
GE = {
    "SeriesTime": "095621", "AcquisitionTime": "095621", "FrameReferenceTime": 0,
    "ActualFrameDuration": 120000, "PatientWeight": 52, "RadionuclideTotalDose": 152022720,
    "RadionuclideHalfLife": 6586.2001953125, "RadiopharmaceuticalStartDateTime": "20201217084500",
}  # fmt: skip
PHILIPS = {
    "SeriesTime": "110155", "AcquisitionTime": "110156", "FrameReferenceTime": 1328700,
    "ActualFrameDuration": 120700, "PatientWeight": 64, "RadionuclideTotalDose": 126000000,
    "RadionuclideHalfLife": 6586.199707, "RadiopharmaceuticalStartDateTime": "20201217100058",
}  # fmt: skip
TIME_ONLY = {
    "SeriesTime": "135431.843000", "AcquisitionTime": "141555.687000",
    "FrameReferenceTime": 1372857.9232493, "ActualFrameDuration": 180000, "PatientWeight": 102,
    "RadionuclideTotalDose": 412000000, "RadionuclideHalfLife": 6586.2,
    "RadiopharmaceuticalStartTime": "125000.000000",
}  # fmt: skip
DERIVED = {
    "SeriesTime": "134918.000000", "AcquisitionTime": "130348.234000", "FrameReferenceTime": 0,
    "ActualFrameDuration": 180000, "PatientWeight": 69, "RadionuclideTotalDose": 388000000,
    "RadionuclideHalfLife": 6586.2, "RadiopharmaceuticalStartTime": "120037.000000",
}  # fmt: skip
COUNTS = {
    "Units": "CNTS", "SeriesTime": "093556", "AcquisitionTime": "095439",
    "FrameReferenceTime": 1183000, "ActualFrameDuration": 120000, "PatientWeight": 54,
    "RadionuclideTotalDose": 238000000, "RadionuclideHalfLife": 6588,
    "RadiopharmaceuticalStartTime": "083000",
}  # fmt: skip
KNOWN = [
    (SIEMENS, 0.00042748316187197236),
    (GE, 0.0005367387681819742),
    (PHILIPS, 0.0007463747013889488),
    (TIME_ONLY, 0.0003721089202818729),
    (DERIVED, 0.00026503312764157046),
]

_OF_DOSE = ("Radionuclide", "Radiopharmaceutical")


def header(**said: Any) -> Dataset:
    """A header of a corrected PET in Bq/ml; None leaves an attribute out."""
    data, dose = Dataset(), Dataset()
    data.Units, data.DecayCorrection = "BQML", "START"
    data.CorrectedImage = ["NORM", "ATTN", "DECY"]
    data.SeriesDate = data.AcquisitionDate = "20201217"
    data.RadiopharmaceuticalInformationSequence = [dose]
    for name, value in said.items():
        place = dose if name.startswith(_OF_DOSE) and "Sequence" not in name else data
        if value is None:
            delattr(place, name)
        else:
            setattr(place, name, value)
    return data


def pet(*headers: Dataset, modality: Any = "PT") -> Volume:
    values = np.array([[[32767, -877]]], np.int16)
    voxels = Voxels(values.shape, values.dtype, lambda box: values[box])
    properties = pet_properties(headers)
    return Volume(Path("pet"), "dicom", voxels, np.eye(4), modality=modality, properties=properties)


def factor(volume: Volume, **how: Any) -> float:
    return float(to_suv(volume, **how).slope)


@pytest.mark.parametrize(("said", "known"), KNOWN)
def test_headers_of_scanners_give_the_known_factor(said: dict[str, Any], known: float) -> None:
    assert factor(pet(header(**said))) == pytest.approx(known, rel=1e-6)


def test_counts_of_philips_take_the_scanners_own_factor_and_activity_agrees() -> None:
    """The scanner's factor, with its three digits, is the truth for the way through Bq/ml."""
    data = header(**COUNTS)
    block = data.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x09, "DS", "1.602563")
    through_bqml = factor(pet(data))
    assert to_bqml(pet(data)).data[0, 0, 0] == pytest.approx(32767 * 1.602563)
    block.add_new(0x00, "UN", b"0.000551 ")
    assert factor(pet(data)) == 0.000551
    assert through_bqml == pytest.approx(0.000551, rel=1e-3)


@pytest.mark.parametrize(
    ("weight_kg", "slope"), [(59.94, 0.530081816975547), (70.0, 0.453901487278775)]
)
def test_the_reference_object_of_qiba_has_its_values(weight_kg: float, slope: float) -> None:
    """The QIBA FDG-PET/CT digital reference objects: their test voxels are 4.11 and -0.11."""
    said = {
        "SeriesTime": "140100.000000", "AcquisitionTime": "140100.000000",
        "RadiopharmaceuticalStartTime": "130100.000000", "RadionuclideTotalDose": 370000000,
        "RadionuclideHalfLife": 6586, "PatientWeight": weight_kg,
    }  # fmt: skip
    volume = to_suv(replace(pet(header(**said)), slope=np.array(slope)))
    np.testing.assert_allclose(np.asarray(volume.data).ravel(), [4.11, -0.11], atol=1e-4)
    assert volume.unit == "{SUVbw}g/ml"


def test_a_derived_series_is_timed_by_its_first_frame() -> None:
    """With the series' time lost, the frame's reference time leads back to within a second."""
    late = {**TIME_ONLY, "SeriesTime": "170000"}
    assert factor(pet(header(**late))) == pytest.approx(KNOWN[3][1], rel=2e-4)
    early, later = header(**DERIVED), header(**{**DERIVED, "AcquisitionTime": "132000"})
    assert factor(pet(later, early)) == factor(pet(early))


def test_ge_states_the_scan_of_a_derived_series() -> None:
    data = header(**{**GE, "SeriesTime": "170000"})
    block = data.private_block(0x0009, "GEMS_PETD_01", create=True)
    block.add_new(0x0D, "DT", "20201217095621.00")
    assert factor(pet(data)) == pytest.approx(KNOWN[1][1], rel=1e-6)


def test_midnight_between_injection_and_scan_needs_its_date() -> None:
    night = {**GE, "SeriesTime": "003000", "AcquisitionTime": "003000"}
    night["RadiopharmaceuticalStartTime"] = "233000"
    dated = header(**night | {"RadiopharmaceuticalStartDateTime": "20201216233000"})
    hour = math.exp(math.log(2) * 3600 / GE["RadionuclideHalfLife"])
    assert factor(pet(dated)) == pytest.approx(52000 / 152022720 * hour)
    undated = header(**night | {"RadiopharmaceuticalStartDateTime": ""})
    with pytest.raises(NoUptake, match=r"\(0018,1078\).*before midnight"):
        to_suv(pet(undated))


def test_an_offset_from_utc_counts_where_the_scanners_is_known() -> None:
    abroad = {**SIEMENS, "RadiopharmaceuticalStartDateTime": "20201217073045+0000"}
    data = header(**abroad)
    data.TimezoneOffsetFromUTC = "+0100"
    assert factor(pet(data)) == pytest.approx(KNOWN[0][1], rel=1e-6)


def test_values_corrected_to_the_injection_take_the_dose_undecayed() -> None:
    untimed = {**GE, "DecayCorrection": "ADMIN", "RadiopharmaceuticalStartDateTime": ""}
    assert factor(pet(header(**untimed))) == pytest.approx(52000 / 152022720)


def test_gml_is_suv_already_unless_it_says_it_is_another() -> None:
    assert factor(pet(header(Units="GML"))) == 1
    with pytest.raises(NoUptake, match="of type BSA already"):
        to_suv(pet(header(Units="GML", SUVType="BSA")))
    once = to_suv(pet(header(**GE)))
    with pytest.raises(NoUptake, match="SUVbw"):
        to_suv(once)


# --- lean body mass


def test_lean_body_mass_of_a_published_case() -> None:
    """75 kg, 1.85 m, M (calculate-suv's test: 750 by weight are 609.1533588651974)."""
    assert 10 * lean_body_mass_kg(75, 1.85, "M") == pytest.approx(609.1533588651974)


@pytest.mark.parametrize(
    ("sex", "weight_kg", "james", "janmahasatian"),
    [("F", 59.94, 0.750, 0.660), ("M", 70.0, 0.771, 0.758)],
)
def test_both_formulas_agree_on_the_reference_objects(
    sex: str, weight_kg: float, james: float, janmahasatian: float
) -> None:
    """Published fractions of QIBA's objects: the height that gives one gives the other."""
    heights = np.linspace(1.4, 2.0, 6001)
    fractions = np.array(
        [lean_body_mass_kg(weight_kg, h, sex, formula="James") / weight_kg for h in heights]
    )
    height = heights[np.argmin(np.abs(fractions - james))]
    assert lean_body_mass_kg(weight_kg, height, sex) / weight_kg == pytest.approx(
        janmahasatian, abs=1.5e-3
    )


def test_suv_by_lean_body_mass_is_smaller_by_the_lean_fraction() -> None:
    volume = pet(header(**GE, PatientSex="F", PatientSize=1.65))
    lean = lean_body_mass_kg(52, 1.65, "F", formula="James")
    converted = to_suv(volume, by="lean body mass", formula="James")
    assert float(converted.slope) == pytest.approx(KNOWN[1][1] * lean / 52, rel=1e-6)
    assert converted.unit == "{SUVlbm(James128)}g/ml"
    assert to_suv(volume, by="lean body mass").unit == "{SUVlbm(Janma)}g/ml"


def test_a_lean_body_mass_that_cannot_be_is_refused() -> None:
    """James' formula turns negative for the very obese."""
    volume = pet(header(**{**GE, "PatientWeight": 240}, PatientSex="F", PatientSize=1.5))
    with pytest.raises(NoUptake, match="James's lean body mass of 240 kg"):
        to_suv(volume, by="lean body mass", formula="James")
    with pytest.raises(NoUptake, match=r"sex O"):
        to_suv(volume, by="lean body mass", sex="O")
    with pytest.raises(NoUptake, match=r"PatientSize \(0010,1020\) is 165.*cannot be"):
        to_suv(volume, by="lean body mass", height_m=165)


# --- what is missing or cannot be


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"PatientWeight": ""}, r"PatientWeight \(0010,1030\) is missing or empty.*weight_kg="),
        ({"PatientWeight": 0}, r"PatientWeight \(0010,1030\) is 0.0, which cannot be"),
        ({"RadionuclideTotalDose": ""}, r"RadionuclideTotalDose \(0018,1074\) is missing"),
        ({"RadionuclideTotalDose": 370}, r"\(0018,1074\) is 370.*not in MBq"),
        ({"RadionuclideHalfLife": ""}, r"RadionuclideHalfLife \(0018,1075\) is missing"),
        ({"RadionuclideHalfLife": 109.77}, r"over 10 half-lives"),
        ({"RadiopharmaceuticalStartDateTime": ""}, r"1078\) and .*\(0018,1072\) are missing"),
        ({"RadiopharmaceuticalStartDateTime": "20201218"}, r"\(0018,1078\) is '20201218'"),
        ({"RadiopharmaceuticalStartDateTime": "20201217100000"}, r"injection after the scan"),
        ({"SeriesTime": ""}, r"SeriesTime \(0008,0031\) is missing"),
        ({"SeriesDate": ""}, r"SeriesDate \(0008,0021\) is missing"),
        ({"AcquisitionTime": ""}, r"AcquisitionTime \(0008,0032\) is missing"),
        ({"AcquisitionDate": ""}, r"AcquisitionDate \(0008,0022\) is missing"),
        ({"SeriesTime": "12"}, r"SeriesTime \(0008,0031\) is '2020121712'"),
        ({"SeriesTime": "170000", "FrameReferenceTime": ""}, r"FrameReferenceTime \(0054,1300\)"),
        ({"Units": ""}, r"Units \(0054,1001\) is missing"),
        ({"Units": "PROPCPS"}, "voxels in PROPCPS"),
        ({"Units": "CNTS"}, r"activity factor of Philips \(7053,xx09\) is missing"),
        ({"DecayCorrection": ""}, r"DecayCorrection \(0054,1102\) is missing"),
        ({"DecayCorrection": "NONE"}, r"DecayCorrection \(0054,1102\) is NONE"),
        ({"CorrectedImage": ""}, r"CorrectedImage \(0028,0051\) is missing"),
        ({"CorrectedImage": ["NORM", "DECY"]}, "not corrected for attenuation"),
        ({"CorrectedImage": ["NORM", "ATTN"]}, "not corrected for decay"),
        ({"RadiopharmaceuticalInformationSequence": None}, r"Sequence \(0054,0016\) is missing"),
    ],
)  # fmt: skip
def test_what_is_missing_or_impossible_is_named(changed: dict[str, Any], named: str) -> None:
    data = header(**{**GE, **changed})
    with pytest.raises(NoUptake, match=named) as caught:
        to_suv(pet(data))
    assert caught.value.where == "pet"
    assert caught.value.remedy


@pytest.mark.parametrize("missing", ["PatientSize", "PatientSex"])
def test_lean_body_mass_needs_size_and_sex(missing: str) -> None:
    said = {**GE, "PatientSize": 1.65, "PatientSex": "F", missing: ""}
    with pytest.raises(NoUptake, match=rf"{missing} \(0010,\d+\) is missing"):
        to_suv(pet(header(**said)), by="lean body mass")


def test_a_weight_that_differs_between_files_is_no_weight() -> None:
    heavier = header(**{**GE, "PatientWeight": 53})
    with pytest.raises(NoUptake, match=r"PatientWeight \(0010,1030\) differs between the files"):
        to_suv(pet(header(**GE), heavier))
    assert factor(pet(header(**GE), heavier), weight_kg=52) == pytest.approx(KNOWN[1][1])


def test_two_injections_are_not_told_apart() -> None:
    data = header(**GE)
    data.RadiopharmaceuticalInformationSequence.append(Dataset())
    with pytest.raises(NoUptake, match="2 injections"):
        to_suv(pet(data))


def test_only_pet_has_an_uptake() -> None:
    with pytest.raises(NoUptake, match="modality CT"):
        to_suv(pet(header(**GE), modality="CT"))


# --- properties

POSITIVE = st.floats(0.2, 5)


@given(weight=POSITIVE, dose=POSITIVE)
def test_suv_is_linear_in_weight_and_does_not_change_with_dose_and_activity_together(
    weight: float, dose: float
) -> None:
    base = pet(header(**GE))
    heavier = pet(header(**{**GE, "PatientWeight": round(52 * weight, 6)}))
    assert factor(heavier) == pytest.approx(factor(base) * round(52 * weight, 6) / 52)
    more = pet(header(**{**GE, "RadionuclideTotalDose": round(152022720 * dose)}))
    both = replace(more, slope=np.array(round(152022720 * dose) / 152022720))
    np.testing.assert_allclose(to_suv(both).data[...], to_suv(base).data[...])


@given(half_lives=st.integers(0, 9))
def test_every_half_life_of_waiting_doubles_the_factor(half_lives: int) -> None:
    volume = pet(header(**{**GE, "RadionuclideHalfLife": 60}))
    waited = {**volume.properties, "pet.decay_s": str(60 * half_lives)}
    expected = 52000 / 152022720 * 2**half_lives
    assert factor(replace(volume, properties=waited)) == pytest.approx(expected)


# --- real files, through to OME-Zarr


def test_pet_is_converted_from_files_and_from_what_is_stored(
    tmp_path: Path, write_slices: Callable[..., Path]
) -> None:
    """Slopes differ from slice to slice; nothing but the first part of a box is read."""
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)

    def as_pet(k: int, data: Dataset) -> None:
        data.update(header(**SIEMENS))
        data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "P1", "19700101"
        data.RescaleSlope = 2 + k

    folder = write_slices(
        tmp_path / "pet", values, [(0, 0, 0), (0, 0, 3)], modality="PT", change=as_pet
    )
    opened = open_volume(folder)
    assert opened.unit == "BQML"
    assert to_bqml(opened) is opened
    assert describe(folder)["suv_factor"] == pytest.approx(KNOWN[0][1])
    expected = values * np.array([2.0, 3.0])[:, None, None] * KNOWN[0][1]
    np.testing.assert_allclose(to_suv(opened).data[...], expected, rtol=1e-6)
    np.testing.assert_allclose(to_suv(opened).data[1, 2, 3], expected[1, 2, 3], rtol=1e-6)
    made = ingest_volume(folder, tmp_path / "out")
    stored = open_volume(getattr(made, "value", made).path)
    np.testing.assert_array_equal(to_suv(stored).data[...], to_suv(opened).data[...])
    kept = " ".join(stored.properties.values())
    assert not any(word in kept for word in ("Doe", "P1", "1970", "20201217", "104829"))


def test_info_says_why_there_are_no_uptake_values(
    tmp_path: Path, write_slices: Callable[..., Path]
) -> None:
    def unweighed(_: int, data: Dataset) -> None:
        data.update(header(**{**SIEMENS, "PatientWeight": ""}))

    places = [(0, 0, 0), (0, 0, 3)]
    values = np.ones((2, 3, 4), np.int16)
    folder = write_slices(tmp_path / "p", values, places, modality="PT", change=unweighed)
    found = describe(folder)
    assert found["suv_factor"] is None
    assert "PatientWeight (0010,1030)" in found["odd"][0]
