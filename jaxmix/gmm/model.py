"""The mixture itself: densities, responsibilities and draws."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door, linalg
from jaxmix.gmm.covariance import Covariance, Full, Tied
from jaxmix.gmm.covariance.base import half_log_determinant
from jaxmix.gmm.given import as_mixture
from jaxmix.kernels import far
from jaxmix.types import ArrayLike


class GMM(NamedTuple):
    r"""A Gaussian mixture, $p(x) = \sum_k \pi_k N(x \mid m_k, C_k)$.

    The tuple is not validated. A log weight of -inf switches a component off.

    Attributes:
      log_weights: Array of shape (K,), $\log \pi_k$; their exponentials sum to 1, and -inf is a component switched off.
      means: Array of shape (K, D).
      covariance: a covariance family, such as `Full`: its type is the family.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.log(jnp.array([0.5, 0.5])), jnp.zeros((2, 3)), gmm.Full.unit(2, 3, float))
      >>> mixture.num_free_parameters.item()
      19
    """

    log_weights: Array
    means: Array
    covariance: Covariance

    @property
    def is_on(self) -> Array:
        """Which components are not switched off, of shape (K,)."""
        return ~jnp.isneginf(self.log_weights)

    @property
    def weights(self) -> Array:
        """The weights, of shape (K,)."""
        return jnp.exp(self.log_weights)

    @property
    def covariances(self) -> Array:
        """The covariance matrices, dense, of shape (K, D, D); leading axes of the mixture, such as restarts, lead."""

        def dense(params: GMM) -> Array:
            return params.covariance.dense(*params.means.shape)

        for _ in range(self.means.ndim - 2):
            dense = jax.vmap(dense)
        return dense(self)

    @property
    def num_free_parameters(self) -> Array:
        """K - 1 weights, K D means, and the family's own, of shape (), int32; K counts the components that are on."""
        num_features = self.means.shape[-1]
        on: Any = jnp.sum(self.is_on, axis=-1, dtype=jnp.int32)
        return on - 1 + on * num_features + self.covariance.num_free_parameters(on, num_features)


def log_joint(params: GMM, x: ArrayLike) -> Array:
    r"""Joint log densities of rows and components.

    $$\log p(x_n, z_n = k) = \log \pi_k + \log N(x_n \mid m_k, C_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N, K), in nats.

    Raises:
      ValueError: for bad `x`, or parameters of another width, with NaN, or with a covariance that is not positive
        definite.

    References:
      Bishop (2006), equations 9.10 and 9.11.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.log_joint(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    rows = door.as_data(x).x
    return joint(as_mixture(params, rows.shape[1]), rows)


def log_prob(params: GMM, x: ArrayLike) -> Array:
    r"""The log density of each row.

    $$\log p(x_n) = \log \sum_k \pi_k N(x_n \mid m_k, C_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N,), in nats.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [0.0]], jnp.ones((2, 1, 1)))
      >>> round(gmm.log_prob(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    return jax.nn.logsumexp(log_joint(params, x), axis=1)


def log_likelihood(params: GMM, x: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The log-likelihood, a sum over rows.

    $$\log L = \sum_n w_n \log p(x_n)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: as `log_joint` does, and for bad weights.

    References:
      Bishop (2006), equation 9.14.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.log_likelihood(mixture, jnp.zeros((2, 1))).item(), 4)
      -1.8379
    """
    data = door.as_data(x, weights)
    return linalg.weighted_sum(data.weights, log_prob(params, data.x))


def responsibilities(params: GMM, x: ArrayLike) -> Array:
    r"""The posterior of the components given each row.

    $$r_{nk} = p(z_n = k \mid x_n) = \frac{\pi_k N(x_n \mid m_k, C_k)}{\sum_j \pi_j N(x_n \mid m_j, C_j)}$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N, K), rows summing to 1.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), equation 9.13.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [0.0]], jnp.ones((2, 1, 1)))
      >>> gmm.responsibilities(mixture, jnp.zeros((1, 1))).tolist()
      [[0.5, 0.5]]
    """
    rows = door.as_data(x).x
    return posterior(as_mixture(params, rows.shape[1]), rows)


def predict(params: GMM, x: ArrayLike) -> Array:
    r"""The most probable component of each row, $\arg\max_k r_{nk}$.

    $$z_n = \arg\max_k \left(\log \pi_k + \log N(x_n \mid m_k, C_k)\right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N,), int32. -1 for a row that has no density: one with NaN or infinity, which is refused unless
      it is traced.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), section 1.5.1: the decision with the fewest errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [9.0]], jnp.ones((2, 1, 1)))
      >>> gmm.predict(mixture, jnp.array([[1.0], [8.0]])).tolist()
      [0, 1]
    """
    rows = door.as_data(x).x
    return _labels(as_mixture(params, rows.shape[1]), rows)


def sample(key: Array, params: GMM, n: int) -> tuple[Array, Array]:
    r"""Draws rows as the model says: first the component, then the point.

    $$z \sim \operatorname{Categorical}(\pi), \qquad x = m_z + C_z^{1/2} \varepsilon, \quad \varepsilon \sim N(0, I)$$

    Args:
      key: a PRNG key.
      params: a mixture of K components.
      n: how many rows, static.

    Returns:
      x of shape (n, D) and labels of shape (n,), int32.

    Raises:
      ValueError: for a key that is none, an `n` that is no count, or parameters that make no mixture.

    References:
      Bishop (2006), section 9.2: ancestral sampling.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], jnp.zeros((1, 2)), jnp.eye(2)[None])
      >>> x, labels = gmm.sample(jax.random.key(0), mixture, 5)
      >>> x.shape, labels.shape
      ((5, 2), (5,))
    """
    door.check_key(key)
    n, params = door.check_int(n, "n", least=0), as_mixture(params)
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, params.log_weights, shape=(n,)).astype(jnp.int32)
    noise = jax.random.normal(noise_key, (n, params.means.shape[1]), params.means.dtype)
    return params.means[labels] + params.covariance.colour(labels, noise), labels


@jax.jit
def joint(params: GMM, x: Array) -> Array:
    """`log_joint` of rows that the door has seen."""
    return joint_of(params)(x)


def joint_of(params: GMM) -> Callable[[Array], Array]:
    """`joint` as a function of rows: what needs no rows is done once."""
    log_density = params.covariance.log_density(params.means)
    return lambda x: params.log_weights[None] + log_density(x)


def factors(params: GMM) -> Array:
    """Lower Cholesky factors of the covariances of any family, of shape (K, D, D); no covariance is multiplied out."""
    k, num_features = params.means.shape
    if isinstance(params.covariance, (Full, Tied)):
        return jnp.broadcast_to(params.covariance.scale_tril, (k, num_features, num_features))
    labels = jnp.repeat(jnp.arange(k, dtype=jnp.int32), num_features)
    unit = jnp.tile(jnp.eye(num_features, dtype=params.means.dtype), (k, 1))
    # What a family makes of the unit vectors are the columns of a root.
    columns = params.covariance.colour(labels, unit).reshape(k, num_features, num_features)
    return linalg.lower_factor(jnp.swapaxes(columns, 1, 2))


@jax.jit
def _labels(params: GMM, x: Array) -> Array:
    found = joint_of(params)(x)
    lost = _is_lost(found)
    labels = jnp.where(lost, -1, jnp.argmax(found, axis=1)).astype(jnp.int32)

    def of_far(params: GMM, part: Array) -> Array:
        found = _far_joint(params, part)
        return jnp.where(_is_lost(found), -1, jnp.argmax(found, axis=1)).astype(jnp.int32)

    return far.mended(labels, lost, params, x, of_far, params.means.size)


@partial(jax.jit, static_argnames="logarithm")
def posterior(params: GMM, x: Array, *, logarithm: bool = False) -> Array:
    """`responsibilities` of rows that the door has seen, or their logarithms.

    Those of rows so far away that every density is zero are of the largest exponents, and have no slope.
    """
    return _posterior(jax.nn.log_softmax if logarithm else jax.nn.softmax, params, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _posterior(normalize: Callable[[Array], Array], params: GMM, x: Array) -> Array:
    found = joint_of(params)(x)
    return far.mended(
        normalize(found),
        _is_lost(found),
        params,
        x,
        lambda params, part: normalize(_far_joint(params, part)),
        params.means.size,
    )


@_posterior.defjvp
def _posterior_jvp(
    normalize: Callable[[Array], Array], primals: tuple[GMM, Array], tangents: tuple[GMM, Array]
) -> tuple[Array, Array]:
    params, x = primals
    lost = _is_lost(joint_of(jax.lax.stop_gradient(params))(jax.lax.stop_gradient(x)))[:, None]
    # At a mean, where derivatives are finite: zero times those of a far row would be NaN.
    near = jnp.where(lost, params.means[jnp.argmax(params.is_on)][None], x)
    slope = jax.jvp(lambda *inputs: normalize(joint_of(inputs[0])(inputs[1])), (params, near), tangents)[1]
    return _posterior(normalize, params, x), jnp.where(lost, 0, slope)


def _is_lost(found: Array) -> Array:
    return ~jnp.isfinite(jnp.max(found, axis=1))


def _far_joint(params: GMM, x: Array) -> Array:
    """`joint` less a number for each row, for rows so far away that every density is zero."""
    tril = factors(params)
    gaps, power = far.excess(x, params.means, params.is_on, linalg.inverse_tril(tril))
    constants = params.log_weights - half_log_determinant(tril)
    return jnp.where(params.is_on[None], constants[None] - 0.5 * jnp.ldexp(gaps, power), -jnp.inf)
