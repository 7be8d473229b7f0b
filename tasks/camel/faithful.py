"""Label enrichment as Xu et al. (2019) describe it. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .criteria import CRITERIA, Criterion, Selection, children, select, union
from .fitting import fit_criterion, fit_selection, logits_of
from .lattice import Lattice
from .settings import EnrichSettings
from .stages import Stages

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CombinedMil:
    """What cMIL gives: both classifiers, and the instances that they select."""

    networks: dict[Criterion, nn.Module]
    selection: Selection


def combined_mil(
    lattice: Lattice, settings: EnrichSettings, stages: Stages, *, name: str
) -> CombinedMil:
    """cMIL: train both criteria apart, and unite what they select and agree with."""
    networks = {
        criterion: stages.network(
            f"{name}-{criterion}",
            lattice,
            settings,
            partial(fit_criterion, lattice, criterion, settings),
        )
        for criterion in CRITERIA
    }
    chosen = [
        select(probabilities(network, lattice, settings), lattice.labels, criterion)
        for criterion, network in networks.items()
    ]
    return CombinedMil(networks, union(*chosen))


def cascade(
    levels: Sequence[Lattice], settings: EnrichSettings, stages: Stages, *, name: str
) -> Selection:
    """Cascade data enhancement: cMIL(N1), then cMIL(N2) on what it selected, and so on.

    The instances that a level selects are the labelled images of the next.

    Parameters
    ----------
    levels
        The same images cut N1, N1 N2, … times along a side; the last is the final lattice.

    Returns
    -------
    Selection
        In the final lattice. Empty where a level selects instances of one label only.
    """
    found = combined_mil(levels[0], settings, stages, name=f"{name}-1").selection
    for number, (coarse, fine) in enumerate(pairwise(levels), start=2):
        if found.labels.all() or not found.labels.any():
            return _nothing()
        inside = children(_grid(coarse), _grid(fine))
        places = inside[found.places]
        part = fine.parts(found.images, places, found.labels)
        deeper = combined_mil(part, settings, stages, name=f"{name}-{number}").selection
        found = Selection(
            found.images[deeper.images], places[deeper.images, deeper.places], deeper.labels
        )
    return found


def retrained(
    levels: Sequence[Lattice], settings: EnrichSettings, stages: Stages, *, name: str = "faithful"
) -> nn.Module | None:
    """The classifier g that relabels: cMIL, cascade where there is one, and retraining.

    Parameters
    ----------
    levels
        The coarser lattices of the cascade, then the final one; without a cascade the final alone.

    Returns
    -------
    Module or None
        None where both classifiers contradict every image label: nothing is left to learn from.
    """
    final = levels[-1]
    selection = combined_mil(final, settings, stages, name=f"{name}-direct").selection
    if len(levels) > 1:
        selection = union(selection, cascade(levels, settings, stages, name=f"{name}-cascade"))
    if not len(selection):
        return None
    return stages.network(
        f"{name}-retrain", final, settings, lambda: fit_selection(final, selection, settings)
    )


def probabilities(network: nn.Module, lattice: Lattice, settings: EnrichSettings) -> Floats:
    """float32 [n, m]: probability that each instance is positive."""
    from scipy.special import expit

    return np.asarray(expit(logits_of(network, lattice, settings)), np.float32)


def _grid(lattice: Lattice) -> int:
    return isqrt(lattice.count)


def _nothing() -> Selection:
    empty = np.zeros(0, np.int64)
    return Selection(empty, empty, np.zeros(0, bool))
