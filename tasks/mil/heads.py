"""What a bag model learns, beside classes: labels, a value, survival. Losses and what is said."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .names import Kind

__all__ = ["Kind", "cox_losses", "held", "losses_of", "said_of"]


def losses_of(kind: Kind, logits: Tensor, truth: Tensor) -> Tensor:
    """Losses of b bags, float [b].

    Parameters
    ----------
    logits
        float [b, c].
    truth
        classes: int [b], for the cross-entropy. labels: float [b, c], 1, 0 or nan where nobody
        knows, for the mean over the known labels of the binary cross-entropy. regression: float
        [b], for the squared error. survival: float [b, 2] of times and events, for
        :func:`cox_losses` among these bags.
    """
    if kind == "classes":
        return functional.cross_entropy(logits, truth, reduction="none")
    if kind == "labels":
        known = ~truth.isnan()
        each = functional.binary_cross_entropy_with_logits(
            logits, truth.nan_to_num(0.0), reduction="none"
        )
        return (each * known).sum(-1) / known.sum(-1).clamp_min(1)
    if kind == "regression":
        return (logits[:, 0] - truth) ** 2
    return cox_losses(logits[:, 0], truth[:, 0], truth[:, 1])


def said_of(kind: Kind, logits: Tensor) -> Tensor:
    """Softmax over classes [..., c], the sigmoid of anything else."""
    return logits.softmax(-1) if kind == "classes" else logits.sigmoid()


def held(kind: Kind, truth: Tensor, n_outputs: int) -> Tensor | None:
    """Which outputs are true of bags: float [b, c], nan where nobody knows; None for values."""
    if kind == "classes":
        return functional.one_hot(truth, n_outputs).float()
    return truth if kind == "labels" else None


def cox_losses(log_hazard: Tensor, time: Tensor, event: Tensor, *, efron: bool = True) -> Tensor:
    r"""Negative log partial likelihood of Cox's model, by bag: float [b], 0 of the censored.

    With the risk set :math:`R_i = \{j : t_j \ge t_i\}`, the d bags :math:`D_i` with an event at
    the same time as bag i, and k = 0 … d - 1 a bag's place among them,

    .. math::

        \ell_i = -f_i + \log\Big(\sum_{j \in R_i} e^{f_j} - \frac{k_i}{d_i}\sum_{j \in D_i}
        e^{f_j}\Big),

    Efron's handling of ties; with ``efron`` false Breslow's, without the second sum. They differ
    only where events are at the same time. Only bags in one call are compared: over a batch it is
    the partial likelihood of a sampled risk set.

    Parameters
    ----------
    log_hazard, time, event
        float [b] each; event 1 where it was seen, 0 where the bag was censored.

    References
    ----------
    Cox (1972), Regression models and life-tables, JRSS B 34. Efron (1977), JASA 72. Breslow
    (1974), Biometrics 30. Goldstein & Langholz (1992), Annals of Statistics 20, for sampled sets.
    """
    seen = event == 1
    at_risk = time[None, :] >= time[:, None]
    together = (time[None, :] == time[:, None]) & seen[None, :] & seen[:, None]
    top = log_hazard.detach().max()
    hazard = (log_hazard - top).exp()
    total = (at_risk * hazard).sum(1)
    if efron:
        tied = together.to(total.dtype)
        place = tied.tril(-1).sum(1) / tied.sum(1).clamp_min(1)
        total = total - place * (tied * hazard).sum(1)
    losses = total.clamp_min(torch.finfo(total.dtype).tiny).log() + top - log_hazard
    return losses * seen
