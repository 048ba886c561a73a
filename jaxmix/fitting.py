"""The pipeline of every fit: validate once, seed, start, run, repair, choose."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import batches, local_search, memory, seeding, sharding, subsampling, validation
from jaxmix.arrays import described, reject_fit
from jaxmix.contracts import check_call, check_choice
from jaxmix.data import Data, Rows
from jaxmix.problem import Problem
from jaxmix.reduction import Blocks
from jaxmix.solve.em import EM
from jaxmix.solve.framed import as_caller, fit_in_frame, framed, moved_rows, short_runs
from jaxmix.solve.run import as_params, is_weighted, located, lowest, side_by_side
from jaxmix.solver import Fit, Solver
from jaxmix.streaming import complete
from jaxmix.streams import Stream
from jaxmix.subsampling import Plan, Subsample
from jaxmix.typing import ArrayLike, Params, Seeding

Refinement = Callable[[Array, Data], Array]
"""(centers (R, K, D), data) -> centers of the same shape: a `choice`, such as `kmeans.Lloyd(10)`."""

SWAPPED = 2**31 + 1
"""What is folded into the key of a fit for its exchanges: beyond the number of a restart, not `subsampling.SAMPLED`."""


def fit(
    problem: Problem,
    key: Array | None,
    x: ArrayLike | Data | Stream,
    k: int,
    *,
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike | Params = seeding.kmeans_plus_plus,
    refine: Refinement | None = None,
    restarts: int = 8,
    subsample: Subsample | None = Subsample(),
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
    reduce: Blocks = Blocks(),
) -> Fit:
    r"""Fits any problem to rows: the best of several restarts by its loss.

    $$\min_\theta \sum_n w_n \ell_n(\theta) + p(\theta)$$

    Each restart is a seeding of K centers, `problem.start` from them, and then the solver, all in one compiled program.
    `kmeans.fit` and `gmm.fit` are this function. Traceable: only `k`, `restarts`, `max_steps` and the choice of
    functions are static, so `jax.vmap` and `jax.jit` go over keys, data sets, weights and tolerances.

    Args:
      problem: a `Problem`, such as `kmeans.KMeans()` or one of your own.
      key: a PRNG key, for the seeding; None where `init` is no function.
      x: array of shape (N, D), `Data`, or a `Stream`. Float32 and float64 are kept; integers become float.
      k: the number of centers, between 1 and the number of rows with positive weight.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.
      init: a function (key, data, k) -> centers from `seeding` or your own; an array of centers of shape (K, D), or
        (R, K, D) for R starts; or parameters that `problem.as_starts` takes.
      refine: what is done to seeded centers before `problem.start`, such as `kmeans.Lloyd(10)`.
      restarts: how many starts, where `init` is a function.
      subsample: of many rows, and where `init` is a function, the restarts run on a sample, and the best on all: see
        `Subsample`. None: all `restarts` run on all rows, as they do anyway where these are few.
      num_active: integer from 1 to K, traced: how many of the K centers are switched on. `jax.vmap` over it sweeps K in
        one compiled program.
      solver: any `Solver`.
      max_steps: the most steps of each restart.
      rtol: relative tolerance on the loss.
      atol: absolute tolerance on the loss per unit of weight.
      reduce: how sums over rows are taken, such as `Blocks(4096)` for 4096 rows at a time.

    Returns:
      A `Fit`: that of the restart with the lowest finite loss, of those that ran on all rows.

    Raises:
      ValueError: naming the argument, if one is invalid, or a setting of the problem, the solver or `reduce` is.

    Example:
      >>> import jax, jax.numpy as jnp, jaxmix
      >>> from jaxmix import kmeans
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> jaxmix.fit(kmeans.KMeans(), jax.random.key(0), x, 2).loss.item()
      1.0
    """
    common = problem, x, k, weights, solver, max_steps, rtol, atol, reduce
    return _checked(*common, key, init, refine, restarts, subsample, num_active)(choose=True)


def fit_restarts(
    problem: Problem,
    key: Array | None,
    x: ArrayLike | Data | Stream,
    k: int,
    *,
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike | Params = seeding.kmeans_plus_plus,
    refine: Refinement | None = None,
    restarts: int = 8,
    subsample: Subsample | None = None,
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
    reduce: Blocks = Blocks(),
) -> Fit:
    """Every restart of a fit, each with its own status; `fit` with `subsample=None` is `best` of these.

    Takes and raises what `fit` does.

    Returns:
      A `Fit` with a leading axis R on every leaf; R is `restarts`, or the number of starts that `init` holds. With a
      `Subsample`, of those that were finished on all rows.

    Example:
      >>> import jax, jax.numpy as jnp, jaxmix
      >>> from jaxmix import kmeans
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> jaxmix.fit_restarts(kmeans.KMeans(), jax.random.key(0), x, 2, restarts=4).loss.shape
      (4,)
    """
    common = problem, x, k, weights, solver, max_steps, rtol, atol, reduce
    return _checked(*common, key, init, refine, restarts, subsample, num_active)(choose=False)


def _checked(
    problem, x, k, weights, solver, max_steps, rtol, atol, reduce, key, init, refine, restarts, subsample, num_active
) -> Callable[..., Fit]:
    """The compiled program of validated arguments, which lacks `choose`: whether it returns the best fit alone."""
    common, fixed = settings(problem, x, k, weights, solver, max_steps, rtol, atol, reduce)
    data = common[2]

    def program(compiled: Callable[..., Fit], *arguments: Any, **more: Any) -> Callable[..., Fit]:
        return partial(_called, x, partial(compiled, *arguments, *common, **fixed, **more))

    active = None if num_active is None else validation.as_count(num_active, "num_active", most=k)
    if refine is not None and (not callable(refine) or jax.tree_util.all_leaves([refine])):
        raise ValueError(f"`refine` must be a choice, such as kmeans.Lloyd(10), or None, got {described(refine)}.")
    if subsample is not None:
        check_choice(subsample, "subsample", Subsample, "Subsample()")
        if subsample.rows is not None and subsample.rows < k:
            raise ValueError(f"`rows` of `Subsample` must be at least `k`, {k}, got {subsample.rows}.")
    if callable(init):
        restarts = check_seeding(init, key, restarts)
        if isinstance(x, Stream):
            search, steps = subsample or Subsample(), fixed["max_steps"]
            plan = search.of_stream(x.num_rows, k, _numbers(common[0], k, x.survey.calibration), restarts)
            short = plan if steps and subsample is not None else None
            sample = x.sample(key, plan.num_rows, by_cost=common[0].squared_units)
            arguments = key, active, refine, search, short, sample, *common
            return program(_finished_from, *_from_sample(*arguments, init=init, restarts=restarts, **fixed))
        return program(_from_seeds, key, active, refine, subsample, init=init, restarts=restarts)
    if is_centers(init):
        return program(_from_centers, seeding.as_starts(init, k, data), active)
    reject_fit(init, "init")
    if active is not None:
        raise ValueError("`num_active` is for starts from centers: parameters say themselves what is switched off.")
    starts = problem.as_starts(memory.without_numpy(init), k, data.x.shape[1], data.x.dtype)
    return program(_finished_from, as_params(starts, data), 0)


def _called(x: Any, program: Any, *, choose: bool) -> Fit:
    return complete(x, program.args, partial(program, choose=choose))


def settings(problem, x, k, weights, solver, max_steps, rtol, atol, reduce) -> tuple[tuple, dict[str, Any]]:
    """The validated arguments of the compiled programs of a fit: those that are traced, and those that are static."""
    max_steps = validation.check_int(max_steps, "max_steps", least=0)
    problem, solver, data, scale, reduce, rtol, atol = located(
        problem, solver, x, reduce, rtol, atol, max_steps=max_steps, weights=weights
    )
    validation.check_count(k, x.num_rows if isinstance(x, Stream) else data, hint=validation.SWEPT)
    frame, rows = moved_rows(problem, k, data, scale, reduce, weighted=is_weighted(data))
    common = (problem, solver, data, rows, frame, reduce, rtol, atol)
    return common, {"k": k, "max_steps": max_steps, "num_parallel": side_by_side(None, x)}


def check_seeding(init: Any, key: Any, restarts: Any) -> int:
    """Rejects a seeding, a key or a number of restarts that is not valid, and returns the number."""
    check_call(init, "init", "(key, data, k) -> centers", "key", "data", "k")
    validation.check_key(key)
    return validation.check_int(restarts, "restarts", least=1)


def is_centers(init: Any) -> bool:
    """Whether an `init` is an array or nested lists of numbers, rather than the parameters of a problem."""
    return isinstance(init, list) or jax.tree_util.all_leaves([init])


_STATIC = ("k", "max_steps", "num_parallel", "choose")


@partial(jax.jit, static_argnames=("init", "restarts", *_STATIC))
def _from_seeds(key, active, refine, search, *common, init, restarts, **fixed):
    problem, data, rows, reduce, k = common[0], common[2], common[3], common[5], fixed["k"]
    # Without a step nothing tells which start is good.
    plan = _plan(search if fixed["max_steps"] else None, problem, data, k, restarts)
    weighted = rows.weights is not None
    num_rows = data.x.shape[0]

    def fits(key, active, refine, common):
        moved = common[3].x if problem.squared_units else None
        seen = subsampling.seen(key, common[2], plan, k, reduce, weighted=weighted, moved=moved)
        if plan is None:
            centers = seeds(key, active, refine, _scaled(common[0], seen), k, init, restarts, 0, reduce)
            return _run(_starts(common[0], sharding.agreed(reduce, centers), common[2], reduce), common, fixed)
        starts, passes = _sampled(key, active, refine, search, plan, seen, num_rows, common, init, restarts, fixed)
        return _run(starts, common, fixed | {"num_parallel": min(fixed["num_parallel"], plan.num_finished)}, passes)

    return sharding.spread(reduce, fits, key, active, refine, common)


@partial(jax.jit, static_argnames=("plan", "init", "restarts", *_STATIC))
def _from_sample(key, active, refine, search, plan, sample, *common, init, restarts, **fixed):
    """The starts of a fit of a stream, and the passes behind them."""
    num_rows = common[5].num_rows(0)
    return _sampled(key, active, refine, search, plan, sample, num_rows, common, init, restarts, fixed)


def _sampled(key, active, refine, search, plan, sample, num_rows, common, init, restarts, fixed):
    """The parameters that the best short runs on a sample come to; without a plan, those that all would start from."""
    problem, reduce, sample = common[0], common[5], _scaled(common[0], sample)
    swaps = plan.num_swaps if plan else 0
    centers = seeds(key, active, refine, sample, fixed["k"], init, restarts, swaps, reduce)
    starts = _starts(problem, centers, sample, reduce.own)
    return _finished(starts, sample, num_rows, plan.num_finished, search, common, fixed) if plan else (starts, 0)


def _scaled(problem: Problem, data: Data) -> Data:
    return data._replace(scale=problem.seeding_scale())


def _plan(search: Subsample | None, problem: Problem, data: Data, k: int, restarts: int) -> Plan | None:
    """The short runs of a fit, if it has any."""
    num_rows = data.x.shape[0]
    # More numbers ask for more rows. They are counted by tracing, which takes a while.
    if search is None or search.plan(num_rows, k, 0, restarts) is None:
        return None
    return search.plan(num_rows, k, _numbers(problem, k, data), restarts)


def _numbers(problem: Problem, k: int, data: Data) -> int:
    """How many numbers the parameters have."""
    centers = jax.ShapeDtypeStruct((k, data.x.shape[1]), data.x.dtype)
    like = jax.eval_shape(lambda *args: problem.start(args[0], jnp.ones(k, bool), args[1], Blocks()), centers, data)
    return sum(leaf.size for leaf in jax.tree.leaves(like))


def _finished(starts, sample, num_rows, num_finished, search, common, fixed):
    """The parameters that the best short runs on a sample come to, and the passes behind them."""
    problem, solver, _, _, frame, reduce, rtol, atol = common
    rows = Rows(sample.x if frame is None else frame.apply(sample.x), sample.weights)
    setting = framed(problem, fixed["k"], sample, rows, frame, reduce.own)

    def runs_of(starts):
        return short_runs(
            setting,
            solver,
            starts,
            rtol=rtol,
            atol=setting.squared(atol),
            max_steps=min(fixed["max_steps"], search.max_steps),
            num_parallel=fixed["num_parallel"],
            share=search.share,
        )

    runs = sharding.over_starts(reduce, runs_of, starts)
    kept = subsampling.best(runs.losses, runs.held_up, num_finished)
    passes = runs.num_passes * (sample.x.shape[0] / num_rows)
    return sharding.agreed(reduce, jax.tree.map(lambda leaf: leaf[kept], (runs.params, passes)))


@partial(jax.jit, static_argnames=_STATIC)
def _from_centers(centers, active, *common, **fixed):
    return fits_from(seeding.switched_off(centers, active), common, fixed)


@partial(jax.jit, static_argnames=_STATIC)
def _finished_from(starts, passes, *common, **fixed):
    """Fits from parameters (R, ...), and the passes behind these."""

    def fits(starts, passes, common):
        return _run(starts, common, fixed, passes)

    return sharding.spread(common[5], fits, starts, passes, common)


def seeds(key, active, refine, data, k, init, restarts, swaps=0, reduce=Blocks()) -> Array:
    """The centers that the restarts of a fit start from, (R, K, D); for J numbers of active ones (J R, K, D)."""

    def of(numbers):
        centers = switched_off(seeding.seeded(key, data, k, init, numbers), active)
        if swaps:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, SWAPPED), numbers)
            centers = local_search.improved(keys, centers, data, swaps)
        return centers if refine is None else refine(centers, data)

    return sharding.over_starts(reduce, of, jnp.arange(restarts))


def switched_off(centers: Array, active: Array | None) -> Array:
    """`seeding.switched_off`, also for several numbers of active centers, one after another: (J R, K, D)."""
    if active is None or active.ndim == 0:
        return seeding.switched_off(centers, active)
    return jax.vmap(seeding.switched_off, (None, 0))(centers, active).reshape(-1, *centers.shape[1:])


def fits_from(centers: Array, common: tuple, fixed: dict[str, Any]) -> Fit:
    """Fits from centers (R, K, D), by `settings` and whether the best is chosen; within a compiled program."""

    def fits(centers, common):
        return _run(_starts(common[0], centers, common[2], common[5]), common, fixed)

    return sharding.spread(common[5], fits, centers, common)


def _starts(problem: Problem, centers: Array, data: Data, reduce: Blocks) -> Params:
    def start(centers: Array) -> Params:
        off = jnp.any(jnp.isinf(centers), axis=1)
        return problem.start(jnp.where(off[:, None], 0, centers), ~off, data, reduce)

    return batches.map_batches(start, centers, batches.num_parallel())


def _run(starts, common, fixed, passes: Any = 0):
    problem, solver, data, rows, frame, reduce, rtol, atol = common
    setting = framed(problem, fixed["k"], data, rows, frame, reduce)

    def fits_of(starts):
        return fit_in_frame(setting, solver, starts, rtol, atol, fixed["max_steps"], fixed["num_parallel"])

    fits = sharding.over_starts(reduce, fits_of, starts)
    fits = fits._replace(num_passes=fits.num_passes + passes)
    return as_caller(setting, lowest(fits) if fixed["choose"] else fits)
