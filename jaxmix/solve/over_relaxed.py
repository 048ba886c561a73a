"""Over-relaxed EM: steps of EM, lengthened by a factor that grows while the loss falls."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxmix import arrays
from jaxmix.pytree import choice
from jaxmix.solve import coordinates, termination
from jaxmix.solver import Objective, Progress, Solver
from jaxmix.typing import Params, Stats


class OverRelaxedState(NamedTuple):
    """What over-relaxed EM carries.

    Attributes:
      params: the parameters accepted last.
      stats: their statistics, so that a candidate is judged and used in one pass.
      loss: Array of shape (), the loss at these parameters.
      factor: Array of shape (), how far the next step goes; 1 is EM.
      accepted: Array of shape (), bool: the last candidate was taken.
      moved: Array of shape (), bool: so was the one before it.
      fixed: Array of shape (), bool: EM changes no bit of the parameters that the last step started from.
    """

    params: Params
    stats: Stats
    loss: Array
    factor: Array
    accepted: Array
    moved: Array
    fixed: Array


@choice
class OverRelaxed(Solver):
    r"""EM that goes further than its M-step: adaptive over-relaxation, in unconstrained coordinates.

    $$\theta_{t+1} = \theta_t + \eta_t (M(\theta_t) - \theta_t), \qquad \eta_t \ge 1$$

    where $M$ is one step of EM. The factor grows with every step that is taken. A step that would raise the loss, or
    make it NaN, is not taken: the next one is EM's own, which cannot raise it. One pass over the data a step, taken or
    not: the E-step that judges a candidate is the one that the next step needs. Since no step branches, the same holds
    under `vmap`. It has converged as EM has, by the change of the loss over a step that was taken.

    Attributes:
      eta: the factor to start from, and to come back to after a step of EM; above 1, traced.
      growth: by what the factor is multiplied after a step that was taken; at least 1, traced. 1 keeps `eta`.
      largest: the factor's cap, at least 1, traced.

    Raises:
      ValueError: when it runs, for an `eta`, `growth` or `largest` below 1.

    References:
      Salakhutdinov and Roweis (2003), section 4: adaptive overrelaxed EM.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), OverRelaxed(), x[:2], x, rtol=1e-6).loss.item()
      1.0
    """

    eta: ArrayLike = 1.1
    growth: ArrayLike = 1.1
    largest: ArrayLike = 100.0

    def validate(self) -> None:
        """Rejects factors that would hold EM back."""
        for name, value in (("eta", self.eta), ("growth", self.growth), ("largest", self.largest)):
            arrays.check_least(value, name, 1)

    def init(self, objective: Objective, params: Params) -> OverRelaxedState:
        """The start, and its statistics."""
        stats, loss = objective.stats(params)
        yes = jnp.array(True)
        return OverRelaxedState(params, stats, loss, jnp.asarray(self.eta, objective.dtype), yes, yes, ~yes)

    def step(self, objective: Objective, state: OverRelaxedState) -> tuple[OverRelaxedState, Array]:
        """One M-step, one candidate beyond it, and the E-step that judges it."""
        em = objective.m_step(state.stats, state.params)
        old, new = coordinates.to_vector(objective, state.params), coordinates.to_vector(objective, em)
        further = coordinates.from_vector(objective, new + (state.factor - 1) * coordinates.difference(new, old), em)
        plain = state.factor == 1
        # EM's own parameters, to the bit: a fixed point then shows as one.
        candidate = termination.select(plain, em, further)
        stats, loss = objective.stats(candidate)
        accepted = plain | (loss <= state.loss)
        current = (state.params, state.stats, state.loss)
        params, stats, loss = termination.select(accepted, (candidate, stats, loss), current)
        eta, growth, largest = (jnp.asarray(f, state.factor.dtype) for f in (self.eta, self.growth, self.largest))
        factor = jnp.where(accepted, jnp.clip(state.factor * growth, jnp.minimum(eta, largest), largest), 1)
        after = OverRelaxedState(
            params=params,
            stats=stats,
            loss=loss,
            factor=factor,
            accepted=accepted,
            moved=state.accepted,
            fixed=termination.is_fixed_point(em, state.params),
        )
        return after, state.loss

    def params(self, objective: Objective, state: OverRelaxedState) -> Params:
        """The parameters accepted last."""
        return state.params

    def status(self, state: OverRelaxedState, progress: Progress) -> Array:
        """As EM's; a step that was not taken is no small change."""
        return termination.monotone_status(progress, fixed=state.fixed, moved=state.moved)

    def passes(self, state: OverRelaxedState, num_steps: Array) -> Array:
        """One a step, and one for the start."""
        return num_steps + 1
