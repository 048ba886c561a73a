"""The loop of one fit in its parts, and many fits through it: some lanes side by side, each taking the next start."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.batches import map_batches
from jaxmix.types import Data, Fit, Params, Problem, Progress, Solver, State, Status, penalty


class Carry(NamedTuple):
    """What goes round the loop.

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


class Parts(NamedTuple):
    """A fit as functions: `finish(while running: body)(begin(start))`.

    Attributes:
      begin: from a start to a `Carry`.
      running: from a `Carry` to whether another step is due.
      body: one step.
      finish: from the last `Carry` to a `Fit`.
    """

    begin: Callable[[Params], Carry]
    running: Callable[[Carry], Array]
    body: Callable[[Carry], Carry]
    finish: Callable[[Carry], Fit]


def objective(problem: Problem, params: Params, data: Data) -> Array:
    """What `run` reports as `Fit.loss`: the problem's loss over the rows, plus its penalty, once.

    Args:
      problem: a `Problem`.
      params: its parameters.
      data: the rows.

    Returns:
      Array of shape (); lower is better.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, kmeans, solve
      >>> solve.objective(kmeans.KMeans(), jnp.zeros((1, 1)), as_data([[1.0], [2.0]])).item()
      5.0
    """
    return problem.loss(params, data) + penalty(problem, params)


def padded(trace: Array, num_steps: Array, loss: Array) -> Array:
    """The trace with the last loss from the last step on."""
    return jnp.where(jnp.arange(trace.shape[0], dtype=num_steps.dtype) < num_steps, trace, loss)


def parts(
    problem: Problem, solver: Solver, like: Params, data: Data, rtol: Array, atol: Array, max_steps: int
) -> Parts:
    """The parts of a fit; `like` is a start, for its shapes."""
    loss_type = jax.eval_shape(objective, problem, like, data).dtype
    epsilon = jnp.finfo(loss_type).eps
    rtol, atol = jnp.asarray(rtol, loss_type), jnp.asarray(atol, loss_type)
    total_weight = jnp.sum(data.weights)

    def progress(first: Array, previous: Array, loss: Array) -> Progress:
        # Rounding of a sum is relative to its terms: the start's part speaks where the loss crosses zero.
        size = jnp.maximum(jnp.abs(previous), jnp.abs(loss))
        slack = jnp.sqrt(epsilon).astype(loss_type) * size + 32 * epsilon * jnp.abs(first)
        return Progress(previous, loss, atol * total_weight + rtol * jnp.abs(loss), slack)

    def begin(start: Params) -> Carry:
        return Carry(
            state=solver.init(problem, start, data),
            previous=jnp.array(jnp.inf, loss_type),
            status=jnp.array(Status.RUNNING, jnp.int32),
            num_steps=jnp.array(0, jnp.int32),
            trace=jnp.zeros(max_steps + 1, loss_type),
        )

    def running(carry: Carry) -> Array:
        return (carry.status == Status.RUNNING) & (carry.num_steps < max_steps)

    def body(carry: Carry) -> Carry:
        state, previous, _, num_steps, trace = carry
        after, loss = solver.step(problem, state, data)
        finite = jnp.isfinite(loss)
        trace = trace.at[num_steps].set(loss)
        status = jnp.where(finite, solver.status(after, progress(trace[0], previous, loss)), Status.NONFINITE)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        return Carry(state, loss, status.astype(jnp.int32), num_steps + finite.astype(jnp.int32), trace)

    def finish(carry: Carry) -> Fit:
        # Without the barrier XLA takes log(exp(x)) for x: a scale that overflowed would have a finite loss.
        params = jax.lax.optimization_barrier(solver.params(problem, carry.state))
        loss = objective(problem, params, data)
        status = jnp.where(carry.status == Status.RUNNING, Status.MAX_STEPS, carry.status)
        return Fit(
            params=params,
            loss=loss,
            status=jnp.where(jnp.isfinite(loss), status, Status.NONFINITE).astype(jnp.int32),
            num_steps=carry.num_steps,
            num_passes=jnp.asarray(solver.num_passes(carry.state, carry.num_steps), loss_type),
            trace=padded(carry.trace, carry.num_steps, loss),
        )

    return Parts(begin, running, body, finish)


def one(fit: Parts, start: Params) -> Fit:
    """A fit from one start."""
    return fit.finish(jax.lax.while_loop(fit.running, fit.body, fit.begin(start)))


def many(fit: Parts, starts: Params, lanes: int) -> Fit:
    """Fits from all starts (R, ...), in their order, `lanes` of them side by side.

    A work queue in one `while_loop`: a lane whose fit has ended hands it over, and takes the next start. The number of
    lanes is `lanes` also where there are fewer starts, so that a fit's bits do not depend on how many there are.
    """
    num_starts = jax.tree.leaves(starts)[0].shape[0]
    if lanes == 1:
        return jax.lax.map(lambda start: one(fit, start), starts)
    begin, body, running = jax.vmap(fit.begin), jax.vmap(fit.body), jax.vmap(fit.running)

    def fresh(index: Array) -> Carry:
        clipped = jnp.minimum(index, num_starts - 1)
        return begin(jax.tree.map(lambda leaf: leaf[clipped], starts))

    def step(queue: tuple[Array, Array, Carry, Carry]) -> tuple[Array, Array, Carry, Carry]:
        index, following, carry, ended = queue
        carry = _where(running(carry), body(carry), carry)
        over = (index < num_starts) & ~running(carry)
        return jax.lax.cond(jnp.any(over), hand_over, lambda _, *same: same, over, index, following, carry, ended)

    def hand_over(
        over: Array, index: Array, following: Array, carry: Carry, ended: Carry
    ) -> tuple[Array, Array, Carry, Carry]:
        place = jnp.where(over, index, num_starts)
        ended = jax.tree.map(lambda whole, lane: whole.at[place].set(lane, mode="drop"), ended, carry)
        waiting = jnp.minimum(following + jnp.cumsum(over, dtype=jnp.int32) - 1, num_starts)
        index = jnp.where(over, waiting, index)
        carry = _where(over, fresh(index), carry)
        return index, following + jnp.sum(over, dtype=jnp.int32), carry, ended

    index = jnp.arange(lanes, dtype=jnp.int32)
    carry = fresh(index)
    ended = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], num_starts, axis=0), carry)
    queue = (index, jnp.int32(lanes), carry, ended)
    ended = jax.lax.while_loop(lambda queue: jnp.any(queue[0] < num_starts), step, queue)[3]
    return map_batches(fit.finish, ended, lanes)


def _where(chosen: Array, new: Carry, old: Carry) -> Carry:
    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, new, old)
