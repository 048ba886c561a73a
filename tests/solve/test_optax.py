"""Gradients by optax: optimizers, line searches, mini-batches, and settings that are rejected."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN, PROBLEMS
from models import with_one_off

from jaxmix import Blocks, Status, as_data, kmeans, solve

KEY = jax.random.key(0)
WRONG: dict[str, Any] = {"built": optax.adam(0.05), "name": "adam", "size": 2.5, "identity": lambda rate: rate}


def backtracking(rate):
    """Steepest descent with Armijo's rule: the value alone."""
    return optax.chain(optax.sgd(rate), optax.scale_by_backtracking_linesearch(max_backtracking_steps=20))


def backtracking_with_gradient(rate):
    """The same, which keeps the gradient that it ends at: by the transpose of a forward derivative."""
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=20, store_grad=True)
    return optax.chain(optax.sgd(rate), search)


def zoom(rate):
    """The search of L-BFGS, along the gradient."""
    return optax.chain(optax.sgd(rate), optax.scale_by_zoom_linesearch(max_linesearch_steps=20))


LINE_SEARCHES = (backtracking, backtracking_with_gradient, zoom)


@pytest.mark.parametrize("optimizer", LINE_SEARCHES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("problem", ["kmeans", "plain_mixture_map"])
def test_line_searches_lower_the_loss_in_every_step(problem, optimizer):
    case = PROBLEMS[problem]()
    fit = solve.run(case.problem, solve.Optax(optimizer, 1.0), case.start, case.data, max_steps=20, reduce=case.reduce)
    changes = np.diff(np.asarray(fit.trace))
    assert (changes <= 1e-12 * abs(float(fit.trace[0]))).all()
    assert fit.loss < fit.trace[0]


def test_line_searches_run_in_mini_batches_too():
    case = PROBLEMS["kmeans"]()
    solver = solve.Optax(backtracking_with_gradient, 1.0, batch_size=20, key=KEY)
    assert solve.run(case.problem, solver, case.start, case.data, max_steps=5).loss < 2 * 142


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (solve.Optax(WRONG["built"]), r"built already\. .*Optax\(optax\.adam, learning_rate=0\.05\)"),
        (solve.Optax(WRONG["built"], 0.05), r"Optax\(optax\.adam, learning_rate=0\.05\)"),
        (solve.Optax(WRONG["name"], 0.05), r"a function .*'adam'"),
        (solve.Optax(optax.adam), r"`learning_rate` is missing"),
        (solve.Optax(optax.adam, -0.1), "`learning_rate`"),
        (solve.Optax(optax.adam, np.nan), "`learning_rate`"),
        (solve.Optax(optax.adam, 0.1, batch_size=0, key=KEY), "`batch_size`"),
        (solve.Optax(optax.adam, 0.1, batch_size=WRONG["size"], key=KEY), "`batch_size`"),
        (solve.Optax(optax.adam, 0.1, batch_size=5), r"`batch_size` needs a `key`"),
        (solve.Optax(optax.adam, 0.1, batch_size=5, key=jax.random.PRNGKey(0)), "`key`"),
    ],
)
def test_bad_settings_are_rejected(solver, message):
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match=message):
        solver.validate()
    with pytest.raises(ValueError, match=message):
        solve.run(case.problem, solver, case.starts[0], case.data)


def test_the_rate_is_a_leaf_and_the_factory_is_not():
    rates = jax.tree.leaves(solve.Optax(optax.adam, 0.05))
    assert rates == [0.05]
    one, other = (jax.tree.structure(solve.Optax(optax.adam, rate)) for rate in (0.05, 0.1))
    assert one == other != jax.tree.structure(solve.Optax(optax.sgd, 0.05))


def test_an_epoch_is_a_step_of_the_optimizer_for_each_batch():
    # Of one batch, which holds all rows, it is a full-batch step; the loss counts one pass more.
    case = PROBLEMS["plain_mixture_map"]()
    batches = solve.Optax(optax.sgd, 0.1, batch_size=60, key=KEY)
    epochs = solve.run(case.problem, batches, case.start, case.data, max_steps=4, reduce=Blocks(7))
    steps = solve.run(case.problem, solve.Optax(optax.sgd, 0.1), case.start, case.data, max_steps=4)
    np.testing.assert_allclose(epochs.trace, steps.trace, rtol=1e-12)
    assert (epochs.num_passes, steps.num_passes) == (16, 12)


@pytest.mark.parametrize("optimizer", [optax.adam, optax.sgd])
@pytest.mark.parametrize("weight", [1.0, 1000.0])
def test_a_gradient_that_says_converged_is_near_the_optimum(optimizer, weight):
    x = np.array([[0.0], [1.0], [20.0], [21.0]])
    data = as_data(x, np.array([weight, weight, 1.0, 1.0]))
    optimum = (weight + 1) / 2
    start = np.array([[1.0], [23.0]])
    for rate in (0.1, 0.3, 0.45):
        fit = solve.run(kmeans.KMeans(), solve.Optax(optimizer, rate), start, data, max_steps=5000, rtol=1e-5)
        if fit.status == Status.CONVERGED:
            assert fit.loss <= optimum * (1 + 1e-3)
    fit = solve.run(kmeans.KMeans(), solve.Optax(optimizer, 1e-9), start, data, max_steps=50, rtol=1e-5)
    assert fit.status == Status.MAX_STEPS, "small steps are not convergence"


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solve.Optax(optax.adam, 0.1), marks=pytest.mark.slow),
        solve.Optax(optax.adam, 0.1, batch_size=9, key=KEY),
    ],
    ids=["full", "batches"],
)
def test_a_component_that_is_off_stays_off(solver):
    case = PROBLEMS["plain_mixture"]()
    two = solve.run(PLAIN, solver, case.start, case.data, max_steps=10)
    fit = solve.run(PLAIN, solver, with_one_off(case.start), case.data, max_steps=10)
    assert fit.params.log_weights[2] == -jnp.inf
    np.testing.assert_allclose(fit.params.means[2], 7.0)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-6)
    assert fit.loss < fit.trace[0]


def test_a_function_that_makes_no_optimizer_is_rejected():
    case = PROBLEMS["kmeans"]()
    solver = solve.Optax(WRONG["identity"], 0.1)
    with pytest.raises(ValueError, match=r"`optimizer` must be a function from a learning rate .* but it returned"):
        solve.run(case.problem, solver, case.starts[0], case.data)
