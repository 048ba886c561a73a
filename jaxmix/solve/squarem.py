"""SQUAREM: EM, extrapolated from every second step, with a loss that never rises."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxmix import arrays, linalg
from jaxmix.pytree import choice
from jaxmix.solve import coordinates, termination
from jaxmix.solver import Objective, Progress, Solver
from jaxmix.typing import Params


class SquaremState(NamedTuple):
    """What SQUAREM carries.

    Attributes:
      params: the parameters.
      reach: Array of shape (), the longest extrapolation allowed.
      fixed: Array of shape (), bool: EM changes no bit of the parameters that the last step started from.
    """

    params: Params
    reach: Array
    fixed: Array


@choice
class Squarem(Solver):
    r"""SQUAREM: two steps of EM, one squared extrapolation from them, and a step of EM from there.

    $$\theta' = \theta_0 + 2 a r + a^2 v, \qquad r = M(\theta_0) - \theta_0, \quad v = M(M(\theta_0)) - M(\theta_0) - r,
      \quad a = |r| / |v|$$

    in unconstrained coordinates, where $M$ is one step of EM; $a = 1$ is two steps of EM. The extrapolation is taken if
    its loss is at most that after the first step of EM, and else the second step of EM is, so that the loss never
    rises. Its length is capped: the cap grows fourfold when it was reached and the extrapolation taken, and falls
    when it was not. Three passes over the data a step, whatever is taken, under `vmap` too. It has converged as EM has.

    Attributes:
      growth: by what the cap on $a$ grows and falls; above 1, traced.
      largest: the cap's own cap, at least 1, traced.

    Raises:
      ValueError: when it runs, for a `growth` of 1 or below, or a `largest` below 1.

    References:
      Varadhan and Roland (2008), scheme S3 (equation 8 for the steplength) and table 1; the adaptive cap is that of the
      package SQUAREM (Du and Varadhan 2020).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), Squarem(), x[:2], x).loss.item()
      1.0
    """

    growth: ArrayLike = 4.0
    largest: ArrayLike = 1e4

    def validate(self) -> None:
        """Rejects caps that cannot open."""
        arrays.check_least(self.growth, "growth", 1, strictly=True)
        arrays.check_least(self.largest, "largest", 1)

    def init(self, objective: Objective, params: Params) -> SquaremState:
        """The start, with no extrapolation allowed yet."""
        return SquaremState(params, jnp.ones((), objective.dtype), jnp.array(False))

    def step(self, objective: Objective, state: SquaremState) -> tuple[SquaremState, Array]:
        """Two steps of EM, the extrapolation, and its own step of EM."""
        start = state.params
        first, loss = objective.em_step(start)
        second, limit = objective.em_step(first)
        u0, u1, u2 = (coordinates.to_vector(objective, params) for params in (start, first, second))
        r = coordinates.difference(u1, u0)
        v = coordinates.difference(coordinates.difference(u2, u1), r)
        wanted = linalg.safe_divide(jnp.linalg.norm(r), jnp.linalg.norm(v))
        length = jnp.clip(wanted, 1, state.reach)
        # From the second step on: at length 1 it is that step itself.
        extrapolated = coordinates.from_vector(objective, u2 + 2 * (length - 1) * r + (length**2 - 1) * v, second)
        after, loss_there = objective.em_step(extrapolated)
        taken = (length > 1) & (loss_there <= limit)
        # The cap opens when it bound; a failure, with the length that failed, closes it.
        growth, largest = jnp.asarray(self.growth, length.dtype), jnp.asarray(self.largest, length.dtype)
        opened = jnp.where(wanted >= state.reach, jnp.minimum(state.reach * growth, largest), state.reach)
        reach = jnp.where(taken | (length == 1), opened, jnp.maximum(length / growth, 1))
        params = termination.select(taken, after, second)
        fixed = termination.is_fixed_point(first, start)
        return SquaremState(params, reach.astype(state.reach.dtype), fixed), loss

    def params(self, objective: Objective, state: SquaremState) -> Params:
        """The parameters, which the state holds as they are."""
        return state.params

    def status(self, state: SquaremState, progress: Progress) -> Array:
        """As EM's."""
        return termination.monotone_status(progress, fixed=state.fixed, moved=jnp.array(True))

    def passes(self, state: SquaremState, num_steps: Array) -> Array:
        """Three a step."""
        return 3 * num_steps
