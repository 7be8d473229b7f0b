"""Figures of agreement: against scikit-learn, against counting by hand, with honest intervals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score, recall_score

from microtome.storage.commit import new_product
from microtome.storage.errors import BadGeometry, UnreadableFile
from microtome.storage.maps import KIND, MapFrame, MapPlan, StoredMap, open_map
from microtome.storage.polygons import outline
from microtome.tasks.camel.evaluate import (
    METRICS,
    DrawnTruth,
    EvaluateOptions,
    PaintedTruth,
    agreement,
    count_fields,
    evaluate_map,
    overall,
    read_painted,
)

QUICK = EvaluateOptions(instance_um=4.0, field_instances=2, resamples=200)


def stored(path: Path, values: np.ndarray, pixel_px: float = 2.0) -> StoredMap:
    slide_px = tuple(int(n * pixel_px) for n in values.shape)
    frame = MapFrame(
        values.shape, (0.0, 0.0), (pixel_px, pixel_px), (0.5, 0.5), (slide_px[0], slide_px[1])
    )
    plan = MapPlan(frame, shard_px=64, chunk_px=32, block_px=64)
    with new_product(path, kind=KIND, key="k", about={}) as folder:
        for block in plan.blocks():
            plan.write(folder, block, values[block].astype(np.float32), plan.missing(folder, block))
        plan.finish(folder, "map", {})
    return open_map(path)


@given(
    seed=st.integers(0, 999), shape=st.tuples(st.integers(3, 50), st.integers(3, 50)),
    share=st.floats(0.1, 0.9),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_figures_of_pixels_are_those_of_scikit_learn(tmp_path_factory, seed, shape, share):
    rng = np.random.default_rng(seed)
    truth, found = rng.random(shape) < share, rng.random(shape) < 0.5
    made = stored(tmp_path_factory.mktemp("map") / "m", np.where(found, 0.9, 0.2))
    figures = evaluate_map("a", made, PaintedTruth(truth), QUICK).figures
    y, p = truth.ravel(), found.ravel()
    if (y | p).any():
        assert figures["IoU"].value == pytest.approx(jaccard_score(y, p))
        assert figures["Dice"].value == pytest.approx(f1_score(y, p))
    if y.any():
        assert figures["pixel sensitivity"].value == pytest.approx(recall_score(y, p))
    if not y.all():
        assert figures["pixel specificity"].value == pytest.approx(recall_score(~y, ~p))


def test_drawn_and_painted_truth_are_one(tmp_path):
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.random((9, 11)).astype(np.float32), (88, 72)) > 0.5
    made = stored(tmp_path / "m", rng.random((72, 88)))
    area = outline(mask, (2.0, 2.0))
    drawn = evaluate_map("a", made, DrawnTruth(area), QUICK)
    painted = evaluate_map("a", made, PaintedTruth(mask), QUICK)
    assert np.array_equal(drawn.counts, painted.counts)
    assert drawn.counts[:4].sum() == mask.size
    # Drawn twice over, a place is no less covered.
    twice = shapely.MultiPolygon([*shapely.get_parts(area), *shapely.get_parts(area)])
    assert np.array_equal(evaluate_map("a", made, DrawnTruth(twice), QUICK).counts, drawn.counts)


def test_instances_are_counted_by_the_same_rule_in_truth_and_map(tmp_path):
    """Instances of 4 x 4 pixels; by hand: one hit, one missed, one false, one right."""
    truth, found = np.zeros((8, 8), bool), np.zeros((8, 8))
    truth[:4, :2] = True  # half of it: positive
    found[:4, 2:4] = 1
    truth[:4, 4:] = True
    found[4:, :4] = 1
    found[4, 4] = 1  # one pixel of sixteen is no positive instance
    made = stored(tmp_path / "m", found)
    counts = evaluate_map("a", made, PaintedTruth(truth), QUICK).counts
    assert counts[4:].tolist() == [1, 1, 1, 1]
    assert counts[:4].tolist() == [0, 8 + 16 + 1, 8 + 16, 64 - 25 - 24]


def test_lesion_where_nobody_looked_was_missed_and_the_rest_there_is_not_counted(tmp_path):
    values = np.full((8, 16), 0.9)
    values[:, 8:] = np.nan
    truth = np.zeros((8, 16), bool)
    truth[:4] = True
    figures = evaluate_map("a", stored(tmp_path / "m", values), PaintedTruth(truth), QUICK)
    assert figures.counts[:4].tolist() == [32, 32, 32, 0]
    assert figures.figures["pixel sensitivity"].value == 0.5


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    truth = cv2.resize(rng.random((20, 20)).astype(np.float32), (150, 130)) > 0.5
    made = stored(tmp_path / "m", rng.random((130, 150)))
    whole = count_fields(made, PaintedTruth(truth), QUICK)
    monkeypatch.setattr("microtome.tasks.camel.evaluate.BLOCK_PX", 16)
    blocks = count_fields(made, PaintedTruth(truth), QUICK)
    assert sorted(whole.tolist()) == sorted(blocks.tolist())


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Fields of one rate: 95 % intervals of the IoU should hold it about 95 times of 100."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        counts = np.zeros((40, 8), np.int64)
        counts[:, :4] = rng.multinomial(100, [0.4, 0.1, 0.1, 0.4], 40)
        iou = agreement("a", counts, resamples=400, seed=seed).figures["IoU"]
        held += iou.low <= 0.4 / 0.6 <= iou.high
    assert 88 <= held <= 100


def test_all_slides_together_weigh_by_pixels_and_one_slide_has_no_interval():
    rows = np.array([[10, 0, 10, 80, 1, 0, 1, 4], [30, 10, 0, 60, 3, 1, 0, 2]])
    parts = [agreement(str(n), row[None], resamples=100) for n, row in enumerate(rows)]
    assert np.isnan(parts[0].figures["IoU"].low)
    together = overall(parts, QUICK)
    assert together.figures["IoU"].value == 40 / 60
    assert together.figures["IoU"].low == 0.5
    assert together.figures["IoU"].high == 0.75
    assert set(together.figures) == set(METRICS)


def test_nothing_to_find_and_nothing_found_has_no_figure():
    alone = agreement("a", np.array([[0, 0, 0, 50, 0, 0, 0, 2]]), resamples=10).figures
    assert np.isnan(alone["IoU"].value)
    assert alone["instance specificity"].value == 1


def test_a_mask_is_read_at_any_resolution_and_another_slides_is_refused(tmp_path):
    made = stored(tmp_path / "m", np.ones((40, 60)))
    coarse = np.zeros((20, 30), np.uint8)
    coarse[:10] = 255
    cv2.imwrite(str(tmp_path / "a.png"), coarse)
    truth = read_painted(tmp_path / "a.png", made.frame)
    found = truth.mask(made.frame, slice(0, 40), slice(0, 60))
    assert found[:20].all()
    assert not found[20:].any()
    cv2.imwrite(str(tmp_path / "b.png"), coarse[:, :20])
    with pytest.raises(BadGeometry, match="shape of the slide"):
        read_painted(tmp_path / "b.png", made.frame)
    (tmp_path / "c.png").write_bytes(b"no")
    with pytest.raises(UnreadableFile, match="not a mask"):
        read_painted(tmp_path / "c.png", made.frame)
