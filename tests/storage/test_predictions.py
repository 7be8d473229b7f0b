"""Predictions come back from disk as they went, and nothing else is taken for them."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from microtome.storage.errors import BadProduct, MissingFile, StaleProduct
from microtome.storage.predictions import SlidePrediction, read_predictions, write_predictions


def prediction(name: str = "s1", n: int = 7) -> SlidePrediction:
    rng = np.random.default_rng(len(name) + n)
    attention = rng.random(n).astype(np.float32)
    return SlidePrediction(
        id=name,
        probability=0.75,
        classes=("normal", "tumour"),
        probabilities=np.array([0.25, 0.75], np.float32),
        target="tumour",
        label="tumour",
        fold=2,
        coords_px=rng.integers(0, 9000, (n, 2)),
        footprint_px=(512.25, 511.5),
        slide_px=(9000, 12000),
        bounds_px=None,
        slide_mpp=(0.25, 0.2501),
        score=rng.random(n).astype(np.float32),
        attention=attention / attention.sum(),
        source="slides/s1.svs",
        encoder="stain-texture@1",
        model="ab" * 32,
        patient="p1",
    )


def same(a: SlidePrediction, b: SlidePrediction) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_predictions_come_back_as_they_went(tmp_path: Path) -> None:
    first = prediction("s1")
    bounded = replace(prediction("s2", n=1), bounds_px=(5, 6, 70, 80), label=None, fold=None)
    write_predictions(tmp_path / "out", [bounded, first], key="k", about={"model": "abmil"})

    back = read_predictions(tmp_path / "out")

    assert [p.id for p in back] == ["s1", "s2"]
    assert same(back[0], first)
    assert same(back[1], bounded)
    assert back[0].coords_px.dtype == np.int64
    assert back[0].score.dtype == np.float32


def test_the_table_is_plain_csv(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out", [prediction("a, b")], key="k", about={})
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "a, b"
    assert row["predicted"] == "tumour"
    assert float(row["probability_tumour"]) == 0.75
    assert row["tiles"] == "7"


def test_other_folders_are_not_taken_for_predictions(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_predictions(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadProduct, match="commit record"):
        read_predictions(tmp_path / "empty")


@pytest.mark.parametrize("lost", ["zarr.json", "c/0"])
def test_a_lost_array_or_chunk_is_damage(tmp_path: Path, lost: str) -> None:
    write_predictions(tmp_path / "out", [prediction()], key="k", about={})
    (tmp_path / "out/scores.zarr/s1/score" / lost).unlink()
    with pytest.raises(BadProduct, match="damaged"):
        read_predictions(tmp_path / "out")


def test_another_key_does_not_replace(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out", [prediction()], key="k", about={})
    with pytest.raises(StaleProduct):
        write_predictions(tmp_path / "out", [prediction("s9")], key="other", about={})
    assert [p.id for p in read_predictions(tmp_path / "out")] == ["s1"]


def test_scores_must_fit_the_tiles() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        replace(prediction(), score=np.zeros(3, np.float32))
