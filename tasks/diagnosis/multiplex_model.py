"""A graph network over several connectomes of a person, as a model of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadConnectome
from .descent import descend
from .examples import Examples
from .graph_model import strongest_edges
from .models import moments, sigmoid
from .threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from ...graphs.multiplex_network import MultiplexGraphs, MultiplexNetwork

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MultiplexModel:
    """Message passing within the layers of a person, and between them.

    Features and edges of a layer are those of
    :class:`~microtome.tasks.diagnosis.graph_model.GraphModel`: profiles standardised by the
    training rows that have the layer, messages along its strongest edges. What a person lacks is
    left out, not filled in (:class:`~microtome.graphs.multiplex_network.MultiplexNetwork`).

    Attributes
    ----------
    density
        Share of the pairs of regions that are edges, in each layer.
    width, dropout, layer_dropout
        Of the network.
    epochs, learning_rate, weight_decay
        AdamW over all training rows at once; the classes weigh the same.
    """

    density: float
    width: int = 8
    dropout: float = 0.5
    layer_dropout: float = 0.2
    epochs: int = 40
    learning_rate: float = 0.02
    weight_decay: float = 1.0

    def fit(self, train: Examples, *, seed: int = 0) -> FittedMultiplex:
        """Learn profiles' mean and spread, then the network; the global random state stays."""
        import torch

        mean, sd = moments(train.layers)
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network(*mean.shape[:2])
            batch = self.batch(_tensor(train), self.edges_kept(train), mean, sd)
            descend(
                network,
                lambda: network(batch),
                train.labels,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
            )
        state = {name: value.numpy().copy() for name, value in network.state_dict().items()}
        return FittedMultiplex(self, mean, sd, state)

    def describe(self) -> Mapping[str, Any]:
        return asdict(self)

    def network(self, n_layers: int, n_regions: int) -> MultiplexNetwork:
        """The network with fresh parameters."""
        from ...graphs.multiplex_network import MultiplexNetwork

        return MultiplexNetwork(
            n_layers,
            n_regions,
            n_regions,
            width=self.width,
            dropout=self.dropout,
            layer_dropout=self.layer_dropout,
        )

    def batch(
        self, adjacency: Tensor, kept: NDArray[np.bool_], mean: Array, sd: Array
    ) -> MultiplexGraphs:
        """Features and messages from adjacencies [s, l, r, r], differentiable in them."""
        import torch

        from ...graphs.batches import DenseGraphs
        from ...graphs.multiplex_network import MultiplexGraphs

        there = ~adjacency.isnan()
        known = torch.where(there, adjacency, 0)
        centre, scale = (torch.tensor(a, dtype=torch.float32) for a in (mean, sd))
        features = torch.where(there, (known - centre) / scale, 0)
        messages = known * torch.tensor(kept)
        layers = [DenseGraphs(features[:, m], messages[:, m]) for m in range(kept.shape[1])]
        return MultiplexGraphs(layers, there[:, :, 0, 0])

    def edges_kept(self, examples: Examples) -> NDArray[np.bool_]:
        """Which pairs are edges: bool [s, l, r, r], none in a layer that is missing."""
        kept = np.zeros(examples.layers.shape, bool)
        for row, layer in np.argwhere(examples.present):
            name = str(examples.names[row])
            kept[row, layer] = strongest_edges(examples.layers[row, layer], self.density, name)
        return kept


@dataclass(frozen=True, eq=False)
class FittedMultiplex:
    """What :class:`MultiplexModel` learnt.

    Attributes
    ----------
    model
        Its hyper-parameters.
    mean, sd
        float64 [l, r, r]: of the training rows' profiles.
    state
        Parameters of the network by name, float32.
    """

    model: MultiplexModel
    mean: Array
    sd: Array
    state: Mapping[str, NDArray[np.float32]]

    def predict_proba(self, examples: Examples) -> Array:
        import torch

        self._check(examples)
        batch = self.model.batch(
            _tensor(examples), self.model.edges_kept(examples), self.mean, self.sd
        )
        with one_thread(), torch.no_grad():
            logits = self.network()(batch)
        return sigmoid(logits.double().numpy())

    def network(self) -> MultiplexNetwork:
        """The trained network, in evaluation mode."""
        import torch

        with torch.random.fork_rng(devices=[]):
            network = self.model.network(*self.mean.shape[:2])
        network.load_state_dict({name: torch.tensor(v) for name, v in self.state.items()})
        return network.eval()

    def gradient(self, examples: Examples) -> Array:
        """Gradient of the log-odds with respect to each weight: float64 [s, l, r, r], symmetric."""
        import torch

        self._check(examples)
        adjacency = _tensor(examples).requires_grad_()
        kept = self.model.edges_kept(examples)
        with one_thread():
            logits = self.network()(self.model.batch(adjacency, kept, self.mean, self.sd))
            (slope,) = torch.autograd.grad(logits.sum(), adjacency)
        values: Array = slope.double().numpy()
        return values + values.swapaxes(-1, -2)

    def shares(self, examples: Examples) -> Array:
        """How much each layer counts for each row: float64 [s, l]."""
        import torch

        with torch.no_grad():
            found = self.network().shares(torch.tensor(examples.present))
        return np.asarray(found.double().numpy(), np.float64)

    def _check(self, examples: Examples) -> None:
        if examples.layers.shape[1:] != self.mean.shape:
            raise BadConnectome(
                f"connectomes {examples.layers.shape[1:]} do not fit a model of {self.mean.shape}",
                remedy="Give the cohorts that it was trained on, in their order",
            )


def _tensor(examples: Examples) -> Tensor:
    import torch

    return torch.tensor(examples.layers, dtype=torch.float32)
