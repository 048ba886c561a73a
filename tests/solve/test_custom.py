"""A solver written after the skeleton of docs/extend.md: no jump in its trace, and the library's tables."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from cases import DAMPED, PROBLEMS
from models import with_one_off

from jaxmix import Solver, Status, solve
from jaxmix.pytree import choice

QUICK = ("kmeans", "poisson_mixture", "gmm_full", "lines")


@pytest.mark.parametrize(
    "problem", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in PROBLEMS if name not in QUICK)]
)
def test_a_damped_solver_has_a_trace_without_a_jump_at_its_end(problem):
    case = PROBLEMS[problem]()
    damped = DAMPED.Damped(0.5)
    fit = solve.run(case.problem, damped, case.start, case.data, max_steps=25, reduce=case.reduce)
    trace = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
    changes = np.diff(trace)
    assert (changes <= 1e-12 * abs(trace[0])).all()
    # The last loss is evaluated afresh, the others come from steps. A fit that goes on says the same.
    longer = solve.run(case.problem, damped, case.start, case.data, max_steps=26, reduce=case.reduce)
    np.testing.assert_allclose(trace[-1], longer.trace[int(fit.num_steps)], rtol=1e-12)
    assert abs(changes[-1]) <= 2 * abs(changes[-2]) + 1e-12 * abs(trace[0])


def test_a_share_of_one_is_em():
    case = PROBLEMS["plain_mixture_map"]()
    damped = solve.run(case.problem, DAMPED.Damped(1.0), case.start, case.data, max_steps=9)
    em = solve.run(case.problem, solve.EM(), case.start, case.data, max_steps=9)
    chex.assert_trees_all_close((damped.params, damped.trace), (em.params, em.trace), rtol=1e-10)


def test_a_damped_solver_leaves_a_component_that_is_off():
    case = PROBLEMS["plain_mixture"]()
    fit = solve.run(case.problem, DAMPED.Damped(0.5), with_one_off(case.start), case.data, max_steps=9)
    assert fit.params.log_weights[2] == -jnp.inf
    two = solve.run(case.problem, DAMPED.Damped(0.5), case.start, case.data, max_steps=9)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-12)


def test_a_solver_of_two_methods_has_a_status_and_passes():
    @choice
    class Stay(Solver):
        def init(self, objective, params):
            return params

        def step(self, objective, state):
            return state, objective.value(state)

    case = PROBLEMS["kmeans"]()
    fit = solve.run(case.problem, Stay(), case.start, case.data, rtol=1e-6)
    assert (fit.status, fit.num_steps, fit.num_passes) == (Status.CONVERGED, 2, 2)


def test_a_solver_without_the_decorator_is_rejected():
    class Bare(Solver):
        pass

    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match="`solver`"):
        solve.run(case.problem, Bare(), case.start, case.data)
