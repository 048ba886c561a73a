"""EM: an E-step, then an M-step."""

import dataclasses
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.types import Data, Params, Problem, Progress, Status, penalty


class EMState(NamedTuple):
    """What EM carries.

    Attributes:
      params: the parameters.
      fixed: Array of shape (), bool: the last step changed no bit of them.
    """

    params: Params
    fixed: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EM:
    r"""Expectation maximisation; on `kmeans.KMeans` it is Lloyd's algorithm.

    $$\theta_{t+1} = \arg\min_\theta Q(\theta \mid \theta_t)$$

    One pass over the data a step. It has converged when the loss changes by less than the tolerance, or when a
    step changes no bit of the parameters; at tolerance 0 only the second. The loss of EM cannot rise: where it
    does, by more than rounding, the fit stops with `Status.LOSS_ROSE`.

    References:
      Dempster, Laird and Rubin (1977), equations 2.17 and 2.18. Lloyd (1982) for K-means.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), EM(), x[:2], x).num_steps.item()
      3
    """

    def init(self, problem: Problem, params: Params, data: Data) -> EMState:
        """The start as it is."""
        return EMState(params, jnp.array(False))

    def step(self, problem: Problem, state: EMState, data: Data) -> tuple[EMState, Array]:
        """One E-step and one M-step; the E-step brings the loss of the parameters that it started from."""
        stats = problem.e_step(state.params, data)
        params = problem.m_step(stats, state.params)
        same = [jnp.all(a == b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True)]
        return EMState(params, reduce(jnp.logical_and, same)), stats.loss + penalty(problem, state.params)

    def params(self, problem: Problem, state: EMState) -> Params:
        """The parameters, which the state holds as they are."""
        return state.params

    def status(self, state: EMState, progress: Progress) -> Array:
        """Converged at a fixed point or on a small change; a rise beyond rounding is named."""
        small = jnp.abs(progress.previous - progress.loss) < progress.tolerance
        rose = progress.loss > progress.previous + progress.slack
        ended = jnp.where(state.fixed | small, Status.CONVERGED, Status.RUNNING)
        return jnp.where(rose, Status.LOSS_ROSE, ended)

    def num_passes(self, state: EMState, num_steps: Array) -> Array:
        """One a step."""
        return num_steps
