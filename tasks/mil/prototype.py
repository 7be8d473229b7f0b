"""A model that classifies bags, finds the instances, and parts them in clusters, all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .model import BagModel, BagOutput, Shape, by_bag, softmax_by_bag

N_CLUSTERS = 3
CLUSTERING_SHARE = 0.5
SPREAD = 5.0
"""Length of the clusters' weights at first. Short ones start alike and end up sharing kinds."""


class Prototypes(BagModel):
    r"""K clusters for every class but the first, which is the background.

    A cluster k of class c gives an instance the log-odds :math:`r_{ick} = w_{ck}^\top h_i + b_{ck}`
    against the background. Odds are averaged, over the clusters for an instance, and over its
    instances for a bag:

    .. math::

        e_{ic} = \log \tfrac{1}{K}\sum_k \exp r_{ick}, \qquad
        \mathrm{logit}_c = \log \tfrac{1}{n}\sum_i \exp e_{ic}, \qquad \mathrm{logit}_0 = 0 .

    An instance can add odds to a class and never take them away: it can be no evidence for the
    background beyond one n-th. Evidence is :math:`e_i`; attention the instance's share of the
    odds of all classes but the first. In training the clusters of the bags' classes are kept
    apart and in use: the information that a cluster holds of its instances,
    :math:`H(\bar{q}) - \overline{H(q_i)}` with :math:`q_{ik} \propto \exp r_{ick}` and instances
    weighed by their share of the odds, is subtracted from the loss, times 0.5. Clusters start
    at right angles. Labels that do not exclude each other, a value and a log hazard have no
    background among the outputs: each output is a :math:`\mathrm{logit}_c` as above, and of a value
    and a hazard every bag keeps the clusters apart.

    References
    ----------
    In the spirit of Xu et al. (2012), Multiple clustered instance learning for histopathology
    cancer image classification, segmentation and clustering, CVPR: instance classifiers per
    cluster, with a soft maximum over clusters and instances. There they are boosted; here they
    share an embedding and are kept apart by mutual information (Krause, Perona & Gomes 2010,
    Discriminative clustering by regularized information maximization, NeurIPS).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.background = int(shape.kind == "classes")
        self.n_targets = shape.n_classes - self.background
        self.cluster = nn.Linear(shape.width, self.n_targets * N_CLUSTERS)
        nn.init.orthogonal_(self.cluster.weight, SPREAD)

    def aggregate(self, embedded: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`BagModel`."""
        return self._read(self._log_odds(embedded), sizes)

    def losses(
        self,
        features: Tensor,
        sizes: Sequence[int],
        target: Tensor,
        *,
        counts: Tensor | None = None,
    ) -> Tensor:
        """See :class:`BagModel`; ``counts`` [b] is 0 for bags that do not, 1 for all others."""
        log_odds = self._log_odds(self.embedded(features))
        losses = self.bag_losses(self._read(log_odds, sizes).logits, target)
        of_bag, held = by_bag(log_odds, sizes), self.held(target)
        for c in range(self.n_targets):
            has = (
                torch.ones_like(losses) == 1 if held is None else held[:, c + self.background] == 1
            )
            mine = has.nonzero()[:, 0].tolist()
            if mine:
                count = None if counts is None else counts[mine]
                shared = information([of_bag[i][:, c] for i in mine], count)
                losses = losses - CLUSTERING_SHARE * shared * has
        return losses

    def clusters(self, features: Tensor) -> Tensor:
        """Cluster of each instance [n, d]: int [n], 0 for the background.

        The clusters of class c are the K from :math:`1 + (c - 1) K` on. An instance is background
        where no class has odds above even.
        """
        log_odds = self._log_odds(self.embedded(features))
        evidence = mean_odds(log_odds, 2)
        of_class = evidence.argmax(1)
        rows = torch.arange(len(log_odds), device=log_odds.device)
        best = log_odds[rows, of_class].argmax(1)
        return torch.where(evidence.amax(1) > 0, 1 + of_class * N_CLUSTERS + best, 0)

    def _log_odds(self, embedded: Tensor) -> Tensor:
        """Of every instance, class but the first, and cluster: [n, c - 1, K]."""
        flat: Tensor = self.cluster(embedded)
        return flat.reshape(len(embedded), self.n_targets, N_CLUSTERS)

    def _read(self, log_odds: Tensor, sizes: Sequence[int]) -> BagOutput:
        found = mean_odds(log_odds, 2)
        background = torch.zeros_like(found[:, : self.background])
        evidence = torch.cat([background, found], dim=1)
        logits = torch.stack([mean_odds(part, 0) for part in by_bag(evidence, sizes)])
        attention = softmax_by_bag(found.logsumexp(1), sizes)
        return BagOutput(logits, evidence, attention)


def mean_odds(log_odds: Tensor, dim: int) -> Tensor:
    """Logarithm of the mean of odds, from their logarithms."""
    total: Tensor = log_odds.logsumexp(dim)
    return total - math.log(log_odds.shape[dim])


def information(bags: Sequence[Tensor], counts: Tensor | None = None) -> Tensor:
    """What clusters say of the instances of bags [n_i, K], weighed by their odds, in nats.

    Bags count the same, or as often as ``counts`` [b] says.
    """
    if counts is None:
        counts = torch.ones(len(bags), device=bags[0].device)
    # Where no bag counts, any value will do that has a slope.
    counts = torch.where(counts.any(), counts, 1.0)
    each = (counts / counts.sum()).unbind()
    odds = [mean_odds(bag, 1).softmax(0).detach() for bag in bags]
    weights = torch.cat([share * part for share, part in zip(each, odds, strict=True)])
    shares = torch.cat(list(bags)).softmax(1)
    within = (weights * entropy(shares)).sum()
    return entropy(weights @ shares) - within


def entropy(shares: Tensor) -> Tensor:
    """Entropy over the last dimension, in nats."""
    terms: Tensor = torch.special.xlogy(shares, shares)
    return -terms.sum(-1)
