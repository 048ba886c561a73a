"""What is still to gain: on a quadratic it is known, and the guard never lets go of it at once."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmix import as_data, kmeans, solve
from jaxmix.solve.decrement import FIRST, guarded


def test_the_guard_starts_from_the_loss_or_the_slope_and_halves_at_most():
    none = jnp.array(jnp.inf)
    assert guarded(none, jnp.array(1.0), jnp.array(-7.0), jnp.array(0.0)) == 7
    assert guarded(none, jnp.array(1.0), jnp.array(0.0), jnp.array(-0.5)) == 0.5 * FIRST
    assert guarded(jnp.array(8.0), jnp.array(1.0), jnp.array(0.0), jnp.array(0.0)) == 4
    assert guarded(jnp.array(8.0), jnp.array(6.0), jnp.array(0.0), jnp.array(0.0)) == 6


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_gradient_knows_what_is_left_of_a_quadratic(weight):
    # One cluster: J is a quadratic about the mean. Small steps, so that the guard does not bind.
    x = np.array([[0.0], [2.0], [7.0]])
    data = as_data(x, np.full(3, weight))
    solver, problem = solve.Gradient(0.02, optax.sgd), kmeans.KMeans()
    state = solver.init(problem, jnp.array([[20.0]]), data)
    least = weight * np.square(x - x.mean()).sum()
    for _ in range(40):
        before = float(state.free[0, 0])
        state, _ = solver.step(problem, state, data)
    np.testing.assert_allclose(state.decrement, 3 * weight * (before - x.mean()) ** 2, rtol=1e-9)
    np.testing.assert_allclose(problem.loss(jnp.array([[before]]), data) - least, state.decrement, rtol=1e-9)
