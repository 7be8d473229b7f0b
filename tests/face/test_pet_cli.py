"""``microtome pet`` on real files, as a user calls it, and on into networks."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
from calling import call as call_command

from microtome.graphs.time_activity_files import read_time_activity
from microtome.storage.connectomes import read_connectomes


def call(*arguments, code=0):
    return " ".join(call_command(*arguments, code=code).split())


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pet(shared_data):
    return shared_data / "brain" / "pet"


def test_ratios_of_curves(pet, tmp_path):
    command = ["pet", "suvr", pet / "AD06_TAC.voistat", "--frames", pet / "AD06.acqtimes"]
    command += ["--reference", "cerebellum", "-o", tmp_path / "suvr.csv"]
    assert "state the window" in call(*command, code=3).lower()
    assert not (tmp_path / "suvr.csv").exists()
    assert "near 3000 and 4200 s" in call(*command, "--window", "3100:4200", code=3)
    shown = call(*command, "--window", "3000:4200")
    assert "done AD06_TAC 86 regions over Cerebellum_r, Cerebellum_l" in shown
    row = rows(tmp_path / "suvr.csv")[0]
    # tacmagic's hand-made table: white matter, 414.92 ml in two halves.
    white = 204.384 * float(row["White_matter_l"]) + 210.536 * float(row["White_matter_r"])
    assert white / 414.92 == pytest.approx(2.03576762, rel=1e-8)


def test_binding_of_curves_by_two_models(pet, tmp_path):
    command = ["pet", "binding", pet / "AD06.tac", "--reference", "cerebellum"]
    command += ["--leave-out", "ThirdVentricl"]
    call(*command, "--t-star-s", 1200, "-o", tmp_path / "l.csv", "--details", tmp_path / "d.csv")
    call(*command, "--model", "srtm", "-o", tmp_path / "s.csv")
    logan, srtm = rows(tmp_path / "l.csv")[0], rows(tmp_path / "s.csv")[0]
    assert logan.pop("subject") == srtm.pop("subject") == "AD06"
    assert list(logan) == list(srtm)
    # Left as empty cells: regions whose curve no k2a in the range explains.
    both = [(float(logan[k]), float(srtm[k])) for k in logan if srtm[k]]
    assert len(both) > 60
    assert np.corrcoef(np.array(both).T)[0, 1] > 0.9
    details = rows(tmp_path / "d.csv")
    assert len(details) == 85
    assert {row["t_star_s"] for row in details} == {"1200.0"}
    assert float(details[0]["dvr"]) == pytest.approx(1 + float(logan[details[0]["region"]]))
    text = call(*command, "--model", "srtm", "--t-star-s", 9, "-o", tmp_path / "x.csv", code=3)
    assert "not of --model srtm" in text


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    """A blurred scan of three frames over an atlas of two boxes, and its truth [t, r]."""
    folder = tmp_path_factory.mktemp("dynamic")
    labels = np.zeros((30, 30, 30), np.int16)
    labels[5:15, 5:25, 5:25], labels[15:25, 5:25, 5:25] = 1, 2
    affine = np.diag([2.0, 2, 2, 1])
    truth = np.array([[1.0, 2], [3, 2], [5, 1]])
    image = np.zeros((30, 30, 30, 3))
    for region in (1, 2):
        image[labels == region] = truth[:, region - 1]
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "atlas.nii.gz")
    from nilearn.image import smooth_img

    seen = smooth_img(nibabel.Nifti1Image(image, affine), 6.0)
    nibabel.save(seen, folder / "sub-1_pet.nii.gz")
    sidecar = {"FrameTimesStart": [0, 60, 120], "FrameDuration": [60, 60, 120]}
    (folder / "sub-1_pet.json").write_text(json.dumps(sidecar))
    return folder, truth


def test_curves_of_a_scan_with_and_without_correction(dynamic, tmp_path):
    folder, truth = dynamic
    command = ["pet", "curves", folder / "sub-1_pet.nii.gz", "--atlas", folder / "atlas.nii.gz"]
    assert "done sub-1_pet 3 frames" in call(*command, "-o", tmp_path / "seen")
    call(*command, "--psf-mm", 6, "-o", tmp_path / "corrected")
    seen = read_time_activity(tmp_path / "seen" / "sub-1_pet.tac").activity
    corrected = read_time_activity(tmp_path / "corrected" / "sub-1_pet.tac").activity
    assert np.abs(seen / truth - 1).max() > 0.1
    np.testing.assert_allclose(corrected, truth, rtol=0.005)
    ratio = ["pet", "suvr", *command[2:], "--psf-mm", 6, "--reference", "label-2"]
    call(*ratio, "--window", "60:240", "-o", tmp_path / "suvr.csv")
    row = rows(tmp_path / "suvr.csv")[0]
    assert float(row["label-1"]) == pytest.approx((60 * 3 + 120 * 5) / (60 * 2 + 120), rel=0.01)


def test_frames_that_do_not_fit_the_scan_are_named(dynamic, tmp_path):
    folder, _ = dynamic
    (tmp_path / "other.json").write_text('{"FrameTimesStart": [0, 50], "FrameDuration": [60, 60]}')
    command = ["pet", "curves", folder / "sub-1_pet.nii.gz", "--atlas", folder / "atlas.nii.gz"]
    text = call(*command, "--frames", tmp_path / "other.json", "-o", tmp_path / "x", code=3)
    assert "rejected(bad_frames)" in text
    assert "frame 2 (50 to 110 s) begins within frame 1 (0 to 60 s)" in text


def test_a_scan_is_corrected_voxel_by_voxel(shared_data, tmp_path):
    folder = shared_data / "brain" / "nifti"
    command = ["pet", "correct", folder / "spm_PET.nii.gz", "--grey", folder / "spm_grey.nii.gz"]
    command += ["--white", folder / "spm_white.nii.gz", "--psf-mm", 8]
    call(*command, "-o", tmp_path / "grey.nii.gz")
    before = nibabel.load(folder / "spm_PET.nii.gz")
    after = nibabel.load(tmp_path / "grey.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine)
    known = np.isfinite(after.get_fdata())
    assert 50_000 < known.sum() < 300_000
    # What spills out of the cortex is given back.
    assert np.median(after.get_fdata()[known]) > 1.2 * np.median(before.get_fdata()[known])


def test_a_table_of_amyloid_becomes_networks_of_each_person(pet, tmp_path):
    with (pet / "PiB_uptake.csv").open() as file:
        people = [row for row in csv.DictReader(file) if row["CaseID"]]
    names = [k for k in people[0] if k.endswith(("_Left", "_Right"))][::10]
    (tmp_path / "names.txt").write_text("\n".join(names))
    whole = ["--subject-column", "Filename", "--regions", tmp_path / "names.txt"]
    source = pet / "PiB_uptake.csv"
    for method in ("effect-size", "perturbation"):
        command = ["connectome", "build", source, "--method", method, *whole]
        call(*command, "--controls", source, "-o", tmp_path / method)
        cohort = read_connectomes(tmp_path / f"{method}.connectomes.zarr")
        assert cohort.adjacency.shape == (len(people), len(names), len(names))
        assert (cohort.modality, cohort.measure) == ("PET", method)
    one = np.array([[float(row[name]) for name in names] for row in people])
    before, after = np.corrcoef(one[1:].T)[0, 1], np.corrcoef(one.T)[0, 1]
    expected = (after - before) / (1 - before**2) * (len(people) - 2)
    assert cohort.adjacency[0, 0, 1] == pytest.approx(expected)
