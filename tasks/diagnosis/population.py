"""People as nodes of one graph, joined by site, age and the like, as a model of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import CohortError
from .descent import descend
from .examples import Examples
from .models import moments, sigmoid
from .threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from ...graphs.population_network import PopulationNetwork

Array = NDArray[np.float64]

_RANK = 1e-9


@dataclass(frozen=True)
class PopulationModel:
    r"""A graph network over people, asked about others than those that it was trained on.

    A person's features are the standardised edges on the training rows' leading principal
    components. Two people are joined with the weight

    .. math:: A_{ij} = e^{-\rho_{ij}^2 / 2 \sigma^2} \,
              \Big([s_i = s_j] + \sum_k e^{-(c_{ik} - c_{jk})^2 / 2}\Big)

    with the correlation distance ρ of their features, σ its mean among training rows, sites s and
    covariates c in standard deviations; sums are over what is known. Rows of one person are not
    joined while learning. Whoever is asked about is joined to training rows only: learning sees
    nothing of them, neither features nor edges, unlike the transductive evaluation of the paper.

    Attributes
    ----------
    joined
        Without, nobody is joined to anybody: the control that shows what the population adds.
    n_components
        Features of a person, at most.
    width, dropout
        Of :class:`~microtome.graphs.population_network.PopulationNetwork`.
    epochs, learning_rate, weight_decay
        AdamW over all training rows at once; the classes weigh the same.

    References
    ----------
    Parisot et al. (2018), Disease prediction using graph convolutional networks, Medical Image
    Analysis 48, equations 4 to 6.
    """

    joined: bool = True
    n_components: int = 32
    width: int = 16
    dropout: float = 0.5
    epochs: int = 60
    learning_rate: float = 0.02
    weight_decay: float = 0.1

    def fit(self, train: Examples, *, seed: int = 0) -> FittedPopulation:
        """Learn components, then the network; the global random state stays.

        Raises
        ------
        CohortError
            Neither sites nor covariates are known, by which people could be joined.
        """
        import torch

        space = PersonSpace.fit(train, self.n_components)
        people = space.transform(train)
        apart = train.groups[:, None] != train.groups[None, :]
        edges = self.edges(people, people, space.distance, apart)
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network(people.features.shape[1])
            x, p = _tensor(people.features), _tensor(edges)
            descend(
                network,
                lambda: network(x, p, x, p),
                train.labels,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
            )
        state = {name: value.numpy().copy() for name, value in network.state_dict().items()}
        return FittedPopulation(self, space, people, edges, state)

    def describe(self) -> Mapping[str, Any]:
        return asdict(self)

    def network(self, n_features: int) -> PopulationNetwork:
        """The network with fresh parameters."""
        from ...graphs.population_network import PopulationNetwork

        return PopulationNetwork(n_features, width=self.width, dropout=self.dropout)

    def edges(
        self,
        people: Population,
        trained_on: Population,
        distance: float,
        apart: NDArray[np.bool_] | None = None,
    ) -> Array:
        """Weights to training people, adding up to 1 or all 0: float64 [n, m].

        Parameters
        ----------
        distance
            σ.
        apart
            bool [n, m]: who may be joined; all by default.
        """
        weights = people.likeness(trained_on, distance) * self.joined
        if apart is not None:
            weights = weights * apart
        total = weights.sum(1, keepdims=True)
        shares: Array = weights / np.where(total > 0, total, 1)
        return shares


@dataclass(frozen=True, eq=False)
class Population:
    """What people are joined by; None where it is not known.

    Attributes
    ----------
    features
        float64 [n, k].
    sites
        str [n].
    covariates
        float64 [n, c], in standard deviations of the training rows.
    """

    features: Array
    sites: NDArray[np.str_] | None
    covariates: Array | None

    def likeness(self, others: Population, distance: float) -> Array:
        """Weights of edges, before they are made to add up: float64 [n, m]."""
        alike = np.zeros((len(self.features), len(others.features)))
        if self.sites is not None and others.sites is not None:
            alike += self.sites[:, None] == others.sites[None, :]
        if self.covariates is not None and others.covariates is not None:
            away = self.covariates[:, None] - others.covariates[None]
            alike += np.exp(-(away**2) / 2).sum(2)
        apart = _distance(self.features, others.features) / distance
        weights: Array = np.exp(-(apart**2) / 2) * alike
        return weights


@dataclass(frozen=True, eq=False)
class PersonSpace:
    """From examples to a population, as the training rows say.

    Attributes
    ----------
    mean, sd
        float64 [e]: of edges.
    axes
        float64 [k, e]: principal components, scaled so that the first has unit variance.
    covariate_mean, covariate_sd
        float64 [c].
    distance
        Mean correlation distance of features.
    """

    mean: Array
    sd: Array
    axes: Array
    covariate_mean: Array
    covariate_sd: Array
    distance: float = 1.0

    @classmethod
    def fit(cls, train: Examples, n_components: int) -> PersonSpace:
        """Learn from training rows.

        Raises
        ------
        CohortError
            Neither sites nor covariates are known.
        """
        if train.sites is None and train.covariates is None:
            raise CohortError(
                "a population graph joins people by what is known of them",
                where="--models",
                remedy="Name columns with --site or --covariates",
            )
        mean, sd = moments(train.edges)
        _, size, axes = np.linalg.svd((train.edges - mean) / sd, full_matrices=False)
        k = min(n_components, int((size > _RANK * size[0]).sum()))
        axes = axes[:k] * np.sqrt(len(train)) / size[0]
        known = np.empty((len(train), 0)) if train.covariates is None else train.covariates
        space = cls(mean, sd, axes, *moments(known))
        features = space.transform(train).features
        return replace(space, distance=max(float(_distance(features, features).mean()), _RANK))

    def transform(self, examples: Examples) -> Population:
        """People as nodes."""
        covariates = examples.covariates
        if covariates is not None:
            covariates = (covariates - self.covariate_mean) / self.covariate_sd
        features = ((examples.edges - self.mean) / self.sd) @ self.axes.T
        return Population(features, examples.sites, covariates)


@dataclass(frozen=True, eq=False)
class FittedPopulation:
    """What :class:`PopulationModel` learnt. **It holds the training people's features.**

    Attributes
    ----------
    model
        Its hyper-parameters.
    space
        From examples to people.
    people, edges
        The training people, and the edges among them, float64 [m, m].
    state
        Parameters of the network by name, float32.
    """

    model: PopulationModel
    space: PersonSpace
    people: Population
    edges: Array
    state: Mapping[str, NDArray[np.float32]]

    def predict_proba(self, examples: Examples) -> Array:
        import torch

        asked = self.space.transform(examples)
        with torch.random.fork_rng(devices=[]):
            network = self.model.network(self.people.features.shape[1])
        network.load_state_dict({name: torch.tensor(v) for name, v in self.state.items()})
        edges = self.model.edges(asked, self.people, self.space.distance)
        tensors = (asked.features, edges, self.people.features, self.edges)
        with one_thread(), torch.no_grad():
            logits = network.eval()(*map(_tensor, tensors))
        return sigmoid(logits.double().numpy())


def _distance(a: Array, b: Array) -> Array:
    """One minus Pearson's correlation of each row of a with each of b: float64 [n, m]."""
    a, b = (one - one.mean(1, keepdims=True) for one in (a, b))
    length = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    away: Array = 1 - (a @ b.T) / np.maximum(length, 1e-12)
    return away


def _tensor(values: Array) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float32)
