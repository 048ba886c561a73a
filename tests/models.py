"""Two plain models on the contract of problems: what the library's own must equal, and what tests of solvers fit."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import Data, Problem
from jaxmix.pytree import choice


class PoissonParams(NamedTuple):
    logits: Array  # (K,)
    log_rates: Array  # (K, D)


class PoissonStats(NamedTuple):
    loss: Array
    counts: Array
    sums: Array


@choice
class PoissonMixture(Problem):
    """Independent Poisson counts; its statistics are about nothing."""

    def prepare(self, params):
        return jax.nn.log_softmax(params.logits), params.log_rates, jnp.sum(jnp.exp(params.log_rates), axis=1)

    def log_joint(self, prepared, x):
        log_weights, log_rates, totals = prepared
        log_factorials = jnp.sum(jax.lax.lgamma(x + 1), axis=1)
        return (log_weights - totals)[:, None] + log_rates @ x.T - log_factorials[None]

    def e_step(self, prepared, rows):
        log_joint = self.log_joint(prepared, rows.x)
        shares = rows.weigh(jax.nn.softmax(log_joint, axis=0))
        loss = -jnp.sum(rows.weigh(jax.nn.logsumexp(log_joint, axis=0)))
        return PoissonStats(loss, jnp.sum(shares, axis=1), shares @ rows.x)

    def m_step(self, stats, params):
        # The floor keeps a component that has lost all its rows finite.
        tiny = jnp.finfo(stats.counts.dtype).tiny
        counts = jnp.maximum(stats.counts, tiny)
        return PoissonParams(jnp.log(counts), jnp.log(jnp.maximum(stats.sums, tiny) / counts[:, None]))

    def recenter(self, stats, params, new):
        return stats


class Mixture(NamedTuple):
    log_weights: Array  # (K,)
    means: Array  # (K, D)
    scale_tril: Array  # (K, D, D)


class MixtureStats(NamedTuple):
    loss: Array
    counts: Array
    first: Array  # (K, D), about the means
    second: Array  # (K, D, D), likewise


@choice
class FullMixture(Problem):
    """Gaussians of full covariance, each with a prior of `prior_count` rows of variance `prior_scatter`."""

    prior_count: float = 0.0
    prior_scatter: float = 1.0

    def prepare(self, params):
        eye = jnp.broadcast_to(jnp.eye(params.means.shape[1], dtype=params.means.dtype), params.scale_tril.shape)
        whiten = jax.lax.linalg.triangular_solve(params.scale_tril, eye, left_side=True, lower=True)
        log_determinants = jnp.sum(jnp.log(jnp.diagonal(whiten, axis1=1, axis2=2)), axis=1)
        log_weights = jax.nn.log_softmax(params.log_weights)
        constant = 0.5 * params.means.shape[1] * math.log(2 * math.pi)
        return log_weights + log_determinants - constant, params.means, whiten

    def log_joint(self, prepared, x):
        constants, means, whiten = prepared
        white = jnp.einsum("kij,knj->kni", whiten, x[None] - means[:, None])
        return constants[:, None] - 0.5 * jnp.sum(jnp.square(white), axis=2)

    def e_step(self, prepared, rows):
        log_joint = self.log_joint(prepared, rows.x)
        shares = rows.weigh(jax.nn.softmax(log_joint, axis=0))
        centered = rows.x[None] - prepared[1][:, None]
        return MixtureStats(
            loss=-jnp.sum(rows.weigh(jax.nn.logsumexp(log_joint, axis=0))),
            counts=jnp.sum(shares, axis=1),
            first=jnp.einsum("kn,kni->ki", shares, centered),
            second=jnp.einsum("kn,kni,knj->kij", shares, centered, centered),
        )

    def m_step(self, stats, params):
        is_on = stats.counts > 0
        counts = jnp.where(is_on, stats.counts, 1)
        shift = stats.first / counts[:, None]
        eye = jnp.eye(shift.shape[1], dtype=shift.dtype)[None]
        within = stats.second - counts[:, None, None] * shift[:, :, None] * shift[:, None]
        pooled = within + self.prior_count * self.prior_scatter * eye
        covariances = jnp.where(is_on[:, None, None], pooled / (counts + self.prior_count)[:, None, None], eye)
        scale_tril = jnp.where(is_on[:, None, None], jnp.linalg.cholesky(covariances), params.scale_tril)
        log_weights = jnp.log(stats.counts) - jnp.log(jnp.sum(stats.counts))
        return Mixture(log_weights, params.means + jnp.where(is_on[:, None], shift, 0), scale_tril)

    def penalty(self, params):
        whiten = self.prepare(params)[2]
        log_determinants = -2 * jnp.sum(jnp.log(jnp.diagonal(whiten, axis1=1, axis2=2)))
        return 0.5 * self.prior_count * (self.prior_scatter * jnp.sum(jnp.square(whiten)) + log_determinants)

    def recenter(self, stats, params, new):
        shift = new.means - params.means
        cross = shift[:, :, None] * stats.first[:, None]
        squares = stats.counts[:, None, None] * shift[:, :, None] * shift[:, None]
        return stats._replace(
            first=stats.first - stats.counts[:, None] * shift,
            second=stats.second - cross - jnp.swapaxes(cross, 1, 2) + squares,
        )

    def unconstrain(self, params):
        return params._replace(scale_tril=_map_diagonal(jnp.log, params.scale_tril))

    def constrain(self, free):
        return Mixture(
            jax.nn.log_softmax(free.log_weights), free.means, jnp.tril(_map_diagonal(jnp.exp, free.scale_tril))
        )

    def moved(self, params, frame):
        return self, None if params is None else params._replace(means=frame.apply(params.means))


def _map_diagonal(function, matrices):
    eye = jnp.eye(matrices.shape[-1], dtype=bool)[None]
    return jnp.where(eye, function(jnp.where(eye, matrices, 1)), matrices)


def mixture_of_shares(shares: np.ndarray, data: Data, problem: FullMixture) -> Mixture:
    """The M-step of responsibilities of shape (N, K)."""
    weighted = jnp.asarray(shares, data.x.dtype) * data.weights[:, None]
    zeros = jnp.zeros((weighted.shape[1], data.x.shape[1]), data.x.dtype) + data.origin[None]
    centered = data.x[None] - zeros[:, None]
    stats = MixtureStats(
        loss=jnp.zeros((), data.x.dtype),
        counts=jnp.sum(weighted, axis=0),
        first=jnp.einsum("nk,kni->ki", weighted, centered),
        second=jnp.einsum("nk,kni,knj->kij", weighted, centered, centered),
    )
    eye = jnp.eye(data.x.shape[1], dtype=data.x.dtype)
    start = Mixture(jnp.zeros(len(zeros), data.x.dtype), zeros, jnp.broadcast_to(eye, (len(zeros), *eye.shape)))
    return problem.m_step(stats, start)


def mixture_of_labels(labels: np.ndarray, data: Data, k: int, problem: FullMixture) -> Mixture:
    """The M-step of labels of shape (N,)."""
    return mixture_of_shares(np.eye(k)[np.asarray(labels)], data, problem)


def with_one_off(params: Mixture) -> Mixture:
    """The same mixture, and one component more that is switched off."""
    num_features = params.means.shape[1]
    return Mixture(
        jnp.concatenate([params.log_weights, jnp.array([-jnp.inf])]),
        jnp.concatenate([params.means, jnp.full((1, num_features), 7.0)]),
        jnp.concatenate([params.scale_tril, 3 * jnp.eye(num_features)[None]]),
    )


class Cost(NamedTuple):
    loss: Array


@choice
class Wall(Problem):
    """A parameter that EM takes to nine tenths of itself; the loss is the parameter, and high beyond a wall."""

    def e_step(self, prepared, rows):
        return Cost(jnp.where(prepared < 0.5, 10.0, prepared))

    def m_step(self, stats, params):
        return 0.9 * params
