"""Sums by products of features are those of direct differences, and are taken only where they may be."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from mixtures import loss, model, replace

from jaxmix import Blocks, as_data, gmm, solve
from jaxmix.frame import Frame
from jaxmix.kernels import quadratic
from jaxmix.mixture.components.gaussian import products as gaussian

N, K = 4196, 3
FAMILIES = (gmm.Full, gmm.Diagonal, gmm.Spherical)


def case(family, num_features, dtype: type[np.floating] = np.float64, *, spread=2.0, offset=0.0):
    x = (blobs(N, num_features, K, spread=spread) + offset).astype(dtype)
    data = as_data(x, (np.arange(N) % 3).astype(dtype))
    # Neither round nor at a maximum.
    resp = np.random.default_rng(0).dirichlet(np.ones(K), size=N) + 3 * np.eye(K)[np.arange(N) % K]
    problem = gmm.GaussianMixture(family)
    return gmm.start.from_responsibilities(resp / resp.sum(1, keepdims=True), data, problem=problem), data


def gaussian_of(problem) -> gmm.Gaussian:
    assert isinstance(problem.component, gmm.Gaussian)
    return problem.component


@partial(jax.jit, static_argnames=("way", "size"))
def by(way, params, data, assignment=gmm.Soft(), size=None):
    """The statistics in one of the two ways, and the expansion, in the frame of a fit."""
    problem = model(params, assignment=assignment)
    frame = Frame(data.origin)
    component, components = gaussian_of(problem).moved(params.components, frame)
    problem = gmm.MixtureModel(dataclasses.replace(component, by_products=True), assignment)
    params = params._replace(components=components)
    prepared = problem.prepare(params)
    reduce = Blocks(size)
    rows = reduce.cut(frame.apply(data.x), data.weights, problem.footprint(params.means.shape[0], data.x.shape[1]))

    expansion = quadratic.expand(prepared.components.quadratic, prepared.log_weights)

    def of_block(held, block):
        component, prepared, expansion, assignment = held
        return gmm.Stats(*way(component, prepared.components, expansion, prepared.log_weights, block, assignment))

    return reduce(of_block, (problem.component, prepared, expansion, problem.assignment), rows), expansion


def chosen(component, prepared, expansion, log_weights, rows, assignment):
    """The way that the component takes by itself."""
    return component.e_step(prepared, log_weights, rows, assignment)


def by_products(component, prepared, expansion, log_weights, rows, assignment):
    return gaussian._e_step_by_products(component, expansion, log_weights, rows, assignment)


def by_differences(component, prepared, expansion, log_weights, rows, assignment):
    return component.e_step(prepared._replace(quadratic=None), log_weights, rows, assignment)


def both(params, data, assignment=gmm.Soft(), size=None):
    products, expansion = by(by_products, params, data, assignment, size)
    return products, by(by_differences, params, data, assignment, size)[0], expansion


@pytest.mark.parametrize(
    ("family", "num_features"),
    [
        (gmm.Full, 1),
        (gmm.Full, 3),
        (gmm.Spherical, 3),
        pytest.param(gmm.Spherical, 1, marks=pytest.mark.slow),
        pytest.param(gmm.Diagonal, 1, marks=pytest.mark.slow),
        (gmm.Diagonal, 3),
    ],
)
def test_statistics_are_those_of_direct_differences(family, num_features):
    params, data = case(family, num_features)
    params = replace(params, log_weights=jnp.log(jnp.array([0.2, 0.8, 0.0])))
    products, differences, _ = both(params, data)
    # First moments are small sums of large terms.
    chex.assert_trees_all_close(products, differences, rtol=1e-10, atol=1e-10 * N)


@pytest.mark.parametrize("assignment", [gmm.Hard(), gmm.Tempered(0.3)], ids=["hard", "tempered"])
def test_it_serves_every_assignment(assignment):
    products, differences, _ = both(*case(gmm.Full, 2), assignment)
    chex.assert_trees_all_close(products, differences, rtol=1e-10, atol=1e-10 * N)


def test_blocks_change_nothing():
    params, data = case(gmm.Full, 3)
    whole, blocks = (both(params, data, size=size)[0] for size in (None, 64))
    chex.assert_trees_all_close(blocks, whole, rtol=1e-11, atol=1e-11 * N)


@pytest.mark.parametrize("size", [40, None])
def test_no_size_of_a_block_changes_the_way(size):
    params, data = case(gmm.Full, 2)
    problem = model(params, regularization=0.0)
    objective = solve.make_objective(problem, params, data, reduce=Blocks(size))
    found = jax.jit(objective.stats)(params)[0]
    text = jax.jit(objective.stats).lower(params).as_text()
    assert "while" in text
    chex.assert_trees_all_close(found, both(params, data, size=size)[0], rtol=1e-12, atol=1e-12 * N)


@pytest.mark.parametrize(
    "family", [gmm.Full, *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])]
)
def test_the_digits_lost_in_float32_are_no_more_than_foretold(family):
    for spread in (1.0, 10.0, 100.0):
        params, data = case(family, 2, np.float32, spread=spread, offset=1e3)
        products, _, expansion = both(params, data)
        up = lambda leaf: leaf.astype(jnp.float64)  # noqa: E731
        exact = both(*jax.tree.map(up, (params, data)))[1]
        eps = np.finfo(np.float32).eps
        lost = float(expansion.cancellation.max()) * eps
        rows = float(data.weights.sum())
        assert abs(products.loss - exact.loss) <= 4 * lost * rows
        scale = np.sqrt(np.diagonal(params.covariances, axis1=1, axis2=2))
        error = np.abs(products.moments.first - exact.moments.first) / scale
        assert error.max() <= 4 * (lost + eps * rows**0.5) * rows


def test_components_that_lie_many_widths_apart_are_taken_by_direct_differences():
    near, data = case(gmm.Full, 2)
    widths = jnp.array([1.0, 1.0, 1e-3])[:, None, None]
    far = replace(near, covariance=jax.tree.map(lambda leaf: leaf * widths, near.covariance))
    for params, expected in ((near, 0), (far, 1)):
        found = by(chosen, params, data)[0]
        chex.assert_trees_all_equal(found, both(params, data)[expected])
    np.testing.assert_array_equal(quadratic.is_accurate(both(far, data)[2]), [True, True, False])


def test_a_component_that_is_off_and_far_away_does_not_decide():
    params, data = case(gmm.Full, 2)
    params = replace(params, log_weights=jnp.log(jnp.array([0.5, 0.5, 0.0])), means=params.means.at[2].set(1e9))
    chex.assert_trees_all_equal(by(chosen, params, data)[0], both(params, data)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_singular_covariance_says_so(family):
    params, data = case(family, 2)
    params = replace(params, covariance=jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), params.covariance))
    assert jnp.isnan(by(chosen, params, data)[0].loss)


@pytest.mark.slow
def test_a_fit_in_float32_is_that_of_float64_also_vmapped():
    params, data = case(gmm.Full, 2, np.float32, offset=100.0)
    run = lambda params, data: solve.run(gmm.GaussianMixture(), solve.EM(), params, data, max_steps=10)  # noqa: E731
    exact = run(*jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, data)))
    single = run(params, data)
    np.testing.assert_allclose(single.loss, exact.loss, rtol=1e-5)
    np.testing.assert_allclose(single.params.covariances, exact.params.covariances, rtol=1e-3, atol=1e-3)
    twice = jax.vmap(run, in_axes=(0, None))(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params), data)
    np.testing.assert_allclose(twice.loss, [single.loss] * 2, rtol=1e-5)


def test_the_loss_moves_by_less_than_a_fit_takes_for_rounding_also_near_zero():
    # 32 eps for each nat and row of the start's loss, however small the loss has become.
    slack = 32 * np.finfo(np.float32).eps * N
    up = lambda leaf: leaf.astype(jnp.float64)  # noqa: E731
    found = {}
    for width, spread in ((1.0, 4.0), (0.5, 2.0), (0.3, 1.0), (0.1, 8.0)):
        x = blobs(N, 3, K, spread=spread)
        x[:, 1:] = x[:, :1] + width * x[:, 1:]
        data = as_data(x.astype(np.float32))
        params = gmm.start.from_responsibilities(np.eye(K, dtype=np.float32)[np.arange(N) % K], data)
        errors = []
        for step in range(4):
            moved = replace(params, means=params.means * np.float32(1 + 1e-4 * step))
            products, _, expansion = both(moved, data)
            exact = both(*jax.tree.map(up, (moved, data)))[1].loss
            errors.append(float(abs(products.loss - exact)))
        found[width] = bool(quadratic.is_accurate(expansion).all()), max(errors)
    assert [kept for kept, _ in found.values()] == [True, True, True, False]
    assert all(error < slack / 2 for kept, error in found.values() if kept)
    assert found[0.1][1] > slack


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_alone_is_that_of_the_statistics_and_its_gradient_is_fishers(family):
    params, data = case(family, 2)
    problem = gmm.GaussianMixture(family)
    products, differences, _ = both(params, data)
    np.testing.assert_allclose(loss(problem, params, data), products.loss, rtol=1e-13)
    value, gradient = jax.value_and_grad(lambda p: loss(problem, p, data))(params)
    np.testing.assert_allclose(value, differences.loss, rtol=1e-13)
    # Fisher's identity: the gradient of the evidence by a mean is the precision times the sum of r (x - m).
    expected = -np.linalg.solve(params.covariances, differences.moments.first[..., None])[..., 0]
    np.testing.assert_allclose(gradient.means, expected, rtol=1e-9, atol=1e-9 * N)
