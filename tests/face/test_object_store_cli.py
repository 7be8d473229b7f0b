"""Slides out of an object store, products into it, over a wire that is cut on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from object_store import BUCKET, Wire, contents, object_store, upload
from products import files_of
from typer.testing import CliRunner, Result

from microtome.cli.app import app
from microtome.engine.slides import open_slide
from microtome.engine.staging import SCRATCH
from microtome.engine.synthetic import write_cohort
from microtome.storage import objects
from microtome.storage.bags import read_bag
from microtome.storage.errors import MicrotomeError, PlanError
from microtome.tasks.run.history import read_history

STAGES = ("ingest", "tissue", "encode")


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if isinstance(result.exception, MicrotomeError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    write_cohort(folder, n_slides=2, side_px=(800, 900), large_px=None, seed=1)
    return sorted((folder / "slides").glob("*.tiff"))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slides: list[Path]) -> Iterator[Wire]:
    """A bucket with the slides in it."""
    monkeypatch.setattr(objects, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    with object_store(monkeypatch) as wire:
        for slide in slides:
            upload(wire, f"slides/{slide.name}", slide.read_bytes())
        yield wire


def urls(slides: list[Path]) -> list[str]:
    return [f"s3://{BUCKET}/slides/{slide.name}" for slide in slides]


def bytes_asked(wire: Wire, method: str = "GET") -> list[str]:
    return [line for line in wire.asked if line.startswith(f"{method} /{BUCKET}/slides/slide")]


def test_ingest_and_encode_of_urls_make_what_they_make_of_files(
    store: Wire, slides: list[Path], tmp_path: Path
) -> None:
    run("ingest", *slides, "--out", tmp_path / "zarr")
    run("encode", *slides, "--out", tmp_path / "bags")
    store.cut += [("GET", 20_000), ("HEAD", 100), ("GET", 400)]
    run("ingest", *urls(slides), "--out", tmp_path / "zarr-of-urls")
    run("encode", *urls(slides), "--out", tmp_path / "bags-of-urls")
    assert store.cuts == 3
    for slide, url in zip(slides, urls(slides), strict=True):
        name = f"{slide.stem}.ome.zarr"
        here, there = files_of(tmp_path / "zarr" / name), files_of(tmp_path / "zarr-of-urls" / name)
        assert here == there
        bags = [read_bag(tmp_path / k / f"{slide.stem}.bag.zarr") for k in ("bags", "bags-of-urls")]
        np.testing.assert_array_equal(bags[0].features, bags[1].features)
        assert [bag.source for bag in bags] == [str(slide), url]
    # Nothing stays of what was fetched, and nothing is fetched again.
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []
    store.asked.clear()
    said = run("encode", *urls(slides), "--out", tmp_path / "bags-of-urls").stderr
    said += run("ingest", *urls(slides), "--out", tmp_path / "zarr-of-urls").stderr
    assert said.count("skipped slide-0") == 4
    assert bytes_asked(store) == []
    # Another slide under the same name is another slide.
    upload(store, f"slides/{slides[0].name}", slides[1].read_bytes())
    with pytest.raises(AssertionError, match="stale_product"):
        run("encode", urls(slides)[0], "--out", tmp_path / "bags-of-urls")


def test_a_plan_reads_from_and_publishes_to_a_store(
    store: Wire, slides: list[Path], tmp_path: Path
) -> None:
    rows = [f"slide-0{n + 1},{url},p{n}" for n, url in enumerate(urls(slides))]
    (tmp_path / "cohort.csv").write_text("\n".join(["id,path,patient", *rows]) + "\n")
    plan = tmp_path / "plan.toml"
    text = 'cohort = "cohort.csv"\nout = "out"\n[run]\npublish = "s3://lab/study"\n'
    plan.write_text(text + "[ingest]\n[tissue]\n[encode]\n")
    said = run("run", plan, "--dry-run").stdout
    assert "to make ingest slide-01" in said
    assert bytes_asked(store) == []
    store.cut += [("GET", 20_000), ("PUT", 900), ("GET", 400)]
    run("run", plan)
    assert store.cuts == 3
    ends = read_history(tmp_path / "out")
    assert {(stage, item): end.state for (stage, item), end in ends.items()} == {
        (stage, f"slide-0{n}"): "done" for stage in STAGES for n in (1, 2)
    }
    made = {
        name: data
        for name, data in files_of(tmp_path / "out").items()
        if name.split("/")[0] in ("slides", "tissue", "bags") and not name.endswith(".origin")
    }
    assert contents(store, "study/") == made
    assert any(name.startswith("slides/slide-01.ome.zarr/labels/tissue/") for name in made)
    # What lies there is read where it lies, as anybody would.
    here = tmp_path / "out/slides/slide-01.ome.zarr"
    with open_slide(here) as ours, open_slide(f"s3://{BUCKET}/study/slides/{here.name}") as theirs:
        np.testing.assert_array_equal(
            ours.read(0, 100, 50, 300, 400), theirs.read(0, 100, 50, 300, 400)
        )
    store.asked.clear()
    run("run", plan)
    assert {end.state for end in read_history(tmp_path / "out").values()} == {"skipped"}
    assert bytes_asked(store) == []
    assert not [line for line in store.asked if line.startswith(("PUT", "POST", "DELETE"))]


def test_a_store_that_does_not_answer_fails_the_step_and_the_next_run_goes_on(
    store: Wire, slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_ATTEMPTS", 1)
    (tmp_path / "cohort.csv").write_text(f"id,path,patient\nslide-01,{slides[0]},p\n")
    plan = tmp_path / "plan.toml"
    text = 'cohort = "cohort.csv"\nout = "out"\n[run]\npublish = "s3://nobodys/study"\n[ingest]\n'
    plan.write_text(text)
    run("run", plan, code=3)
    (end,) = read_history(tmp_path / "out").values()
    assert end.state != "done"
    assert (tmp_path / "out/slides/slide-01.ome.zarr/commit.json").is_file()
    plan.write_text(text.replace("nobodys", BUCKET))
    run("run", plan)
    (end,) = read_history(tmp_path / "out").values()
    assert end.state == "skipped"
    assert "study/slides/slide-01.ome.zarr/commit.json" in contents(store)
    plan.write_text(text.replace("s3://nobodys", "nobodys"))
    with pytest.raises(PlanError, match="is no URL"):
        run("run", plan)


def test_results_are_published_as_a_whole(store: Wire, slides: list[Path], tmp_path: Path) -> None:
    run("ingest", *slides, "--out", tmp_path / "out")
    said = run("publish", tmp_path / "out", f"s3://{BUCKET}/all").stderr
    assert said.count("done slide-0") == 2
    assert contents(store, "all/") == files_of(tmp_path / "out")
    said = run("publish", tmp_path / "out", f"s3://{BUCKET}/all").stderr
    assert "publish: 3 skipped" in said
