"""The loop, over the table of all problems and all solvers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN, PROBLEMS, SOLVERS
from models import mixture_of_labels

from jaxmix import Blocks, Fit, FitError, Problem, Solver, Status, as_data, kmeans, solve
from jaxmix.pytree import choice

# The same problem by another policy or in blocks: every solver runs on them, but not in every run of the suite.
VARIANTS = {
    "kmeans_keep": ("em", "squarem"),
    "kmeans_blocks": ("em", "stepwise"),
    "plain_mixture": ("em", "lbfgs"),
    "plain_mixture_map": ("em", "anderson"),
    "gmm_full": ("em", "squarem", "anderson", "lbfgs", "stepwise"),
    "gmm_map": ("em",),
    "poisson": ("em", "squarem", "lbfgs", "stepwise", "adam"),
    "poisson_mixture": ("em",),
    "lines": ("em", "over_relaxed"),
}
TABLE = [
    pytest.param(problem, solver, marks=[pytest.mark.slow] if solver not in VARIANTS.get(problem, SOLVERS) else [])
    for problem in PROBLEMS
    for solver in SOLVERS
]


@pytest.fixture(scope="module")
def fits():
    """All restarts of every pair, each pair compiled once."""
    made: dict[tuple[str, str], Fit] = {}

    def get(problem: str, solver: str) -> Fit:
        if (problem, solver) not in made:
            case, row = PROBLEMS[problem](), SOLVERS[solver]
            made[problem, solver] = solve.run_many(
                case.problem, row.solver, case.starts, case.data, max_steps=row.max_steps, reduce=case.reduce
            )
        return made[problem, solver]

    return get


@pytest.mark.parametrize(("problem", "solver"), TABLE)
def test_loss_is_that_of_the_params_returned(fits, problem, solver):
    case, fit = PROBLEMS[problem](), fits(problem, solver)
    losses = jax.vmap(lambda params: solve.objective(case.problem, params, case.data))(fit.params)
    np.testing.assert_allclose(fit.loss, losses, rtol=1e-13)


@pytest.mark.parametrize(("problem", "solver"), TABLE)
def test_trace_runs_from_the_start_to_the_loss(fits, problem, solver):
    case, fit = PROBLEMS[problem](), fits(problem, solver)
    trace, steps = np.asarray(fit.trace), np.asarray(fit.num_steps)
    assert trace.shape == (3, SOLVERS[solver].max_steps + 1)
    first = jax.vmap(lambda params: solve.objective(case.problem, params, case.data))(case.starts)
    np.testing.assert_allclose(trace[:, 0], first, rtol=1e-12)
    for lane, last in enumerate(steps):
        assert np.isfinite(trace[lane, : last + 1]).all()
        np.testing.assert_array_equal(trace[lane, last:], fit.loss[lane])


@pytest.mark.parametrize(("problem", "solver"), TABLE)
def test_loss_falls_and_never_rises_where_the_solver_is_monotone(fits, problem, solver):
    fit, row = fits(problem, solver), SOLVERS[solver]
    assert (fit.loss < fit.trace[:, 0]).all()
    if row.monotone:
        changes = np.diff(np.asarray(fit.trace), axis=1)
        assert np.nanmax(changes / np.abs(fit.trace[:, :1])) <= 1e-13
        assert not (fit.status == Status.LOSS_ROSE).any()


# The clusters of these cases overlap: L-BFGS ends one start in another optimum, where EM too would stay (see
# `test_lbfgs_ends_at_fixed_points_of_em`), and where EM takes 200 steps, steps that shrink take more.
GAPS = {
    ("gmm_full", "lbfgs"): 2e-3,
    ("gmm_full", "stepwise"): 3e-2,
    ("plain_mixture", "lbfgs"): 2e-3,
    ("plain_mixture", "stepwise"): 3e-2,
}


@pytest.mark.parametrize(("problem", "solver"), TABLE)
def test_ends_where_em_ends(fits, problem, solver):
    fit, em = fits(problem, solver), fits(problem, "em")
    excess = (fit.loss - em.loss) / jnp.abs(em.loss)
    assert (excess <= GAPS.get((problem, solver), SOLVERS[solver].gap)).all()


@pytest.mark.parametrize(("problem", "solver"), [("kmeans", "em"), ("poisson_mixture", "adam")])
def test_many_starts_equal_single_runs(fits, problem, solver):
    case, row, many = PROBLEMS[problem](), SOLVERS[solver], fits(problem, solver)
    for lane in range(3):
        start = jax.tree.map(lambda leaf, lane=lane: leaf[lane], case.starts)
        single = solve.run(case.problem, row.solver, start, case.data, max_steps=row.max_steps)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, lane=lane: leaf[lane], many), single, rtol=1e-11)


@pytest.mark.parametrize("solver", ["em", "adam", "stochastic"])
def test_a_start_of_nan_ends_alone(fits, solver):
    case, row, clean = PROBLEMS["kmeans"](), SOLVERS[solver], fits("kmeans", solver)
    starts = case.starts.at[1].set(jnp.nan)
    many = solve.run_many(case.problem, row.solver, starts, case.data, max_steps=row.max_steps)
    assert many.status[1] == Status.NONFINITE
    assert many.num_steps[1] == 0
    assert np.isnan(many.loss[1])
    assert np.isnan(many.trace[1]).all()
    others = np.array([0, 2])
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf[others], many), jax.tree.map(lambda leaf: leaf[others], clean)
    )
    assert solve.best(many).loss == many.loss[others].min()


def test_best_is_the_lowest_finite_loss_and_says_so_when_none_is():
    case = PROBLEMS["kmeans"]()
    starts = jnp.full_like(case.starts, jnp.nan)
    fit = solve.best(solve.run_many(case.problem, solve.EM(), starts, case.data, max_steps=5))
    assert fit.status == Status.NONFINITE
    fits = Fit(jnp.arange(3.0), jnp.array([3.0, -jnp.inf, 2.0]), jnp.array([0, 2, 1]), *[jnp.zeros(3)] * 3)
    assert solve.best(fits).params == 2.0
    fits = fits._replace(loss=jnp.array([3.0, 1.0, 2.0]))
    assert solve.best(fits).params == 2.0, "a finite loss with a bad status must not win"


def test_a_loss_that_rises_under_em_is_named():
    @choice
    class Wrong(kmeans.KMeans):
        def m_step(self, stats, params):
            return params + 1.0

    case = PROBLEMS["kmeans"]()
    start = solve.run(case.problem, solve.EM(), case.starts[0], case.data).params
    fit = solve.run(Wrong(), solve.EM(), start, case.data, max_steps=50)
    assert fit.status == Status.LOSS_ROSE
    assert fit.num_steps == 2
    with pytest.raises(FitError, match="M-step does not minimize"):
        fit.throw()


def test_no_steps_evaluates_the_start():
    case = PROBLEMS["kmeans"]()
    fit = solve.run(case.problem, solve.EM(), case.starts[0], case.data, max_steps=0)
    assert fit.status == Status.MAX_STEPS
    assert fit.num_steps == 0
    np.testing.assert_array_equal(fit.params, case.starts[0])
    np.testing.assert_array_equal(fit.trace, fit.loss[None])


def test_tolerance_is_relative_to_the_loss_and_absolute_per_weight():
    case = PROBLEMS["poisson_mixture"]()
    start = case.start
    total = float(case.data.weights.sum())
    for rtol, atol in [(1e-7, 0.0), (0.0, 1e-6)]:
        fit = solve.run(case.problem, solve.EM(), start, case.data, rtol=rtol, atol=atol, max_steps=3000)
        assert fit.status == Status.CONVERGED
        changes = -np.diff(np.asarray(fit.trace))[: int(fit.num_steps)]
        tolerance = atol * total + rtol * np.abs(np.asarray(fit.trace))[1 : int(fit.num_steps) + 1]
        small = changes < tolerance
        # The change that ends a fit is seen at the start of the step after it.
        assert np.flatnonzero(small)[0] == int(fit.num_steps) - 2


def test_floats_are_traced_and_swept_in_one_compile():
    case = PROBLEMS["kmeans"]()
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def losses(rate, rtol, atol, start):
        return solve.run(
            case.problem, solve.Optax(optax.adam, rate), start, case.data, rtol=rtol, atol=atol, max_steps=20
        ).loss

    first = losses(0.1, 1e-3, 0.0, case.starts[0])
    second = losses(0.2, 1e-4, 1e-6, case.starts[1])
    assert first != second
    rates = jnp.array([0.05, 0.1, 0.2])

    def loss_at(rate):
        return solve.run(case.problem, solve.Optax(optax.adam, rate), case.starts[0], case.data, max_steps=20).loss

    swept = jax.vmap(loss_at)(rates)
    np.testing.assert_allclose(swept, [loss_at(rate) for rate in rates], rtol=1e-12)


def test_a_second_call_with_other_floats_does_not_trace_again():
    traces = []

    @choice
    class Counting(kmeans.KMeans):
        def loss(self, prepared, rows):
            traces.append(1)
            return super().loss(prepared, rows)

    case = PROBLEMS["kmeans"]()
    solve.run(Counting(), solve.Optax(optax.adam, 0.1), case.starts[0], case.data, rtol=1e-3, max_steps=7)
    seen = len(traces)
    solve.run(Counting(), solve.Optax(optax.adam, 0.7), case.starts[1], case.data, rtol=1e-5, atol=1e-9, max_steps=7)
    assert seen > 0
    assert len(traces) == seen


def test_penalty_is_counted_once_whatever_the_blocks():
    @choice
    class Penalized(kmeans.KMeans):
        def penalty(self, params):
            return 0.5 * jnp.sum(params**2)

        def moved(self, params, frame):
            return None  # this penalty is about zero

    case = PROBLEMS["kmeans"]()
    start, data = case.starts[0], case.data
    whole = solve.run(Penalized(), solve.Optax(optax.adam, 0.1), start, data, max_steps=5)
    blocks = solve.run(Penalized(), solve.Optax(optax.adam, 0.1), start, data, max_steps=5, reduce=Blocks(7))
    np.testing.assert_allclose(whole.trace, blocks.trace, rtol=1e-12)
    expected = kmeans.objective(start, data.x, weights=data.weights) + 0.5 * (start**2).sum()
    np.testing.assert_allclose(whole.trace[0], expected, rtol=1e-12)
    em = solve.run(Penalized(), solve.EM(), start, data, max_steps=0)
    np.testing.assert_allclose(em.loss, expected, rtol=1e-12)


def test_throw_speaks_of_each_status_and_lets_pass_what_is_allowed():
    statuses = jnp.array([Status.CONVERGED, Status.MAX_STEPS, Status.NONFINITE, Status.MAX_STEPS])
    fits = Fit(*[jnp.zeros(4)] * 6)._replace(status=statuses)
    with pytest.raises(FitError, match=r"3 of 4 fits.*2 x MAX_STEPS: .*1 x NONFINITE: "):
        fits.throw()
    with pytest.raises(FitError, match=r"1 of 4"):
        fits.throw(allow=(Status.CONVERGED, Status.MAX_STEPS))
    assert fits.throw(allow=tuple(Status)) is fits
    assert fits._replace(status=statuses[:2]).throw(allow=Status.MAX_STEPS).status.tolist() == [0, 1]
    assert all(status.sentence.endswith(".") for status in Status)
    assert "float64" in Status.NONFINITE.sentence


@pytest.mark.parametrize("allow", ["LOSS_ROSE", ["LOSS_ROSE"], [Status.MAX_STEPS, "LOSS_ROSE"], {"LOSS_ROSE": 1}])
def test_throw_allows_members_of_status_and_no_names(allow):
    with pytest.raises(ValueError, match=r"`allow` .* got 'LOSS_ROSE'. Write allow=\[Status.LOSS_ROSE\]"):
        Fit(*[jnp.zeros(4)] * 6).throw(allow=allow)


def test_throw_under_jit_says_that_it_is_for_the_host():
    with pytest.raises(ValueError, match="`throw` is for the host"):
        jax.jit(lambda fit: fit.throw())(Fit(*[jnp.zeros(4)] * 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": -1}, "`max_steps`"),
        ({"max_steps": 2.0}, "`max_steps`"),
        ({"rtol": -1e-3}, "`rtol`"),
        ({"atol": float("nan")}, "`atol`"),
        ({"rtol": jnp.array([0.1, 0.1])}, "`rtol` must be one real number"),
    ],
)
def test_bad_settings_are_refused(change, message):
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match=message):
        solve.run(case.problem, solve.EM(), case.starts[0], case.data, **change)


def test_starts_that_disagree_are_refused():
    case = PROBLEMS["poisson_mixture"]()
    starts = case.starts._replace(logits=jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="leading axis R"):
        solve.run_many(case.problem, solve.EM(), starts, case.data)


def test_contracts_are_met():
    assert all(isinstance(make().problem, Problem) for make in PROBLEMS.values())
    assert all(isinstance(row.solver, Solver) for row in SOLVERS.values())
    assert as_data(np.ones((2, 1))).x.dtype == jnp.float64


def test_hasselblads_mixture_reaches_the_published_optimum():
    # Varadhan and Roland (2008), section 5.1: from (0.5, 1, 3) to (0.3599, 1.256, 2.663), -log L 1989.946.
    case = PROBLEMS["poisson_mixture"]()
    start = case.start
    fit = solve.run(case.problem, solve.EM(), start, case.data, max_steps=4000, atol=1e-15).throw()
    np.testing.assert_allclose(fit.loss, 1989.94585988, atol=1e-7)
    np.testing.assert_allclose(jnp.exp(fit.params.log_rates[:, 0]), [1.25610, 2.66340], atol=2e-4)
    np.testing.assert_allclose(jax.nn.softmax(fit.params.logits)[0], 0.35989, atol=2e-4)


def test_passes_are_counted_as_documented():
    case = PROBLEMS["kmeans"]()
    num_rows = case.data.x.shape[0]

    def passes(solver):
        fit = solve.run(case.problem, solver, case.starts[0], case.data, max_steps=2)
        return float(fit.num_passes) / float(fit.num_steps)

    assert passes(solve.EM()) == 1
    assert passes(solve.Optax(optax.adam, 0.1)) == 3
    # Accelerations: an E-step a step and one for the start; SQUAREM three.
    assert passes(solve.OverRelaxed()) == passes(solve.Anderson()) == 3 / 2
    assert passes(solve.Squarem()) == 3
    # Nine batches of 7 for 60 three passes for each row's gradient, and one for the epoch's exact loss.
    np.testing.assert_allclose(
        passes(solve.Optax(optax.adam, 0.1, batch_size=7, key=jax.random.key(0))), 3 * 63 / num_rows + 1
    )


def test_a_rise_is_named_whatever_the_units():
    @choice
    class Growing(kmeans.KMeans):
        def m_step(self, stats, params):
            return params * 1.5

    case = PROBLEMS["kmeans"]()
    for scale in (1e-6, 1.0, 1e6):
        x = np.asarray(case.data.x, np.float32) * np.float32(scale)
        fit = solve.run(Growing(), solve.EM(), 100 * x[:3], x, max_steps=9)
        assert fit.status == Status.LOSS_ROSE


def test_the_loss_is_that_of_parameters_that_overflowed():
    # In one program XLA takes log(exp(x)) for x: free coordinates stay finite where the parameters do not.
    @choice
    class Unbounded(Problem):
        def loss(self, prepared, rows):
            return -jnp.sum(jnp.log(prepared)) * jnp.sum(rows.ones())

        def unconstrain(self, params):
            return jnp.log(params)

        def constrain(self, free):
            return jnp.exp(free)

    gradient = solve.Optax(optax.sgd, 1e3)
    run = jax.jit(lambda start, data: solve.run(Unbounded(), gradient, start, data, max_steps=1))
    fit = run(jnp.ones((1, 1)), as_data(np.ones((2, 1))))
    assert np.isinf(fit.params).all()
    assert (fit.status, fit.loss) == (Status.NONFINITE, -np.inf)


def test_floating_leaves_take_the_dtype_of_the_rows():
    case = PROBLEMS["kmeans"]()
    expected = solve.run(case.problem, solve.EM(), np.rint(case.starts[0]), case.data, max_steps=3).params
    for start in (jnp.rint(case.starts[0]).astype(jnp.float32), np.rint(case.starts[0]).astype(int)):
        params = solve.run(case.problem, solve.EM(), start, case.data, max_steps=3).params
        assert params.dtype == case.data.x.dtype
        np.testing.assert_array_equal(params, expected)


def test_leaves_that_are_not_floats_keep_their_dtype():
    @choice
    class Masked(Problem):
        inner: kmeans.KMeans = kmeans.KMeans()

        def prepare(self, params):
            assert params["mask"].dtype == jnp.bool_
            return self.inner.prepare(params["centers"])

        def e_step(self, prepared, rows):
            return self.inner.e_step(prepared, rows)

        def m_step(self, stats, params):
            moved = self.inner.m_step(stats, params["centers"])
            return dict(params, centers=jnp.where(params["mask"], moved, params["centers"]))

        def loss(self, prepared, rows):
            return self.inner.loss(prepared, rows)

    case = PROBLEMS["kmeans"]()
    start = {"centers": case.starts[0], "mask": jnp.array([[True], [True], [False]])}
    for solver in (solve.EM(), solve.Anderson(), solve.LBFGS(), solve.Optax(optax.adam, 0.1)):
        fit = solve.run(Masked(), solver, start, case.data, max_steps=20)
        assert fit.params["mask"].dtype == jnp.bool_
        np.testing.assert_array_equal(fit.params["mask"], start["mask"])
        assert fit.loss < fit.trace[0]
    fit = solve.run(Masked(), solve.EM(), start, case.data).throw()
    np.testing.assert_array_equal(fit.params["centers"][2], case.starts[0][2])


@pytest.mark.slow
@pytest.mark.parametrize("problem", [kmeans.KMeans(), PLAIN], ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("solver", ["over_relaxed", "squarem", "anderson", "lbfgs", "stepwise", "adam"])
def test_float32_far_from_the_origin(problem, solver):
    random = np.random.default_rng(0)
    x = (random.normal(size=(200, 2)) + 4.0 * (np.arange(200) % 2)[:, None] + 1e4).astype(np.float32)
    losses = []
    for dtype in (np.float32, np.float64):
        data = as_data(x.astype(dtype))
        labels = (x[:, 0] > np.median(x[:, 0])).astype(int)
        start = mixture_of_labels(labels, data, 2, PLAIN) if problem is PLAIN else data.x[:2]
        losses.append(float(solve.run(problem, SOLVERS[solver].solver, start, data, max_steps=30).loss))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
