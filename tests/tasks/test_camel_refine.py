"""What is painted: parts of instances, told apart by the rule that tells instances apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microtome.engine.synthetic.lesions import LesionImages, lesion_images
from microtome.storage.errors import BadGeometry
from microtome.tasks.camel.enrich import Enriched, EnrichSettings, enrich
from microtome.tasks.camel.images import ImageSet, painted
from microtome.tasks.camel.lattice import describe
from microtome.tasks.camel.robust import inner_folds
from microtome.tasks.camel.study import certainty
from microtome.tasks.slide_list import list_slides

SETTINGS = EnrichSettings(grid=4, members=2, rounds=1, epochs=20)


@pytest.fixture(scope="module")
def truth() -> LesionImages:
    return lesion_images(3, n_slides=4, per_slide=4, positives=(8, 16))


@pytest.fixture(scope="module")
def images(truth: LesionImages) -> ImageSet:
    return ImageSet(truth.pixels, truth.labels, truth.slides)


@pytest.fixture(scope="module")
def found(images: ImageSet) -> Enriched:
    return enrich(images, SETTINGS)


def iou(labels: np.ndarray, masks: np.ndarray) -> float:
    said, known = painted(labels, masks.shape[1]) == 1, masks == 1
    return float((said & known).sum() / (said | known).sum())


def test_parts_fit_the_true_masks_better_than_whole_instances(found, truth):
    assert found.squares.labels.shape == (16, 8, 8)
    assert iou(found.squares.labels, truth.masks) > iou(found.labels, truth.masks)


def test_an_instance_is_positive_where_any_of_its_parts_is(found):
    parts = found.squares.labels.reshape(16, 4, 2, 4, 2)
    assert np.array_equal(parts.any(axis=(2, 4)), found.labels == 1)


def test_what_is_unsure_weighs_little_and_what_is_sure_weighs_all(found):
    weights = certainty(found.squares)
    assert weights.shape == found.squares.labels.shape
    assert 0 < weights.min() < weights.max() <= 1
    order = np.argsort(found.squares.confidence, axis=None)
    assert (np.diff(weights.ravel()[order]) >= 0).all()
    # True negatives, for nothing.
    negative = ~found.labels.any(axis=(1, 2))
    assert (weights[negative] == 1).all()


def test_whole_instances_are_painted_where_nothing_is_refined(images, truth):
    for settings in (replace(SETTINGS, mode="faithful"), replace(SETTINGS, refine=1, rounds=0)):
        assert not settings.refines
        whole = enrich(images, replace(settings, epochs=1))
        assert np.array_equal(whole.squares.labels, whole.labels)
        assert np.array_equal(whole.squares.confidence, whole.confidence)


def test_parts_that_instances_do_not_have_are_refused(images):
    with pytest.raises(BadGeometry, match="12 equal instances"):
        enrich(images, replace(SETTINGS, refine=3))
    with pytest.raises(BadGeometry, match="0 squares"):
        replace(SETTINGS, refine=0)


def test_patients_never_part_and_stains_stay_those_of_slides(images):
    patients = tuple("ab"[slide.endswith(("2", "3"))] for slide in images.slides)
    cohort = ImageSet(images.pixels, images.labels, images.slides, patients)
    of_slides, of_patients = (
        describe(each, 2, backbone="features", mpp=0.5) for each in (images, cohort)
    )
    assert np.array_equal(of_slides.values, of_patients.values)
    folds = inner_folds(of_patients, EnrichSettings(grid=2, members=4))
    sides = [{patients[row] for row in fold.test} for fold in folds]
    assert sorted(map(sorted, sides)) == [["a"], ["b"]]
    assert cohort.subset(np.array([0, 15])).groups == ("a", "b")


def test_a_table_says_whose_slides_they_are(tmp_path: Path):
    (tmp_path / "cohort.csv").write_text(
        "id,path,patient\none,one.svs,p1\ntwo,two.svs,p1\n", encoding="utf-8"
    )
    (tmp_path / "three.svs").touch()
    items = list_slides([str(tmp_path / "cohort.csv"), str(tmp_path / "three.svs")])
    assert [item.group for item in items] == ["p1", "p1", "three"]
