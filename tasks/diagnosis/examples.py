"""What a diagnosis is learnt from: connectomes, each with a label, a person and a site."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...graphs.matrices import without_diagonal
from ...storage.connectomes import ConnectomeCohort
from ...storage.errors import BadConnectome, LabelError
from ..evaluation import permute_labels
from .phenotypes import Phenotypes


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled connectomes; the rows of all fields go together.

    Attributes
    ----------
    adjacency
        float64 [s, r, r], symmetric, zeros on the diagonal.
    labels
        int64 [s]: 1 for the positive class, 0 for the other.
    groups
        str [s]: the person; all rows of a person are on one side of every split.
    sites
        str [s]: where the scan was made, or None where nobody says.
    names
        str [s]: the subject or session, as in the cohort.
    covariates
        float64 [s, k]: age, sex and the like, or None where nobody says.
    """

    adjacency: NDArray[np.float64]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    sites: NDArray[np.str_] | None
    names: NDArray[np.str_]
    covariates: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        s, sites = len(self.labels), self.groups if self.sites is None else self.sites
        if (
            self.adjacency.shape[:1] + self.groups.shape + sites.shape + self.names.shape
            != (s,) * 4
        ):
            raise ValueError("connectomes, labels, groups, sites and names do not fit together")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The weights of the pairs i < j, row by row: float64 [s, r (r - 1) / 2]."""
        i, j = np.triu_indices(self.adjacency.shape[1], 1)
        return self.adjacency[:, i, j]

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """The given rows, in the given order."""
        return Examples(
            self.adjacency[rows],
            self.labels[rows],
            self.groups[rows],
            None if self.sites is None else self.sites[rows],
            self.names[rows],
            None if self.covariates is None else self.covariates[rows],
        )

    def shuffled(self, seed: int) -> Examples:
        """The same connectomes with labels exchanged between people of one site.

        A person's rows keep one label, and a site its share of patients: what is left to be learnt
        from such labels is chance and site, nothing else.

        References
        ----------
        Winkler et al. (2014), Permutation inference for the general linear model, NeuroImage 92:
        exchangeability blocks.
        """
        rng = np.random.default_rng(seed)
        _, first, member = np.unique(self.groups, return_index=True, return_inverse=True)
        home = np.zeros(len(self)) if self.sites is None else self.sites[first][member]
        labels = self.labels.copy()
        for site in np.unique(home):
            rows = np.flatnonzero(home == site)
            labels[rows] = permute_labels(labels[rows], self.groups[rows], rng)
        return replace(self, labels=labels)


def examples_of(cohort: ConnectomeCohort, phenotypes: Phenotypes) -> Examples:
    """Join connectomes with what a table says of their subjects.

    Raises
    ------
    BadConnectome
        The connectomes are directed.
    LabelError
        A person has two labels.
    """
    if cohort.directed:
        raise BadConnectome(
            "diagnosis is for undirected connectomes",
            remedy="Symmetrise them first: (A + A^T) / 2",
        )
    row_of = {subject: row for row, subject in enumerate(cohort.subjects)}
    rows = [row_of[subject] for subject in phenotypes.subjects]
    people: dict[str, int] = {}
    for person, label in zip(phenotypes.groups, phenotypes.labels.tolist(), strict=True):
        if people.setdefault(person, label) != label:
            raise LabelError(
                f"{person} has two labels",
                remedy="Give all sessions of a person one label, or leave some out",
            )
    return Examples(
        without_diagonal(cohort.adjacency[rows]),
        phenotypes.labels,
        np.array(phenotypes.groups, np.str_),
        None if phenotypes.sites is None else np.array(phenotypes.sites, np.str_),
        np.array(phenotypes.subjects, np.str_),
        phenotypes.covariates,
    )
