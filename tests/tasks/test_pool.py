"""Vectors of slides and patients, against NumPy, scikit-learn and torch by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.storage.bags import Bag, write_bag
from microtome.storage.errors import (
    BadModel,
    BadProduct,
    CohortError,
    InputError,
    MissingFile,
    StaleProduct,
)
from microtome.storage.slide_vectors import ARRAYS, read_vectors
from microtome.tasks.cohort import read_cohort
from microtome.tasks.pool import PoolOptions, pool_bags, pool_to
from microtome.tasks.pooling import assign, find_prototypes, pool_prototypes, pool_weighted

D = 5
TILES = {"a": 7, "b": 40, "c": 1, "d": 12}
PATIENTS = {"a": "p2", "b": "p1", "c": "p2", "d": "p2"}


def a_bag(name: str, tiles: int, **values) -> Bag:
    rng = np.random.default_rng(sum(map(ord, name)))
    usual = {
        "features": rng.normal(rng.normal(0, 2, D), 1, (tiles, D)).astype(np.float32),
        "coords_px": np.stack([np.arange(tiles) * 256, np.zeros(tiles, int)], axis=1),
        "footprint_px": (256.0, 256.0),
        "slide_px": (20000, 20000),
        "mpp": 0.5,
        "slide_mpp": (0.5, 0.5),
        "tile_px": 256,
        "encoder": "e@1",
    }
    return Bag(id=name, **usual | values)


def keep(folder: Path, bag: Bag) -> Path:
    path = folder / f"{bag.id}.bag.zarr"
    write_bag(path, bag, key=f"key of {bag.id}")
    return path


@pytest.fixture(scope="module")
def bags() -> dict[str, Bag]:
    return {name: a_bag(name, tiles) for name, tiles in TILES.items()}


@pytest.fixture(scope="module")
def paths(bags, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bags")
    return [keep(folder, bag) for bag in bags.values()]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    path = tmp_path_factory.mktemp("cohort") / "cohort.csv"
    rows = "".join(f"{slide},{patient}\n" for slide, patient in PATIENTS.items())
    path.write_text("id,patient\n" + rows)
    return read_cohort(path, needs=())


@pytest.fixture(scope="module")
def model(bags, tmp_path_factory) -> Path:
    import torch

    from microtome.tasks.mil.store import BagNeeds, MilModel, new_card, save_model
    from microtome.tasks.mil.train import TrainOptions, new_model

    torch.manual_seed(0)
    options = TrainOptions(model="abmil", width=8, n_gates=4)
    members = tuple(new_model(options, D, 2).eval() for _ in range(2))
    card = new_card(
        options,
        classes=("benign", "tumour"),
        members=2,
        needs=BagNeeds.of(bags["a"]),
        training={},
        metrics={},
        limits=(),
    )
    path = tmp_path_factory.mktemp("mil") / "model"
    save_model(path, MilModel(card, members, "model key"))
    return path


class TestMean:
    def test_it_is_numpys_mean(self, paths, bags):
        made = pool_bags(paths[::-1])
        assert made.ids == ("a", "b", "c", "d")
        assert made.names == tuple(f"feature_{i}" for i in range(D))
        np.testing.assert_array_equal(made.tiles, [TILES[name] for name in made.ids])
        expected = [bags[name].features.astype(float).mean(axis=0) for name in made.ids]
        np.testing.assert_allclose(made.vectors, expected, rtol=1e-6)

    def test_names_of_features_stay(self, tmp_path):
        names = ("u", "v", "w", "x", "y")
        path = keep(tmp_path, a_bag("a", 3, feature_names=names))
        assert pool_bags([path]).names == names


class TestAttention:
    def test_it_is_the_mean_by_the_attention_of_all_members(self, paths, bags, model):
        import torch

        from microtome.tasks.mil.store import load_model

        made = pool_bags(paths, PoolOptions("attention", model=model))
        members = load_model(model).members
        for row, name in enumerate(made.ids):
            features = torch.from_numpy(bags[name].features)
            with torch.no_grad():
                weights = [m(features, [len(features)]).attention for m in members]
            expected = (torch.stack(weights).mean(0)[:, None].double() * features).sum(0)
            np.testing.assert_allclose(made.vectors[row], expected, rtol=1e-5, atol=1e-6)
        assert not np.allclose(made.vectors, pool_bags(paths).vectors, atol=1e-3)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 9000), st.integers(0, 99))
    def test_equal_weights_give_the_mean(self, n, seed):
        features = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
        pooled = pool_weighted(features, np.full(n, 1 / n, np.float32))
        np.testing.assert_allclose(pooled, features.mean(0, dtype=float), atol=1e-6)

    def test_a_model_of_other_bags_is_refused(self, tmp_path, model):
        path = keep(tmp_path, a_bag("a", 3, encoder="other@1"))
        with pytest.raises(BadModel, match="other@1"):
            pool_bags([path], PoolOptions("attention", model=model))
        with pytest.raises(InputError, match="trained model"):
            PoolOptions("attention")


class TestPrototypes:
    def test_shares_are_those_of_scikit_learns_mixture(self, bags):
        from sklearn.mixture import GaussianMixture

        sample = np.concatenate([bag.features for bag in bags.values()])
        found = find_prototypes(sample, 4, seed=3)
        scaled = (sample - sample.mean(0, dtype=float)) / sample.std(0, dtype=float)
        mixture = GaussianMixture(4, covariance_type="spherical")
        mixture.weights_, mixture.means_ = np.full(4, 0.25), found.centres
        mixture.covariances_ = np.full(4, found.variance)
        mixture.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances_)
        np.testing.assert_allclose(assign(sample, found), mixture.predict_proba(scaled), atol=1e-6)
        expected = mixture.predict_proba(scaled[:7]).mean(axis=0)
        np.testing.assert_allclose(pool_prototypes(sample[:7], found), expected, atol=1e-6)

    def test_planted_kinds_are_counted(self, tmp_path):
        rng = np.random.default_rng(0)
        kinds = rng.normal(0, 20, (3, D))
        paths, shares = [], []
        for i in range(6):
            drawn = rng.choice(3, 400, p=rng.dirichlet(np.ones(3)))
            shares.append(np.bincount(drawn, minlength=3) / 400)
            features = kinds[drawn] + rng.normal(size=(400, D))
            paths.append(keep(tmp_path, a_bag(str(i), 400, features=features.astype(np.float32))))
        made = pool_bags(paths, PoolOptions("prototype", k=3))
        assert made.prototypes is not None
        centres = made.prototypes.centres * made.prototypes.deviation + made.prototypes.mean
        order = np.linalg.norm(centres[:, None] - kinds, axis=2).argmin(axis=0)
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_allclose(made.vectors[:, order], shares, atol=1e-4)

    def test_equal_seeds_give_equal_vectors_in_whatever_order(self, paths):
        one, two = (
            pool_bags(given, PoolOptions("prototype", k=3, seed=5))
            for given in (paths, paths[::-1])
        )
        np.testing.assert_array_equal(one.vectors, two.vectors)
        np.testing.assert_allclose(one.vectors.sum(axis=1), 1, atol=1e-6)

    def test_those_of_the_training_slides_serve_for_others(self, paths, tmp_path):
        train = pool_to(tmp_path / "train", paths[:2], PoolOptions("prototype", k=3))
        used = PoolOptions("prototype", prototypes=tmp_path / "train")
        other = pool_to(tmp_path / "test", paths[2:], used)
        np.testing.assert_array_equal(other.prototypes.centres, train.prototypes.centres)
        again = pool_bags(paths[:2], used)
        np.testing.assert_array_equal(again.vectors, train.vectors)
        strange = keep(tmp_path, a_bag("z", 3, encoder="other@1"))
        with pytest.raises(BadModel, match="prototypes are of e@1"):
            pool_bags([strange], used)

    def test_more_prototypes_than_tiles(self, paths):
        with pytest.raises(InputError, match="fewer than 100"):
            pool_bags(paths, PoolOptions("prototype", k=100))


class TestPatients:
    @pytest.mark.parametrize("how", ["mean", "prototype"])
    def test_a_patient_is_all_tiles_together(self, how, bags, paths, cohort, tmp_path):
        options = PoolOptions(how, k=3)
        made = pool_to(tmp_path / "v", paths, options, cohort=cohort)
        assert (made.ids, made.by) == (("p1", "p2"), "patient")
        assert made.tiles.tolist() == [40, 20]
        assert made.slides.tolist() == [1, 3]
        together = np.concatenate([bags[name].features for name in "acd"])
        expected = together.mean(axis=0, dtype=float)
        if how == "prototype":
            expected = pool_prototypes(together, made.prototypes)
        np.testing.assert_allclose(made.vectors[1], expected, rtol=1e-5, atol=1e-6)

    def test_table_and_bags_list_the_same_slides(self, paths, cohort, tmp_path):
        with pytest.raises(MissingFile, match="1 of 4 slides have no bag: d"):
            pool_to(tmp_path / "v", paths[:3], cohort=cohort)
        stranger = keep(tmp_path, a_bag("stranger", 3))
        with pytest.raises(CohortError, match="stranger"):
            pool_to(tmp_path / "v", [*paths, stranger], cohort=cohort)
        assert not (tmp_path / "v").exists()


class TestProduct:
    def test_it_comes_back_and_is_made_once(self, paths, tmp_path):
        made = pool_to(tmp_path / "v", paths, PoolOptions("prototype", k=3))
        kept = read_vectors(tmp_path / "v")
        before = (tmp_path / "v" / ARRAYS).stat().st_mtime_ns
        pool_to(tmp_path / "v", paths[::-1], PoolOptions("prototype", k=3))
        assert (tmp_path / "v" / ARRAYS).stat().st_mtime_ns == before
        for ours in (made, kept):
            np.testing.assert_array_equal(ours.vectors, kept.vectors)
            assert (ours.ids, ours.how, ours.encoder) == (tuple("abcd"), "prototype", "e@1")
        with pytest.raises(StaleProduct):
            pool_to(tmp_path / "v", paths)
        assert pool_to(tmp_path / "v", paths, overwrite=True).how == "mean"

    def test_the_table_holds_every_bit(self, paths, tmp_path):
        made = pool_to(tmp_path / "v", paths)
        with (tmp_path / "v" / "vectors.csv").open() as file:
            head, *rows = csv.reader(file)
        assert head[:3] == ["slide", "slides", "tiles"]
        np.testing.assert_array_equal(np.array([r[3:] for r in rows], np.float32), made.vectors)
        assert [(r[0], int(r[2])) for r in rows] == list(TILES.items())

    def test_damage_is_named(self, paths, tmp_path):
        pool_to(tmp_path / "v", paths)
        whole = (tmp_path / "v" / ARRAYS).read_bytes()
        for hurt in (b"", whole[:200], whole[: len(whole) // 2]):
            (tmp_path / "v" / ARRAYS).write_bytes(hurt)
            with pytest.raises(BadProduct, match="damaged"):
                read_vectors(tmp_path / "v")

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"features": np.zeros((0, D), np.float32), "coords_px": np.zeros((0, 2))}, "no tiles"),
            ({"features": np.full((3, D), np.nan, np.float32)}, "not finite"),
            ({"encoder": "other@1"}, "other@1"),
            ({"mpp": 0.25}, "0.25"),
        ],
    )
    def test_bags_that_cannot_be_pooled_are_named(self, values, says, paths, tmp_path):
        path = keep(tmp_path, a_bag("z", 3, **values))
        with pytest.raises(BadProduct, match=says) as caught:
            pool_bags([*paths, path])
        assert "z.bag.zarr" in str(caught.value)

    def test_from_the_command_line(self, paths, cohort, tmp_path):
        def bags(*arguments: object):
            return CliRunner().invoke(app, ["bags", "pool", *map(str, arguments)])

        folder, out = paths[0].parent, tmp_path / "v"
        ran = bags(folder, "--by", "patient", "--cohort", cohort.source, "--out", out)
        assert ran.exit_code == 0, ran.output
        assert ran.stdout.startswith("2 patients, 60 tiles, 5 columns")
        assert bags(folder, "--by", "patient", "--out", out).exit_code == 2
