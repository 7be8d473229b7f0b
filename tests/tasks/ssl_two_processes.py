"""One of two processes: the gradient of the loss of all rows, by each from its own half."""

from __future__ import annotations

import numpy as np
import torch

from microtome.tasks.ssl.loss import barlow_twins
from microtome.tasks.ssl.processes import joined

with joined("cpu") as group:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 12, 5)))
    weight = torch.eye(5, dtype=torch.float64, requires_grad=True)

    def loss_of(views: torch.Tensor) -> torch.Tensor:
        a, b = (group.gather(view @ weight) for view in views)
        return barlow_twins(a, b, redundancy=0.1)

    loss = loss_of(rows[:, group.rank :: group.size])
    torch.autograd.backward(loss * group.size)
    assert weight.grad is not None
    torch.distributed.all_reduce(weight.grad)
    own = weight.grad / group.size
    alone = torch.eye(5, dtype=torch.float64, requires_grad=True)
    whole = barlow_twins(rows[0] @ alone, rows[1] @ alone, redundancy=0.1)
    torch.autograd.backward(whole)
    torch.testing.assert_close(own, alone.grad)
    torch.testing.assert_close(loss, whole)
    assert group.agree(float(group.rank)) == 0.0
