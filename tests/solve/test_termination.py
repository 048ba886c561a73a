"""What is still to gain: on a quadratic it is known, and the estimate halves at most."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmix import as_data, kmeans, solve
from jaxmix.solve.termination import INITIAL_FACTOR, expected_decrease


def test_the_expected_decrease_starts_from_the_loss_or_the_slope_and_halves_at_most():
    none = jnp.array(jnp.inf)
    assert expected_decrease(none, jnp.array(1.0), jnp.array(-7.0), jnp.array(0.0)) == 7
    assert expected_decrease(none, jnp.array(1.0), jnp.array(0.0), jnp.array(-0.5)) == 0.5 * INITIAL_FACTOR
    assert expected_decrease(jnp.array(8.0), jnp.array(1.0), jnp.array(0.0), jnp.array(0.0)) == 4
    assert expected_decrease(jnp.array(8.0), jnp.array(6.0), jnp.array(0.0), jnp.array(0.0)) == 6


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_gradient_knows_what_is_left_of_a_quadratic(weight):
    # One cluster: J is a quadratic about the mean. Small steps, so that the estimate is not bound by its halves.
    x = np.array([[0.0], [2.0], [7.0]])
    start = jnp.array([[20.0]])
    objective = solve.make_objective(kmeans.KMeans(), start, as_data(x, np.full(3, weight)))
    solver = solve.Optax(optax.sgd, 0.02)
    state = solver.init(objective, start)
    least = weight * np.square(x - x.mean()).sum()
    for _ in range(40):
        before = float(state.free[0, 0])
        state, _ = solver.step(objective, state)
    np.testing.assert_allclose(state.decrement, 3 * weight * (before - x.mean()) ** 2, rtol=1e-9)
    np.testing.assert_allclose(objective.value(jnp.array([[before]])) - least, state.decrement, rtol=1e-9)
