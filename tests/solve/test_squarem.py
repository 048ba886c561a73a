"""SQUAREM: its extrapolations, and how far they may reach."""

import chex
import jax.numpy as jnp
import numpy as np
from cases import PLAIN, PROBLEMS
from models import Wall

from jaxmix import kmeans, solve


def test_squarem_that_may_not_reach_takes_two_steps_of_em_a_step():
    case = PROBLEMS["plain_mixture"]()
    em = solve.run_many(PLAIN, solve.EM(), case.starts, case.data, max_steps=8)
    squarem = solve.run_many(PLAIN, solve.Squarem(largest=1.0), case.starts, case.data, max_steps=4)
    chex.assert_trees_all_close(squarem.params, em.params, rtol=1e-13)
    np.testing.assert_array_equal(squarem.num_passes, 12)


def test_squarem_extrapolates_nothing_where_one_step_of_em_is_enough():
    # One cluster: the first step ends at the mean, so r = -v, the length is 1, and the cap has no cause to close.
    solver, start = solve.Squarem(), jnp.zeros((1, 1))
    objective = solve.make_objective(kmeans.KMeans(), start, [[0.0], [1.0], [5.0]])
    state = solver.init(objective, start)._replace(reach=jnp.array(4.0))
    after, _ = solver.step(objective, state)
    assert after.reach == 4
    np.testing.assert_allclose(after.params, 2.0, rtol=1e-15)


def test_the_reach_of_squarem_opens_where_it_bound_and_closes_after_a_refusal():
    solver, objective = solve.Squarem(), solve.make_objective(Wall(), jnp.array(1.0), [[0.0]])
    state = solver.init(objective, jnp.array(1.0))
    reaches, values = [float(state.reach)], [1.0]
    for _ in range(3):
        state, _ = solver.step(objective, state)
        reaches.append(float(state.reach))
        values.append(float(state.params))
    # Two steps of EM; then as far as the reach, 4, would lead beyond the wall: two steps of EM again, and 4 / 4.
    np.testing.assert_allclose(values, 0.81 ** np.arange(4))
    assert reaches == [1.0, 4.0, 1.0, 4.0]
