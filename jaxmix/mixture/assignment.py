"""How the E-step shares a row among components: soft, hard, or in between."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import arrays
from jaxmix.pytree import choice


class Assignment:
    """How the E-step shares a row among components: a loss, and the responsibilities that belong to it.

    Subclass it, and decorate the subclass with `jaxmix.pytree.choice`.
    """

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """From log joint densities of shape (K, n) to each row's log evidence, (n,), and responsibilities, (K, n)."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(log_joint)`.")

    def validate(self) -> None:
        """Raises ValueError for settings that are not valid. The default: none."""


@choice
class Soft(Assignment):
    r"""EM: evidence $\log \sum_k e^{a_k}$ of log joints $a$, responsibilities their softmax.

    Responsibilities below the smallest normal number over the unit of rounding, 1e-31 in float32, are 0.

    References:
      Dempster, Laird and Rubin (1977), section 4.3.

    Example:
      >>> import jax.numpy as jnp
      >>> Soft()(jnp.zeros((2, 1)))[1].tolist()
      [[0.5], [0.5]]
    """

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """Log-sum-exp and softmax."""
        return _log_sum_exp(log_joint)


@choice
class Hard(Assignment):
    r"""Classification EM: evidence $\max_k a_k$, each row wholly to its best component.

    References:
      Celeux and Govaert (1992), section 2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> Hard()(jnp.array([[0.0], [1.0]]))[1].tolist()
      [[0.0], [1.0]]
    """

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """Maximum, and the indicator of the first that attains it."""
        best = jnp.argmax(log_joint, axis=0)
        indicator = jax.nn.one_hot(best, log_joint.shape[0], dtype=log_joint.dtype, axis=0)
        return jnp.max(log_joint, axis=0), indicator


@choice
class Tempered(Assignment):
    r"""Deterministic annealing: evidence $\beta^{-1} \log \sum_k e^{\beta a_k}$, responsibilities its softmax.

    At $\beta = 1$ it is EM, as $\beta \to \infty$ classification EM, and below 1 the landscape is smoother.

    Attributes:
      inverse_temperature: $\beta > 0$, traced: vmap over it.

    References:
      Ueda and Nakano (1998), equations 9 and 14.

    Example:
      >>> import jax.numpy as jnp
      >>> Tempered(0.5)(jnp.zeros((2, 1)))[1].tolist()
      [[0.5], [0.5]]
    """

    inverse_temperature: Any

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """Log-sum-exp and softmax at the temperature."""
        beta = jnp.asarray(self.inverse_temperature, log_joint.dtype)
        evidence, shares = _log_sum_exp(beta * log_joint)
        return evidence / beta, shares

    def validate(self) -> None:
        """Rejects a temperature that is not positive."""
        arrays.check_least(self.inverse_temperature, "inverse_temperature", 0, strictly=True)


def _log_sum_exp(values: Array) -> tuple[Array, Array]:
    """Log-sum-exp over the first axis and its softmax, from one set of exponentials: half of an E-step."""
    peak = jax.lax.stop_gradient(jnp.max(values, axis=0))
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    exponentials = jnp.exp(values - peak[None])
    # Lost beside any share that a sum can feel, and their products with rows would be denormal: on some CPUs a product
    # of matrices takes several times as long with such numbers in it.
    limits = jnp.finfo(values.dtype)
    exponentials = jnp.where(exponentials < limits.tiny / limits.eps, 0, exponentials)
    total = jnp.sum(exponentials, axis=0)
    return peak + jnp.log(total), exponentials / total[None]
