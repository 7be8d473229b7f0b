"""Adjacencies travel to files of other tools and back, and independent readers agree."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
import scipy.io

from microtome.storage.adjacency import read_adjacency, write_adjacency
from microtome.storage.connectomes import Connectome
from microtome.storage.errors import BadConnectome, MissingFile, UnreadableFile

REGIONS = ("lh_cuneus", "rh_cuneus", "Façade & <pole>")
PLACES = np.array([[-10.5, 80, 1e-3], [10, 80, 1], [0, 0, 0]])


def one(*, directed: bool = False) -> Connectome:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 3)) / 3
    weights[0, 2] = weights[2, 0] = 0
    np.fill_diagonal(weights, 0)
    if not directed:
        weights = weights + weights.T
    return Connectome(weights, REGIONS, "pearson", "fMRI", "sub-01_ses-2", PLACES, directed)


@pytest.mark.parametrize("suffix", [".tsv", ".mat", ".graphml"])
@pytest.mark.parametrize("directed", [False, True])
def test_everything_travels_where_the_format_can_say_it(tmp_path, suffix, directed):
    path = tmp_path / f"network{suffix}"
    write_adjacency(path, one(directed=directed))
    back = read_adjacency(path)
    np.testing.assert_array_equal(back.adjacency, one(directed=directed).adjacency)
    np.testing.assert_array_equal(back.centroids_mm, PLACES)
    said = back.regions, back.measure, back.modality, back.subject, back.directed
    assert said == (REGIONS, "pearson", "fMRI", "sub-01_ses-2", directed)
    write_adjacency(path, Connectome(np.ones((2, 2)), ("a", "b"), "m", "PET"))
    assert read_adjacency(path).centroids_mm is None


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_other_formats_keep_the_numbers_and_have_to_be_told_the_rest(tmp_path, suffix):
    path = tmp_path / f"s2{suffix}"
    write_adjacency(path, one())
    back = read_adjacency(path, measure="pearson", modality="fMRI")
    np.testing.assert_array_equal(back.adjacency, one().adjacency)
    assert back.subject == "s2"
    bare = ("region-001", "region-002", "region-003")
    assert back.regions == (REGIONS if suffix == ".csv" else bare)
    with pytest.raises(BadConnectome, match="measure and modality"):
        read_adjacency(path)


def test_other_readers_find_the_same(tmp_path):
    for suffix in (".tsv", ".mat", ".graphml"):
        write_adjacency(tmp_path / f"n{suffix}", one())
    graph = nx.read_graphml(tmp_path / "n.graphml")
    assert [graph.nodes[n]["name"] for n in graph] == list(REGIONS)
    np.testing.assert_array_equal(nx.to_numpy_array(graph), one().adjacency)
    assert graph.nodes["n0"]["x"] == -10.5
    matlab = scipy.io.loadmat(tmp_path / "n.mat")
    np.testing.assert_array_equal(matlab["adjacency"], one().adjacency)
    assert [str(cell[0]) for cell in matlab["regions"].ravel()] == list(REGIONS)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "n.tsv"), one().adjacency)
    assert json.loads((tmp_path / "n.json").read_text())["measure"] == "pearson"


def test_a_matlab_file_of_another_tool_is_read_by_its_variable(tmp_path, shared_data):
    path = shared_data / "brain" / "sc_bold" / "hcp_101309_DTI_CM.mat"
    found = read_adjacency(path, measure="streamlines", modality="dMRI", directed=True)
    np.testing.assert_array_equal(found.adjacency, scipy.io.loadmat(path)["sc"])
    scipy.io.savemat(tmp_path / "two.mat", {"a": np.eye(3), "b": np.ones((3, 3))})
    with pytest.raises(BadConnectome, match="There are a, b"):
        read_adjacency(tmp_path / "two.mat", measure="m", modality="dMRI")
    named = read_adjacency(tmp_path / "two.mat", measure="m", modality="dMRI", key="b")
    assert named.adjacency.sum() == 9


def test_a_graph_of_another_tool_is_read_by_its_names(tmp_path):
    graph = nx.Graph()
    graph.add_edge("insula", "cuneus", weight=0.5)
    nx.write_graphml(graph, tmp_path / "g.graphml")
    found = read_adjacency(tmp_path / "g.graphml", measure="m", modality="PET")
    assert found.regions == ("insula", "cuneus")
    assert found.adjacency.tolist() == [[0, 0.5], [0.5, 0]]
    graph.add_edge("insula", "precuneus")
    nx.write_graphml(graph, tmp_path / "g.graphml")
    with pytest.raises(BadConnectome, match="no weight"):
        read_adjacency(tmp_path / "g.graphml", measure="m", modality="PET")


def test_what_is_no_adjacency_is_refused(tmp_path):
    table = tmp_path / "x.csv"
    table.write_text(",a,b\na,0,1\nc,1,0\n")
    with pytest.raises(BadConnectome, match="do not name the same regions"):
        read_adjacency(table, measure="m", modality="fMRI")
    table.write_text(",a,b\na,0,one\nb,1,0\n")
    for path in (table, tmp_path / "x.tsv", tmp_path / "x.mat", tmp_path / "x.graphml"):
        path.write_text(table.read_text())
        with pytest.raises(UnreadableFile):
            read_adjacency(path, measure="m", modality="fMRI")
    with pytest.raises(MissingFile):
        read_adjacency(tmp_path / "y.csv")
    with pytest.raises(ValueError, match=r"\.graphml"):
        write_adjacency(tmp_path / "x.doc", one())
