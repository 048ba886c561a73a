"""EM: an E-step, then an M-step."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxmix.pytree import choice
from jaxmix.solve import termination
from jaxmix.solver import Objective, Progress, Solver
from jaxmix.typing import Params


class EMState(NamedTuple):
    """What EM carries.

    Attributes:
      params: the parameters.
      fixed: Array of shape (), bool: the last step changed no bit of them.
    """

    params: Params
    fixed: Array


@choice
class EM(Solver):
    r"""Expectation maximization; on `kmeans.KMeans` it is Lloyd's algorithm.

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

    def init(self, objective: Objective, params: Params) -> EMState:
        """The start as it is."""
        return EMState(params, jnp.array(False))

    def step(self, objective: Objective, state: EMState) -> tuple[EMState, Array]:
        """One E-step and one M-step; the E-step brings the loss of the parameters that it started from."""
        params, loss = objective.em_step(state.params)
        return EMState(params, termination.is_fixed_point(params, state.params)), loss

    def params(self, objective: Objective, state: EMState) -> Params:
        """The parameters, which the state holds as they are."""
        return state.params

    def status(self, state: EMState, progress: Progress) -> Array:
        """Converged at a fixed point or on a small change; a rise beyond rounding is named."""
        return termination.monotone_status(progress, fixed=state.fixed, moved=jnp.array(True))
