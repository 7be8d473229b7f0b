"""Atlases land where they should on a scan, or an error says which regions do not."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from nibabel.processing import resample_from_to

from microtome.engine.volumes import open_volume
from microtome.graphs.build import AtlasRecipe, SeriesRecipe, from_series
from microtome.graphs.regions import LabelAtlas, SphereAtlas, lay_over, resample_labels
from microtome.graphs.scans import (
    read_atlas,
    read_coordinates,
    read_label_names,
    region_series,
)
from microtome.storage.errors import (
    BadGeometry,
    BadSeries,
    CohortError,
    LostRegion,
    MissingFile,
    UnreadableFile,
)

NEUROMORPHOMETRICS = "labels_Neuromorphometrics.nii.gz"


def save(path, xyz, affine):
    nibabel.save(nibabel.Nifti1Image(xyz, affine), path)
    return path


@pytest.fixture(scope="module")
def atlas(shared_data) -> LabelAtlas:
    return read_atlas(shared_data / "brain" / "atlas" / NEUROMORPHOMETRICS)


def test_an_atlas_has_the_names_that_lie_beside_it(atlas):
    assert len(atlas.names) == 136
    assert atlas.names[23] == "Right Accumbens Area"
    assert set(np.unique(atlas.labels)) == {0, *atlas.names}
    parcellation = lay_over(atlas, atlas.labels.shape, atlas.affine)
    assert not parcellation.resampled
    x = parcellation.centroids_mm[:, 0]
    sides = [name.split()[0] for name in parcellation.names]
    assert all(x[i] > 0 for i, side in enumerate(sides) if side == "Right")
    assert all(x[i] < 0 for i, side in enumerate(sides) if side == "Left")


def test_labels_are_resampled_as_nibabel_does(atlas, shared_data):
    path = shared_data / "brain" / "atlas" / NEUROMORPHOMETRICS
    scan = nibabel.load(shared_data / "brain" / "nifti" / "spm_PET.nii.gz")
    theirs = resample_from_to(nibabel.load(path), (scan.shape, scan.affine), order=0)
    ours = resample_labels(atlas, scan.shape[::-1], scan.affine)
    different = np.rint(theirs.get_fdata()) != ours.T
    # A voxel centre just between two of the atlas's may go either way.
    assert different.mean() < 1e-3


def test_another_grid_is_an_error_until_resampling_is_asked_for(atlas, shared_data):
    scan = open_volume(shared_data / "brain" / "nifti" / "spm_PET.nii.gz")
    with pytest.raises(BadGeometry, match=r"121 × 145 × 121 .*91 × 109 × 91 .*--resample"):
        lay_over(atlas, scan.shape, scan.affine)
    with pytest.raises(LostRegion, match=r"2 of 136 .*Right vessel, Left vessel"):
        lay_over(atlas, scan.shape, scan.affine, resample=True)
    fewer = atlas.without(["Right vessel", "Left vessel"])
    found = lay_over(fewer, scan.shape, scan.affine, resample=True)
    assert found.resampled
    assert len(found.names) == 134
    # A region keeps its volume.
    largest = found.names.index("Right Cerebral White Matter")
    label = next(k for k, name in atlas.names.items() if name == found.names[largest])
    before = (atlas.labels == label).sum() * 1.5**3
    assert found.n_voxels[largest] * 2.0**3 == pytest.approx(before, rel=0.01)
    with pytest.raises(CohortError, match="no region called Third eye"):
        atlas.without(["Third eye"])


def test_means_and_samples_are_those_of_a_mask(atlas):
    values = np.random.default_rng(0).standard_normal(atlas.labels.shape)
    found = lay_over(atlas, atlas.labels.shape, atlas.affine)
    means, samples = found.means(values), found.samples(values)
    for region, (label, _) in enumerate(atlas.names.items()):
        inside = values[atlas.labels == label]
        assert means[region] == pytest.approx(inside.mean())
        assert len(samples[region]) == len(inside) == found.n_voxels[region]
    np.testing.assert_allclose(found.means(np.stack([values, 2 * values]))[1], 2 * means)


def small_atlas() -> LabelAtlas:
    labels = np.zeros((4, 4, 4), np.int64)
    labels[:2], labels[2:] = 5, 2
    return LabelAtlas(labels, np.eye(4), {2: "top", 5: "bottom"})


def test_regions_are_in_the_order_of_their_names_not_of_their_labels():
    values = np.arange(64.0).reshape(4, 4, 4)
    found = lay_over(small_atlas(), (4, 4, 4), np.eye(4))
    assert found.names == ("top", "bottom")
    np.testing.assert_allclose(found.means(values), [values[2:].mean(), values[:2].mean()])
    np.testing.assert_allclose(found.centroids_mm, [[1.5, 1.5, 2.5], [1.5, 1.5, 0.5]])


def test_a_voxel_without_a_value_is_left_out_and_a_region_of_them_is_lost():
    values = np.ones((4, 4, 4))
    values[0, 0, 0] = np.nan
    found = lay_over(small_atlas(), (4, 4, 4), np.eye(4))
    assert found.means(values).tolist() == [1, 1]
    assert [len(s) for s in found.samples(values)] == [32, 31]
    values[:2] = np.nan
    with pytest.raises(LostRegion, match="finite value: bottom"):
        found.means(values)


def test_regions_beyond_the_scan_are_dropped_on_request_and_named(atlas, shared_data):
    scan = open_volume(shared_data / "brain" / "nifti" / "nibabel_functional.nii")
    with pytest.raises(LostRegion, match=r"106 of 136 .*--drop-lost"):
        lay_over(atlas, scan.shape[1:], scan.affine, resample=True)
    found = lay_over(atlas, scan.shape[1:], scan.affine, resample=True, drop_lost=True)
    assert len(found.names) == 30
    assert len(found.lost) == 106
    assert set(found.names) | set(found.lost) == set(atlas.names.values())
    theirs = resample_labels(atlas, scan.shape[1:], scan.affine)
    assert {atlas.names[label] for label in np.unique(theirs) if label} == set(found.names)
    assert found.members.shape[0] == len(found.centroids_mm) == 30
    values = np.random.default_rng(0).random(scan.shape[1:])
    label = next(k for k, name in atlas.names.items() if name == found.names[7])
    assert found.means(values)[7] == pytest.approx(values[theirs == label].mean())
    far = np.diag([1.0, 1, 1, 1])
    far[0, 3] = 1e4
    with pytest.raises(LostRegion, match="136 of 136"):
        lay_over(atlas, (4, 4, 4), far, resample=True, drop_lost=True)


def test_a_mirrored_grid_is_another_grid_and_lands_right():
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = 3
    atlas = small_atlas()
    atlas.labels[:, :, 0] = 7
    atlas.names[7] = "left edge"
    with pytest.raises(BadGeometry):
        lay_over(atlas, (4, 4, 4), mirrored)
    found = lay_over(atlas, (4, 4, 4), mirrored, resample=True)
    place = np.zeros((4, 4, 4))
    place[:, :, 3] = 1
    assert found.means(place).tolist() == [0, 0, 1]


def test_spheres_hold_the_voxels_within_their_radius():
    affine = np.diag([2.0, 3, 4, 1])
    affine[:3, 3] = [-10, -20, 5]
    sphere = SphereAtlas(("a", "b"), np.array([[0.0, 1, 30], [1, 2, 29]]), np.array([7.0, 4.0]))
    found = lay_over(sphere, (12, 15, 14), affine)
    z, y, x = np.indices((12, 15, 14))
    mm = np.stack([2 * x - 10, 3 * y - 20, 4 * z + 5], axis=-1)
    for region, (centre, radius) in enumerate(zip(sphere.centres_mm, sphere.radii_mm, strict=True)):
        inside = np.linalg.norm(mm - centre, axis=-1) <= radius + 1e-6
        assert inside.sum() > 3
        values = np.random.default_rng(0).standard_normal(inside.shape)
        assert found.means(values)[region] == pytest.approx(values[inside].mean())


def test_a_sphere_outside_the_scan_or_between_its_voxels_is_lost():
    outside = SphereAtlas(("in", "out"), np.array([[5.0, 5, 5], [99, 5, 5]]), np.array([3.0, 3]))
    with pytest.raises(LostRegion, match="no voxel on the scan's grid: out"):
        lay_over(outside, (10, 10, 10), np.eye(4))
    between = SphereAtlas(("tiny",), np.array([[5.5, 5.5, 5.5]]), np.array([0.5]))
    with pytest.raises(LostRegion, match="scan's grid: tiny"):
        lay_over(between, (10, 10, 10), np.eye(4))


@pytest.mark.parametrize(
    ("file", "n", "first", "radius"),
    [
        ("power_2011.csv", 264, "001", 5.0),
        ("dosenbach_2010.csv", 160, "001-vmPFC", 5.0),
        ("seitzman_2018_ROIs_300inVol_MNI_allInfo.txt", 300, "001", 5.0),
    ],
)
def test_published_coordinates_are_read(file, n, first, radius, shared_data):
    found = read_coordinates(shared_data / "brain" / "atlas" / file)
    assert len(set(found.names)) == n
    assert found.names[0] == first
    assert found.radii_mm[0] == radius
    # Inside the box of an MNI brain.
    assert (np.abs(found.centres_mm - [0, -18, 10]) < [80, 100, 80]).all()


def test_seitzmans_own_radii_count(shared_data):
    file = "seitzman_2018_ROIs_300inVol_MNI_allInfo.txt"
    found = read_coordinates(shared_data / "brain" / "atlas" / file, radius_mm=9)
    assert set(found.radii_mm) == {4.0, 5.0}


def test_bold_series_are_those_of_nilearn(shared_data):
    from nilearn.maskers import NiftiSpheresMasker

    path = shared_data / "brain" / "nifti" / "nibabel_functional.nii"
    volume = open_volume(path)
    seeds = np.array([[0.0, 0, 0], [12, 16, 4], [-16, 9, 8]])
    parcellation = lay_over(
        SphereAtlas(("a", "b", "c"), seeds, np.full(3, 8.5)), volume.shape[-3:], volume.affine
    )
    ours = region_series(volume, parcellation)
    masker = NiftiSpheresMasker(seeds=[tuple(s) for s in seeds], radius=8.5, standardize=None)
    theirs = masker.fit_transform(nibabel.load(path))
    assert ours.shape == (20, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_scan_becomes_a_functional_network(shared_data, tmp_path):
    scan = shared_data / "brain" / "nifti" / "nibabel_functional.nii"
    table = tmp_path / "seeds.csv"
    table.write_text("name,x,y,z\na,0,0,0\nb,10,10,4\nc,-12,4,8\n")
    found = from_series(scan, SeriesRecipe(), AtlasRecipe(coordinates=table, radius_mm=9))
    assert found.regions == ("1-a", "2-b", "3-c")
    assert found.subject == "nibabel_functional"
    assert found.adjacency[0, 1] != 0
    power = shared_data / "brain" / "atlas" / "power_2011.csv"
    with pytest.raises(LostRegion, match=r"nibabel_functional\.nii: .* of 264 regions"):
        from_series(scan, SeriesRecipe(), AtlasRecipe(coordinates=power))
    short = shared_data / "brain" / "nifti" / "nibabel_example4d.nii.gz"
    with pytest.raises(BadSeries, match="2 time points are too few"):
        from_series(short, SeriesRecipe(), AtlasRecipe(coordinates=table, radius_mm=9))
    volume = shared_data / "brain" / "nifti" / "spm_EPI.nii.gz"
    with pytest.raises(BadGeometry, match="no time axis"):
        from_series(volume, SeriesRecipe(), AtlasRecipe(coordinates=table))


def test_a_voxel_that_is_lost_once_is_left_out_of_all_times(tmp_path):
    rng = np.random.default_rng(0)
    xyzt = rng.standard_normal((4, 4, 4, 15)).astype(np.float32)
    xyzt[1, 1, 1, 7] = np.nan
    volume = open_volume(save(tmp_path / "bold.nii.gz", xyzt, np.eye(4)))
    found = region_series(volume, lay_over(small_atlas(), (4, 4, 4), np.eye(4)))
    whole = np.ones((4, 4, 2), bool)
    whole[1, 1, 1] = False
    np.testing.assert_allclose(found[:, 1], xyzt[:, :, :2][whole].mean(axis=0), rtol=1e-5)


def test_names_come_from_tables_too_and_choose_the_regions(tmp_path):
    labels = np.zeros((4, 4, 4), np.int16)
    labels[0], labels[1], labels[2] = 1, 2, 3
    path = save(tmp_path / "parc.nii.gz", labels, np.eye(4))
    assert list(read_atlas(path).names.values()) == ["label-1", "label-2", "label-3"]
    (tmp_path / "parc.tsv").write_text("index\tname\n0\tbackground\n3\tlow\n1\thigh\n")
    assert read_atlas(path).names == {3: "low", 1: "high"}
    other = tmp_path / "other.csv"
    other.write_text("Index,Name\n2,middle\n9,nowhere\n")
    atlas = read_atlas(path, other)
    with pytest.raises(LostRegion, match=r"no voxel .*: nowhere"):
        lay_over(atlas, (4, 4, 4), np.eye(4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,name\n1,a\n1,b\n", "twice"),
        ("index,name\n1,a\n2,a\n", "twice"),
        ("label,title\n1,a\n", "index and name"),
        ("index,name\none,a\n", "no whole number"),
    ],
)
def test_bad_names_are_refused(tmp_path, text, message):
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=message):
        read_label_names(path)


def test_a_probability_map_is_no_atlas(shared_data):
    with pytest.raises(UnreadableFile, match="no labels"):
        read_atlas(shared_data / "brain" / "nifti" / "spm_grey.nii.gz")


@pytest.mark.parametrize(
    ("text", "message"),
    [("x,y\n1,2\n", "x, y and z"), ("x,y,z\n1,2,three\n", "no number"), ("x,y,z\n", "missing")],
)
def test_bad_coordinates_are_refused(tmp_path, text, message):
    path = tmp_path / "seeds.csv"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=message):
        read_coordinates(path)
    with pytest.raises(MissingFile):
        read_coordinates(tmp_path / "nothing.csv")
