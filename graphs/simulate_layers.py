"""A seeded cohort with several layers a person, each of which carries a signal of known size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .simulate import SimulatedCohort, simulate_cohort


def simulate_layers(
    effects: Sequence[float],
    n_subjects: int = 60,
    n_regions: int = 32,
    n_timepoints: int = 200,
    seed: int = 0,
    *,
    n_sites: int = 2,
) -> tuple[SimulatedCohort, ...]:
    """Draw one cohort a layer, of the same people with the same diagnosis at the same sites.

    Beside these, layers have nothing in common: each draws its series, planted edges and scanners
    by itself (:func:`~microtome.graphs.simulate.simulate_cohort`). A layer of effect 0 carries the
    site alone. Nobody has a second session.

    Parameters
    ----------
    effects
        Of each layer.

    Returns
    -------
    tuple of SimulatedCohort
        In the order of ``effects``; rows go together.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(effects))
    layers = [
        simulate_cohort(
            n_subjects, n_regions, n_timepoints, effect, int(own), n_sites=n_sites, repeated=0
        )
        for effect, own in zip(effects, seeds, strict=True)
    ]
    return tuple(_aligned(layer, layers[0]) for layer in layers)


def _aligned(layer: SimulatedCohort, first: SimulatedCohort) -> SimulatedCohort:
    """The layer's series given to people of the first with the same label and site."""
    rows = np.empty(len(first), np.int64)
    rows[_by_kind(first)] = _by_kind(layer)
    return replace(
        layer,
        series=layer.series[rows],
        ids=first.ids,
        subjects=first.subjects,
        labels=first.labels,
        sites=first.sites,
    )


def _by_kind(cohort: SimulatedCohort) -> NDArray[np.int64]:
    """Rows by label and site, of which every cohort of one size has the same numbers."""
    return np.lexsort((np.array(cohort.sites), cohort.labels))
