"""The equations of CAMEL's label enrichment, on plain tensors. Imports torch.

All are from section 3.1 of Xu et al. (2019), ICCV. An instance classifier f gives a probability
p = f(b) of being positive for each of the N² instances b of an image with label y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Criterion = Literal["max-max", "max-min"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]


def selected(scores: Tensor, labels: Tensor, criterion: Criterion) -> Tensor:
    """The one instance of each image that stands for it.

    Max-Max: argmax_i f(b_i) whatever the label. Max-Min: argmax_i f(b_i) where y = 1 and
    argmin_i f(b_i) where y = 0. The first of equals is taken.

    Parameters
    ----------
    scores
        [n, m]: probabilities or logits.
    labels
        bool [n].

    Returns
    -------
    int64 [n]
    """
    highest = scores.argmax(dim=1)
    if criterion == "max-max":
        return highest
    return torch.where(labels, highest, scores.argmin(dim=1))


def criterion_loss(logits: Tensor, labels: Tensor, criterion: Criterion) -> Tensor:
    """Combinatorial MIL: -mean_j [y_j log p_j + (1 - y_j) log(1 - p_j)], p_j of the one selected.

    Only the selected instance of each image [n, m] receives a gradient.
    """
    picked = selected(logits.detach(), labels, criterion)
    chosen = logits.gather(1, picked[:, None])[:, 0]
    return binary_cross_entropy_with_logits(chosen, labels.to(chosen.dtype))


def retrain_loss(
    instance_logits: Tensor, instance_labels: Tensor, constraint: Tensor | None = None
) -> Tensor:
    """Retraining: w1 L_constraint + w2 L_retrain with w1 = w2 = 1.

    L_retrain is the cross-entropy of labelled instances [b]; L_constraint is
    :func:`criterion_loss` of images through the same weights, or None for no constraint.
    """
    loss = binary_cross_entropy_with_logits(
        instance_logits, instance_labels.to(instance_logits.dtype)
    )
    return loss if constraint is None else loss + constraint


@dataclass(frozen=True)
class Selection:
    """Labelled instances: image [k], place in its lattice [k], label [k]."""

    images: Integers
    places: Integers
    labels: Bools

    def __len__(self) -> int:
        return len(self.images)


def select(probability: NDArray[np.float32], labels: Bools, criterion: Criterion) -> Selection:
    """Take the instances that a trained classifier selects, less those that it contradicts.

    An instance of a positive image that is predicted negative, or of a negative image that is
    predicted positive (p > 1/2), is confusing and is dropped.

    Parameters
    ----------
    probability
        [n, m].
    labels
        bool [n], of the images.
    """
    scores, truth = torch.from_numpy(probability), torch.from_numpy(labels)
    places = selected(scores, truth, criterion).numpy()
    images = np.arange(len(labels))
    agrees = (probability[images, places] > 0.5) == labels
    return Selection(images[agrees], places[agrees], labels[agrees])


def union(*selections: Selection) -> Selection:
    """All instances that any of the selections holds, each once, in order of image and place."""
    images = np.concatenate([s.images for s in selections])
    places = np.concatenate([s.places for s in selections])
    labels = np.concatenate([s.labels for s in selections])
    _, first = np.unique(np.stack([images, places]), axis=1, return_index=True)
    return Selection(images[first], places[first], labels[first])


def children(parents: int, grid: int) -> Integers:
    """Which instances of a lattice lie in each instance of a coarser one.

    Returns
    -------
    int64 [parents², (grid / parents)²]
        Places in the finer lattice, row by row.
    """
    px = grid // parents
    places = np.arange(grid**2).reshape(parents, px, parents, px)
    return places.swapaxes(1, 2).reshape(parents**2, px**2)
