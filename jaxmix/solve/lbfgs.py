"""L-BFGS: optax's, with its line search, on a problem's loss."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxmix import door, linalg
from jaxmix.solve import coordinates, monotone
from jaxmix.solve.decrement import guarded
from jaxmix.solve.gradient import GRADIENT_PASSES, lenient
from jaxmix.solve.loop import objective
from jaxmix.types import Data, Params, Problem, Progress, Status


class LBFGSState(NamedTuple):
    """What L-BFGS carries; P free coordinates.

    Attributes:
      point: Array of shape (P,), the free coordinates, 0 where they are not finite.
      anchor: the start: holds what is not finite, such as a component that is switched off.
      value: Array of shape (), the loss per unit of weight at `point`.
      gradient: Array of shape (P,), its gradient.
      optimizer: the optax state.
      decrement: Array of shape (), the loss still to gain, as estimated before the last step.
      fresh: Array of shape (), bool: no step has been taken since the memory was last emptied.
      stuck: Array of shape (), bool: not even the steepest descent finds a lower loss.
      passes: Array of shape (), passes over the data so far.
    """

    point: Array
    anchor: Params
    value: Array
    gradient: Array
    optimizer: Any
    decrement: Array
    fresh: Array
    stuck: Array
    passes: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LBFGS:
    r"""Limited-memory BFGS with a zoom line search, in the problem's unconstrained coordinates.

    $$\theta_{t+1} = \theta_t - s_t H_t g_t$$

    on the loss per unit of weight, where $H_t$ is built from the last `memory` steps, and $s_t$ meets the strong
    Wolfe conditions. A step that does not lower the loss is not taken, and the memory is emptied: the loss never
    rises. Every evaluation of the line search is counted, three passes each.

    The fit has converged when the decrease still to gain, $\tfrac12 g_t^T H_t g_t$, is below the tolerance. As in
    `Gradient`, the estimate starts at the loss itself and may at most halve in a step, so that one small step ends
    nothing. It has also converged when the steepest descent finds no lower loss and the estimate is within rounding.

    Attributes:
      memory: how many steps are remembered, static.

    Raises:
      ValueError: when it runs, for a `memory` below 1.

    References:
      Nocedal and Wright (2006), algorithms 7.4 and 7.5; algorithms 3.5 and 3.6 for the line search.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> round(solve.run(kmeans.KMeans(), LBFGS(), x[1:3], x, rtol=1e-6).loss.item(), 4)
      1.0
    """

    memory: int = dataclasses.field(default=10, metadata={"static": True})

    def init(self, problem: Problem, params: Params, data: Data) -> LBFGSState:
        """The start, its loss and its gradient."""
        door.check_int(self.memory, "memory", least=1)
        point = coordinates.finite(coordinates.to_vector(problem, params))
        value, gradient = jax.value_and_grad(lambda point: _mean_loss(problem, point, params, data))(point)
        zero = jnp.zeros((), data.x.dtype)
        return LBFGSState(
            point=point,
            anchor=params,
            value=value,
            gradient=gradient,
            optimizer=self._optimizer().init(point),
            decrement=zero + jnp.inf,
            fresh=jnp.array(True),
            stuck=jnp.array(False),
            passes=zero + GRADIENT_PASSES,
        )

    def step(self, problem: Problem, state: LBFGSState, data: Data) -> tuple[LBFGSState, Array]:
        """One direction, one line search along it."""
        total_weight = jnp.sum(data.weights)
        updates, searched = self._search(problem, state, data)
        search = searched[-1]
        lower = search.value < state.value
        slope = linalg.safe_divide(-linalg.dot(state.gradient, updates), search.learning_rate)
        gain = jnp.where(slope > 0, 0.5 * slope * total_weight, state.decrement)
        promised = linalg.dot(state.gradient, updates) * total_weight
        decrement = guarded(state.decrement, gain, state.value * total_weight, promised)
        at_rest = jnp.all(state.gradient == 0)
        moved = (state.point + updates, search.value, search.grad, searched)
        stayed = (state.point, state.value, state.gradient, self._optimizer().init(state.point))
        point, value, gradient, optimizer = monotone.choose(lower, moved, stayed)
        after = LBFGSState(
            point=point,
            anchor=state.anchor,
            value=value,
            gradient=gradient,
            optimizer=optimizer,
            decrement=jnp.where(at_rest, 0, decrement).astype(state.decrement.dtype),
            fresh=~lower,
            stuck=~lower & state.fresh,
            passes=state.passes + GRADIENT_PASSES * search.info.num_linesearch_steps.astype(state.passes.dtype),
        )
        return after, state.value * total_weight

    def params(self, problem: Problem, state: LBFGSState) -> Params:
        """The parameters, constrained again."""
        return _at(problem, state.point, state.anchor)

    def status(self, state: LBFGSState, progress: Progress) -> Array:
        """Converged when the decrease still to gain is below the tolerance, or no lower loss can be found."""
        done = (state.decrement < progress.tolerance) | (state.decrement == 0)
        done = done | (state.stuck & (state.decrement <= progress.slack))
        return jnp.where(done, Status.CONVERGED, Status.RUNNING)

    def num_passes(self, state: LBFGSState, num_steps: Array) -> Array:
        """Three for each evaluation of loss and gradient."""
        return state.passes

    def _search(self, problem: Problem, state: LBFGSState, data: Data) -> tuple[Any, Any]:
        return self._optimizer().update(
            state.gradient,
            state.optimizer,
            state.point,
            value=state.value,
            grad=state.gradient,
            value_fn=lambda point: _mean_loss(problem, point, state.anchor, data),
        )

    def _optimizer(self) -> optax.GradientTransformationExtraArgs:
        return lenient(lambda: optax.lbfgs(memory_size=self.memory))


def _at(problem: Problem, point: Array, anchor: Params) -> Params:
    held = coordinates.to_vector(problem, anchor)
    return coordinates.from_vector(problem, coordinates.pin(point, held), anchor)


def _mean_loss(problem: Problem, point: Array, anchor: Params, data: Data) -> Array:
    return objective(problem, _at(problem, point, anchor), data) / jnp.sum(data.weights)
