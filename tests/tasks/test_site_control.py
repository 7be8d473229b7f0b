"""Labels that go with the site, on painted slides of two laboratories: the control says so."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from microtome.engine.synthetic import SITES
from microtome.engine.synthetic.lesions import lesion_images
from microtome.tasks.camel.images import ImageSet
from microtome.tasks.camel.lattice import describe
from microtome.tasks.evaluation import Fold, grouped_folds
from microtome.tasks.mil.compare import Comparison, compare
from microtome.tasks.mil.controls import site_from_features
from microtome.tasks.mil.train import TrainOptions

SLIDES = 9
QUICK = TrainOptions(epochs=6, members=2)


@cache
def slides() -> tuple[list[np.ndarray], np.ndarray]:
    """Bags of 16 tiles without any tumour, and the site of each."""
    bags, sites = [], []
    for site in SITES:
        made = lesion_images(7, n_slides=SLIDES, per_slide=2, positives=(1, 2), site=site)
        free = ~made.labels
        names = tuple(np.array(made.slides)[free].tolist())
        images = ImageSet(made.pixels[free], made.labels[free], names)
        bags += list(describe(images, 4, backbone="features", mpp=made.mpp).values)
        sites += [site.name] * SLIDES
    return bags, np.array(sites)


def studied(labels: np.ndarray, folds: list[Fold] | None = None) -> Comparison:
    bags, sites = slides()
    patients = np.arange(len(bags))
    folds = folds or grouped_folds(labels, patients, 3)
    return compare(bags, labels, patients, folds, QUICK, sites=sites)


def confounded(exceptions: int = 1) -> np.ndarray:
    """One label a laboratory, but for some slides of each: nothing else tells them apart."""
    labels = np.repeat([0, 1], SLIDES)
    labels[:exceptions], labels[SLIDES : SLIDES + exceptions] = 1, 0
    return labels


def test_a_label_that_goes_with_the_site_is_caught() -> None:
    found = studied(confounded())
    # The model looks good: without the control nobody would know that it learnt the laboratory.
    assert found.figures["abmil"]["auc"].value > 0.7
    assert found.figures["site"]["auc"].low > 0.5
    assert any(note.startswith("features tell the site with AUC") for note in found.notes)
    assert any(note.startswith("confounded: the site alone says the label") for note in found.notes)


def test_a_label_that_does_not_is_not() -> None:
    """The features still tell the site; that alone is no fault of the study."""
    found = studied(np.arange(2 * SLIDES) % 2)
    assert any(note.startswith("features tell the site with AUC") for note in found.notes)
    assert not any(note.startswith("confounded") for note in found.notes)


def test_folds_of_sites_take_the_confounding_away() -> None:
    _, sites = slides()
    of_north = np.flatnonzero(sites == "north")
    of_south = np.flatnonzero(sites == "south")
    found = studied(confounded(2), [Fold(of_south, of_north), Fold(of_north, of_south)])
    assert found.figures["site"]["auc"].low <= 0.5
    assert not any(note.startswith("confounded") for note in found.notes)


def test_one_site_is_no_control() -> None:
    bags, _ = slides()
    labels = np.arange(len(bags)) % 2
    each = np.arange(len(bags))
    found = compare(
        bags, labels, each, grouped_folds(labels, each, 2), QUICK, sites=np.full(len(bags), "north")
    )
    assert "no control by site: the cohort does not name two sites" in found.notes
    assert "site" not in found.figures


def test_a_site_of_one_patient_is_not_told() -> None:
    bags, sites = slides()
    alone = sites.copy()
    alone[0] = "elsewhere"
    assert site_from_features(bags, alone, np.arange(len(bags))) is None


@pytest.mark.parametrize("n", [4, 40])
def test_features_without_a_site_tell_none(n: int) -> None:
    rng = np.random.default_rng(n)
    bags = [rng.normal(size=(5, 30)).astype(np.float32) for _ in range(40)]
    told = site_from_features(bags, np.repeat(["a", "b"], 20), np.arange(40) // (40 // n))
    assert told is None or told.p > 0.01
