"""Models follow their papers' equations; training learns what is there and nothing that is not."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_bags import row_of_tiles
from sklearn.metrics import roc_auc_score

from microtome.storage.bags import Bag
from microtome.storage.errors import BadModel, LabelError, LeakError, MissingFile
from microtome.tasks.evaluation import Fold, grouped_folds
from microtome.tasks.mil.abmil import GatedAttention
from microtome.tasks.mil.compare import Comparison, compare, shuffled_target
from microtome.tasks.mil.controls import bag_sizes, mean_colours, predict_from
from microtome.tasks.mil.crossval import cross_validate
from microtome.tasks.mil.model import BagModel
from microtome.tasks.mil.pooling import MaxPooling, MeanPooling
from microtome.tasks.mil.store import BagNeeds, MilModel, load_model, new_card, save_model
from microtome.tasks.mil.targets import as_target
from microtome.tasks.mil.train import TrainOptions, fit, moments, new_model

D, C = 7, 3
QUICK = TrainOptions(epochs=12, members=2, width=24, n_gates=8)
LEARN = TrainOptions(epochs=30, members=2)


def untrained(name: str, n_classes: int = C, seed: int = 0) -> BagModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_model(TrainOptions(model=name, width=6, n_gates=4), D, n_classes)
        model.mean, model.deviation = torch.randn(D), torch.rand(D) + 0.5
    return model.eval()


def some_bag(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def weights_of(model: BagModel) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_gated_attention_is_the_papers() -> None:
    """Ilse et al. (2018), equations 7 and 9, instance by instance."""
    model = untrained("abmil")
    assert isinstance(model, GatedAttention)
    bag, w = some_bag(11), weights_of(model)
    output = model(bag, [11])

    embedded, scores = [], []
    for x in (bag.double().numpy() - w["mean"]) / w["deviation"]:
        h = np.maximum(w["embed.0.weight"] @ x + w["embed.0.bias"], 0)
        gate = 1 / (1 + np.exp(-(w["attend_gate.weight"] @ h)))
        embedded.append(h)
        scores.append(w["attend.weight"][0] @ (np.tanh(w["attend_tanh.weight"] @ h) * gate))
    a = softmax(np.array(scores))
    z = sum(weight * h for weight, h in zip(a, embedded, strict=True))
    logits = w["classify.weight"] @ z + w["classify.bias"]

    np.testing.assert_allclose(output.attention.detach(), a, atol=1e-5)
    np.testing.assert_allclose(output.logits[0].detach(), logits, atol=1e-5)


def test_attention_evidence_adds_up_to_the_bag() -> None:
    """Javed et al. (2022): the bag's logits are the mean of what the instances contribute."""
    output = untrained("abmil")(some_bag(11), [11])
    contributions = torch.sinh(output.evidence)
    relative = output.logits[0] - output.logits[0].mean()
    torch.testing.assert_close(contributions.mean(0), relative, atol=1e-5, rtol=1e-4)


def test_mean_pooling_by_hand() -> None:
    model = untrained("mean")
    assert isinstance(model, MeanPooling)
    bag, w = some_bag(5), weights_of(model)
    x = (bag.double().numpy() - w["mean"]) / w["deviation"]
    h = np.maximum(x @ w["embed.0.weight"].T + w["embed.0.bias"], 0)
    expected = w["classify.weight"] @ h.mean(0) + w["classify.bias"]
    output = model(bag, [5])
    np.testing.assert_allclose(output.logits[0].detach(), expected, atol=1e-5)
    np.testing.assert_allclose(output.attention.detach(), 0.2)
    torch.testing.assert_close(output.evidence.mean(0), output.logits[0])


def test_max_pooling_by_hand() -> None:
    model = untrained("max")
    assert isinstance(model, MaxPooling)
    bag, w = some_bag(5), weights_of(model)
    x = (bag.double().numpy() - w["mean"]) / w["deviation"]
    h = np.maximum(x @ w["embed.0.weight"].T + w["embed.0.bias"], 0)
    expected = w["classify.weight"] @ h.max(0) + w["classify.bias"]
    output = model(bag, [5])
    np.testing.assert_allclose(output.logits[0].detach(), expected, atol=1e-5)
    share = np.bincount(h.argmax(0), minlength=5) / 6
    np.testing.assert_allclose(output.attention.detach(), share, atol=1e-6)


def test_moments_count_each_bag_the_same_and_leave_constants() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, (10, 3)), rng.normal(4, 2, (1000, 3))
    small[:, 2] = large[:, 2] = 5.0
    mean, deviation = moments([torch.from_numpy(small).float(), torch.from_numpy(large).float()])
    equal = np.concatenate([np.tile(small, (100, 1)), large])
    np.testing.assert_allclose(mean, equal.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation[:2], equal.std(0)[:2], rtol=1e-5)
    assert deviation[2] == 1


# Simulated cohorts: some tiles of positive slides differ; kinds of tissue and stain vary.


@cache
def cohort(
    seed: int = 0, n_slides: int = 24, fraction: tuple[float, float] = (0.1, 0.4), classes: int = 2
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, list[np.ndarray]]:
    """Bags, labels, patients (some with two slides), and which tiles are of the class."""
    rng = np.random.default_rng(seed)
    d = 20
    kinds = rng.normal(0, 1.5, (4, d))
    shifts = [np.zeros(d)] + [direction * 5 for direction in _directions(rng, classes - 1, d)]
    bags, labels, patients, truth = [], [], [], []
    for patient in range(n_slides):
        label = patient % classes
        for _ in range(1 + (patient % 3 == 0)):
            n = int(rng.integers(40, 120))
            x = kinds[rng.choice(4, n, p=rng.dirichlet(np.full(4, 4.0)))]
            x = x + rng.normal(size=(n, d)) + rng.normal(0, 0.2, d)
            mine = rng.random(n) < (rng.uniform(*fraction) if label else 0)
            x[mine] = kinds[0] + shifts[label] + rng.normal(size=(int(mine.sum()), d))
            bags.append(x.astype(np.float32))
            labels.append(label)
            patients.append(patient)
            truth.append(mine)
    return bags, np.array(labels), np.array(patients), truth


def _directions(rng: np.random.Generator, k: int, d: int) -> list[np.ndarray]:
    return list(np.linalg.qr(rng.normal(size=(d, d)))[0][:k])


@cache
def compared() -> Comparison:
    bags, labels, patients, _ = cohort()
    folds = grouped_folds(labels, patients, 3)
    names = ["mean_red", "mean_green", *(f"f{i}" for i in range(18))]
    return compare(bags, labels, patients, folds, LEARN, feature_names=names)


def test_learns_what_the_controls_cannot() -> None:
    figures = compared().figures
    assert set(figures) == {"abmil", "mean", "bag_size", "mean_colour", "shuffled"}
    assert figures["abmil"]["auc"].value >= 0.95
    for control in ("bag_size", "mean_colour", "shuffled"):
        assert figures["abmil"]["auc"].low > figures[control]["auc"].high
    assert compared().permutation_p < 0.01


def test_shuffled_labels_are_not_learnt() -> None:
    """A leak would lift the AUC; 32 slides of two clear kinds push a chance AUC down."""
    assert compared().figures["shuffled"]["auc"].value < 0.7
    assert compared().figures["shuffled"]["auc"].low < 0.5
    assert compared().notes == ()


def test_noise_is_not_learnt() -> None:
    """The AUC of 60 bags without signal has a deviation of 0.075; three of them."""
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 2
    bags = [rng.normal(size=(rng.integers(1, 12), 5)).astype(np.float32) for _ in labels]
    folds = grouped_folds(labels, np.arange(60), 3)
    found = cross_validate(bags, labels, np.arange(60), folds, QUICK)
    assert abs(roc_auc_score(labels, found.probabilities[:, 1]) - 0.5) < 0.225


def test_scores_find_the_tiles_that_no_label_named() -> None:
    _, labels, _, truth = cohort()
    found = compared().found.predictions
    scores = [prediction.scores[:, 1] for prediction in found]
    inside = [roc_auc_score(truth[i], scores[i]) for i in range(len(labels)) if truth[i].any()]
    assert np.mean(inside) >= 0.9
    assert roc_auc_score(np.concatenate(truth), np.concatenate(scores)) >= 0.9
    for prediction in found:
        np.testing.assert_allclose(prediction.scores.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(prediction.attention.sum(), 1, atol=1e-5)
        np.testing.assert_allclose(prediction.probabilities.sum(), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_plain_pooling_learns_too(name: str) -> None:
    bags, labels, patients, _ = cohort()
    folds = grouped_folds(labels, patients, 3)
    found = cross_validate(bags, labels, patients, folds, replace(LEARN, model=name))
    assert roc_auc_score(labels, found.probabilities[:, 1]) > 0.8


def test_three_classes() -> None:
    bags, labels, patients, truth = cohort(seed=1, n_slides=30, fraction=(0.3, 0.5), classes=3)
    folds = grouped_folds(labels, patients, 3)
    found = cross_validate(bags, labels, patients, folds, LEARN)
    auc = roc_auc_score(labels, found.probabilities, multi_class="ovr")
    assert auc > 0.9
    for k in (1, 2):
        inside = [
            roc_auc_score(truth[i], found.predictions[i].scores[:, k])
            for i in np.flatnonzero(labels == k)
        ]
        assert np.mean(inside) > 0.9


def test_equal_seeds_give_equal_models_whatever_torch_drew_before() -> None:
    bags, labels, patients, _ = cohort()
    first = fit(bags, labels, patients, QUICK)
    torch.rand(17)
    before = torch.get_rng_state()
    again = fit(bags, labels, patients, QUICK)
    assert torch.equal(before, torch.get_rng_state()), "training moved the caller's random state"
    other = fit(bags, labels, patients, replace(QUICK, seed=1))
    for a, b, c in zip(first, again, other, strict=True):
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name]), name
        assert not torch.equal(a.state_dict()["embed.0.weight"], c.state_dict()["embed.0.weight"])


def test_a_test_slide_plays_no_part_in_its_fold() -> None:
    """Neither features nor labels of test slides move what their fold's models say."""
    bags, labels, patients, _ = cohort()
    folds = grouped_folds(labels, patients, 4)
    kept, *others = folds[0].test
    altered, relabelled = list(bags), labels.copy()
    for i in others:
        altered[i] = altered[i] * 100 + 7
    relabelled[folds[0].test] = 1 - relabelled[folds[0].test]

    plain = cross_validate(bags, labels, patients, folds, QUICK)
    moved = cross_validate(altered, relabelled, patients, folds, QUICK)

    assert plain.fold[kept] == moved.fold[kept] == 0
    np.testing.assert_array_equal(plain.predictions[kept].scores, moved.predictions[kept].scores)
    np.testing.assert_array_equal(plain.probabilities[kept], moved.probabilities[kept])
    elsewhere = int(folds[1].test[0])
    assert not np.array_equal(plain.probabilities[elsewhere], moved.probabilities[elsewhere])


def test_a_patient_on_both_sides_is_refused() -> None:
    bags, labels, patients, _ = cohort()
    torn = [
        Fold(np.arange(1, len(bags)), np.array([0])),
        Fold(np.array([0]), np.arange(1, len(bags))),
    ]
    assert patients[0] == patients[1]
    with pytest.raises(LeakError, match="training and in test"):
        cross_validate(bags, labels, patients, torn, QUICK)


def test_a_class_with_one_patient_cannot_be_validated() -> None:
    bags, labels, patients, _ = cohort()
    rows = np.flatnonzero((labels == 0) | (patients == 1))
    with pytest.raises(LabelError, match="single patient"):
        fit([bags[i] for i in rows], labels[rows], patients[rows], QUICK)


def test_bags_of_one_tile_can_be_learnt() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    bags = [rng.normal(3 * label, 1, (1, 5)).astype(np.float32) for label in labels]
    found = cross_validate(bags, labels, np.arange(24), grouped_folds(labels, range(24), 3), QUICK)
    assert roc_auc_score(labels, found.probabilities[:, 1]) > 0.9
    assert [len(prediction.attention) for prediction in found.predictions] == [1] * 24


# Controls: each finds what it is there to find.


def test_the_controls_see_size_and_colour() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    folds = grouped_folds(labels, range(40), 4)
    by_size = [rng.normal(size=(20 + 30 * label, 4)).astype(np.float32) for label in labels]
    by_colour = [rng.normal([0, 0, label, 0], 1, (30, 4)).astype(np.float32) for label in labels]
    names = ("area", "mean_red", "mean_blue", "mean_free")

    def found(values: np.ndarray | None) -> float:
        assert values is not None
        return roc_auc_score(labels, predict_from(values, labels, folds)[:, 1])

    assert found(bag_sizes(by_size)) == 1
    assert found(bag_sizes(by_colour)) <= 0.5
    assert found(mean_colours(by_colour, names)) > 0.95
    assert found(mean_colours(by_size, names)) < 0.8
    assert mean_colours(by_size, ("a", "b", "c", "d")) is None
    assert mean_colours(by_colour, names).shape == (40, 3)


def test_shuffled_labels_stay_learnable() -> None:
    labels, patients = np.repeat([0, 1], 6), np.arange(12)
    folds = grouped_folds(labels, patients, 3)
    shuffled = shuffled_target(as_target(labels), patients, folds, seed=0)
    assert shuffled is not None
    assert sorted(shuffled.truth) == sorted(labels)
    assert all(np.bincount(shuffled.truth[f.train], minlength=2).min() >= 2 for f in folds)
    four = as_target(np.array([0, 0, 1, 1]))
    halves = grouped_folds(four.truth, range(4), 2)
    assert shuffled_target(four, np.arange(4), halves, seed=0) is None


# Models on disk.


def bag_of(features: np.ndarray, name: str = "s1") -> Bag:
    return row_of_tiles(name, features, source=f"slides/{name}.svs")


def small_model() -> tuple[MilModel, Bag]:
    bags, labels, patients, _ = cohort()
    bag = bag_of(bags[0])
    card = new_card(
        QUICK,
        classes=("normal", "tumour"),
        members=2,
        needs=BagNeeds.of(bag),
        training={"slides": len(bags)},
        metrics={"auc": {"value": 0.9}},
        limits=("A test.",),
    )
    return MilModel(card, tuple(fit(bags, labels, patients, QUICK)), "k" * 64), bag


def test_a_model_comes_back_as_it_went(tmp_path: Path) -> None:
    model, bag = small_model()
    save_model(tmp_path / "model", model)
    back = load_model(tmp_path / "model")

    assert back.card == model.card
    assert back.key == model.key
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "card.json",
        "commit.json",
        "members.safetensors",
    }
    first, again = model.predict(bag, label="normal"), back.predict(bag)
    np.testing.assert_array_equal(first.score, again.score)
    np.testing.assert_array_equal(first.attention, again.attention)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert (first.id, first.source, first.label, first.target) == (
        "s1",
        "slides/s1.svs",
        "normal",
        "tumour",
    )
    assert first.probability == first.probabilities[1]
    assert first.model == "k" * 64


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoder": "uni@2"}, "uni@2 in place of stain-texture@1"),
        ({"mpp": 0.25}, "0.25 µm/px in place of 0.5"),
        ({"tile_px": 224}, "224 px tiles in place of 256"),
        ({"feature_names": tuple(f"f{i}" for i in reversed(range(20)))}, "another order"),
        ({"features": np.zeros((3, 19), np.float32), "feature_names": ()}, "19 features in place"),
    ],
)
def test_a_model_refuses_bags_made_in_another_way(
    changes: dict[str, object], complaint: str
) -> None:
    model, _ = small_model()
    other = replace(bag_of(np.zeros((3, 20), np.float32)), **changes)
    with pytest.raises(BadModel, match=complaint):
        model.predict(other)


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    model, _ = small_model()
    with pytest.raises(MissingFile):
        load_model(tmp_path / "none")

    def refused(name: str, alter: object) -> str:
        path = tmp_path / name
        save_model(path, model)
        alter(path)  # type: ignore[operator]
        with pytest.raises(BadModel) as caught:
            load_model(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    def change_card(**values: object) -> object:
        def alter(path: Path) -> None:
            card = json.loads((path / "card.json").read_text())
            (path / "card.json").write_text(json.dumps({**card, **values}))

        return alter

    refused("cut", lambda path: (path / "members.safetensors").write_bytes(b"\x00" * 40))
    refused("lost", lambda path: (path / "members.safetensors").unlink())
    refused("text", lambda path: (path / "card.json").write_text("{"))
    refused("more", change_card(members=3))
    refused("classes", change_card(classes=["a", "b", "c"]))
    refused("unknown", change_card(surprise=1))
    assert "another version" in refused("later", change_card(format=2))
    options = {**model.card.options, "model": "os.system"}
    assert "another version" in refused("strange", change_card(options=options))
