"""A fit from one start as three compiled programs, so that the host can look between them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import sharding
from jaxmix.arrays import check_on_host, described
from jaxmix.solve.framed import as_caller, framed, loop_in_frame, num_components
from jaxmix.solve.loop import LoopState
from jaxmix.solve.segments import Programs, Segments, fingerprint_of, run_segments
from jaxmix.solver import Fit, Status
from jaxmix.streaming import complete
from jaxmix.streams import Stream
from jaxmix.typing import Params


def in_segments(source: Any, starts: list[Params], common: tuple[Any, ...], max_steps: int, segments: Segments) -> Fit:
    """Fits from all starts, one after another, by segments.

    Args:
      source: the rows as the caller gave them.
      starts: the starts.
      common: problem, solver, data, rows, frame, reduce, rtol and atol, as `run` hands them to its program.
      max_steps: the most steps.
      segments: a `Checkpoint`.

    Returns:
      A `Fit` with a leading axis.

    Raises:
      ValueError: for traced values, a reduce that spreads starts, or what is no `Checkpoint`.
    """
    problem, solver, data, _, _, reduce, rtol, atol = common
    if not hasattr(segments, "store"):
        raise ValueError(f"`checkpoint` must be a `jaxmix.Checkpoint` or None, got {described(segments)}.")
    check_on_host("Checkpoint", starts, common)
    if isinstance(reduce, sharding.Sharded) and reduce.starts is not None:
        raise ValueError("With a `Checkpoint` starts run one after another: leave `starts` of `Sharded` out.")
    seen = source.survey._replace(dtype=None) if isinstance(source, Stream) else data
    fingerprint = fingerprint_of(problem, solver, starts, seen, rtol, atol, max_steps)
    num_rows = source.num_rows if isinstance(source, Stream) else data.x.shape[0]
    return run_segments(_parts(source, starts[0], common, max_steps), starts, num_rows, segments, fingerprint)


def _parts(source: Any, start: Params, common: tuple[Any, ...], max_steps: int) -> Programs:
    """The compiled parts of a fit from one start, for starts of such shapes."""

    def call(program: Any, *arguments: Any) -> Any:
        return complete(source, (arguments, common), lambda: program(*arguments, *common, max_steps=max_steps))

    return Programs(
        begin=partial(call, _begin),
        advance=partial(call, _advance, start),
        end=partial(call, _end, start),
        ended=lambda carry: jax.eval_shape(partial(_end, max_steps=max_steps), start, carry, *common),
        is_running=lambda carry: int(carry.status) == Status.RUNNING and int(carry.num_steps) < max_steps,
        passes=partial(call, _passes, start),
    )


def _made(start: Params, common: tuple[Any, ...], max_steps: int) -> Any:
    problem, solver, data, rows, frame, reduce, rtol, atol = common
    setting = framed(problem, num_components(start), data, rows, frame, reduce)
    inside = setting.inward(start)
    return setting, inside, loop_in_frame(setting, solver, inside, rtol, atol, max_steps)


@partial(jax.jit, static_argnames="max_steps")
def _begin(start: Params, *common: Any, max_steps: int) -> LoopState:
    def of(start: Params, common: tuple[Any, ...]) -> LoopState:
        _, inside, loop = _made(start, common, max_steps)
        return loop.init(inside)

    return sharding.spread(common[5], of, start, common)


@partial(jax.jit, static_argnames="max_steps")
def _advance(start: Params, carry: LoopState, steps: Array, *common: Any, max_steps: int) -> LoopState:
    def of(start: Params, carry: LoopState, steps: Array, common: tuple[Any, ...]) -> LoopState:
        loop = _made(start, common, max_steps)[2]
        last = carry.num_steps + steps
        return jax.lax.while_loop(lambda each: loop.cond(each) & (each.num_steps < last), loop.body, carry)

    return sharding.spread(common[5], of, start, carry, steps, common)


@partial(jax.jit, static_argnames="max_steps")
def _end(start: Params, carry: LoopState, *common: Any, max_steps: int) -> Fit:
    def of(start: Params, carry: LoopState, common: tuple[Any, ...]) -> Fit:
        setting, _, loop = _made(start, common, max_steps)
        return as_caller(setting, loop.finalize(carry))

    return sharding.spread(common[5], of, start, carry, common)


@partial(jax.jit, static_argnames="max_steps")
def _passes(start: Params, carry: LoopState, *common: Any, max_steps: int) -> Array:
    return jnp.asarray(common[1].passes(carry.state, carry.num_steps), carry.previous.dtype)
