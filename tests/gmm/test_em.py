"""EM for mixtures: against mclust, scikit-learn, and the laws of annealing."""

import csv
from pathlib import Path
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, blobs
from mixtures import em_step, exact, loss, make, replace
from scipy import special
from sklearn.mixture import GaussianMixture as PeerMixture

from jaxmix import Blocks, Status, as_data, datasets, gmm, kmeans, solve

KNOWN = Path(__file__).parent.parent / "known"
FAITHFUL = as_data(datasets.old_faithful())
LABELS = np.loadtxt(KNOWN / "old_faithful_start_labels.csv", delimiter=",", skiprows=1, dtype=int)
with (KNOWN / "old_faithful_loglik.csv").open() as file:
    MCLUST = [row for row in csv.DictReader(file) if row["k"] in "23"]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row['family']}-{row['k']}", marks=[] if i % 2 else pytest.mark.slow)
        for i, row in enumerate(MCLUST)
    ],
)
def test_old_faithful_reaches_the_likelihood_of_mclust(row):
    k, family = int(row["k"]), getattr(gmm, row["family"])
    start = gmm.start.from_labels(LABELS[:, k - 1], FAITHFUL, k, problem=exact(family))
    fit = solve.run(exact(family), solve.EM(), start, FAITHFUL, max_steps=1000, rtol=1e-14).throw()
    np.testing.assert_allclose(-fit.loss, float(row["log_likelihood_at_convergence"]), atol=1e-7)
    assert fit.params.num_free_parameters == int(row["free_parameters"])
    changes = np.diff(np.asarray(fit.trace)[: int(fit.num_steps) + 1])
    assert (changes <= 1e-13 * np.abs(fit.loss)).all()


@pytest.mark.parametrize(
    ("family", "peer_type"),
    [(gmm.Full, "full"), (gmm.Tied, "tied"), (gmm.Diagonal, "diag"), (gmm.Spherical, "spherical")],
)
@pytest.mark.parametrize("num_steps", [1, 200])
def test_steps_are_those_of_scikit_learn(family, peer_type, num_steps):
    x = np.asarray(FAITHFUL.x)
    problem = gmm.GaussianMixture(family, regularization=0.0)
    start = gmm.start.from_labels(LABELS[:, 2], FAITHFUL, 3, problem=problem)
    precisions = {
        "full": lambda c: np.linalg.inv(c),
        "tied": lambda c: np.linalg.inv(c[0]),
        "diag": lambda c: 1 / np.diagonal(c, axis1=1, axis2=2),
        "spherical": lambda c: 1 / c[:, 0, 0],
    }[peer_type](np.asarray(start.covariances))
    peer: Any = cast(Any, PeerMixture)(
        3,
        covariance_type=peer_type,
        tol=0,
        reg_covar=0.0,
        max_iter=num_steps,
        weights_init=np.asarray(start.weights),
        means_init=np.asarray(start.means),
        precisions_init=precisions,
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that it has not converged
        peer.fit(x)
    fit = solve.run(problem, solve.EM(), start, FAITHFUL, max_steps=num_steps)
    np.testing.assert_allclose(fit.params.means, peer.means_, rtol=1e-6)
    np.testing.assert_allclose(fit.params.weights, peer.weights_, rtol=1e-6)
    np.testing.assert_allclose(-fit.loss / len(x), peer.score(x), rtol=1e-6)
    dense = {
        "full": lambda c: c,
        "tied": lambda c: np.broadcast_to(c, (3, 2, 2)),
        "diag": lambda c: c[:, :, None] * np.eye(2),
        "spherical": lambda c: c[:, None, None] * np.eye(2),
    }[peer_type](peer.covariances_)
    np.testing.assert_allclose(fit.params.covariances, dense, rtol=1e-6, atol=1e-9)


X = blobs(60, 2, 3, spread=2.0)
DATA = as_data(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_are_a_softmax_whose_tiny_ones_are_zero_and_never_denormal(dtype):
    log_joint = np.linspace(0, 1.2 * np.log(np.finfo(dtype).tiny), 400).reshape(8, 50).T.astype(dtype)
    evidence, shares = (np.asarray(value) for value in gmm.Soft()(jnp.asarray(log_joint.T)))
    shares = shares.T
    rounding = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        evidence, special.logsumexp(log_joint.astype(float), axis=1), rtol=rounding, atol=rounding
    )
    # A column is far below the one before it: all shares of a row are told apart.
    exact = special.softmax(log_joint.astype(float), axis=1)
    tiny = exact < np.finfo(dtype).tiny / np.finfo(dtype).eps
    assert 0.1 < tiny.mean() < 0.9
    assert (shares[tiny] == 0).all()
    np.testing.assert_allclose(shares[~tiny], exact[~tiny], rtol=1e3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("assignment", [gmm.Soft(), gmm.Hard(), gmm.Tempered(0.5), gmm.Tempered(3.0)])
def test_the_loss_never_rises_for_any_assignment(assignment):
    problem = exact(gmm.Tied, assignment=assignment)
    start = gmm.start.from_labels(np.arange(60) % 3, DATA, 3, problem=problem)
    fit = solve.run(problem, solve.EM(), start, DATA, max_steps=100)
    trace = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
    assert (np.diff(trace) <= 1e-13 * np.abs(trace[0])).all()
    assert fit.status != Status.LOSS_ROSE
    np.testing.assert_allclose(fit.loss, loss(problem, fit.params, DATA), rtol=1e-14)


def test_temperature_goes_from_annealing_through_em_to_hard():
    start = gmm.start.from_labels(np.arange(60) % 3, DATA, 3)
    start = replace(start, means=jnp.asarray(X[:3]))
    one = gmm.e_step(start, DATA, assignment=gmm.Tempered(1.0))
    chex.assert_trees_all_close(one, gmm.e_step(start, DATA), rtol=1e-12, atol=1e-12)
    cold = gmm.e_step(start, DATA, assignment=gmm.Tempered(1e6))
    chex.assert_trees_all_close(cold, gmm.e_step(start, DATA, assignment=gmm.Hard()), rtol=1e-6, atol=1e-6)
    hot = gmm.e_step(start, DATA, assignment=gmm.Tempered(1e-9))
    np.testing.assert_allclose(hot.counts, 20, rtol=1e-5)


@pytest.mark.parametrize("family", [gmm.TiedDiagonal, gmm.TiedSpherical])
@pytest.mark.parametrize("num_steps", [1, 200])
def test_steps_of_the_families_that_scikit_learn_lacks_are_those_of_the_textbook(family, num_steps):
    x = np.asarray(FAITHFUL.x, float)
    start = gmm.start.from_labels(LABELS[:, 2], FAITHFUL, 3, problem=exact(family))
    weights, means = np.asarray(start.weights), np.asarray(start.means)
    variances = np.diagonal(np.asarray(start.covariances)[0])
    for _ in range(num_steps):
        squares = ((x[:, None] - means[None]) ** 2 / variances).sum(axis=2)
        joint = weights * np.exp(-0.5 * squares)  # what all components share cancels
        resp = joint / joint.sum(axis=1, keepdims=True)
        counts = resp.sum(axis=0)
        weights, means = counts / len(x), resp.T @ x / counts[:, None]
        variances = np.einsum("nk,nkd->d", resp, (x[:, None] - means[None]) ** 2) / len(x)
        if family is gmm.TiedSpherical:
            variances = np.full_like(variances, variances.mean())
    fit = solve.run(exact(family), solve.EM(), start, FAITHFUL, max_steps=num_steps)
    np.testing.assert_allclose(fit.params.weights, weights, rtol=1e-6)
    np.testing.assert_allclose(fit.params.means, means, rtol=1e-6)
    np.testing.assert_allclose(jnp.diagonal(fit.params.covariances[0]), variances, rtol=1e-6)


def test_one_float_goes_from_annealing_through_em_to_kmeans():
    params = make(jnp.log(jnp.full(3, 1 / 3)), jnp.asarray(X[:3]), gmm.TiedSpherical(jnp.array(1.0)))

    def means(beta):
        return em_step(exact(gmm.TiedSpherical, assignment=gmm.Tempered(beta)), params, DATA).means

    cold, one, hot = jax.vmap(means)(jnp.array([1e6, 1.0, 1e-9]))
    centers = jnp.asarray(X[:3])
    np.testing.assert_allclose(cold, kmeans.m_step(kmeans.e_step(centers, DATA), centers), rtol=1e-9)
    np.testing.assert_allclose(one, em_step(exact(gmm.TiedSpherical), params, DATA).means, rtol=1e-12)
    np.testing.assert_allclose(hot, np.tile(X.mean(axis=0), (3, 1)), rtol=1e-6)


def test_small_round_covariances_are_kmeans():
    # Bishop (2006), section 9.3.2: as the variance falls to 0, responsibilities become labels.
    centers = jnp.asarray(X[:3])
    lloyd = kmeans.m_step(kmeans.e_step(centers, DATA), centers)
    params = make(jnp.log(jnp.full(3, 1 / 3)), centers, gmm.TiedSpherical(jnp.array(1e-3)))
    for _ in range(3):
        np.testing.assert_array_equal(gmm.predict(params, X), kmeans.predict(centers, X))
        params = replace(params, means=gmm.m_step(gmm.e_step(params, DATA), params).means)
        centers = kmeans.m_step(kmeans.e_step(centers, DATA), centers)
        np.testing.assert_allclose(params.means, centers, rtol=1e-12)
    assert not np.allclose(centers, lloyd)


def test_weights_are_repeated_rows_and_blocks_are_the_whole():
    weights = np.arange(60) % 3
    start = gmm.start.from_labels(np.arange(60) // 20, as_data(X, weights), 3, problem=EXACT)
    repeated = as_data(np.repeat(X, weights, axis=0))
    whole = solve.run(EXACT, solve.EM(), start, as_data(X, weights), max_steps=10)
    again = solve.run(EXACT, solve.EM(), start, repeated, max_steps=10)
    blocked = solve.run(EXACT, solve.EM(), start, as_data(X, weights), max_steps=10, reduce=Blocks(16))
    chex.assert_trees_all_close(whole, again, rtol=1e-9, atol=1e-9)
    chex.assert_trees_all_close(whole, blocked, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", [gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical])
def test_the_unit_of_weights_means_nothing_to_the_m_step(family):
    # 16 rows of weight 1/16: a component whose weight is one to the bit, which is as good as any.
    labels = np.arange(48) % 3
    one = gmm.start.from_labels(labels, as_data(X[:48], np.full(48, 1 / 16)), 3, problem=exact(family))
    more = gmm.start.from_labels(labels, as_data(X[:48]), 3, problem=exact(family))
    chex.assert_trees_all_close(one, more, rtol=1e-12)


def test_a_collapsing_component_ends_alone():
    data = DATA
    good = gmm.start.from_labels(np.arange(60) // 20, data, 3, problem=EXACT)
    bad = replace(good, means=good.means.at[0].set(X[0]))
    bad = replace(bad, covariance=gmm.Full(good.covariances.at[0].set(1e-3 * jnp.eye(2))))
    starts = jax.tree.map(lambda a, b: jnp.stack([a, b]), good, bad)
    clean = jax.tree.map(lambda a: jnp.stack([a, a]), good)
    fits = solve.run_many(EXACT, solve.EM(), starts, data, max_steps=30)
    expected = solve.run_many(EXACT, solve.EM(), clean, data, max_steps=30)
    assert fits.status[1] == Status.NONFINITE
    chex.assert_trees_all_equal(*[jax.tree.map(lambda leaf: leaf[0], f) for f in (fits, expected)])
    assert np.isfinite(fits.loss[0])
    assert solve.best(fits).loss == fits.loss[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [gmm.Full, *(pytest.param(family, marks=pytest.mark.slow) for family in (gmm.Diagonal, gmm.Spherical))]
)
def test_a_narrow_component_far_from_a_wide_one_keeps_its_digits_in_float32(family):
    random = np.random.default_rng(0)
    x = np.concatenate([0.05 * random.normal(size=(500, 2)), 1e6 + 1e3 * random.normal(size=(500, 2))])
    fit = gmm.fit(jax.random.key(0), x.astype(np.float32), 2, covariance=family, restarts=2, max_steps=50).throw()
    rows = x.astype(np.float32).astype(float)  # what float32 could keep of the wide component
    double = gmm.fit(jax.random.key(0), rows, 2, covariance=family, restarts=2, max_steps=50)
    narrow = int(jnp.argmin(jnp.abs(fit.params.means[:, 0])))
    np.testing.assert_allclose(fit.loss, double.loss, rtol=1e-4)
    np.testing.assert_allclose(fit.params.means[narrow], rows[:500].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        jnp.diagonal(fit.params.covariances[narrow]).mean(), rows[:500].var(axis=0).mean(), rtol=1e-3
    )


def test_a_component_that_fades_through_the_denormals_is_off_and_never_nan():
    x = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    distances = jnp.arange(12.0, 17.0, 0.25, dtype=jnp.float32)

    def fit(distance):
        start = make(
            jnp.log(jnp.full(2, 0.5, jnp.float32)),
            jnp.stack([jnp.zeros(1, jnp.float32), distance[None]]),
            gmm.Full.identity(2, 1, jnp.float32),
        )
        return solve.run(gmm.GaussianMixture(), solve.EM(), start, x, max_steps=40, atol=1e-6)

    fits = jax.vmap(fit)(distances)
    assert (fits.status == Status.CONVERGED).all()
    assert jnp.isfinite(fits.params.covariance.scale_tril).all()
    faded = fits.params.log_weights[:, 1] == -jnp.inf
    assert faded[-1]
    assert not faded[0]
