"""The same key, the same bits: in this process and in another, on one thread, and however many restarts there are."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmix import gmm, kmeans, solve

ROOT = Path(__file__).parents[1]
KEY = jax.random.key(0)
# So many rows that XLA cuts a product of them by its threads.
N, D, K = 20_000, 16, 32


def rows(dtype=jnp.float32):
    key, centers_key = jax.random.split(KEY)
    x = jax.random.normal(key, (N, D), dtype)
    return x + 4 * jax.random.normal(centers_key, (K, D), dtype)[jnp.arange(N) % K]


def bits(tree) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def few() -> dict[str, str]:
    x = rows()
    return {
        "K-means": bits(kmeans.fit_restarts(KEY, x[:2000], 4, init=x[:4], max_steps=5)),
        "start": bits(gmm.start.from_centers(x[:K], x, problem=gmm.GaussianMixture(gmm.Tied))),
    }


def many() -> dict[str, str]:
    """Seedings, families and solvers, at two sizes."""
    found = {}
    for num_rows in (300, N):
        x = rows()[:num_rows]
        found[f"K-means {num_rows}"] = bits(kmeans.fit_restarts(KEY, x, K, restarts=2, max_steps=20))
        for family in (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical):
            found[f"{family.__name__} {num_rows}"] = bits(
                gmm.fit_restarts(KEY, x, K, covariance=family, restarts=2, max_steps=3)
            )
        for solver in (solve.Squarem(), solve.LBFGS(), solve.Optax(optax.adam, 0.1), solve.Stepwise(100, KEY)):
            problem = gmm.GaussianMixture(gmm.Diagonal)
            start = gmm.start.from_centers(x[:K], x, problem=problem)
            fit = solve.run(problem, solver, start, x, max_steps=3)
            found[f"{type(solver).__name__} {num_rows}"] = bits(fit)
    return found


def elsewhere(which: str, **environment: str) -> dict[str, str]:
    """The digests of another process, which compiles everything itself."""
    environment = {**os.environ, "JAX_ENABLE_X64": "1", **environment}
    command = [sys.executable, "-m", "tests.test_determinism", which]
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=280)
    return dict(line.rsplit(" ", 1) for line in found.stdout.splitlines())


# What jaxlib makes its pool of threads from, before it looks at the processors that it may use.
ONE_THREAD = {"NPROC": "1"}


def test_same_bits_again_and_in_another_process_on_one_thread():
    here = few()
    assert few() == here
    assert elsewhere("few", **ONE_THREAD) == here


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, ONE_THREAD], ids=["as here", "one thread"])
def test_same_bits_in_every_process(environment):
    here = many()
    found = elsewhere("many", **environment)
    assert {name for name in here if here[name] != found[name]} == set()


@pytest.mark.parametrize("family", [None, pytest.param(gmm.Full, marks=pytest.mark.slow)], ids=["K-means", "Full"])
def test_a_restart_is_the_same_fit_to_the_bit_whatever_their_number(family):
    x = np.asarray(rows()[:90, :2], float)
    fit_restarts = kmeans.fit_restarts if family is None else gmm.fit_restarts
    fits = {restarts: fit_restarts(KEY, x, 4, restarts=restarts, max_steps=30) for restarts in (2, 5)}
    first = jax.tree.map(lambda leaf: leaf[:2], fits[5])
    jax.tree.map(np.testing.assert_array_equal, fits[2], first)
    # Restarts do differ, though two may start from one optimum of K-means.
    assert len(np.unique(fits[5].trace[:, 0])) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("family", [gmm.Diagonal, gmm.Spherical])
def test_starts_of_mixtures_have_the_same_bits_whatever_their_number(family):
    x = np.asarray(rows()[:300, :5])
    fits = [gmm.fit_restarts(KEY, x, 4, covariance=family, restarts=restarts, max_steps=0) for restarts in (3, 8)]
    jax.tree.map(lambda few, many: np.testing.assert_array_equal(few, many[:3]), *fits)


@pytest.mark.slow
@pytest.mark.parametrize("family", [gmm.Diagonal, pytest.param(gmm.Full, marks=pytest.mark.slow)])
def test_fits_side_by_side_have_the_same_bits_whatever_their_number(family):
    x = np.asarray(rows()[:300, :5])
    centers = jnp.stack([x[i : i + 4] for i in range(9)])
    problem = gmm.GaussianMixture(family)
    starts = jax.vmap(lambda u: gmm.start.from_centers(u, x, problem=problem))(centers)

    def fits(num):
        some = jax.tree.map(lambda leaf: leaf[:num], starts)
        return solve.run_many(problem, solve.EM(), some, x, num_parallel=4, max_steps=10)

    many = fits(9)
    for num in (1, 3, 6):
        jax.tree.map(lambda few, many, num=num: np.testing.assert_array_equal(few, many[:num]), fits(num), many)


@pytest.mark.slow
def test_a_restart_of_a_mixture_is_the_same_fit_to_rounding_however_many_run_side_by_side():
    x = np.asarray(rows()[:90, :2], float)
    centers = jnp.stack([x[i : i + 4] for i in range(5)])
    problem = gmm.GaussianMixture(gmm.Tied)
    starts = jax.vmap(lambda u: gmm.start.from_centers(u, x, problem=problem))(centers)
    one, *others = (solve.run_many(problem, solve.EM(), starts, x, num_parallel=num, max_steps=10) for num in (1, 2, 5))
    for fits in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), fits, one)


if __name__ == "__main__":
    for name, digest in {"few": few, "many": many}[sys.argv[1]]().items():
        print(name, digest)
