"""Pictures of connectomes show what is in them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from microtome.graphs.plots import plot_connectome, strongest_edges
from microtome.graphs.simulate import simulate_cohort
from microtome.storage.connectomes import Connectome


def network(weight: float = 0.8, *, centroids: bool = True) -> Connectome:
    cohort = simulate_cohort(4, 20, 20)
    adjacency = np.full((20, 20), weight)
    return Connectome(
        adjacency,
        cohort.regions,
        "pearson",
        "fMRI",
        "s1",
        cohort.centroids_mm if centroids else None,
    )


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_strongest_edges_are_chosen_by_size_and_drawn_last():
    w = np.zeros((4, 4))
    for (i, j), weight in {(0, 1): 0.2, (1, 3): -0.9, (2, 3): 0.5}.items():
        w[i, j] = w[j, i] = weight
    assert strongest_edges(w, 2).tolist() == [[2, 3], [1, 3]]
    assert strongest_edges(w, 10).tolist() == [[0, 1], [2, 3], [1, 3]]


def test_negative_weights_are_blue_and_positive_ones_are_not(tmp_path):
    def blue_share(weight):
        picture = pixels(plot_connectome(network(weight), tmp_path / "a.png", modules=[0] * 20))
        matrix = picture[:, int(picture.shape[1] * 0.66) : int(picture.shape[1] * 0.88)]
        return (matrix[..., 2] > matrix[..., 0] + 40).mean()

    assert blue_share(-0.8) > 0.3
    assert blue_share(0.8) < 0.02


@pytest.mark.parametrize("centroids", [True, False])
def test_without_centroids_only_the_matrix_is_drawn(tmp_path, centroids):
    path = plot_connectome(network(centroids=centroids), tmp_path / "a.png")
    assert (pixels(path).shape[1] > 1000) == centroids


def test_equal_networks_give_equal_files_and_an_empty_one_can_be_drawn(tmp_path):
    one = plot_connectome(network(), tmp_path / "a.png").read_bytes()
    assert plot_connectome(network(), tmp_path / "b.png").read_bytes() == one
    assert plot_connectome(network(0.0), tmp_path / "c.png").read_bytes() != one
