"""The report of a cohort shows its networks, counts what it counts, and needs no network."""

from __future__ import annotations

import base64
import io
import re
from functools import partial

import numpy as np
import pytest
from browser import open_page
from calling import call as call_command
from PIL import Image

from microtome.graphs import cohort_plots, summary
from microtome.graphs.simulate import simulate_cohort
from microtome.graphs.threshold import proportional
from microtome.storage.connectomes import ConnectomeCohort, write_connectomes
from microtome.storage.ledger import Entry, Ledger

call = partial(call_command, "connectome")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    made = simulate_cohort(8, 20, 80, seed=2, effect=0.3)
    _, first = np.unique(made.subjects, return_index=True)
    networks = np.stack([np.corrcoef(made.series[i].T) - np.eye(20) for i in first])
    # One network that has too few positive edges for any density.
    networks[-1] = -np.abs(networks[-1])
    names = tuple(made.subjects[i] for i in first)
    cohort = ConnectomeCohort(networks, names, made.regions, "r", "fMRI", made.centroids_mm)
    write_connectomes(folder / "rest.connectomes.zarr", cohort, key="k", about={})
    Ledger(folder / "rest.ledger.jsonl").record(
        Entry("sub-gone", "rejected", "bad_series", "5 time points are too few")
    )
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    (folder / "people.csv").write_text("\n".join(["subject,group", *rows, ""]))
    return folder, cohort


@pytest.fixture(scope="module")
def page(study) -> str:
    folder, _ = study
    cohort = folder / "rest.connectomes.zarr"
    asked = ("-t", folder / "people.csv", "--group", "group", "--permutations", 20)
    call("compare", cohort, *asked, "--threshold", 1, "-o", folder / "ab")
    out = folder / "rest.html"
    arguments = ("--comparison", folder / "ab", "--densities", "0.1:0.2:0.05", "-o", out)
    call("report", cohort, *arguments, code=3)
    return out.read_text(encoding="utf-8")


def test_everybody_who_is_missing_is_named_with_the_reason(page, study):
    _, cohort = study
    assert "sub-gone" in page
    assert "5 time points are too few" in page
    last = page[page.index("Not processed") :]
    assert cohort.subjects[-1] in last
    assert "pairs have a positive weight" in last


def test_measures_are_those_of_the_networks(page, study):
    _, cohort = study
    each = [summary.global_measures(proportional(w, 0.15)) for w in cohort.adjacency[:-1]]
    for name in ("clustering weighted", "modularity weighted"):
        row = re.search(rf'<th scope="row">{name}</th><td class="number">([^<]+)</td>', page)
        values = [measures[name.replace(" ", "_")] for measures in each]
        assert float(row[1]) == pytest.approx(np.mean(values), rel=1e-3)


def test_nothing_is_asked_of_a_network_and_all_pictures_are_inside(page):
    assert "default-src 'none'" in page
    assert not re.search(r'<(?:script|img|iframe|link)[^>]+(?:src|href)="(?!data:)', page)
    assert "favicon" not in page
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 7
    for picture in pictures:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L"))
        assert image.std() > 5
    assert "<iframe" in page
    assert "Networks of edges that differ" in page


def test_a_browser_shows_it_and_runs_the_view(page, tmp_path):
    file = tmp_path / "rest.html"
    file.write_text(page, encoding="utf-8")
    with open_page() as tab:
        tab.open(file.as_uri())
        tab.wait("document.querySelector('iframe').contentDocument.querySelector('.plotly')")
        assert tab.run("[...document.images].every((i) => i.naturalWidth > 100)")
        refused = [trouble for trouble in tab.troubles if "Content Security Policy" in trouble]
        assert refused == []


def test_networks_of_regions_are_taken_from_a_file(study, tmp_path):
    folder, _ = study
    names = ["default mode"] * 10 + ["visual"] * 10
    (tmp_path / "networks.txt").write_text("\n".join(names) + "\n")
    out = tmp_path / "named.html"
    given = ("--networks", tmp_path / "networks.txt", "--densities", "0.1:0.2:0.1", "-o", out)
    call("report", folder / "rest.connectomes.zarr", *given, code=3)
    assert "2 networks of regions: default mode, visual." in out.read_text(encoding="utf-8")
    order, found, ends = cohort_plots._ordered(["b", "a", "b"])
    assert (order.tolist(), found, ends.tolist()) == ([0, 2, 1], ["b", "a"], [2, 3])
