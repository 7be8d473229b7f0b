"""People with connectomes and a diagnosis, for tests of diagnosis."""

from __future__ import annotations

import numpy as np

from microtome.graphs.functional import functional_connectome
from microtome.graphs.simulate import SimulatedCohort
from microtome.storage.connectomes import ConnectomeCohort
from microtome.tasks.diagnosis.examples import Examples, examples_of
from microtome.tasks.diagnosis.phenotypes import Phenotypes


def cohort_of(simulated: SimulatedCohort) -> ConnectomeCohort:
    return ConnectomeCohort.of(
        [
            functional_connectome(series, simulated.regions, subject=name, fisher=True)
            for series, name in zip(simulated.series, simulated.ids, strict=True)
        ]
    )


def examples_from(simulated: SimulatedCohort) -> Examples:
    return examples_of(
        cohort_of(simulated),
        Phenotypes(
            simulated.ids,
            simulated.labels,
            ("control", "patient"),
            simulated.subjects,
            simulated.sites,
        ),
    )


def noise(n_people: int = 40, n_regions: int = 12, *, seed: int = 0, sessions: int = 1) -> Examples:
    """Connectomes that say nothing of the labels; sessions of a person are nearly equal."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(size=(n_people, n_regions, n_regions)), sessions, axis=0)
    raw = own + 0.05 * rng.normal(size=own.shape)
    adjacency = (raw + raw.transpose(0, 2, 1)) * (1 - np.eye(n_regions))
    people = np.repeat([f"p{i:03d}" for i in range(n_people)], sessions)
    labels = np.repeat(np.arange(n_people) % 2, sessions).astype(np.int64)
    return Examples(
        adjacency, labels, people, None, np.array([f"r{i}" for i in range(len(people))])
    )
