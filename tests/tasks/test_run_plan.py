"""A plan is typed: what it does not know is refused, by line, and nothing is guessed."""

from __future__ import annotations

import inspect
import tomllib
import typing
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from microtome.cli.app import app
from microtome.storage.errors import CohortError, MissingFile, PlanError
from microtome.tasks.run.coordinate import Shard, check_plan, slides_of, steps_of
from microtome.tasks.run.parts import (
    BuildPart,
    DiagnosePart,
    EncodePart,
    HeatmapPart,
    IngestPart,
    MilTrainPart,
    Part,
    TissuePart,
)
from microtome.tasks.run.plan import line_of, read_plan
from microtome.tasks.run.stages import STAGES

WHOLE = """\
cohort = "cohort.csv"
out = "results"

[tissue]
mpp = 4.0

[encode]
[mil.train]
folds = 3
[heatmap]
"""
# Those that a plan says once for all stages, or decides itself: inputs, outputs, where to run.
ELSEWHERE = {"out", "jobs", "cluster", "overwrite", "slide_mpp", "into", "bags", "cohort", "files"}
ELSEWHERE |= {"slides", "inputs", "model", "pages"}
SPELT_OTHERWISE = {"confound", "covariates", "label", "window", "leave_out", "models", "slices"}
SPELT_OTHERWISE |= {"candidate", "views", "layers"}


def written(folder: Path, text: str, slides: int = 5) -> Path:
    rows = [f"s{i},slides/s{i}.svs,p{i},{'ab'[i % 2]}" for i in range(slides)]
    (folder / "cohort.csv").write_text("\n".join(["id,path,patient,label", *rows]) + "\n")
    (folder / "plan.toml").write_text(text)
    return folder / "plan.toml"


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("ingest", IngestPart),
        ("tissue make", TissuePart),
        ("encode", EncodePart),
        ("mil train", MilTrainPart),
        ("heatmap make", HeatmapPart),
        ("connectome build", BuildPart),
        ("connectome diagnose", DiagnosePart),
    ],
)
def test_a_table_has_options_of_its_command_with_the_same_defaults(
    command: str, part: type[Part]
) -> None:
    found: typing.Any = typer.main.get_command(app)
    for name in command.split():
        found = found.commands[name]
    asked = inspect.signature(found.callback).parameters
    assert set(part.model_fields) - ELSEWHERE <= set(asked)
    for name, field in part.model_fields.items():
        usual = asked[name].default
        # What a command line takes as text, a plan takes as numbers and lists.
        if not field.is_required() and name not in SPELT_OTHERWISE:
            assert field.default == getattr(usual, "value", usual), name


def test_paths_are_said_from_the_folder_of_the_plan(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, WHOLE + "[connectome.build]\ninputs = ['a.csv']\n"))
    assert (plan.out, plan.cohort) == (tmp_path / "results", tmp_path / "cohort.csv")
    assert plan.connectome.build is not None
    assert plan.connectome.build.inputs == (tmp_path / "a.csv",)
    (tmp_path / "b2.csv").touch()
    (tmp_path / "b1.csv").touch()
    assert BuildPart(inputs=(tmp_path / "b*.csv", tmp_path / "a.csv")).files == [
        tmp_path / name for name in ("b1.csv", "b2.csv", "a.csv")
    ]
    assert [slide.path for slide in slides_of(plan, Shard())][:1] == [tmp_path / "slides/s0.svs"]


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("mpp = 4.0", "mp = 4.0"), 5, "unknown key 'tissue.mp'. Did you mean 'mpp'?"),
        (("folds = 3", "fold = 3"), 9, "unknown key 'mil.train.fold'. Did you mean 'folds'?"),
        (("[heatmap]", "[heatmaps]"), 10, "unknown key 'heatmaps'. Did you mean 'heatmap'?"),
        (("[mil.train]", "[mil.trian]"), 8, "unknown key 'mil.trian'. Did you mean 'train'?"),
        (("mpp = 4.0", "zzzz = 1"), 5, "unknown key 'tissue.zzzz'. Known here: mpp, method"),
        (("folds = 3", "folds = 1"), 9, "mil.train.folds: input should be greater than or equal"),
        (("mpp = 4.0", 'mpp = "four"'), 5, "tissue.mpp: input should be a valid number"),
        (('out = "results"', ""), 1, "the key 'out' is missing"),
        (("folds = 3", 'task = "survival"'), 8, "time and event belong to task 'survival'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    path = written(tmp_path, WHOLE.replace(*change))
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert said in str(caught.value)


def test_what_is_no_toml_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"is not TOML.*line 4"):
        read_plan(written(tmp_path, WHOLE.replace("[tissue]", "[tissue")))
    with pytest.raises(MissingFile):
        read_plan(tmp_path / "none.toml")


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.dictionaries(st.sampled_from("uvw"), st.integers(), min_size=1),
        min_size=1,
    )
)
def test_every_key_is_found_in_its_line(tables: dict[str, dict[str, int]]) -> None:
    lines = []
    where = {}
    for table, values in tables.items():
        lines.append(f"[x.{table}]  # {table} = 1")
        for key, value in values.items():
            lines.append(f"  {key} = {value}")
            where["x", table, key] = len(lines)
    assert tomllib.loads("\n".join(lines))["x"] == tables
    for place, line in where.items():
        assert line_of("\n".join(lines), place) == line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('out = "o"\n', "the plan has no stage"),
        ('out = "o"\n[tissue]\n', "no slides"),
        ('out = "o"\ncohort = "cohort.csv"\n[heatmap]\n', "'heatmap' has no input"),
        ('out = "o"\ncohort = "cohort.csv"\n[mil.train]\n', "'mil train' has no input"),
        ('out = "o"\ncohort = "cohort.csv"\n[ingest]\ncodec = "zstd"\n', "codec goes with"),
    ],
)
def test_stages_that_do_not_go_together_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check_plan(read_plan(written(tmp_path, text)))


def test_what_would_fail_hours_later_is_refused_at_once(tmp_path: Path) -> None:
    plan = WHOLE.replace("folds = 3", 'label = ["grade"]')
    with pytest.raises(CohortError, match="grade"):
        check_plan(read_plan(written(tmp_path, plan)))
    with pytest.raises(MissingFile, match=r"none\.csv"):
        check_plan(read_plan(written(tmp_path, WHOLE + "[connectome.build]\ninputs=['none.csv']")))


def test_stages_of_a_slide_follow_each_other_and_the_cohort_waits_for_all(tmp_path: Path) -> None:
    steps = {step.name: step for step in steps_of(read_plan(written(tmp_path, WHOLE, slides=2)))}
    assert {name: (step.after, step.gathers) for name, step in steps.items()} == {
        "tissue s0": ((), ()),
        "tissue s1": ((), ()),
        "encode s0": (("tissue s0",), ()),
        "encode s1": (("tissue s1",), ()),
        "mil train": ((), ("encode s0", "encode s1")),
        "heatmap s0": (("mil train", "encode s0"), ()),
        "heatmap s1": (("mil train", "encode s1"), ()),
    }


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_of_a_run_have_every_slide_once_and_no_cohort(tmp_path: Path, count: int) -> None:
    plan = read_plan(written(tmp_path, WHOLE))
    parts = [steps_of(plan, Shard(i + 1, count)) for i in range(count)]
    names = sorted(step.name for part in parts for step in part)
    whole = sorted(step.name for step in steps_of(plan))
    of_slides = [name for name in whole if name.split()[0] in ("tissue", "encode")]
    assert names == (whole if count == 1 else of_slides)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_a_part_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="--shard"):
        Shard.of(text)


def test_the_table_of_stages_is_in_an_order_that_can_be_run() -> None:
    before: set[str] = set()
    for stage in STAGES:
        assert before.issuperset({*stage.takes, *stage.needs})
        before.add(stage.name)
