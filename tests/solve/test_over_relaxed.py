"""Over-relaxed EM: its factor."""

import chex
import jax.numpy as jnp
import numpy as np
from cases import PLAIN, PROBLEMS
from models import Wall

from jaxmix import solve


def test_factor_one_is_em_to_the_bit():
    case = PROBLEMS["plain_mixture"]()
    em = solve.run_many(PLAIN, solve.EM(), case.starts, case.data, max_steps=9)
    plain = solve.run_many(PLAIN, solve.OverRelaxed(1.0, 1.0), case.starts, case.data, max_steps=9)
    chex.assert_trees_all_equal(plain.params, em.params)
    np.testing.assert_array_equal(plain.num_passes, em.num_passes + 1)


def test_over_relaxation_goes_on_by_its_factor():
    solver, objective = solve.OverRelaxed(), solve.make_objective(Wall(), jnp.array(1.0), [[0.0]])
    state = solver.init(objective, jnp.array(1.0))._replace(factor=jnp.array(2.0))
    # EM would go from 1 to 0.9: twice as far is 0.8.
    np.testing.assert_allclose(solver.step(objective, state)[0].params, 0.8)


def test_a_refused_candidate_leaves_parameters_statistics_and_loss_as_they_were():
    solver, objective = solve.OverRelaxed(), solve.make_objective(Wall(), jnp.array(1.0), [[0.0]])
    state = solver.init(objective, jnp.array(1.0))._replace(factor=jnp.array(8.0))
    after, loss = solver.step(objective, state)
    assert not after.accepted
    chex.assert_trees_all_equal((after.params, after.stats, after.loss), (state.params, state.stats, state.loss))
    assert loss == state.loss == 1.0
    assert after.factor == 1
