"""Accelerated EM: it needs far fewer passes, ends where EM ends, and never lets the loss rise."""

import dataclasses
from typing import NamedTuple

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, POISSON, PROBLEMS, blobs

from jaxmix import Status, as_data, datasets, gmm, kmeans, solve
from jaxmix.solve.accelerate import damped_least_squares

ACCELERATED = {
    "over_relaxed": solve.OverRelaxed(),
    "squarem": solve.Squarem(),
    "anderson": solve.Anderson(),
}


def passes_to(fit, optimum, within):
    """Passes until the loss first lay within `within` of the optimum."""
    reached = np.flatnonzero(np.asarray(fit.trace) <= optimum + within)
    assert reached.size > 0
    return reached[0] * float(fit.num_passes) / float(fit.num_steps)


@pytest.fixture(scope="module")
def faithful():
    """Old Faithful with three full components, from mclust's start: EM converges at rate 0.96."""
    labels = np.loadtxt("tests/known/old_faithful_start_labels.csv", delimiter=",", skiprows=1, dtype=int)[:, 2]
    data = as_data(datasets.old_faithful().astype(float))
    return data, gmm.start.from_labels(labels - labels.min(), data, 3, problem=EXACT)


@pytest.mark.parametrize("name", ["squarem", "anderson"])
def test_a_third_of_the_passes_where_em_is_slow(faithful, name):
    data, start = faithful
    em = solve.run(EXACT, solve.EM(), start, data, max_steps=2000, atol=1e-13).check()
    losses = np.asarray(em.trace)[: int(em.num_steps)] - float(em.loss)
    late = losses[(losses < 1e-4) & (losses > 1e-7)]
    # Losses shrink by the square of the rate.
    assert np.sqrt(np.median(late[1:] / late[:-1])) > 0.95, "this case is here because EM is slow on it"
    fast = solve.run(EXACT, ACCELERATED[name], start, data, max_steps=300, atol=1e-13).check()
    np.testing.assert_allclose(fast.loss, em.loss, atol=1e-6)
    assert passes_to(fast, em.loss, 1e-6) <= passes_to(em, em.loss, 1e-6) / 3


def test_on_separated_clusters_all_end_where_em_ends():
    x = blobs(60, 2, 2, spread=8.0)
    start = gmm.start.from_labels(np.arange(60) // 7 % 2, x, 2, problem=EXACT)
    em = solve.run(EXACT, solve.EM(), start, x, max_steps=300, rtol=1e-12).check()
    for solver in (solve.Squarem(), solve.Anderson(), solve.LBFGS()):
        fit = solve.run(EXACT, solver, start, x, max_steps=300, rtol=1e-12).check()
        np.testing.assert_allclose(fit.loss, em.loss, atol=1e-4)


def test_hasselblads_mixture_takes_em_thousands_of_passes_and_squarem_few():
    # Varadhan and Roland (2008), section 5.1: from (0.5, 1, 3), EM about 2600 evaluations of its map, SQUAREM about 66.
    data = PROBLEMS["poisson_mixture"]().data
    start = POISSON.PoissonParams(jnp.zeros(2), jnp.log(jnp.array([[1.0], [3.0]])))
    optimum = 1989.945859883
    em = solve.run(POISSON.PoissonMixture(), solve.EM(), start, data, max_steps=3000, atol=1e-14).check()
    passes = {"em": passes_to(em, optimum, 1e-6)}
    for name, solver in ACCELERATED.items():
        fit = solve.run(POISSON.PoissonMixture(), solver, start, data, max_steps=700, atol=1e-14).check()
        np.testing.assert_allclose(fit.loss, optimum, atol=1e-8)
        passes[name] = passes_to(fit, optimum, 1e-6)
    assert passes["em"] > 1000
    assert passes["over_relaxed"] < passes["em"] / 3
    assert passes["squarem"] < passes["em"] / 8
    assert passes["anderson"] < passes["em"] / 20


def test_factor_one_is_em_to_the_bit():
    case = PROBLEMS["gmm_full"]()
    em = solve.run_many(EXACT, solve.EM(), case.starts, case.data, max_steps=9)
    plain = solve.run_many(EXACT, solve.OverRelaxed(1.0, 1.0), case.starts, case.data, max_steps=9)
    chex.assert_trees_all_equal(plain.params, em.params)
    np.testing.assert_array_equal(plain.num_passes, em.num_passes + 1)


def test_squarem_that_may_not_reach_takes_two_steps_of_em_a_step():
    case = PROBLEMS["gmm_full"]()
    em = solve.run_many(EXACT, solve.EM(), case.starts, case.data, max_steps=8)
    squarem = solve.run_many(EXACT, solve.Squarem(largest=1.0), case.starts, case.data, max_steps=4)
    chex.assert_trees_all_close(squarem.params, em.params, rtol=1e-13)
    np.testing.assert_array_equal(squarem.num_passes, 12)


def test_anderson_counts_its_start_and_a_pass_a_step():
    case = PROBLEMS["gmm_full"]()
    fit = solve.run(EXACT, solve.Anderson(), jax.tree.map(lambda leaf: leaf[0], case.starts), case.data, max_steps=5)
    assert (int(fit.num_steps), int(fit.num_passes)) == (5, 6)


def test_squarem_extrapolates_nothing_where_one_step_of_em_is_enough():
    # One cluster: the first step ends at the mean, so r = -v, the length is 1, and the cap has no cause to close.
    data = as_data([[0.0], [1.0], [5.0]])
    solver = solve.Squarem()
    state = solver.init(kmeans.KMeans(), jnp.zeros((1, 1)), data)._replace(reach=jnp.array(4.0))
    after, _ = solver.step(kmeans.KMeans(), state, data)
    assert after.reach == 4
    np.testing.assert_allclose(after.params, 2.0, rtol=1e-15)


@pytest.mark.parametrize("solver", [solve.OverRelaxed(50.0, 50.0, 1e6), solve.Squarem(growth=1e6, largest=1e12)])
def test_a_step_too_far_is_refused_and_the_fit_goes_on(faithful, solver):
    data, start = faithful
    fit = solve.run(EXACT, solver, start, data, max_steps=400)
    changes = np.diff(np.asarray(fit.trace))[: int(fit.num_steps)]
    assert (changes <= 1e-9).all()
    em = solve.run(EXACT, solve.EM(), start, data, max_steps=400)
    assert fit.status != Status.NONFINITE
    assert fit.loss <= em.loss + 0.05


@dataclasses.dataclass(frozen=True)
class Wall:
    """A parameter that EM takes to nine tenths of itself; the loss is the parameter, and high beyond a wall."""

    def e_step(self, params, data):
        return Cost(jnp.where(params < 0.5, 10.0, params))

    def m_step(self, stats, params):
        return 0.9 * params

    def loss(self, params, data):
        return self.e_step(params, data).loss

    def unconstrain(self, params):
        return params

    def constrain(self, free):
        return free


class Cost(NamedTuple):
    loss: jax.Array


def test_over_relaxation_goes_on_by_its_factor():
    solver, problem, data = solve.OverRelaxed(), Wall(), as_data([[0.0]])
    state = solver.init(problem, jnp.array(1.0), data)._replace(factor=jnp.array(2.0))
    # EM would go from 1 to 0.9: twice as far is 0.8.
    np.testing.assert_allclose(solver.step(problem, state, data)[0].params, 0.8)


def test_the_reach_of_squarem_opens_where_it_bound_and_closes_after_a_refusal():
    solver, problem, data = solve.Squarem(), Wall(), as_data([[0.0]])
    state = solver.init(problem, jnp.array(1.0), data)
    reaches, values = [float(state.reach)], [1.0]
    for _ in range(3):
        state, _ = solver.step(problem, state, data)
        reaches.append(float(state.reach))
        values.append(float(state.params))
    # Two steps of EM; then as far as the reach, 4, would lead beyond the wall: two steps of EM again, and 4 / 4.
    np.testing.assert_allclose(values, 0.81 ** np.arange(4))
    assert reaches == [1.0, 4.0, 1.0, 4.0]


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


# Coordinates with and without a triangle, of one component's own and of all; the others in the long run.
FAMILIES = (gmm.Full, gmm.TiedSpherical)
if hypothesis.settings.get_current_profile_name() == "long":
    FAMILIES += (gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal)
MONOTONE = {"em": solve.EM(), **ACCELERATED}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("em", "over_relaxed") else []) for name in MONOTONE],
)
@hypothesis.given(
    seed=st.integers(0, 2**31 - 1),
    family=st.sampled_from(FAMILIES),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    single=st.booleans(),
)
@hypothesis.settings(max_examples=20)
def test_the_loss_of_a_mixture_never_rises(name, seed, family, spread, scale, single):
    random = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    centers = spread * random.normal(size=(3, 2))
    x = (scale * (centers[random.integers(0, 3, 40)] + random.normal(size=(40, 2)))).astype(dtype)
    data = as_data(x, random.integers(0, 4, 40).astype(dtype) + 0.25)
    start = gmm.start.from_responsibilities(random.dirichlet(np.ones(3), 40), data, family=family, problem=EXACT)
    fit = solve.run(EXACT, MONOTONE[name], start, data, max_steps=25)
    steps = int(fit.num_steps)
    trace = np.asarray(fit.trace, float)[: steps + 1]
    if fit.status == Status.NONFINITE:  # a component collapsed: the likelihood has no bound
        assert not np.isfinite(fit.loss)
        trace = trace[:-1]
    # Rounding of a sum of 40 terms of order |log density|, or of the weights' total in nats.
    rounding = np.finfo(dtype).eps * 64 * (np.abs(trace[:1]).max() + float(jnp.sum(data.weights)))
    assert np.isfinite(trace).all()
    assert (np.diff(trace) <= rounding).all()
    assert fit.status != Status.LOSS_ROSE


@pytest.mark.parametrize(
    "name",
    ["squarem", pytest.param("over_relaxed", marks=pytest.mark.slow), pytest.param("anderson", marks=pytest.mark.slow)],
)
def test_a_component_that_is_off_stays_off_and_leaves_the_fit_of_the_others(name):
    case = PROBLEMS["gmm_full"]()
    start = jax.tree.map(lambda leaf: leaf[0], case.starts)
    two = solve.run(EXACT, ACCELERATED[name], start, case.data, max_steps=12)
    three = gmm.GMM(
        jnp.concatenate([start.log_weights, jnp.array([-jnp.inf])]),
        jnp.concatenate([start.means, jnp.full((1, 2), 7.0)]),
        gmm.Full(jnp.concatenate([start.covariance.scale_tril, 3 * jnp.eye(2)[None]])),
    )
    fit = solve.run(EXACT, ACCELERATED[name], three, case.data, max_steps=12)
    assert fit.params.log_weights[2] == -jnp.inf
    np.testing.assert_allclose(fit.params.means[2], 7.0, rtol=1e-12)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-9)
    np.testing.assert_allclose(fit.params.means[:2], two.params.means, rtol=1e-6)


def test_passes_of_lloyd_and_of_its_accelerations_on_kmeans_end_at_a_fixed_point():
    case = PROBLEMS["kmeans"]()
    for name, solver in ACCELERATED.items():
        fit = solve.run(case.problem, solver, case.starts[0], case.data, max_steps=200)
        after = kmeans.m_step(kmeans.e_step(fit.params, case.data), fit.params)
        np.testing.assert_allclose(after, fit.params, atol=1e-6, err_msg=name)


def test_history_must_be_a_count():
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match="`history`"):
        solve.run(case.problem, solve.Anderson(0), case.starts[0], case.data)
