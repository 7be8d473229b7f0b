"""``microtome connectome spin``: tables in, the figures of the spin test out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from calling import call as call_command

from microtome.graphs.spin import spin_orders, spin_test
from microtome.storage.errors import BadConnectome, CohortError, MissingFile

call = partial(call_command, "connectome", "spin")


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    places = rng.standard_normal((40, 3))
    places *= 100 / np.linalg.norm(places, axis=1, keepdims=True)
    names, sides = [f"parcel-{i}" for i in range(40)], ["L"] * 22 + ["R"] * 18
    maps = pd.DataFrame({"name": names, "thickness": places[:, 2], "myelin": places[:, 2] ** 3})
    maps["noise"] = rng.standard_normal(40)
    maps.loc[5, "noise"] = np.nan
    sphere = pd.DataFrame(places, columns=["x", "y", "z"]).assign(hemisphere=sides)
    sphere.insert(0, "name", names)
    maps.to_csv(tmp_path / "maps.csv", index=False)
    # Places are found by their name, not by their row; one more does no harm.
    more = pd.concat([sphere.sample(frac=1, random_state=1), sphere.iloc[:1].assign(name="wall")])
    more.to_csv(tmp_path / "places.csv", index=False)
    return maps, places, sides


def test_every_pair_has_the_figures_of_the_test(tables, tmp_path):
    maps, places, sides = tables
    shown = call(tmp_path / "maps.csv", "--sphere", tmp_path / "places.csv", "--turns", 99,
                 "-o", tmp_path / "pairs.csv")  # fmt: skip
    assert "thickness, myelin: r 0.9" in shown
    found = pd.read_csv(tmp_path / "pairs.csv")
    assert found[["one", "other"]].to_numpy().tolist() == [
        ["thickness", "myelin"], ["thickness", "noise"], ["myelin", "noise"],
    ]  # fmt: skip
    assert found["places"].tolist() == [40, 39, 39]
    orders = spin_orders(places, sides, 99, match="once")
    for _, row in found.iterrows():
        alone = spin_test(maps[row["one"]], maps[row["other"]], orders)
        assert row["correlation"] == pytest.approx(alone.correlation)
        assert row["p"] == pytest.approx(alone.p)
        assert row["p_fdr"] >= row["p"]


def test_tables_that_do_not_fit_are_refused_by_name(tables, tmp_path):
    del tables
    maps, places = pd.read_csv(tmp_path / "maps.csv"), pd.read_csv(tmp_path / "places.csv")

    def refused(one: pd.DataFrame, other: pd.DataFrame, error, words: str) -> None:
        one.to_csv(tmp_path / "a.csv", index=False)
        other.to_csv(tmp_path / "b.csv", index=False)
        with pytest.raises(error, match=words):
            call(tmp_path / "a.csv", "--sphere", tmp_path / "b.csv", "-o", tmp_path / "o.csv")

    refused(maps, places[places["name"] != "parcel-7"], CohortError, "no place for parcel-7")
    refused(maps, places.drop(columns="hemisphere"), CohortError, "no column hemisphere")
    refused(maps, places.assign(z=1.0), BadConnectome, "do not lie on a sphere")
    refused(maps.assign(noise="high"), places, CohortError, "not numbers: noise")
    refused(maps.iloc[:, :2], places, CohortError, "two maps")
    with pytest.raises(MissingFile):
        call(tmp_path / "no.csv", "--sphere", tmp_path / "b.csv", "-o", tmp_path / "o.csv")
