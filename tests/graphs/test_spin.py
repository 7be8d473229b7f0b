"""Spin tests: turns written out, even rotations, and p-values that hold for smooth maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from microtome.graphs.spin import (
    random_rotations,
    sphere_centroids,
    spin_orders,
    spin_test,
)
from microtome.storage.errors import BadConnectome, CohortError


def fibonacci(n: int, radius: float = 100.0) -> np.ndarray:
    """Places spread evenly over a sphere."""
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    flat = np.sqrt(1 - z**2)
    return radius * np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)


@pytest.fixture(scope="module")
def cortex() -> tuple[np.ndarray, list[str]]:
    """Two hemispheres whose places are not each other's mirror images."""
    places = np.concatenate([fibonacci(50), fibonacci(43)])
    return places, ["L"] * 50 + ["R"] * 43


def test_turns_are_those_of_the_paper_written_out(cortex):
    """Left by R, right by its mirror image; each place takes the value of the nearest turned."""
    places, sides = cortex
    orders = spin_orders(places, sides, 6, seed=3)
    for order, rotation in zip(orders, random_rotations(6, seed=3), strict=True):
        for i, place in enumerate(places):
            best, least = -1, np.inf
            for j, other in enumerate(places):
                if sides[j] != sides[i]:
                    continue
                if sides[j] == "L":
                    moved = rotation @ other
                else:
                    x, y, z = rotation @ np.array([-other[0], other[1], other[2]])
                    moved = np.array([-x, y, z])
                distance = np.sqrt(((moved - place) ** 2).sum())
                if distance < least:
                    best, least = j, distance
            assert order[i] == best


def test_taken_once_no_other_way_is_shorter(cortex):
    places, sides = cortex
    few = np.r_[0:6, 50:55]
    places, sides = places[few], [sides[i] for i in few]
    once = spin_orders(places, sides, 20, match="once", seed=1)
    nearest = spin_orders(places, sides, 20, seed=1)
    assert (np.sort(once, axis=1) == np.arange(11)).all()
    assert any(len(set(order.tolist())) < 11 for order in nearest)
    rng = np.random.default_rng(0)
    for order, rotation in zip(once, random_rotations(20, seed=1), strict=True):
        turned = places[:6] @ rotation.T
        length = np.linalg.norm(places[:6] - turned[order[:6]], axis=1).sum()
        for _ in range(50):
            other = rng.permutation(6)
            assert length <= np.linalg.norm(places[:6] - turned[other], axis=1).sum() + 1e-9


def test_rotations_are_rotations_and_favour_no_direction():
    found = random_rotations(20_000, seed=0)
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.tile(np.eye(3), (20_000, 1, 1)),
                               atol=1e-12)  # fmt: skip
    np.testing.assert_allclose(np.linalg.det(found), 1)
    # Where a pole comes to lie is even on the sphere: each coordinate even in -1 … 1 (Archimedes).
    for axis in range(3):
        even = stats.kstest(found[:, axis, 2], "uniform", args=(-1, 2))
        assert even.pvalue > 0.001
    # The angle of an even rotation has the density (1 - cos) / π.
    angle = np.arccos(np.clip((np.trace(found, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 0.001


def smooth_maps(places: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Noise averaged over a wide neighbourhood on each hemisphere: [n, r]."""
    rng = np.random.default_rng(seed)
    directions = places / np.linalg.norm(places, axis=1, keepdims=True)
    weight = np.exp(4 * directions @ directions.T)
    return rng.standard_normal((n, len(places))) @ weight


def test_smooth_maps_that_have_nothing_in_common_are_seldom_called_alike():
    places = fibonacci(120)
    sides = ["L"] * 120
    orders = spin_orders(places, sides, 199, seed=0)
    one, other = smooth_maps(places, 100, 1), smooth_maps(places, 100, 2)
    p = [spin_test(a, b, orders).p for a, b in zip(one, other, strict=True)]
    naive = [stats.pearsonr(a, b).pvalue for a, b in zip(one, other, strict=True)]
    # 5 % of 100 is 5, with a standard deviation of 2.2; taken as independent it is most of them.
    assert np.mean(np.array(p) <= 0.05) <= 0.10
    assert np.mean(np.array(naive) <= 0.05) > 0.4


def test_maps_that_go_together_are_found(cortex):
    places, sides = cortex
    one, noise = smooth_maps(places, 2, 5)
    orders = spin_orders(places, sides, 499, seed=0)
    found = spin_test(one, one + 0.3 * noise * one.std() / noise.std(), orders)
    assert found.correlation > 0.9
    assert found.p == pytest.approx(1 / 500)
    ranks = spin_test(one, np.exp(one / one.std()), orders, correlation="spearman")
    assert ranks.correlation == pytest.approx(1)


def test_p_is_the_rank_among_the_turns_and_gaps_are_left_out(cortex):
    places, sides = cortex
    one, other = smooth_maps(places, 2, 7)
    one[3], other[60] = np.nan, np.nan
    orders = spin_orders(places, sides, 99, seed=2)
    found = spin_test(one, other, orders)
    null = []
    for order in orders:
        kept = [i for i in range(len(order)) if not np.isnan(one[order[i]] + other[i])]
        null.append(stats.pearsonr(one[order][kept], other[kept]).statistic)
    np.testing.assert_allclose(found.null, null)
    beyond = sum(abs(r) >= abs(found.correlation) for r in null)
    assert found.p == (1 + beyond) / 100


def test_the_middle_of_a_region_is_on_the_sphere():
    places = fibonacci(400)
    top, left = places[:, 2] > 90, places[:, 0] < -90
    regions = np.where(top, 0, np.where(left, 1, -1))
    found = sphere_centroids(places, regions, 2)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 100)
    np.testing.assert_allclose(found, [[0, 0, 100], [-100, 0, 0]], atol=4)
    with pytest.raises(BadConnectome, match="region 2"):
        sphere_centroids(places, regions, 3)


def test_what_does_not_lie_on_a_sphere_is_refused(cortex):
    places, sides = cortex
    with pytest.raises(BadConnectome, match="do not lie on a sphere"):
        spin_orders(places * [1, 1, 1.2], sides, 5)
    with pytest.raises(BadConnectome, match="do not lie on a sphere"):
        spin_orders(places + np.array([30, 0, 0]), sides, 5)
    with pytest.raises(BadConnectome, match="L or R"):
        spin_orders(places, ["M"] * len(places), 5)
    with pytest.raises(CohortError, match="do not fit"):
        spin_test(np.ones(3), np.ones(4), np.zeros((1, 3), int))
    with pytest.raises(CohortError, match="do not vary"):
        spin_test(np.ones(93), np.arange(93), spin_orders(places, sides, 2))
