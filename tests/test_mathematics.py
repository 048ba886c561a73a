"""Every labeled formula of docs/mathematics.md, in plain NumPy, against the functions that the page names under it."""

import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import EXACT, blobs
from mixtures import exact, make

import jaxmix
from jaxmix import as_data, gmm, kmeans, linalg, seeding, solve
from jaxmix.data import Rows
from jaxmix.kernels.nearest import labels_reference

PAGE = (Path(__file__).parent.parent / "docs" / "mathematics.md").read_text()
# A formula with a label, and the line under it that says which functions it is.
IN_PAGE = {
    label: re.findall(r"`jaxmix\.([\w.]+)`", code)
    for label, code in re.findall(r"^```\{math\}\n:label: (\S+)\n.*?^```\n(Code: [^\n]+)", PAGE, flags=re.M | re.S)
}

N, D, K = 9, 2, 3
X = blobs(N, D, K, seed=9, spread=2.0)
W = 1.0 + np.arange(N) % 3
U = X[:K] + 0.1
DATA = as_data(X, W)
TOTAL = W.sum()


class Checked(NamedTuple):
    """A formula's test, and the functions that it holds to it."""

    names: tuple[str, ...]
    test: Callable[[], None]


CHECKED: dict[str, Checked] = {}


def formula(label: str, *names: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Says of which formula a test is, and of which functions of jaxmix."""

    def note(test: Callable[[], None]) -> Callable[[], None]:
        assert label not in CHECKED
        CHECKED[label] = Checked(names, test)
        return test

    return note


def same(value: Any, expected: Any, rtol: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(value), expected, rtol=rtol, atol=1e-10)


def squares(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    return ((x[:, None] - u[None]) ** 2).sum(axis=2)


def nearest(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    return squares(x, u).argmin(axis=1)


def indicators(z: np.ndarray, k: int = K) -> np.ndarray:
    return np.eye(k)[z]


def means(x: np.ndarray, w: np.ndarray, r: np.ndarray) -> np.ndarray:
    return ((w[:, None] * r).T @ x) / (w[:, None] * r).sum(axis=0)[:, None]


Z = nearest(X, U)
R = indicators(Z)
COUNTS = (W[:, None] * R).sum(axis=0)
MEANS = means(X, W, R)


@pytest.mark.parametrize("label", IN_PAGE)
def test_the_code_is_the_formula(label):
    assert label in CHECKED, f"{label} has no test"
    names, test = CHECKED[label]
    assert sorted(names) == sorted(IN_PAGE[label]), "the page names other functions under this formula"
    body = inspect.getsource(test).split("\n", 1)[1]
    for name in names:
        functools.reduce(getattr, name.split("."), jaxmix)
        assert re.search(rf"\b{name.split('.')[-1]}\b", body), f"the test does not use {name}"
    test()


def test_every_tested_formula_is_on_the_page_and_every_formula_names_its_code():
    assert set(CHECKED) == set(IN_PAGE)
    assert PAGE.count(":label:") == len(IN_PAGE)
    assert all(IN_PAGE.values())


# --- K-means ---


@formula("decoder", "kmeans.reconstruct")
def _():
    same(kmeans.reconstruct(U, Z), np.array([U[z] for z in Z]))


@formula("distortion", "kmeans.objective")
def _():
    same(kmeans.objective(U, X, Z, weights=W), sum(W[n] * np.sum((X[n] - U[Z[n]]) ** 2) for n in range(N)))


@formula("distortion-by-indicators", "kmeans.objective", "kmeans.predict")
def _():
    z = indicators(np.asarray(kmeans.predict(U, X)))
    assert set(np.unique(z)) <= {0, 1}
    assert (z.sum(axis=1) == 1).all()
    same(kmeans.objective(U, X, weights=W), (W[:, None] * z * squares(X, U)).sum())
    # Shares between 0 and 1 gain nothing.
    shares = np.random.default_rng(0).dirichlet(np.ones(K), size=(100, N))
    assert ((W[:, None] * shares * squares(X, U)).sum(axis=(1, 2)) > (W[:, None] * z * squares(X, U)).sum()).all()


@formula("factorization", "kmeans.objective", "kmeans.reconstruct")
def _():
    v = np.diag(np.sqrt(W))
    same(kmeans.reconstruct(U, Z), R @ U)
    same(kmeans.objective(U, X, Z, weights=W), np.linalg.norm(v @ (X - R @ U), "fro") ** 2)


@formula("brute-force", "kmeans.exact.brute_force")
def _():
    same(kmeans.exact.brute_force(X, K, weights=W).loss, optimum(X, K))


@functools.cache
def partitions(k: int) -> np.ndarray:
    """All labelings of the rows, as indicators of shape (K^N, N, K)."""
    return indicators(np.array(list(itertools.product(range(k), repeat=N))), k)


def optimum(x: np.ndarray, k: int) -> float:
    """The least J of all labelings: what is left of the squares when those of the clusters' means are taken off."""
    r = partitions(k)
    sums, counts = np.einsum("n,pnk,nd->pkd", W, r, x), np.einsum("n,pnk->pk", W, r)
    return float((W @ (x**2).sum(axis=1) - ((sums**2).sum(axis=2) / np.where(counts, counts, 1)).sum(axis=1)).min())


@formula("recurrence", "kmeans.exact.fit_1d")
def _():
    order = np.argsort(X[:, 0])
    x, w = X[order, 0], W[order]

    def cost(m: int, n: int) -> float:
        return float((w[m:n] * (x[m:n] - np.average(x[m:n], weights=w[m:n])) ** 2).sum())

    best = [0.0] + [cost(0, n) for n in range(1, N + 1)]
    for _ in range(K - 1):
        best = [0.0] + [min(best[m] + cost(m, n) for m in range(n)) for n in range(1, N + 1)]
    same(kmeans.exact.fit_1d(X[:, 0], K, weights=W).loss, best[N])


@formula("kmeans-e-step", "kmeans.predict")
def _():
    same(kmeans.predict(U, X), [min(range(K), key=lambda k: np.sum((X[n] - U[k]) ** 2)) for n in range(N)])


@formula("kmeans-gradient", "kmeans.objective")
def _():
    gradient = jax.grad(lambda u: kmeans.objective(u, X, weights=W))(jnp.asarray(U))
    same(gradient, -2 * np.einsum("n,nk,nkd->kd", W, R, X[:, None] - U[None]))


@formula("kmeans-m-step", "kmeans.update")
def _():
    same(kmeans.update(U, X, Z, weights=W), [np.average(X[k == Z], axis=0, weights=W[k == Z]) for k in range(K)])


@formula("parallel-axes", "kmeans.recenter")
def _():
    centers = jnp.asarray(U)
    about = kmeans.recenter(kmeans.e_step(centers, DATA), centers, jnp.asarray(MEANS))
    costs, within = ((W[:, None] * R * squares(X, u)).sum(axis=0) for u in (U, MEANS))
    same(about.costs, within)
    same(about.costs + COUNTS * ((MEANS - U) ** 2).sum(axis=1), costs)


@formula("normal-equations", "kmeans.update")
def _():
    v2 = np.diag(W)
    same(R.T @ v2 @ R, np.diag(COUNTS))
    same(R.T @ v2 @ R @ np.asarray(kmeans.update(U, X, Z, weights=W)), R.T @ v2 @ X)


@formula("kmeans-statistics", "kmeans.e_step")
def _():
    stats = kmeans.e_step(jnp.asarray(U), DATA)
    same(stats.counts, [W[k == Z].sum() for k in range(K)])
    same(stats.sums, [(W[k == Z, None] * (X[k == Z] - U[k])).sum(axis=0) for k in range(K)])


@formula("kmeans-shift", "kmeans.m_step")
def _():
    sums = np.einsum("n,nk,nkd->kd", W, R, X[:, None] - U[None])
    centers = jnp.asarray(U)
    same(kmeans.m_step(kmeans.e_step(centers, DATA), centers), U + sums / COUNTS[:, None])


@formula("descent", "kmeans.objective", "solve.EM")
def _():
    fit = solve.run(kmeans.KMeans(), solve.EM(), U, DATA, max_steps=50).throw()
    costs = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
    u, ends = U, []
    for before, after in itertools.pairwise(costs):
        r = indicators(nearest(X, u))
        new = means(X, W, r)
        same(before, kmeans.objective(u, X, weights=W))
        held = before - ((W @ r) * ((new - u) ** 2).sum(axis=1)).sum()
        same(held, kmeans.objective(new, X, r.argmax(axis=1), weights=W))
        assert after <= held + 1e-12
        ends.append(np.array_equal(new, u) or np.allclose(new, u, rtol=1e-14, atol=0))
        u = new
    # It ends where nothing moves, and not before.
    assert len(ends) > 2
    assert ends == [False] * (len(ends) - 1) + [True]
    same(fit.params, u)


@formula("gradient-step", "solve.Optax")
def _():
    rate = 0.3
    fit = solve.run(kmeans.KMeans(), solve.Optax(optax.sgd, rate), U, DATA, max_steps=1)
    sums = np.einsum("n,nk,nkd->kd", W, R, X[:, None] - U[None])
    same(fit.params, U + 2 * rate / TOTAL * sums)
    same(fit.params, U + 2 * rate * (COUNTS / TOTAL)[:, None] * (MEANS - U))


@formula("newton", "kmeans.update")
def _():
    cost = functools.partial(kmeans.objective, x=X, labels=Z, weights=W)
    gradient, hessian = jax.jacobian(cost)(jnp.asarray(U)), jax.hessian(cost)(jnp.asarray(U))
    expected = 2 * np.einsum("k,kj,de->kdje", COUNTS, np.eye(K), np.eye(D))
    same(hessian, expected)
    step = np.linalg.solve(expected.reshape(K * D, K * D), np.ravel(gradient)).reshape(K, D)
    same(kmeans.update(U, X, Z, weights=W), U - step)


@formula("cost", "kmeans.predict")
def _():
    # The labels of `predict`, apart from rows whose squares overflow, of which ordinary data have none.
    same(kmeans.predict(U, X), labels_reference(jnp.asarray(U), jnp.asarray(X)))

    def operations(n: int, k: int, d: int) -> float:
        shapes = [jax.ShapeDtypeStruct(shape, np.float64) for shape in ((k, d), (n, d))]
        analysis: Any = jax.jit(labels_reference).lower(*shapes).compile().cost_analysis()
        return analysis["flops"]

    n, k, d = 64, 4, 8
    least = operations(n, k, d)
    # What one feature more costs is linear in N and K, and three operations.
    same(operations(n, k, 2 * d) - least, 3 * n * k * d, rtol=0.01)
    assert least < 3 * n * k * d + 10 * n * k


@formula("empty-center", "kmeans.m_step")
def _():
    # Two centers at the means of their rows, and one that serves none.
    z = nearest(X, U[:2])
    centers = jnp.asarray(np.vstack([means(X, W, indicators(z, 2)), [99.0, 99.0]]))
    z = nearest(X, np.asarray(centers))
    at_means = means(X, W, indicators(z, 2))
    costs = ((X - at_means[z]) ** 2).sum(axis=1)
    farthest = costs.argmax()
    start = jnp.asarray(np.vstack([at_means, [99.0, 99.0]]))
    assert (nearest(X, np.asarray(start)) == z).all()
    after = kmeans.m_step(kmeans.e_step(start, DATA), start)
    same(after, np.vstack([at_means, X[farthest]]))
    fall = (W * costs).sum() - (W * squares(X, np.asarray(after)).min(axis=1)).sum()
    assert fall >= W[farthest] * costs[farthest] * (1 - 1e-12)


PLAIN = functools.partial(seeding.kmeans_plus_plus, trials=1)


@functools.cache
def seeded(num_draws: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), num_draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: PLAIN(key, DATA, K)))(keys))


@formula("kmeans-plus-plus", "seeding.kmeans_plus_plus")
def _():
    assert PLAIN.func is seeding.kmeans_plus_plus
    draws = seeded(4000)
    rows = squares(draws.reshape(-1, D), X).argmin(axis=1).reshape(-1, K)
    distances = squares(X, X)
    # Of the first two, over all draws: the share of each pair of rows.
    expected = (W / TOTAL)[:, None] * W[None] * distances / (W[None] * distances).sum(axis=1, keepdims=True)
    counted = np.zeros((N, N))
    np.add.at(counted, (rows[:, 0], rows[:, 1]), 1 / len(rows))
    assert (np.abs(counted - expected) <= 5 * np.sqrt(expected * (1 - expected) / len(rows))).all()
    # And of the third after the commonest first two.
    first, second = np.unravel_index(expected.argmax(), expected.shape)
    mass = W * distances[[first, second]].min(axis=0)
    third = rows[(rows[:, 0] == first) & (rows[:, 1] == second), 2]
    shares, counted = mass / mass.sum(), np.bincount(third, minlength=N) / len(third)
    assert len(third) > 50
    assert (np.abs(counted - shares) <= 5 * np.sqrt(shares * (1 - shares) / len(third))).all()


@formula("seeding-bound", "seeding.kmeans_plus_plus")
def _():
    assert PLAIN.func is seeding.kmeans_plus_plus
    costs = [(W * squares(X, u).min(axis=1)).sum() for u in seeded(4000)]
    least = optimum(X, K)
    assert least < min(costs)
    assert np.mean(costs) <= 8 * (math.log(K) + 2) * least


@formula("maximin", "seeding.maximin")
def _():
    centers = np.asarray(seeding.maximin(jax.random.key(0), DATA, K))
    for j in range(1, K):
        same(centers[j], X[squares(X, centers[:j]).min(axis=1).argmax()])


@formula("spectral-bound", "kmeans.lower_bound")
def _():
    x = np.random.default_rng(0).normal(size=(N, 5)) * np.arange(1, 6)
    centered = x - np.average(x, axis=0, weights=W)
    scatter = (W[:, None] * centered).T @ centered
    bound = np.trace(scatter) - np.sort(np.linalg.eigvalsh(scatter))[::-1][: K - 1].sum()
    same(kmeans.lower_bound(x, K, weights=W), bound)
    assert 0 < bound < optimum(x, K)


# --- Gaussian mixtures ---

FAMILIES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)


def mixture(family: Any = gmm.Full) -> gmm.Mixture:
    """A mixture that fits the rows somewhat: from responsibilities of no mixture."""
    shares = W[:, None] * (0.7 * R + 0.1)
    centers = means(X, np.ones(N), shares)
    centered = X[:, None] - centers[None]
    covariances = np.einsum("nk,nki,nkj->kij", shares, centered, centered) / shares.sum(axis=0)[:, None, None]
    scales, pooled = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2)), covariances.mean(axis=0)
    leaf = {
        gmm.Full: np.linalg.cholesky(covariances),
        gmm.Tied: np.linalg.cholesky(pooled),
        gmm.Diagonal: scales,
        gmm.Spherical: scales[:, 0],
        gmm.TiedDiagonal: np.sqrt(np.diag(pooled)),
        gmm.TiedSpherical: scales[0, 0],
    }[family]
    weights = shares.sum(axis=0) / shares.sum()
    return make(jnp.log(jnp.asarray(weights)), jnp.asarray(centers), family(jnp.asarray(leaf)))


THETA = mixture()
PI, M, C = (np.asarray(a) for a in (THETA.weights, THETA.means, THETA.covariances))
SHARES = np.random.default_rng(1).dirichlet(np.ones(K), size=N)


def gaussian(x: np.ndarray, m: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The density of rows (N, D) under each of K Gaussians."""
    centered = x[:, None] - m[None]
    squares = np.einsum("nki,kij,nkj->nk", centered, np.linalg.inv(c), centered)
    return (2 * np.pi) ** (-m.shape[1] / 2) * np.linalg.det(c) ** -0.5 * np.exp(-squares / 2)


A = PI * gaussian(X, M, C)
POSTERIOR = A / A.sum(axis=1, keepdims=True)
LOG_L = (W * np.log(A.sum(axis=1))).sum()


def q_of(r: np.ndarray, joint: np.ndarray) -> float:
    return (W[:, None] * r * np.log(joint)).sum()


def divergence(r: np.ndarray, posterior: np.ndarray) -> float:
    return (W[:, None] * r * np.log(r / posterior)).sum()


@formula("gaussian", "gmm.Covariance.log_density")
def _():
    for family in FAMILIES:
        theta = mixture(family)
        expected = np.log(gaussian(X, np.asarray(theta.means), np.asarray(theta.covariances)))
        densities = jax.jit(
            lambda theta: theta.covariance.log_density(theta.covariance.prepare(theta.means), jnp.asarray(X))
        )
        same(densities(theta).T, expected)


@formula("cholesky", "linalg.cholesky", "linalg.inverse_tril")
def _():
    factors = linalg.cholesky(jnp.asarray(C))
    white = np.einsum("kij,nkj->nki", linalg.inverse_tril(factors), X[:, None] - M[None])
    centered = X[:, None] - M[None]
    same((white**2).sum(axis=2), np.einsum("nki,kij,nkj->nk", centered, np.linalg.inv(C), centered))
    same(2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1), np.log(np.linalg.det(C)))


@formula("mixture", "gmm.log_prob")
def _():
    assert (PI >= 0).all()
    same(PI.sum(), 1)
    same(np.exp(gmm.log_prob(THETA, X)), sum(PI[k] * gaussian(X, M, C)[:, k] for k in range(K)))


@formula("generation", "gmm.sample")
def _():
    n = 20_000
    x, labels = (np.asarray(a) for a in gmm.sample(jax.random.key(0), THETA, n))
    counts = np.bincount(labels, minlength=K)
    assert (np.abs(counts - n * PI) < 5 * np.sqrt(n * PI * (1 - PI))).all()
    for k in range(K):  # epsilon is white, so its mean and scatter are those of N(0, I)
        epsilon = np.linalg.solve(np.linalg.cholesky(C[k]), (x[labels == k] - M[k]).T).T
        assert (np.abs(epsilon.mean(axis=0)) < 5 / np.sqrt(counts[k])).all()
        assert (np.abs(epsilon.T @ epsilon / counts[k] - np.eye(D)) < 5 * np.sqrt(2 / counts[k])).all()
    mean = PI @ M
    covariance = np.einsum("k,kij->ij", PI, C + np.einsum("ki,kj->kij", M - mean, M - mean))
    assert (np.abs(np.cov(x.T) - covariance) < 0.1 * np.trace(covariance)).all()


@formula("log-likelihood", "gmm.log_likelihood")
def _():
    same(gmm.log_likelihood(THETA, X, weights=W), LOG_L)


@formula("joint", "gmm.log_joint")
def _():
    same(np.exp(gmm.log_joint(THETA, X)), A)


@formula("responsibility", "gmm.responsibilities")
def _():
    same(gmm.responsibilities(THETA, X), POSTERIOR)


@formula("complete-log-likelihood", "gmm.complete_log_likelihood")
def _():
    same(gmm.complete_log_likelihood(THETA, X, Z, weights=W), sum(W[n] * np.log(A[n, Z[n]]) for n in range(N)))


@formula("expected-complete", "gmm.expected_complete_log_likelihood")
def _():
    same(gmm.expected_complete_log_likelihood(THETA, X, SHARES, weights=W), q_of(SHARES, A))


@formula("bound", "gmm.elbo")
def _():
    bound = gmm.elbo(THETA, X, SHARES, weights=W)
    same(bound, (W[:, None] * SHARES * np.log(A / SHARES)).sum())
    same(bound, q_of(SHARES, A) - (W[:, None] * SHARES * np.log(SHARES)).sum())
    assert bound < LOG_L


@formula("entropy", "gmm.entropy")
def _():
    same(gmm.entropy(SHARES, weights=W), -(W[:, None] * SHARES * np.log(SHARES)).sum())
    same(gmm.entropy(R, weights=W), 0)


@formula("gap", "gmm.elbo", "gmm.log_likelihood")
def _():
    gap = gmm.log_likelihood(THETA, X, weights=W) - gmm.elbo(THETA, X, SHARES, weights=W)
    same(gap, divergence(SHARES, POSTERIOR))
    assert gap > 0


@formula("e-step", "gmm.responsibilities", "gmm.log_prob")
def _():
    r = np.asarray(gmm.responsibilities(THETA, X))
    # The condition of the multiplier: the same number for every component.
    same(np.log(A) - np.log(r), np.tile(np.asarray(gmm.log_prob(THETA, X))[:, None], (1, K)))


@formula("touch", "gmm.elbo")
def _():
    same(gmm.elbo(THETA, X, gmm.responsibilities(THETA, X), weights=W), LOG_L)


@formula("mixture-statistics", "gmm.e_step")
def _():
    stats = gmm.e_step(THETA, DATA)
    shares, centered = W[:, None] * POSTERIOR, X[:, None] - M[None]
    same(stats.counts, shares.sum(axis=0))
    same(stats.moments.first, np.einsum("nk,nkd->kd", shares, centered))
    same(stats.moments.second, np.einsum("nk,nki,nkj->kij", shares, centered, centered))


def stepped(family: Any = gmm.Full) -> tuple[gmm.Mixture, np.ndarray, np.ndarray, np.ndarray]:
    """The next parameters; counts, means and scatters about them, from the posterior of the old."""
    old = mixture(family)
    a = np.asarray(old.weights) * gaussian(X, np.asarray(old.means), np.asarray(old.covariances))
    shares = W[:, None] * a / a.sum(axis=1, keepdims=True)
    centers = shares.T @ X / shares.sum(axis=0)[:, None]
    centered = X[:, None] - centers[None]
    scatters = np.einsum("nk,nki,nkj->kij", shares, centered, centered)
    return gmm.m_step(gmm.e_step(old, DATA), old), shares.sum(axis=0), centers, scatters


@formula("m-step-weights", "gmm.m_step")
def _():
    new, counts, _, _ = stepped()
    same(gmm.m_step(gmm.e_step(THETA, DATA), THETA).weights, counts / TOTAL)
    same(new.weights.sum(), 1)


@formula("m-step-means", "gmm.m_step")
def _():
    for family in FAMILIES:
        _, counts, centers, _ = stepped(family)
        old = mixture(family)
        stats = gmm.e_step(old, DATA)
        same(gmm.m_step(stats, old).means, centers)
        same(np.asarray(old.means) + np.asarray(stats.moments.first) / counts[:, None], centers)


@formula("scatter", "gmm.expected_complete_log_likelihood")
def _():
    _, counts, centers, scatters = stepped()
    theta = make(THETA.log_weights, jnp.asarray(centers), THETA.covariance)
    traces = np.einsum("kij,kji->k", np.linalg.inv(C), scatters)
    parts = -0.5 * (counts * D * np.log(2 * np.pi) + counts * np.log(np.linalg.det(C)) + traces)
    value = gmm.expected_complete_log_likelihood(theta, X, POSTERIOR, weights=W)
    same(value, (counts * np.log(PI)).sum() + parts.sum())
    # The lemma: no other covariance does better than the scatter's own.
    matrix = scatters[0] / counts[0]
    least = np.log(np.linalg.det(matrix)) + D
    for factor in np.random.default_rng(0).normal(size=(50, D, D)):
        other = factor @ factor.T
        assert np.log(np.linalg.det(other)) + np.trace(np.linalg.inv(other) @ matrix) > least


@formula("m-step-full", "gmm.Full")
def _():
    new, counts, _, scatters = stepped(gmm.Full)
    same(new.covariances, scatters / counts[:, None, None])


@formula("m-step-tied", "gmm.Tied")
def _():
    new, _, _, scatters = stepped(gmm.Tied)
    same(new.covariances, np.tile(scatters.sum(axis=0) / TOTAL, (K, 1, 1)))


@formula("m-step-diagonal", "gmm.Diagonal")
def _():
    new, counts, _, scatters = stepped(gmm.Diagonal)
    variances = np.diagonal(scatters, axis1=1, axis2=2) / counts[:, None]
    same(new.covariances, [np.diag(v) for v in variances])


@formula("m-step-spherical", "gmm.Spherical")
def _():
    new, counts, _, scatters = stepped(gmm.Spherical)
    same(new.covariances, [np.trace(scatters[k]) / counts[k] / D * np.eye(D) for k in range(K)])


@formula("m-step-tied-diagonal", "gmm.TiedDiagonal")
def _():
    new, _, _, scatters = stepped(gmm.TiedDiagonal)
    same(new.covariances, np.tile(np.diag(np.diagonal(scatters, axis1=1, axis2=2).sum(axis=0)) / TOTAL, (K, 1, 1)))


@formula("m-step-tied-spherical", "gmm.TiedSpherical")
def _():
    new, _, _, scatters = stepped(gmm.TiedSpherical)
    variance = sum(np.trace(scatter) for scatter in scatters) / TOTAL / D
    same(new.covariances, np.tile(variance * np.eye(D), (K, 1, 1)))


@formula("mixture-parallel-axes", "gmm.recenter")
def _():
    new, counts, centers, scatters = stepped()
    stats = gmm.e_step(THETA, DATA)
    shifts = centers - M
    same(gmm.recenter(stats, THETA, new).moments.second, scatters)
    between = counts[:, None, None] * np.einsum("ki,kj->kij", shifts, shifts)
    same(scatters, np.asarray(stats.moments.second) - between)


@formula("free-parameters", "mixture.Mixture.num_free_parameters")
def _():
    of_covariances = (K * D * (D + 1) // 2, D * (D + 1) // 2, K * D, K, D, 1)
    for family, number in zip(FAMILIES, of_covariances, strict=True):
        if family in (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical):
            assert mixture(family).num_free_parameters == K - 1 + K * D + number
    same([mixture(f).num_free_parameters for f in FAMILIES[4:]], [K - 1 + K * D + D, K - 1 + K * D + 1])


@formula("noise", "mixture.Gaussian")
def _():
    variances = np.array([0.2, 0.5])
    component = gmm.Gaussian(regularization=variances)
    prepared, plain = component.prepare(THETA.components), gmm.Gaussian().prepare(THETA.components)
    found = component.log_density(prepared, Rows(jnp.asarray(X)))
    inverses = np.linalg.inv(np.asarray(THETA.covariances))
    traces = np.array([np.trace(inverse @ np.diag(variances)) for inverse in inverses])
    same(found, np.asarray(component.log_density(plain, Rows(jnp.asarray(X)))) - 0.5 * traces[:, None])
    # A quadrature that is exact for squares: two points a feature, a standard deviation to each side.
    signs = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)])
    draws = [component.log_density(plain, Rows(jnp.asarray(X + sign * np.sqrt(variances)))) for sign in signs]
    same(found, np.mean(draws, axis=0))


@formula("ascent", "gmm.expected_complete_log_likelihood", "solve.EM")
def _():
    after = solve.run(EXACT, solve.EM(), THETA, DATA, max_steps=1)
    new: gmm.Mixture = after.params
    a = np.asarray(new.weights) * gaussian(X, np.asarray(new.means), np.asarray(new.covariances))
    before, now = (gmm.expected_complete_log_likelihood(theta, X, POSTERIOR, weights=W) for theta in (THETA, new))
    same(before, q_of(POSTERIOR, A))
    gain = divergence(POSTERIOR, a / a.sum(axis=1, keepdims=True))
    same(after.trace[0] - after.loss, now - before + gain)
    assert now > before
    assert gain > 0


@formula("fisher", "gmm.log_likelihood", "gmm.expected_complete_log_likelihood")
def _():
    def free(function: Callable[..., Any]) -> Any:
        # By the weights, means and factors as they stand, without their constraints.
        return jax.grad(lambda theta: function(theta, X, weights=W))(THETA)

    of_bound = free(
        lambda theta, x, weights: gmm.expected_complete_log_likelihood(theta, x, POSTERIOR, weights=weights)
    )
    jax.tree.map(lambda a, b: same(a, b, rtol=1e-8), free(gmm.log_likelihood), of_bound)


@formula("em-is-a-gradient-step", "gmm.m_step")
def _():
    new = gmm.m_step(gmm.e_step(THETA, DATA), THETA)

    def log_likelihood(pi: Any, m: Any) -> Any:
        return gmm.log_likelihood(make(jnp.log(pi), m, THETA.covariance), X, weights=W)

    by_pi, by_m = jax.grad(log_likelihood, argnums=(0, 1))(THETA.weights, THETA.means)
    counts = (W[:, None] * POSTERIOR).sum(axis=0)
    same(new.means - M, np.einsum("kij,kj->ki", C, by_m) / counts[:, None])
    same(new.weights - PI, (np.diag(PI) - np.outer(PI, PI)) @ np.asarray(by_pi) / TOTAL)


def round_mixture(s: float) -> gmm.Mixture:
    return make(jnp.log(jnp.full(K, 1 / K)), jnp.asarray(U), gmm.TiedSpherical(jnp.asarray(s)))


@formula("soft-assignment", "gmm.responsibilities", "gmm.TiedSpherical")
def _():
    for s in (1.0, 0.02):
        theta = round_mixture(s)
        assert isinstance(theta.covariance, gmm.TiedSpherical)
        logits = -squares(X, U) / (2 * s**2)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        same(gmm.responsibilities(theta, X), powers / powers.sum(axis=1, keepdims=True))
    # By then it is K-means: its labels, and its centers.
    same(gmm.responsibilities(theta, X), R)
    same(gmm.m_step(gmm.e_step(theta, DATA), theta).means, MEANS)


@formula("limit", "kmeans.objective", "gmm.log_likelihood")
def _():
    cost = kmeans.objective(U, X, weights=W)
    for s in (1.0, 0.1, 0.01):
        log_likelihood = gmm.log_likelihood(round_mixture(s), X, weights=W)
        constant = TOTAL * math.log(K) + 0.5 * TOTAL * D * math.log(2 * math.pi * s**2)
        difference = cost + 2 * s**2 * (log_likelihood + constant)
        assert -1e-9 <= difference <= 2 * s**2 * TOTAL * math.log(K)


@formula("hard", "gmm.Hard")
def _():
    def loss(theta: gmm.Mixture) -> Any:
        return solve.objective(exact(type(theta.covariance), assignment=gmm.Hard()), theta, DATA)

    same(-loss(THETA), (W * np.log(A).max(axis=1)).sum())
    # With round components of one spread it is -J / 2 s^2, and a constant.
    s = 0.7
    constant = TOTAL * (math.log(K) + 0.5 * D * math.log(2 * math.pi * s**2))
    same(-loss(round_mixture(s)), -kmeans.objective(U, X, weights=W) / (2 * s**2) - constant)


@formula("tempered", "gmm.Tempered")
def _():
    for beta in (0.3, 1.0, 4.0):
        tempered = gmm.Tempered(beta)
        evidence, r = (np.asarray(a).T for a in tempered(gmm.log_joint(THETA, X).T))
        powers = A**beta
        same(r, powers / powers.sum(axis=1, keepdims=True))
        same(evidence, np.log(powers.sum(axis=1)) / beta)

        def bound(r: np.ndarray, beta: float = beta) -> float:
            return q_of(r, A) - (W[:, None] * r * np.log(r)).sum() / beta

        same(bound(r), (W * evidence).sum())
        assert bound(0.99 * r + 0.01 * SHARES) < bound(r)


@formula("start", "gmm.start.from_centers")
def _():
    theta = gmm.start.from_centers(U, DATA, problem=gmm.GaussianMixture(gmm.Diagonal, regularization=0.0))
    deviations = np.sqrt(np.diag(np.cov(X.T, aweights=W, bias=True)))
    labels = nearest(X / deviations, U / deviations)
    resp = indicators(labels)
    same(theta.weights, W @ resp / TOTAL)
    same(theta.means, means(X, W, resp))
    own = [np.cov(X[k == labels].T, aweights=W[k == labels], bias=True) for k in range(K)]
    same(theta.covariances, [np.diag(np.diag(each)) for each in own])
