"""Why a bag model said what it said: four ways to rank instances, and which of them to believe.

Attention is a weight, not an effect. Each ranking is therefore put to the test on the model
itself: instances are taken away, or given, in its order, and a ranking that finds what the model
rests on changes its output sooner than a random one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .model import BagModel
from .predict import predict_bag

Values = NDArray[np.float32]

METHODS = ("attention", "score", "leave-one-out", "integrated gradients")
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Of a bag's instances, that are taken away or given."""
_AT_ONCE = 2**18
_RANDOM_ORDERS = 5


@dataclass(frozen=True)
class Faithfulness:
    """What became of the output as instances went and came in the order of a ranking.

    Attributes
    ----------
    deletion
        float [len(SHARES)]: the output without the highest ranked share; the sooner it falls, the
        better.
    insertion
        float [len(SHARES)]: the output of the highest ranked share alone, at least one instance;
        the sooner it rises, the better.
    """

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def gain(self) -> float:
        """Area between the two curves over the shares: what a ranking is worth."""
        return float(np.trapezoid(self.insertion - self.deletion, SHARES))


def rank_instances(
    members: Sequence[BagModel],
    features: Values,
    output: int,
    *,
    steps: int = 32,
    device: str = "cpu",
) -> dict[str, Values]:
    """Rank the instances of a bag by what they do for one output, in every way there is.

    Parameters
    ----------
    features
        float32 [n, d], and places behind them where the members read places.
    output
        Which one: a class, a label, or 0.
    steps
        Of the integral.

    Returns
    -------
    mapping of each of :data:`METHODS` to float32 [n]
        Attention and score as :func:`~microtome.tasks.mil.predict.predict_bag` gives them. Leave
        one out: the output with the instance minus that without it. Integrated gradients: see
        :func:`integrated_gradients`.
    """
    said = predict_bag(members, features, device=device)
    return {
        "attention": said.attention,
        "score": np.ascontiguousarray(said.scores[:, output]),
        "leave-one-out": leave_one_out(members, features, output, device=device),
        "integrated gradients": integrated_gradients(
            members, features, output, steps=steps, device=device
        ),
    }


def leave_one_out(
    members: Sequence[BagModel], features: Values, output: int, *, device: str = "cpu"
) -> Values:
    """What each instance adds to an output: float32 [n]; 0 for the only one of a bag."""
    count = len(features)
    if count == 1:
        return np.zeros(1, np.float32)
    everyone = np.arange(count)
    without = (np.delete(everyone, one) for one in range(count))
    model = _Subsets(members, features, output, device)
    whole = next(model.outputs(iter([everyone])))
    return np.array([whole - other for other in model.outputs(without)], np.float32)


def integrated_gradients(
    members: Sequence[BagModel],
    features: Values,
    output: int,
    *,
    steps: int = 32,
    device: str = "cpu",
) -> Values:
    r"""Share of each instance in the way of an output from a bag of mean instances.

    .. math::

        R_i = \sum_d (x_{id} - \bar{x}_d) \int_0^1 \frac{\partial F}{\partial x_{id}}
        \big(\bar{x} + \alpha (x - \bar{x})\big)\, d\alpha

    by the midpoint rule, where :math:`\bar{x}` is the mean instance of the training bags. They sum
    to F of the bag minus F of the mean instances (completeness).

    Returns
    -------
    float32 [n]

    References
    ----------
    Sundararajan, Taly & Yan (2017), Axiomatic attribution for deep networks, ICML.
    """
    instances = torch.from_numpy(features).to(device)
    total = torch.zeros(len(instances), device=device)
    for member in members:
        member.to(device).eval()
        base = member.typical(instances)
        way = instances - base
        for step in range(steps):
            point = (base + way * ((step + 0.5) / steps)).requires_grad_()
            said = member.say(member(point, [len(point)]).logits[0])[output]
            (slope,) = torch.autograd.grad(said, point)
            total += (slope * way).sum(-1)
    mean: Values = (total / (steps * len(members))).cpu().numpy()
    return mean


def faithfulness(
    members: Sequence[BagModel],
    features: Values,
    output: int,
    relevance: Values,
    *,
    device: str = "cpu",
) -> Faithfulness:
    """Test a ranking on the model: deletion and insertion by decreasing relevance [n].

    References
    ----------
    Petsiuk, Das & Saenko (2018), RISE, BMVC (deletion and insertion); Early et al. (2022), Model
    agnostic interpretability for multiple instance learning, ICLR.
    """
    order = np.argsort(-relevance, kind="stable")
    counts = [round(share * len(order)) for share in SHARES]
    rest = [order[min(count, len(order) - 1) :] for count in counts]
    first = [order[: max(1, count)] for count in counts]
    said = list(_Subsets(members, features, output, device).outputs(iter([*rest, *first])))
    return Faithfulness(np.array(said[: len(SHARES)]), np.array(said[len(SHARES) :]))


def compare_rankings(
    members: Sequence[BagModel],
    features: Values,
    output: int,
    rankings: Mapping[str, Values],
    *,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Faithfulness]:
    """Test several rankings, and beside them ``random``: the mean of five random orders."""
    draw = np.random.default_rng(seed)
    chance = [
        faithfulness(
            members,
            features,
            output,
            draw.permutation(len(features)).astype(np.float32),
            device=device,
        )
        for _ in range(_RANDOM_ORDERS)
    ]
    tested = {
        name: faithfulness(members, features, output, relevance, device=device)
        for name, relevance in rankings.items()
    }
    return tested | {
        "random": Faithfulness(
            np.mean([one.deletion for one in chance], axis=0),
            np.mean([one.insertion for one in chance], axis=0),
        )
    }


class _Subsets:
    """The output of a bag's subsets; the instances are embedded once."""

    def __init__(
        self, members: Sequence[BagModel], features: Values, output: int, device: str
    ) -> None:
        instances = torch.from_numpy(features).to(device)
        self._members = [member.to(device).eval() for member in members]
        with torch.no_grad():
            self._embedded = [member.embedded(instances) for member in self._members]
        self._output = output

    def outputs(self, subsets: Iterator[NDArray[np.int64]]) -> Iterator[float]:
        """One number a subset: the mean of what the members say."""
        waiting: list[NDArray[np.int64]] = []
        for subset in subsets:
            waiting.append(subset)
            if sum(map(len, waiting)) >= _AT_ONCE:
                yield from self._said(waiting)
                waiting = []
        if waiting:
            yield from self._said(waiting)

    def _said(self, subsets: Sequence[NDArray[np.int64]]) -> list[float]:
        sizes = [len(subset) for subset in subsets]
        rows = torch.from_numpy(np.concatenate(subsets))
        with torch.no_grad():
            said: list[Tensor] = [
                member.say(member.aggregate(embedded[rows.to(embedded.device)], sizes).logits)
                for member, embedded in zip(self._members, self._embedded, strict=True)
            ]
        numbers: list[float] = torch.stack(said).mean(0)[:, self._output].tolist()
        return numbers
