"""L-BFGS: costs counted, fixed points of EM, and quadratics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PLAIN, PROBLEMS
from models import with_one_off

from jaxmix import Status, kmeans, solve
from jaxmix.pytree import choice


def test_memory_must_be_a_count():
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match="`memory`"):
        solve.run(case.problem, solve.LBFGS(0), case.starts[0], case.data)


def test_every_evaluation_of_the_line_search_is_counted():
    calls = []

    @choice
    class Counting(kmeans.KMeans):
        def loss(self, prepared, rows):
            jax.debug.callback(lambda: calls.append(1))
            return super().loss(prepared, rows)

    case = PROBLEMS["kmeans"]()
    objective = solve.make_objective(Counting(), case.start, case.data)
    solver = solve.LBFGS()

    @jax.jit
    def six_steps(start):
        state = solver.init(objective, start)
        return jax.lax.fori_loop(0, 6, lambda _, state: solver.step(objective, state)[0], state)

    passes = float(solver.passes(six_steps(case.start), jnp.array(6)))
    jax.effects_barrier()
    assert passes == 3 * len(calls) > 3 * 7


def test_lbfgs_ends_at_fixed_points_of_em():
    case = PROBLEMS["plain_mixture"]()
    fits = solve.run_many(PLAIN, solve.LBFGS(), case.starts, case.data, max_steps=100, atol=1e-12)
    assert (fits.status == Status.CONVERGED).all()
    em = solve.run_many(PLAIN, solve.EM(), fits.params, case.data, max_steps=20)
    np.testing.assert_allclose(fits.loss, em.loss, rtol=1e-9)
    np.testing.assert_allclose(fits.params.means, em.params.means, atol=1e-3)


def test_lbfgs_on_a_quadratic_ends_at_its_minimum_and_says_so():
    # One cluster: J is a quadratic, and the first line search along the gradient meets its minimum.
    x = np.random.default_rng(1).normal(size=(20, 3)) + 5.0
    fit = solve.run(kmeans.KMeans(), solve.LBFGS(), jnp.zeros((1, 3)), x, max_steps=60, rtol=1e-9).throw()
    np.testing.assert_allclose(fit.params[0], x.mean(axis=0), atol=1e-6)
    x = np.array([[-1.0], [1.0]])
    for rtol in (1e-6, 0.0):
        at_rest = solve.run(kmeans.KMeans(), solve.LBFGS(), jnp.zeros((1, 1)), x, max_steps=9, rtol=rtol)
        assert at_rest.status == Status.CONVERGED
        assert at_rest.num_steps == 1
    # The step after the one that lands on the minimum finds no gradient there, and says so.
    landed = solve.run(kmeans.KMeans(), solve.LBFGS(), jnp.full((1, 1), 4.0), x, max_steps=9).throw()
    last = int(landed.num_steps)
    assert landed.trace[last] == landed.trace[last - 1] == 2.0 < landed.trace[last - 2]


@pytest.mark.slow
def test_a_component_that_is_off_stays_off():
    case = PROBLEMS["plain_mixture"]()
    two = solve.run(PLAIN, solve.LBFGS(), case.start, case.data, max_steps=10)
    fit = solve.run(PLAIN, solve.LBFGS(), with_one_off(case.start), case.data, max_steps=10)
    assert fit.params.log_weights[2] == -jnp.inf
    np.testing.assert_allclose(fit.params.means[2], 7.0)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-6)
    assert fit.loss < fit.trace[0]


def test_the_loss_of_lbfgs_never_rises_on_a_problem_with_a_penalty():
    case = PROBLEMS["plain_mixture_map"]()
    fit = solve.run(case.problem, solve.LBFGS(), case.start, case.data, max_steps=40)
    trace = np.asarray(fit.trace)
    assert (np.diff(trace) <= 1e-13 * np.abs(trace[0])).all()
