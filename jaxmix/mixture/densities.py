"""Densities, responsibilities and draws of mixtures of any component."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, validation
from jaxmix.data import Rows
from jaxmix.kernels import far
from jaxmix.mixture.component import Component
from jaxmix.mixture.model import Mixture, component_of
from jaxmix.mixture.validation import as_mixture
from jaxmix.reduction import Blocks, map_rows
from jaxmix.typing import ArrayLike


def log_joint(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""Joint log densities of rows and components.

    $$\log p(x_n, z_n = k) = \log \pi_k + \log p(x_n \mid \theta_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (N, K), in nats.

    Raises:
      ValueError: for bad `x`, or parameters of another width, with NaN, or that break their constraints.

    References:
      Bishop (2006), equations 9.10 and 9.11.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.log_joint(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    return joint(*_given(params, x, component)).T


def log_prob(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""The log density of each row.

    $$\log p(x_n) = \log \sum_k \pi_k p(x_n \mid \theta_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

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
    return _log_prob(*_given(params, x, component))


def log_likelihood(
    params: Mixture, x: ArrayLike, *, weights: ArrayLike | None = None, component: Component | None = None
) -> Array:
    r"""The log-likelihood, a sum over rows.

    $$\log L = \sum_n w_n \log p(x_n)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

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
    data = validation.as_data(x, weights)
    return linalg.weighted_sum(data.weights, log_prob(params, data.x, component=component))


def responsibilities(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""The posterior of the components given each row.

    $$r_{nk} = p(z_n = k \mid x_n) = \frac{\pi_k p(x_n \mid \theta_k)}{\sum_j \pi_j p(x_n \mid \theta_j)}$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

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
    return posterior(*_given(params, x, component))


def predict(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""The most probable component of each row, $\arg\max_k r_{nk}$.

    $$z_n = \arg\max_k \left(\log \pi_k + \log p(x_n \mid \theta_k)\right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (N,), int32. -1 for a row that has no density: one with NaN or infinity, which is rejected unless
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
    return _labels(*_given(params, x, component))


def sample(key: Array, params: Mixture, n: int, *, component: Component | None = None) -> tuple[Array, Array]:
    r"""Draws rows as the model says: first the component, then the point.

    $$z \sim \operatorname{Categorical}(\pi), \qquad x \sim p(x \mid \theta_z)$$

    Args:
      key: a PRNG key.
      params: a mixture of K components.
      n: how many rows, static.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      x of shape (n, D) and labels of shape (n,), int32.

    Raises:
      ValueError: for an invalid key, an `n` that is not a count, or parameters that are not a mixture.

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
    validation.check_key(key)
    component = component_of(params, component)
    n, params = validation.check_int(n, "n", least=0), as_mixture(params, component)
    label_key, row_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, params.log_weights, shape=(n,)).astype(jnp.int32)
    return component.sample(row_key, params.components, labels), labels


def _given(params: Mixture, x: ArrayLike, component: Component | None) -> tuple[Component, Mixture, Array]:
    """Component, parameters and rows, validated."""
    rows = validation.as_data(x).x
    component = component_of(params, component)
    return component, as_mixture(params, component, rows.shape[1]), rows


@jax.jit
def joint(component: Component, params: Mixture, x: Array) -> Array:
    """`log_joint` of validated rows, components first: of shape (K, N)."""
    return _by_blocks(lambda held, block: _joint(held, block).T, component, params, x).T


@jax.jit
def _log_prob(component: Component, params: Mixture, x: Array) -> Array:
    return _by_blocks(lambda held, block: jax.nn.logsumexp(_joint(held, block), axis=0), component, params, x)


@jax.jit
def _labels(component: Component, params: Mixture, x: Array) -> Array:
    return _by_blocks(lambda held, block: _block_labels(held, block), component, params, x)


@jax.jit
def posterior(component: Component, params: Mixture, x: Array) -> Array:
    """`responsibilities` of validated rows, of shape (N, K).

    Those of rows so far away that every density is zero are of the largest exponents, and have no slope.
    """
    return _by_blocks(lambda held, block: _normalized(_softmax, held, block).T, component, params, x)


@jax.jit
def log_posterior(component: Component, params: Mixture, x: Array) -> Array:
    """The logarithms of `posterior`."""
    return _by_blocks(lambda held, block: _normalized(_log_softmax, held, block).T, component, params, x)


Held = tuple[Component, Mixture, Any]
"""A component, the parameters of a mixture, and what the component prepared of them."""


def _by_blocks(function: Callable[[Held, Array], Array], component: Component, params: Mixture, x: Array) -> Array:
    """A function of a block of rows, for all rows: arrays of shape (n, ...) to one of shape (N, ...)."""
    held = (component, params, component.prepare(params.components))
    rows = Blocks().cut(x, None, component.footprint(params.log_weights.shape[0], x.shape[1]))
    return map_rows(lambda held, rows: function(held, rows.x), held, rows, x.shape[0])


def _joint(held: Held, x: Array) -> Array:
    """Log joint densities of one block, of shape (K, n)."""
    component, params, prepared = held
    return params.log_weights[:, None] + component.log_density(prepared, Rows(x))


def _softmax(values: Array) -> Array:
    return jax.nn.softmax(values, axis=0)


def _log_softmax(values: Array) -> Array:
    return jax.nn.log_softmax(values, axis=0)


def _is_lost(joint: Array) -> Array:
    """Which rows have no density, or one that is not finite, of shape (n,)."""
    return ~jnp.isfinite(jnp.max(joint, axis=0))


def _far_joint(component: Component, params: Mixture, x: Array) -> Array | None:
    """Log joint densities less a number for each row, for rows so far away that every density is zero."""
    found = component.far_log_density(params.components, x, params.is_on)
    return None if found is None else jnp.where(params.is_on[:, None], params.log_weights[:, None] + found, -jnp.inf)


def _mended(found: Array, lost: Array, held: Held, x: Array, function: Callable[[Array], Array]) -> Array:
    """What was found for each row, (n, ...), and for lost rows a function of their joint densities (K, n)."""
    component, params, _ = held
    if jax.eval_shape(_far_joint, component, params, x) is None:
        return found

    def of_far(held: tuple[Component, Mixture], part: Array) -> Array:
        joint = _far_joint(*held, part)
        assert joint is not None  # it does not depend on values
        return function(joint)

    size = sum(leaf.size for leaf in jax.tree.leaves(params.components))
    return far.mended(found, lost, (component, params), x, of_far, size)


def _block_labels(held: Held, x: Array) -> Array:
    joint = _joint(held, x)

    def best(joint: Array) -> Array:
        return jnp.where(_is_lost(joint), -1, jnp.argmax(joint, axis=0)).astype(jnp.int32)

    return _mended(best(joint), _is_lost(joint), held, x, best)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalized(normalize: Callable[[Array], Array], held: Held, x: Array) -> Array:
    """Responsibilities of one block, or their logarithms, of shape (K, n)."""
    joint = _joint(held, x)
    return _mended(normalize(joint).T, _is_lost(joint), held, x, lambda joint: normalize(joint).T).T


@_normalized.defjvp
def _normalized_jvp(
    normalize: Callable[[Array], Array], primals: tuple[Held, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    held, x = primals
    lost = _is_lost(_joint(held, x))[None]
    # Elsewhere, where derivatives are finite: zero times those of a far row would be NaN.
    near = jnp.where(lost.T, 0, x)

    def of_near(held: Held, x: Array) -> Array:
        return normalize(jnp.where(lost, 0, _joint(held, x)))

    slope = jax.jvp(of_near, (held, near), tangents)[1]
    return _normalized(normalize, held, x), jnp.where(lost, 0, slope)
