"""Seedings, temperatures and sweeps: the experiments' numbers keep to the theory, and their files are whole."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole import assert_whole

from experiments import hard_to_soft, report, seeding, sweep
from experiments.kmeans_steps import five_clusters
from jaxmix import Status, kmeans, solve


@pytest.mark.parametrize(("name", "num_features"), [("NORM-10", 5), ("NORM-25", 15), ("GaussMixture, R = 10", 15)])
def test_the_true_centers_cost_the_noise_about_them(name, num_features):
    x, cost = seeding.made(name, 0, 1000)
    assert x.shape == (1000, num_features)
    # Chi-square with one degree of freedom for each number; where clusters touch, the nearest center costs less.
    freedom = x.size
    assert cost < freedom + 5 * math.sqrt(2 * freedom)
    if name.startswith("NORM"):
        assert cost > freedom - 5 * math.sqrt(2 * freedom)


def test_a_cell_may_hold_the_bars_that_part_the_cells_of_a_table():
    assert report.markdown_table([{"seeding": "k-means||"}]).splitlines()[-1] == r"| k-means\|\| |"


@pytest.mark.slow
def test_seedings_keep_to_their_bound_and_lloyd_lowers_them_all(tmp_path):
    rows = seeding.main(seeding.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "seedings", "starts")
    for row in rows:
        assert row["J seeded / best"] >= row["J / best"] >= row["least J / best"] >= 1
        if row["seeding"] == "k-means++":
            assert row["J seeded / best"] < seeding.bound(row["K"])
        if row["seeding"] == "maximin" and row["data"] == "NORM-10":
            # Clusters that lie hundreds of widths apart: one center in each from the start.
            assert row["J / best"] < 1 + 1e-6


X = five_clusters(0)[:200]
SETTING = hard_to_soft.setting("five clusters", 0)


def ran(problem, centers, max_steps=500):
    start = hard_to_soft.mixture_at(jnp.asarray(centers, jnp.float32), SETTING.width)
    return solve.run(problem, solve.EM(), start, X, max_steps=max_steps, atol=1e-7)


def test_the_hard_limit_is_kmeans():
    found = ran(hard_to_soft.HARD_LIMIT, X[:5]).params.means
    expected = kmeans.fit(jax.random.key(0), X, 5, init=X[:5], empty="keep").params
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_inverse_temperature_one_is_em():
    tempered, soft = (ran(p, X[:5], 20) for p in (hard_to_soft.at_temperature(1.0), hard_to_soft.EM_LIMIT))
    np.testing.assert_allclose(tempered.params.means, soft.params.means, rtol=1e-5)
    np.testing.assert_allclose(tempered.loss, soft.loss, rtol=1e-6)


def test_means_part_at_the_critical_temperature_and_not_before():
    covariance = np.cov(X.T.astype(float), bias=True)
    critical = SETTING.width**2 / np.linalg.eigvalsh(covariance)[-1]
    nearly = X.mean(axis=0) + 1e-2 * np.random.default_rng(0).normal(size=(5, 2))
    for factor, parted in ((0.8, False), (1.25, True)):
        means = ran(hard_to_soft.at_temperature(factor * critical), nearly).params.means
        assert (hard_to_soft.groups(np.asarray(means), SETTING.width).max() > 0) == parted


def test_the_chance_of_restarts_counts_at_least_one():
    assert hard_to_soft.chance(0.25, 10.0, 20.0) == pytest.approx(1 - 0.75**2)
    assert hard_to_soft.chance(0.25, 10.0, 1.0) == pytest.approx(0.25)


@pytest.mark.slow
def test_the_curve_starts_as_one_cluster_and_ends_as_kmeans(tmp_path):
    rows = hard_to_soft.main(hard_to_soft.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "frames", "curves", "annealing")
    assert all(0 <= row["reaches best"] <= row["at the passes of one annealing"] + 1e-12 for row in rows)
    points = hard_to_soft.curve("five clusters", 0, 9, 4)
    x = SETTING.x.astype(float)
    assert points[0].apart == 1
    # The loss is flat at its end: in float32 it knows the means to the root of its rounding, and J moves with them.
    np.testing.assert_allclose(points[0].cost, np.square(x - x.mean(0)).sum(), rtol=1e-3)
    variance = SETTING.width**2
    of_one = -0.5 * np.square(x - x.mean(0)).sum(1) / variance - math.log(2 * math.pi * variance)
    np.testing.assert_allclose(points[0].log_likelihood, of_one.mean(), rtol=1e-5)
    assert points[-1].apart == 5
    assert points[-1].cost == min(point.cost for point in points)
    likelihoods = [point.log_likelihood for point in points[:-1]]
    at_em = np.argmin([abs(math.log(point.inverse_temperature)) for point in points[:-1]])
    assert likelihoods[at_em] > max(likelihoods) - 1e-3


def made_sweep(statuses, losses, best):
    none = np.zeros_like(losses)
    return sweep.Swept(np.array(statuses), np.array(losses), none, none, none, np.array(best), 0.0, 0.0)


def test_a_failed_winner_would_be_seen():
    statuses = [[[Status.CONVERGED, Status.NONFINITE, Status.MAX_STEPS]]]
    losses = [[[3.0, -9.0, 2.0]]]
    for best, wrong in ((0, 1), (1, 1), (2, 0)):
        assert sweep.never_wins({"made": made_sweep(statuses, losses, [[best]])}) == (wrong, 1)


@pytest.mark.slow
def test_a_sweep_counts_every_fit_and_no_failure_wins(tmp_path):
    rows = sweep.main(sweep.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "statuses", "times")
    assert {sum(row[status.name] for status in sweep.SHOWN) for row in rows} == {4}
    # More components than D rows each can hold: maximum likelihood fails, and a large regularization does not.
    failed = {row["regularization"]: row["NONFINITE"] for row in rows if row["K"] == max(r["K"] for r in rows)}
    assert failed[0.0] > 0 == failed[1e-2]
    assert all(row["status of the best"] != "NONFINITE" for row in rows)
    # A loop of single fits gives what the one call does: failures cost their neighbors nothing.
    assert "100.0% of the fits that end in both end alike" in (tmp_path / "report.md").read_text()
