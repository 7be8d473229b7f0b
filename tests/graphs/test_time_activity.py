"""Time-activity curves from PMOD's and Turku's files and from a dynamic scan."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.engine.volumes import open_volume
from microtome.graphs.regions import LabelAtlas, lay_over
from microtome.graphs.time_activity import FrameTimes, TimeActivity, time_activity
from microtome.graphs.time_activity_files import (
    frames_beside,
    read_frames,
    read_time_activity,
    read_voistat,
    write_tac,
)
from microtome.storage.errors import BadFrames, BadSeries, MissingFile, UnreadableFile


@pytest.fixture(scope="module")
def pet(shared_data):
    return shared_data / "brain" / "pet"


def test_three_files_of_one_scan_say_the_same(pet):
    frames = read_frames(pet / "AD06.acqtimes")
    assert len(frames) == 34
    assert (frames.start_s[0], frames.end_s[-1]) == (0, 5400)
    tac = read_time_activity(pet / "AD06.tac", frames=frames)
    voistat = read_time_activity(pet / "AD06_TAC.voistat", frames=frames)
    assert tac.regions == voistat.regions
    assert (len(tac.regions), tac.unit, voistat.unit) == (86, "kBq/cc", "kBq/cc")
    np.testing.assert_allclose(tac.activity, voistat.activity, atol=1e-12)
    assert voistat.volumes_ml[voistat.regions.index("Cerebellum_r")] == 67.744
    corrected = read_time_activity(pet / "AD06.tac", corrected=True)
    theirs = read_time_activity(pet / "AD06_TAC.voistat", frames=frames, corrected=True)
    assert corrected.regions == tac.regions
    np.testing.assert_allclose(corrected.activity, theirs.activity, atol=1e-12)


def test_the_values_are_those_that_pandas_reads(pet):
    table = pd.read_csv(pet / "AD06.tac", sep="\t")
    tac = read_time_activity(pet / "AD06.tac")
    np.testing.assert_allclose(tac.activity[:, 60], table[tac.regions[60]], rtol=1e-14)
    np.testing.assert_array_equal(tac.frames.end_s, table["end[kBq/cc]"])


def test_a_file_of_turku(pet):
    curves = read_time_activity(pet / "sample.dft")
    assert curves.regions == ("putam_dx_pl18", "putam_sin_pl18", "cereb_pl29")
    assert curves.unit == "kBq/ml"
    assert curves.frames.end_s[-1] == 15 * 60
    np.testing.assert_allclose(curves.volumes_ml, [0.6752, 0.7128, 9.1671])
    assert curves.activity[10].tolist() == [26.6, 28.0, 6.54]
    with pytest.raises(BadSeries, match="no value in putam_sin_pl18, first in frame 10"):
        curves.complete()
    assert curves.without(["putam_sin_pl18"]).complete().shape == (11, 2)


def test_a_parametric_map(pet):
    found = read_voistat(pet / "AD06_BPnd_BPnd_Logan.voistat")
    assert found.values.shape == (1, len(found.regions))
    assert found.values[0, found.regions.index("Amygdala_r")] == 0.3647066959315658
    assert (found.unit, found.corrected) == ("1/1", None)


def test_frames_that_contradict_each_other_are_refused_by_number(pet, tmp_path):
    text = (pet / "AD06.acqtimes").read_text()
    wrong = tmp_path / "AD06.acqtimes"
    # The file that tacmagic's tests expect to be refused.
    wrong.write_text(text.replace("30\t45", "30\t46"))
    with pytest.raises(BadFrames, match=r"AD06.*frame 4 \(45 to 60 s\) begins within frame 3"):
        read_frames(wrong)
    wrong.write_text(text.replace("34 #", "35 #"))
    with pytest.raises(BadFrames, match="35 acquisitions are announced, 34 are there"):
        read_frames(wrong)
    wrong.write_text(text.replace("4200\t4800", "4200\t4700"))
    with pytest.raises(BadFrames, match="the middle of frame 33 is 4500 s here and 4450 s"):
        read_time_activity(pet / "AD06_TAC.voistat", frames=read_frames(wrong))
    with pytest.raises(BadFrames, match="frame 33 has 4800 s here and 4700 s"):
        read_time_activity(pet / "AD06.tac", frames=read_frames(wrong))
    with pytest.raises(BadFrames, match="--frames"):
        read_time_activity(pet / "AD06_TAC.voistat")
    with pytest.raises(BadFrames, match=r"frame 2 .* does not end after it begins"):
        FrameTimes(np.array([0.0, 10]), np.array([10.0, 10]))
    with pytest.raises(BadFrames, match="a time is missing"):
        FrameTimes(np.array([0.0, 10]), np.array([10.0, np.nan]))


def test_files_of_another_kind_are_refused(pet, tmp_path):
    with pytest.raises(UnreadableFile, match="no file of time-activity"):
        read_time_activity(pet / "PiB_uptake.csv")
    with pytest.raises(MissingFile):
        read_time_activity(tmp_path / "none.tac")
    for name, text, message in (
        ("a.tac", "time\tend[kBq/cc]\tA\n", "first columns"),
        ("b.tac", "start[seconds]\tend[kBq/cc]\tA\n0\t10\tx\n", "no number"),
        ("c.tac", "start[seconds]\tend[kBq/cc]\tA\n0\t10\n", "row 1 has 2 columns, not 3"),
        ("d.tac", "start[seconds]\tend[kBq/cc]\tA\n", "no rows"),
        ("e.dft", "nothing\n", "does not begin with DFT"),
        ("f.voistat", "nothing\n", "PMOD_VOI_STATISTICS"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UnreadableFile, match=message):
            read_time_activity(tmp_path / name)


def test_a_window_is_made_of_whole_frames(pet):
    curves = read_time_activity(pet / "AD06.tac")
    mean = curves.mean_over(3000, 4200)
    by_hand = 300 * curves.activity[29] + 300 * curves.activity[30] + 600 * curves.activity[31]
    np.testing.assert_allclose(mean, by_hand / 1200)
    with pytest.raises(BadFrames, match=r"window from 3100 to 4200 s.* near 3000 and 4200 s"):
        curves.mean_over(3100, 4200)
    with pytest.raises(BadFrames):
        curves.mean_over(5400, 6000)


@given(st.lists(st.floats(1, 600), min_size=1, max_size=20), st.floats(-5, 5))
def test_the_mean_of_a_constant_is_the_constant(durations, level):
    edges = np.r_[0, np.cumsum(durations)]
    curves = TimeActivity(
        np.full((len(durations), 1), level), FrameTimes(edges[:-1], edges[1:]), ("a",)
    )
    assert curves.mean_over(0, edges[-1])[0] == pytest.approx(level)


def test_curves_come_back_from_a_file_as_they_were(pet, tmp_path):
    curves = read_time_activity(pet / "AD06.tac")
    write_tac(tmp_path / "again.tac", curves)
    again = read_time_activity(tmp_path / "again.tac")
    np.testing.assert_array_equal(again.activity, curves.activity)
    np.testing.assert_array_equal(again.frames.start_s, curves.frames.start_s)
    assert (again.regions, again.unit) == (curves.regions, curves.unit)


def test_curves_of_a_dynamic_scan(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((4, 5, 6), np.int64)
    labels[1], labels[2] = 3, 8
    affine = np.diag([2.0, 2, 2.5, 1])
    activity = rng.random((6, 5, 4, 3))
    nibabel.save(nibabel.Nifti1Image(activity, affine), tmp_path / "sub-1_pet.nii.gz")
    sidecar = tmp_path / "sub-1_pet.json"
    sidecar.write_text(json.dumps({"FrameTimesStart": [0, 60, 180], "FrameDuration": [60, 120, 9]}))
    assert frames_beside(tmp_path / "sub-1_pet.nii.gz") == sidecar
    volume = open_volume(tmp_path / "sub-1_pet.nii.gz")
    parcellation = lay_over(LabelAtlas(labels, affine, {3: "a", 8: "b"}), volume.shape[1:], affine)
    curves = time_activity(volume, parcellation, read_frames(sidecar))
    np.testing.assert_allclose(curves.activity[:, 0], activity[:, :, 1].mean(axis=(0, 1)))
    np.testing.assert_allclose(curves.volumes_ml, 30 * 0.01)
    assert curves.frames.end_s.tolist() == [60, 180, 189]
    sidecar.write_text(json.dumps({"FrameTimesStart": [0, 60], "FrameDuration": [60, 120]}))
    with pytest.raises(BadFrames, match="2 frame times for a scan of 3 frames"):
        time_activity(volume, parcellation, read_frames(sidecar))
    sidecar.write_text(json.dumps({"FrameTimesStart": [0, 60], "FrameDuration": [60]}))
    with pytest.raises(BadFrames, match="2 FrameTimesStart, 1 FrameDuration"):
        read_frames(sidecar)
    sidecar.write_text("{}")
    with pytest.raises(UnreadableFile, match="FrameTimesStart"):
        read_frames(sidecar)
