"""For any data, starts, weights and K. Shapes are few: compile time is most of the cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SOLVERS
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import NUM_FEATURES, NUM_ROWS, TURNS, counts, degenerate, generic, matrices, rotation

from jaxmix import Blocks, Status, as_data, kmeans, solve

CLUSTERS = st.sampled_from([1, 3, 6])

# Two rows that share a center lie equally far from it: which of them an empty center moves to is decided by
# rounding. Where a fit is compared with an equivalent one, empty centers therefore stay.
KEEP = kmeans.KMeans(empty="keep")
BLOCKS = Blocks(5)


@functools.cache
def program(problem=kmeans.KMeans(), max_steps=100, solver="em", reduce=Blocks()):
    chosen = SOLVERS[solver].solver
    return jax.jit(lambda start, data: solve.run(problem, chosen, start, data, reduce=reduce, max_steps=max_steps))


def starts(draw, x, k):
    """Rows of the data, or points anywhere about it."""
    if draw(st.booleans()):
        return x[draw(st.lists(st.integers(0, NUM_ROWS - 1), min_size=k, max_size=k))]
    seed = draw(st.integers(0, 1000))
    return np.random.default_rng(seed).normal(size=(k, NUM_FEATURES)) * (1 + np.abs(x).max())


@st.composite
def fits(draw, data=matrices, clusters=CLUSTERS):
    x, k = draw(data), draw(clusters)
    return x, starts(draw, x, k), draw(counts)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(case=fits())
def test_the_cost_never_rises_and_is_that_of_the_oracle(dtype, case):
    x, start, weights = case[0].astype(dtype), case[1].astype(dtype), case[2]
    fit = program()(start, as_data(x, weights))
    trace = np.asarray(fit.trace, np.float64)[: int(fit.num_steps) + 1]
    # Rounding of the sum, of a center's place, and of distances that vanish beside the coordinates.
    epsilon = np.finfo(dtype).eps
    vanishing = weights.sum() * (20 * epsilon * np.abs(x).max()) ** 2
    # A square below the smallest normal number is 0.
    slack = 20 * epsilon * trace[0] + vanishing + 4 * weights.sum() * np.finfo(dtype).tiny
    assert (np.diff(trace) <= slack).all()
    exact = np.asarray(x, np.float64)
    distances = ((exact[:, None] - np.asarray(fit.params, np.float64)) ** 2).sum(-1)
    np.testing.assert_allclose(fit.loss, weights @ distances.min(1), rtol=100 * epsilon, atol=slack)
    labels = np.asarray(kmeans.predict(fit.params, x))
    chosen = distances[np.arange(NUM_ROWS), labels]
    np.testing.assert_allclose(chosen, distances.min(1), rtol=30 * epsilon, atol=4 * np.finfo(dtype).tiny)
    if fit.status == Status.CONVERGED:
        full = np.unique(labels[weights > 0])
        distinct = len(np.unique(x[weights > 0], axis=0))
        assert len(full) == len(start) or fit.loss == 0 or distinct < len(start)


@given(case=fits())
def test_convergence_is_a_fixed_point_and_ends(case):
    x, start, weights = case
    data = as_data(x, weights)
    fit = program()(start, data)
    assert fit.status == Status.CONVERGED
    again = kmeans.m_step(kmeans.e_step(fit.params, data), fit.params)
    np.testing.assert_array_equal(again, fit.params)


@given(case=fits(generic), order=st.permutations(range(NUM_ROWS)))
def test_the_order_of_rows_and_of_components_changes_nothing_else(case, order):
    x, start, weights = case
    assume(len(np.unique(start, axis=0)) == len(start))
    fit = program(KEEP)(start, as_data(x, weights))
    rows_moved = program(KEEP)(start, as_data(x[list(order)], weights[list(order)]))
    np.testing.assert_allclose(rows_moved.params, fit.params, rtol=1e-9, atol=1e-9)
    parts_moved = program(KEEP)(start[::-1], as_data(x, weights))
    np.testing.assert_allclose(parts_moved.params[::-1], fit.params, rtol=1e-9, atol=1e-9)


@given(case=fits(generic))
def test_an_integer_weight_is_a_repeated_row(case):
    x, start, weights = case
    repeated = np.repeat(x, weights, axis=0)
    padding = 3 * NUM_ROWS - len(repeated)
    padded = np.vstack([repeated, np.full((padding, NUM_FEATURES), 7.0)])
    alone = program(KEEP)(start, as_data(padded, np.arange(3 * NUM_ROWS) < len(repeated)))
    weighted = program(KEEP)(start, as_data(x, weights))
    np.testing.assert_allclose(alone.loss, weighted.loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alone.params, weighted.params, rtol=1e-9, atol=1e-9)


@given(case=fits(generic))
def test_blocks_equal_the_whole(case):
    x, start, weights = case
    data = as_data(x, weights)
    whole = program(KEEP)(start, data)
    blocks = program(KEEP, reduce=BLOCKS)(start, data)
    np.testing.assert_allclose(blocks.params, whole.params, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(blocks.loss, whole.loss, rtol=1e-9, atol=1e-12)


@given(case=fits(generic), offset=st.sampled_from([-1e3, 1.0, 1e6]), scale=st.sampled_from([1e-6, 0.5, 1e6]))
def test_moving_and_scaling_the_data_moves_and_scales_the_centers(case, offset, scale):
    x, start, weights = case
    fit = program(KEEP)(start, as_data(x, weights))
    moved = program(KEEP)(scale * (start + offset), as_data(scale * (x + offset), weights))
    np.testing.assert_allclose(moved.params, scale * (fit.params + offset), rtol=1e-8, atol=1e-8 * scale)
    np.testing.assert_allclose(moved.loss, scale**2 * fit.loss, rtol=1e-6, atol=1e-12 * scale**2)


@given(case=fits())
def test_more_steps_and_more_centers_help(case):
    x, start, weights = case
    data = as_data(x, weights)
    short, long = program(max_steps=1)(start, data), program()(start, data)
    assert long.loss <= short.loss * (1 + 1e-12)
    wider = jnp.concatenate([jnp.asarray(start), jnp.asarray(x[:1])])
    assert kmeans.objective(wider, x, weights=weights) <= kmeans.objective(start, x, weights=weights)


@given(case=fits(generic), angle=TURNS)
def test_turning_the_data_turns_the_centers(case, angle):
    x, start, weights = case
    turn = rotation(angle)
    fit = program(KEEP)(start, as_data(x, weights))
    turned = program(KEEP)(start @ turn, as_data(x @ turn, weights))
    np.testing.assert_allclose(turned.params, fit.params @ turn, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(turned.loss, fit.loss, rtol=1e-9, atol=1e-12)


@given(case=fits(generic), share=st.floats(0.01, 0.99))
def test_a_row_may_be_cut_in_two_that_share_its_weight(case, share):
    x, start, weights = case
    assume(weights[:-1].any())
    # The last row makes room: absent in one, part of the first with weight in the other.
    row = np.flatnonzero(weights[:-1])[0]
    whole, parts, cut = weights.astype(float), weights.astype(float), x.copy()
    whole[-1] = 0
    cut[-1], parts[-1], parts[row] = x[row], share * whole[row], (1 - share) * whole[row]
    fit, split = program(KEEP)(start, as_data(x, whole)), program(KEEP)(start, as_data(cut, parts))
    np.testing.assert_allclose(split.params, fit.params, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(split.loss, fit.loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(name, marks=[] if name == "squarem" else pytest.mark.slow)
        for name in SOLVERS
        if name not in ("em", "stepwise", "stochastic")
    ],
)
@given(case=fits(degenerate, st.just(3)))
def test_every_solver_ends_finite_or_says_why_and_the_monotone_ones_never_rise(solver, case):
    x, start, weights = case
    fit = program(KEEP, 30, solver)(start, as_data(x, weights))
    trace = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
    if fit.status == Status.NONFINITE:
        assert not np.isfinite(fit.loss)
        assert np.abs(x).max() > 1e5  # only a gradient's step of its own choice can leave the finite numbers
        return
    distances = ((x[:, None] - np.asarray(fit.params)) ** 2).sum(-1)
    # A square below the smallest normal number is 0.
    slack = weights.sum() * (1e-13 * np.square(x).max() + 4 * np.finfo(float).tiny)
    np.testing.assert_allclose(fit.loss, weights @ distances.min(1), rtol=1e-9, atol=slack)
    if SOLVERS[solver].monotone:
        assert (np.diff(trace) <= 1e-9 * trace[0] + slack).all()


@functools.cache
def together(lanes):
    return jax.jit(
        lambda starts, data: solve.run_many(KEEP, solve.EM(), starts, data, max_steps=100, num_parallel=lanes)
    )


@pytest.mark.parametrize("lanes", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@given(case=fits(generic, st.just(3)), place=st.integers(0, 3))
def test_a_fit_is_the_same_alone_and_beside_others_good_or_bad(lanes, case, place):
    x, start, weights = case
    data = as_data(x, weights)
    starts = np.stack([x[:3], np.full((3, 2), np.nan), x[3:6], np.full((3, 2), 1e200)])
    starts[place] = start
    beside = jax.tree.map(lambda leaf: leaf[place], together(lanes)(starts, data))
    alone = program(KEEP)(start, data)
    assert beside.status == alone.status == Status.CONVERGED
    np.testing.assert_allclose(beside.params, alone.params, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(beside.loss, alone.loss, rtol=1e-9, atol=1e-12)
