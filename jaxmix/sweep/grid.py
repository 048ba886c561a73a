"""A function at every point of a grid, as one compiled program, with named axes."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import arrays, batches, memory, validation
from jaxmix.arrays import described
from jaxmix.contracts import check_call
from jaxmix.pytree import choice, static
from jaxmix.solve.run import best
from jaxmix.solver import Fit, Status
from jaxmix.typing import ArrayLike

PROGRAMS: WeakKeyDictionary = WeakKeyDictionary()
"""The compiled programs of functions that were swept, for as long as the functions live."""


@choice
class Sweep:
    """What a sweep returns: every fit, and the names of the axes.

    Attributes:
      names: the names of the leading axes of `fits`, in order.
      values: the values along each, arrays of shape (length of the axis, ...).
      fits: what the function returned, a leading axis for each name on every leaf.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans, sweep
      >>> x = jnp.arange(6.0)[:, None]
      >>> key = jax.random.key(0)
      >>> ks = jnp.array([1, 2, 3])
      >>> swept = sweep.grid(lambda k: kmeans.fit_restarts(key, x, 3, num_active=k), {"k": ks}, "restart")
      >>> swept.names, swept.fits.loss.shape, swept.best("restart").fits.loss.tolist()
      (('k', 'restart'), (3, 8), [17.5, 4.0, 1.5])
    """

    names: tuple[str, ...] = static()
    values: tuple[Array, ...]
    fits: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(value.shape[0] for value in self.values)

    def best(self, *names: str) -> "Sweep":
        """The sweep with these axes gone: of the fits along them the one with the lowest finite loss (`solve.best`).

        Args:
          names: axes whose fits have one objective, such as restarts; not K, say, whose losses do not compare.

        Returns:
          A `Sweep` over the other axes.

        Raises:
          ValueError: for a name that is not an axis.
        """
        axes = [self._axis(name) for name in names]
        left = [axis for axis in range(len(self.names)) if axis not in axes]

        def last(leaf: Array) -> Array:
            moved = jnp.transpose(leaf, [*left, *axes, *range(len(self.names), leaf.ndim)])
            return moved.reshape(*moved.shape[: len(left)], -1, *moved.shape[len(self.names) :])

        choose = best
        for _ in left:
            choose = jax.vmap(choose)
        return Sweep(
            tuple(self.names[axis] for axis in left),
            tuple(self.values[axis] for axis in left),
            choose(jax.tree.map(last, self.fits)),
        )

    def at(self, **indices: int) -> "Sweep":
        """The sweep with these axes gone, at one index each.

        Args:
          indices: the index along each axis that goes, by name.

        Returns:
          A `Sweep` over the other axes; `fits` alone where none is left.

        Raises:
          ValueError: for a name that is not an axis, or an index out of range.
        """
        for name, index in indices.items():
            length = self.shape[self._axis(name)]
            if not -length <= index < length:
                raise ValueError(f"Axis `{name}` has {length} values: {index} must be an index of one, not its value.")
        chosen = {self._axis(name): index for name, index in indices.items()}
        where = tuple(chosen.get(axis, slice(None)) for axis in range(len(self.names)))
        left = [axis for axis in range(len(self.names)) if axis not in chosen]
        return Sweep(
            tuple(self.names[axis] for axis in left),
            tuple(self.values[axis] for axis in left),
            jax.tree.map(lambda leaf: leaf[where], self.fits),
        )

    def map(self, function: Callable[[Any], Any]) -> Any:
        """A function of one fit, at every point.

        Args:
          function: traceable, such as `lambda fit: metrics.bic(fit.params, x)`. It is compiled once, as by `grid`.

        Returns:
          What it returns, with the axes of the sweep in front. One point is computed after another, so that what a
          point needs of memory is needed once.
        """
        check_call(function, "function", "of one fit", "fit")
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(self.names) :]), self.fits)
        return _shaped(_program(function, 1)((flat,), {}), self.shape)

    def to_records(self, **columns: ArrayLike) -> list[dict[str, Any]]:
        """A table for the host: a record for each point, with its coordinates, loss, status, steps and passes.

        Args:
          columns: more columns, arrays of the shape of the sweep, such as what `map` returned.

        Returns:
          A list of dictionaries of Python numbers; the status is the name of its `Status`. A value along an axis that
          is not a single number, such as a key, is given as its index.

        Raises:
          ValueError: for a column of another shape.
        """
        arrays.check_on_host("to_records", columns, self.fits)
        table = {name: np.asarray(column) for name, column in columns.items()}
        for name, array in table.items():
            if array.shape != self.shape:
                raise ValueError(f"Column `{name}` must have the sweep's shape {self.shape}, got {array.shape}.")
        if isinstance(self.fits, Fit):
            statuses = np.asarray(self.fits.status)
            fitted = {
                "loss": np.asarray(self.fits.loss),
                "status": np.reshape([Status(status).name for status in statuses.flat], statuses.shape),
                "num_steps": np.asarray(self.fits.num_steps),
                "num_passes": np.asarray(self.fits.num_passes),
            }
            table = fitted | table
        axes = [np.arange(len(v)) if _is_key(v) or v.ndim > 1 else np.asarray(v) for v in self.values]
        return [
            {name: axis[i].item() for name, axis, i in zip(self.names, axes, index, strict=True)}
            | {name: array[index].item() for name, array in table.items()}
            for index in itertools.product(*map(range, self.shape))
        ]

    def _axis(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"`{name}` is not an axis of this sweep, which has {self.names}.")
        return self.names.index(name)


def grid(
    function: Callable[..., Any], axes: Mapping[str, ArrayLike], *inner: str, num_parallel: int | None = None
) -> Sweep:
    r"""Calls a function at every point of a grid, in one compiled program.

    Everything that `kmeans.fit` or `gmm.fit` traces can be an axis: keys, `num_active` for K, tolerances, learning
    rates, regularization, the strength of a prior, temperatures, weights. Arguments that set shapes or choose code (the
    covariance family, the solver, `restarts`) cannot: make one grid for each. A fit that fails has its own status and
    does not affect the others.

    The program is compiled once for a function, and for the shapes and dtypes of the axes: a second call with the same
    function object compiles nothing. It also does not run the Python code again, so that arrays which the function
    reads from around it stay those of the first call, as under `jax.jit`. Another function, such as a new lambda, is
    compiled anew.

    Args:
      function: takes one value of each axis, by name, and returns a pytree, such as a `Fit`; traceable.
      axes: the values along each axis, by name: arrays of shape (length of the axis, ...).
      inner: names of leading axes that the function's own result has, such as "restart" for `fit_restarts`.
      num_parallel: how many points are computed side by side, static. Each batch waits for its slowest point, and
        memory grows with the number. None: one on CPU, eight elsewhere.

    Returns:
      A `Sweep` whose axes are those of `axes`, in order, and then `inner`.

    Raises:
      ValueError: for no axis, an axis without values, names that are not the function's arguments or come twice, or
        `num_parallel` below 1.
      MemoryError: if the device has too little; it names the arguments to change.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm, sweep
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> def fit(key, regularization):
      ...     return gmm.fit(key, x, 2, regularization=regularization, restarts=2, max_steps=20)
      >>> keys = jax.random.split(jax.random.key(1), 4)
      >>> swept = sweep.grid(fit, {"key": keys, "regularization": jnp.array([1e-6, 1e-3])})
      >>> swept.shape, swept.best("key").fits.params.means.shape
      ((4, 2), (2, 2, 2))
    """
    if not isinstance(axes, Mapping):
        raise ValueError(f"`axes` must be a dictionary of arrays by the names of arguments, got {described(axes)}.")
    values = {name: _as_axis(value, name) for name, value in axes.items()}
    names = (*values, *inner)
    if not values or len(set(names)) < len(names):
        raise ValueError(f"A grid needs at least one axis, and distinct names, got {names}.")
    _check_arguments(function, axes)
    shape = tuple(value.shape[0] for value in values.values())
    num_points = int(np.prod(shape))
    if num_parallel is None:
        num_parallel = batches.num_parallel()
    size = validation.check_int(num_parallel, "num_parallel", least=1)
    indices = jnp.unravel_index(jnp.arange(num_points), shape)
    flat = {name: value[index] for (name, value), index in zip(values.items(), indices, strict=True)}
    with told_of_memory(f"{min(size, num_points)} of {num_points} points"):
        fits = _shaped(jax.block_until_ready(_program(function, size)((), flat)), shape)
    # The inner axes lie behind the grid's own on every leaf.
    lengths = jax.tree.leaves(fits)[0].shape[len(shape) : len(names)]
    numbers = tuple(jnp.arange(length) for length in lengths)
    return Sweep(names, (*values.values(), *numbers), fits)


@contextlib.contextmanager
def told_of_memory(side_by_side: str) -> Iterator[None]:
    """Names the arguments to change where the device has too little memory.

    Args:
      side_by_side: how many of what are computed side by side.

    Raises:
      MemoryError: in place of the error of JAX.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        raise MemoryError(
            f"The sweep ran out of memory with {side_by_side} side by side: choose a smaller `num_parallel`, or sum "
            "over fewer rows at a time with `reduce=Blocks(size)`."
        ) from error


def _program(function: Callable[..., Any], size: int) -> Callable[[tuple, dict[str, Any]], Any]:
    """The compiled program of a function at every point along the leading axis of its arguments, `size` side by side.

    It is kept for as long as the function lives, and does not keep it alive. A function that cannot be kept, such as
    the method of an object, is compiled anew.
    """
    try:
        kept, alive = PROGRAMS.setdefault(function, {}), ref(function)
    except TypeError:
        kept, alive = {}, lambda: function
    if size not in kept:

        def every(args: tuple, kwargs: dict[str, Any]) -> Any:
            traced: Any = alive()
            return batches.map_batches(lambda point: traced(*point[0], **point[1]), (args, kwargs), size)

        kept[size] = jax.jit(every)
    return kept[size]


def _check_arguments(function: Any, axes: Mapping[str, ArrayLike]) -> None:
    """Rejects axes that are not the arguments of the function."""
    if not callable(function):
        raise ValueError(f"`function` must be a function of one value of each axis, got {described(function)}.")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return  # some functions of C have no signature
    taken = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in parameters) else [name for name in axes if name not in taken]
    if unknown:
        raise ValueError(f"`axes` has {unknown}, which the function does not take. Its arguments are {taken}.")
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [name for name in needed if name not in axes]
    if missing:
        raise ValueError(f"The function needs {missing}, which `axes` does not have: its names are {list(axes)}.")


def _as_axis(value: ArrayLike, name: str) -> Array:
    values = value if isinstance(value, jax.Array) else memory.copied(np.asarray(value))
    if values.ndim == 0 or values.shape[0] == 0:
        raise ValueError(f"Axis `{name}` must be an array of at least one value, got shape {values.shape}.")
    return values


def _is_key(value: Array) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _shaped(tree: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)
