"""Mixtures over the number of components, the family and the regularization."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import fitting, gmm, seeding, validation
from jaxmix.data import Data
from jaxmix.gmm.fit import refinement
from jaxmix.solve.run import side_by_side
from jaxmix.solver import Fit
from jaxmix.sweep.grid import Sweep, told_of_memory
from jaxmix.typing import ArrayLike

SET = {"covariance", "regularization", "num_active"}
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
    components switched off for the smaller ones. The programs are compiled side by side, and a second call with the
    same shapes and static choices compiles nothing.

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
        left = [name for name in known if name not in (*inspect.signature(mixtures).parameters, "k", *SET)]
        raise ValueError(f"`mixtures` has no arguments {unknown}. Its options are {left}, of `gmm.fit_restarts`.")
    ks = [validation.check_int(k, "ks", least=1) for k in ks]
    data = validation.as_data(x, weights)
    if not ks:
        raise ValueError("`ks` must hold at least one number of components.")
    most = max(ks)
    validation.check_count(most, data, "max(ks)")
    axes = {"k": jnp.asarray(ks)}
    if regularizations is not None:
        axes["regularization"] = validation.as_floating(regularizations, "regularizations").astype(data.x.dtype)
    settings = {name: parameter.default for name, parameter in known.items()} | options | {"restarts": restarts}
    begin = _beginning(key, data, axes["k"], most, settings)
    centers = jax.eval_shape(begin)
    size = min(side_by_side(None) * side_by_side(num_parallel), centers.shape[0])
    values = axes.get("regularization")
    # Under jit even operations on concrete arrays are staged.
    is_known = validation.is_concrete(key, data, values, options, jnp.zeros(()))
    calls = [
        partial(_table, num_counts=len(ks), **_arguments(each, data, most, values, settings, size))
        for each in covariances
    ]
    with told_of_memory(f"{size} of {centers.shape[0]} fits"):
        tables = _run(begin, centers, calls, is_known=is_known)
    names = (*axes, "restart")
    numbers = jnp.arange(centers.shape[0] // len(ks))
    swept = [Sweep(names, (*axes.values(), numbers), table) for table in tables]
    return {each.__name__: table for each, table in zip(covariances, swept, strict=True)}


def _beginning(key: Array, data: Data, counts: Array, k: int, settings: dict[str, Any]) -> partial:
    """The program that makes the centers of all starts, (J R, K, D): the same for all families."""
    init = settings["init"]
    if callable(init):
        restarts = fitting.check_seeding(init, key, settings["restarts"])
        refine = refinement(settings["refine"])
        return partial(_seeds, key, counts, refine, data, k=k, init=init, restarts=restarts)
    if not fitting.is_centers(init):
        raise ValueError("`init` of `mixtures` must be a seeding or centers: a mixture is of one family and number.")
    return partial(_switched_off, seeding.as_starts(init, k, data), counts)


def _arguments(
    covariance: type[gmm.Covariance], data: Data, k: int, values: Array | None, settings: dict[str, Any], size: int
) -> dict[str, Any]:
    """The arguments of `_table` for one family."""
    # Each value takes the place of this one.
    regularization = None if values is None else 0.0
    problem = gmm.GaussianMixture(covariance, settings["prior"], regularization, settings["assignment"])
    chosen = {name: settings[name] for name in ("solver", "max_steps", "rtol", "atol", "reduce")}
    common, fixed = fitting.settings(problem, data, k, None, **chosen)
    return {"values": values, "common": common} | fixed | {"num_parallel": size}


def _run(begin: partial, centers: Any, calls: list[partial], *, is_known: bool) -> list[Fit]:
    """The tables of all families, from centers of that shape."""
    if is_known:
        # XLA compiles the programs side by side, and the calls below find them.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = []
            for program in (begin, *(partial(call, centers) for call in calls)):
                lowered = program.func.lower(*program.args, **program.keywords)
                waiting.append(pool.submit(lowered.compile))
            found = _when(waiting[0], begin)
            tables = [_when(compiled, call, found) for compiled, call in zip(waiting[1:], calls, strict=True)]
            return jax.block_until_ready(tables)
    found = begin()
    return [call(found) for call in calls]


def _when(compiled: Future, call: Callable, *args: Any) -> Any:
    compiled.result()
    return call(*args)


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
