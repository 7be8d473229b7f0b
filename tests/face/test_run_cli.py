"""``microtome run``, as a user calls it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from slide_files import SVS
from typer.testing import CliRunner, Result

from microtome.cli.app import app
from microtome.engine.schedule import run_items
from microtome.engine.synthetic import write_cohort
from microtome.graphs.simulate import simulate_cohort
from microtome.storage.commit import read_commit
from microtome.storage.connectomes import read_connectomes
from microtome.storage.errors import CohortError, MicrotomeError, PlanError
from microtome.storage.predictions import read_predictions
from microtome.tasks.encode import EncodeOptions, encode_slide
from microtome.tasks.run.history import entries, read_history
from microtome.tasks.slide_list import SlideItem

PLAN = """\
cohort = "cohort.csv"
out = "out"
[ingest]
[tissue]
[encode]
"""


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["run", *map(str, arguments)], env={"COLUMNS": "200"})
    if isinstance(result.exception, MicrotomeError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_cohort(folder, n_slides=4, side_px=(800, 900), large_px=None, seed=1)
    return folder


@pytest.fixture
def study(slides: Path, tmp_path: Path, shared_data: Path) -> Path:
    """Three slides that are well and one that is broken, of named patients, and a plan."""
    for n in (1, 2, 3):
        shutil.copyfile(slides / f"slides/slide-0{n}.tiff", tmp_path / f"MRN5550{n}_a.tiff")
    shutil.copyfile(shared_data / "slides/bad/broken.svs", tmp_path / "MRN55504_a.svs")
    rows = [f"case-{n},MRN5550{n}_a.tiff,MRN5550{n}" for n in (1, 2, 3)]
    rows.append("case-4,MRN55504_a.svs,MRN55504")
    (tmp_path / "cohort.csv").write_text("\n".join(["id,path,patient", *rows]) + "\n")
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def states(out: Path) -> dict[str, str]:
    return {
        f"{stage} {item}": f"{end.state}({end.reason})" if end.reason else end.state
        for (stage, item), end in read_history(out).items()
    }


def stamps(out: Path) -> dict[str, int]:
    """When each file of every product was written."""
    return {
        str(path): path.stat().st_mtime_ns
        for name in ("slides", "tissue", "bags")
        for path in (out / name).rglob("*")
        if path.is_file()
    }


def test_a_bad_slide_stops_at_its_stage_and_the_rest_goes_on(study: Path) -> None:
    result = run(study / "plan.toml", "--log", "json", code=3)
    good = [f"{stage} case-{n}" for n in (1, 2, 3) for stage in ("ingest", "tissue", "encode")]
    told = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert [f"{line['stage']} {line['item']}" for line in told] == [*good, "ingest case-4"]
    assert [line["ended"] for line in told] == list(range(1, 11))
    assert states(study / "out") == dict.fromkeys(good, "done") | {
        "ingest case-4": "rejected(unreadable)"
    }
    # Every product is the very one that the stage's own command makes.
    mask = study / "out/tissue"
    (study / "own").mkdir()
    (outcome,) = run_items(
        [SlideItem("case-1", study / "MRN55501_a.tiff")],
        lambda item: encode_slide(item, out=study / "own", options=EncodeOptions(masks=mask)),
    )
    assert outcome.state == "done"
    bags = [read_commit(study / name / "case-1.bag.zarr") for name in ("own", "out/bags")]
    assert bags[0] is not None
    assert bags[1] is not None
    assert bags[0].key == bags[1].key
    assert (study / "out/slides/case-1.ome.zarr/labels/tissue").is_dir()


def test_only_what_is_not_there_is_made_again(study: Path) -> None:
    run(study / "plan.toml", code=3)
    before = stamps(study / "out")
    run(study / "plan.toml", code=3)
    assert stamps(study / "out") == before
    assert sorted(set(states(study / "out").values())) == ["rejected(unreadable)", "skipped"]
    # One mask is gone, and the option of one stage is changed.
    shutil.rmtree(study / "out/tissue/case-2.tissue.zarr")
    run(study / "plan.toml", code=3)
    assert states(study / "out")["tissue case-2"] == "done"
    assert states(study / "out")["encode case-2"] == "skipped"
    (study / "plan.toml").write_text(PLAN + "min_tissue = 0.2\n")
    run(study / "plan.toml", code=3)
    assert states(study / "out")["encode case-1"] == "failed(stale_product)"
    assert states(study / "out")["tissue case-1"] == "skipped"
    run(study / "plan.toml", "--overwrite", code=3)
    assert states(study / "out")["encode case-1"] == "done"
    assert states(study / "out")["tissue case-1"] == "skipped"


def test_a_dry_run_says_what_a_run_then_does_and_makes_nothing(study: Path) -> None:
    said = run(study / "plan.toml", "--dry-run").stdout
    assert not (study / "out").exists()
    assert "to make ingest case-1" in said
    assert "waits encode case-3" in said
    assert "in the way(unreadable) ingest case-4" in said
    run(study / "plan.toml", code=3)
    shutil.rmtree(study / "out/tissue/case-2.tissue.zarr")
    left = {str(p) for p in study.rglob("*")}
    before = stamps(study / "out")
    said = run(study / "plan.toml", "--dry-run").stdout
    assert {str(p) for p in study.rglob("*")} == left
    assert stamps(study / "out") == before
    assert re.findall(r"^(?:to make|waits) (.*) case-[123]", said, re.M) == ["tissue", "encode"]
    row = next(line for line in said.splitlines() if "│ tissue" in line)
    size = (study / "MRN55502_a.tiff").stat().st_size
    size += (study / "MRN55504_a.svs").stat().st_size
    assert f"{size / 1000:,.1f} kB" in row
    assert "~" in row
    (study / "plan.toml").write_text(PLAN + "min_tissue = 0.2\n")
    said = run(study / "plan.toml", "--dry-run").stdout
    assert "stale(stale_product) encode case-1" in said


def test_parts_of_a_run_together_make_what_the_whole_makes(study: Path) -> None:
    plan = study / "plan.toml"
    codes = [run(plan, "--shard", f"{n}/3", code=3 if n == 1 else 0).exit_code for n in (1, 2, 3)]
    assert codes == [3, 0, 0]
    ledgers = sorted((study / "out/run").glob("*.jsonl"))
    assert len(ledgers) == 3
    assert sorted(p.name for p in (study / "out/bags").iterdir()) == [
        f"case-{n}.bag.zarr" for n in (1, 2, 3)
    ]
    run(plan, code=3)
    assert set(states(study / "out").values()) == {"skipped", "rejected(unreadable)"}


def test_status_and_report_say_how_it_ended(study: Path) -> None:
    run(study / "plan.toml", code=3)
    said = run("status", study / "plan.toml", code=3).stdout
    assert "rejected(unreadable) ingest case-4" in said
    assert re.search(r"│ ingest +│ 3 +│ 0 +│ 1 +│ 0 +│", said)
    html = (study / "out/run.html").read_text()
    assert "rejected(unreadable)" in html
    assert "encode case-" in html
    rows = (study / "cohort.csv").read_text().splitlines()[:-1]
    (study / "cohort.csv").write_text("\n".join(rows) + "\n")
    run(study / "plan.toml")


def test_names_of_patients_reach_no_line_and_no_report(study: Path) -> None:
    plan = study / "plan.toml"
    for form in ("plain", "json"):
        result = run(plan, "--log", form, "--deidentify", code=3)
        html = (study / "out/run.html").read_text()
        for text in (result.output, html):
            assert not re.search(r"MRN5550|case-\d", text)
            assert "unreadable" in text
    # The same name has the same pseudonym, in every run of this output and in no other's.
    hashed = set(re.findall(r"#[0-9a-f]{10}", result.output))
    assert len(hashed) >= 4
    assert hashed == set(re.findall(r"#[0-9a-f]{10}", run(plan, "--deidentify", code=3).output))
    assert (study / "out/run/.names.key").stat().st_mode & 0o077 == 0
    shutil.rmtree(study / "out")
    assert hashed.isdisjoint(re.findall(r"#[0-9a-f]{10}", run(plan, "--deidentify", code=3).output))


def test_what_cannot_be_run_is_refused_before_anything_is_begun(study: Path) -> None:
    (study / "plan.toml").write_text(PLAN + "[mil.train]\n")
    with pytest.raises(CohortError, match="label"):
        run(study / "plan.toml")
    (study / "plan.toml").write_text(PLAN + "tilepx = 3\n")
    with pytest.raises(PlanError, match=r"plan\.toml:6: unknown key.*tile_px"):
        run(study / "plan.toml", "--dry-run")
    assert not (study / "out").exists()


@pytest.mark.slow
def test_a_whole_study_ends_in_heatmaps_and_names_whom_it_did_without(
    tmp_path: Path, shared_data: Path
) -> None:
    write_cohort(tmp_path, n_slides=12, side_px=(1000, 1300), large_px=None, seed=0)
    with (tmp_path / "cohort.csv").open("a") as file:
        file.write(f"bad,{shared_data / 'slides/bad/broken.svs'},patient-99,north,normal\n")
        file.write(f"well,{shared_data / SVS},patient-98,north,normal\n")
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN + "[mil.train]\nfolds = 2\nepochs = 3\n[heatmap]\noverlay = false\n")
    run(plan, "--jobs", 2, code=3)
    out = tmp_path / "out"
    found = states(out)
    assert found["mil train cohort"] == "done"
    trained = [e for e in entries(out) if e.stage == "mil train"]
    assert trained[0].detail == "without 1 slides that have no bag"
    ids = [f"slide-{n:02d}" for n in range(1, 13)] + ["well"]
    assert [p.id for p in read_predictions(out / "mil/predictions")] == ids
    assert sorted(p.name for p in (out / "heatmaps").glob("*.gz")) == [
        f"{id_}.geojson.gz" for id_ in ids
    ]
    assert "heatmap bad" not in found
    assert (out / "heatmaps/load_results.groovy").is_file()
    # Found fresh, all of it, by a look and by a run.
    assert "to make" not in run(plan, "--dry-run").stdout
    run(plan, code=3)
    assert [n for n, state in states(out).items() if state != "skipped"] == ["ingest bad"]
    # The same slides, by the model that is there now: all of them, and heatmaps of what it says.
    later = tmp_path / "later.toml"
    later.write_text(
        PLAN.replace('"out"', '"later"')
        + "[mil.predict]\nmodel = 'out/mil/model'\n[heatmap]\noverlay = false\n"
    )
    (tmp_path / "later").mkdir()
    for name in ("slides", "tissue", "bags"):
        (out / name).rename(tmp_path / "later" / name)
    run(later, code=3)
    ends = states(tmp_path / "later")
    assert (ends["encode well"], ends["mil predict cohort"]) == ("skipped", "done")
    said = read_predictions(tmp_path / "later/predicted")
    assert [(p.id, p.fold) for p in said] == [(id_, None) for id_ in ids]
    assert len(list((tmp_path / "later/heatmaps").glob("*.gz"))) == len(ids)


def test_series_become_networks_and_a_diagnosis_without_any_slide(tmp_path: Path) -> None:
    cohort = simulate_cohort(24, 12, 80, 0.35, seed=2)
    rows = ["subject,person,diagnosis"]
    for id_, person, label, values in zip(
        cohort.ids, cohort.subjects, cohort.labels, cohort.series, strict=True
    ):
        np.save(tmp_path / f"{id_}.npy", values)
        rows.append(f"{id_},{person},{('CN', 'AD')[label]}")
    np.save(tmp_path / "zz_short.npy", cohort.series[0][:5])
    (tmp_path / "people.csv").write_text("\n".join(rows) + "\n")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'out = "out"\n[connectome.build]\ninputs = ["*.npy"]\nrows = "time"\nfisher = true\n'
        '[connectome.diagnose]\ntable = "people.csv"\nlabel = "diagnosis"\ngroup = "person"\n'
        'models = ["linear"]\nfolds = 3\nshuffles = 0\n'
    )
    run(plan)
    built = [e for e in entries(tmp_path / "out") if e.stage == "connectome build"]
    assert built[0].detail.startswith("without zz_short (")
    networks = read_connectomes(tmp_path / "out/networks.connectomes.zarr")
    assert networks.subjects == tuple(sorted(cohort.ids))
    record = read_commit(tmp_path / "out/diagnosis")
    assert record is not None
    assert record.kind == "diagnosis"
    run(plan)
    assert set(states(tmp_path / "out").values()) == {"skipped"}
