"""Enrichment as a whole, on painted images whose every pixel is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microtome.engine.synthetic.lesions import LesionImages, lesion_images
from microtome.storage.errors import BadGeometry, BadModel, LabelError, StaleProduct
from microtome.tasks.camel.enrich import Enriched, EnrichSettings, InstanceClassifier, enrich
from microtome.tasks.camel.images import ImageSet

QUICK = EnrichSettings(
    grid=2, epochs=8, members=2, rounds=1, refine=1, backbone="resnet", threads=1
)


@pytest.fixture(scope="module")
def painted() -> LesionImages:
    return lesion_images(0, n_slides=4, per_slide=4, positives=(8, 16))


@pytest.fixture(scope="module")
def images(painted: LesionImages) -> ImageSet:
    return ImageSet(painted.pixels, painted.labels, painted.slides)


@pytest.fixture(scope="module")
def small(images: ImageSet) -> ImageSet:
    """Eight images of 32 px: for what is not about being right."""
    return ImageSet(images.pixels[:8, ::16, ::16], images.labels[:8], images.slides[:8])


def balanced_accuracy(said: np.ndarray, truth: np.ndarray) -> float:
    return float((said[truth == 1] == 1).mean() + (said[truth == 0] == 0).mean()) / 2


@pytest.mark.parametrize("mode", ["faithful", "robust"])
def test_instances_are_labelled_from_image_labels_alone(
    images: ImageSet, painted: LesionImages, mode: str
) -> None:
    settings = EnrichSettings(mode=mode, members=2, rounds=1, cascade=(2, 2))  # type: ignore[arg-type]
    found = enrich(images, settings)
    truth = painted.instance_truth(4)
    inside = images.labels
    # Sixteen images; the image's label on every instance would have 0.5.
    assert balanced_accuracy(found.labels[inside], truth[inside]) > 0.65
    assert found.labels[~inside].mean() < 0.1
    assert found.classifier is not None
    assert found.classifier.probability(images).shape == (16, 4, 4)


def test_robust_labels_keep_to_the_labels_of_their_images(small: ImageSet) -> None:
    found = enrich(small, QUICK)
    assert np.array_equal(found.labels.any(axis=(1, 2)), small.labels)
    assert [h["chosen"] for h in found.history if "chosen" in h].count(True) == 1
    scores = [h["expected_jaccard"] for h in found.history if "chosen" in h]
    chosen = next(h["expected_jaccard"] for h in found.history if h.get("chosen"))
    assert chosen >= max(scores) - 0.02  # type: ignore[operator,type-var]


def same(a: Enriched, b: Enriched) -> bool:
    return np.array_equal(a.labels, b.labels) and np.array_equal(a.confidence, b.confidence)


def test_equal_seeds_give_equal_labels(small: ImageSet) -> None:
    first = enrich(small, QUICK)
    assert same(first, enrich(small, QUICK))
    other = enrich(small, replace(QUICK, seed=1))
    assert not np.array_equal(first.confidence, other.confidence)


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(small: ImageSet, tmp_path: Path) -> None:
    whole = enrich(small, QUICK)

    class Cut(BaseException):
        pass

    def cut(stage: str, share: float) -> None:
        if share > 0.4:
            raise Cut

    with pytest.raises(Cut):
        enrich(small, QUICK, on_progress=cut, folder=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert kept
    assert same(enrich(small, QUICK, folder=tmp_path), whole)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert len(list(tmp_path.rglob("*.safetensors"))) > len(kept)


def test_stages_of_other_settings_are_not_taken(small: ImageSet, tmp_path: Path) -> None:
    settings = replace(QUICK, mode="faithful")
    enrich(small, settings, folder=tmp_path)
    with pytest.raises(StaleProduct):
        enrich(small, replace(settings, epochs=9), folder=tmp_path)


@pytest.mark.parametrize("backbone", ["resnet", "timm:resnet10t"])
def test_backbones_take_pixels(small: ImageSet, backbone: str) -> None:
    settings = replace(QUICK, backbone=backbone, epochs=1, mode="faithful")
    shares: list[float] = []
    found = enrich(small, settings, on_progress=lambda stage, share: shares.append(share))
    assert found.labels.shape == (8, 2, 2)
    assert shares == [1 / 3, 2 / 3, 1]


def test_what_cannot_be_learnt_from_is_refused(small: ImageSet) -> None:
    one = ImageSet(small.pixels, np.ones(8, bool), small.slides)
    with pytest.raises(LabelError, match="one label"):
        enrich(one, QUICK)
    with pytest.raises(BadModel, match="no such backbone"):
        enrich(small, replace(QUICK, backbone="resnet500"))
    with pytest.raises(BadGeometry, match="32 px"):
        enrich(small, replace(QUICK, grid=3))
    with pytest.raises(BadGeometry, match="2 x 3"):
        EnrichSettings(grid=4, cascade=(2, 3))


def test_a_classifier_averages_its_networks_before_the_sigmoid(small: ImageSet) -> None:
    found = enrich(small, QUICK).classifier
    assert found is not None
    alone = [InstanceClassifier((n,), found.settings).probability(small) for n in found.networks]
    logits = np.mean([np.log(p / (1 - p)) for p in alone], axis=0)
    truth = 1 / (1 + np.exp(-(found.slope * logits + found.offset)))
    assert np.allclose(found.probability(small), truth, atol=1e-4)


@pytest.mark.parametrize("positives", [(8, 16), (3, 7), (1, 2)])
def test_painted_lesions_have_the_extent_asked_for(positives: tuple[int, int]) -> None:
    found = lesion_images(1, n_slides=1, per_slide=4, positives=positives)
    counts = found.instance_truth(4).sum(axis=(1, 2))
    assert np.array_equal(found.labels, [True, False, True, False])
    assert all(positives[0] <= count <= positives[1] for count in counts[::2])
    assert not counts[1::2].any()
    again = lesion_images(1, n_slides=1, per_slide=4, positives=positives)
    assert np.array_equal(found.pixels, again.pixels)
