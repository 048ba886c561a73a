"""EM for Gaussian mixtures: the E-step, the M-step, and the `Problem`."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door, linalg, rows
from jaxmix.gmm import prior as priors
from jaxmix.gmm.covariance import Moments
from jaxmix.gmm.covariance.base import LOG_TWO_PI
from jaxmix.gmm.model import GMM, joint_of
from jaxmix.gmm.posterior import Posterior, Soft, Tempered
from jaxmix.kernels import mixture, quadratic
from jaxmix.types import ArrayLike, Data

DEFAULT_REGULARIZATION = 1e-6


class Stats(NamedTuple):
    """What the E-step hands to the M-step; `rows.merge` adds those of disjoint rows.

    Attributes:
      loss: Array of shape (), minus the evidence: with `Soft`, minus the log-likelihood.
      moments: sums about the means that the E-step saw.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> stats = gmm.e_step(mixture, as_data([[1.0], [3.0]]))
      >>> stats.moments.counts.tolist(), stats.moments.second.ravel().tolist()
      ([2.0], [10.0])
    """

    loss: Array
    moments: Moments


def e_step(params: GMM, data: Data | ArrayLike, *, posterior: Posterior = Soft()) -> Stats:
    r"""Shares every row among the components, and sums what the M-step needs.

    $$N_k = \sum_n w_n r_{nk}, \qquad \sum_n w_n r_{nk} (x_n - m_k), \qquad \sum_n w_n r_{nk} (x_n - m_k)(x_n - m_k)^T$$

    Args:
      params: a mixture of K components.
      data: `Data` of N rows, or an array of shape (N, D).
      posterior: `Soft()`, `Hard()` or `Tempered(beta)`.

    Returns:
      `Stats`, additive over rows.

    References:
      Bishop (2006), section 9.2.2, step 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [0.0]], jnp.ones((2, 1, 1)))
      >>> gmm.e_step(mixture, as_data([[0.0], [1.0]])).moments.counts.tolist()
      [1.0, 1.0]
    """
    return _statistics(params, door.as_data(data), posterior, kinds=door.kinds(posterior))


@partial(jax.jit, static_argnames="kinds")
def _statistics(params: GMM, data: Data, posterior: Posterior, *, kinds: tuple) -> Stats:
    return _choose(params, data, posterior, _by_products, _by_differences)


def _choose(params: GMM, data: Data, posterior: Posterior, by_products: Callable, by_differences: Callable) -> Any:
    """Products of features where there are many rows and little is lost by them, else direct differences."""
    # On CPU alone: elsewhere fits run side by side, and a choice by value takes both its ways under `vmap`.
    many = data.x.shape[0] >= quadratic.LEAST_ROWS and jax.default_backend() == "cpu"
    if not (many and hasattr(params.covariance, "expand")):
        return by_differences(params, data, posterior)
    covariance: Any = params.covariance
    expansion: quadratic.Expansion = covariance.expand(params.means - data.origin[None])
    if expansion.coefficients.shape[1] > quadratic.MOST_PRODUCTS:
        return by_differences(params, data, posterior)
    return jax.lax.cond(
        jnp.all(quadratic.keeps(expansion) | ~params.is_on),
        lambda: by_products(expansion, params, data, posterior),
        lambda: by_differences(params, data, posterior),
    )


def _by_differences(params: GMM, data: Data, posterior: Posterior) -> Stats:
    joint = joint_of(params)

    def of_chunk(chunk: Data) -> Stats:
        evidence, shares = posterior(joint(chunk.x))
        weighted = chunk.weights[:, None] * shares
        counts = linalg.dot(weighted.T, jnp.ones_like(chunk.weights))
        moments = Moments(counts, *params.covariance.moments(weighted, params.means, chunk.x))
        return Stats(-linalg.dot(chunk.weights, evidence), moments)

    return rows.merge_chunks(of_chunk, data, mixture.chunk_rows(data.x.shape[0], *params.means.shape))


def _by_products(expansion: quadratic.Expansion, params: GMM, data: Data, posterior: Posterior) -> Stats:
    """The same where products of features may be summed about the origin of the data."""
    expansion = _silenced(expansion, params)
    covariance = cast(Any, params.covariance)

    def of_chunk(chunk: Data) -> Stats:
        joint, features = _joint_by_products(expansion, params, chunk)
        evidence, shares = posterior(joint)
        weighted = (chunk.weights[:, None] * shares).T
        counts, first, products = quadratic.moments(expansion, weighted, features)
        return Stats(-linalg.dot(chunk.weights, evidence), Moments(counts, first, covariance.collect(products)))

    return rows.merge_chunks(of_chunk, data, quadratic.chunk_rows(data.x.shape[0], expansion))


def _silenced(expansion: quadratic.Expansion, params: GMM) -> quadratic.Expansion:
    # What is off may lie anywhere.
    is_on = params.is_on[:, None]
    return expansion._replace(
        coefficients=jnp.where(is_on, expansion.coefficients, 0), means=jnp.where(is_on, expansion.means, 0)
    )


def _joint_by_products(expansion: quadratic.Expansion, params: GMM, chunk: Data) -> tuple[Array, quadratic.Features]:
    """Log joint densities, (n, K), and the products of features that they were made of."""
    features = quadratic.features_of(expansion, chunk.x - chunk.origin[None])
    constants = params.log_weights - 0.5 * params.means.shape[1] * LOG_TWO_PI
    return (quadratic.scores(expansion, features) + constants[:, None]).T, features


@partial(jax.jit, static_argnames="kinds")
def _loss(params: GMM, data: Data, posterior: Posterior, *, kinds: tuple) -> Array:
    return _minus_evidence(params, data, posterior)


@jax.custom_jvp
def _minus_evidence(params: GMM, data: Data, posterior: Posterior) -> Array:
    """Minus the evidence, as the E-step takes it."""
    return _choose(params, data, posterior, _loss_by_products, _loss_by_differences)


@_minus_evidence.defjvp
def _minus_evidence_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # From differences alone: derivatives of terms that cancel would lose more than the terms do.
    return jax.jvp(_loss_by_differences, primals, tangents)


def _loss_by_differences(params: GMM, data: Data, posterior: Posterior) -> Array:
    joint = joint_of(params)

    # Under `jax.grad` a chunk is computed again rather than stored.
    @jax.checkpoint
    def of_chunk(chunk: Data) -> Array:
        return -linalg.dot(chunk.weights, posterior(joint(chunk.x))[0])

    return rows.merge_chunks(of_chunk, data, mixture.chunk_rows(data.x.shape[0], *params.means.shape))


def _loss_by_products(expansion: quadratic.Expansion, params: GMM, data: Data, posterior: Posterior) -> Array:
    expansion = _silenced(expansion, params)

    def of_chunk(chunk: Data) -> Array:
        return -linalg.dot(chunk.weights, posterior(_joint_by_products(expansion, params, chunk)[0])[0])

    return rows.merge_chunks(of_chunk, data, quadratic.chunk_rows(data.x.shape[0], expansion))


@jax.jit
def m_step(
    stats: Stats,
    params: GMM,
    *,
    regularization: Array | float = 0.0,
    prior: priors.NormalInverseWishart | None = None,
) -> GMM:
    r"""The mixture that maximises the expected complete log-likelihood for the responsibilities behind `stats`.

    $$\pi_k = N_k / \sum_j N_j, \qquad m_k' = m_k + \frac{1}{N_k} \sum_n w_n r_{nk} (x_n - m_k)$$

    and the family's own step for the covariances. A component without rows keeps its mean and its covariance and
    gets weight zero: it is switched off, and stays off.

    With a prior it is the step of MAP-EM,

    $$m_k' = \frac{N_k \bar x_k + \kappa \mu}{N_k + \kappa}, \qquad C_k' = \frac{\Lambda + S_k
      + \frac{\kappa N_k}{N_k + \kappa} (\bar x_k - \mu)(\bar x_k - \mu)^T}{N_k + \nu + D + 2}$$

    for `Full`, with $S_k$ the scatter about $\bar x_k$. A component without rows then goes to the mode of the prior and
    stays on, with a weight too small to change anything. What was switched off stays off either way.

    Args:
      stats: what `e_step` returned.
      params: the mixture that `e_step` was given.
      regularization: of shape (), added to the diagonals of the covariances, in squared units of x. Above 0 the step
        is not the maximiser of any bound, and the likelihood may fall a little.
      prior: a conjugate prior, or None for maximum likelihood.

    Returns:
      A `GMM` of the same family.

    References:
      Bishop (2006), equations 9.24 to 9.26; Fraley and Raftery (2007), section 3, with a prior.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> fitted = gmm.m_step(gmm.e_step(mixture, as_data([[1.0], [3.0]])), mixture)
      >>> fitted.means.item(), fitted.covariances.item()
      (2.0, 1.0)
    """
    counts = stats.moments.counts
    # So few that their sums are denormal, or their squares would be: none.
    counts = degrees = jnp.where(counts <= _least_share(counts.dtype) * jnp.sum(counts), 0, counts)
    moments = stats.moments._replace(counts=counts)
    shift = moments.shift
    if prior is not None:
        counts = priors.pseudo_counts(prior, counts, params)
        shift, moments, degrees = priors.observe(prior, moments, params)
    log_weights = jnp.where(counts == 0, -jnp.inf, jnp.log(jnp.where(counts == 0, 1, counts)))
    means = params.means + shift
    covariance = params.covariance.maximize(moments, degrees, regularization)
    # Narrower than the rounding of its place: what looks like a width is noise, and so would the likelihood be.
    widths = jnp.sqrt(jnp.diagonal(covariance.dense(*means.shape), axis1=1, axis2=2))
    lost = (widths <= 2 * jnp.finfo(means.dtype).eps * jnp.abs(means)) & (counts > 0)[:, None]
    return GMM(log_weights - jnp.log(jnp.sum(counts)), jnp.where(lost, jnp.nan, means), covariance)


def _least_share(dtype: Any) -> float:
    """The share of all weight below which a component has no rows."""
    return float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps ** 2)


@jax.jit
def recentre(stats: Stats, params: GMM, about: GMM) -> Stats:
    r"""The statistics of the same rows with the same responsibilities, about other means.

    $$\sum_n w_n r_{nk} (x_n - m_k') = \sum_n w_n r_{nk} (x_n - m_k) + N_k (m_k - m_k')$$

    Args:
      stats: what `e_step` returned.
      params: the mixture that `e_step` was given.
      about: a mixture with other means.

    Returns:
      `Stats`; the loss is left as it was.

    References:
      Steiner's theorem of parallel axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> stats = gmm.e_step(mixture, as_data([[1.0], [3.0]]))
      >>> gmm.recentre(stats, mixture, mixture._replace(means=jnp.full((1, 1), 2.0))).moments.second.item()
      2.0
    """
    counts, first, second = stats.moments
    shift = jnp.where(params.means == about.means, 0, params.means - about.means)
    # Only the part between mean and center changes: that of each component's rows, gathered at their mean.
    gathered, origin = jnp.diag(counts), jnp.zeros_like(first)

    def between(offsets: Array) -> Any:
        return params.covariance.moments(gathered, origin, offsets)[1]

    mean = stats.moments.shift
    second = jax.tree.map(lambda s, new, old: s + new - old, second, between(mean + shift), between(mean))
    return stats._replace(moments=Moments(counts, first + counts[:, None] * shift, second))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    r"""Maximise $\sum_n w_n \log \sum_k \pi_k N(x_n \mid m_k, C_k)$ over a `GMM`.

    The loss is minus the log-likelihood, or minus the evidence of another `posterior`. Unconstrained coordinates:
    log weights up to a constant, means, and the family's own.

    Attributes:
      regularization: added to the diagonals of the covariances at each M-step, as scikit-learn's `reg_covar`;
        traced, in squared units of x. It is not part of the loss, which may therefore rise a little. At 0 the loss
        never rises under EM, and a component that collapses onto a row ends its fit with `Status.NONFINITE`.
        None means 1e-6 without a prior, and 0 with one.
      posterior: `Soft()` for EM, `Hard()` for classification EM, `Tempered(beta)` for annealing.
      prior: a `NormalInverseWishart`, such as `fraley_raftery(x, k)`, or None. Minus its log density is the penalty:
        the fit is MAP, and the penalised loss, which `Fit.loss` then is, never rises.

    References:
      Dempster, Laird and Rubin (1977), section 4.3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm, solve
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> solve.run(gmm.GaussianMixture(), solve.EM(), mixture, jnp.array([[1.0], [3.0]])).params.means.item()
      2.0
    """

    regularization: Array | float | None = None
    posterior: Posterior = Soft()
    prior: priors.NormalInverseWishart | None = None

    def check(self) -> None:
        """Refuses a regularization, a temperature or a prior that cannot be meant."""
        if self.regularization is not None:
            door.check_least(self.regularization, "regularization", 0)
        if isinstance(self.posterior, Tempered):
            door.check_least(self.posterior.inverse_temperature, "inverse_temperature", 0, strictly=True)
        if self.prior is not None:
            priors.check(self.prior)

    def e_step(self, params: GMM, data: Data) -> Stats:
        """`gmm.e_step` with the posterior."""
        return e_step(params, data, posterior=self.posterior)

    def m_step(self, stats: Stats, params: GMM) -> GMM:
        """`gmm.m_step` with the regularization and the prior."""
        chosen = self.regularization
        if chosen is None:
            chosen = DEFAULT_REGULARIZATION if self.prior is None else 0.0
        return m_step(stats, params, regularization=jnp.asarray(chosen, params.means.dtype), prior=self.prior)

    def recentre(self, stats: Stats, params: GMM, about: GMM) -> Stats:
        """`gmm.recentre`: the same rows' sums about other means."""
        return recentre(stats, params, about)

    def penalty(self, params: GMM) -> Array | float:
        """Minus the log prior, up to a constant; 0 without one."""
        return 0.0 if self.prior is None else priors.penalty(self.prior, params)

    def loss(self, params: GMM, data: Data) -> Array:
        """Minus the evidence, summed over rows."""
        return _loss(params, data, self.posterior, kinds=door.kinds(self.posterior))

    def unconstrain(self, params: GMM) -> GMM:
        """Log weights and means are free already, up to the constant that `constrain` takes out."""
        return params._replace(covariance=params.covariance.unconstrain())

    def constrain(self, free: GMM) -> GMM:
        """Weights that sum to one, and the family's own constraints."""
        return free._replace(log_weights=jax.nn.log_softmax(free.log_weights), covariance=free.covariance.constrain())
