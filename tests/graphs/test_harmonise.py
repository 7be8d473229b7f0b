"""ComBat equals its equations, takes sites out, keeps covariates, and learns from training only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from microtome.graphs.harmonise import fit_combat
from microtome.storage.errors import CohortError


def cohort(n_per_site=(30, 20, 25), f=12, seed=0):
    """Values with known effects of age and of sites: values, sites, age [n, 1], and the truth."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(n_per_site)), n_per_site)
    # Sites differ in age, so that taking sites out carelessly takes age out too.
    age = rng.normal(40 + 10 * site, 8)[:, None]
    level, slope, noise = rng.normal(10, 1, f), rng.normal(0, 0.05, f), rng.uniform(0.5, 1.5, f)
    clean = level + age * slope + rng.standard_normal((len(site), f)) * noise
    shift = rng.normal(0, 1, (len(n_per_site), f)) + np.arange(len(n_per_site))[:, None]
    spread = rng.uniform(0.6, 1.6, (len(n_per_site), f))
    expected = level + age * slope
    values = expected + (clean - expected) * spread[site] + shift[site]
    return values, [f"site-{i}" for i in site], age, slope


def agree(found, expected, rtol=1e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-9)


def by_the_equations(values, sites, age):
    """Johnson et al. (2007), sections 3.1 and 3.2, feature by feature."""
    names = sorted(set(sites))
    sites = np.array(sites)
    n, f = values.shape
    x = np.column_stack([*(sites == name for name in names), age]).astype(float)
    standard = np.empty_like(values)
    expected, sigma = np.empty_like(values), np.empty(f)
    for g in range(f):
        beta = np.linalg.solve(x.T @ x, x.T @ values[:, g])
        alpha = sum((sites == name).sum() * beta[i] for i, name in enumerate(names)) / n
        sigma[g] = np.sqrt(((values[:, g] - x @ beta) ** 2).sum() / n)
        expected[:, g] = alpha + age[:, 0] * beta[-1]
        standard[:, g] = (values[:, g] - expected[:, g]) / sigma[g]
    found = np.empty_like(values)
    for name in names:
        z = standard[sites == name]
        count = len(z)
        gamma = z.mean(axis=0)
        delta = ((z - gamma) ** 2).sum(axis=0) / (count - 1)
        gamma_bar, tau2 = gamma.mean(), gamma.var(ddof=1)
        v_bar, s2 = delta.mean(), delta.var(ddof=1)
        lam, theta = (v_bar**2 + 2 * s2) / s2, (v_bar**3 + v_bar * s2) / s2
        for g in range(f):
            gamma_star, delta_star = gamma[g], delta[g]
            for _ in range(500):
                gamma_star = (count * tau2 * gamma[g] + delta_star * gamma_bar) / (
                    count * tau2 + delta_star
                )
                delta_star = (theta + 0.5 * ((z[:, g] - gamma_star) ** 2).sum()) / (
                    count / 2 + lam - 1
                )
            rows = sites == name
            found[rows, g] = (
                sigma[g] / np.sqrt(delta_star) * (z[:, g] - gamma_star) + expected[rows, g]
            )
    return found


def test_it_is_what_the_equations_say():
    values, sites, age, _ = cohort()
    found = fit_combat(values, sites, age).transform(values, sites, age)
    agree(found, by_the_equations(values, sites, age), rtol=1e-5)


def test_with_many_people_nothing_of_the_site_is_left_and_age_is_kept():
    values, sites, age, slope = cohort((1500, 1000, 1200), seed=1)
    combat = fit_combat(values, sites, age)
    found = combat.transform(values, sites, age)
    labels = np.array(sites)
    x = np.column_stack([np.ones(len(age)), age])
    beta = np.linalg.lstsq(x, found, rcond=None)[0]
    np.testing.assert_allclose(beta[1], combat.slopes[0], atol=0.001)
    np.testing.assert_allclose(beta[1], slope, atol=0.01)
    rest = found - x @ beta
    means = np.stack([rest[labels == name].mean(axis=0) for name in combat.sites])
    deviations = np.stack([rest[labels == name].std(axis=0) for name in combat.sites])
    assert np.abs(means / rest.std(axis=0)).max() < 0.02
    assert np.abs(deviations / rest.std(axis=0) - 1).max() < 0.02
    # Without age as a covariate, its effect is taken out with the sites that differ in it.
    careless = fit_combat(values, sites).transform(values, sites)
    lost = np.linalg.lstsq(x, careless, rcond=None)[0][1]
    assert (np.abs(lost) < 0.75 * np.abs(beta[1])).all()


def test_rows_are_adjusted_one_by_one_with_what_training_taught():
    values, sites, age, _ = cohort()
    train, test = np.arange(0, 75, 2), np.arange(1, 75, 2)
    combat = fit_combat(values[train], [sites[i] for i in train], age[train])
    at_once = combat.transform(values[test], [sites[i] for i in test], age[test])
    for row, i in enumerate(test):
        alone = combat.transform(values[i : i + 1], [sites[i]], age[i : i + 1])
        agree(alone[0], at_once[row])
    # What other test rows hold changes nothing.
    other = values[test].copy()
    other[1:] *= 100
    agree(combat.transform(other, [sites[i] for i in test], age[test])[0], at_once[0])


def test_one_site_changes_nothing_and_units_do_not_matter():
    values, sites, age, _ = cohort()
    combat = fit_combat(values, ["here"] * len(values), age)
    agree(combat.transform(values, ["here"] * len(values), age), values)
    found = fit_combat(values, sites, age).transform(values, sites, age)
    unit = fit_combat(1000 * values + 7, sites, 12 * age).transform(
        1000 * values + 7, sites, 12 * age
    )
    agree(unit, 1000 * found + 7)


def test_drawing_towards_the_other_features_helps_small_sites():
    errors = {True: 0.0, False: 0.0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clean = rng.standard_normal((46, 40))
        sites = ["large"] * 40 + ["small"] * 6
        values = clean.copy()
        values[40:] = 1.3 * values[40:] + 1 + 0.2 * rng.standard_normal(40)
        for bayes in errors:
            combat = fit_combat(values, sites, empirical_bayes=bayes)
            found = combat.transform(values, sites)
            # The offset between sites is arbitrary; their difference is not.
            own = clean[40:] - clean[:40].mean(axis=0)
            errors[bayes] += ((found[40:] - found[:40].mean(axis=0) - own) ** 2).mean()
    assert errors[True] < 0.8 * errors[False]


def test_mean_only_leaves_variances():
    values, sites, age, _ = cohort()
    found = fit_combat(values, sites, age, mean_only=True).transform(values, sites, age)
    rows = np.array(sites) == "site-1"
    agree(found[rows].std(axis=0), values[rows].std(axis=0))
    assert fit_combat(values, sites, age, mean_only=True, empirical_bayes=False).spread.max() == 1


def test_a_site_that_was_not_in_training_is_refused_or_left():
    values, sites, age, _ = cohort()
    combat = fit_combat(values, sites, age)
    with pytest.raises(CohortError, match="not fitted on: elsewhere"):
        combat.transform(values[:2], ["site-0", "elsewhere"], age[:2])
    found = combat.transform(values[:2], ["site-0", "elsewhere"], age[:2], unseen="leave")
    agree(found[1], values[1])
    assert (found[0] != values[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, a: (v, ["alone", *s[1:]], a), "single person: alone"),
        (lambda v, s, a: (np.where(v == v[0, 0], np.nan, v), s, a), "missing"),
        (lambda v, s, a: (np.hstack([v, np.ones((75, 1))]), s, a), "1 features do not vary"),
        (lambda v, s, a: (v, s, [[float(x[-1])] for x in s]), "cannot be told from the sites"),
        (lambda v, s, a: (v, s[1:], a), "do not fit"),
    ],
)
def test_what_cannot_be_harmonised_is_refused(change, message):
    with pytest.raises(CohortError, match=message):
        fit_combat(*change(*cohort()[:3]))


def test_columns_must_be_those_of_training():
    values, sites, age, _ = cohort()
    combat = fit_combat(values, sites, age)
    with pytest.raises(CohortError, match="0 covariates do not fit"):
        combat.transform(values, sites)
    with pytest.raises(CohortError, match="11 features"):
        combat.transform(values[:, 1:], sites, age)


@pytest.mark.slow
def test_real_sites_are_not_told_apart_after_training_folds_only_harmonisation(shared_data):
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folder = shared_data / "brain" / "abide_smri"
    names = [f"{side}.aparc_table_thickness.tsv" for side in ("lh", "rh")]
    names += [f"{side}.aparc_table_volume.tsv" for side in ("lh", "rh")] + ["aseg_table.tsv"]
    tables = [pd.read_csv(folder / name, sep="\t", index_col=0) for name in names]
    values = pd.concat(tables, axis=1).to_numpy(float)
    people = pd.read_csv(folder / "phenotypic.csv")
    sites = people["SITE_ID"].tolist()
    # Thickness does not fall on a straight line from 6 to 60 years: with age alone as a covariate,
    # what is bent is taken for the sites, which differ in age (r 0.778).
    age_years = people["AGE_AT_SCAN"].to_numpy(float)
    covariates = np.column_stack([age_years, age_years**2, people["SEX"]])
    told, age = (
        {"raw": [], "combat": []},
        {"raw": np.zeros(len(sites)), "combat": np.zeros(len(sites))},
    )
    labels = np.array(sites)
    varies = [values[labels == site].std(axis=0) > 0 for site in np.unique(labels)]
    values = values[:, np.all(varies, axis=0)]
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(values, sites):
        combat = fit_combat(values[train], labels[train].tolist(), covariates[train])
        harmonised = combat.transform(values, sites, covariates)
        for name, x in (("raw", values), ("combat", harmonised)):
            logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, max_iter=300))
            told[name].append(logistic.fit(x[train], labels[train]).score(x[test], labels[test]))
            ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 9)))
            age[name][test] = ridge.fit(x[train], covariates[train, 0]).predict(x[test])
    correlation = {name: np.corrcoef(a, covariates[:, 0])[0, 1] for name, a in age.items()}
    # A classifier that knows the sites: one that does not could not tell what is left of them.
    assert np.mean(told["raw"]) >= 0.8
    assert np.mean(told["combat"]) <= 0.22
    assert correlation["combat"] >= 0.79
