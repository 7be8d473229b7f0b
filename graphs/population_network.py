"""A graph network whose nodes are people: what is known of others like them says something of one.

This module imports torch: import it inside functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PopulationNetwork(nn.Module):
    r"""Two steps of weighted means over training people, with a weight for the person itself.

    .. math:: H = f(X R_1 + P X_t W_1 + b_1), \quad y = H R_2 + P H_t W_2 + b_2

    for people X, with the training people :math:`X_t` and each row of P the weights of edges to
    them, adding up to 1 or all 0. Nobody's value depends on anybody but the training people: a
    person who is asked about changes nothing for the next.

    Parameters
    ----------
    n_features
        Of a person.
    width
        After the first step.
    dropout
        Of features and of H, in training.

    References
    ----------
    Parisot et al. (2018), Medical Image Analysis 48: populations as graphs, there with those to be
    predicted among the nodes while learning. Hamilton et al. (2017), GraphSAGE, NeurIPS: mean over
    neighbours, inductive.
    """

    def __init__(self, n_features: int, *, width: int = 16, dropout: float = 0.5) -> None:
        super().__init__()
        self.own = nn.Linear(n_features, width)
        self.others = nn.Linear(n_features, width, bias=False)
        self.own_logit = nn.Linear(width, 1)
        self.others_logit = nn.Linear(width, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, people: Tensor, edges: Tensor, trained_on: Tensor, edges_among: Tensor
    ) -> Tensor:
        """Logits [n] of the positive class.

        Parameters
        ----------
        people, edges
            [n, f], and [n, m]: their edges to the training people.
        trained_on, edges_among
            [m, f], and [m, m]: the training people, and the edges among them.
        """
        h = self.dropout(self._first(people, edges, trained_on))
        among = self.dropout(self._first(trained_on, edges_among, trained_on))
        logits: Tensor = self.own_logit(h) + self.others_logit(edges @ among)
        return logits.squeeze(1)

    def _first(self, people: Tensor, edges: Tensor, trained_on: Tensor) -> Tensor:
        people, trained_on = self.dropout(people), self.dropout(trained_on)
        return torch.relu(self.own(people) + self.others(edges @ trained_on))
