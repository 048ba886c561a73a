"""The EM map of a full Gaussian mixture in weights, means and covariances: its step, its gradient and its rate.

With theta = (weights w, means, covariances C) and N_k = sum_n r_nk, the matrix P(theta) of Xu and Jordan (1996) is
block diagonal and positive definite on tangents:

    weights        (diag(w) - w w^T) / N
    mean k         C_k / N_k
    covariance k   2 / N_k  C_k (x) C_k

and EM goes from theta to theta + P grad log L, but for the outer products of the means' shifts, of second order: it
takes covariances about the new means. At a maximum its Jacobian is J = I + P H, H the Hessian of log L, which is
symmetric in the metric of P^-1: its eigenvalues are real, and a Rayleigh quotient is never above the largest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import Data, gmm, linalg
from jaxmix.mixture import Mixture, Normal

NO_RATE = 1e-8
"""Below this the Jacobian is rounding."""


class Point(NamedTuple):
    """The parameters themselves, or a tangent at them: weights that sum to zero, symmetric matrices.

    Attributes:
      weights: Array of shape (K,).
      means: Array of shape (K, D).
      covariances: Array of shape (K, D, D).
    """

    weights: Array
    means: Array
    covariances: Array


class Rate(NamedTuple):
    """The largest eigenvalue of the EM map's Jacobian.

    Attributes:
      value: Array of shape (), a Rayleigh quotient, never above it at a maximum.
      error: Array of shape (): some eigenvalue lies within this distance.
      split: Array of shape (): |J v - (v + P H v)| / |v| for its vector v.
    """

    value: Array
    error: Array
    split: Array


def point_of(params: Mixture) -> Point:
    """The parameters of a mixture."""
    return Point(params.weights, params.means, params.covariances)


def mixture_of(point: Point) -> Mixture:
    """The mixture with these parameters; both halves of a covariance count, so that gradients are symmetric."""
    covariances = 0.5 * (point.covariances + jnp.swapaxes(point.covariances, 1, 2))
    return Mixture(jnp.log(point.weights), Normal(point.means, gmm.Full(linalg.cholesky(covariances))))


def em(point: Point, data: Data) -> Point:
    """One E-step and one M-step."""
    params = mixture_of(point)
    return point_of(gmm.m_step(gmm.e_step(params, data), params))


@jax.jit
def gradient(point: Point, data: Data) -> Point:
    """That of the log-likelihood, every entry by itself: the weights are not held to their sum."""
    return jax.grad(lambda at: gmm.log_likelihood(mixture_of(at), data.x, weights=data.weights))(point)


@jax.jit
def counts_of(point: Point, data: Data) -> Array:
    """The rows that each component has a share in, N_k, of shape (K,)."""
    return gmm.e_step(mixture_of(point), data).counts


def preconditioned(point: Point, counts: Array, vector: Point) -> Point:
    """P times a vector; what its weights have in common is lost."""
    centered = vector.weights - jnp.sum(point.weights * vector.weights)
    return Point(
        point.weights * centered / jnp.sum(counts),
        _matvec(point.covariances, vector.means) / counts[:, None],
        2 * _between(point.covariances, vector.covariances) / counts[:, None, None],
    )


def metric(point: Point, counts: Array, tangent: Point) -> Point:
    """P^-1 times a tangent."""
    inverse = linalg.inverse_tril(linalg.cholesky(point.covariances))
    precisions = jnp.matmul(jnp.swapaxes(inverse, 1, 2), inverse, precision=linalg.PRECISION)
    return Point(
        tangent.weights / point.weights * jnp.sum(counts),
        _matvec(precisions, tangent.means) * counts[:, None],
        0.5 * _between(precisions, tangent.covariances) * counts[:, None, None],
    )


def eigenvalues_of_p(point: Point, counts: Array) -> Array:
    """The least and the largest eigenvalue of P on tangents, of shape (2,)."""
    k = len(counts)
    onto = jnp.linalg.svd(jnp.eye(k) - 1 / k)[2][: k - 1]  # an orthonormal basis of what sums to zero
    block = (jnp.diag(point.weights) - jnp.outer(point.weights, point.weights)) / jnp.sum(counts)
    spectra = jnp.linalg.eigvalsh(point.covariances)
    squares = 2 * jnp.square(spectra) / counts[:, None]  # of C (x) C the extremes are those of C, squared
    every = jnp.concatenate(
        [jnp.linalg.eigvalsh(onto @ block @ onto.T), (spectra / counts[:, None]).ravel(), squares.ravel()]
    )
    return jnp.stack([every.min(), every.max()])


def inner(a: Point, b: Point) -> Array:
    """The sum of products of all entries."""
    return sum((jnp.vdot(u, v) for u, v in zip(a, b, strict=True)), start=jnp.zeros(()))


def minus(a: Point, b: Point) -> Point:
    """The difference, entry by entry."""
    return jax.tree.map(jnp.subtract, a, b)


@jax.jit
def climb(point: Point, data: Data, most: int, least: float) -> tuple[Point, Array, Array]:
    """EM until a step is no longer than `least`, or `most` steps: the end, the last two lengths and their number."""

    def step(state: Any) -> Any:
        at, lengths, num_steps = state
        after = em(at, data)
        change = minus(after, at)
        return after, jnp.stack([lengths[1], jnp.sqrt(inner(change, change))]), num_steps + 1

    start = (point, jnp.full(2, jnp.inf, data.x.dtype), jnp.asarray(0))
    return jax.lax.while_loop(lambda state: (state[2] < most) & (state[1][1] > least), step, start)


@jax.jit
def rate(point: Point, data: Data, key: Array, most: int, rtol: float) -> Rate:
    """Power iteration with v -> J v by forward differentiation, from a random tangent; no more than `most` times."""
    counts = counts_of(point, data)
    keys = jax.random.split(key, 3)
    noise = Point(*(jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, point, strict=True)))
    tangent = Point(
        noise.weights - jnp.mean(noise.weights),
        noise.means,
        noise.covariances + jnp.swapaxes(noise.covariances, 1, 2),
    )

    def norm(v: Point) -> Array:
        return jnp.sqrt(inner(v, metric(point, counts, v)))

    def scaled(v: Point) -> Point:
        length = norm(v)
        return jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1), v)

    def step(state: Any) -> Any:
        v, _, _, turn = state
        image = jax.jvp(lambda at: em(at, data), (point,), (v,))[1]
        value = inner(image, metric(point, counts, v))
        error = norm(jax.tree.map(lambda a, b: a - value * b, image, v))
        return scaled(image), value, error, turn + 1

    def unsure(state: Any) -> Array:
        _, value, error, turn = state
        return (turn < most) & (error > rtol * value) & (value + error > NO_RATE)

    zero = jnp.zeros((), data.x.dtype)
    v, value, error, _ = jax.lax.while_loop(unsure, step, (scaled(tangent), zero, zero + jnp.inf, 0))
    image = jax.jvp(lambda at: em(at, data), (point,), (v,))[1]
    bent = jax.jvp(lambda at: gradient(at, data), (point,), (v,))[1]
    return Rate(value, error, norm(minus(minus(image, v), preconditioned(point, counts, bent))))


def _matvec(matrices: Array, vectors: Array) -> Array:
    return jnp.einsum("kij,kj->ki", matrices, vectors, precision=linalg.PRECISION)


def _between(outer: Array, middle: Array) -> Array:
    return jnp.einsum("kij,kjl,klm->kim", outer, middle, outer, precision=linalg.PRECISION)
