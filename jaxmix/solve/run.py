"""The one loop: any solver on any problem, from one start or from many."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import batches, door, frame, memory
from jaxmix.solve import loop
from jaxmix.types import ArrayLike, Data, Fit, Params, Problem, Solver, Status, in_squared_units
from jaxmix.types import check as check_settings


def run(
    problem: Problem,
    solver: Solver,
    params: Params,
    data: Data | ArrayLike,
    *,
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
) -> Fit:
    r"""Runs a solver from one start until it converges, fails, or the steps run out, in one `while_loop`.

    The tolerance on the loss $\ell$ is $\text{atol} \sum_n w_n + \text{rtol}\,|\ell|$; what it is compared
    with is the solver's own rule. At tolerance 0, EM stops only at a bit-exact fixed point. Everything but
    `max_steps` and the choice of functions is traced: `jax.vmap` and `jax.jit` it over tolerances, step sizes,
    starts, keys and data sets, with one compile. Reverse-mode differentiation does not go through the loop; by
    the envelope theorem the gradient of the optimal loss is that of `objective` at `Fit.params`.

    Args:
      problem: a `Problem`, such as `kmeans.KMeans()`.
      solver: a `Solver`, such as `solve.EM()`.
      params: the start. Its leaves are taken in the dtype of the data.
      data: `Data`, or an array of shape (N, D).
      max_steps: the most steps, static; 0 evaluates the start.
      rtol: relative tolerance on the loss, non-negative.
      atol: absolute tolerance on the loss per unit of weight, non-negative.

    Returns:
      A `Fit`. A fit whose loss stops being finite keeps the parameters of that moment and says `NONFINITE`.

    Raises:
      ValueError: for bad data, a negative or NaN tolerance, a `max_steps` that is no non-negative integer, or
        settings of the problem or the solver that cannot be meant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = solve.run(kmeans.KMeans(), solve.EM(), x[:2], x)
      >>> fit.params.ravel().tolist(), fit.loss.item()
      ([0.5, 9.5], 1.0)
    """
    problem, solver, data, rtol, atol = check(problem, solver, data, max_steps, rtol, atol)
    params, data, atol, scale = framed(problem, _as_params(params, data), data, atol)
    kinds = door.kinds(problem, solver)
    fit = _run(problem, solver, params, data, rtol, atol, max_steps=max_steps, kinds=kinds)
    return in_own_units(fit, scale)


def run_many(
    problem: Problem,
    solver: Solver,
    starts: Params,
    data: Data | ArrayLike,
    *,
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
    lanes: int | None = None,
) -> Fit:
    """`run` from many starts: every fit with its own status, none costing another anything but time.

    Under `vmap` every lane would wait for the slowest fit. Here a lane whose fit has ended takes the next start, all in
    one `while_loop`, so that the steps done are those that the fits needed.

    Args:
      problem: as in `run`.
      solver: as in `run`, one for all starts.
      starts: parameters with a leading axis R on every leaf.
      data: as in `run`.
      max_steps: as in `run`.
      rtol: as in `run`.
      atol: as in `run`.
      lanes: how many fits are computed side by side, static. None: one on CPU, eight elsewhere, whatever R is. It
        changes the results by rounding at most. For a given number, fit i has the same bits for every R.

    Returns:
      A `Fit` with a leading axis R on every leaf, in the order of the starts.

    Raises:
      ValueError: as `run` does, if the leaves of `starts` disagree about R, or for `lanes` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fits = solve.run_many(kmeans.KMeans(), solve.EM(), jnp.stack([x[:2], x[2:]]), x)
      >>> fits.loss.tolist()
      [1.0, 1.0]
    """
    problem, solver, data, rtol, atol = check(problem, solver, data, max_steps, rtol, atol)
    starts, data, atol, scale = framed(problem, _as_params(starts, data), data, atol)
    fits = run_framed(problem, solver, starts, data, max_steps=max_steps, rtol=rtol, atol=atol, lanes=lanes)
    return in_own_units(fits, scale)


def run_framed(
    problem: Problem,
    solver: Solver,
    starts: Params,
    data: Data,
    *,
    max_steps: int,
    rtol: Array,
    atol: Array,
    lanes: int | None = None,
) -> Fit:
    """`run_many` of what `check` and `framed` returned, in that unit."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(starts)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0] == () or shapes[0][0] == 0:
        raise ValueError(f"Every leaf of `starts` needs the same leading axis R >= 1, got shapes {shapes}.")
    if lanes is None:
        lanes = batches.num_parallel()
    lanes = door.check_int(lanes, "lanes", least=1)
    kinds = door.kinds(problem, solver)
    return _run_many(problem, solver, starts, data, rtol, atol, max_steps=max_steps, lanes=lanes, kinds=kinds)


def in_own_units(fit: Fit, scale: Array | None) -> Fit:
    """A K-means fit of rows times a scale, in the units of the rows themselves."""
    loss, trace = frame.unscaled((fit.loss, fit.trace), scale, power=2)
    return fit._replace(params=frame.unscaled(fit.params, scale), loss=loss, trace=trace)


def framed(problem: Problem, params: Params, data: Data, atol: Array) -> tuple[Params, Data, Array, Array | None]:
    """Parameters, rows and tolerance in a unit whose squares neither underflow nor overflow, and that scale."""
    scale = frame.scale_of(data.x) if in_squared_units(problem) else None
    atol = frame.scaled(frame.scaled(atol, scale), scale)
    return frame.scaled(params, scale), frame.scaled_rows(data, scale), atol, scale


def best(fits: Fit) -> Fit:
    """The fit with the lowest finite loss along the leading axis; a non-finite one never wins.

    Args:
      fits: a `Fit` with a leading axis R. For more axes, `jax.vmap(best)`.

    Returns:
      One `Fit`: the first of equals. If all failed, the first, whose status then says so.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> starts = jnp.stack([jnp.full((2, 1), jnp.nan), x[:2]])
      >>> solve.best(solve.run_many(kmeans.KMeans(), solve.EM(), starts, x)).loss.item()
      1.0
    """
    return _best(fits)


@jax.jit
def _best(fits: Fit) -> Fit:
    alive = (fits.status != Status.NONFINITE) & jnp.isfinite(fits.loss)
    winner = jnp.argmin(jnp.where(alive, fits.loss, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[winner], fits)


def check(
    problem: Problem, solver: Solver, data: Data | ArrayLike, max_steps: int, rtol: ArrayLike, atol: ArrayLike
) -> tuple[Problem, Solver, Data, Array, Array]:
    """Validates the arguments of `run`, and returns them as JAX arrays that share no memory with NumPy's."""
    for name, value, contract in (("problem", problem, Problem), ("solver", solver, Solver)):
        if isinstance(value, type) or not isinstance(value, contract):
            raise ValueError(f"`{name}` lacks functions of the contract `{contract.__name__}`: got {value!r}.")
    check_settings(problem)
    check_settings(solver)
    door.check_int(max_steps, "max_steps", least=0)
    rtol, atol = door.check_nonnegative(rtol, "rtol"), door.check_nonnegative(atol, "atol")
    return memory.without_numpy(problem), memory.without_numpy(solver), door.as_data(data), rtol, atol


def _as_params(params: Params, data: Data) -> Params:
    """Floating leaves in the dtype of the data, Python and NumPy integers too; typed arrays keep other dtypes."""

    def leaf(value: ArrayLike) -> Array:
        if isinstance(value, Array) and not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return door.as_floating(value, "params").astype(data.x.dtype)

    return jax.tree.map(leaf, params)


@partial(jax.jit, static_argnames=("max_steps", "kinds"))
def _run(problem, solver, params, data, rtol, atol, *, max_steps, kinds):
    return loop.one(loop.parts(problem, solver, params, data, rtol, atol, max_steps), params)


@partial(jax.jit, static_argnames=("max_steps", "lanes", "kinds"))
def _run_many(problem, solver, starts, data, rtol, atol, *, max_steps, lanes, kinds):
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    return loop.many(loop.parts(problem, solver, first, data, rtol, atol, max_steps), starts, lanes)
