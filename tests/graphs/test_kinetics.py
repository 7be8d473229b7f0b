"""Reference-tissue models against another program, and against their own differential equations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from microtome.graphs.kinetics import logan_reference, simplified_reference_tissue
from microtome.graphs.metabolic import suvr
from microtome.graphs.time_activity import FrameTimes, TimeActivity
from microtome.graphs.time_activity_files import read_frames, read_time_activity, read_voistat
from microtome.storage.errors import BadFrames, BadSeries

LOBES = {
    "frontal": (
        "FL_mid_fr_G FL_precen_G FL_strai_G FL_OFC_AOG FL_inf_fr_G FL_sup_fr_G FL_OFC_MOG "
        "FL_OFC_LOG FL_OFC_POG Subgen_antCing Subcall_area Presubgen_antCing"
    ),
    "temporal": (
        "Hippocampus Amygdala Ant_TL_med Ant_TL_inf_lat G_paraH_amb G_sup_temp_post G_tem_midin "
        "G_fus Post_TL G_sup_temp_ant"
    ),
    "parietal": "PL_postce_G PL_sup_pa_G PL_rest",
    "occipital": "OL_rest_lat OL_ling_G OL_cuneus",
    "cingulate": "G_cing_ant G_cing_post",
}
"""The lobes of Hammers' atlas as the R package tacmagic puts them together."""

TURKU_DVR = {
    None: [
        1.7315, 1.8223, 1.7025, 1.7985, 1.7137, 1.7989, 1.4318, 1.5549, 1.9185, 1.9504,
        1.7773, 1.7505, 1.7567, 1.4936, 1.9342, 1.7285,
    ],
    0.2: [
        1.7564, 1.8467, 1.7251, 1.8210, 1.7429, 1.8282, 1.4535, 1.5803, 1.9468, 1.9820,
        1.8021, 1.7731, 1.7859, 1.5172, 1.9642, 1.7537,
    ],
}  # fmt: skip
"""Turku PET Centre's ``logan`` 0.6.17 (-C -mid=y) on these curves, from tacmagic's tests.

Left and right of each lobe, then each lobe whole, then the cortex; by k2' per minute.
"""

EXCEL_SUVR = [
    2.070908798, 2.200106515, 2.043683307, 2.176933294, 2.054232043, 2.169382405,
    1.659831416, 1.827764715, 2.348674364, 2.396374707, 2.136008796, 2.110140275, 2.112264146,
    1.744257967, 2.371747235, 2.073093282,
]  # fmt: skip
"""Uptake ratios from 3000 to 4200 s of the same, worked out by hand for tacmagic's tests."""


@pytest.fixture(scope="module")
def curves(shared_data) -> TimeActivity:
    folder = shared_data / "brain" / "pet"
    frames = read_frames(folder / "AD06.acqtimes")
    return read_time_activity(folder / "AD06_TAC.voistat", frames=frames)


def cerebellum(curves: TimeActivity) -> np.ndarray:
    return curves.pooled([i for i, n in enumerate(curves.regions) if n.startswith("Cerebellum")])


def lobes(curves: TimeActivity) -> np.ndarray:
    """[t, 16], in the order of :data:`TURKU_DVR`."""
    parts = [text.split() for text in LOBES.values()]
    wanted = [[f"{name}_{side}" for name in names] for names in parts for side in "lr"]
    wanted += [[f"{name}_{side}" for name in names for side in "lr"] for names in parts]
    wanted += [[name for names in wanted[10:] for name in names]]
    return np.stack([curves.pooled([curves.regions.index(n) for n in w]) for w in wanted], axis=1)


@pytest.mark.parametrize("k2_prime", [None, 0.2])
def test_logan_gives_what_the_turku_program_gives(curves, k2_prime):
    fit = logan_reference(
        lobes(curves), cerebellum(curves), curves.frames, t_star_s=1200, k2_prime_per_min=k2_prime
    )
    # They are given to four decimals.
    np.testing.assert_allclose(fit.dvr, TURKU_DVR[k2_prime], atol=6e-5)


def test_uptake_ratios_of_a_window_are_those_worked_out_by_hand(curves):
    both = np.column_stack([lobes(curves), cerebellum(curves)])
    pooled = TimeActivity(both, curves.frames, tuple(f"r{i}" for i in range(17)))
    np.testing.assert_allclose(suvr(pooled.mean_over(3000, 4200), [16])[:16], EXCEL_SUVR, rtol=1e-8)


def test_the_maps_of_another_program_order_the_regions_alike(shared_data):
    """PMOD's file holds means of a voxel-wise map; no curve of a region gives those exactly."""
    folder = shared_data / "brain" / "pet"
    pmod = read_voistat(folder / "AD06_BPnd_BPnd_Logan.voistat")
    curves = read_time_activity(folder / "AD06.tac", corrected=True)
    mapped = dict(zip(pmod.regions, pmod.values[0], strict=True))
    unknown = [name for name, value in mapped.items() if np.isnan(value)]
    assert unknown == ["ThirdVentricl", "White_matter_l", "White_matter_r", "CBW"]
    kept = curves.without(unknown)
    fit = logan_reference(kept.complete(), cerebellum(curves), kept.frames, t_star_s=1200)
    theirs = [mapped[name] for name in kept.regions]
    assert np.corrcoef(fit.bp_nd, theirs)[0, 1] > 0.97


EDGES = np.r_[np.arange(0, 2, 0.25), np.arange(2, 10, 1), np.arange(10, 91, 5)]
FRAMES = FrameTimes(EDGES[:-1] * 60, EDGES[1:] * 60)


def plasma(t):
    return 60 * t * np.exp(-t / 1.5) + 4 * np.exp(-t / 40) * (1 - np.exp(-t / 2))


K1_PRIME, K2_PRIME = 0.1, 0.09


def simulated(r1: float, k2: float, bp: float) -> tuple[np.ndarray, np.ndarray]:
    """Means over frames of a target and its reference, from their differential equations.

    One tissue compartment each, driven by plasma: the model that the simplified one is exact for.
    """

    def slopes(t, state):
        reference, target, *_ = state
        rise = K1_PRIME * plasma(t)
        return [
            rise - K2_PRIME * reference,
            r1 * rise - k2 / (1 + bp) * target,
            reference,
            target,
        ]

    solved = solve_ivp(
        slopes, (0, EDGES[-1]), np.zeros(4), t_eval=EDGES, method="LSODA", rtol=1e-9, atol=1e-12,
        max_step=0.2,
    )  # fmt: skip
    means = np.diff(solved.y[2:], axis=1) / np.diff(EDGES)
    return means[1], means[0]


@pytest.mark.parametrize("bp", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("r1", [0.7, 1.0, 1.3])
def test_the_simplified_model_finds_what_was_put_in(bp, r1):
    target, reference = simulated(r1, r1 * K2_PRIME, bp)
    fit = simplified_reference_tissue(target[:, None], reference, FRAMES)
    assert fit.bp_nd[0] == pytest.approx(bp, abs=0.01 * (1 + bp))
    assert fit.r1[0] == pytest.approx(r1, rel=0.01)
    # Equal curves fit with any efflux.
    if (r1, bp) != (1.0, 0.0):
        assert fit.k2_prime_per_min[0] == pytest.approx(K2_PRIME, rel=0.03)
    assert not fit.at_bound[0]


def test_the_line_of_logan_ends_at_the_same_binding():
    target, reference = simulated(1.1, 1.1 * K2_PRIME, 1.0)
    fit = logan_reference(
        target[:, None], reference, FRAMES, t_star_s=1800, k2_prime_per_min=K2_PRIME
    )
    assert fit.bp_nd[0] == pytest.approx(1.0, rel=0.02)
    assert fit.max_error[0] < 0.01


def test_logan_of_curves_with_a_constant_ratio_is_the_ratio():
    reference = np.array([quad(plasma, a, b)[0] for a, b in pairwise(EDGES)])
    reference /= np.diff(EDGES)
    fit = logan_reference(np.outer(reference, [1.0, 2.5]), reference, FRAMES)
    np.testing.assert_allclose(fit.dvr, [1.0, 2.5])
    np.testing.assert_allclose(fit.t_star_s, 0)
    np.testing.assert_allclose(fit.max_error, 0, atol=1e-9)


def test_t_star_is_the_first_frame_from_which_no_point_is_off(curves):
    target, base = lobes(curves), cerebellum(curves)
    fit = logan_reference(target, base, curves.frames, max_error=0.03)
    assert (fit.max_error <= 0.03).all()
    assert (fit.t_star_s > 0).all()
    for region, start in enumerate(fit.t_star_s):
        before = curves.frames.start_s[np.searchsorted(curves.frames.start_s, start) - 1]
        earlier = logan_reference(target[:, [region]], base, curves.frames, t_star_s=before)
        assert earlier.max_error[0] > 0.03


def test_a_binding_that_cannot_be_told_is_not_a_number():
    target, reference = simulated(1.0, K2_PRIME, 1.0)
    fit = simplified_reference_tissue(target[:, None], reference, FRAMES, k2a_per_min=(0.1, 0.6))
    assert fit.at_bound[0]
    assert np.isnan(fit.bp_nd[0])


def test_scans_that_kinetics_cannot_be_had_of_are_refused(curves):
    target, base = lobes(curves), cerebellum(curves)
    late = FrameTimes(curves.frames.start_s + 600, curves.frames.end_s + 600)
    with pytest.raises(BadFrames, match="begins 600 s after the injection"):
        logan_reference(target, base, late)
    start, end = curves.frames.start_s.copy(), curves.frames.end_s.copy()
    start[30:] += 900
    end[30:] += 900
    with pytest.raises(BadFrames, match="nothing was measured from 3300 to 4200 s"):
        simplified_reference_tissue(target, base, FrameTimes(start, end))
    with pytest.raises(BadFrames, match="2 frames after"):
        logan_reference(target, base, curves.frames, t_star_s=4200)
    with pytest.raises(BadSeries, match="not positive"):
        logan_reference(target - 100, base, curves.frames, t_star_s=3000)
    with pytest.raises(BadFrames, match="do not fit 34 frames"):
        logan_reference(target[:5], base, curves.frames)
