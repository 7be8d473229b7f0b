"""How networks of a diagnosis are trained: AdamW over all training rows at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def descend(
    network: Module,
    logits: Callable[[], Tensor],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Fit a network to labels, both classes weighing the same.

    Parameters
    ----------
    logits
        Makes the training rows' logits [s], with a gradient.
    """
    import torch

    target = torch.tensor(labels, dtype=torch.float32)
    positives = target.sum()
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=(len(target) - positives) / positives)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    network.train()
    for _ in range(epochs):
        optimiser.zero_grad()
        loss(logits(), target).backward()
        optimiser.step()
