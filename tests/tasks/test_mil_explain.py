"""Explanations of bag models: on a model whose truth is known, and by their own axioms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from microtome.tasks.mil.abmil import GatedAttention
from microtome.tasks.mil.explain import (
    SHARES,
    compare_rankings,
    faithfulness,
    integrated_gradients,
    leave_one_out,
    rank_instances,
)
from microtome.tasks.mil.model import BagOutput, Shape
from microtome.tasks.mil.pooling import MaxPooling, MeanPooling

WEIGHTS = np.array([2.0, -1.0, 0.5, 0.0], np.float32)
MEAN = np.array([0.3, -0.2, 0.0, 1.0], np.float32)


class Linear(MeanPooling):
    """Value of a bag = mean of w · (x - mean): every explanation has a closed form."""

    def __init__(self) -> None:
        super().__init__(Shape(4, 1, 4, 2, 0.0, "regression"))
        self.mean.copy_(torch.from_numpy(MEAN))
        self.embed = nn.Sequential(nn.Identity())

    def aggregate(self, embedded, sizes) -> BagOutput:
        parts = embedded @ torch.from_numpy(WEIGHTS)[:, None]
        means = torch.stack([part.mean(0) for part in parts.split(list(sizes))])
        return BagOutput(means, parts, torch.ones(len(parts)) / len(parts))


def bag(count: int = 12, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, d)).astype(np.float32)


def test_integrated_gradients_of_a_linear_model_are_its_terms() -> None:
    x = bag()
    expected = (x - MEAN) @ WEIGHTS / len(x)
    found = integrated_gradients([Linear()], x, 0, steps=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_leaving_one_out_of_a_mean_is_known() -> None:
    x = bag()
    terms = (x - MEAN) @ WEIGHTS
    without = (terms.sum() - terms) / (len(x) - 1)
    np.testing.assert_allclose(
        leave_one_out([Linear()], x, 0), terms.mean() - without, rtol=1e-4, atol=1e-6
    )
    assert leave_one_out([Linear()], x[:1], 0).tolist() == [0]


@pytest.mark.parametrize("model", [GatedAttention, MeanPooling])
def test_integrated_gradients_are_complete(model) -> None:
    torch.manual_seed(0)
    member = model(Shape(4, 2, 8, 4, 0.0)).eval()
    x = bag(9)
    base = np.broadcast_to(member.mean.numpy(), x.shape)
    with torch.no_grad():
        ends = [
            member(torch.from_numpy(np.array(points)), [9]).logits.softmax(-1)[0, 1].item()
            for points in (x, base)
        ]
    found = integrated_gradients([member], x, 1, steps=256)
    assert found.sum() == pytest.approx(ends[0] - ends[1], abs=1e-4)


def test_curves_of_a_mean_are_means_of_what_is_left() -> None:
    x = bag(10)
    terms = np.sort((x - MEAN) @ WEIGHTS)[::-1]
    found = faithfulness([Linear()], x, 0, ((x - MEAN) @ WEIGHTS).astype(np.float32))
    for share, without, alone in zip(SHARES, found.deletion, found.insertion, strict=True):
        count = round(share * 10)
        assert without == pytest.approx(terms[count:].mean(), abs=1e-5)
        assert alone == pytest.approx(terms[: max(1, count)].mean(), abs=1e-5)
    reverse = faithfulness([Linear()], x, 0, -((x - MEAN) @ WEIGHTS).astype(np.float32))
    assert reverse.gain < 0 < found.gain


def test_a_ranking_that_finds_the_one_instance_that_counts_beats_chance() -> None:
    """Max pooling over bags where one instance has what the class rests on."""
    torch.manual_seed(1)
    member = MaxPooling(Shape(4, 2, 4, 2, 0.0)).eval()
    with torch.no_grad():
        member.embed[0].weight.copy_(torch.eye(4))
        member.embed[0].bias.zero_()
        member.classify.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [3.0, 0, 0, 0]]))
        member.classify.bias.copy_(torch.tensor([6.0, 0.0]))
    x = bag(40, seed=3) * 0.1
    x[17, 0] = 4.0
    rankings = rank_instances([member], x, 1)
    tested = compare_rankings([member], x, 1, rankings)
    for name in ("score", "leave-one-out", "integrated gradients"):
        assert rankings[name].argmax() == 17, name
        assert tested[name].gain > tested["random"].gain + 0.3, name
    whole, without_any, without_one = tested["leave-one-out"].deletion[:3]
    assert whole == without_any > 0.9
    assert without_one < 0.1


def test_members_speak_together() -> None:
    members = [Linear(), Linear()]
    x = bag()
    for name, ranking in rank_instances(members, x, 0).items():
        np.testing.assert_allclose(ranking, rank_instances(members[:1], x, 0)[name], atol=1e-6)
