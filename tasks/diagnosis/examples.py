"""What a diagnosis is learnt from: connectomes, each with a label, a person and a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...graphs.matrices import networks_of, without_diagonal
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
        float64 [s, r, r], symmetric, zeros on the diagonal; or with layers, [s, l, r, r], nan
        throughout a layer that is missing.
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
    def layers(self) -> NDArray[np.float64]:
        """Connectomes as [s, l, r, r], one layer where there are no others."""
        return self.adjacency if self.adjacency.ndim == 4 else self.adjacency[:, None]

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which layers a row has: bool [s, l]."""
        return ~np.isnan(self.layers[:, :, 0, 0])

    @property
    def edges(self) -> NDArray[np.float64]:
        """The weights of the pairs i < j, layer by layer: float64 [s, l · r (r - 1) / 2]."""
        i, j = np.triu_indices(self.adjacency.shape[-1], 1)
        return self.adjacency[..., i, j].reshape(len(self), -1)

    def with_edges(self, edges: NDArray[np.float64]) -> Examples:
        """The same rows with other weights, laid out as :attr:`edges`."""
        *shape, n_regions, _ = self.adjacency.shape
        weights = edges.reshape(*shape, -1)
        adjacency = networks_of(weights, n_regions)
        adjacency[np.isnan(weights[..., 0])] = np.nan
        return replace(self, adjacency=adjacency)

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


def examples_of(
    cohort: ConnectomeCohort, phenotypes: Phenotypes, *others: ConnectomeCohort
) -> Examples:
    """Join connectomes with what a table says of their subjects.

    Parameters
    ----------
    others
        Further layers of the same people, subjects named alike; a subject may lack some of all
        layers.

    Raises
    ------
    BadConnectome
        Connectomes are directed, or layers are not over the same regions.
    LabelError
        A person has two labels.
    """
    layers = [_rows_of(one, phenotypes.subjects) for one in (cohort, *others)]
    if any(one.regions != cohort.regions for one in others):
        raise BadConnectome(
            "layers are not over the same regions", remedy="Build all of them with one atlas"
        )
    people: dict[str, int] = {}
    for person, label in zip(phenotypes.groups, phenotypes.labels.tolist(), strict=True):
        if people.setdefault(person, label) != label:
            raise LabelError(
                f"{person} has two labels",
                remedy="Give all sessions of a person one label, or leave some out",
            )
    return Examples(
        np.stack(layers, axis=1) if others else layers[0],
        phenotypes.labels,
        np.array(phenotypes.groups, np.str_),
        None if phenotypes.sites is None else np.array(phenotypes.sites, np.str_),
        np.array(phenotypes.subjects, np.str_),
        phenotypes.covariates,
    )


def _rows_of(cohort: ConnectomeCohort, subjects: Sequence[str]) -> NDArray[np.float64]:
    """Connectomes of subjects, nan where the cohort has none: float64 [s, r, r]."""
    if cohort.directed:
        raise BadConnectome(
            "diagnosis is for undirected connectomes",
            remedy="Symmetrise them first: (A + A^T) / 2",
        )
    row_of = {subject: row for row, subject in enumerate(cohort.subjects)}
    found = np.full((len(subjects), *cohort.adjacency.shape[1:]), np.nan)
    known = [i for i, subject in enumerate(subjects) if subject in row_of]
    found[known] = without_diagonal(cohort.adjacency[[row_of[subjects[i]] for i in known]])
    return found
