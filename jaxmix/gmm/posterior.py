"""How the E-step shares a row among components: soft, hard, or in between."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array


class Posterior(Protocol):
    """How the E-step shares a row among components: a choice of loss and of responsibilities that fit together."""

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """From (N, K) to each row's log evidence, (N,), and its responsibilities, (N, K)."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Soft:
    r"""EM: evidence $\log \sum_k e^{a_k}$ of log joints $a$, responsibilities their softmax.

    Responsibilities below the smallest normal number over the unit of rounding, 1e-31 in float32, are 0.

    References:
      Dempster, Laird and Rubin (1977), section 4.3.

    Example:
      >>> import jax.numpy as jnp
      >>> Soft()(jnp.zeros((1, 2)))[1].tolist()
      [[0.5, 0.5]]
    """

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """Log-sum-exp and softmax."""
        return _log_sum_exp(log_joint)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hard:
    r"""Classification EM: evidence $\max_k a_k$, each row wholly to its best component.

    References:
      Celeux and Govaert (1992), section 2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> Hard()(jnp.array([[0.0, 1.0]]))[1].tolist()
      [[0.0, 1.0]]
    """

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """Maximum, and the indicator of the first that attains it."""
        k = log_joint.shape[1]
        indicator = jax.nn.one_hot(jnp.argmax(log_joint, axis=1), k, dtype=log_joint.dtype)
        return jnp.max(log_joint, axis=1), indicator


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tempered:
    r"""Deterministic annealing: evidence $\beta^{-1} \log \sum_k e^{\beta a_k}$, responsibilities its softmax.

    At $\beta = 1$ it is EM, as $\beta \to \infty$ classification EM, and below 1 the landscape is smoother.

    Attributes:
      inverse_temperature: $\beta > 0$, traced: vmap over it.

    References:
      Ueda and Nakano (1998), equations 9 and 14.

    Example:
      >>> import jax.numpy as jnp
      >>> Tempered(0.5)(jnp.zeros((1, 2)))[1].tolist()
      [[0.5, 0.5]]
    """

    inverse_temperature: Array | float

    def __call__(self, log_joint: Array) -> tuple[Array, Array]:
        """Log-sum-exp and softmax at the temperature."""
        beta = jnp.asarray(self.inverse_temperature, log_joint.dtype)
        evidence, shares = _log_sum_exp(beta * log_joint)
        return evidence / beta, shares


def _log_sum_exp(values: Array) -> tuple[Array, Array]:
    """Log-sum-exp over the last axis and its softmax, from one set of exponentials: half of an E-step's time in 2-D."""
    # Components first, as they come from the kernels: XLA on CPU would copy them into another order.
    values = values.T
    peak = jax.lax.stop_gradient(jnp.max(values, axis=0))
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    exponentials = jnp.exp(values - peak[None])
    # Lost beside any share that a sum can feel, and their products with rows would be denormal: on some CPUs a product
    # of matrices takes several times as long with such numbers in it.
    limits = jnp.finfo(values.dtype)
    exponentials = jnp.where(exponentials < limits.tiny / limits.eps, 0, exponentials)
    total = jnp.sum(exponentials, axis=0)
    return peak + jnp.log(total), (exponentials / total[None]).T
