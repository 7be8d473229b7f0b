"""MIND: the estimator written out over all pairs, divergences known in closed form, and files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.freesurfer import write_annot, write_morph_data
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.graphs.build import from_vertices
from microtome.graphs.freesurfer import VERTEX_FEATURES, read_vertices
from microtome.graphs.mind import morphometric_inverse_divergence, standardised_vertices
from microtome.storage.connectomes import read_connectomes
from microtome.storage.errors import BadSeries, LostRegion, MissingFile

REGIONS = ("bankssts", "cuneus", "insula")


def written_out(vertices):
    """Sebenius et al. (2023), methods, with Pérez-Cruz (2008), eq. 14, over all distances."""

    def divergence(p, q):
        total = 0.0
        for i, x in enumerate(p):
            r = min(np.sqrt(((x - y) ** 2).sum()) for j, y in enumerate(p) if j != i)
            s = min(np.sqrt(((x - y) ** 2).sum()) for y in q)
            if r > 0 and s > 0:
                total += np.log(s / r)
        return max(0.0, p.shape[1] / len(p) * total + np.log(len(q) / (len(p) - 1)))

    n = len(vertices)
    found = np.eye(n)
    for i in range(n):
        for j in range(n):
            if i != j:
                both = divergence(vertices[i], vertices[j]) + divergence(vertices[j], vertices[i])
                found[i, j] = 1 / (1 + both)
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_it_is_the_estimator_written_out(seed, n_features, twins):
    rng = np.random.default_rng(seed)
    vertices = [rng.normal(rng.normal(), 1, (rng.integers(2, 12), n_features)) for _ in range(4)]
    if twins:
        # FreeSurfer gives some vertices the same values, within a region and across two.
        vertices[0][1] = vertices[0][0]
        vertices[1][0] = vertices[2][0]
    found = morphometric_inverse_divergence(vertices)
    np.testing.assert_allclose(found, written_out(vertices), rtol=1e-9)
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found) == 1).all()
    assert ((found > 0) & (found <= 1)).all()
    order = rng.permutation(4)
    moved = morphometric_inverse_divergence([vertices[i] for i in order])
    np.testing.assert_allclose(moved, found[np.ix_(order, order)])


def test_normal_distributions_have_the_divergence_of_the_textbook():
    """Both ways, d m² between N(0, I) and N(m, I); in the tails neighbours are too few, so near."""
    rng = np.random.default_rng(0)
    d, shift, n = 2, 0.5, 20_000
    p, q = rng.standard_normal((n, d)), shift + rng.standard_normal((n, d))
    found = morphometric_inverse_divergence([p, q])[0, 1]
    assert 1 / found - 1 == pytest.approx(d * shift**2, rel=0.1)


def test_features_count_alike_whatever_their_unit():
    rng = np.random.default_rng(1)
    values, place = rng.standard_normal((60, 3)), np.arange(60) % 4 - 1
    one, other = (
        morphometric_inverse_divergence(standardised_vertices(v, place, 3))
        for v in (values, values * [1, 1000, 0.01] + [5, -8, 0])
    )
    np.testing.assert_allclose(one, other)
    inside = np.concatenate(standardised_vertices(values, place, 3))
    np.testing.assert_allclose(inside.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(inside.std(axis=0), 1)


@pytest.mark.parametrize(
    ("vertices", "words"),
    [
        ([np.ones((3, 2))], "two regions"),
        ([np.ones((3, 2)), np.ones((1, 2))], "region 1"),
        ([np.ones((3, 2)), np.ones((3, 1))], "region 1"),
        ([np.ones((3, 2)), np.full((3, 2), np.nan)], "not a finite number"),
    ],
)
def test_what_has_no_distribution_is_refused(vertices, words):
    with pytest.raises(BadSeries, match=words):
        morphometric_inverse_divergence(vertices)


def test_a_feature_that_does_not_vary_is_refused():
    with pytest.raises(BadSeries, match="feature 2 is the same"):
        standardised_vertices(np.array([[1.0, 2], [3, 2], [4, 2]]), [0, 0, 1], 2)


@pytest.fixture
def subject(tmp_path):
    """A small cortex as recon-all lays it out; the fourth name is in no vertex's label."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "sub-01"
    (folder / "surf").mkdir(parents=True)
    (folder / "label").mkdir()
    kept = {}
    for side in ("lh", "rh"):
        place = np.repeat([0, 1, 2, 3], 30)
        table = np.column_stack([np.arange(1, 21).reshape(5, 4), np.zeros(5)]).astype(int)
        names = ["unknown", *REGIONS, "nowhere"]
        write_annot(folder / "label" / f"{side}.aparc.annot", place, table, names, True)
        features = rng.uniform(0.5, 4, (120, 5)).astype(np.float32)
        features[60, 0] = 0
        for name, column in zip(VERTEX_FEATURES, features.T, strict=True):
            write_morph_data(folder / "surf" / f"{side}.{name}", column)
        inside = (place > 0) & (np.arange(120) != 60)
        kept[side] = (features[inside], place[inside] - 1)
    return folder, kept


def test_vertices_of_the_cortex_are_read_with_their_regions(subject):
    folder, kept = subject
    found = read_vertices(folder)
    assert found.regions == tuple(f"{side}_{name}" for side in ("lh", "rh") for name in REGIONS)
    for number, name in enumerate(found.regions):
        features, place = kept[name[:2]]
        np.testing.assert_allclose(
            found.values[found.place == number], features[place == number % 3], rtol=1e-6
        )
    # Of 120 each, 30 lie outside the cortex and one has no thickness.
    assert (found.place < 0).sum() == 62


def test_a_subject_becomes_a_network_in_one_command(subject):
    folder, kept = subject
    out = folder.parent / "mind"
    ended = CliRunner().invoke(
        app, ["connectome", "build", str(folder), "--method", "mind", "-o", str(out)]
    )
    assert ended.exit_code == 0, ended.output
    cohort = read_connectomes(folder.parent / "mind.connectomes.zarr")
    assert (cohort.subjects, cohort.measure, cohort.modality) == (("sub-01",), "mind", "sMRI")
    values = np.concatenate([kept["lh"][0], kept["rh"][0]]).astype(float)
    place = np.concatenate([kept["lh"][1], kept["rh"][1] + 3])
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    expected = written_out([z[place == i] for i in range(6)]) - np.eye(6)
    np.testing.assert_allclose(cohort.adjacency[0], expected, rtol=1e-5, atol=1e-9)


def test_what_is_missing_is_named(subject):
    folder, _ = subject
    (folder / "surf" / "rh.sulc").unlink()
    with pytest.raises(MissingFile, match=r"rh\.sulc"):
        read_vertices(folder)


def test_a_region_without_vertices_is_an_error_that_names_it(subject):
    folder, _ = subject
    thin = np.ones(120, np.float32)
    thin[30:60] = 0
    write_morph_data(folder / "surf" / "lh.thickness", thin)
    with pytest.raises(LostRegion, match="lh_bankssts"):
        from_vertices(folder)
