"""The mixture and its latent variables: identities that hold for any responsibilities."""

from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, blobs
from mixtures import exact, loss, make, replace
from scipy import stats

from jaxmix import as_data, gmm

X = blobs(30, 3, 2, spread=2.0)
DATA = as_data(X)
RESP = np.random.default_rng(0).dirichlet(np.ones(2), size=30)
PARAMS = gmm.start.from_responsibilities(RESP, DATA, problem=EXACT)


def normal(k):
    return cast(Any, stats.multivariate_normal)(PARAMS.means[k], PARAMS.covariances[k])


def test_log_prob_and_responsibilities_are_those_of_the_mixture():
    joint = np.stack([np.log(PARAMS.weights[k]) + normal(k).logpdf(X) for k in range(2)], axis=1)
    np.testing.assert_allclose(gmm.log_prob(PARAMS, X), np.log(np.exp(joint).sum(1)), rtol=1e-12)
    posterior = np.exp(joint) / np.exp(joint).sum(1, keepdims=True)
    np.testing.assert_allclose(gmm.responsibilities(PARAMS, X), posterior, rtol=1e-10)
    np.testing.assert_array_equal(gmm.predict(PARAMS, X), joint.argmax(1))
    weights = np.arange(30) % 3
    np.testing.assert_allclose(
        gmm.log_likelihood(PARAMS, X, weights=weights), weights @ np.log(np.exp(joint).sum(1)), rtol=1e-12
    )


def test_density_integrates_to_one():
    line = make(jnp.log(jnp.array([0.3, 0.7])), jnp.array([[-1.0], [2.0]]), gmm.Spherical(jnp.array([0.5, 1.5])))
    grid = np.linspace(-15, 15, 20_001)
    np.testing.assert_allclose(np.trapezoid(np.exp(gmm.log_prob(line, grid[:, None])), grid), 1, rtol=1e-10)


def test_bound_is_below_and_touches_at_the_posterior():
    log_likelihood = gmm.log_likelihood(PARAMS, X)
    posterior = gmm.responsibilities(PARAMS, X)
    np.testing.assert_allclose(gmm.elbo(PARAMS, X, posterior), log_likelihood, rtol=1e-13)
    for seed in range(5):
        resp = np.random.default_rng(seed).dirichlet(np.ones(2), size=30)
        bound = gmm.elbo(PARAMS, X, resp)
        assert bound < log_likelihood
        q = gmm.expected_complete_log_likelihood(PARAMS, X, resp)
        np.testing.assert_allclose(bound, q - (resp * np.log(resp)).sum(), rtol=1e-13)
        divergence = (resp * (np.log(resp) - np.log(posterior))).sum()
        np.testing.assert_allclose(log_likelihood - bound, divergence, rtol=1e-9)


def test_complete_log_likelihood_is_q_at_the_indicator():
    labels = np.arange(30) % 2
    complete = gmm.complete_log_likelihood(PARAMS, X, labels)
    np.testing.assert_allclose(complete, gmm.expected_complete_log_likelihood(PARAMS, X, np.eye(2)[labels]), rtol=1e-13)
    np.testing.assert_allclose(complete, gmm.elbo(PARAMS, X, np.eye(2)[labels]), rtol=1e-13)


def test_weights_in_the_identities_are_repeated_rows():
    weights = np.arange(30) % 3
    repeated, resp = np.repeat(X, weights, axis=0), np.repeat(RESP, weights, axis=0)
    labels = np.arange(30) % 2
    for weighted, plain in [
        (gmm.elbo(PARAMS, X, RESP, weights=weights), gmm.elbo(PARAMS, repeated, resp)),
        (gmm.elbo(PARAMS, as_data(X, weights), RESP), gmm.elbo(PARAMS, repeated, resp)),
        (gmm.entropy(RESP, weights=weights), gmm.entropy(resp)),
        (
            gmm.complete_log_likelihood(PARAMS, X, labels, weights=weights),
            gmm.complete_log_likelihood(PARAMS, repeated, np.repeat(labels, weights)),
        ),
    ]:
        np.testing.assert_allclose(weighted, plain, rtol=1e-12)
    data = as_data(X, weights)
    assert gmm.elbo(PARAMS, data, RESP) <= gmm.log_likelihood(PARAMS, data)
    posterior = gmm.responsibilities(PARAMS, X)
    np.testing.assert_allclose(gmm.elbo(PARAMS, data, posterior), gmm.log_likelihood(PARAMS, data), rtol=1e-13)


def test_the_bound_has_a_finite_slope_where_a_component_is_off():
    off = PARAMS._replace(log_weights=jnp.array([0.0, -jnp.inf]))
    resp = jnp.asarray(np.eye(2)[np.zeros(30, int)])
    assert jnp.isfinite(jax.grad(lambda p: gmm.elbo(p, X, resp))(off).means).all()


@pytest.mark.parametrize("family", [gmm.Full, gmm.TiedDiagonal])
def test_fishers_identity(family):
    # The gradient of log L at theta is that of Q(. | theta) at theta (Dempster, Laird and Rubin 1977, eq. 2.13).
    shifted = gmm.start.from_labels(np.arange(30) % 2, X, 2, problem=exact(family))
    shifted = replace(shifted, means=shifted.means + 0.3)
    posterior = gmm.responsibilities(shifted, X)
    free = EXACT.unconstrain(shifted)
    of_likelihood = jax.grad(lambda f: gmm.log_likelihood(EXACT.constrain(f), X))(free)
    of_q = jax.grad(lambda f: gmm.expected_complete_log_likelihood(EXACT.constrain(f), X, posterior))(free)
    chex.assert_trees_all_close(of_likelihood, of_q, rtol=1e-10, atol=1e-10)


FAMILIES = [gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical]


@pytest.mark.parametrize(
    ("family", "assignment"),
    [*((family, gmm.Soft()) for family in FAMILIES), (gmm.Full, gmm.Hard()), (gmm.Full, gmm.Tempered(0.3))],
    ids=str,
)
def test_loss_has_the_gradient_of_finite_differences(family, assignment):
    from jax.test_util import check_grads

    problem = exact(family, assignment=assignment)
    params = gmm.start.from_labels(np.arange(30) % 2, X, 2, problem=exact(family))
    free = problem.unconstrain(replace(params, means=params.means + 0.3))
    check_grads(lambda f: loss(problem, problem.constrain(f), DATA), (free,), order=1, modes=["rev"], rtol=1e-5)


def test_covariances_and_weights_lead_with_the_axes_of_restarts():
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    assert many.covariances.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(many.covariances[1], 4 * PARAMS.covariances, rtol=1e-13)


def test_marginal_integrates_the_others_out():
    kept = [2, 0]
    marginal = gmm.marginal(PARAMS, kept)
    for k in range(2):
        covariance = np.asarray(PARAMS.covariances[k])[np.ix_(kept, kept)]
        expected = cast(Any, stats.multivariate_normal)(np.asarray(PARAMS.means[k])[kept], covariance).logpdf(
            X[:, kept]
        )
        np.testing.assert_allclose(
            gmm.log_joint(marginal, X[:, kept])[:, k], expected + PARAMS.log_weights[k], rtol=1e-11
        )


def test_joint_is_marginal_times_conditional():
    known, left = [2, 0], [1]
    for row in X[:4]:
        conditional = gmm.conditional(PARAMS, known, row[known])
        total = gmm.log_prob(gmm.marginal(PARAMS, known), row[None, known]) + gmm.log_prob(conditional, row[None, left])
        np.testing.assert_allclose(total, gmm.log_prob(PARAMS, row[None]), rtol=1e-11)


@pytest.mark.parametrize("family", [gmm.Full, gmm.Tied, gmm.Spherical])
def test_only_components_that_are_on_have_free_parameters(family):
    num_features = 3
    whole = make(jnp.log(jnp.full(4, 0.25)), jnp.zeros((4, num_features)), family.identity(4, num_features, float))
    off = whole._replace(log_weights=jnp.log(jnp.array([0.5, 0.0, 0.5, 0.0])))
    # Two weights that sum to 1, two means, and the family's own of two.
    expected = 1 + 2 * num_features + family.num_free_parameters(2, num_features)
    assert jax.jit(lambda params: params.num_free_parameters)(off) == expected
    pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), whole, off)
    counts = jax.vmap(lambda params: params.num_free_parameters)(pair)
    assert counts.tolist() == pair.num_free_parameters.tolist() == [int(whole.num_free_parameters), expected]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gmm.log_prob(PARAMS, X[:, :2]), r"^`x` has 2 columns, but the model has 3 features"),
        (lambda: gmm.marginal(PARAMS, []), "`features` must be a sequence"),
        (lambda: gmm.marginal(PARAMS, [0, 0]), "`features` must be distinct"),
        (lambda: gmm.marginal(PARAMS, [3]), r"lie in \[0, 3\)"),
        (lambda: gmm.conditional(PARAMS, [0, 1, 2], X[0]), "names all features"),
        (lambda: gmm.conditional(PARAMS, [0], X[0]), "`values` must have shape"),
        (lambda: gmm.elbo(PARAMS, X, RESP[:5]), r"`resp` must have shape \(N, K\)"),
        (lambda: gmm.elbo(PARAMS, X, 2 * RESP), "`resp` must be non-negative, each row summing to 1"),
        (lambda: gmm.complete_log_likelihood(PARAMS, X, np.full(30, 2)), r"`labels` must lie in \[0, 2\)"),
        (lambda: gmm.sample(0, PARAMS, 3), "`key` must be one typed"),  # pyright: ignore[reportArgumentType]
        (lambda: gmm.sample(jax.random.key(0), PARAMS, 2.5), "`n` must be a Python integer"),  # pyright: ignore[reportArgumentType]
        (lambda: gmm.entropy(-RESP), "`resp` must be non-negative"),
        (lambda: gmm.start.from_responsibilities(-RESP, X), "`resp` must be non-negative"),
        (lambda: gmm.e_step(PARAMS, X[:, 0]), "must have shape"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
