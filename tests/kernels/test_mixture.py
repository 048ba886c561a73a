"""The sums behind a step of EM against their definitions, in both orders, and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, blobs

from jaxmix import as_data, gmm, solve
from jaxmix.kernels import mixture

K, D, N = 3, 4, 150  # no multiple of the lanes
RNG = np.random.default_rng(1)
X = jnp.asarray(blobs(N, D, K, spread=4.0))
MEANS = jnp.asarray(RNG.normal(size=(K, D)))
SHARES = jnp.asarray(RNG.dirichlet(np.ones(K), size=N).T * RNG.integers(0, 3, size=N))
INVERSE_SCALE = jnp.asarray(RNG.uniform(0.5, 2.0, size=(K, D)))
INVERSE = jnp.asarray(np.linalg.inv(np.tril(RNG.normal(size=(K, D, D)), -1) + 2 * np.eye(D)))
CENTRED = np.asarray(X)[None] - np.asarray(MEANS)[:, None]  # (K, N, D)
SCATTER = np.einsum("kn,kni,knj->kij", SHARES, CENTRED, CENTRED)
WHITE = np.einsum("kij,knj->kni", INVERSE, CENTRED)

SUMS = {
    "squares": (
        lambda: mixture.squares(MEANS, INVERSE_SCALE, X),
        np.einsum("knd,kd->kn", CENTRED**2, INVERSE_SCALE**2),
    ),
    "shared scale": (
        lambda: mixture.squares(MEANS, INVERSE_SCALE[:1], X),
        np.einsum("knd,d->kn", CENTRED**2, INVERSE_SCALE[0] ** 2),
    ),
    "whitened": (lambda: mixture.whitened_squares(MEANS, INVERSE, X), (WHITE**2).sum(2)),
    "tied whitened": (
        lambda: mixture.tied_whitened_squares(MEANS, INVERSE[0], X),
        (np.einsum("ij,knj->kni", INVERSE[0], CENTRED) ** 2).sum(2),
    ),
    "scatter": (lambda: mixture.scatter(SHARES, MEANS, X), SCATTER),
    "square scatter": (lambda: mixture.square_scatter(SHARES, MEANS, X), np.einsum("kii->ki", SCATTER)),
    "pooled": (lambda: mixture.pooled_scatter(SHARES, MEANS, X), SCATTER.sum(0)),
    "pooled square": (lambda: mixture.pooled_square_scatter(SHARES, MEANS, X), np.diag(SCATTER.sum(0))),
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
    np.testing.assert_allclose(found(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["pooled_scatter", "pooled_square_scatter"])
def test_pooled_sums_lose_nothing_where_means_lie_far_apart(name):
    far = 1e4 * np.arange(K)[:, None] + np.asarray(MEANS)
    labels = np.arange(N) % K
    x = far[labels] + np.random.default_rng(5).normal(size=(N, D))
    shares = np.eye(K)[labels].T
    exact = getattr(mixture, name)(shares, far, x)
    single = getattr(mixture, name)(*(jnp.asarray(a, jnp.float32) for a in (shares, far, x)))
    # 1e4 widths apart float32 rows have 3 digits of their cluster left, and squares about zero would have none.
    np.testing.assert_allclose(single, exact, rtol=1e-2, atol=1e-2 * N)


@pytest.mark.parametrize("family", [gmm.Full, gmm.Tied, gmm.Diagonal, gmm.TiedSpherical])
def test_chunks_change_nothing(family, monkeypatch):
    data = as_data(X, np.arange(N) % 3)
    start = gmm.start.from_labels(np.arange(N) % K, data, K, family=family, problem=EXACT)
    value_and_grad = jax.jit(jax.value_and_grad(EXACT.loss))
    whole, (_, gradient) = gmm.e_step(start, data), value_and_grad(start, data)
    monkeypatch.setattr(mixture, "chunk_rows", lambda num_rows, k, num_features: 44)
    # A row more, without weight: another shape, and so another program, which is traced with these chunks.
    more = data._replace(x=jnp.pad(data.x, ((0, 1), (0, 0))), weights=jnp.pad(data.weights, (0, 1)))
    chunked, (loss, again) = gmm.e_step(start, more), value_and_grad(start, more)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11), chunked, whole)
    np.testing.assert_allclose(loss, whole.loss, rtol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), again, gradient)


@pytest.mark.parametrize("k", [1, 16, 100_000])
def test_chunks_are_alike_and_cover_all_rows(k):
    for num_rows in (1, 1000, 10**6 + 1):
        size = mixture.chunk_rows(num_rows, k, D)
        assert 1 <= size <= max(num_rows, 1)
        assert -(-num_rows // size) * size - num_rows < -(-num_rows // size)


def test_a_step_of_em_waits_for_no_thread_of_its_own_program():
    # Batched LAPACK calls of jaxlib dead-lock where two of them run at once on two cores: see `linalg.cholesky`.
    data = as_data(X)
    start = gmm.start.from_labels(np.arange(N) % K, data, K, problem=EXACT)

    def fit(start):
        return solve.run(EXACT, solve.EM(), start, data, max_steps=3).loss

    text = jax.jit(jax.vmap(fit)).lower(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)).as_text()
    assert "while" in text
    assert "lapack" not in text
