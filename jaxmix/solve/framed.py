"""Fits in the frame of their rows: problem, parameters, rows and tolerance move there together, and results back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import memory, validation
from jaxmix.data import Data, Rows
from jaxmix.frame import Frame, unscaled
from jaxmix.problem import Problem
from jaxmix.reduction import Blocks
from jaxmix.solve import loop
from jaxmix.solver import Fit, Objective, Solver
from jaxmix.typing import Params


class Framed(NamedTuple):
    """An objective in the frame of its rows.

    Attributes:
      objective: the objective there.
      caller: the problem as the caller has it.
      frame: the frame; None where the problem cannot be moved.
    """

    objective: Objective
    caller: Problem
    frame: Frame | None

    def inward(self, params: Params) -> Params:
        """The caller's parameters in the frame."""
        return params if self.frame is None else _moved(self.caller, params, self.frame)[1]

    def outward(self, params: Params) -> Params:
        """Parameters in the frame, as the caller has them."""
        return params if self.frame is None else _moved(self.objective.problem, params, self.frame.inverse)[1]

    def loss_shift(self, params: Params, frame: Frame) -> Array | float:
        """By how much the loss in the frame exceeds the caller's."""
        return self.objective.problem.loss_shift(params, frame, self.objective.total)

    def squared(self, number: Array) -> Array:
        """A number in the caller's squared units, in those of the frame."""
        scale = self._scale
        return number if scale is None else number * scale.astype(number.dtype) * scale.astype(number.dtype)

    def unsquared(self, tree: tuple[Array, ...]) -> tuple[Array, ...]:
        """Numbers in squared units of the frame, in those of the caller."""
        return unscaled(tree, self._scale, power=2)

    @property
    def _scale(self) -> Array | None:
        return None if self.frame is None or not self.caller.squared_units else self.frame.scale


def moved_rows(
    problem: Problem, k: int, data: Data, scale: Array | None, reduce: Blocks, *, weighted: bool
) -> tuple[Frame | None, Rows]:
    """The frame of a fit, None for a problem that cannot be moved; and the rows there, filled up to whole blocks.

    This is done before anything is compiled: so one program serves rows that need not be moved, and does not copy them.

    Args:
      problem: the problem.
      k: the number of its components.
      data: the rows.
      scale: what K-means multiplies the rows by, such as `frame.scale_of` them; None for 1.
      reduce: how sums are taken.
      weighted: whether any weight is not one.
    """
    one = memory.constant(1.0, (), data.x.dtype)
    scale = (one if scale is None else scale) if problem.squared_units else problem.unit()
    there = Frame(data.origin, scale)
    frame = there if problem.is_movable(there) else None
    x, weights = data.x, data.weights if weighted else None
    num_rows, num_features = x.shape
    footprint = problem.footprint(k, num_features)
    size = reduce.rows_per_block(num_rows, num_features, footprint, x.dtype.itemsize)
    length = -(-num_rows // size) * size
    if not validation.is_concrete(data, scale):
        return frame, Rows(x if frame is None else frame.apply(x), weights)
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval():
        rows, origin, factor = map(memory.on_host, (x, data.origin, one if scale is None else scale))
        rests = frame is None or not (np.any(origin) or np.any(factor != 1))
        if not isinstance(rows, np.ndarray):
            return frame, Rows(x if rests or frame is None else frame.apply(x), weights)
        if rests and length == x.shape[0]:
            return frame, Rows(x, weights)
        moved = memory.empty((length, x.shape[1]), x.dtype)
        moved[: len(rows)] = rows
        moved[len(rows) :] = 0
        if not rests:
            moved[: len(rows)] -= origin
            moved *= factor
        if weights is not None:
            weights = memory.copied(np.pad(memory.on_host(weights), (0, length - len(rows))))
        return frame, Rows(memory.adopted(moved), weights)


def framed(problem: Problem, k: int, data: Data, rows: Rows, frame: Frame | None, reduce: Blocks) -> Framed:
    """The objective of a problem in the frame of its rows.

    Args:
      problem: the problem.
      k: the number of its components.
      data: the rows as the caller has them.
      rows: of `moved_rows`.
      frame: of `moved_rows`.
      reduce: how sums are taken.
    """
    inner = problem if frame is None else _moved(problem, None, frame)[0]
    num_rows, reduce = reduce.num_rows(data.x.shape[0]), reduce.within(frame)
    cut = reduce.cut(rows.x, rows.weights, inner.footprint(k, data.x.shape[1]), num_rows)
    total = reduce.sums(jnp.sum, data.weights)
    return Framed(Objective(inner.bind(cut, reduce), cut, total, reduce, num_rows), problem, frame)


def num_components(params: Params) -> int:
    """K, the first axis of the first leaf of one start."""
    return jax.tree.leaves(params)[0].shape[0] if jnp.ndim(jax.tree.leaves(params)[0]) else 1


def loop_in_frame(setting: Framed, solver: Solver, like: Params, rtol: Array, atol: Array, max_steps: int) -> loop.Loop:
    """The loop of a fit in the frame; `like` is a start there, `atol` in the caller's units."""

    def rounded(params: Params) -> Params:
        return setting.inward(jax.lax.optimization_barrier(setting.outward(params)))

    return loop.make_loop(setting.objective, solver, like, rtol, setting.squared(atol), max_steps, rounded)


def fit_in_frame(
    setting: Framed,
    solver: Solver,
    starts: Params,
    rtol: Array,
    atol: Array,
    max_steps: int,
    num_parallel: int | None,
) -> Fit:
    """Fits in the frame, from starts in the caller's units: from one, or with `num_parallel` from many (R, ...)."""
    many = num_parallel is not None
    starts = jax.vmap(setting.inward)(starts) if many else setting.inward(starts)
    like = jax.tree.map(lambda leaf: leaf[0], starts) if many else starts
    made = loop_in_frame(setting, solver, like, rtol, atol, max_steps)
    return loop.fit_one(made, starts) if num_parallel is None else loop.fit_many(made, starts, num_parallel)


class ShortRuns(NamedTuple):
    """What short runs come to; every leaf has a leading axis R.

    Attributes:
      params: in the caller's units, without repair.
      losses: Array of shape (R,), one step before; infinite where the parameters hold NaN.
      num_passes: Array of shape (R,), as in `Fit`.
      held_up: as in `Fit`.
    """

    params: Params
    losses: Array
    num_passes: Array
    held_up: Array | None


def short_runs(
    setting: Framed,
    solver: Solver,
    starts: Params,
    *,
    rtol: Array,
    atol: Array,
    max_steps: int,
    num_parallel: int,
    share: float = 0.0,
) -> ShortRuns:
    """Runs that are not finished, from starts (R, ...) in the caller's units: no pass over the rows closes them.

    They end as fits do, with `atol` in the unit of the frame, or when a step gains less than a share of what all have
    gained.
    """
    starts = jax.vmap(setting.inward)(starts)
    like = jax.tree.map(lambda leaf: leaf[0], starts)
    made = loop.make_loop(setting.objective, solver, like, rtol, atol, max_steps, lambda params: params, share)

    def last(carry: loop.LoopState) -> ShortRuns:
        params = solver.params(setting.objective, carry.state)
        passes = jnp.asarray(solver.passes(carry.state, carry.num_steps), carry.previous.dtype)
        held_up = setting.objective.problem.held_up(params)
        # The loss is that of a step before: the last may have broken them.
        numbers = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        broken = jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in numbers])
        losses = jnp.where(jnp.any(broken), jnp.inf, carry.previous)
        return ShortRuns(setting.outward(params), losses, passes, held_up)

    return loop.fit_many(made._replace(finalize=last), starts, num_parallel)


def as_caller(setting: Framed, fit: Fit) -> Fit:
    """A fit in the frame, as the caller has it: J in squared units may then be out of range."""

    def one(fit: Fit) -> Fit:
        shift = 0.0 if setting.frame is None else setting.loss_shift(fit.params, setting.frame)
        loss, trace = setting.unsquared((fit.loss - shift, fit.trace - shift))
        return fit._replace(params=setting.outward(fit.params), loss=loss, trace=trace)

    return one(fit) if fit.loss.ndim == 0 else jax.vmap(one)(fit)


def _moved(problem: Problem, params: Params | None, frame: Frame) -> tuple[Problem, Params]:
    moved = problem.moved(params, frame)
    assert moved is not None  # it does not depend on values
    return moved
