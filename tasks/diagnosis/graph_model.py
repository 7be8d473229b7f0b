"""A graph network on connectomes, as a model of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...graphs.threshold import proportional
from ...storage.errors import BadConnectome
from .descent import descend
from .examples import Examples
from .models import sigmoid, spread
from .threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...graphs.batches import DenseGraphs, DglGraphs, Readout

Backend = Literal["dgl", "dense"]
Architecture = Literal[
    "gcn", "gcn-root", "gin", "sage", "gat", "cheb", "brainnetcnn", "transformer"
]  # fmt: skip
Array = NDArray[np.float64]


@dataclass(frozen=True)
class GraphModel:
    """Message passing over a person's strongest connections.

    A region's features are its connection profile, its row of the whole adjacency, each entry
    standardised with the training rows' mean and spread. Messages run along the strongest edges, by
    magnitude, with their signed weights.

    Attributes
    ----------
    density
        Share of the pairs of regions that are edges. 0 leaves the same network without any
        message: the control that shows what the graph adds.
    layer
        Of :class:`~microtome.graphs.layers.GraphNetwork`; or a network on the whole matrix of
        profiles, ``brainnetcnn`` or ``transformer`` (:mod:`~microtome.graphs.brain_networks`).
    widths, readout
        Of the former.
    dropout
        Of both.
    epochs, learning_rate, weight_decay
        AdamW over all training graphs at once; the classes weigh the same.
    backend
        ``dgl`` or ``dense``: how messages are passed, not what comes out.

    References
    ----------
    Cui et al. (2022), BrainGB, IEEE TMI 42: connection profiles as features, readout by
    concatenation.
    """

    density: float
    layer: Architecture = "gcn-root"
    widths: tuple[int, ...] = (8,)
    readout: Readout = "concat"
    dropout: float = 0.5
    epochs: int = 40
    learning_rate: float = 0.02
    weight_decay: float = 1.0
    backend: Backend = "dgl"

    def fit(self, train: Examples, *, seed: int = 0) -> FittedGraphModel:
        """Learn profiles' mean and spread, then the network; the global random state stays."""
        import torch

        mean, sd = train.adjacency.mean(0), spread(train.adjacency)
        n_regions = train.adjacency.shape[1]
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, graphs = self.network(n_regions), self.graphs(train, mean, sd)
            descend(
                network,
                lambda: network(graphs),
                train.labels,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
            )
        state = {name: value.numpy().copy() for name, value in network.state_dict().items()}
        return FittedGraphModel(self, mean, sd, state)

    def describe(self) -> Mapping[str, Any]:
        """Hyper-parameters, without the backend, which does not change what is computed."""
        return {name: value for name, value in asdict(self).items() if name != "backend"}

    def network(self, n_regions: int) -> Module:
        """The network with fresh parameters: a batch of graphs in, logits [b] out."""
        from ...graphs.brain_networks import BrainNetCNN, BrainTransformer
        from ...graphs.layers import GraphNetwork

        match self.layer:
            case "brainnetcnn":
                return BrainNetCNN(n_regions, dropout=self.dropout)
            case "transformer":
                return BrainTransformer(n_regions, dropout=self.dropout)
            case layer:
                return GraphNetwork(
                    n_regions,
                    n_regions,
                    layer=layer,
                    widths=self.widths,
                    readout=self.readout,
                    dropout=self.dropout,
                )

    def graphs(self, examples: Examples, mean: Array, sd: Array) -> DenseGraphs | DglGraphs:
        """Connectomes as the backend's batch of graphs."""
        import torch

        from ...graphs.batches import dgl_graphs

        adjacency = torch.tensor(examples.adjacency, dtype=torch.float32)
        dense = self.batch(adjacency, self.edges_kept(examples), mean, sd)
        return dgl_graphs(dense) if self.backend == "dgl" else dense

    def batch(
        self, adjacency: Tensor, kept: NDArray[np.bool_], mean: Array, sd: Array
    ) -> DenseGraphs:
        """Features and messages from adjacencies [s, r, r], differentiable in them."""
        import torch

        from ...graphs.batches import DenseGraphs

        centre, scale = (torch.tensor(a, dtype=torch.float32) for a in (mean, sd))
        return DenseGraphs((adjacency - centre) / scale, adjacency * torch.tensor(kept))

    def edges_kept(self, examples: Examples) -> NDArray[np.bool_]:
        """Which pairs are edges: bool [s, r, r]. Each row by itself, so nothing is learnt here."""
        kept = np.zeros(examples.adjacency.shape, bool)
        if self.density == 0:
            return kept
        for row, name in enumerate(examples.names.tolist()):
            kept[row] = strongest_edges(examples.adjacency[row], self.density, name)
        return kept


@dataclass(frozen=True, eq=False)
class FittedGraphModel:
    """What :class:`GraphModel` learnt.

    Attributes
    ----------
    model
        Its hyper-parameters.
    mean, sd
        float64 [r, r]: of the training rows' profiles.
    state
        Parameters of the network by name, float32.
    """

    model: GraphModel
    mean: Array
    sd: Array
    state: Mapping[str, NDArray[np.float32]]

    def predict_proba(self, examples: Examples) -> Array:
        import torch

        with one_thread(), torch.no_grad():
            logits = self.network()(self.model.graphs(examples, self.mean, self.sd))
        return sigmoid(logits.double().numpy())

    def network(self) -> Module:
        """The trained network, in evaluation mode."""
        import torch

        with torch.random.fork_rng(devices=[]):
            network = self.model.network(len(self.mean))
        network.load_state_dict({name: torch.tensor(v) for name, v in self.state.items()})
        return network.eval()

    def gradient(self, examples: Examples) -> Array:
        """Gradient of the log-odds with respect to each weight: float64 [s, r, r], symmetric.

        The kept edges stay as they are; an edge counts as a feature of both its regions and, where
        kept, as a path of messages both ways.
        """
        import torch

        adjacency = torch.tensor(examples.adjacency, dtype=torch.float32, requires_grad=True)
        kept = self.model.edges_kept(examples)
        with one_thread():
            logits = self.network()(self.model.batch(adjacency, kept, self.mean, self.sd))
            (slope,) = torch.autograd.grad(logits.sum(), adjacency)
        values: Array = slope.double().numpy()
        return values + values.transpose(0, 2, 1)


def strongest_edges(adjacency: Array, density: float, name: str) -> NDArray[np.bool_]:
    """The pairs of largest magnitude, as many as the density asks for: bool [r, r].

    Raises
    ------
    BadConnectome
        The network has fewer edges; names the subject.
    """
    try:
        kept: NDArray[np.bool_] = proportional(adjacency, density, by="magnitude") != 0
    except BadConnectome as error:
        raise BadConnectome(error.what, where=name, remedy=error.remedy) from error
    return kept
