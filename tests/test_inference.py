"""Functions of rows go by blocks: the same values as for a few rows at a time, in little memory, compiled once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from sklearn.mixture import GaussianMixture

from jaxmix import gmm, kmeans, memory, metrics, mixture, reduction
from jaxmix.kmeans import steps
from jaxmix.mixture import inference
from tests.compiles import compiled

# Odd, and of several blocks and parts; enough for products of features.
N, D, K = 5003, 3, 4
FEW = 500
FAMILIES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)
RANDOM = np.random.default_rng(0)
X = blobs(N, D, K)
LABELS = np.arange(N) % K
WEIGHTS = 1.0 + RANDOM.random(N)
SHARES = RANDOM.dirichlet(np.ones(K), N)
CENTERS = X[:K]
COUNTS = np.floor(np.abs(X))
RATES = mixture.Mixture(jnp.log(jnp.full(K, 1 / K)), mixture.Rates(1 + jnp.asarray(COUNTS[:K])))


def started(family, x=X, labels=LABELS):
    return gmm.start.from_labels(labels, x, K, problem=gmm.GaussianMixture(family))


FULL, TIED = started(gmm.Full), started(gmm.Tied)
# Of rows and other arrays with a row each: arrays with a row each, or sums over rows.
CALLS: Any = {
    "gmm.predict": (lambda x: gmm.predict(FULL, x), X),
    "gmm.responsibilities": (lambda x: gmm.responsibilities(FULL, x), X),
    "gmm.log_joint": (lambda x: gmm.log_joint(FULL, x), X),
    "gmm.log_prob": (lambda x: gmm.log_prob(FULL, x), X),
    "gmm.log_prob, tied": (lambda x: gmm.log_prob(TIED, x), X),
    "gmm.log_likelihood": (lambda x, w: gmm.log_likelihood(FULL, x, weights=w), X, WEIGHTS),
    "gmm.complete_log_likelihood": (lambda x, z: gmm.complete_log_likelihood(FULL, x, z), X, LABELS),
    "gmm.expected_complete_log_likelihood": (
        lambda x, r: gmm.expected_complete_log_likelihood(FULL, x, r),
        X,
        SHARES,
    ),
    "gmm.elbo": (lambda x, r, w: gmm.elbo(FULL, x, r, weights=w), X, SHARES, WEIGHTS),
    "gmm.entropy": (lambda r: gmm.entropy(r), SHARES),
    "gmm.e_step": (lambda x, w: gmm.e_step(FULL, x, weights=w), X, WEIGHTS),
    "mixture.log_prob": (lambda x: mixture.log_prob(RATES, x), COUNTS),
    "kmeans.predict": (lambda x: kmeans.predict(CENTERS, x), X),
    "kmeans.objective": (lambda x, w: kmeans.objective(CENTERS, x, weights=w), X, WEIGHTS),
    "kmeans.objective at labels": (lambda x, z: kmeans.objective(CENTERS, x, z), X, LABELS),
    "kmeans.e_step": (lambda x, w: kmeans.e_step(CENTERS, x, weights=w)._replace(farthest=None), X, WEIGHTS),
}


@pytest.fixture
def small(monkeypatch):
    """Blocks and parts so small that the rows are many of them."""
    monkeypatch.setitem(reduction.WHOLE_BYTES, "cpu", 20_000)
    monkeypatch.setitem(reduction.BLOCK_BYTES, "cpu", 20_000)
    monkeypatch.setattr(memory, "PART_BYTES", 50_000)


@pytest.mark.parametrize("name", CALLS)
def test_blocks_and_parts_equal_the_whole(name, small):
    function, *rows = CALLS[name]
    pieces = [function(*(array[i : i + FEW] for array in rows)) for i in range(0, N, FEW)]
    per_row = [leaf.shape[:1] == (FEW,) for leaf in jax.tree.leaves(pieces[0])]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves) if per_row[0] else sum(leaves), *pieces)
    for given in (rows, [jnp.asarray(array) for array in rows]):
        for found, wanted in zip(jax.tree.leaves(function(*given)), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


SECOND = CALLS | {
    "metrics.bic": (lambda x, w: metrics.bic(FULL, x, weights=w), X, WEIGHTS),
    "metrics.icl": (lambda x: metrics.icl(FULL, x), X),
    "metrics.silhouette": (lambda x, z: metrics.silhouette(x, z, K), X[:501], LABELS[:501]),
    "metrics.adjusted_rand_index": (lambda z: metrics.adjusted_rand_index(z, LABELS), LABELS),
    "kmeans.update": (lambda x, z: kmeans.update(CENTERS, x, z), X, LABELS),
    "gmm.start.from_labels": (lambda x, z: gmm.start.from_labels(z, x, K), X, LABELS),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_call_compiles_nothing(name, small):
    function, *rows = SECOND[name]
    for given in (rows, [jnp.asarray(array) for array in rows]):
        function(*given)
        assert compiled(lambda given=given: function(*given)) == []


@pytest.mark.slow
def test_draws_go_by_parts(monkeypatch):
    few = gmm.sample(jax.random.key(0), FULL, 6)
    monkeypatch.setattr("jaxmix.mixture.densities.DRAWN", 100)
    x, labels = gmm.sample(jax.random.key(0), FULL, 20_001)
    assert x.shape == (20_001, D)
    np.testing.assert_allclose(np.bincount(labels, minlength=K) / len(labels), FULL.weights, atol=0.02)
    for k in range(K):
        np.testing.assert_allclose(np.cov(x[labels == k].T), FULL.covariances[k], rtol=0.2, atol=0.1)
    assert len(np.unique(x, axis=0)) == len(x)
    assert compiled(lambda: gmm.sample(jax.random.key(1), FULL, 20_001)) == []
    assert gmm.sample(jax.random.key(0), FULL, 0)[0].shape == (0, D)
    np.testing.assert_array_equal(few[0], gmm.sample(jax.random.key(0), FULL, 6)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_log_densities_in_float32_are_those_of_direct_differences_in_float64(family):
    params = started(family)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    x = X.astype(np.float32)
    wanted = np.concatenate([gmm.log_joint(params, x[i : i + FEW].astype(float)) for i in range(0, N, FEW)])
    np.testing.assert_allclose(gmm.log_joint(single, x), wanted, rtol=2e-5, atol=2e-4)
    clear = np.diff(np.sort(wanted, axis=1)[:, -2:], axis=1)[:, 0] > 1e-3
    np.testing.assert_array_equal(gmm.predict(single, x)[clear], wanted.argmax(axis=1)[clear])


@pytest.mark.parametrize(("family", "name"), [(gmm.Full, "full"), (gmm.Diagonal, "diag")])
def test_many_rows_have_the_values_of_scikit_learn(family, name):
    params = started(family)
    peer = GaussianMixture(K, covariance_type=name)
    peer.weights_, peer.means_ = np.asarray(params.weights), np.asarray(params.means)
    factors = np.linalg.cholesky(params.covariances)
    inverse = np.swapaxes(np.linalg.inv(factors), 1, 2)
    peer.precisions_cholesky_ = inverse if name == "full" else np.diagonal(inverse, axis1=1, axis2=2)
    np.testing.assert_allclose(gmm.log_prob(params, X), peer.score_samples(X), rtol=1e-10)
    np.testing.assert_allclose(gmm.responsibilities(params, X), peer.predict_proba(X), rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(gmm.predict(params, X), peer.predict(X))


def test_many_rows_take_the_same_form_as_a_fit():
    log_joint = jax.make_jaxpr(inference.joints)
    few, many = (str(log_joint(gmm.Gaussian(), FULL, X[:n])) for n in (FEW, N))
    # `branches.choose`, between two forms.
    assert "custom_vmap" not in few
    assert "custom_vmap" in many


def temporary_bytes(function, *arguments) -> int:
    analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("name", ["labels", "log_probs", "posterior", "largest_joints"])
@pytest.mark.parametrize("family", [gmm.Full, gmm.Tied])
def test_memory_is_that_of_blocks(name, family):
    # Neither the rows nor (N, K) numbers are stored once more, beside the result.
    num_rows, num_features, k = 1_000_001, 16, 16
    shapes = jax.ShapeDtypeStruct((num_rows, num_features), jnp.float32)
    params = jax.eval_shape(
        lambda: mixture.Mixture(jnp.zeros(k, jnp.float32), gmm.Gaussian(family).initial(k, num_features, jnp.float32))
    )
    component = gmm.Gaussian(family)
    used = temporary_bytes(lambda params, x: getattr(inference, name)(component, params, x), params, shapes)
    assert used < 4 * num_rows * num_features / 2


def test_memory_of_labels_of_kmeans_is_that_of_blocks():
    num_rows = 1_000_001
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 16), (num_rows, 16))]
    for function in (steps._labels, steps._costs):
        assert temporary_bytes(function, *shapes) < 4 * num_rows * 16 / 2


def test_rows_of_numpy_are_not_copied_as_a_whole(monkeypatch):
    sizes = []
    copied = memory.copied

    def seen(array, dtype=None):
        sizes.append(array.shape)
        return copied(array, dtype)

    monkeypatch.setattr(memory, "copied", seen)
    monkeypatch.setattr(memory, "PART_BYTES", 50_000)
    gmm.predict(FULL, X)
    assert max(shape[0] for shape in sizes if len(shape) == 2) * D * 8 <= 50_000 + D * 8


def test_parts_are_evaluated_within_jit_where_all_is_known(small):
    # Rows that the program knows are no reason to stage a copy for each part.
    found = jax.jit(lambda: gmm.predict(FULL, X))()
    np.testing.assert_array_equal(found, gmm.predict(FULL, X))
    moved = jax.jit(lambda params: gmm.predict(params, X))(FULL)
    np.testing.assert_array_equal(found, moved)
