"""Uptake ratios against figures of another program, and metabolic networks of real PET."""

from __future__ import annotations

import numpy as np
import pytest

from microtome.graphs.build import AtlasRecipe, from_distributions, from_group
from microtome.graphs.metabolic import jsse, metabolic_covariance, suvr
from microtome.graphs.scans import choose_regions
from microtome.graphs.tables import read_region_table, read_table
from microtome.storage.errors import BadSeries, CohortError


def test_a_ratio_is_one_over_the_reference():
    uptake = np.array([[4.0, 2.0, 1.0], [10.0, 4.0, 6.0]])
    np.testing.assert_allclose(suvr(uptake, [1]), [[2, 1, 0.5], [2.5, 1, 1.5]])
    np.testing.assert_allclose(suvr(uptake[0], [1, 2], n_voxels=[9, 1, 3])[0], 4 / 1.25)
    np.testing.assert_allclose(suvr(uptake * 37_000, [0, 2]), suvr(uptake, [0, 2]))
    assert suvr(uptake, [0, 2])[:, [0, 2]].mean(axis=1) == pytest.approx([1, 1])


def test_no_reference_or_one_without_uptake_is_refused():
    with pytest.raises(BadSeries, match="no reference"):
        suvr([1.0, 2.0], [])
    with pytest.raises(BadSeries, match="no uptake"):
        suvr([[1.0, 2.0], [1.0, 0.0]], [1])


def pib(shared_data):
    path = shared_data / "brain" / "pet" / "PiB_uptake.csv"
    names = [c for c in read_table(path).columns if c.endswith(("_Left", "_Right"))]
    return read_region_table(path, subject_column="Filename", regions=names)


def test_a_group_of_amyloid_scans_makes_a_network(shared_data):
    table = pib(shared_data)
    network = from_group(table, modality="PET")
    assert (network.modality, network.measure, network.subject) == (
        "PET",
        "group-covariance",
        "group",
    )
    np.testing.assert_allclose(
        network.adjacency + np.eye(len(table.regions)), np.corrcoef(table.values.T), atol=1e-12
    )
    # Amyloid load varies between people far more than between regions of one cortex.
    assert np.median(network.adjacency) > 0.8


def test_the_unit_of_uptake_and_so_a_common_factor_a_person_drops_out_of_ratios(shared_data):
    table = pib(shared_data)
    reference = choose_regions(table.regions, "cerebel")
    assert len(reference) > 2
    factors = np.random.default_rng(0).uniform(0.5, 2, len(table.subjects))[:, None]
    one = metabolic_covariance(table.values, reference=reference)
    other = metabolic_covariance(table.values * factors, reference=reference)
    np.testing.assert_allclose(one, other, atol=1e-10)
    with pytest.raises(CohortError, match="no region is called"):
        choose_regions(table.regions, "pineal")


@pytest.fixture(scope="module")
def pet_network(shared_data):
    brain = shared_data / "brain"
    recipe = AtlasRecipe(
        atlas=brain / "atlas" / "labels_Neuromorphometrics.nii.gz",
        resample=True,
        leave_out=("Right vessel", "Left vessel"),
    )
    return from_distributions(brain / "nifti" / "spm_PET.nii.gz", recipe, method="jsse")


def test_one_pet_scan_makes_a_network_in_which_both_sides_are_alike(pet_network):
    a, names = pet_network.adjacency, pet_network.regions
    assert a.shape == (134, 134)
    off = a[~np.eye(134, dtype=bool)]
    assert (off >= 0).all()
    assert (off <= 1).all()
    np.testing.assert_array_equal(a, a.T)
    pairs = [(i, names.index("Left" + n[5:])) for i, n in enumerate(names) if n.startswith("Right")]
    homologous = np.array([a[i, j] for i, j in pairs])
    assert len(pairs) > 60
    assert np.median(homologous) > np.median(off) + 0.25


def test_the_unit_of_a_single_scan_plays_no_part():
    rng = np.random.default_rng(0)
    regions = [rng.gamma(4, size=n) for n in (30, 60, 200)]
    np.testing.assert_allclose(jsse([37 * r + 5 for r in regions]), jsse(regions), atol=1e-9)
