"""``connectome export`` and ``import``: what goes out comes back."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from calling import call as call_command

from microtome.graphs.exchange import bids_name, export_networks
from microtome.storage.connectomes import ConnectomeCohort, read_connectomes, write_connectomes
from microtome.storage.errors import BadConnectome

call = partial(call_command, "connectome")


def cohort(*subjects: str) -> ConnectomeCohort:
    series = np.random.default_rng(0).standard_normal((len(subjects), 4, 30))
    networks = np.stack([np.corrcoef(one) for one in series])
    return ConnectomeCohort(networks, subjects, tuple("abcd"), "pearson", "fMRI", np.eye(4, 3))


@pytest.mark.parametrize("form", ["csv", "tsv", "npy", "mat", "graphml"])
def test_a_cohort_goes_out_and_comes_back(tmp_path, form):
    made = cohort("sub-01_ses-1", "sub-01_ses-2")
    write_connectomes(tmp_path / "a.connectomes.zarr", made, key="k")
    call("export", tmp_path / "a.connectomes.zarr", "--format", form, "-o", tmp_path / "out")
    files = sorted((tmp_path / "out").glob(f"*.{form}"))
    if form == "tsv":
        assert files[1].name == "sub-01_ses-2_meas-pearson_relmat.dense.tsv"
    said = ("--measure", "pearson", "--modality", "fMRI") if form in ("csv", "npy") else ()
    call("import", *files, *said, "-o", tmp_path / "b")
    back = read_connectomes(tmp_path / "b.connectomes.zarr")
    assert back.subjects == made.subjects
    off = ~np.eye(4, dtype=bool)
    # A correlation is not symmetric to the last bit; a graph has one weight for both directions.
    np.testing.assert_allclose(back.adjacency[:, off], made.adjacency[:, off], rtol=1e-14)
    assert form == "npy" or back.regions == made.regions


def test_names_are_those_of_bids_or_made_so(tmp_path):
    assert bids_name("sub-01_ses-2", "fisher-z") == "sub-01_ses-2_meas-fisherz_relmat.dense.tsv"
    assert bids_name("hcp_101309", "pearson") == "sub-hcp101309_meas-pearson_relmat.dense.tsv"
    with pytest.raises(BadConnectome, match="of their own"):
        export_networks(cohort("a_b", "ab"), tmp_path, ".tsv")
    with pytest.raises(BadConnectome, match=r"\.\./x"):
        export_networks(cohort("../x"), tmp_path, ".csv")
    assert list(tmp_path.iterdir()) == []
