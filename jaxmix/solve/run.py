"""Whole fits in one compiled program: any solver on any problem, from one start or from many."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import batches, memory, sharding, validation
from jaxmix.arrays import check_nonnegative, described, reject_fit
from jaxmix.contracts import check_choice
from jaxmix.data import Data
from jaxmix.problem import Problem
from jaxmix.reduction import Blocks
from jaxmix.solve.framed import as_caller, fit_in_frame, framed, moved_rows, num_components
from jaxmix.solve.parts import in_segments
from jaxmix.solve.segments import Segments
from jaxmix.solver import Fit, Objective, Solver, Status
from jaxmix.streaming import complete, streamed
from jaxmix.streams import Stream
from jaxmix.typing import ArrayLike, Params


def run(
    problem: Problem,
    solver: Solver,
    params: Params,
    data: Data | Stream | ArrayLike,
    *,
    reduce: Blocks = Blocks(),
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
    checkpoint: Segments | None = None,
) -> Fit:
    r"""Runs a solver from one start until it converges, fails, or the steps run out, in one `while_loop`.

    The tolerance on the loss $\ell$ is $\text{atol} \sum_n w_n + \text{rtol}\,|\ell|$, with $|\ell|$ in the unit of
    the fit (see `Problem.unit`); what it is compared with is the solver's own rule. At tolerance 0, EM stops only at a
    bit-exact fixed point. Everything but `max_steps` and the choice of functions is traced: `jax.vmap` and `jax.jit` it
    over tolerances, step sizes, starts, keys and data sets, with one compile. Reverse-mode differentiation does not go
    through the loop; by the envelope theorem the gradient of the optimal loss is that of `objective` at `Fit.params`.

    Args:
      problem: a `Problem`, such as `kmeans.KMeans()`.
      solver: a `Solver`, such as `solve.EM()`.
      params: the start. Its leaves are taken in the dtype of the data.
      data: `Data`, an array of shape (N, D), or a `Stream`.
      reduce: how sums over rows are taken, such as `Blocks(4096)` for 4096 rows at a time.
      max_steps: the most steps, static; 0 evaluates the start.
      rtol: relative tolerance on the loss, non-negative.
      atol: absolute tolerance on the loss per unit of weight, non-negative.
      checkpoint: a `jaxmix.Checkpoint`, by which the fit runs in segments that outlive its process; None for one
        program.

    Returns:
      A `Fit`. A fit whose loss stops being finite keeps the parameters of that moment and says `NONFINITE`.

    Raises:
      ValueError: if the data, a tolerance, `max_steps`, or a setting of `problem`, `solver` or `reduce` is invalid, if
        one of these three is of another type or lacks a method, or if the parameters are not those of the problem.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = solve.run(kmeans.KMeans(), solve.EM(), x[:2], x)
      >>> fit.params.ravel().tolist(), fit.loss.item()
      ([0.5, 9.5], 1.0)
    """
    source, fixed = data, {"max_steps": max_steps}
    problem, solver, data, scale, reduce, rtol, atol = located(problem, solver, data, reduce, rtol, atol, **fixed)
    start, weighted = as_params(params, data), is_weighted(data)
    problem.validate_params(start, data.x.shape[1])
    frame, rows = moved_rows(problem, num_components(start), data, scale, reduce, weighted=weighted)
    if checkpoint is not None:
        common = problem, solver, data, rows, frame, reduce, rtol, atol
        fits = in_segments(source, [start], common, max_steps, checkpoint)
        return jax.tree.map(lambda leaf: leaf[0], fits)
    arguments = problem, solver, start, data, rows, frame, reduce, rtol, atol
    return complete(source, arguments, lambda: _run(*arguments, **fixed))


def run_many(
    problem: Problem,
    solver: Solver,
    starts: Params,
    data: Data | Stream | ArrayLike,
    *,
    reduce: Blocks = Blocks(),
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
    num_parallel: int | None = None,
    checkpoint: Segments | None = None,
) -> Fit:
    """`run` from many starts: every fit with its own status, none costing another anything but time.

    Under `vmap` every fit would wait for the slowest. Here a place whose fit has ended takes the next start, all in one
    `while_loop`, so that the steps done are those that the fits needed.

    Args:
      problem: as in `run`.
      solver: as in `run`, one for all starts.
      starts: parameters with a leading axis R on every leaf.
      data: as in `run`.
      reduce: as in `run`.
      max_steps: as in `run`.
      rtol: as in `run`.
      atol: as in `run`.
      num_parallel: how many fits are computed side by side, static. None: one on CPU, eight elsewhere, whatever R is;
        one of a `Stream`. It changes the results by rounding at most. For a given number, fit i has the same bits for
        every R.
      checkpoint: as in `run`; the starts then run one after another.

    Returns:
      A `Fit` with a leading axis R on every leaf, in the order of the starts.

    Raises:
      ValueError: as `run` does, if the leaves of `starts` disagree about R, or for `num_parallel` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fits = solve.run_many(kmeans.KMeans(), solve.EM(), jnp.stack([x[:2], x[2:]]), x)
      >>> fits.loss.tolist()
      [1.0, 1.0]
    """
    source, fixed = data, {"max_steps": max_steps}
    problem, solver, data, scale, reduce, rtol, atol = located(problem, solver, data, reduce, rtol, atol, **fixed)
    starts = as_params(starts, data)
    problem.validate_params(starts, data.x.shape[1])
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(starts)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0] == () or shapes[0][0] == 0:
        raise ValueError(f"Every leaf of `starts` needs the same leading axis R >= 1, got shapes {shapes}.")
    num_parallel = side_by_side(num_parallel, source)
    first = jax.tree.leaves(starts)[0]
    k = first.shape[1] if first.ndim > 1 else 1
    frame, rows = moved_rows(problem, k, data, scale, reduce, weighted=is_weighted(data))
    if checkpoint is not None:
        common = problem, solver, data, rows, frame, reduce, rtol, atol
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], starts) for i in range(shapes[0][0])]
        return in_segments(source, each, common, max_steps, checkpoint)
    arguments = problem, solver, starts, data, rows, frame, reduce, rtol, atol
    return complete(source, arguments, lambda: _run(*arguments, **fixed, num_parallel=num_parallel))


def best(fits: Fit) -> Fit:
    """The fit with the lowest finite loss along the leading axis; a non-finite one never wins.

    Args:
      fits: a `Fit` with a leading axis R. For more axes, `jax.vmap(best)`.

    Returns:
      One `Fit`: the first of equals. If all failed, the first, whose status then says so.

    Raises:
      ValueError: for anything else, or a `Fit` without a leading axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> starts = jnp.stack([jnp.full((2, 1), jnp.nan), x[:2]])
      >>> solve.best(solve.run_many(kmeans.KMeans(), solve.EM(), starts, x)).loss.item()
      1.0
    """
    if not isinstance(fits, Fit) or jnp.ndim(fits.loss) == 0:
        what = "one Fit, which is the best of itself" if isinstance(fits, Fit) else described(fits)
        raise ValueError(f"`fits` must be a `Fit` with a leading axis, as `fit_restarts` returns, got {what}.")
    return _best(fits)


def make_objective(
    problem: Problem,
    params: Params,
    data: Data | ArrayLike,
    *,
    reduce: Blocks = Blocks(),
) -> Objective:
    """What `run` hands to a solver, here in the caller's units: rows are cut, and not moved.

    Args:
      problem: a `Problem`.
      params: its parameters, for their shapes.
      data: `Data`, or an array of shape (N, D).
      reduce: as in `run`, but not `Sharded`.

    Returns:
      An `Objective`.

    Raises:
      ValueError: as `run` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> centers = jnp.zeros((1, 1))
      >>> stats, loss = solve.make_objective(kmeans.KMeans(), centers, jnp.array([[1.0], [2.0]])).stats(centers)
      >>> stats.counts.tolist(), loss.item()
      ([2.0], 5.0)
    """
    data = validation.as_data(data)
    problem, _, reduce, *_ = validated(problem, None, reduce, data, 0, 0.0, 0.0)
    if isinstance(reduce, sharding.Sharded):
        raise ValueError("`reduce` must be `Blocks` here: over devices an objective exists only within a fit.")
    reject_fit(params, "params")
    problem.validate_params(params, data.x.shape[1])
    weights = data.weights if is_weighted(data) else None
    rows = reduce.cut(data.x, weights, problem.footprint(num_components(params), data.x.shape[1]))
    return Objective(problem.bind(rows, reduce), rows, jnp.sum(data.weights), reduce, data.x.shape[0])


def objective(problem: Problem, params: Params, data: Data | ArrayLike, *, reduce: Blocks = Blocks()) -> Array:
    """What `run` reports as `Fit.loss`: the problem's loss over the rows, plus its penalty, once.

    Args:
      problem: a `Problem`.
      params: its parameters.
      data: `Data`, or an array of shape (N, D).
      reduce: as in `run`, but not `Sharded`.

    Returns:
      Array of shape (); lower is better. Differentiable in `params`.

    Raises:
      ValueError: as `run` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, kmeans, solve
      >>> solve.objective(kmeans.KMeans(), jnp.zeros((1, 1)), as_data([[1.0], [2.0]])).item()
      5.0
    """
    return _value(make_objective(problem, params, data, reduce=reduce), params)


def located(
    problem: Problem,
    solver: Solver,
    rows: Data | Stream | ArrayLike,
    reduce: Blocks,
    rtol: ArrayLike,
    atol: ArrayLike,
    *,
    max_steps: int,
    weights: ArrayLike | None = None,
) -> tuple[Any, Any, Data, Array | None, Blocks, Array, Array]:
    """The validated arguments of a fit, with its rows where the reduce takes them, and their `frame.scale_of`."""
    if not isinstance(rows, Stream):
        data, scale = validation.as_data_and_unit(rows, weights)
        problem, solver, reduce, _, rtol, atol = validated(problem, solver, reduce, data, max_steps, rtol, atol)
        reduce, data = sharding.placed(reduce, data)
        return problem, solver, data, scale, reduce, rtol, atol
    if weights is not None:
        raise ValueError("`x` is a `Stream`, which has weights already: give `Stream(rows, weights=weights)` instead.")
    seen = rows.survey.calibration
    problem, solver, reduce, _, rtol, atol = validated(problem, solver, reduce, seen, max_steps, rtol, atol)
    return problem, solver, rows.data(), rows.scale(), streamed(reduce, rows), rtol, atol


def validated(
    problem: Problem,
    solver: Solver | None,
    reduce: Blocks,
    data: Data,
    max_steps: int,
    rtol: ArrayLike,
    atol: ArrayLike,
) -> tuple[Any, Any, Blocks, int, Array, Array]:
    """The arguments of `run` as JAX arrays that share no memory with NumPy's; invalid ones are rejected.

    The problem is calibrated on the rows.
    """
    # A loss alone is enough for gradients.
    needed = () if getattr(type(problem), "loss", Problem.loss) is not Problem.loss else ("e_step", "m_step")
    check_choice(problem, "problem", Problem, "kmeans.KMeans()", needed)
    check_choice(reduce, "reduce", Blocks, "Blocks(4096)")
    if solver is not None:
        check_choice(solver, "solver", Solver, "solve.EM()", ("init", "step"))
    rtol, atol = check_nonnegative(rtol, "rtol"), check_nonnegative(atol, "atol")
    problem, solver = memory.without_numpy(problem).calibrate(data), memory.without_numpy(solver)
    return problem, solver, reduce, validation.check_int(max_steps, "max_steps", least=0), rtol, atol


def as_params(params: Params, data: Data) -> Params:
    """Floating leaves in the dtype of the data, Python and NumPy integers too; typed arrays keep other dtypes."""
    reject_fit(params, "params")

    def leaf(value: ArrayLike) -> Array:
        if isinstance(value, Array) and not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return validation.as_floating(value, "params").astype(data.x.dtype)

    return jax.tree.map(leaf, params)


def is_weighted(data: Data) -> bool:
    """Whether any weight may not be one."""
    return not validation.is_concrete(data.weights) or not bool((memory.on_host(data.weights) == 1).all())


def side_by_side(num_parallel: int | None, rows: Any = None) -> int:
    """How many fits of rows are computed side by side."""
    most = 1 if isinstance(rows, Stream) else None
    if num_parallel is None:
        num_parallel = most or batches.num_parallel()
    if most and num_parallel != most:
        raise ValueError(f"`num_parallel` must be 1 or None for a `Stream`, got {num_parallel}: one fit reads it.")
    return validation.check_int(num_parallel, "num_parallel", least=1)


@partial(jax.jit, static_argnames=("max_steps", "num_parallel"))
def _run(problem, solver, starts, data, rows, frame, reduce, rtol, atol, *, max_steps, num_parallel=None):
    like = starts if num_parallel is None else jax.tree.map(lambda leaf: leaf[0], starts)

    def fits(problem: Any, solver: Any, starts: Any, data: Data, rows: Any, frame: Any, rtol: Any, atol: Any) -> Fit:
        setting = framed(problem, num_components(like), data, rows, frame, reduce)

        def of(starts: Params) -> Fit:
            return as_caller(setting, fit_in_frame(setting, solver, starts, rtol, atol, max_steps, num_parallel))

        return of(starts) if num_parallel is None else sharding.over_starts(reduce, of, starts)

    return sharding.spread(reduce, fits, problem, solver, starts, data, rows, frame, rtol, atol)


@jax.jit
def _value(objective: Objective, params: Params) -> Array:
    return objective.value(params)


def lowest(fits: Fit) -> Fit:
    """`best`, within a compiled program."""
    alive = (fits.status != Status.NONFINITE) & jnp.isfinite(fits.loss)
    winner = jnp.argmin(jnp.where(alive, fits.loss, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[winner], fits)


_best = jax.jit(lowest)
