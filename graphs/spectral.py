"""Modules by the leading eigenvector of modularity, of undirected and directed networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .communities import by_size
from .matrices import Array, as_directed_network

Signs = NDArray[np.int64]


def spectral_modules(
    weights: ArrayLike, *, resolution: float = 1.0, refine: bool = True
) -> NDArray[np.int64]:
    r"""Find modules by halving the network, again and again: int64 [r], largest first.

    A part is divided by the signs of the leading eigenvector of its modularity matrix; then each
    region once goes to the other side, the best first, and the best of all these divisions is
    taken. A part that no division betters stays. Nothing is drawn: equal networks give equal
    modules, but where eigenvectors tie. :func:`.leiden.leiden` ends higher on most networks.

    Parameters
    ----------
    weights
        [r, r], not negative; of a directed network, the modularity matrix is made symmetric.
    resolution
        :math:`\gamma` of :math:`w_{ij} - \gamma\, s^{out}_i s^{in}_j / m`; more gives more modules.
    refine
        Whether regions change sides. Without it come the figures that the Brain Connectivity
        Toolbox in Python publishes, whose refinement has no effect.

    References
    ----------
    Newman (2006), PNAS 103:8577; Leicht & Newman (2008), Phys. Rev. Lett. 100:118703 for directed
    networks.
    """
    network = as_directed_network(weights)
    total = network.sum()
    if total == 0:
        return np.arange(len(network))
    expected = np.outer(network.sum(axis=1), network.sum(axis=0)) / total
    excess = network - resolution * expected
    excess = (excess + excess.T) / 2
    waiting, modules = [np.arange(len(network))], []
    while waiting:
        part = waiting.pop()
        sides = _divided(excess[np.ix_(part, part)], refine=refine)
        if abs(sides.sum()) == len(part):
            modules.append(set(part.tolist()))
        else:
            waiting += [part[sides < 0], part[sides > 0]]
    return by_size(modules, len(network))


def _divided(excess: Array, *, refine: bool) -> Signs:
    """The side of each region of a part, 1 or -1; all alike where no division betters it."""
    own = excess - np.diag(excess.sum(axis=1))
    sides = np.where(np.linalg.eigh(own)[1][:, -1] >= 0, 1, -1)
    if sides @ own @ sides <= 1e-10 * np.abs(own).sum():
        return np.ones(len(own), np.int64)
    return _refined(own, sides) if refine else sides


def _refined(own: Array, sides: Signs) -> Signs:
    """The best division on the way on which every region changes sides once, the best first."""
    apart = own - np.diag(np.diag(own))
    best, quality = sides, 0.0
    trial, free, gained = sides.copy(), np.ones(len(sides), bool), 0.0
    while free.any():
        gain = -4.0 * trial * (apart @ trial)
        moved = int(np.argmax(np.where(free, gain, -np.inf)))
        gained += float(gain[moved])
        trial[moved], free[moved] = -trial[moved], False
        if gained > quality + 1e-12:
            best, quality = trial.copy(), gained
    return best
