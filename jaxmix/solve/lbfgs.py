"""L-BFGS: optax's, with its line search, on a problem's loss."""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxmix import linalg, validation
from jaxmix.pytree import choice, static
from jaxmix.solve import termination
from jaxmix.solve.optax import GRADIENT_PASSES, lenient
from jaxmix.solver import Objective, Progress, Solver, Status
from jaxmix.typing import Params


class LBFGSState(NamedTuple):
    """What L-BFGS carries.

    Attributes:
      free: the parameters in unconstrained coordinates, 0 where they are not finite; None for leaves that are not
        floating.
      anchor: the start in these coordinates: holds what is not finite, such as a component that is switched off, and
        what is not floating.
      value: Array of shape (), the loss per unit of weight at `free`.
      gradient: its gradient, as `free`.
      optimizer: the optax state.
      decrement: Array of shape (), the loss still to gain, as estimated before the last step.
      fresh: Array of shape (), bool: no step has been taken since the memory was last emptied.
      stuck: Array of shape (), bool: not even the steepest descent finds a lower loss.
      passes: Array of shape (), passes over the data so far.
    """

    free: Params
    anchor: Params
    value: Array
    gradient: Params
    optimizer: Any
    decrement: Array
    fresh: Array
    stuck: Array
    passes: Array


@choice
class LBFGS(Solver):
    r"""Limited-memory BFGS with a zoom line search, in the problem's unconstrained coordinates.

    $$\theta_{t+1} = \theta_t - s_t H_t g_t$$

    on the loss per unit of weight, where $H_t$ is built from the last `memory` steps, and $s_t$ meets the strong
    Wolfe conditions. A step that does not lower the loss is not taken, and the memory is emptied: the loss never
    rises. Every evaluation of the line search is counted, three passes each.

    The fit has converged when the decrease still to gain, $\tfrac12 g_t^T H_t g_t$, is below the tolerance. As in
    `Optax`, the estimate starts at the loss itself and may at most halve in a step, so that one small step ends
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

    memory: int = static(default=10)

    def validate(self) -> None:
        """Rejects a memory that is no positive count."""
        validation.check_int(self.memory, "memory", least=1)

    def init(self, objective: Objective, params: Params) -> LBFGSState:
        """The start, its loss and its gradient."""
        anchor = objective.unconstrain(params)
        free = objective.free(anchor)
        value, gradient = objective.mean_value_and_grad(free, anchor)
        zero = jnp.zeros((), objective.dtype)
        return LBFGSState(
            free=free,
            anchor=anchor,
            value=value,
            gradient=gradient,
            optimizer=self._optimizer().init(free),
            decrement=zero + jnp.inf,
            fresh=jnp.array(True),
            stuck=jnp.array(False),
            passes=zero + GRADIENT_PASSES,
        )

    def step(self, objective: Objective, state: LBFGSState) -> tuple[LBFGSState, Array]:
        """One direction, one line search along it."""
        updates, searched = self._search(objective, state)
        search = searched[-1]
        lower = search.value < state.value
        along = jnp.asarray(optax.tree.vdot(state.gradient, updates))
        slope = linalg.safe_divide(-along, search.learning_rate)
        gain = jnp.where(slope > 0, 0.5 * slope * objective.total, state.decrement)
        loss = state.value * objective.total
        decrement = termination.expected_decrease(state.decrement, gain, loss, along * objective.total)
        at_rest = reduce(jnp.logical_and, [jnp.all(leaf == 0) for leaf in jax.tree.leaves(state.gradient)])
        moved = (jax.tree.map(jnp.add, state.free, updates), search.value, search.grad, searched)
        stayed = (state.free, state.value, state.gradient, self._optimizer().init(state.free))
        free, value, gradient, optimizer = termination.select(lower, moved, stayed)
        after = LBFGSState(
            free=free,
            anchor=state.anchor,
            value=value,
            gradient=gradient,
            optimizer=optimizer,
            decrement=jnp.where(at_rest, 0, decrement).astype(state.decrement.dtype),
            fresh=~lower,
            stuck=~lower & state.fresh,
            passes=state.passes + GRADIENT_PASSES * search.info.num_linesearch_steps.astype(state.passes.dtype),
        )
        return after, loss

    def params(self, objective: Objective, state: LBFGSState) -> Params:
        """The parameters, constrained again."""
        return objective.params(state.free, state.anchor)

    def status(self, state: LBFGSState, progress: Progress) -> Array:
        """Converged when the decrease still to gain is below the tolerance, or no lower loss can be found."""
        done = (state.decrement < progress.tolerance) | (state.decrement == 0)
        done = done | (state.stuck & (state.decrement <= progress.slack))
        return jnp.where(done, Status.CONVERGED, Status.RUNNING)

    def passes(self, state: LBFGSState, num_steps: Array) -> Array:
        """Three for each evaluation of loss and gradient."""
        return state.passes

    def _search(self, objective: Objective, state: LBFGSState) -> tuple[Any, Any]:
        return self._optimizer().update(
            state.gradient,
            state.optimizer,
            state.free,
            value=state.value,
            grad=state.gradient,
            value_fn=lambda free: objective.mean_value(free, state.anchor),
        )

    def _optimizer(self) -> optax.GradientTransformationExtraArgs:
        return lenient(lambda: optax.lbfgs(memory_size=self.memory))
