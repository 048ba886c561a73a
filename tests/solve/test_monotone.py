"""EM and its accelerations: far fewer passes where EM is slow, the same optima, and a loss that never rises."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PLAIN, PROBLEMS, blobs
from models import FullMixture, PoissonMixture, PoissonParams, mixture_of_labels, mixture_of_shares, with_one_off

from jaxmix import Status, as_data, datasets, kmeans, solve

ACCELERATED = {
    "over_relaxed": solve.OverRelaxed(),
    "squarem": solve.Squarem(),
    "anderson": solve.Anderson(),
}
MONOTONE = {"em": solve.EM(), **ACCELERATED}


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
    return data, mixture_of_labels(labels - labels.min(), data, 3, PLAIN)


@pytest.mark.parametrize("name", ["squarem", "anderson"])
def test_a_third_of_the_passes_where_em_is_slow(faithful, name):
    data, start = faithful
    em = solve.run(PLAIN, solve.EM(), start, data, max_steps=2000, atol=1e-13).throw()
    losses = np.asarray(em.trace)[: int(em.num_steps)] - float(em.loss)
    late = losses[(losses < 1e-4) & (losses > 1e-7)]
    # Losses shrink by the square of the rate.
    assert np.sqrt(np.median(late[1:] / late[:-1])) > 0.95, "this case is here because EM is slow on it"
    fast = solve.run(PLAIN, ACCELERATED[name], start, data, max_steps=300, atol=1e-13).throw()
    np.testing.assert_allclose(fast.loss, em.loss, atol=1e-6)
    assert passes_to(fast, em.loss, 1e-6) <= passes_to(em, em.loss, 1e-6) / 3


@pytest.mark.slow
def test_on_separated_clusters_all_end_where_em_ends():
    data = as_data(blobs(60, 2, 2, spread=8.0))
    start = mixture_of_labels(np.arange(60) // 7 % 2, data, 2, PLAIN)
    em = solve.run(PLAIN, solve.EM(), start, data, max_steps=300, rtol=1e-12).throw()
    for solver in (solve.Squarem(), solve.Anderson(), solve.LBFGS()):
        fit = solve.run(PLAIN, solver, start, data, max_steps=300, rtol=1e-12).throw()
        np.testing.assert_allclose(fit.loss, em.loss, atol=1e-4)


def test_hasselblads_mixture_takes_em_thousands_of_passes_and_squarem_few():
    # Varadhan and Roland (2008), section 5.1: from (0.5, 1, 3), EM about 2600 evaluations of its map, SQUAREM about 66.
    data = PROBLEMS["poisson_mixture"]().data
    start = PoissonParams(jnp.zeros(2), jnp.log(jnp.array([[1.0], [3.0]])))
    optimum = 1989.945859883
    em = solve.run(PoissonMixture(), solve.EM(), start, data, max_steps=3000, atol=1e-14).throw()
    passes = {"em": passes_to(em, optimum, 1e-6)}
    for name, solver in ACCELERATED.items():
        fit = solve.run(PoissonMixture(), solver, start, data, max_steps=700, atol=1e-14).throw()
        np.testing.assert_allclose(fit.loss, optimum, atol=1e-8)
        passes[name] = passes_to(fit, optimum, 1e-6)
    assert passes["em"] > 1000
    assert passes["over_relaxed"] < passes["em"] / 3
    assert passes["squarem"] < passes["em"] / 8
    assert passes["anderson"] < passes["em"] / 20


@pytest.mark.parametrize("solver", [solve.OverRelaxed(50.0, 50.0, 1e6), solve.Squarem(growth=1e6, largest=1e12)])
def test_a_step_too_far_is_refused_and_the_fit_goes_on(faithful, solver):
    data, start = faithful
    fit = solve.run(PLAIN, solver, start, data, max_steps=400)
    changes = np.diff(np.asarray(fit.trace))[: int(fit.num_steps)]
    assert (changes <= 1e-9).all()
    em = solve.run(PLAIN, solve.EM(), start, data, max_steps=400)
    assert fit.status != Status.NONFINITE
    assert fit.loss <= em.loss + 0.05


@pytest.mark.parametrize("name", MONOTONE)
def test_a_penalty_is_in_every_loss_of_the_trace(name):
    # A fit with a penalty, stopped anywhere, ends on the loss that the next step starts from.
    case = PROBLEMS["plain_mixture_map"]()
    fit = solve.run(case.problem, MONOTONE[name], case.start, case.data, max_steps=6)
    for steps in (0, 3):
        shorter = solve.run(case.problem, MONOTONE[name], case.start, case.data, max_steps=steps)
        chex.assert_trees_all_close(shorter.loss, fit.trace[steps], rtol=1e-12)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("em", "over_relaxed") else []) for name in MONOTONE],
)
@hypothesis.given(
    seed=st.integers(0, 2**31 - 1),
    prior_count=st.sampled_from([0.0, 3.0]),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    single=st.booleans(),
)
@hypothesis.settings(max_examples=20)
def test_the_loss_of_a_mixture_never_rises(name, seed, prior_count, spread, scale, single):
    random = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    centers = spread * random.normal(size=(3, 2))
    x = (scale * (centers[random.integers(0, 3, 40)] + random.normal(size=(40, 2)))).astype(dtype)
    data = as_data(x, random.integers(0, 4, 40).astype(dtype) + dtype(0.25))
    problem = FullMixture(prior_count, scale**2)
    start = mixture_of_shares(random.dirichlet(np.ones(3), 40), data, problem)
    fit = solve.run(problem, MONOTONE[name], start, data, max_steps=25)
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
    case = PROBLEMS["plain_mixture"]()
    two = solve.run(PLAIN, ACCELERATED[name], case.start, case.data, max_steps=12)
    fit = solve.run(PLAIN, ACCELERATED[name], with_one_off(case.start), case.data, max_steps=12)
    assert fit.params.log_weights[2] == -jnp.inf
    np.testing.assert_allclose(fit.params.means[2], 7.0, rtol=1e-12)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-9)
    np.testing.assert_allclose(fit.params.means[:2], two.params.means, rtol=1e-6)


def test_accelerations_on_kmeans_end_at_a_fixed_point_of_lloyds_algorithm():
    case = PROBLEMS["kmeans"]()
    for name, solver in ACCELERATED.items():
        fit = solve.run(case.problem, solver, case.starts[0], case.data, max_steps=200)
        after = kmeans.m_step(kmeans.e_step(fit.params, case.data), fit.params)
        np.testing.assert_allclose(after, fit.params, atol=1e-6, err_msg=name)
