"""Vahadane's stains: two colours of which every pixel needs as little as possible."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .density import REFERENCE, Floats, Stains, optical_density, stained
from .macenko import MIN_STAINED_PX, as_stains

_MAX_PX = 20_000
_ROUNDS = 300
_STILL = 1e-6
_LEAST = 0.05
"""A stain whose strong pixels hold less than this share of the other's is not there."""


def estimate_stains_vahadane(rgb: NDArray[np.uint8], *, sparsity: float = 0.1) -> Stains:
    """Find a slide's own haematoxylin and eosin by sparse non-negative factorisation.

    Minimises ``½ ‖V - H W‖² + λ Σ H`` over amounts H >= 0 and stains W >= 0 of unit length, V
    being the optical density (natural logarithm) of the stained pixels, by turns: H exactly, W by
    one step of block coordinate descent per stain. It starts at Ruifrok & Johnston's vectors, and
    nothing in it is random.

    Parameters
    ----------
    rgb
        uint8 [..., 3]: pixels from all over the slide; at most 20,000, evenly spaced, are used.
    sparsity
        λ: what one unit of stain in a pixel costs.

    Returns
    -------
    Stains
        With ``source="reference"`` where :func:`~microtome.engine.stain.estimate_stains` gives it.

    Notes
    -----
    tiatoolbox's ``VahadaneExtractor`` factorises the transposed matrix, and with scikit-learn from
    0.24 on gives the direction of the mean and one at right angles to it, with negative optical
    densities (it warns of this; its issue 382). Hence our own; its objective is checked against
    scikit-learn's solver for the same problem.

    References
    ----------
    Vahadane et al. (2016), Structure-preserving color normalization and sparse stain separation
    for histological images, IEEE TMI 35:1962-1971.
    Mairal et al. (2010), Online learning for matrix factorization and sparse coding, JMLR 11:19-60.
    """
    density = optical_density(rgb).reshape(-1, 3).astype(np.float64)
    density = density[stained(density)]
    if len(density) < MIN_STAINED_PX:
        return REFERENCE
    sample = density[:: math.ceil(len(density) / _MAX_PX)] * math.log(10)
    rows = factorise(sample, REFERENCE.vectors, sparsity)
    strong = np.percentile(sparse_amounts(sample, rows, sparsity), 99, axis=0)
    if strong.min() < _LEAST * strong.max():
        return replace(REFERENCE, scale=as_stains(REFERENCE.vectors, density).scale)
    return as_stains(rows / np.linalg.norm(rows, axis=1, keepdims=True), density)


def factorise(values: Floats, start: Floats, sparsity: float) -> Floats:
    """The two rows W [2, 3] of the factorisation of ``values`` [n, 3]; see above."""
    rows = start.copy()
    for _ in range(_ROUNDS):
        amounts = sparse_amounts(values, rows, sparsity)
        moved = _better_rows(rows, amounts.T @ amounts, amounts.T @ values)
        if np.abs(moved - rows).max() < _STILL:
            return moved
        rows = moved
    return rows


def sparse_amounts(values: Floats, rows: Floats, sparsity: float) -> Floats:
    """Exact minimum over H >= 0 [n, 2] for given rows: both stains, or the better one alone."""
    gram = rows @ rows.T
    pull = values @ rows.T - sparsity
    both = np.linalg.solve(gram + 1e-12 * np.eye(2), pull.T).T
    alone = np.maximum(pull, 0) / np.maximum(np.diag(gram), 1e-12)
    only_second, only_first = both[:, 0] < 0, both[:, 1] < 0
    amounts = np.where(only_second[:, None], alone * (0, 1), both)
    amounts = np.where((only_first & ~only_second)[:, None], alone * (1, 0), amounts)
    return np.maximum(amounts, 0)


def _better_rows(rows: Floats, gram: Floats, pull: Floats) -> Floats:
    moved = rows.copy()
    for k in (0, 1):
        if gram[k, k] > 0:
            row = np.maximum(moved[k] + (pull[k] - gram[k] @ moved) / gram[k, k], 0)
            moved[k] = row / max(1.0, float(np.linalg.norm(row)))
    return moved
