"""The loop of one fit, and many fits through it: some side by side, each of which takes the next start when it ends."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.batches import map_batches
from jaxmix.problem import defines
from jaxmix.solver import Fit, Objective, Progress, Solver, Status
from jaxmix.typing import Params, State


class LoopState(NamedTuple):
    """What the loop carries.

    Attributes:
      state: the solver's.
      previous: Array of shape (), the loss one step before.
      status: Array of shape (), int32 `Status`.
      num_steps: Array of shape (), int32.
      trace: Array of shape (max_steps + 1,), the losses so far, then zeros.
    """

    state: State
    previous: Array
    status: Array
    num_steps: Array
    trace: Array


class Loop(NamedTuple):
    """A fit as functions, `finalize(while cond: body(init(start)))`.

    Attributes:
      init: from a start to a `LoopState`.
      cond: from a `LoopState` to whether another step is due.
      body: one step.
      finalize: from the last `LoopState` to what the fit returns, a `Fit`.
    """

    init: Callable[[Params], LoopState]
    cond: Callable[[LoopState], Array]
    body: Callable[[LoopState], LoopState]
    finalize: Callable[[LoopState], Any]


def make_loop(
    objective: Objective,
    solver: Solver,
    like: Params,
    rtol: Array,
    atol: Array,
    max_steps: int,
    rounded: Callable[[Params], Params],
    share: float = 0.0,
) -> Loop:
    """The loop of a fit.

    Args:
      objective: what is minimized.
      solver: how.
      like: a start, for its shapes.
      rtol: as in `run`.
      atol: as in `run`.
      max_steps: as in `run`.
      rounded: from the last parameters to those that will be returned, whose loss is reported: moving them to where
        the caller has them rounds.
      share: what is added to the tolerance, as a share of the decrease since the start.
    """
    loss_type = jax.eval_shape(objective.value, like).dtype
    epsilon = jnp.finfo(loss_type).eps
    rtol, atol = jnp.asarray(rtol, loss_type), jnp.asarray(atol, loss_type)
    total_weight = objective.total.astype(loss_type)

    def progress(first: Array, previous: Array, loss: Array) -> Progress:
        # Rounding of a sum is relative to its terms: the start's part speaks where the loss crosses zero.
        size = jnp.maximum(jnp.abs(previous), jnp.abs(loss))
        slack = jnp.sqrt(epsilon).astype(loss_type) * size + 32 * epsilon * jnp.abs(first)
        tolerance = atol * total_weight + rtol * jnp.abs(loss)
        if share:
            tolerance = tolerance + share * jnp.maximum(first - loss, 0)
        return Progress(previous, loss, tolerance, slack)

    def uncertain(state: State, after: State) -> Array:
        # Where rounding decides, a fit may alternate: the next parameters are as those before these.
        found = [objective.problem.loss_rounding(solver.params(objective, each)) for each in (state, after)]
        return total_weight * jnp.asarray(found[0] + found[1], loss_type)

    def certain(state: State, after: State) -> Array:
        return jnp.zeros_like(total_weight)

    def init(start: Params) -> LoopState:
        return LoopState(
            state=solver.init(objective, start),
            previous=jnp.array(jnp.inf, loss_type),
            status=jnp.array(Status.RUNNING, jnp.int32),
            num_steps=jnp.array(0, jnp.int32),
            trace=jnp.zeros(max_steps + 1, loss_type),
        )

    def cond(carry: LoopState) -> Array:
        return (carry.status == Status.RUNNING) & (carry.num_steps < max_steps)

    def body(carry: LoopState) -> LoopState:
        state, previous, _, num_steps, trace = carry
        after, loss = solver.step(objective, state)
        finite = jnp.isfinite(loss)
        trace = trace.at[num_steps].set(loss)
        seen = progress(trace[0], previous, loss)
        if defines(objective.problem, "loss_rounding"):
            # Asked only where the loss rose: it takes a part of a step.
            unknown = jax.lax.cond(loss > previous + seen.slack, uncertain, certain, state, after)
            seen = seen._replace(slack=seen.slack + unknown)
        status = jnp.where(finite, solver.status(after, seen), Status.NONFINITE)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        return LoopState(state, loss, status.astype(jnp.int32), num_steps + finite.astype(jnp.int32), trace)

    def finalize(carry: LoopState) -> Fit:
        # Without the barrier XLA takes log(exp(x)) for x: a scale that overflowed would have a finite loss.
        params = jax.lax.optimization_barrier(solver.params(objective, carry.state))
        params, loss = objective.problem.repair(rounded(params), objective.rows, objective.reduce)
        # A loop that stops before its steps are over has run out of time.
        short = jnp.where(carry.num_steps < max_steps, Status.MAX_SECONDS, Status.MAX_STEPS)
        status = jnp.where(carry.status == Status.RUNNING, short, carry.status)
        return Fit(
            params=params,
            loss=loss,
            status=jnp.where(jnp.isfinite(loss), status, Status.NONFINITE).astype(jnp.int32),
            num_steps=carry.num_steps,
            num_passes=jnp.asarray(solver.passes(carry.state, carry.num_steps), loss_type),
            trace=filled(carry.trace, carry.num_steps, loss),
            held_up=objective.problem.held_up(params),
        )

    return Loop(init, cond, body, finalize)


def filled(trace: Array, num_steps: Array, loss: Array) -> Array:
    """The trace with the last loss from the last step on."""
    return jnp.where(jnp.arange(trace.shape[0], dtype=num_steps.dtype) < num_steps, trace, loss)


def fit_one(loop: Loop, start: Params) -> Any:
    """A fit from one start."""
    return loop.finalize(jax.lax.while_loop(loop.cond, loop.body, loop.init(start)))


def fit_many(loop: Loop, starts: Params, num_parallel: int) -> Any:
    """Fits from all starts (R, ...), in their order, `num_parallel` of them side by side.

    A work queue in one `while_loop`: a place whose fit has ended hands it over, and takes the next start. The number of
    places is the same where there are fewer starts, so that a fit's bits do not depend on how many there are.
    """
    num_starts = jax.tree.leaves(starts)[0].shape[0]
    if num_parallel == 1:
        return jax.lax.map(lambda start: fit_one(loop, start), starts)
    init, body, cond = jax.vmap(loop.init), jax.vmap(loop.body), jax.vmap(loop.cond)

    def fresh(index: Array) -> LoopState:
        clipped = jnp.minimum(index, num_starts - 1)
        return init(jax.tree.map(lambda leaf: leaf[clipped], starts))

    def step(queue: tuple[Array, Array, LoopState, LoopState]) -> tuple[Array, Array, LoopState, LoopState]:
        index, following, carry, ended = queue
        carry = _where(cond(carry), body(carry), carry)
        over = (index < num_starts) & ~cond(carry)
        return jax.lax.cond(jnp.any(over), hand_over, lambda _, *same: same, over, index, following, carry, ended)

    def hand_over(
        over: Array, index: Array, following: Array, carry: LoopState, ended: LoopState
    ) -> tuple[Array, Array, LoopState, LoopState]:
        place = jnp.where(over, index, num_starts)
        ended = jax.tree.map(lambda whole, one: whole.at[place].set(one, mode="drop"), ended, carry)
        waiting = jnp.minimum(following + jnp.cumsum(over, dtype=jnp.int32) - 1, num_starts)
        index = jnp.where(over, waiting, index)
        carry = _where(over, fresh(index), carry)
        return index, following + jnp.sum(over, dtype=jnp.int32), carry, ended

    index = jnp.arange(num_parallel, dtype=jnp.int32)
    carry = fresh(index)
    ended = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], num_starts, axis=0), carry)
    queue = (index, jnp.int32(num_parallel), carry, ended)
    ended = jax.lax.while_loop(lambda queue: jnp.any(queue[0] < num_starts), step, queue)[3]
    return map_batches(loop.finalize, ended, num_parallel)


def _where(chosen: Array, new: LoopState, old: LoopState) -> LoopState:
    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, new, old)
