"""The door of mixtures: parameters that a user gives, as arrays that fit together."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import door
from jaxmix.gmm.covariance import Diagonal, Full, Spherical, Tied, TiedDiagonal, TiedSpherical

Mixture = Any
"""A `GMM`, or what should be one."""

SLACK = 1e-3
"""How far from 1 given weights may sum."""

MATRICES, VARIANCES = (Full, Tied), (Diagonal, Spherical, TiedDiagonal, TiedSpherical)
"""The families that hold Cholesky factors, and those that hold standard deviations."""


def as_mixture(params: Mixture, num_features: int | None = None, name: str = "params") -> Mixture:
    """A mixture of floating arrays; concrete values that make no mixture are refused.

    Components that are switched off may hold anything: where it is not finite, or no covariance, it becomes a mean of
    zero and a unit covariance.

    Args:
      params: a `GMM`, whose leaves may be NumPy arrays or lists.
      num_features: D, or None for that of the means.
      name: what to call it in an error.

    Returns:
      The `GMM`, each leaf in its own dtype.

    Raises:
      ValueError: naming the leaf, for another type, shape or dtype; for concrete NaN, scales that are not positive,
        factors that are not lower triangular, or weights that do not sum to 1.
    """
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval() if door.is_concrete(params) else contextlib.nullcontext():
        params = _shaped(params, name, (None, num_features), ranks=(2,))
        return _seen(params, name, may_fail=False)


def as_starts(init: Mixture, k: int, num_features: int, dtype: Any) -> Mixture:
    """Mixtures to start from, with a leading axis R. One that holds NaN ends as a status, and costs no other anything.

    Args:
      init: a `GMM`, whose leaves may have a leading axis R.
      k: the number of components.
      num_features: D.
      dtype: that of the data.

    Returns:
      A `GMM` with a leading axis on every leaf.

    Raises:
      ValueError: as `as_mixture` does, but for NaN; for another number of components.
    """
    with jax.ensure_compile_time_eval() if door.is_concrete(init) else contextlib.nullcontext():
        starts = _seen(_shaped(init, "init", (k, num_features), ranks=(2, 3)), "init", may_fail=True)
    lead = 3 - starts.means.ndim
    return jax.tree.map(lambda leaf: leaf.astype(dtype)[(None,) * lead], starts)


def _shaped(params: Mixture, name: str, size: tuple[int | None, int | None], ranks: tuple[int, ...]) -> Mixture:
    if not all(hasattr(params, field) for field in ("log_weights", "means", "covariance")):
        raise ValueError(f"`{name}` must be a `GMM`, got {type(params).__name__}.")
    family = type(params.covariance)
    if not hasattr(family, "log_density"):
        raise ValueError(f"`{name}.covariance` must be a covariance family, such as gmm.Full, got {family.__name__}.")
    means = door.as_floating(params.means, f"{name}.means")
    fits = all(wanted in (None, found) for wanted, found in zip(size, means.shape[-2:], strict=False))
    if means.ndim not in ranks or not fits or 0 in means.shape:
        k, num_features = (letter if wanted is None else wanted for letter, wanted in zip("KD", size, strict=True))
        many = " or a leading axis R" if 3 in ranks else ""
        raise ValueError(f"`{name}.means` must have shape ({k}, {num_features}){many}, got {means.shape}.")
    lead, unit = means.shape[:-2], unit_shapes(family, *means.shape[-2:])

    def leaf(value: Any, shape: tuple[int, ...], part: str) -> Array:
        array = door.as_floating(value, f"{name}.{part}")
        if array.shape != lead + shape:
            raise ValueError(
                f"`{name}.{part}` must have shape {lead + shape} for means of shape {means.shape}, got {array.shape}."
            )
        return array

    fields = zip(family._fields, params.covariance, unit, strict=True)
    scales = [leaf(value, like.shape, f"covariance.{field}") for field, value, like in fields]
    return params._replace(
        log_weights=leaf(params.log_weights, means.shape[-2:-1], "log_weights"), means=means, covariance=family(*scales)
    )


@functools.cache
def unit_shapes(family: Any, k: int, num_features: int) -> Any:
    """The shapes of a family's leaves, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: family.unit(k, num_features, jnp.float32))


def _seen(params: Mixture, name: str, *, may_fail: bool) -> Mixture:
    """The mixture with what is off made harmless; concrete values that make no mixture are refused.

    With `may_fail` a mixture that holds NaN is let through: it is that of a fit which failed.
    """
    concrete, family = door.is_concrete(params), type(params.covariance)
    # Looked at by NumPy, nothing is compiled.
    numpy: Any = np if concrete else jnp
    read = jax.tree.map(np.asarray, params) if concrete else params
    on = ~numpy.isneginf(read.log_weights)
    # What must be positive has its logarithm among the free coordinates of a family that is not known here.
    scales = read.covariance if family in MATRICES + VARIANCES else params.covariance.unconstrain()
    positive = [_is_positive(family, leaf, numpy) for leaf in scales]
    valid = _each(params, [*positive, numpy.isfinite(read.means)], numpy)
    if concrete:
        _refuse(read, name, on, valid, may_fail=may_fail)
        if (on | valid).all():
            return params
    usable = on | valid

    def harmless(leaf: Array, other: Any) -> Array:
        return jnp.where(usable.reshape(*usable.shape, *(1,) * (leaf.ndim - usable.ndim)), leaf, other)

    k, num_features = params.means.shape[-2:]
    unit = family.unit(k, num_features, params.means.dtype)
    leaves = [
        harmless(leaf, like.astype(leaf.dtype)) if is_own else leaf
        for leaf, like, is_own in zip(params.covariance, unit, _own(params), strict=True)
    ]
    return params._replace(means=harmless(params.means, 0), covariance=family(*leaves))


def _refuse(read: Mixture, name: str, on: np.ndarray, valid: np.ndarray, *, may_fail: bool) -> None:
    leaves, family = [*read.covariance, read.means], type(read.covariance)
    known = ~np.isnan(read.log_weights) & _each(read, [~np.isnan(leaf) for leaf in leaves], np)
    failed = (~known & on).any(axis=-1, keepdims=True) & may_fail
    if not (~on | failed | (known & valid)).all():
        raise ValueError(
            f"`{name}` must be a mixture of finite numbers with covariances that are positive definite, but it holds "
            "NaN, infinity, or a scale that is not above 0. If it is that of a fit, see its status."
        )
    lower = _each(read, [*(_is_lower(family, leaf) for leaf in read.covariance), np.isfinite(read.means)], np)
    if not (~on | failed | lower).all():
        raise ValueError(
            f"`{name}.covariance.scale_tril` must be lower triangular: it holds Cholesky factors, not covariances. "
            "From covariances, use gmm.mixture(weights, means, covariances)."
        )
    with np.errstate(over="ignore"):
        sums = np.exp(read.log_weights.astype(float)).sum(axis=-1, keepdims=True)
    if not (failed | (np.abs(sums - 1) <= SLACK)).all():
        raise ValueError(
            f"`{name}.log_weights` must be logarithms of weights that sum to 1, but these sum to "
            f"{sums[~failed].max():.6g}. From weights, use gmm.mixture(weights, means, covariances)."
        )


def _own(params: Mixture) -> list[bool]:
    """Which leaves of the covariance have a part for each component: their shapes grow with K."""
    k, num_features = params.means.shape[-2:]
    family = type(params.covariance)
    pairs = zip(unit_shapes(family, k, num_features), unit_shapes(family, k + 1, num_features), strict=True)
    return [like.shape != more.shape for like, more in pairs]


def _each(params: Mixture, flags: list[Any], numpy: Any) -> Any:
    """Whether all flags of a component are set, of shape (..., K), from those of the covariance's leaves and means."""
    lead = params.means.ndim - 2
    found = numpy.all(flags[-1], axis=-1)
    for flag, is_own in zip(flags[:-1], _own(params), strict=True):
        kept = lead + is_own
        whole = numpy.all(flag, axis=tuple(range(kept, flag.ndim)))
        found = found & (whole if is_own else numpy.expand_dims(whole, -1))
    return found


def _is_positive(family: Any, leaf: Any, numpy: Any) -> Any:
    """Which entries of a leaf are finite, and above 0 where they must be."""
    if family in MATRICES:
        off_diagonal = numpy.broadcast_to(~np.eye(leaf.shape[-1], dtype=bool), leaf.shape)
        return numpy.isfinite(leaf) & ((leaf > 0) | off_diagonal)
    return numpy.isfinite(leaf) & (leaf > 0) if family in VARIANCES else numpy.isfinite(leaf)


def _is_lower(family: Any, leaf: np.ndarray) -> Any:
    """Which entries of a leaf may stand where they do: above the diagonal of a factor only rounding."""
    if family not in MATRICES:
        return np.ones_like(leaf, dtype=bool)
    rounding = 100 * np.finfo(leaf.dtype).eps * np.abs(leaf).max(axis=(-2, -1), keepdims=True)
    return np.abs(np.triu(leaf, 1)) <= rounding
