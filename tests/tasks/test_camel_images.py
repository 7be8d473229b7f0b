"""The lattice of instances, and labels painted back onto pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microtome.storage.errors import BadGeometry, LabelError
from microtome.tasks.camel.images import ImageSet, instances, painted
from microtome.tasks.camel.lattice import describe


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.data())
def test_an_instance_is_its_window_of_the_image(
    grid: int, px: int, n: int, data: st.DataObject
) -> None:
    images = data.draw(arrays(np.uint8, (n, grid * px, grid * px, 3)))
    cut = instances(images, grid)
    for row in range(grid):
        for column in range(grid):
            window = images[:, row * px : (row + 1) * px, column * px : (column + 1) * px]
            assert np.array_equal(cut[:, row, column], window)


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_a_pixel_has_the_label_of_the_instance_that_it_lies_in(
    grid: int, px: int, data: st.DataObject
) -> None:
    labels = data.draw(arrays(np.uint8, (2, grid, grid), elements=st.integers(0, 1)))
    masks = painted(labels, grid * px)
    y, x = np.indices((grid * px, grid * px)) // px
    assert np.array_equal(masks, labels[:, y, x])


def test_an_image_that_does_not_part_evenly_is_refused() -> None:
    with pytest.raises(BadGeometry, match="10 px"):
        instances(np.zeros((1, 10, 10, 3), np.uint8), 4)
    with pytest.raises(BadGeometry, match="10 px"):
        painted(np.zeros((1, 4, 4), np.uint8), 10)


def test_images_need_one_label_and_one_group_each() -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(LabelError, match="2 images, but 2 labels, 1 slides"):
        ImageSet(pixels, np.array([True, False]), ("a",))
    with pytest.raises(BadGeometry, match="float64"):
        ImageSet(pixels.astype(float), np.array([True, False]), ("a", "b"))  # type: ignore[arg-type]


def test_instances_of_pixel_backbones_are_cut_where_they_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (5, 48, 48, 3)).astype(np.uint8)
    images = ImageSet(pixels, np.arange(5) % 2 == 1, tuple("abcde"))
    lattice = describe(images, 4, backbone="resnet", mpp=0.5)
    whole = instances(pixels, 4).reshape(5, 16, 12, 12, 3)
    assert np.shares_memory(lattice.values.pixels, pixels)
    assert (lattice.values.shape, len(lattice), lattice.count) == (whole.shape, 5, 16)
    rows, places = np.array([4, 0, 2]), np.array([[15, 3], [0, 1], [7, 7]])
    np.testing.assert_array_equal(lattice.values[rows], whole[rows])
    np.testing.assert_array_equal(lattice.some(np.arange(80)), whole.reshape(80, 12, 12, 3))
    some = lattice.subset(rows)
    np.testing.assert_array_equal(some.values[:], whole[rows])
    part = some.parts(np.array([2, 2, 0]), places, np.ones(3, bool))
    expected = whole[rows][np.array([2, 2, 0])[:, None], places]
    np.testing.assert_array_equal(part.values[:], expected)
    assert part.groups.tolist() == ["c", "c", "e"]
    assert np.shares_memory(part.values.pixels, pixels)
    with pytest.raises(BadGeometry):
        describe(images, 5, backbone="resnet", mpp=0.5)
