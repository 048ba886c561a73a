"""The door of mixtures: parameters that a user gives, as arrays that fit together."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import door

Mixture = Any
"""A `GMM`, or what should be one."""

SLACK = 1e-3
"""How far from 1 given weights may sum."""


def as_mixture(params: Mixture, num_features: int | None = None, name: str = "params") -> Mixture:
    """A mixture of floating arrays; NaN and covariances that are not positive definite are refused where seen.

    Args:
      params: a `GMM`, whose leaves may be NumPy arrays or lists.
      num_features: D, or None for that of the means.
      name: what to call it in an error.

    Returns:
      The `GMM`, each leaf in its own dtype.

    Raises:
      ValueError: naming the leaf, for another type, shape or dtype, or concrete values that make no mixture.
    """
    params = _shaped(params, name, (None, num_features), ranks=(2,))
    if door.is_concrete(params):
        with jax.ensure_compile_time_eval():
            if not bool(_is_known(params)):
                raise ValueError(
                    f"`{name}` must be a mixture of finite numbers with covariances that are positive definite, but it "
                    "holds NaN, or a scale that is not above 0. If it is that of a fit, see its status."
                )
    return params


def as_starts(init: Mixture, k: int, num_features: int, dtype: Any) -> Mixture:
    """Mixtures to start from, with a leading axis R. One that holds NaN ends as a status, and costs no other anything.

    Args:
      init: a `GMM`, whose leaves may have a leading axis R.
      k: the number of components.
      num_features: D.
      dtype: that of the data.

    Returns:
      A `GMM` with a leading axis on every leaf.

    Raises:
      ValueError: as `as_mixture` does; for another number of components, or weights that do not sum to 1.
    """
    starts = _shaped(init, "init", (k, num_features), ranks=(2, 3))
    if door.is_concrete(starts.log_weights):
        sums = np.exp(np.asarray(starts.log_weights, float)).sum(axis=-1)
        if (np.abs(sums - 1) > SLACK).any():
            raise ValueError(
                f"`init.log_weights` must be logarithms of weights that sum to 1, but these sum to {sums.max():.6g}."
            )
    lead = 3 - starts.means.ndim
    return jax.tree.map(lambda leaf: leaf.astype(dtype)[(None,) * lead], starts)


def _shaped(params: Mixture, name: str, size: tuple[int | None, int | None], ranks: tuple[int, ...]) -> Mixture:
    if not all(hasattr(params, field) for field in ("log_weights", "means", "covariance")):
        raise ValueError(f"`{name}` must be a `GMM`, got {type(params).__name__}.")
    family = type(params.covariance)
    if not hasattr(family, "log_density"):
        raise ValueError(f"`{name}.covariance` must be a covariance family, such as gmm.Full, got {family.__name__}.")
    means = door.as_floating(params.means, f"{name}.means")
    fits = all(wanted in (None, found) for wanted, found in zip(size, means.shape[-2:], strict=False))
    if means.ndim not in ranks or not fits or 0 in means.shape:
        k, num_features = (letter if wanted is None else wanted for letter, wanted in zip("KD", size, strict=True))
        many = " or a leading axis R" if 3 in ranks else ""
        raise ValueError(f"`{name}.means` must have shape ({k}, {num_features}){many}, got {means.shape}.")
    lead, unit = means.shape[:-2], _unit(family, *means.shape[-2:])

    def leaf(value: Any, shape: tuple[int, ...], part: str) -> Array:
        array = door.as_floating(value, f"{name}.{part}")
        if array.shape != lead + shape:
            raise ValueError(
                f"`{name}.{part}` must have shape {lead + shape} for means of shape {means.shape}, got {array.shape}."
            )
        return array

    fields = zip(family._fields, params.covariance, unit, strict=True)
    scales = [leaf(value, like.shape, f"covariance.{field}") for field, value, like in fields]
    return params._replace(
        log_weights=leaf(params.log_weights, means.shape[-2:-1], "log_weights"), means=means, covariance=family(*scales)
    )


@functools.cache
def _unit(family: Any, k: int, num_features: int) -> Any:
    return jax.eval_shape(lambda: family.unit(k, num_features, jnp.float32))


@jax.jit
def _is_known(params: Mixture) -> Array:
    # What must be positive has its logarithm among the free coordinates.
    scales = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params.covariance.unconstrain())]
    return jnp.all(jnp.stack(scales)) & ~jnp.any(jnp.isnan(params.means)) & ~jnp.any(jnp.isnan(params.log_weights))
