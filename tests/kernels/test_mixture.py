"""The sums behind a step of EM against their definitions, in both orders, and in blocks."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from mixtures import exact

from jaxmix import Blocks, as_data, gmm, solve
from jaxmix.kernels import mixture

K, D, N = 3, 5, 150  # no multiple of the lanes
RNG = np.random.default_rng(1)
X = jnp.asarray(blobs(N, D, K, spread=4.0))
MEANS = jnp.asarray(RNG.normal(size=(K, D)))
SHARES = jnp.asarray(RNG.dirichlet(np.ones(K), size=N).T * RNG.integers(0, 3, size=N))
INVERSE_SCALE = jnp.asarray(RNG.uniform(0.5, 2.0, size=(K, D)))
INVERSE = jnp.asarray(np.linalg.inv(np.tril(RNG.normal(size=(K, D, D)), -1) + 2 * np.eye(D)))
CENTERED = np.asarray(X)[None] - np.asarray(MEANS)[:, None]  # (K, N, D)
FIRST = np.einsum("kn,knd->kd", SHARES, CENTERED)
SCATTER = np.einsum("kn,kni,knj->kij", SHARES, CENTERED, CENTERED)
WHITE = np.einsum("kij,knj->kni", INVERSE, CENTERED)

SUMS = {
    "squares": (
        lambda: mixture.squares(MEANS, INVERSE_SCALE, X),
        np.einsum("knd,kd->kn", CENTERED**2, INVERSE_SCALE**2),
    ),
    "shared scale": (
        lambda: mixture.squares(MEANS, INVERSE_SCALE[:1], X),
        np.einsum("knd,d->kn", CENTERED**2, INVERSE_SCALE[0] ** 2),
    ),
    "whitened": (lambda: mixture.whitened_squares(MEANS, INVERSE, X), (WHITE**2).sum(2)),
    "tied whitened": (
        lambda: mixture.tied_whitened_squares(MEANS, INVERSE[0], X),
        (np.einsum("ij,knj->kni", INVERSE[0], CENTERED) ** 2).sum(2),
    ),
    "moments": (lambda: mixture.moments(SHARES, MEANS, X), (FIRST, SCATTER)),
    "moments of few features": (
        lambda: mixture.moments(SHARES, MEANS[:, :2], X[:, :2]),
        (FIRST[:, :2], SCATTER[:, :2, :2]),
    ),
    "square moments": (lambda: mixture.square_moments(SHARES, MEANS, X), (FIRST, np.einsum("kii->ki", SCATTER))),
    "pooled moments": (lambda: mixture.pooled_moments(SHARES, MEANS, X), (FIRST, SCATTER.sum(0))),
    "pooled square moments": (
        lambda: mixture.pooled_square_moments(SHARES, MEANS, X),
        (FIRST, np.diag(SCATTER.sum(0))),
    ),
}


@pytest.fixture(params=["cpu", "default"])
def platform(request, monkeypatch):
    """The order of a platform, run here: what an accelerator would compute, computed by this machine."""

    def dependent(*args, default, **platforms):
        return (platforms["cpu"] if request.param == "cpu" else default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", dependent)


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_those_of_their_definition_on_every_platform(platform, name):
    found, expected = SUMS[name]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found(), expected)


@pytest.mark.parametrize("name", ["pooled_moments", "pooled_square_moments"])
def test_pooled_sums_lose_nothing_where_means_lie_far_apart(name):
    far = 1e4 * np.arange(K)[:, None] + np.asarray(MEANS)
    labels = np.arange(N) % K
    x = far[labels] + np.random.default_rng(5).normal(size=(N, D))
    shares = np.eye(K)[labels].T
    exact = getattr(mixture, name)(shares, far, x)[1]
    single = getattr(mixture, name)(*(jnp.asarray(a, jnp.float32) for a in (shares, far, x)))[1]
    # 1e4 widths apart float32 rows have 3 digits of their cluster left, and squares about zero would have none.
    np.testing.assert_allclose(single, exact, rtol=1e-2, atol=1e-2 * N)


@pytest.mark.parametrize(
    "family",
    [
        gmm.Full,
        pytest.param(gmm.Tied, marks=pytest.mark.slow),
        pytest.param(gmm.Diagonal, marks=pytest.mark.slow),
        pytest.param(gmm.TiedSpherical, marks=pytest.mark.slow),
    ],
)
def test_blocks_change_nothing(family):
    data = as_data(X, np.arange(N) % 3)
    problem = exact(family)
    start = gmm.start.from_labels(np.arange(N) % K, data, K, problem=problem)

    @partial(jax.jit, static_argnames="size")
    def both(start, size):
        objective = solve.make_objective(problem, start, data, reduce=Blocks(size))
        anchor = objective.unconstrain(start)
        return objective.stats(start)[0], objective.value_and_grad(objective.free(anchor), anchor)

    whole, blocked = both(start, None), both(start, 44)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), blocked, whole)
    np.testing.assert_allclose(blocked[1][0], whole[0].loss, rtol=1e-13)


@pytest.mark.parametrize("family", [gmm.Full, gmm.Tied])
@pytest.mark.parametrize("is_map", [False, True])
def test_a_step_of_em_waits_for_no_thread_of_its_own_program(family, is_map):
    # Batched LAPACK calls of jaxlib dead-lock where two of them run at once on two cores: see `linalg.cholesky`.
    data = as_data(X)
    problem = gmm.GaussianMixture(family, gmm.fraley_raftery(data, K, covariance=family)) if is_map else exact(family)
    start = gmm.start.from_labels(np.arange(N) % K, data, K, problem=problem)

    def fit(start):
        return solve.run(problem, solve.EM(), start, data, max_steps=3).loss

    text = jax.jit(jax.vmap(fit)).lower(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)).as_text()
    assert "while" in text
    assert "lapack" not in text


def test_wider_parameters_than_rows_are_promoted_alike_for_every_family():
    x = jnp.asarray(X, jnp.float32)
    for family in (gmm.Full, gmm.Diagonal, gmm.TiedSpherical):
        params = gmm.start.from_labels(np.arange(N) % K, X, K, problem=exact(family))
        found = gmm.log_prob(params, x)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, gmm.log_prob(params, x.astype(jnp.float64)), rtol=1e-5)


def test_derivatives_in_the_means_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    means, inverse, x, along = (
        jnp.asarray(rng.normal(size=shape)) for shape in ((4, 10), (4, 10, 10), (600, 10), (4, 10))
    )
    plain = lambda m: jnp.sum(jnp.square(jnp.einsum("kij,knj->kin", inverse, x[None] - m[:, None])), axis=1)  # noqa: E731
    fast = lambda m: mixture.whitened_squares(m, inverse, x)  # noqa: E731
    curved = lambda f: jax.grad(lambda m: jnp.sum(jnp.sin(f(m) / 100)))  # noqa: E731
    for found, expected in ((fast, plain), (curved(fast), curved(plain))):
        pair = jax.jit(lambda m, t, f=found: jax.jvp(f, (m,), (t,)))(means, along)
        chex.assert_trees_all_close(pair, jax.jvp(expected, (means,), (along,)), rtol=1e-9, atol=1e-9)
