"""The loss of Barlow Twins, and two measures of whether embeddings have collapsed."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of every output of one view with every output of the other.

    ``C_ij = Σ_b a_bi b_bj / (√Σ_b a_bi² √Σ_b b_bj²)``, each output with its mean over the batch
    taken off first. A constant output has correlation 0 with everything.

    Parameters
    ----------
    a, b
        float [n, d]: embeddings of two views of the same n tiles.

    Returns
    -------
    float [d, d]
        -1 … 1.

    References
    ----------
    Zbontar et al. (2021), Barlow Twins: self-supervised learning via redundancy reduction, ICML,
    equation 2.
    """
    return _unit(a).T @ _unit(b)


def barlow_twins(a: Tensor, b: Tensor, *, redundancy: float = 5e-3) -> Tensor:
    """How far two views of tiles are from giving one embedding of independent outputs.

    ``Σ_i (1 - C_ii)² + λ Σ_i Σ_{j≠i} C_ij²`` with C of :func:`cross_correlation`: an output is
    to be the same for both views, and no output is to repeat another.

    Parameters
    ----------
    a, b
        float [n, d], n >= 2.
    redundancy
        λ.

    Returns
    -------
    float []
        0 where the views agree on outputs that are uncorrelated; not divided by d.

    Raises
    ------
    ValueError
        The views have not one shape [n, d], or a single tile.

    References
    ----------
    Zbontar et al. (2021), equation 1; they take λ = 0.005 with d = 8192.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) < 2:
        raise ValueError(f"two views [n, d] of two tiles or more, not {[*a.shape]}, {[*b.shape]}")
    correlation = cross_correlation(a, b)
    own = correlation.diagonal()
    others = correlation.square().sum() - own.square().sum()
    return (1 - own).square().sum() + redundancy * others


def _unit(outputs: Tensor) -> Tensor:
    return torch.nn.functional.normalize(outputs - outputs.mean(0), dim=0)


def spread(embeddings: Tensor) -> float:
    """Standard deviation of embeddings of length 1, relative to that of all directions alike.

    0 where all tiles have one embedding, which is collapse; 1 where they point anywhere alike.

    Parameters
    ----------
    embeddings
        float [n, d].

    References
    ----------
    Chen & He (2021), Exploring simple Siamese representation learning, CVPR, section 4.1: they
    look at the same deviation, of which 1/√d is that of all directions alike.
    """
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    return float(unit.std(0, correction=0).mean()) * math.sqrt(embeddings.shape[1])


def effective_rank(embeddings: Tensor) -> float:
    """How many directions embeddings vary in: exp of the entropy of their singular values.

    From 1, all on a line, to min(n - 1, d); 0 where nothing varies. Their mean is taken off first.

    Parameters
    ----------
    embeddings
        float [n, d].

    References
    ----------
    Roy & Vetterli (2007), The effective rank, EUSIPCO. Garrido et al. (2023), RankMe, ICML, use
    it to tell dimensions that collapsed without labels.
    """
    centred = embeddings.double() - embeddings.double().mean(0)
    strength = torch.linalg.svdvals(centred)
    if float(strength.max()) <= 1e-12 * max(1.0, float(embeddings.abs().max())):
        return 0.0
    share = strength / strength.sum()
    return float(torch.special.entr(share).sum().exp())
