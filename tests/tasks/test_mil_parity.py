"""Models are torchmil's where it has them: with the same weights, the same outputs and gradients.

Ours have two classes where torchmil has one logit: with the weights of class 0 at zero, the
difference of the two logits is that logit, and cross-entropy its binary cross-entropy. Where
torchmil leaves the paper, the test says so and goes by the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmil.models import ABMIL, CLAM_SB, DSMIL, DTFDMIL, TransMIL

from microtome.tasks.mil.clam import ClamSB
from microtome.tasks.mil.dtfd import DoubleTier
from microtome.tasks.mil.model import BagModel
from microtome.tasks.mil.train import TrainOptions, new_model
from microtome.tasks.mil.transmil import TransMIL as OurTransMIL

D, W, G, N = 7, 6, 4, 25
ONE = torch.tensor([1])

Pairs = Sequence[tuple[nn.Parameter, nn.Parameter]]


def ours(name: str) -> BagModel:
    torch.manual_seed(3)
    return new_model(TrainOptions(model=name, width=W, n_gates=G, dropout=0), D, 2)


def bag(n: int = N) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, D)).astype(np.float32))


def their_embedding(model: BagModel) -> nn.Sequential:
    embed = nn.Sequential(nn.Linear(D, W), nn.ReLU())
    embed[0].load_state_dict(model.embed[0].state_dict())
    return embed


def one_logit(model: nn.Module, *names: str) -> None:
    """Set what gives the logit of class 0 to zero."""
    with torch.no_grad():
        for name in names:
            layer = model.get_submodule(name)
            layer.weight[0] = 0
            layer.bias[0] = 0


def copy(pairs: Pairs) -> None:
    """Copy our weights [2, ...] or [...] into theirs [1, ...] or [...]."""
    with torch.no_grad():
        for mine, theirs in pairs:
            theirs.copy_(like(mine, theirs))


def like(mine: Tensor, theirs: Tensor) -> Tensor:
    return mine if mine.shape == theirs.shape else mine[-len(theirs) :]


def assert_equal_gradients(pairs: Pairs) -> None:
    for mine, theirs in pairs:
        assert mine.grad is not None
        assert theirs.grad is not None
        assert theirs.grad.abs().sum() > 0
        torch.testing.assert_close(like(mine.grad, theirs.grad), theirs.grad, atol=1e-5, rtol=1e-4)


def logit(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0]


def attention_pairs(model: nn.Module, pool: nn.Module, prefix: str = "attend") -> list:
    pairs = [
        (getattr(model, f"{prefix}_tanh").weight, pool.fc1.module.weight),
        (
            getattr(model, prefix if prefix == "attend" else f"{prefix}_attend").weight,
            pool.fc2.weight,
        ),
    ]
    if pool.gated:
        pairs.append((getattr(model, f"{prefix}_gate").weight, pool.fc_gated.module.weight))
    return pairs


def without_bias(pool: nn.Module) -> None:
    """Ilse et al. (2018), equations 8 and 9, have none."""
    with torch.no_grad():
        for layer in (pool.fc1, getattr(pool, "fc_gated", None)):
            if layer is not None:
                layer.module.bias.zero_()


@pytest.mark.parametrize(("name", "gated"), [("abmil", True), ("abmil-plain", False)])
@pytest.mark.parametrize("n", [1, N])
def test_attention_is_torchmils(name: str, *, gated: bool, n: int) -> None:
    model = ours(name)
    one_logit(model, "classify")
    theirs = ABMIL((D,), att_dim=G, gated=gated, feat_ext=their_embedding(model))
    without_bias(theirs.pool)
    pairs = attention_pairs(model, theirs.pool)
    copy(pairs)
    last = [
        (model.classify.weight, theirs.classifier.module.weight),
        (model.classify.bias, theirs.classifier.module.bias),
    ]
    copy(last)
    x = bag(n)
    output, (said, scores) = model(x, [n]), theirs(x[None], return_att=True)
    torch.testing.assert_close(logit(output.logits), said, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.attention, scores[0].softmax(0), atol=1e-5, rtol=1e-5)

    model.losses(x, [n], ONE).sum().backward()
    theirs.compute_loss(ONE, x[None])[1]["BCEWithLogitsLoss"].backward()
    learnt = pairs if n > 1 else []
    assert_equal_gradients([*learnt, *last, (model.embed[0].weight, theirs.feat_ext[0].weight)])


class SmoothSvm(nn.Module):
    """Berrada et al. (2018), equation 7, k = 1, margin and temperature 1."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        wrong = 1 - functional.one_hot(y[:, 0].long(), 2)
        return (torch.logsumexp(x + wrong, 1) - x.gather(1, y.long())[:, 0]).mean()


def test_clams_clustering_is_torchmils() -> None:
    """What instances it samples and what it wants of them, with the paper's smooth SVM.

    torchmil's own SmoothTop1SVM holds every instance against every other's target, as its
    targets have one dimension too many; it is replaced. It sums over classes, the paper's
    programme takes their mean.
    """
    model = ours("clam-sb")
    assert isinstance(model, ClamSB)
    one_logit(model, "classify")
    theirs = CLAM_SB((D,), att_dim=G, k_sample=8, gated=True, feat_ext=their_embedding(model))
    without_bias(theirs.pool)
    theirs.inst_loss_fn = SmoothSvm()
    pairs = [
        *attention_pairs(model, theirs.pool),
        (model.classify.weight, theirs.classifier.module.weight),
        (model.classify.bias, theirs.classifier.module.bias),
        *(
            (getattr(model.cluster[c], p), getattr(theirs.inst_classifiers[c].module, p))
            for c in (0, 1)
            for p in ("weight", "bias")
        ),
    ]
    copy(pairs)
    x = bag()
    _, losses = theirs.compute_loss(ONE, x[None])
    loss = model.losses(x, [N], ONE)
    expected = 0.7 * losses["BCEWithLogitsLoss"] + 0.3 * losses["InstLoss"] / 2
    torch.testing.assert_close(loss[0], expected, atol=1e-5, rtol=1e-5)
    loss.sum().backward()
    expected.backward()
    assert_equal_gradients([*pairs, (model.embed[0].weight, theirs.feat_ext[0].weight)])


def test_both_streams_are_torchmils() -> None:
    """torchmil has no values W_v (its default): ours are set to the identity."""
    model = ours("dsmil")
    one_logit(model, "score", "classify")
    with torch.no_grad():
        model.value.weight.copy_(torch.eye(W))
        model.value.bias.zero_()
        model.classify.weight[1, :W] = 0
    theirs = DSMIL((D,), att_dim=G, feat_ext=their_embedding(model))
    pairs = [
        (model.query.weight, theirs.q_nn.weight),
        (model.query.bias, theirs.q_nn.bias),
        (model.score.weight, theirs.inst_classifier.weight),
        (model.score.bias, theirs.inst_classifier.bias),
        (model.classify.bias, theirs.bag_classifier.bias),
    ]
    copy(pairs)
    with torch.no_grad():
        theirs.bag_classifier.weight.copy_(model.classify.weight[1:, W:])
    x = bag()
    output = model(x, [N])
    said, scores = theirs.predict(x[None], return_inst_pred=True)
    torch.testing.assert_close(logit(output.logits), said, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.evidence[:, 1], scores[0], atol=1e-5, rtol=1e-5)

    model.losses(x, [N], ONE).sum().backward()
    sum(theirs.compute_loss(ONE, x[None])[1].values()).div(2).backward()
    assert_equal_gradients([*pairs[2:], (model.embed[0].weight, theirs.feat_ext[0].weight)])
    torch.testing.assert_close(
        model.classify.weight.grad[1:, W:], theirs.bag_classifier.weight.grad, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        model.query.weight.grad, theirs.q_nn.weight.grad, atol=1e-5, rtol=1e-4
    )


def test_both_tiers_are_torchmils(monkeypatch: pytest.MonkeyPatch) -> None:
    """With aggregated features, the same pseudo-bags, and, as in the paper, a loss for each tier.

    torchmil's attention has no gate: ours are set half open. It adds both losses up, so that the
    second tier's reaches the first's weights; its gradients are compared loss by loss.
    """
    model = ours("dtfd").eval()
    assert isinstance(model, DoubleTier)
    one_logit(model, "classify", "second_classify")
    theirs = DTFDMIL((D,), att_dim=G, distill_mode="afs", feat_ext=their_embedding(model))
    tiers = [
        (model.attend_gate, theirs.attention_pool, model.attend_tanh, model.attend),
        (model.second_gate, theirs.u_attention_pool, model.second_tanh, model.second_attend),
    ]
    for gate, pool, tanh, attend in tiers:
        without_bias(pool)
        with torch.no_grad():
            gate.weight.zero_()
            pool.fc1.module.weight.copy_(tanh.weight)
            pool.fc2.weight.copy_(attend.weight / 2)
    first = [(model.classify.weight, theirs.classifier.module.weight)]
    second = [(model.second_classify.weight, theirs.u_classifier.module.weight)]
    copy([*first, *second])
    copy([(model.classify.bias, theirs.classifier.module.bias)])
    copy([(model.second_classify.bias, theirs.u_classifier.module.bias)])
    order = torch.cat(model.pseudo_bags(N)).numpy()

    def shuffle(rows: np.ndarray) -> None:
        rows[:] = order

    monkeypatch.setattr(np.random, "shuffle", shuffle)
    x = bag()
    said, losses = theirs.compute_loss(ONE, x[None])
    torch.testing.assert_close(logit(model(x, [N]).logits), said, atol=1e-5, rtol=1e-5)
    loss = model.losses(x, [N], ONE)
    torch.testing.assert_close(loss[0], sum(losses.values()), atol=1e-5, rtol=1e-5)

    loss.sum().backward()
    of_bag, of_pseudo = losses["BCEWithLogitsLoss_t1"], losses["BCEWithLogitsLoss_t2"]
    of_bag.backward(retain_graph=True)
    pool = theirs.u_attention_pool
    assert_equal_gradients([*second, (model.second_tanh.weight, pool.fc1.module.weight)])
    theirs.zero_grad()
    of_pseudo.backward()
    pool = theirs.attention_pool
    assert_equal_gradients(
        [
            *first,
            (model.attend_tanh.weight, pool.fc1.module.weight),
            (model.embed[0].weight, theirs.feat_ext[0].weight),
        ]
    )


@pytest.mark.parametrize(("n", "marks"), [(64, 5), (50, 13)])
def test_the_transformer_is_torchmils(n: int, marks: int) -> None:
    """With a number of tokens that landmarks divide, as torchmil pads, and one head.

    torchmil scales the start of the pseudo-inverse by the largest norm of all heads and bags;
    the paper's is each matrix's own, so that no bag changes another.
    """
    torch.manual_seed(3)
    width = 10
    model = new_model(TrainOptions(model="transmil", width=width, n_gates=G, dropout=0), D, 2)
    assert isinstance(model, OurTransMIL)
    one_logit(model, "classify")
    embed = nn.Sequential(nn.Linear(D, width), nn.ReLU())
    embed[0].load_state_dict(model.embed[0].state_dict())
    theirs = TransMIL((D,), att_dim=width, n_heads=1, n_landmarks=marks, feat_ext=embed)
    for mine in (model.first, model.second):
        mine.n_heads, mine.n_landmarks = 1, marks
        with torch.no_grad():
            mine.project.weight.copy_(torch.eye(width))
            mine.project.bias.zero_()
    layers = zip(
        theirs.layers,
        ((model.first, model.first_norm), (model.second, model.second_norm)),
        strict=True,
    )
    pairs = [
        (model.classify.weight, theirs.classifier.weight),
        (model.classify.bias, theirs.classifier.bias),
        (model.norm.weight, theirs.norm.weight),
        (model.norm.bias, theirs.norm.bias),
        *(
            pair
            for layer, (attention, norm) in layers
            for pair in (
                (attention.query_key_value.weight, layer.att_module.qkv_nn.weight),
                (norm.weight, layer.norm1.weight),
                (norm.bias, layer.norm1.bias),
            )
        ),
        *(
            (mine.weight, their.weight)
            for mine, their in zip(
                model.position.convolve,
                (theirs.pos_layer.proj, theirs.pos_layer.proj1, theirs.pos_layer.proj2),
                strict=True,
            )
        ),
    ]
    copy(pairs)
    with torch.no_grad():
        theirs.cls_token[0, 0] = model.token
        for mine, their in zip(
            model.position.convolve,
            (theirs.pos_layer.proj, theirs.pos_layer.proj1, theirs.pos_layer.proj2),
            strict=True,
        ):
            their.bias.copy_(mine.bias)
    x = bag(n)
    output = model(x, [n])
    said, attention = theirs(x[None], return_att=True)
    torch.testing.assert_close(logit(output.logits), said, atol=1e-5, rtol=1e-5)
    looked = attention[0].clamp_min(0)
    if n == 64:
        torch.testing.assert_close(output.attention, looked / looked.sum(), atol=1e-5, rtol=1e-4)

    model.losses(x, [n], ONE).sum().backward()
    next(iter(theirs.compute_loss(ONE, x[None])[1].values())).backward()
    assert_equal_gradients([*pairs, (model.embed[0].weight, theirs.feat_ext[0].weight)])
