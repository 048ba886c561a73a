"""For any data, starts, weights and families. One shape for all, since compile time is most of the cost."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SOLVERS
from hypothesis import assume, given
from hypothesis import strategies as st
from mixtures import FAMILIES, exact, replace
from oracles import mixture_loss
from strategies import NUM_FEATURES, NUM_ROWS, TURNS, counts, degenerate, generic, rotation

from jaxmix import Blocks, Status, as_data, gmm, solve

K = 3
STEPS = 12
labelings = hnp.arrays(np.int64, NUM_ROWS, elements=st.integers(0, K - 1))
positive = hnp.arrays(np.int64, NUM_ROWS, elements=st.integers(1, 3))
ALL = [pytest.param(name, marks=[] if name == "Full" else pytest.mark.slow) for name in FAMILIES]
# Every family by EM, and every solver by one family.
FITTED = [(name, "em") for name in FAMILIES] + [("Diagonal", name) for name in SOLVERS if name != "em"]
ORDINARY = [("Full", "em"), ("Diagonal", "squarem")]
GRADIENTS = ("lbfgs", "gradient_descent", "adam", "stochastic")
PAIRS = [pytest.param(*pair, marks=[] if pair in ORDINARY else pytest.mark.slow) for pair in FITTED]


@functools.cache
def program(family, solver="em", reduce=Blocks()):
    """A start from labels, as wide as the data, and some steps: the start, the fit, and nothing else to compile."""

    def fit(labels, data):
        mean = data.weights @ data.x / jnp.sum(data.weights)
        centered = data.x - mean[None]
        variance = jnp.sum(data.weights[:, None] * jnp.square(centered)) / jnp.sum(data.weights)
        broad = gmm.GaussianMixture(FAMILIES[family], regularization=jnp.where(variance > 0, variance, 1.0))
        start = gmm.start.from_labels(labels, data, K, problem=broad)
        problem = exact(FAMILIES[family])
        return start, solve.run(problem, SOLVERS[solver].solver, start, data, max_steps=STEPS, reduce=reduce)

    return jax.jit(fit)


def well_apart_from_singular(fit):
    """Whether rounding decides nothing: no covariance is near its floor."""
    if fit.status == Status.NONFINITE:
        return False
    on = np.isfinite(np.asarray(fit.params.log_weights))
    return np.linalg.eigvalsh(np.asarray(fit.params.covariances)[on]).min() > 1e-4


@pytest.mark.parametrize(("family", "solver"), PAIRS)
@given(x=degenerate, weights=counts, labels=labelings)
def test_a_fit_is_finite_or_says_why_its_loss_is_that_of_its_parameters_and_never_rises(
    family, solver, x, weights, labels
):
    _, fit = program(family, solver)(labels, as_data(x, weights))
    trace = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
    if fit.status == Status.NONFINITE:
        assert not np.isfinite(fit.loss)
        return
    assert np.isfinite(trace).all()
    assert np.isfinite(fit.params.means).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params.covariance))
    assert not np.isnan(fit.params.log_weights).any()
    np.testing.assert_allclose(np.exp(fit.params.log_weights).sum(), 1, rtol=1e-12)
    variances = np.diagonal(fit.params.covariances, axis1=1, axis2=2)
    if solver in GRADIENTS and (variances.min() < 1e-200 or np.isinf(variances).any()):
        # A likelihood without bound, or a step too long: squares leave the range of floats. EM stops long before.
        return
    present = weights > 0
    loss, least, condition = mixture_loss(fit.params, x[present], weights[present])
    # Rounding blurs a narrow direction beside a wide one; where rows are whitened together, a width beside a place.
    place = np.ptp(x[present], axis=0).max() / np.sqrt(max(least, 1e-300)) if family.startswith("Tied") else 0
    slack = 1e-15 * (1e3 + 100 * min(condition + place, 1e16)) * weights.sum()
    np.testing.assert_allclose(fit.loss, loss, rtol=1e-10, atol=slack)
    if SOLVERS[solver].monotone:
        assert fit.status != Status.LOSS_ROSE or slack > 1e-8 * np.abs(loss)
        assert (np.diff(trace) <= 1e-10 * (np.abs(trace[0]) + np.abs(trace[1:])) + slack).all()


def by_rows(draw, x, weights, labels, family):
    order = np.array(draw(st.permutations(range(NUM_ROWS))))
    return x[order], weights[order], labels[order], lambda means: means, 0.0


def by_components(draw, x, weights, labels, family):
    order = np.array(draw(st.permutations(range(K))))
    return x, weights, order[labels], lambda means: means[np.argsort(order)], 0.0


def by_features(draw, x, weights, labels, family):
    return x[:, ::-1], weights, labels, lambda means: means[:, ::-1], 0.0


def by_translation(draw, x, weights, labels, family):
    offset = draw(st.floats(-1e4, 1e4))
    return x + offset, weights, labels, lambda means: means + offset, 0.0


def by_scale(draw, x, weights, labels, family):
    scale = 10.0 ** draw(st.floats(-6, 6))
    return x * scale, weights, labels, lambda means: means * scale, weights.sum() * NUM_FEATURES * np.log(scale)


def by_rotation(draw, x, weights, labels, family):
    # Only families that know no axes turn with the data.
    turn = rotation(draw(TURNS) if family in ("Full", "Tied", "Spherical", "TiedSpherical") else np.pi)
    return x @ turn, weights, labels, lambda means: means @ turn, 0.0


def by_cutting_a_row(draw, x, weights, labels, family):
    # The first and the last row are equal: what one gives, the other has.
    share = draw(st.floats(0, 1))
    given_away = share * weights[0]
    parts = np.concatenate([[weights[0] - given_away], weights[1:-1], [weights[-1] + given_away]])
    return x, parts, labels, lambda means: means, 0.0


CHANGES = [by_rows, by_components, by_features, by_translation, by_scale, by_rotation, by_cutting_a_row]


@pytest.mark.parametrize("family", ALL)
@given(x=generic, weights=positive, labels=labelings, change=st.sampled_from(CHANGES), data=st.data())
def test_a_change_of_the_data_that_means_nothing_changes_nothing_else(family, x, weights, labels, change, data):
    x, labels = np.vstack([x[:-1], x[:1]]), np.append(labels[:-1], labels[0])
    _, fit = program(family)(labels, as_data(x, weights))
    assume(well_apart_from_singular(fit))
    moved_x, moved_weights, moved_labels, of_means, added = change(data.draw, x, weights, labels, family)
    _, moved = program(family)(moved_labels, as_data(moved_x, moved_weights))
    # At tolerance 0 rounding decides when no bit changes any more.
    assert moved.status in (Status.CONVERGED, Status.MAX_STEPS)
    means = of_means(np.asarray(fit.params.means))
    np.testing.assert_allclose(moved.params.means, means, rtol=1e-6, atol=1e-6 * np.abs(means).max())
    np.testing.assert_allclose(moved.loss, fit.loss + added, rtol=1e-7, atol=1e-7)


@functools.cache
def together(family, num_parallel):
    return jax.jit(
        lambda starts, data: solve.run_many(
            exact(FAMILIES[family]), solve.EM(), starts, data, max_steps=STEPS, num_parallel=num_parallel
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_parallel", [1, 2, 3])
@pytest.mark.parametrize("family", ["Full", "TiedDiagonal"])
@given(x=generic, weights=positive, labels=labelings, place=st.integers(0, 2))
def test_a_fit_is_the_same_alone_and_beside_others_good_or_bad(family, num_parallel, x, weights, labels, place):
    data = as_data(x, weights)
    start, alone = program(family)(labels, data)
    assume(well_apart_from_singular(alone))
    bad = replace(start, means=start.means * np.nan)
    other = replace(start, means=start.means + 1.0)
    starts = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[start if i == place else (bad, other, bad)[i] for i in range(3)]
    )
    beside = jax.tree.map(lambda leaf: leaf[place], together(family, num_parallel)(starts, data))
    assert beside.status in (Status.CONVERGED, Status.MAX_STEPS)
    np.testing.assert_allclose(beside.params.means, alone.params.means, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(beside.loss, alone.loss, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@given(x=generic, weights=counts, labels=labelings)
def test_blocks_equal_the_whole(family, x, weights, labels):
    data = as_data(x, weights)
    _, whole = program(family)(labels, data)
    assume(well_apart_from_singular(whole))
    _, blocked = program(family, "em", Blocks(7))(labels, data)
    assert blocked.status in (Status.CONVERGED, Status.MAX_STEPS)
    np.testing.assert_allclose(blocked.params.means, whole.params.means, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(blocked.loss, whole.loss, rtol=1e-9, atol=1e-9)
