"""Anderson acceleration: its damped least squares, and its costs."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import PLAIN, PROBLEMS

from jaxmix import solve
from jaxmix.solve.anderson import damped_least_squares


def test_anderson_counts_its_start_and_a_pass_a_step():
    case = PROBLEMS["plain_mixture"]()
    fit = solve.run(PLAIN, solve.Anderson(), case.start, case.data, max_steps=5)
    assert (int(fit.num_steps), int(fit.num_passes)) == (5, 6)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_damped_least_squares_has_the_length_asked_for_and_solves_its_equations(share, rank):
    random = np.random.default_rng(rank)
    columns = np.zeros((4, 9))
    columns[:rank] = random.normal(size=(rank, 9))
    target = random.normal(size=9)
    gamma = np.asarray(damped_least_squares(jnp.asarray(columns), jnp.asarray(target), jnp.asarray(share)))
    plain = np.linalg.lstsq(columns.T, target, rcond=None)[0]
    np.testing.assert_allclose(gamma @ gamma, share * (plain @ plain), rtol=1e-6)
    np.testing.assert_array_equal(gamma[rank:], 0)
    # A^T (A gamma - b) = -lambda gamma, for one lambda > 0.
    damping = -(columns @ (columns.T @ gamma - target))[:rank] / gamma[:rank]
    np.testing.assert_allclose(damping, damping[0], rtol=1e-6)
    assert damping[0] > 0


def test_nothing_to_extrapolate_from_gives_zero():
    gamma = damped_least_squares(jnp.zeros((3, 5)), jnp.ones(5), jnp.array(0.5))
    np.testing.assert_array_equal(gamma, 0)


def test_history_must_be_a_count():
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match="`history`"):
        solve.run(case.problem, solve.Anderson(0), case.starts[0], case.data)
