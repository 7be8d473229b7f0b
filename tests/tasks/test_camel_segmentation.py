"""The pixel segmenter: it learns, it resumes to the very same weights, it refuses what is wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.metrics import jaccard_score
from torch.nn import functional

from microtome.storage.errors import (
    BadGeometry,
    BadModel,
    LabelError,
    StaleProduct,
    UnwritableOutput,
)
from microtome.tasks.camel.images import painted
from microtome.tasks.camel.segmentation import (
    SegmentSettings,
    balanced_batches,
    segmentation_loss,
    train_segmenter,
)
from microtome.tasks.camel.segmenter import load_segmenter, save_segmenter

TINY = SegmentSettings(encoder="tu-test_resnet", epochs=2, batch=4, threads=1, mpp=0.5)
RESUMED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from microtome.tasks.camel.images import painted
from microtome.tasks.camel.segmentation import SegmentSettings, train_segmenter

data = np.load(sys.argv[1])
settings = SegmentSettings(encoder="tu-test_resnet", epochs=4, batch=4, threads=1)

def die(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train_segmenter(data["pixels"], data["masks"], settings, weights=data["weights"],
                on_progress=die, folder=Path(sys.argv[2]))
"""


def spots(n: int, side: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pink noise with a violet disc in each image but every fourth, and where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    pixels = np.clip(rng.normal((215, 160, 190), 12, (n, side, side, 3)), 0, 255)
    masks = np.zeros((n, side, side), np.uint8)
    for row in range(n):
        if row % 4 == 3:
            continue
        centre, radius = rng.integers(16, side - 16, 2), rng.integers(9, 16)
        masks[row] = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels[row][masks[row] == 1] -= (90, 80, 40)
    return np.clip(pixels, 0, 255).astype(np.uint8), masks


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    return spots(8)


@pytest.mark.parametrize("architecture", ["unet", "deeplabv3+"])
def test_it_learns_a_few_images_with_known_masks(images, architecture):
    settings = replace(TINY, architecture=architecture, epochs=14, batch=4, lr=3e-3)
    model = train_segmenter(*images, settings)
    pixels, masks = spots(4, seed=9)
    found = model.predict(pixels) >= 0.5
    assert jaccard_score(masks.ravel(), found.ravel()) > 0.8


def test_any_size_is_predicted_and_probabilities_are_probabilities(images):
    model = train_segmenter(*images, replace(TINY, epochs=1))
    found = model.predict(np.zeros((3, 45, 70, 3), np.uint8), batch=2)
    assert found.shape == (3, 45, 70)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()


def test_pixels_without_weight_teach_nothing(images):
    pixels, masks = images
    weights = np.ones(masks.shape, np.float32)
    weights[2] = 0
    turned = masks.copy()
    turned[2] = 1 - turned[2]
    # Turning and mirroring do not mix images: a mask of no weight cannot be told from another.
    one, other = (train_segmenter(pixels, m, TINY, weights=weights) for m in (masks, turned))
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
    assert one.key != other.key


def test_the_loss_is_cross_entropy_and_dice_as_written():
    rng = np.random.default_rng(0)
    logits, weight = (torch.from_numpy(rng.normal(size=(2, 5, 5))) for _ in range(2))
    weight, truth = weight.abs(), torch.from_numpy((rng.random((2, 5, 5)) > 0.5).astype(float))
    p = 1 / (1 + np.exp(-logits.numpy()))
    t, w = truth.numpy(), weight.numpy()
    entropy = -(w * (t * np.log(p) + (1 - t) * np.log(1 - p))).sum() / w.sum()
    dice = 1 - (2 * (w * p * t).sum() + 1) / ((w * p).sum() + (w * t).sum() + 1)
    for share in (0.0, 0.3, 1.0):
        found = float(segmentation_loss(logits, truth, weight, dice=share))
        assert found == pytest.approx((1 - share) * entropy + share * dice)
    plain = functional.binary_cross_entropy_with_logits(logits, truth)
    equal = segmentation_loss(logits, truth, torch.ones_like(truth), dice=0)
    assert float(equal) == pytest.approx(float(plain))


def test_training_that_was_killed_ends_with_the_same_weights(images, tmp_path):
    pixels, masks = images
    weights = np.random.default_rng(1).random(masks.shape, np.float32)
    np.savez(tmp_path / "data.npz", pixels=pixels, masks=masks, weights=weights)
    command = [sys.executable, "-c", RESUMED, tmp_path / "data.npz", tmp_path / "work"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    (left,) = (tmp_path / "work").glob("epoch-*.safetensors")
    assert left.name == "epoch-00002.safetensors"
    settings = replace(TINY, epochs=4)
    done: list[int] = []
    resumed = train_segmenter(
        pixels, masks, settings, weights=weights, folder=tmp_path / "work",
        on_progress=lambda epoch, total: done.append(epoch),
    )  # fmt: skip
    assert done[0] == 2
    undisturbed = train_segmenter(pixels, masks, settings, weights=weights)
    for name, model in (("a", resumed), ("b", undisturbed)):
        save_segmenter(tmp_path / name, model)
    a, b = (load_file(tmp_path / name / "weights.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert resumed.key == undisturbed.key


def test_a_damaged_checkpoint_is_no_checkpoint_and_a_foreign_one_is_refused(images, tmp_path):
    first = train_segmenter(*images, TINY, folder=tmp_path)
    (tensors,) = tmp_path.glob("epoch-*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-7] + b"damaged")
    again = train_segmenter(*images, TINY, folder=tmp_path)
    weights = first.network.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in again.network.state_dict().items())
    with pytest.raises(StaleProduct, match="other images or settings"):
        train_segmenter(*images, replace(TINY, seed=5), folder=tmp_path)


def test_a_kept_model_says_what_it_is_and_predicts_the_same(images, tmp_path):
    model = train_segmenter(*images, TINY)
    save_segmenter(tmp_path / "model", model)
    loaded = load_segmenter(tmp_path / "model")
    assert loaded.card == model.card
    assert (loaded.card.mpp, loaded.card.side_px) == (0.5, 64)
    assert loaded.card.training["positive images"] == 6
    assert loaded.key == model.key
    assert np.array_equal(loaded.predict(images[0]), model.predict(images[0]))
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(BadModel, match="model"):
        load_segmenter(tmp_path / "model")


def test_labels_of_instances_are_painted_on_their_pixels(images):
    pixels, _ = images
    labels = np.random.default_rng(0).integers(0, 2, (8, 4, 4)).astype(np.uint8)
    weights = np.random.default_rng(1).random((8, 2, 2), np.float32)
    coarse = train_segmenter(pixels, labels, TINY, weights=weights)
    fine = train_segmenter(
        pixels, painted(labels, 64), TINY, weights=weights.repeat(32, 1).repeat(32, 2)
    )
    for name, value in coarse.network.state_dict().items():
        assert torch.equal(value, fine.network.state_dict()[name]), name


@pytest.mark.parametrize("wrong", ["shape", "weights", "value", "empty", "encoder"])
def test_what_cannot_be_learnt_from_is_named(images, wrong):
    pixels, masks = images
    match wrong:
        case "shape":
            with pytest.raises(BadGeometry):
                train_segmenter(pixels, masks[:-1], TINY)
        case "weights":
            with pytest.raises(BadGeometry):
                train_segmenter(pixels, masks, TINY, weights=np.ones((1, 2, 2), np.float32))
        case "value":
            with pytest.raises(LabelError):
                train_segmenter(pixels, masks * 255, TINY)
        case "empty":
            with pytest.raises(LabelError):
                train_segmenter(pixels, masks * 0, TINY)
        case "encoder":
            with pytest.raises(BadModel, match="resnet19"):
                train_segmenter(pixels, masks, replace(TINY, encoder="resnet19"))


@given(
    positive=st.lists(st.booleans(), min_size=1, max_size=30),
    batch=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_image_is_shown_and_both_kinds_as_often(positive, batch, seed):
    kinds = np.array(positive)
    batches = balanced_batches(kinds, batch, np.random.default_rng(seed))
    assert {len(rows) for rows in batches} == {max(2, batch)}
    shown = np.concatenate(batches)
    assert set(shown.tolist()) == set(range(len(kinds)))
    if kinds.any() and not kinds.all():
        epoch = shown[: 2 * max(kinds.sum(), (~kinds).sum())]
        assert kinds[epoch].mean() == 0.5


def test_a_path_that_cannot_be_written_is_named(images, read_only: Path):
    with pytest.raises(UnwritableOutput):
        train_segmenter(*images, replace(TINY, epochs=1), folder=read_only / "work")
