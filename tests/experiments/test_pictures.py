"""The experiments that show the algorithms: their numbers keep to the theory, and their files are whole."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from whole import assert_whole

from experiments import gmm_steps, kmeans_steps, mouse
from experiments.__main__ import questions
from experiments.data import mixture
from jaxmix import kmeans


def test_each_experiment_asks_a_question_and_takes_options():
    found = questions()
    assert {"em_vs_gradient", "kmeans_steps", "gmm_steps", "mouse", "model_selection", "benchmark"} <= set(found)
    for name, question in found.items():
        assert "?" in question, name
        assert importlib.import_module(f"experiments.{name}").Options().smoke is False


def test_each_experiment_is_run_in_small_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for name in questions():
        assert f"{name}.main({name}.Options(smoke=True" in tests, name


def test_half_steps_of_lloyd_never_raise_the_cost_and_end_at_a_fixed_point():
    x = mixture("faithful", 0).x.astype(float)
    found = kmeans_steps.frames(x, np.array([[-1.5, 1.0], [1.5, -1.0]]), 100)
    costs = [frame.cost for frame in found]
    assert (np.diff(costs) <= 1e-12 * costs[0]).all()
    fit = kmeans.fit(jax.random.key(0), x, 2, init=found[0].centers)
    np.testing.assert_allclose(found[-1].centers, fit.params, rtol=1e-12)
    np.testing.assert_allclose(costs[-1], fit.loss, rtol=1e-12)


def test_the_share_of_poor_ends_is_that_of_draws_without_replacement():
    reached = np.array([True, False, False, False])
    assert [kmeans_steps.share_poor(reached, r) for r in (1, 2, 3, 4)] == [3 / 4, 1 / 2, 1 / 4, 0.0]


@pytest.mark.slow
def test_poor_minima_cost_more_and_restarts_avoid_them(tmp_path):
    rows = kmeans_steps.main(kmeans_steps.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "frames", "poor_minima", "shares")
    x = kmeans_steps.five_clusters(0)
    best = float(kmeans.fit(jax.random.key(0), x, 5, restarts=16).loss)
    for start in kmeans_steps.BAD_STARTS.values():
        assert kmeans_steps.frames(x, start, 100)[-1].cost > 2 * best
    for title in kmeans_steps.SEEDINGS:
        shares = [row["ends poorly"] for row in rows if row["seeding"] == title]
        assert (np.diff(shares) <= 0).all()


@pytest.mark.slow
def test_the_bound_touches_after_each_e_step_and_never_falls(tmp_path):
    rows = gmm_steps.main(gmm_steps.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "frames", "bound")
    for row in rows[1:]:
        assert row["gap"] >= -1e-3
        if row["step"].startswith("E"):
            np.testing.assert_allclose(row["gap"], 0, atol=1e-3)
    assert (np.diff([row["bound"] for row in rows[1:]]) > -1e-3).all()


@pytest.mark.slow
def test_the_mixture_finds_the_mouse_and_kmeans_gives_of_its_head_to_the_ears(tmp_path):
    by_kmeans, by_mixture = mouse.main(mouse.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "shapes")
    assert by_mixture["ARI"] > 0.98 > 0.93 > by_kmeans["ARI"]
