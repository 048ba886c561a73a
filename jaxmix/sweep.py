"""Sweeps: a fit at every point of a grid, as one compiled program, with named axes."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import batches, door, gmm, memory
from jaxmix.solve.run import best
from jaxmix.types import ArrayLike, Data, Fit


@partial(jax.tree_util.register_dataclass, data_fields=["values", "fits"], meta_fields=["names"])
@dataclasses.dataclass(frozen=True)
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
      >>> swept = sweep.grid(lambda k: kmeans.fit_all(key, x, 3, num_active=k), {"k": jnp.array([1, 2, 3])}, "restart")
      >>> swept.names, swept.fits.loss.shape, swept.best("restart").fits.loss.tolist()
      (('k', 'restart'), (3, 8), [17.5, 4.0, 1.5])
    """

    names: tuple[str, ...]
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
          ValueError: for a name that is no axis.
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
          ValueError: for a name that is no axis, or an index out of range.
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
          function: traceable, such as `lambda fit: metrics.bic(fit.params, x)`.

        Returns:
          What it returns, with the axes of the sweep in front. One point is computed after another, so that what a
          point needs of memory is needed once.
        """
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(self.names) :]), self.fits)
        return _shaped(jax.jit(partial(jax.lax.map, function))(flat), self.shape)

    def rows(self, **columns: ArrayLike) -> list[dict[str, Any]]:
        """A table for the host: a row for each point, with its coordinates, loss, status, steps and passes.

        Args:
          columns: more columns, arrays of the shape of the sweep, such as what `map` returned.

        Returns:
          A list of dictionaries of Python numbers. What is no single number, such as a key, shows as its index.

        Raises:
          ValueError: for a column of another shape.
        """
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        for name, array in arrays.items():
            if array.shape != self.shape:
                raise ValueError(f"Column `{name}` must have the sweep's shape {self.shape}, got {array.shape}.")
        if isinstance(self.fits, Fit):
            fields = ("loss", "status", "num_steps", "num_passes")
            arrays = {field: np.asarray(getattr(self.fits, field)) for field in fields} | arrays
        # What is no single number shows as its index.
        axes = [np.arange(len(v)) if _is_key(v) or v.ndim > 1 else np.asarray(v) for v in self.values]
        return [
            {name: axis[i].item() for name, axis, i in zip(self.names, axes, index, strict=True)}
            | {name: array[index].item() for name, array in arrays.items()}
            for index in itertools.product(*map(range, self.shape))
        ]

    def _axis(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"`{name}` is no axis of this sweep: it has {self.names}.")
        return self.names.index(name)


def grid(function: Callable[..., Any], axes: Mapping[str, ArrayLike], *inner: str, lanes: int | None = None) -> Sweep:
    r"""Calls a function at every point of a grid, in one compiled program.

    Everything that `kmeans.fit` or `gmm.fit` traces can be an axis: keys, `num_active` for K, tolerances, learning
    rates, regularization, the strength of a prior, temperatures, weights. What sets shapes or chooses code (the
    family, the solver, `restarts`) cannot: make one grid for each. A fit that fails has its status, and costs no other
    anything. Each call compiles the function anew.

    Args:
      function: takes one value of each axis, by name, and returns a pytree, such as a `Fit`; traceable.
      axes: the values along each axis, by name: arrays of shape (length of the axis, ...).
      inner: names of leading axes that the function's own result has, such as "restart" for `fit_all`.
      lanes: how many points are computed side by side, static. A program waits for the slowest of its lanes, and memory
        grows with them. None: one on CPU, eight elsewhere.

    Returns:
      A `Sweep` whose axes are those of `axes`, in order, and then `inner`.

    Raises:
      ValueError: for no axis, an axis without values, a name that comes twice, or `lanes` below 1.
      MemoryError: if the device has too little; it names what to turn.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm, sweep
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> def fit(key, regularization):
      ...     problem = gmm.GaussianMixture(regularization=regularization)
      ...     return gmm.fit(key, x, 2, problem=problem, restarts=2, max_steps=20)
      >>> keys = jax.random.split(jax.random.key(1), 4)
      >>> swept = sweep.grid(fit, {"key": keys, "regularization": jnp.array([1e-6, 1e-3])})
      >>> swept.shape, swept.best("key").fits.params.means.shape
      ((4, 2), (2, 2, 2))
    """
    values = {name: _as_axis(value, name) for name, value in axes.items()}
    names = (*values, *inner)
    if not values or len(set(names)) < len(names):
        raise ValueError(f"A grid needs at least one axis, and distinct names, got {names}.")
    shape = tuple(value.shape[0] for value in values.values())
    num_points = int(np.prod(shape))
    if lanes is None:
        lanes = batches.num_parallel()
    lanes = door.check_int(lanes, "lanes", least=1)
    indices = jnp.unravel_index(jnp.arange(num_points), shape)
    flat = {name: value[index] for (name, value), index in zip(values.items(), indices, strict=True)}

    def every(flat: dict[str, Array]) -> Any:
        return batches.map_batches(lambda point: function(**point), flat, lanes)

    try:
        fits = _shaped(jax.block_until_ready(jax.jit(every)(flat)), shape)
    except jax.errors.JaxRuntimeError as error:
        if not any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        side_by_side = f"{min(lanes, num_points)} of {num_points} points side by side"
        raise MemoryError(
            f"The sweep ran out of memory with {side_by_side}: choose fewer `lanes`, or sum over fewer rows at a time "
            "with `rows.Chunked(problem, size)`."
        ) from error
    # The inner axes lie behind the grid's own on every leaf.
    lengths = jax.tree.leaves(fits)[0].shape[len(shape) : len(names)]
    numbers = tuple(jnp.arange(length) for length in lengths)
    return Sweep(names, (*values.values(), *numbers), fits)


def mixtures(
    key: Array,
    x: ArrayLike | Data,
    ks: Sequence[int],
    *,
    families: Sequence[type[gmm.Covariance]] = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical),
    regularizations: ArrayLike = (1e-6,),
    weights: ArrayLike | None = None,
    restarts: int = 8,
    lanes: int | None = None,
    **options: Any,
) -> dict[str, Sweep]:
    r"""Mixtures over the number of components, the family and the regularization: what a BIC table is made of.

    One compiled program for each family: the largest K with components switched off for the smaller ones.

    $$\max_\theta \sum_n w_n \log \sum_{k \le j} \pi_k N(x_n \mid m_k, C_k), \qquad j \in \mathrm{ks}$$

    Args:
      key: a PRNG key; the i-th restart has the same one at every point.
      x: array of shape (N, D), or `Data`.
      ks: the numbers of components.
      families: covariance families.
      regularizations: array of shape (number of values,), what is added to the diagonals of the covariances.
      weights: array of shape (N,), non-negative; None for ones.
      restarts: starts for each point.
      lanes: as in `grid`.
      options: what else `gmm.fit_all` takes: `solver`, `max_steps`, `atol`, ...

    Returns:
      A `Sweep` with axes "k", "regularization" and "restart" for each family, by its name.

    Raises:
      ValueError: for no or bad `ks`, options that the sweep sets itself, and as `gmm.fit` does.

    References:
      Fraley and Raftery (2002), section 3: a table of families and numbers of components.

    Example:
      >>> import jax
      >>> from jaxmix import gmm, metrics, sweep
      >>> x = jax.random.normal(jax.random.key(0), (60, 2))
      >>> swept = sweep.mixtures(jax.random.key(1), x, [1, 2], families=[gmm.Spherical], restarts=2, max_steps=30)
      >>> bic = swept["Spherical"].best("restart").map(lambda fit: metrics.bic(fit.params, x))
      >>> bic.shape
      (2, 1)
    """
    taken = {"problem", "num_active", "family"} & set(options)
    if taken:
        raise ValueError(f"`mixtures` makes {sorted(taken)} by itself. For another problem, write the fit with `grid`.")
    ks = [door.check_int(k, "ks", least=1) for k in ks]
    data = door.as_data(x, weights)
    if not ks:
        raise ValueError("`ks` must hold at least one number of components.")
    door.check_count(max(ks), data, "max(ks)")
    axes = {
        "k": jnp.asarray(ks),
        "regularization": door.as_floating(regularizations, "regularizations").astype(data.x.dtype),
    }

    def every(family: type[gmm.Covariance]) -> Sweep:
        def fits(k: Array, regularization: Array) -> Fit:
            problem = gmm.GaussianMixture(regularization=regularization)
            return gmm.fit_all(
                key, data, max(ks), family=family, problem=problem, restarts=restarts, num_active=k, **options
            )

        return grid(fits, axes, "restart", lanes=lanes)

    return {family.__name__: every(family) for family in families}


def _as_axis(value: ArrayLike, name: str) -> Array:
    values = value if isinstance(value, jax.Array) else memory.copied(np.asarray(value))
    if values.ndim == 0 or values.shape[0] == 0:
        raise ValueError(f"Axis `{name}` must be an array of at least one value, got shape {values.shape}.")
    return values


def _is_key(value: Array) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _shaped(tree: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)
