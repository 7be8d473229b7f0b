"""Where roots are declared nothing else is named; and figures of a run, for who collects them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.errors import PlanError
from microtome.storage.ledger import Entry
from microtome.tasks.run.coordinate import Told
from microtome.tasks.run.metrics import RunMetrics
from microtome.tasks.run.plan import read_plan
from microtome.tasks.run.roots import require_within


def study(folder: Path, *, slide: str = "a.svs", text: str = "") -> Path:
    """A plan in a folder, and beside that folder what does not belong to it."""
    inside = folder / "study"
    inside.mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "model.pt").touch()
    (inside / "cohort.csv").write_text(f"id,path,patient\na,{slide},p\n")
    head = 'cohort = "cohort.csv"\n' + ("" if "out =" in text else 'out = "out"\n')
    (inside / "plan.toml").write_text(head + (text or "[tissue]\n"))
    return inside / "plan.toml"


def test_what_lies_within_is_taken(tmp_path: Path) -> None:
    plan = read_plan(study(tmp_path, text='[run]\npublish = "s3://lab/study/7"\n[tissue]\n'))
    require_within(plan, [])
    require_within(plan, [str(tmp_path), "s3://lab/study"])
    require_within(plan, [str(tmp_path / "study"), "s3://lab/"])


@pytest.mark.parametrize(
    ("slide", "text"),
    [
        ("../other/a.svs", ""),
        ("/etc/passwd", ""),
        ("s3://elsewhere/a.svs", ""),
        ("link/a.svs", ""),
        ("a.svs", 'out = "../other"\n[tissue]\n'),
        ("a.svs", '[encode]\nmasks = "../other"\n'),
        ("a.svs", '[encode]\nencoder = "{other}/model.pt"\n'),
        ("a.svs", '[run]\npublish = "s3://lab/study-of-others"\n[tissue]\n'),
        ("a.svs", '[run]\npublish = "s3://lab/study/../all"\n[tissue]\n'),
        ("a.svs", '[connectome.build]\ninputs = ["*.npy", "../other/*.npy"]\n'),
    ],
)
def test_what_lies_outside_is_refused(slide: str, text: str, tmp_path: Path) -> None:
    plan = study(tmp_path, slide=slide, text=text.replace("{other}", str(tmp_path / "other")))
    (tmp_path / "study/link").symlink_to(tmp_path / "other")
    roots = [str(tmp_path / "study"), "s3://lab/study"]
    with pytest.raises(PlanError, match="lies outside of"):
        require_within(read_plan(plan), roots)
    line = ["run", str(plan), "--dry-run", *(word for root in roots for word in ("--root", root))]
    result = CliRunner().invoke(app, line)
    assert isinstance(result.exception, PlanError)
    assert not (tmp_path / "study/out").exists()


def test_figures_are_what_a_collector_reads(tmp_path: Path) -> None:
    path = tmp_path / "run" / "microtome.prom"
    figures = RunMetrics(path)
    for n, (state, reason) in enumerate([("done", ""), ("done", ""), ("failed", "timeout")]):
        entry = Entry(f"s{n}", state, reason, seconds=2.5, stage="ingest")
        figures.note(Told(entry, "", n + 1, 9))
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert samples["microtome_step_ends_total", "", "done", "ingest"] == 2
    assert samples["microtome_step_ends_total", "failed", "ingest", "timeout"] == 1
    assert samples["microtome_step_seconds_sum", "ingest"] == 5
    assert samples["microtome_step_seconds_count", "ingest"] == 2
    assert (samples[("microtome_steps_ended",)], samples[("microtome_steps",)]) == (3, 9)
    assert samples[("microtome_coordinator_process_resident_memory_bytes",)] > 2**20
    assert [child.name for child in path.parent.iterdir()] == ["microtome.prom"]
