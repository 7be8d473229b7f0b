"""What every bag model keeps to, and the equations of the papers, written out again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from microtome.tasks.evaluation import grouped_folds
from microtome.tasks.mil.acmil import AttentionChallenging, mask_some_top
from microtome.tasks.mil.crossval import cross_validate
from microtome.tasks.mil.dtfd import DoubleTier
from microtome.tasks.mil.model import PIECE, BagModel
from microtome.tasks.mil.names import MODELS
from microtome.tasks.mil.nystrom import Attention, NystromAttention, landmarks, pseudo_inverse
from microtome.tasks.mil.prototype import N_CLUSTERS, Prototypes
from microtome.tasks.mil.train import TrainOptions, fit, new_model, some_instances
from microtome.tasks.mil.transmil import TransMIL, squared

D, C = 7, 3
ORDERED = {"transmil": "lays instances out on a square", "dtfd": "parts them in pseudo-bags"}
"""Models whose papers make the order of instances matter."""
QUICK = TrainOptions(epochs=15, members=2, width=16, n_gates=8)


def untrained(name: str, n_classes: int = C, width: int = 6) -> BagModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = TrainOptions(model=name, width=width, n_gates=4)
        model = new_model(options, D, n_classes)
        model.mean, model.deviation = torch.randn(D), torch.rand(D) + 0.5
    return model.eval()


def some_bag(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def softmax(x: np.ndarray, axis: int = 0) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return float(-np.log(softmax(logits)[label]))


# Contracts of all models.


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ORDERED])
def test_the_order_of_instances_says_nothing(name: str) -> None:
    model, bag = untrained(name), some_bag(20)
    order = torch.from_numpy(np.random.default_rng(1).permutation(20))
    plain, mixed = model(bag, [20]), model(bag[order], [20])
    torch.testing.assert_close(plain.logits, mixed.logits)
    torch.testing.assert_close(plain.evidence[order], mixed.evidence)
    torch.testing.assert_close(plain.attention[order], mixed.attention)


@pytest.mark.parametrize("name", ORDERED)
def test_where_order_matters_a_bag_in_its_order_is_read_alike(name: str) -> None:
    model, bag = untrained(name), some_bag(20)
    order = torch.from_numpy(np.random.default_rng(1).permutation(20))
    first = model(bag, [20])
    torch.rand(3)
    assert torch.equal(first.logits, model(bag, [20]).logits)
    assert not torch.allclose(first.logits, model(bag[order], [20]).logits)


@pytest.mark.parametrize("name", MODELS)
def test_bags_of_a_batch_do_not_touch(name: str) -> None:
    model = untrained(name)
    bags = [some_bag(n, seed=n) for n in (1, 40, 9, 4)]
    together = model(torch.cat(bags), [1, 40, 9, 4])
    alone = [model(bag, [len(bag)]) for bag in bags]
    for what in ("logits", "evidence", "attention"):
        apart = torch.cat([getattr(one, what) for one in alone])
        torch.testing.assert_close(getattr(together, what), apart, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_attention_of_any_bag(name: str) -> None:
    model = untrained(name)
    for n in (1, 2, 3, 5, 300):
        output = model(1000 * some_bag(n), [n])
        assert output.logits.shape == (1, C)
        assert output.evidence.shape == (n, C)
        assert output.attention.shape == (n,)
        assert (output.attention >= 0).all()
        assert float(output.attention.detach().sum()) == pytest.approx(1, abs=1e-5)
        assert torch.isfinite(output.logits).all()
        assert torch.isfinite(output.evidence).all()
    assert model(some_bag(1), [1]).attention.tolist() == [1.0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "graph"])
def test_gradients_reach_every_weight_and_are_finite(name: str, *, training: bool) -> None:
    model = untrained(name).train(training)
    torch.manual_seed(0)
    sizes = [60, 50, 40]
    losses = model.losses(some_bag(150), sizes, torch.tensor([0, 1, 2]))
    assert losses.shape == (3,)
    losses.sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_small_bags_can_be_learnt_from(name: str) -> None:
    """One instance a bag, or two: nothing to sample, to part or to mask."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    bags = [
        rng.normal(3 * label, 1, (1 + i % 2, 5)).astype(np.float32)
        for i, label in enumerate(labels)
    ]
    each, options = np.arange(24), replace(QUICK, model=name, epochs=30)
    found = cross_validate(bags, labels, each, grouped_folds(labels, each, 2), options)
    assert roc_auc_score(labels, found.probabilities[:, 1]) > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_pieces_of_a_large_bag_make_it(name: str) -> None:
    model, n = untrained(name), PIECE + 100
    whole = model(some_bag(n), [n])
    with torch.no_grad():
        pieces = model(some_bag(n), [n])
    torch.testing.assert_close(pieces.logits, whole.logits.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pieces.attention, whole.attention.detach(), atol=1e-6, rtol=1e-4)


def test_instances_are_dropped_at_random_and_never_all() -> None:
    torch.manual_seed(0)
    bag = some_bag(1000)
    assert some_instances(bag, 0.0) is bag
    kept = some_instances(bag, 0.3)
    assert 650 < len(kept) < 750
    rows = {tuple(row) for row in bag.tolist()}
    assert all(tuple(row) in rows for row in kept.tolist())
    assert all(len(some_instances(some_bag(n), 0.99)) >= 1 for n in (1, 2, 3) for _ in range(50))


def test_instance_dropout_changes_what_is_learnt_and_its_record() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    bags = [rng.normal(size=(9, 5)).astype(np.float32) for _ in labels]
    plain, dropped = (
        fit(bags, labels, np.arange(12), replace(QUICK, epochs=2, instance_dropout=p))
        for p in (0.0, 0.5)
    )
    assert not torch.equal(plain[0].embed[0].weight, dropped[0].embed[0].weight)
    assert QUICK.record() != replace(QUICK, instance_dropout=0.5).record()


# The equations of the papers, in NumPy and double precision.


Weights = dict[str, np.ndarray]


def weights_of(model: BagModel) -> Weights:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def embed(x: np.ndarray, w: Weights) -> np.ndarray:
    return np.maximum(linear((x - w["mean"]) / w["deviation"], w, "embed.0"), 0)


def gated(h: np.ndarray, w: Weights) -> np.ndarray:
    """Ilse et al. (2018), equation 9: attention before the softmax [n, branches]."""
    gate = 1 / (1 + np.exp(-linear(h, w, "attend_gate")))
    return linear(np.tanh(linear(h, w, "attend_tanh")) * gate, w, "attend")


def assert_loss_and_slope(model: BagModel, bags: list[torch.Tensor], labels, reference) -> None:
    """The loss is the reference's, and so is its slope along a random direction."""
    x, sizes = torch.cat(bags).double(), [len(bag) for bag in bags]
    loss = model.losses(x, sizes, torch.tensor(labels)).sum()
    loss.backward()
    w, step = weights_of(model), 1e-6
    assert float(loss.detach()) == pytest.approx(reference(w), abs=1e-9)
    rng = np.random.default_rng(0)
    ahead, behind, slope = dict(w), dict(w), 0.0
    for name, parameter in model.named_parameters():
        direction = rng.normal(size=w[name].shape)
        ahead[name], behind[name] = w[name] + step * direction, w[name] - step * direction
        slope += float((parameter.grad.numpy() * direction).sum())
    assert slope == pytest.approx((reference(ahead) - reference(behind)) / (2 * step), rel=1e-5)


def test_clam_with_branches_is_the_papers() -> None:
    """Lu et al. (2021): attention, slide score and instance loss of every class."""
    model, bags, labels = untrained("clam-mb").double(), [some_bag(23), some_bag(5, 1)], [2, 0]

    def svm(s: np.ndarray, y: int) -> float:
        return float(np.log(sum(np.exp(s[j] + (j != y) - s[y]) for j in (0, 1))))

    def read(x: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        h = embed(x, w)
        a = softmax(gated(h, w))
        z = [a[:, c] @ h for c in range(C)]
        logits = [w["classify.weight"][c] @ z[c] + w["classify.bias"][c] for c in range(C)]
        return h, a, np.array(logits)

    def reference(w: Weights) -> float:
        total = 0.0
        for bag, label in zip(bags, labels, strict=True):
            h, a, logits = read(bag.double().numpy(), w)
            k, losses = min(8, len(bag) // 2), []
            for c in range(C):
                order = np.argsort(-a[:, c])
                kinds = [(i, int(c == label)) for i in order[:k]]
                kinds += [(i, 0) for i in order[-k:]] if c == label else []
                said = linear(h, w, f"cluster.{c}")
                losses.append(np.mean([svm(said[i], y) for i, y in kinds]))
            total += 0.7 * cross_entropy(logits, label) + 0.3 * np.mean(losses)
        return total

    w, bag = weights_of(model), bags[0].double()
    output = model(bag, [23])
    _, a, logits = read(bag.numpy(), w)
    np.testing.assert_allclose(output.logits[0].detach(), logits, atol=1e-12)
    np.testing.assert_allclose(output.attention.detach(), a @ softmax(logits), atol=1e-12)
    assert_loss_and_slope(model, bags, labels, reference)


def test_attention_challenging_is_the_papers() -> None:
    """Zhang et al. (2024): bag, branch and diversity losses, without the random mask."""
    model, bags, labels = untrained("acmil").double(), [some_bag(23), some_bag(3, 1)], [1, 2]
    assert isinstance(model, AttentionChallenging)

    def reference(w: Weights) -> float:
        total = 0.0
        for bag, label in zip(bags, labels, strict=True):
            h = embed(bag.double().numpy(), w)
            a = softmax(gated(h, w))
            z = a.T @ h
            cosines = [
                a[:, i] @ a[:, j] / np.linalg.norm(a[:, i]) / np.linalg.norm(a[:, j])
                for i in range(5)
                for j in range(i)
            ]
            branches = [cross_entropy(linear(z[m], w, f"branches.{m}"), label) for m in range(5)]
            bag_loss = cross_entropy(linear(z.mean(0), w, "classify"), label)
            total += bag_loss + np.mean(branches) + 2 / (5 * 4) * np.sum(cosines)
        return total

    output = model(bags[0].double(), [23])
    a = softmax(gated(embed(bags[0].double().numpy(), weights_of(model)), weights_of(model)))
    np.testing.assert_allclose(output.attention.detach(), a.mean(1), atol=1e-12)
    assert_loss_and_slope(model, bags, labels, reference)


def test_masking_takes_six_of_the_ten_highest_of_each_branch() -> None:
    torch.manual_seed(0)
    scores = torch.randn(50, 5)
    for _ in range(20):
        masked = torch.isinf(mask_some_top(scores))
        top = scores >= scores.sort(0, descending=True).values[9]
        assert masked.sum(0).tolist() == [6] * 5
        assert not (masked & ~top).any()
    drawn = [torch.isinf(mask_some_top(scores)) for _ in range(20)]
    assert any(not torch.equal(drawn[0], other) for other in drawn)
    for n in (1, 2, 3):
        assert (~torch.isinf(mask_some_top(scores[:n]))).any(0).all()


def test_prototypes_are_mean_odds() -> None:
    """Odds averaged over clusters and instances; information of clusters subtracted."""
    model = untrained("prototype").double()
    bags, labels = [some_bag(23), some_bag(1, 1), some_bag(9, 2)], [1, 0, 1]
    assert isinstance(model, Prototypes)

    def odds(x: np.ndarray, w: Weights) -> np.ndarray:
        return np.exp(linear(embed(x, w), w, "cluster")).reshape(len(x), C - 1, N_CLUSTERS)

    def entropy(p: np.ndarray) -> float:
        return float(-(p * np.log(p)).sum())

    def reference(w: Weights) -> float:
        found = [odds(bag.double().numpy(), w) for bag in bags]
        losses = sum(
            cross_entropy(np.log([1, *o.mean((0, 2))]), y)
            for o, y in zip(found, labels, strict=True)
        )
        mine = [o[:, 0] for o, y in zip(found, labels, strict=True) if y == 1]
        weight = np.concatenate([share_of_odds / len(mine) for share_of_odds in shares_held])
        q = np.concatenate(mine)
        q = q / q.sum(1, keepdims=True)
        within = sum(w_i * entropy(q_i) for w_i, q_i in zip(weight, q, strict=True))
        return losses - 2 * 0.5 * (entropy(weight @ q) - within)

    found = [odds(bag.double().numpy(), weights_of(model))[:, 0].mean(1) for bag in bags]
    shares_held = [o / o.sum() for o, y in zip(found, labels, strict=True) if y == 1]
    output = model(bags[0].double(), [23])
    by_hand = odds(bags[0].double().numpy(), weights_of(model))
    logits = np.log([1, *by_hand.mean((0, 2))])
    np.testing.assert_allclose(output.logits[0].detach(), logits, atol=1e-12)
    np.testing.assert_allclose(output.evidence[:, 1:].detach(), np.log(by_hand.mean(2)), atol=1e-9)
    share = by_hand.mean(2).sum(1)
    np.testing.assert_allclose(output.attention.detach(), share / share.sum(), atol=1e-12)
    assert_loss_and_slope(model, bags, labels, reference)


def test_prototypes_classify_find_and_part_at_once() -> None:
    """Three kinds of positive tissue, of which bags hold one to three; nobody names a tile."""
    rng = np.random.default_rng(0)
    kinds = 6 * np.linalg.qr(rng.normal(size=(12, 12)))[0][:3]
    bags, truth = [], []
    labels = np.arange(60) % 2
    for label in labels:
        n = int(rng.integers(30, 60))
        kind = np.zeros(n, int)
        if label:
            some = rng.permutation(3)[: rng.integers(1, 4)]
            there = rng.random(n) < 0.3
            kind[there] = 1 + rng.choice(some, there.sum())
        centres = np.concatenate([np.zeros((1, 12)), kinds])
        bags.append((centres[kind] + rng.normal(size=(n, 12))).astype(np.float32))
        truth.append(kind)
    options = TrainOptions(model="prototype", epochs=40, members=2)
    member = fit(bags[:40], labels[:40], np.arange(40), options)[0]
    assert isinstance(member, Prototypes)
    x, kind = torch.from_numpy(np.concatenate(bags[40:])), np.concatenate(truth[40:])
    sizes = [len(bag) for bag in bags[40:]]
    with torch.no_grad():
        output, clusters = member(x, sizes), member.clusters(x).numpy()
    assert roc_auc_score(labels[40:], output.logits[:, 1]) == 1
    assert roc_auc_score(kind > 0, output.evidence[:, 1]) > 0.99
    assert np.mean((clusters > 0) == (kind > 0)) > 0.95
    both = (clusters > 0) & (kind > 0)
    assert adjusted_rand_score(kind[both], clusters[both]) > 0.9


# Pieces of the transformer and of the pseudo-bags.


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 300])
def test_bags_are_squared_with_their_first_instances(n: int) -> None:
    """Shao et al. (2021), algorithm 2, step 1."""
    place = squared(n, torch.device("cpu")).tolist()
    side = int(np.ceil(np.sqrt(n)))
    assert place == [*range(n), *range(side * side - n)]


def test_few_tokens_attend_exactly_and_many_nearly() -> None:
    torch.manual_seed(0)
    layer = NystromAttention(8, n_heads=2, n_landmarks=16).double()
    tokens = torch.randn(40, 8).double()

    def exact(x: np.ndarray) -> np.ndarray:
        q, k, v = np.split(x @ layer.query_key_value.weight.detach().numpy().T, 3, axis=1)
        heads = [
            softmax(q[:, s] @ k[:, s].T / 2, axis=1) @ v[:, s] for s in (slice(0, 4), slice(4, 8))
        ]
        weight, bias = layer.project.weight.detach().numpy(), layer.project.bias.detach().numpy()
        return np.concatenate(heads, axis=1) @ weight.T + bias

    few = layer(tokens[:16]).detach().numpy()
    np.testing.assert_allclose(few, exact(tokens[:16].numpy()), atol=1e-12)
    many, ideal = layer(tokens).detach().numpy(), exact(tokens.numpy())
    assert np.abs(many - ideal).max() < 0.2 * np.abs(ideal).max()


def test_landmarks_are_means_of_segments() -> None:
    tokens = torch.randn(2, 11, 3)
    by_hand = torch.stack([part.mean(1) for part in tokens.tensor_split(4, dim=1)], dim=1)
    torch.testing.assert_close(landmarks(tokens, 4), by_hand)


def test_the_iteration_inverts() -> None:
    rng = np.random.default_rng(0)
    matrix = softmax(3 * np.eye(6) + rng.normal(size=(2, 6, 6)), axis=-1)
    found = pseudo_inverse(torch.from_numpy(matrix)).numpy()
    np.testing.assert_allclose(found, np.linalg.pinv(matrix), atol=1e-3)


@pytest.mark.parametrize("name", ["abmil", "abmil-plain", "clam-sb", "clam-mb", "dtfd", "acmil"])
def test_evidence_is_what_instances_add(name: str) -> None:
    """Undoing the asinh and the mean over classes gives the logits but for their mean."""
    model = untrained(name).double()
    output = model(some_bag(30).double(), [30])
    added = torch.sinh(output.evidence).mean(0)
    torch.testing.assert_close(added, output.logits[0] - output.logits[0].mean())


def test_evidence_of_the_transformer_is_what_tokens_add() -> None:
    """With the class token's own part and the biases, what instances add is the logits."""
    model = untrained("transmil", width=8).double()
    assert isinstance(model, TransMIL)
    finals: list[torch.Tensor] = []
    layers = model.second, model.norm
    layers[1].register_forward_hook(lambda _, given, __: finals.append(given[0][0]))
    output = model(some_bag(16).double(), [16])
    added = torch.sinh(output.evidence).mean(0)

    taken = []
    whole = layers[0].attention

    def class_token_only(tokens: torch.Tensor) -> Attention:
        found = whole(tokens)
        alone = torch.zeros_like(found.values)
        alone[..., 0, :] = found.values[..., 0, :]
        return replace(found, values=alone)

    layers[0].attention = class_token_only  # type: ignore[method-assign]
    model(some_bag(16).double(), [16])
    taken = finals[1] - finals[1].mean()
    rest = model.classify(taken / finals[0].std(correction=0) * layers[1].weight + layers[1].bias)
    expected = output.logits[0] - rest
    torch.testing.assert_close(added, expected - expected.mean(), atol=1e-5, rtol=1e-4)


def test_pseudo_bags_part_a_bag() -> None:
    model = untrained("dtfd")
    assert isinstance(model, DoubleTier)
    for n in (1, 3, 8, 50):
        parts = model.pseudo_bags(n)
        assert len(parts) == min(8, n)
        assert sorted(torch.cat(parts).tolist()) == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(torch.equal(a, b) for a, b in zip(parts, model.pseudo_bags(n), strict=True))
    assert not torch.equal(torch.cat(model.train().pseudo_bags(50)), torch.cat(parts))


_MEASURE = """
import sys
from pathlib import Path
import numpy as np, torch
from microtome.tasks.mil.predict import predict_bag
from microtome.tasks.mil.train import TrainOptions, new_model

def peak_kib():
    # Of this process alone: ru_maxrss counts the one that started it as well.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

torch.set_num_threads(1)
model = new_model(TrainOptions(model=sys.argv[1]), 1536, 2)
bag = np.random.default_rng(0).random((200_000, 1536), dtype=np.float32)
predict_bag([model], bag[:10])
before = peak_kib()
assert np.isfinite(predict_bag([model], bag).probabilities).all()
print(peak_kib() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_large_bag_fits_the_memory_that_is_stated(name: str) -> None:
    """Peak beside the bag and the interpreter, in KiB, as docs/reference/mil-models.md says."""
    command = [sys.executable, "-c", _MEASURE, name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < {"transmil": 1.25, "graph": 0.5}.get(name, 0.25) * 1024**2
