"""The trainable segmenter: it learns what no threshold can, and is kept like any product."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.schedule import Skipped
from microtome.engine.slides import open_slide
from microtome.engine.synthetic import plan_slide, tissue_mask, write_slide
from microtome.engine.tiles import read_overview
from microtome.engine.tissue import TissueMask, find_tissue, tissue_key, write_tissue
from microtome.engine.tissue.segmenter import load_segmenter
from microtome.engine.tissue.training import SegmenterOptions, train_segmenter
from microtome.storage.errors import (
    BadGeometry,
    BadModel,
    BadProduct,
    LabelError,
    MissingFile,
    StaleProduct,
)

MPP = 8.0
QUICK = SegmenterOptions(steps=45, batch=4, crop_px=64)
Example = tuple[Path, TissueMask]


def smeared(folder: Path, seed: int) -> Example:
    """Pale tissue beside a strong orange smear on the glass, and the generator's own map."""
    recipe = plan_slide(seed, height_px=1800, width_px=1800, tissue_fraction=0.35)
    faint = replace(recipe.stain, haematoxylin_gain=0.35, eosin_gain=0.35)
    recipe = replace(recipe, stain=faint)
    write_slide(folder / "whole.tiff", recipe)
    with open_slide(folder / "whole.tiff") as slide:
        image, _ = read_overview(slide, mpp=MPP)
    size = image.shape[1::-1]
    truth = cv2.resize(
        tissue_mask(recipe, 4).astype(np.float32), size, interpolation=cv2.INTER_AREA
    )
    tissue = truth > 0.5
    noise = np.random.default_rng(seed).normal(size=tissue.shape)
    hills = cv2.GaussianBlur(noise, (0, 0), 12)
    smear = (hills > np.quantile(hills, 0.7)) & ~tissue
    soft = cv2.GaussianBlur(smear.astype(np.float32), (0, 0), 2)[..., None]
    image = image * (1 - soft * (1 - np.array([235, 160, 60]) / 255))
    path = folder / f"{seed}.tiff"
    cm = 10_000 / MPP
    tifffile.imwrite(
        path,
        image.astype(np.uint8),
        tile=(256, 256),
        photometric="rgb",
        resolution=(cm, cm),
        resolutionunit="CENTIMETER",
    )
    return path, TissueMask(tissue.astype(np.uint8), (1.0, 1.0), (MPP, MPP))


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> list[Example]:
    folder = tmp_path_factory.mktemp("smeared")
    return [smeared(folder, seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def model(examples, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "smears.model"
    train_segmenter(examples[:2], path, options=QUICK)
    return path


def overlap(example: Example, method: str) -> float:
    path, truth = example
    with open_slide(path) as slide:
        found = find_tissue(slide, method=method).tissue
    return float((found & truth.tissue).sum() / (found | truth.tissue).sum())


def test_it_finds_on_an_unseen_slide_what_no_threshold_finds(examples, model):
    unseen = examples[2]
    assert overlap(unseen, f"model:{model}") > 0.85
    assert max(overlap(unseen, name) for name in ("auto", "saturation", "density")) < 0.65


def test_it_is_small_and_says_what_it_is(model):
    weights = load_file(model / "weights.safetensors")
    assert sum(array.size for array in weights.values()) < 500_000
    card = load_segmenter(model).card
    assert card.labels == {0: "background", 1: "tissue"}
    assert card.training["slides"] == 2
    assert card.mpp == MPP


def test_equal_seeds_give_equal_weights(examples, tmp_path):
    short = replace(QUICK, steps=3)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_segmenter(examples[:1], tmp_path / name, options=replace(short, seed=seed))
    a, b, c = (load_file(tmp_path / name / "weights.safetensors") for name in "abc")
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert not np.array_equal(a["out.weight"], c["out.weight"])


def test_the_model_is_part_of_the_key_of_the_mask_and_its_place_is_not(examples, model, tmp_path):
    moved = tmp_path / "moved.model"
    moved.symlink_to(model)
    train_segmenter(examples[:1], tmp_path / "other", options=replace(QUICK, steps=1))
    with open_slide(examples[0][0]) as slide:
        own = tissue_key(slide, method=f"model:{model}")
        assert tissue_key(slide, method=f"model:{moved}") == own
        assert tissue_key(slide, method=f"model:{tmp_path / 'other'}") != own
        assert tissue_key(slide) != own


def test_it_is_trained_once_and_never_replaced_unasked(examples, model):
    again = train_segmenter(examples[:2], model, options=QUICK)
    assert isinstance(again, Skipped)
    with pytest.raises(StaleProduct):
        train_segmenter(examples[:1], model, options=QUICK)


def test_parts_of_a_large_picture_fit_together(model):
    """Beyond the network's sight, what else is in the picture does not matter."""
    segmenter = load_segmenter(model)
    blocks = np.random.default_rng(0).integers(60, 255, (38, 70, 3)).astype(np.uint8)
    image = np.kron(blocks, np.ones((16, 16, 1), np.uint8))
    whole = segmenter.label(image, mpp=MPP)
    shifted = segmenter.label(image[:, 256:], mpp=MPP)
    inner = (slice(40, -40), slice(40, -40))
    assert (whole[:, 256:][inner] == shifted[inner]).mean() > 0.995


def test_it_learns_the_labels_that_the_masks_have(examples, tmp_path):
    path, mask = examples[0]
    labels = mask.labels.copy()
    labels[:40, :40] = 2
    taught = replace(mask, labels=labels)
    train_segmenter([(path, taught)], tmp_path / "m", options=replace(QUICK, steps=1))
    assert load_segmenter(tmp_path / "m").labels == (0, 1, 2)


@pytest.mark.parametrize("value", [0, 1, 9])
def test_masks_that_teach_nothing_are_refused(examples, tmp_path, value):
    path, mask = examples[0]
    only = replace(mask, labels=np.full_like(mask.labels, value))
    with pytest.raises(LabelError, match="cannot be learnt"):
        train_segmenter([(path, only)], tmp_path / "m")
    with pytest.raises(LabelError):
        train_segmenter([], tmp_path / "m")


def test_the_mask_of_another_slide_is_refused(examples, tmp_path):
    path, mask = examples[0]
    cut = replace(mask, labels=mask.labels[:-30])
    with pytest.raises(BadGeometry):
        train_segmenter([(path, cut)], tmp_path / "m")


def test_what_is_no_model_is_named(examples, model, tmp_path):
    with open_slide(examples[0][0]) as slide:
        with pytest.raises(BadModel, match="otsu"):
            find_tissue(slide, method="otsu")
        with pytest.raises(MissingFile, match="nowhere"):
            find_tissue(slide, method="model:nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(BadProduct):
            find_tissue(slide, method=f"model:{tmp_path / 'empty'}")


@pytest.mark.parametrize("damage", ["weights", "card", "shape"])
def test_a_damaged_model_is_named(model, tmp_path, damage):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    if damage == "weights":
        (broken / "weights.safetensors").write_bytes(b"no")
    elif damage == "card":
        (broken / "card.json").write_text("{}")
    else:
        weights = load_file(broken / "weights.safetensors")
        save_file({**weights, "out.bias": np.zeros(5, np.float32)}, broken / "weights.safetensors")
    with pytest.raises(BadModel, match="broken"):
        load_segmenter(broken)


def test_the_command_trains_from_a_folder_of_masks(examples, tmp_path):
    for path, mask in examples[:1]:
        write_tissue(tmp_path / f"{path.stem}.tissue.zarr", mask, key="corrected")
    out = tmp_path / "ours.model"
    command = ["tissue", "train", str(examples[0][0]), "--masks", str(tmp_path), "--steps", "2"]
    ended = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert load_segmenter(out).card.options["steps"] == 2
    assert "skipped" in CliRunner().invoke(app, [*command, "--out", str(out)]).output
