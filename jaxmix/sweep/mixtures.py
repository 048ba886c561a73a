"""Mixtures over the number of components, the family and the regularization."""

import dataclasses
import inspect
import os
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import fitting, gmm, seeding, validation
from jaxmix.data import Data
from jaxmix.gmm.fit import refinement
from jaxmix.mixture.components.gaussian.units import has_units
from jaxmix.sharding import Sharded
from jaxmix.solve import Optax
from jaxmix.solve.run import side_by_side
from jaxmix.solver import Fit
from jaxmix.sweep.grid import Sweep, told_of_memory
from jaxmix.typing import ArrayLike

SET = {"k", "covariance", "regularization", "num_active", "subsample"}
"""The arguments of `gmm.fit_restarts` that `mixtures` sets."""


def mixtures(
    key: Array,
    x: ArrayLike | Data,
    ks: Sequence[int],
    *,
    covariances: Sequence[type[gmm.Covariance]] = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical),
    regularizations: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    restarts: int = 8,
    num_parallel: int | None = None,
    **options: Any,
) -> dict[str, Sweep]:
    r"""Mixtures over the number of components, the covariance family and the regularization, as for a BIC table.

    One compiled program makes the starts of all families, and one for each family fits them: the largest K, with
    components switched off for the smaller ones. The programs are compiled and run side by side, and a second call
    with the same shapes and static choices compiles nothing.

    $$\max_\theta \sum_n w_n \log \sum_{k \le j} \pi_k N(x_n \mid m_k, C_k), \qquad j \in \mathrm{ks}$$

    Args:
      key: a PRNG key; the i-th restart has the same one at every point.
      x: array of shape (N, D), or `Data`.
      ks: the numbers of components.
      covariances: covariance families.
      regularizations: array of shape (number of values,), each as `regularization` of `gmm.fit`; None for its default
        alone, without an axis.
      weights: array of shape (N,), non-negative; None for ones.
      restarts: starts for each point.
      num_parallel: how many times the fits are computed side by side that `gmm.fit_restarts` does, static. Memory grows
        with the number. None: one on CPU, eight elsewhere.
      options: further arguments of `gmm.fit_restarts`: `solver`, `max_steps`, `atol`, `reduce`, ...

    Returns:
      A `Sweep` with axes "k", "regularization" (where values are given) and "restart" for each family, by its name.

    Raises:
      ValueError: if `ks` is empty or invalid, for options that the sweep sets itself, and as `gmm.fit` does.

    References:
      Fraley and Raftery (2002), section 3: a table of families and numbers of components.

    Example:
      >>> import jax
      >>> from jaxmix import gmm, metrics, sweep
      >>> x = jax.random.normal(jax.random.key(0), (60, 2))
      >>> swept = sweep.mixtures(jax.random.key(1), x, [1, 2], covariances=[gmm.Spherical], restarts=2, max_steps=30)
      >>> bic = swept["Spherical"].best("restart").map(lambda fit: metrics.bic(fit.params, x))
      >>> bic.shape
      (2,)
    """
    taken = SET & set(options)
    if taken:
        raise ValueError(f"`mixtures` sets {sorted(taken)} by itself. For other fits, call `grid`.")
    known = inspect.signature(gmm.fit_restarts).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        left = [name for name in known if name not in (*inspect.signature(mixtures).parameters, *SET)]
        raise ValueError(f"`mixtures` has no arguments {unknown}. Its options are {left}, of `gmm.fit_restarts`.")
    ks = [validation.check_int(k, "ks", least=1) for k in ks]
    data = validation.as_data(x, weights)
    if not ks:
        raise ValueError("`ks` must hold at least one number of components.")
    titles = [getattr(each, "__name__", "") for each in covariances] if isinstance(covariances, Sequence) else []
    if not titles or len(set(titles)) < len(titles):
        raise ValueError("`covariances` must be a list of covariance families of different names, such as [gmm.Full].")
    most = max(ks)
    validation.check_count(most, data, "max(ks)")
    axes = {"k": jnp.asarray(ks)}
    if regularizations is not None:
        axes["regularization"] = _as_variances(regularizations, data)
    settings = {name: parameter.default for name, parameter in known.items()} | options | {"restarts": restarts}
    values = axes.get("regularization")
    models = [_model(each, data, most, values, settings) for each in covariances]
    # Families whose features have units of their own measure distances in these: there are two kinds of starts.
    kinds = [has_units(each) for each in covariances]
    scaled = [data._replace(scale=common[0].seeding_scale()) for common, _ in models]
    begin = {kind: _beginning(key, each, axes["k"], most, settings) for kind, each in zip(kinds, scaled, strict=True)}
    centers = jax.eval_shape(begin[kinds[0]])
    size = min(side_by_side(None) * side_by_side(num_parallel), centers.shape[0])
    set_by_sweep = {"num_counts": len(ks), "num_parallel": size}
    families = [Program(_table, (values, common), fixed | set_by_sweep) for common, fixed in models]
    # Under jit even operations on concrete arrays are staged.
    if not validation.is_concrete(key, data, values, options, jnp.zeros(())):
        found = {kind: each() for kind, each in begin.items()}
        tables = [family(found[kind]) for kind, family in zip(kinds, families, strict=True)]
    else:
        # Two programs of LAPACK on CPU may wait for each other: see `linalg.cholesky`. Those of this library have none.
        classes = *covariances, type(settings["solver"]), type(settings["assignment"])
        own = all(each.__module__.startswith("jaxmix.") and each is not Optax for each in classes)
        # Nor do programs over devices run side by side: their sums might meet in another order on another device.
        own = own and not isinstance(models[0][0][5], Sharded)
        pool = ThreadPoolExecutor(os.cpu_count() if own else 1)
        with told_of_memory(f"{size} of {centers.shape[0]} fits"), pool:
            tables = _run(begin, centers, kinds, families, pool)
    names = (*axes, "restart")
    numbers = jnp.arange(centers.shape[0] // len(ks))
    swept = [Sweep(names, (*axes.values(), numbers), table) for table in tables]
    return {each.__name__: table for each, table in zip(covariances, swept, strict=True)}


def _as_variances(values: ArrayLike, data: Data) -> Array:
    """The values of the axis, each one number or one for each feature."""
    found = validation.as_floating(values, "regularizations").astype(data.x.dtype)
    if found.shape[:1] in ((), (0,)) or found.shape[1:] not in ((), data.x.shape[1:]):
        raise ValueError(
            f"`regularizations` must have shape (V,), or (V, {data.x.shape[1]}) for a variance of each column, with at "
            f"least one value, got {found.shape}."
        )
    if validation.is_concrete(found) and not (np.isfinite(found) & (np.asarray(found) >= 0)).all():
        raise ValueError("`regularizations` must be finite and at least 0.")
    return found


class Program(NamedTuple):
    """A jitted function and its arguments, but for the first ones.

    Attributes:
      function: the function.
      args: its traced arguments, the last ones.
      static: its static arguments.
    """

    function: Any
    args: tuple
    static: dict[str, Any]

    def __call__(self, *first: Any) -> Any:
        """What the function returns."""
        return self.function(*first, *self.args, **self.static)

    def lower(self, *first: Any) -> jax.stages.Lowered:
        """The program for first arguments of these shapes, before XLA compiles it."""
        return self.function.lower(*first, *self.args, **self.static)


def _run(
    begin: dict[bool, Program], like: Any, kinds: list[bool], families: list[Program], pool: Executor
) -> list[Fit]:
    """The tables of all families. Programs compile and run side by side; JAX keeps them for the next call."""

    def begun(lowered: jax.stages.Lowered) -> dict[bool, Array]:
        program = lowered.compile()
        return {kind: program(*each.args) for kind, each in begin.items()}

    def table(family: Program, lowered: jax.stages.Lowered, centers: Future, kind: bool) -> Fit:
        return jax.block_until_ready(lowered.compile()(centers.result()[kind], *family.args))

    # Lowered here, in the caller's configuration.
    centers = pool.submit(begun, begin[kinds[0]].lower())
    waiting = [
        pool.submit(table, family, family.lower(like), centers, kind)
        for kind, family in zip(kinds, families, strict=True)
    ]
    return [each.result() for each in waiting]


def _beginning(key: Array, data: Data, counts: Array, k: int, settings: dict[str, Any]) -> Program:
    """The program that makes the centers of all starts, (J R, K, D): the same for all families."""
    init = settings["init"]
    if callable(init):
        restarts = fitting.check_seeding(init, key, settings["restarts"])
        refine = refinement(settings["refine"])
        return Program(_seeds, (key, counts, refine, data), {"k": k, "init": init, "restarts": restarts})
    if not fitting.is_centers(init):
        raise ValueError("`init` of `mixtures` must be a seeding or centers: a mixture is of one family and number.")
    return Program(_switched_off, (seeding.as_starts(init, k, data), counts), {})


def _model(
    covariance: type[gmm.Covariance], data: Data, k: int, values: Array | None, settings: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """The arguments of the program of one family: those that are traced, the problem first, and those that are not."""
    # Each value takes the place of this one, of which the unit of the fits is made.
    regularization = None if values is None else jnp.max(values, axis=0)
    problem = gmm.GaussianMixture(covariance, settings["prior"], regularization, settings["assignment"])
    chosen = {name: settings[name] for name in ("solver", "max_steps", "rtol", "atol", "reduce")}
    common, fixed = fitting.settings(problem, data, k, None, **chosen)
    # Numbers of Python would be read in the configuration of another thread.
    return jax.tree.map(jnp.asarray, common), fixed


_seeds = jax.jit(fitting.seeds, static_argnames=("k", "init", "restarts"))
_switched_off = jax.jit(fitting.switched_off)


@partial(jax.jit, static_argnames=("num_counts", "k", "max_steps", "num_parallel"))
def _table(centers: Array, values: Array | None, common: tuple, num_counts: int, **fixed: int) -> Fit:
    """The fits of one family, with axes for the numbers of components, the values (where given) and the restarts."""

    def at(value: Array | None) -> Fit:
        problem, *others = common
        if value is not None:
            component = dataclasses.replace(problem.component, regularization=value)
            problem = dataclasses.replace(problem, component=component)
        fits = fitting.fits_from(centers, (problem, *others), fixed | {"choose": False})
        return jax.tree.map(lambda leaf: leaf.reshape(num_counts, -1, *leaf.shape[1:]), fits)

    if values is None:
        return at(None)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), jax.lax.map(at, values))
