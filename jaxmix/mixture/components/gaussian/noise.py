"""The noise that rows are known up to: what keeps covariances from becoming singular."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import memory, validation
from jaxmix.data import Data
from jaxmix.mixture.components.gaussian import base
from jaxmix.typing import ArrayLike

SHARE, LEAST_FLOAT32, ROUNDING = 1e-10, 1e-6, 8
"""The default noise of a feature, as a share of its squared spread; in float32; and at least so many units of rounding
for each feature."""

SPREAD_ROWS = 1024
"""The spread is that of so many rows: of more it takes longer, and is no better a scale."""

FRACTION, NORMAL_LENGTH = 0.9999 / 8, 0.3146
"""The share of the rows in the shortest interval, a little less than an eighth, so that the rounding of weights decides
nothing; and its length in standard deviations of a normal distribution."""

HALF = 0.9999 / 2

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo one, are spread evenly, and keep no step with rows that repeat."""


def noise_floor(x: Data | ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The variances of the noise that a fit assumes by default.

    $$R_d = c \, s_d^2$$

    with $c = \max(10^{-10}, 8 D \epsilon)$ in float64 and $\max(10^{-6}, 8 D \epsilon)$ in float32. The scale $s_d$ of
    a feature is the length of the shortest interval that holds an eighth of the rows, over that of a standard normal
    distribution: outliers do not change it, and clusters far apart have the scale of one of them. Where an eighth of
    the rows are equal, it is the median distance from the median of the rows that differ from it, over 0.6745: a binary
    feature has a scale too. A constant feature has its own magnitude. Of more than 1024 rows, 1024 are taken.

    Args:
      x: array of shape (N, D), or `Data`.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (D,), in squared units of x. `gmm.fit(..., regularization=gmm.noise_floor(x))` is the default fit,
      and `solve.objective` of a model with this regularization is its loss, also on other rows.

    Raises:
      ValueError: for bad `x` or weights.

    Example:
      >>> import jax
      >>> x = jax.random.normal(jax.random.key(0), (1000, 1))
      >>> float(noise_floor(8 * x)[0] / noise_floor(x)[0])
      64.0
    """
    data = validation.as_data(x, weights)
    return variances(spread(data))


def variances(spread: Array) -> Array:
    """The default noise of features of a spread, both of shape (D,)."""
    info = jnp.finfo(spread.dtype)
    share = max(LEAST_FLOAT32 if info.bits == 32 else SHARE, ROUNDING * spread.shape[0] * float(info.eps))
    # Noise that underflows would be none.
    return jnp.maximum(share * jnp.square(spread), 8 * info.tiny)


def spread(data: Data) -> Array:
    """The robust scale of each feature, as `noise_floor` has it, of shape (D,)."""
    num_rows, dtype = data.x.shape[0], data.x.dtype
    chosen = slice(None)
    if num_rows > SPREAD_ROWS:
        chosen = np.floor(np.arange(SPREAD_ROWS) * GOLDEN % 1 * num_rows).astype(np.int32)
    if not validation.is_concrete(data):
        features, weights = data.x[chosen].T, data.weights[chosen]
        shortest = _shortest(features, weights, jnp)
        return jnp.where(shortest > 0, shortest, _typical(features, weights, jnp)).astype(dtype)
    with jax.ensure_compile_time_eval():
        x, weights = memory.on_host(data.x), np.asarray(memory.on_host(data.weights)[chosen])
        features = np.ascontiguousarray(np.asarray(x[chosen]).T)
        # Subnormal numbers are zero, as they are in compiled programs.
        features = np.where(np.abs(features) < np.finfo(features.dtype).tiny, 0, features)
        found = _shortest(features, None if (weights == 1).all() else weights, np)
        if not found.all():
            found = np.where(found > 0, found, _typical(features, weights, np))
        return memory.copied(found.astype(dtype))


def half_traces(family: Any, prepared: Any, means: Array, noise: Array) -> Array:
    r"""$\tfrac12 \operatorname{tr}(C_k^{-1} R)$, of shape (K,), by the family's own density about zero.

    Args:
      family: covariances.
      prepared: what it prepared.
      means: Array of shape (K, D).
      noise: Array of shape (D,).
    """
    zeros = jnp.zeros_like(means)
    about_zero = prepared._replace(means=zeros) if isinstance(prepared, base.Prepared) else family.prepare(zeros)
    rows = jnp.concatenate([jnp.zeros_like(noise)[None], jnp.diag(jnp.sqrt(noise))])
    values = family.log_density(about_zero, rows)
    return jnp.sum(values[:, :1] - values[:, 1:], axis=1)


def _shortest(features: Any, weights: Any, numpy: Any) -> Any:
    """Scales by the shortest intervals, of features (D, n), weights (n,) or None for ones; by NumPy or `jax.numpy`."""
    num_rows = features.shape[1]
    if weights is None:
        values, size = numpy.sort(features, axis=1), -int(-FRACTION * num_rows // 1)
        return (values[:, size - 1 :] - values[:, : num_rows - size + 1]).min(axis=1) / NORMAL_LENGTH
    order = numpy.argsort(features, axis=1)
    values = numpy.take_along_axis(features, order, axis=1)
    sums = numpy.cumsum(weights[order], axis=1)
    before = numpy.pad(sums[:, :-1], ((0, 0), (1, 0)))
    # Sums that are rounded must not make an interval longer by a row.
    fraction = FRACTION - num_rows * float(jnp.finfo(sums.dtype).eps)
    ends = _first_at_least(sums, before + fraction * sums[:, -1:], numpy)
    # Intervals that would reach beyond the last row are none, nor is one that begins at a row that is not there.
    lengths = numpy.take_along_axis(values, numpy.minimum(ends, num_rows - 1), axis=1) - values
    known = (ends < num_rows) & (weights[order] > 0)
    return numpy.where(known, lengths, numpy.inf).min(axis=1) / NORMAL_LENGTH


def _typical(features: Any, weights: Any, numpy: Any) -> Any:
    """Scales by the median distance from the median, of rows that differ from it; or the magnitude, where none does."""
    weights = numpy.broadcast_to(weights[None], features.shape)
    center = _median(features, weights, numpy)
    deviations = numpy.abs(features - center[:, None])
    moved = numpy.where(deviations > 0, weights, 0)
    found = _median(deviations, moved, numpy) / 0.6745
    return numpy.where(moved.sum(axis=1) > 0, found, numpy.where(center == 0, 1, numpy.abs(center)))


def _first_at_least(sums: Any, targets: Any, numpy: Any) -> Any:
    """In each row of growing sums, (D, n), the first that reaches each target, (D, m); n where none does."""
    if numpy is jnp:
        return jax.vmap(jnp.searchsorted)(sums, targets)
    return np.stack([np.searchsorted(*each) for each in zip(sums, targets, strict=True)])


def _median(values: Any, weights: Any, numpy: Any) -> Any:
    """The least value that half of the weight, or more, does not exceed; along the last axis."""
    order = numpy.argsort(values, axis=1)
    weights = numpy.cumsum(numpy.take_along_axis(weights, order, axis=1), axis=1)
    first = numpy.argmax(weights >= HALF * weights[:, -1:], axis=1)[:, None]
    return numpy.take_along_axis(values, numpy.take_along_axis(order, first, axis=1), axis=1)[:, 0]
