"""The objective that solvers see: its gradient is that of the whole loss, over blocks, padding, weights and devices."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN, blobs
from models import FullMixture, PoissonMixture, PoissonParams, mixture_of_labels, with_one_off

from jaxmix import Blocks, Objective, Problem, Rows, Sharded, as_data, kmeans, sharding, solve
from jaxmix.pytree import choice

MAP = FullMixture(3.0, 0.5)


@choice
class PriorKMeans(kmeans.KMeans):
    """K-means with a penalty."""

    def penalty(self, params):
        return 0.5 * jnp.sum(jnp.square(params))


def case(name: str, num_rows: int) -> tuple[Problem, Any, Any]:
    """A problem, parameters and weighted rows; some weights are zero."""
    weights = np.arange(num_rows) % 3 * 0.75
    if name == "poisson":
        data = as_data(np.arange(2.0 * num_rows).reshape(-1, 2) % 11, weights)
        return PoissonMixture(), PoissonParams(jnp.zeros(2), jnp.log(jnp.array([[1.0, 3.0], [4.0, 2.0]]))), data
    data = as_data(blobs(num_rows, 2, 3, spread=2.0), weights)
    if name in ("mixture", "mixture_map", "mixture_off"):
        problem = MAP if name == "mixture_map" else PLAIN
        params = mixture_of_labels(np.arange(num_rows) // 7 % 3, data, 3, problem)
        return problem, with_one_off(params) if name == "mixture_off" else params, data
    problem = PriorKMeans() if name == "kmeans_map" else kmeans.KMeans()
    return problem, data.x[np.array([1, 2, 4])], data


NAMES = ("kmeans", "kmeans_map", "mixture", "mixture_map", "mixture_off", "poisson")
QUICK = ("kmeans", "mixture_map")


def whole_loss(problem: Problem, free: Any, anchor: Any, rows: Rows) -> Any:
    """The loss with no reduce: all rows are one block, without padding."""
    held = jax.tree.map(lambda value, held: jnp.where(jnp.isfinite(held), value, held), free, anchor)
    params = problem.constrain(held)
    return problem.loss(problem.prepare(params), rows) + problem.penalty(params)


def close(actual: Any, desired: Any, tolerance: float = 1e-12) -> None:
    """Leaf by leaf, relative to the largest entry of a leaf."""
    chex.assert_trees_all_equal_structs(actual, desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(1 + jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("size", [7, *(pytest.param(size, marks=pytest.mark.slow) for size in (None, 61, 10))])
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in QUICK)])
def test_the_gradient_is_that_of_the_whole_loss(name, size):
    problem, params, data = case(name, 61)
    objective = solve.make_objective(problem, params, data, reduce=Blocks(size))
    anchor = objective.unconstrain(params)
    free = objective.free(anchor)
    value, grad = jax.jit(Objective.value_and_grad)(objective, free, anchor)
    whole = partial(whole_loss, problem, anchor=anchor, rows=Rows(data.x, data.weights))
    expected, expected_grad = jax.value_and_grad(whole)(free)
    close((value, grad), (expected, expected_grad))
    close(objective.value(params), expected)
    # A central difference along a direction, where the loss is smooth.
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape) + 1.0), free)
    ahead, behind = (whole(jax.tree.map(lambda a, d, h=h: a + h * d, free, direction)) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(optax.tree.vdot(grad, direction), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["kmeans_map", "mixture_map"])
def test_the_mean_has_the_same_derivative_in_either_mode(name):
    problem, params, data = case(name, 61)
    objective = solve.make_objective(problem, params, data, reduce=Blocks(7))
    anchor = objective.unconstrain(params)
    free = objective.free(anchor)
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape) + 1.0), free)

    def mean(free):
        return objective.mean_value(free, anchor)

    value, grad = objective.mean_value_and_grad(free, anchor)
    close(value, objective.value(params) / jnp.sum(data.weights))
    close(jax.grad(mean)(free), grad)
    close(jax.jit(jax.grad(mean))(free), grad)
    close(jax.jvp(mean, (free,), (direction,))[1], optax.tree.vdot(grad, direction))
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), free)
    swept = jax.vmap(jax.grad(mean))(many)
    for i in range(2):
        close(
            *(jax.tree.map(lambda leaf, i=i: leaf[i], swept), jax.grad(mean)(jax.tree.map(lambda f, i=i: f[i], many)))
        )


@pytest.mark.parametrize("name", ["kmeans", "mixture_map"])
def test_batches_of_an_epoch_estimate_the_loss_without_bias(name):
    problem, params, data = case(name, 60)
    objective = solve.make_objective(problem, params, data, reduce=Blocks(7))
    batches = objective.epoch(jax.random.key(0), 12)
    assert np.sort(batches.ravel()).tolist() == list(range(60))
    anchor = objective.unconstrain(params)
    free = objective.free(anchor)
    parts = [objective.take(batch).mean_value_and_grad(free, anchor) for batch in batches]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *parts)
    close(mean, objective.mean_value_and_grad(free, anchor))


@pytest.mark.parametrize("size", [500, 5000])
def test_a_step_on_a_batch_has_the_loss_of_the_batch(size):
    # A fit of many rows has sums of all of them in its problem: a batch must have its own.
    x = blobs(9000, 2, 4)
    centers = jnp.asarray(x[:4] + 1.0)
    batch = solve.make_objective(kmeans.KMeans(), centers, x).take(jnp.arange(size))
    stats, loss = batch.stats(centers)
    close(batch.em_step(centers), (batch.m_step(stats, centers), loss))


def on_two_devices(function: Any, problem: Problem, params: Any, data: Any) -> Any:
    """`function(objective, params)` where each of two devices has half of the rows."""
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    reduce, data = sharding.placed(Sharded(mesh, size=7), data)

    def of_part(data, params, problem):
        rows = reduce.cut(data.x, data.weights, problem.footprint(2, data.x.shape[1]))
        total = reduce.total(jnp.sum(data.weights))
        return function(Objective(problem, rows, total, reduce, data.x.shape[0]), params)

    return jax.jit(lambda *args: sharding.spread(reduce, of_part, *args))(data, params, problem)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_over_two_devices_is_that_of_one(name):
    problem, params, data = case(name, 122)

    def both(objective, params):
        anchor = objective.unconstrain(params)
        free = objective.free(anchor)
        of_mean = jax.value_and_grad(lambda free: objective.mean_value(free, anchor))(free)
        return objective.value_and_grad(free, anchor), of_mean

    expected = both(solve.make_objective(problem, params, data, reduce=Blocks(7)), params)
    close(on_two_devices(both, problem, params, data), expected)


def backtracking(rate):
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=20, store_grad=True)
    return optax.chain(optax.sgd(rate), search)


GRADIENTS = (solve.LBFGS(), solve.Optax(backtracking, 1.0))
# The M-step of K-means knows of no penalty.
STEPS = [("kmeans_map", solver) for solver in GRADIENTS]
STEPS += [
    (name, solver)
    for name in ("kmeans", "mixture_map", "poisson")
    for solver in (*GRADIENTS, solve.EM(), solve.OverRelaxed(), solve.Squarem())
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "solver"), STEPS, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_steps_over_two_devices_are_those_of_one(name, solver):
    problem, params, data = case(name, 122)

    def steps(objective, params):
        def body(state, _):
            return solver.step(objective, state)

        state, losses = jax.lax.scan(body, solver.init(objective, params), length=5)
        return losses, solver.params(objective, state), solver.passes(state, jnp.array(5))

    expected = jax.jit(steps)(solve.make_objective(problem, params, data, reduce=Blocks(7)), params)
    actual = on_two_devices(steps, problem, params, data)
    assert (np.diff(expected[0]) < 0).all()
    close(actual, expected, 1e-9)
