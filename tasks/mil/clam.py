"""CLAM (Lu et al. 2021): attention that is taught to part instances for from those against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .abmil import GatedAttention
from .model import (
    BagOutput,
    Shape,
    attention_of_said,
    by_bag,
    sum_by_bag,
)

N_SAMPLED = 8
BAG_SHARE, INSTANCE_SHARE = 0.7, 0.3


class ClamSB(GatedAttention):
    r"""CLAM with a single attention branch.

    Bags are read as by :class:`GatedAttention`. In training every class has a clusterer,
    :math:`g_c(h) \in \mathbb{R}^2`. With :math:`B' = \min(B, \lfloor n/2 \rfloor)`, the B'
    instances with the highest attention are taught to be *for* the bag's class y and the B' with
    the lowest against it; for every other class the B' highest are taught to be against:

    .. math::

        L = 0.7\,\mathrm{CE}(\mathrm{logits}, y) + \frac{0.3}{C} \sum_c L_c, \qquad
        L_c = \mathrm{mean}_i\;\ell(g_c(h_i), t_{ic}),

    with the smooth top-1 SVM loss :func:`smooth_svm`. B = 8. A bag of one instance has neither a
    highest nor a lowest: it has no instance loss.

    References
    ----------
    Lu et al. (2021), Data-efficient and weakly supervised computational pathology on whole-slide
    images, Nature Biomedical Engineering 5. Labels that do not exclude each other are each
    treated in the same way; a value and a hazard have no instances for and against, and no
    instance loss: of those CLAM is gated attention.
    """

    def __init__(self, shape: Shape, *, n_branches: int = 1) -> None:
        super().__init__(shape, n_branches=n_branches)
        self.cluster = nn.ModuleList(nn.Linear(shape.width, 2) for _ in range(shape.n_classes))

    def losses(self, features: Tensor, sizes: Sequence[int], target: Tensor) -> Tensor:
        """See :class:`BagModel`."""
        embedded = self.embedded(features)
        attention = self.weigh(embedded, sizes)
        bag = self.bag_losses(self.read(embedded, attention, sizes).logits, target)
        held = self.held(target)
        if held is None:
            return bag
        parts = zip(by_bag(embedded, sizes), by_bag(attention, sizes), held, strict=True)
        instance = torch.stack([self.instance_loss(h, a, has) for h, a, has in parts])
        return BAG_SHARE * bag + INSTANCE_SHARE * instance

    def instance_loss(self, embedded: Tensor, attention: Tensor, held: Tensor) -> Tensor:
        """Mean over the classes of the clustering loss of a bag [n, width], [n, branches].

        ``held`` [c] says which classes it has: 1, 0, or nan where nobody knows.
        """
        k = min(N_SAMPLED, len(embedded) // 2)
        if k == 0:
            return embedded.new_zeros(())
        losses = [embedded.new_zeros(())] if held.isnan().all() else []
        for number, cluster in enumerate(self.cluster):
            if held[number].isnan():
                continue
            scores = attention[:, number if attention.shape[1] > 1 else 0]
            rows = scores.topk(k).indices
            kinds = torch.zeros(k, dtype=torch.long, device=rows.device)
            if held[number]:
                rows = torch.cat([rows, scores.topk(k, largest=False).indices])
                kinds = torch.cat([kinds + 1, kinds])
            losses.append(smooth_svm(cluster(embedded[rows]), kinds).mean())
        return torch.stack(losses).mean()


class ClamMB(ClamSB):
    r"""CLAM with an attention branch and a binary classifier for every class.

    .. math::

        a_{ic} = \mathrm{softmax}_i\; w_c^\top(\tanh(V h_i) \odot \mathrm{sigm}(U h_i)), \qquad
        \mathrm{logit}_c = C_c \sum_i a_{ic} h_i + b_c .

    The instance loss is that of :class:`ClamSB`, each class sampled by its own attention. The
    attention that is given is the mean over the classes, weighted by what is said of the bag.

    References
    ----------
    As :class:`ClamSB`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, n_branches=shape.n_classes)

    def read(self, embedded: Tensor, attention: Tensor, sizes: Sequence[int]) -> BagOutput:
        """See :class:`AttentionPooling`."""
        parts = attention * self.classify(embedded)
        logits = sum_by_bag(parts, sizes)
        said = attention_of_said(attention, logits, sizes)
        return BagOutput(logits, self.evidence_of(parts, sizes), said)


def smooth_svm(scores: Tensor, kinds: Tensor) -> Tensor:
    r"""Smooth top-1 SVM loss of scores [k, c] for classes [k], margin and temperature 1: [k].

    :math:`\log \sum_j \exp(s_j + [j \ne y] - s_y)`, which is the cross-entropy of scores with the
    margin added to all classes but the true one.

    References
    ----------
    Berrada, Zisserman & Kumar (2018), Smooth loss functions for deep top-k classification, ICLR.
    """
    margin = 1 - functional.one_hot(kinds, scores.shape[-1])
    return functional.cross_entropy(scores + margin, kinds, reduction="none")
