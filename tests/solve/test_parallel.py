"""Many starts, fewer of them side by side: the same fits, and none waits for another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, SOLVERS

from jaxmix import Status, as_data, kmeans, solve
from jaxmix.pytree import choice

STARTS = 5


def run(problem, solver, num_parallel, *, max_steps=20, **tolerance):
    case, row = PROBLEMS[problem](), SOLVERS[solver]
    starts = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:2] * 1.1]), case.starts)
    return solve.run_many(
        case.problem, row.solver, starts, case.data, num_parallel=num_parallel, max_steps=max_steps, **tolerance
    )


def assert_equal(fits, others):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), fits, others)


# A solver without memory, one with statistics in its state, one with a key, one with an optimizer's state.
@pytest.mark.parametrize(
    "solver",
    [
        "em",
        pytest.param("over_relaxed", marks=pytest.mark.slow),
        "stepwise",
        pytest.param("adam", marks=pytest.mark.slow),
    ],
)
def test_num_parallel_changes_nothing_but_rounding(solver):
    one = run("kmeans", solver, 1)
    assert one.loss.shape == (STARTS,)
    assert_equal(run("kmeans", solver, 2), one)
    assert_equal(run("kmeans", solver, STARTS), one)


def test_fits_that_fail_and_starts_without_steps_hand_over_too():
    case = PROBLEMS["kmeans"]()
    starts = jnp.stack([case.starts[0], jnp.full_like(case.starts[0], jnp.nan), *case.starts])
    fits = solve.run_many(case.problem, solve.EM(), starts, case.data, num_parallel=2)
    assert fits.status.tolist() == [Status.CONVERGED, Status.NONFINITE] + [Status.CONVERGED] * 3
    singles = [solve.run(case.problem, solve.EM(), start, case.data).loss for start in case.starts]
    np.testing.assert_allclose(fits.loss[2:], jnp.stack(singles), rtol=1e-13)
    none = solve.run_many(case.problem, solve.EM(), starts, case.data, num_parallel=2, max_steps=0)
    np.testing.assert_array_equal(none.params, starts)


def test_it_nests_under_vmap_and_jit():
    tolerances = jnp.array([0.0, 1e-2, 1.0])
    swept = jax.jit(jax.vmap(lambda rtol: run("kmeans", "em", 2, rtol=rtol)))(tolerances)
    for i, rtol in enumerate(tolerances):
        assert_equal(jax.tree.map(lambda leaf, i=i: leaf[i], swept), run("kmeans", "em", 2, rtol=rtol))


@pytest.mark.parametrize("num_parallel", [1, 2, 3, STARTS])
def test_the_steps_done_are_those_of_a_queue(num_parallel):
    calls = []

    @choice
    class Counted(kmeans.KMeans):
        def em_step(self, params, rows, reduce):
            jax.debug.callback(lambda: calls.append(1))
            return super().em_step(params, rows, reduce)

    x = np.random.default_rng(0).normal(size=(200, 1))
    rows = np.random.default_rng(1).choice(200, (STARTS, 3), replace=False)
    fits = solve.run_many(
        Counted(), solve.EM(), jnp.asarray(x[rows]), as_data(x), num_parallel=num_parallel, max_steps=100
    )
    jax.effects_barrier()
    steps = fits.num_steps.tolist()
    free = [0] * num_parallel  # when each place is free; the next start goes to the first
    for step in steps:
        first = int(np.argmin(free))
        free[first] += step
    assert len(set(steps)) > 1
    # A callback that does not depend on the place is called once for all of them.
    assert len(calls) == max(free)


@pytest.mark.parametrize("num_parallel", [0, -1, 1.5])
def test_num_parallel_must_be_a_count(num_parallel):
    with pytest.raises(ValueError, match="`num_parallel`"):
        run("kmeans", "em", num_parallel)
