"""What a blur of known width takes from regions of a real brain, correction gives back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import fourier_gaussian

from microtome.engine.volumes import open_volume
from microtome.graphs.partial_volume import (
    blur,
    correct_means,
    mueller_gaertner,
    transfer_matrix,
)
from microtome.graphs.regions import LabelAtlas, Parcellation, SphereAtlas, lay_over
from microtome.graphs.scans import read_atlas
from microtome.storage.errors import BadGeometry, BadSeries

FWHM_MM = 8.0
SPACING_MM = (2.0, 2.0, 2.0)


def scanner(truth: np.ndarray, fwhm_mm: float = FWHM_MM) -> np.ndarray:
    """A point spread function laid on in Fourier space, not by the filter that is under test."""
    sigma = fwhm_mm / 2.354820045 / np.array(SPACING_MM)
    return np.fft.irfftn(
        fourier_gaussian(np.fft.rfftn(truth), sigma, n=truth.shape[-1]),
        truth.shape,
        axes=(0, 1, 2),
    )


@pytest.fixture(scope="module")
def brain(shared_data) -> Parcellation:
    atlas = read_atlas(shared_data / "brain" / "atlas" / "labels_Neuromorphometrics.nii.gz")
    scan = open_volume(shared_data / "brain" / "nifti" / "spm_PET.nii.gz")
    fewer = atlas.without(["Right vessel", "Left vessel"])
    return lay_over(fewer, scan.shape, scan.affine, resample=True)


@pytest.fixture(scope="module")
def transfer(brain) -> np.ndarray:
    return transfer_matrix(brain, FWHM_MM, SPACING_MM)


def painted(brain: Parcellation, uptake: np.ndarray, outside: float) -> np.ndarray:
    image = brain.members.T @ uptake
    covered = np.asarray(brain.members.sum(axis=0)) > 0
    return np.where(covered, image, outside).reshape(brain.shape)


def is_large(brain: Parcellation) -> np.ndarray:
    """Regions wider than twice the blur: the sphere of their volume is."""
    volume_mm3 = brain.n_voxels * np.prod(SPACING_MM)
    return 2 * np.cbrt(volume_mm3 * 3 / (4 * np.pi)) > 2 * FWHM_MM


def test_a_blur_of_known_width_is_undone_in_regions_above_two_widths(brain, transfer):
    rng = np.random.default_rng(0)
    uptake = rng.uniform(1, 8, len(brain.names))
    seen = scanner(painted(brain, uptake, 0.3))
    seen += rng.normal(0, 0.05 * seen.mean(), seen.shape)
    corrected = correct_means(seen, brain, transfer)
    large = is_large(brain)
    assert large.sum() > 100
    before = np.abs(brain.means(seen) / uptake - 1)[large]
    after = np.abs(corrected / uptake - 1)[large]
    assert before.max() > 0.3
    assert after.max() < 0.03


def test_every_frame_is_corrected_by_itself(brain, transfer):
    seen = np.random.default_rng(0).random((2, *brain.shape))
    both = correct_means(seen, brain, transfer)
    np.testing.assert_allclose(both[1], correct_means(seen[1], brain, transfer))


def test_what_a_region_sends_out_is_received(brain, transfer):
    """Away from the edge of the scan nothing is lost, and an even brain needs no correction."""
    counts = np.r_[brain.n_voxels, np.prod(brain.shape) - brain.n_voxels.sum()]
    sent = (counts[:, None] * transfer).sum(axis=0) / counts
    np.testing.assert_allclose(sent[:-1], 1, atol=2e-3)
    np.testing.assert_allclose(transfer[:-1].sum(axis=1), 1, atol=2e-3)
    assert (transfer >= -1e-9).all()
    # A pair of regions exchanges as much in one direction as in the other.
    exchanged = counts[:, None] * transfer
    np.testing.assert_allclose(exchanged, exchanged.T, atol=1e-6 * counts.max())


def test_the_blur_has_the_width_that_is_asked_for():
    point = np.zeros((41, 41, 41))
    point[20, 20, 20] = 1
    seen = blur(point, (6.0, 8.0, 10.0), (2.0, 2.0, 2.0))
    assert seen.sum() == pytest.approx(1, abs=1e-3)
    for axis, half_vox in enumerate((1.5, 2.0, 2.5)):
        line = seen[tuple(slice(None) if a == axis else 20 for a in range(3))]
        half = np.interp(20 + half_vox, np.arange(41), line)
        assert half == pytest.approx(line[20] / 2, rel=0.04)


@pytest.fixture(scope="module")
def tissue(shared_data) -> dict[str, np.ndarray]:
    folder = shared_data / "brain" / "nifti"
    return {
        name: np.asarray(open_volume(folder / f"spm_{name}.nii.gz").data)
        for name in ("grey", "white", "csf")
    }


def test_grey_matter_shows_what_it_would_without_blur(tissue, brain):
    rng = np.random.default_rng(0)
    factor = painted(brain, rng.uniform(3, 5, len(brain.names)), 4.0)
    truth = tissue["grey"] * factor + tissue["white"] * 1.2 + tissue["csf"] * 0.1
    seen = scanner(truth, 6.0)
    corrected = mueller_gaertner(
        seen, tissue["grey"], tissue["white"], csf=tissue["csf"], csf_uptake=0.1,
        fwhm_mm=6.0, spacing_mm=SPACING_MM,
    )  # fmt: skip
    even = mueller_gaertner(
        scanner(tissue["grey"] * 4.0 + tissue["white"] * 1.2), tissue["grey"], tissue["white"],
        fwhm_mm=FWHM_MM, spacing_mm=SPACING_MM,
    )  # fmt: skip
    known = np.isfinite(even)
    assert known.sum() > 50_000
    assert np.abs(np.median(even[known]) / 4.0 - 1) < 0.01
    assert np.quantile(np.abs(even[known] / 4.0 - 1), 0.95) < 0.03
    # Where neighbours differ, the image of one still shines into the other, the white does not.
    grey = (corrected > 0) & (tissue["grey"] > 0.7)
    before = np.median(np.abs(seen / factor - 1)[grey])
    assert np.median(np.abs(corrected / factor - 1)[grey]) < before / 4


def test_what_cannot_be_corrected_is_refused(brain, transfer, tissue):
    seen = np.ones(brain.shape)
    seen[0, 0, 0] = np.nan
    with pytest.raises(BadSeries, match="voxels without a value"):
        correct_means(seen, brain, transfer)
    with pytest.raises(BadGeometry, match="no width"):
        transfer_matrix(brain, 0.0, SPACING_MM)
    spheres = SphereAtlas(("a", "b"), np.array([[5.0, 5, 5], [7, 5, 5]]), np.array([4.0, 4.0]))
    shared = lay_over(spheres, (12, 12, 12), np.eye(4))
    with pytest.raises(BadGeometry, match="share voxels"):
        transfer_matrix(shared, 5.0, (1, 1, 1))
    squares = np.indices((24, 24, 24)).sum(axis=0) % 2 + 1
    mixed = lay_over(LabelAtlas(squares, np.eye(4), {1: "odd", 2: "even"}), (24,) * 3, np.eye(4))
    with pytest.raises(BadSeries, match=r"cannot be told apart .* the most blurred is"):
        correct_means(np.ones((24,) * 3), mixed, transfer_matrix(mixed, 8.0, (1, 1, 1)))
    grey, white = tissue["grey"], tissue["white"]
    with pytest.raises(BadGeometry, match="not on the grid"):
        mueller_gaertner(seen[:5], grey, white, fwhm_mm=6, spacing_mm=SPACING_MM)
    with pytest.raises(BadGeometry, match="beyond 0 to 1"):
        mueller_gaertner(grey, grey * 255, white, fwhm_mm=6, spacing_mm=SPACING_MM)
    with pytest.raises(BadSeries, match="white matter alone"):
        mueller_gaertner(grey, grey, white, fwhm_mm=60, spacing_mm=SPACING_MM)
