"""EM: an E-step, then an M-step; and over-relaxed EM, which goes further in the same direction."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxmix import door
from jaxmix.solve import coordinates, monotone
from jaxmix.types import Data, Params, Problem, Progress, Stats, penalty


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
        fixed = monotone.unchanged(params, state.params)
        return EMState(params, fixed), stats.loss + penalty(problem, state.params)

    def params(self, problem: Problem, state: EMState) -> Params:
        """The parameters, which the state holds as they are."""
        return state.params

    def status(self, state: EMState, progress: Progress) -> Array:
        """Converged at a fixed point or on a small change; a rise beyond rounding is named."""
        return monotone.verdict(progress, fixed=state.fixed, moved=jnp.array(True))

    def num_passes(self, state: EMState, num_steps: Array) -> Array:
        """One a step."""
        return num_steps


class OverRelaxedState(NamedTuple):
    """What over-relaxed EM carries.

    Attributes:
      params: the parameters accepted last.
      stats: their statistics, so that a candidate is judged and used in one pass.
      factor: Array of shape (), how far the next step goes; 1 is EM.
      accepted: Array of shape (), bool: the last candidate was taken.
      moved: Array of shape (), bool: so was the one before it.
      fixed: Array of shape (), bool: EM changes no bit of the parameters that the last step started from.
    """

    params: Params
    stats: Stats
    factor: Array
    accepted: Array
    moved: Array
    fixed: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OverRelaxed:
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

    def check(self) -> None:
        """Refuses factors that would hold EM back."""
        for name, value in (("eta", self.eta), ("growth", self.growth), ("largest", self.largest)):
            door.check_least(value, name, 1)

    def init(self, problem: Problem, params: Params, data: Data) -> OverRelaxedState:
        """The start, and its statistics."""
        stats = problem.e_step(params, data)
        yes = jnp.array(True)
        return OverRelaxedState(params, stats, jnp.asarray(self.eta, data.x.dtype), yes, yes, ~yes)

    def step(self, problem: Problem, state: OverRelaxedState, data: Data) -> tuple[OverRelaxedState, Array]:
        """One M-step, one candidate beyond it, and the E-step that judges it."""
        loss = state.stats.loss + penalty(problem, state.params)
        em = problem.m_step(state.stats, state.params)
        old, new = coordinates.to_vector(problem, state.params), coordinates.to_vector(problem, em)
        further = coordinates.from_vector(problem, new + (state.factor - 1) * coordinates.difference(new, old), em)
        plain = state.factor == 1
        # EM's own parameters, to the bit: a fixed point then shows as one.
        candidate = monotone.choose(plain, em, further)
        stats = problem.e_step(candidate, data)
        accepted = plain | (stats.loss + penalty(problem, candidate) <= loss)
        params, stats = monotone.choose(accepted, (candidate, stats), (state.params, state.stats))
        eta, growth, largest = (jnp.asarray(f, loss.dtype) for f in (self.eta, self.growth, self.largest))
        factor = jnp.where(accepted, jnp.clip(state.factor * growth, jnp.minimum(eta, largest), largest), 1)
        fixed = monotone.unchanged(em, state.params)
        after = OverRelaxedState(params, stats, factor.astype(state.factor.dtype), accepted, state.accepted, fixed)
        return after, loss

    def params(self, problem: Problem, state: OverRelaxedState) -> Params:
        """The parameters accepted last."""
        return state.params

    def status(self, state: OverRelaxedState, progress: Progress) -> Array:
        """As EM's; a step that was not taken is no small change."""
        return monotone.verdict(progress, fixed=state.fixed, moved=state.moved)

    def num_passes(self, state: OverRelaxedState, num_steps: Array) -> Array:
        """One a step, and one for the start."""
        return num_steps + 1
