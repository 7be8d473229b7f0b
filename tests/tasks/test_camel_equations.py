"""Every equation of CAMEL's enrichment, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from microtome.tasks.camel.criteria import (
    CRITERIA,
    Criterion,
    Selection,
    children,
    criterion_loss,
    retrain_loss,
    select,
    selected,
    union,
)
from microtome.tasks.camel.images import instances

PROBABILITY = np.array(
    [[0.2, 0.9, 0.6, 0.1], [0.3, 0.4, 0.2, 0.1], [0.7, 0.2, 0.9, 0.4], [0.6, 0.7, 0.8, 0.9]],
    np.float32,
)
LABELS = np.array([True, True, False, False])
PICKED = {"max-max": [1, 1, 2, 3], "max-min": [1, 1, 1, 0]}


def logits(probability: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.log(probability / (1 - probability)))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_criterion_selects_one_instance_an_image(criterion: Criterion) -> None:
    picked = selected(torch.from_numpy(PROBABILITY), torch.from_numpy(LABELS), criterion)
    assert picked.tolist() == PICKED[criterion]


@given(arrays(np.float32, (3, 5), elements=st.sampled_from([0.0, 0.25, 1.0])), st.data())
def test_of_equal_instances_the_first_is_selected(
    scores: NDArray[np.float32], data: st.DataObject
) -> None:
    labels = data.draw(arrays(np.bool_, 3))
    highest, lowest = np.argmax(scores, axis=1), np.argmin(scores, axis=1)
    for criterion, truth in (("max-max", highest), ("max-min", np.where(labels, highest, lowest))):
        picked = selected(torch.from_numpy(scores), torch.from_numpy(labels), criterion)
        assert picked.tolist() == truth.tolist()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_only_what_is_selected_gets_a_gradient_and_it_is_p_less_y(criterion: Criterion) -> None:
    z = logits(PROBABILITY).requires_grad_()
    loss = criterion_loss(z, torch.from_numpy(LABELS), criterion)
    torch.autograd.backward(loss)
    rows, picked = np.arange(4), PICKED[criterion]
    p = PROBABILITY[rows, picked]
    assert loss.item() == pytest.approx(-np.mean(np.log(np.where(LABELS, p, 1 - p))), rel=1e-5)
    expected = np.zeros((4, 4))
    expected[rows, picked] = (p - LABELS) / 4
    assert z.grad is not None
    assert np.allclose(z.grad.numpy(), expected, atol=1e-6)
    assert np.count_nonzero(z.grad.numpy()) == 4


@pytest.mark.parametrize(
    ("criterion", "kept"),
    # Image 1 is positive and its best has p = 0.4; images 2 and 3 are negative and their worst
    # have p = 0.9, their best p = 0.2 and 0.6.
    [("max-max", [(0, 1, True)]), ("max-min", [(0, 1, True), (2, 1, False)])],
)
def test_a_selection_that_contradicts_its_image_is_dropped(
    criterion: Criterion, kept: list[tuple[int, int, bool]]
) -> None:
    found = select(PROBABILITY, LABELS, criterion)
    triples = zip(found.images.tolist(), found.places.tolist(), found.labels.tolist(), strict=True)
    assert list(triples) == kept


def test_the_union_holds_every_instance_once() -> None:
    a = Selection(np.array([0, 2, 3]), np.array([5, 1, 0]), np.array([True, False, False]))
    b = Selection(np.array([3, 0, 2]), np.array([7, 5, 2]), np.array([False, True, False]))
    both = union(a, b)
    pairs = set(zip(both.images.tolist(), both.places.tolist(), both.labels.tolist(), strict=True))
    assert pairs == {(0, 5, True), (2, 1, False), (2, 2, False), (3, 0, False), (3, 7, False)}
    assert len(both) == 5


def test_the_constraint_adds_the_image_loss_with_equal_weight() -> None:
    z, labels = torch.tensor([2.0, -1.0]), torch.tensor([True, True])
    p = 1 / (1 + np.exp([-2.0, 1.0]))
    alone = retrain_loss(z, labels)
    assert float(alone) == pytest.approx(-np.log(p).mean(), rel=1e-6)
    images = criterion_loss(logits(PROBABILITY), torch.from_numpy(LABELS), "max-max")
    assert float(retrain_loss(z, labels, images)) == pytest.approx(
        float(alone) + float(images), rel=1e-6
    )


def test_the_constraint_reaches_the_same_weights() -> None:
    """Two paths, one set of weights: the gradient is the sum of those of the paths."""
    network = torch.nn.Linear(3, 1)
    x, images = torch.randn(4, 3), torch.randn(2, 5, 3)
    y, labels = torch.tensor([1, 0, 1, 0]) > 0, torch.tensor([True, False])

    def gradient(instance_weight: float, image_weight: float) -> torch.Tensor:
        network.zero_grad()
        one = retrain_loss(network(x)[:, 0], y)
        two = criterion_loss(network(images)[..., 0], labels, "max-max")
        torch.autograd.backward(instance_weight * one + image_weight * two)
        assert network.weight.grad is not None
        return network.weight.grad.clone()

    parts = gradient(1, 0) + gradient(0, 1)
    network.zero_grad()
    constraint = criterion_loss(network(images)[..., 0], labels, "max-max")
    torch.autograd.backward(retrain_loss(network(x)[:, 0], y, constraint))
    assert network.weight.grad is not None
    assert torch.allclose(network.weight.grad, parts, atol=1e-6)


@given(st.integers(1, 3), st.integers(1, 3))
def test_the_instances_of_a_cascade_are_those_of_the_direct_route(first: int, second: int) -> None:
    grid = first * second
    image = np.arange((2 * grid) ** 2 * 3).astype(np.uint8).reshape(1, 2 * grid, 2 * grid, 3)
    direct = instances(image, grid).reshape(grid**2, 2, 2, 3)
    coarse = instances(image, first).reshape(first**2, 2 * second, 2 * second, 3)
    stepwise = instances(coarse, second).reshape(first**2, second**2, 2, 2, 3)
    assert np.array_equal(direct[children(first, grid)], stepwise)
