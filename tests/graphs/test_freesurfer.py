"""FreeSurfer's files of one subject, as ``mris_anatomical_stats`` lays them out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.graphs.freesurfer import MEASURES, read_stats, read_subjects
from microtome.graphs.structural import morphometric_similarity
from microtome.graphs.tables import read_freesurfer
from microtome.storage.connectomes import read_connectomes
from microtome.storage.errors import CohortError, MissingFile, UnreadableFile

COLUMNS = [
    "NumVert", "SurfArea", "GrayVol", "ThickAvg", "ThickStd", "MeanCurv", "GausCurv", "FoldInd",
    "CurvInd",
]  # fmt: skip
HEAD = """# Table of FreeSurfer cortical parcellation anatomical statistics{blank}
#{blank}
# generating_program mris_anatomical_stats
# subjectname {subject}
# hemi {side}
# Measure Cortex, NumVert, Number of Vertices, 125558, unitless
# NTableCols 10
# TableCol  1 ColHeader StructName
# ColHeaders StructName {columns}
"""
BERT = """\
bankssts                                 1210    821   2293  2.805 0.451     0.106     0.019 \
      10     0.8
insula                                   3705   2413   7377  3.090 0.655     0.094     0.020 \
      24     2.8
"""
"""Rows of FreeSurfer's own example subject."""


def head(subject, side):
    return HEAD.format(subject=subject, side=side, columns=" ".join(COLUMNS), blank=" ")


def write(folder, subject, side, regions, values):
    stats = folder / subject / "stats"
    stats.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{region:40s} " + " ".join(f"{value:8.3f}" for value in row)
        for region, row in zip(regions, values, strict=True)
    ]
    text = head(subject, side) + "\n".join(rows) + "\n"
    (stats / f"{side}.aparc.stats").write_text(text)
    return stats / f"{side}.aparc.stats"


@pytest.fixture
def subjects(shared_data, tmp_path):
    """Two people of ABIDE as files of their own, made from the tables; what is not there is drawn.

    FreeSurfer made the tables from such files.
    """
    tables = read_freesurfer(shared_data / "brain" / "abide_smri")
    rng = np.random.default_rng(0)
    regions = tables["area"].regions
    for row, subject in ((0, "one"), (7, "two")):
        for side in ("lh", "rh"):
            chosen = [i for i, name in enumerate(regions) if name.startswith(side)]
            drawn = pd.DataFrame(rng.uniform(0.1, 5, (len(chosen), 9)), columns=COLUMNS)
            for measure, table in tables.items():
                drawn[MEASURES[measure]] = table.values[row, chosen]
            names = [regions[i].removeprefix(f"{side}_") for i in chosen]
            write(tmp_path, subject, side, names, drawn.to_numpy())
    return tmp_path, tables


def test_subjects_have_what_the_tables_have(subjects):
    folder, tables = subjects
    found = read_subjects(folder)
    assert list(found) == list(MEASURES)
    assert found["area"].subjects == ("one", "two")
    assert found["area"].regions == tables["area"].regions
    for measure, table in tables.items():
        np.testing.assert_allclose(found[measure].values, table.values[[0, 7]], atol=5e-4)


def test_a_folder_of_subjects_becomes_networks_in_one_command(subjects):
    folder, _ = subjects
    out = folder / "msn"
    result = CliRunner().invoke(
        app, ["connectome", "build", str(folder), "--method", "msn", "-o", str(out)]
    )
    assert result.exit_code == 0, result.output
    cohort = read_connectomes(folder / "msn.connectomes.zarr")
    assert cohort.subjects == ("one", "two")
    features = np.stack([t.values[1] for t in read_subjects(folder).values()], axis=1)
    expected = morphometric_similarity(features)[3, 40]
    assert cohort.adjacency[1, 3, 40] == pytest.approx(expected)


def test_rows_are_read_as_freesurfer_aligns_them(tmp_path):
    path = tmp_path / "lh.aparc.stats"
    path.write_text(head("bert", "lh") + BERT)
    found = read_stats(path)
    assert list(found) == COLUMNS
    assert found["ThickAvg"] == {"bankssts": 2.805, "insula": 3.09}
    assert found["NumVert"] == {"bankssts": 1210.0, "insula": 3705.0}
    assert found["CurvInd"]["insula"] == 2.8


def test_files_that_do_not_fit_are_named(tmp_path):
    path = write(tmp_path, "one", "lh", ["cuneus", "insula"], np.ones((2, 9)))
    assert read_stats(path)["ThickAvg"] == {"cuneus": 1.0, "insula": 1.0}
    with pytest.raises(MissingFile, match=r"rh\.aparc\.stats"):
        read_subjects(tmp_path)
    write(tmp_path, "one", "rh", ["cuneus", "insula"], np.ones((2, 9)))
    write(tmp_path, "two", "lh", ["cuneus"], np.ones((1, 9)))
    write(tmp_path, "two", "rh", ["cuneus", "insula"], np.ones((2, 9)))
    with pytest.raises(CohortError, match=r"two: regions differ from those of one: lh_insula"):
        read_subjects(tmp_path)
    with pytest.raises(CohortError, match="no subject has"):
        read_subjects(tmp_path / "one")
    text = path.read_text()
    for wrong, message in (
        (text.replace("# ColHeaders", "# Columns"), "no ColHeaders"),
        (text.replace("insula", "cuneus"), "a region is there twice"),
        (text.replace("1.000\n", "\n"), "does not have 10 columns"),
        (text.replace("1.000\n", "many\n"), "no number"),
    ):
        path.write_text(wrong)
        with pytest.raises(UnreadableFile, match=message):
            read_stats(path)
