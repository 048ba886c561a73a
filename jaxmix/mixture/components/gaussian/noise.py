"""The noise that rows are known up to: what keeps covariances from becoming singular."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg, memory, validation
from jaxmix.data import Data
from jaxmix.frame import feature_extremes, unit_of
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

LEAST_ROWS, LEAST_SHARE = 4.9, 2.0**-20
"""The rows of the shortest interval, at least; and the spread, as a share of the median distance from the median."""

RANGE = {32: 2.0**-48, 64: 2.0**-400}
"""The least spread, as a share of the range of the feature, by bits: squares in units of it do not overflow."""

LEAST = {32: 2.0**16, 64: 2.0**24}
"""The least spread, in smallest normal numbers, by bits: standard deviations of the noise are normal numbers too."""

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo one, are spread evenly, and keep no step with rows that repeat."""


def noise_floor(x: Data | ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The variances of the noise that a fit assumes by default.

    $$R_d = c \, s_d^2$$

    with $c = \max(10^{-10}, 8 D \epsilon)$ in float64 and $\max(10^{-6}, 8 D \epsilon)$ in float32. The scale $s_d$ of
    a feature is the length of the shortest interval that holds an eighth of the rows, and five, over that of a standard
    normal distribution: outliers do not change it, and clusters far apart have the scale of one of them. Where so many
    rows are equal, or there are fewer than five, it is half the median distance from the median of the rows that differ
    from it: that of a binary feature is half the distance of its values. A constant feature takes the least scale of
    the others, or 1, and at least the rounding of its value. Of more than 1024 rows, 1024 are taken. A row of more than
    2^48 spreads in float32, or 2^400 in float64, makes the scale larger, and so does one of fewer where the sum of the
    weights is beyond 2^28, or 2^220.

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
    return variances(scales(data)[0])


def variances(spread: Array) -> Array:
    """The default noise of features of a spread, both of shape (D,)."""
    info = jnp.finfo(spread.dtype)
    share = max(LEAST_FLOAT32 if info.bits == 32 else SHARE, ROUNDING * spread.shape[0] * float(info.eps))
    # Noise that underflows would be none.
    return jnp.maximum(share * jnp.square(spread), 8 * info.tiny)


def scales(data: Data) -> tuple[Array, Array]:
    """The robust scale of each feature, as `noise_floor` has it, and its standard deviation; both of shape (D,).

    Where a feature is constant they are equal.
    """
    dtype = data.x.dtype
    if not validation.is_concrete(data) or not data.x.is_fully_addressable:
        return _scales_compiled(data)
    with jax.ensure_compile_time_eval():
        x = memory.on_host(data.x)
        counts = np.asarray(memory.on_host(data.weights))
        rows, weights = _chosen(counts, np)
        least = _least_share(counts.sum(), dtype, np).astype(dtype)
        features = np.array(linalg.fill_absent(np.asarray(x[rows]), weights).T)
        # Subnormal numbers are zero, as they are in compiled programs.
        features[np.abs(features) < np.finfo(dtype).tiny] = 0
        low, high = (np.asarray(each) for each in feature_extremes(x, data.weights))
        unit = np.asarray(unit_of(_sizes(features, np)))
        robust, standard = _scales(features * unit[:, None], weights, (least * high - least * low) * unit, np)
        spread, deviation = _of_every_feature(robust.astype(dtype) / unit, standard.astype(dtype) / unit, features, np)
        return memory.copied(spread), memory.copied(deviation)


# Of rows that are traced, or that other processes have.
@jax.jit
def _scales_compiled(data: Data) -> tuple[Array, Array]:
    dtype = data.x.dtype
    rows, weights = _chosen(data.weights, jnp)
    least = _least_share(jnp.sum(data.weights), dtype, jnp)
    there, x = (data.weights > 0)[:, None], least * data.x
    ranges = jnp.max(x, axis=0, where=there, initial=-jnp.inf) - jnp.min(x, axis=0, where=there, initial=jnp.inf)
    features = linalg.fill_absent(data.x[rows], weights).T
    unit = unit_of(_sizes(features, jnp))
    robust, standard = _scales(features * unit[:, None], weights, ranges * unit, jnp)
    return _of_every_feature(robust.astype(dtype) / unit, standard.astype(dtype) / unit, features, jnp)


def _least_share(total: Any, dtype: Any, numpy: Any) -> Any:
    """The least spread of rows of a total weight, as a share of the range: no weighted sum of squares overflows."""
    info = jnp.finfo(dtype)
    return numpy.maximum(RANGE[info.bits], numpy.sqrt(total / float(info.max)) * 4)


def _chosen(weights: Any, numpy: Any) -> tuple[Any, Any]:
    """The indices of some rows of positive weight, and their weights; 0 where there are fewer."""
    num_rows = weights.shape[0]
    if num_rows <= SPREAD_ROWS:
        return np.arange(num_rows), weights
    ranks, order = numpy.cumsum(weights > 0), np.arange(SPREAD_ROWS)
    few = ranks[-1] <= SPREAD_ROWS
    places = (order * GOLDEN % 1).astype(weights.dtype) * ranks[-1].astype(weights.dtype)
    wanted = numpy.where(few, order, numpy.floor(places)) + 1
    rows = numpy.searchsorted(ranks, wanted).clip(0, num_rows - 1)
    return rows, numpy.where(few & (order >= ranks[-1]), 0, weights[rows])


def rounding(means: Array, origin: Array | None) -> Array:
    """Half a unit of the last place of means (K, D), in the caller's coordinates: what is known of rows there."""
    places = means if origin is None else means + origin[None]
    return jax.lax.stop_gradient(0.5 * jnp.finfo(means.dtype).eps * jnp.abs(places))


def loss_rounding(params: Any, origin: Array | None, *, factors: bool) -> Array:
    """How far rounding may move the log density of a row, about, of shape (K,).

    By what means move, in units of the pivots, and by what pivots change, of which half is taken for known.

    Args:
      params: a `Normal` of a family of the library.
      origin: the place of zero in the caller's coordinates.
      factors: whether the family holds Cholesky factors, and not standard deviations.
    """
    means, moves = params.means, 2 * jnp.square(rounding(params.means, origin))
    if not factors:
        return jnp.sum(jnp.minimum(moves * jnp.square(params.covariance.prepare(means).inverse), 2), axis=1)
    (scale_tril,) = params.covariance
    pivots = jnp.square(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).reshape(-1, means.shape[1])
    changes = base.pivot_rounding(jnp.sum(jnp.square(scale_tril), axis=-1)).reshape(-1, means.shape[1])
    each = jnp.minimum(moves / pivots, 2) + jnp.minimum(jnp.square(2 * changes / pivots), 4)
    return jnp.sum(each, axis=1)


def half_traces(family: Any, prepared: Any, means: Array, noise: Array) -> Array:
    r"""$\tfrac12 \operatorname{tr}(C_k^{-1} R_k)$, of shape (K,).

    Args:
      family: covariances.
      prepared: what it prepared.
      means: Array of shape (K, D).
      noise: Array of shape (K, D).
    """
    if isinstance(family, base.HasNoise):
        return 0.5 * family.noise_traces(prepared, noise)
    # By the family's own density about zero: squares, linear in the variance of each feature.
    about_zero = family.prepare(jnp.zeros_like(means))
    most = jnp.max(noise, axis=0)
    rows = jnp.concatenate([jnp.zeros_like(most)[None], jnp.diag(jnp.sqrt(most))])
    values = family.log_density(about_zero, rows)
    return jnp.sum((values[:, :1] - values[:, 1:]) * linalg.safe_divide(noise, most[None]), axis=1)


def held_up(prepared: base.Prepared, noise: Array, *, factors: bool) -> Array:
    """Whether the variance of components in some direction is mostly noise, of shape (K,).

    Args:
      prepared: what a family of the library prepared: its inverse factors, of shape (K, D, D) or (D, D), or inverse
        scales, (K or 1, D or 1).
      noise: Array of shape (K, D).
      factors: which of these.
    """
    inverse, k = prepared.inverse, prepared.means.shape[0]
    if not factors:
        return jnp.broadcast_to(jnp.max(jnp.square(inverse) * noise, axis=1) > 0.5, (k,))
    # The norm of R^1/2 C^-1 R^1/2 is at least its largest eigenvalue, and near it where that is large.
    white = inverse.reshape(-1, *inverse.shape[-2:]) * jnp.sqrt(noise)[:, None]
    products = jnp.matmul(jnp.swapaxes(white, 1, 2), white, precision=linalg.PRECISION)
    return jnp.broadcast_to(jnp.sum(jnp.square(products), axis=(1, 2)) > 0.25, (k,))


def second_moments(family: Any, counts: Array, noise: Array) -> Any:
    """What noise adds to the second moments, in the family's form.

    Args:
      family: covariances.
      counts: Array of shape (K,).
      noise: Array of shape (K, D), the variances of the noise of each component's features.
    """
    # A component without rows may stand where the noise overflows.
    squares = jnp.where(counts[:, None] > 0, counts[:, None] * noise, 0)
    if isinstance(family, base.HasNoise):
        return family.noise_moments(squares)
    # Of D rows, each with one feature, that weigh as much as its noise.
    return family.moments(squares, jnp.zeros_like(squares), jnp.eye(squares.shape[1], dtype=squares.dtype))[1]


def _sizes(features: Any, numpy: Any) -> Any:
    """The largest magnitude of each feature, (D, n) to (D,); 1 for features of zeros."""
    largest = numpy.abs(features).max(axis=1)
    return numpy.where(largest > 0, largest, numpy.ones_like(largest))


def _scales(features: Any, weights: Any, least: Any, numpy: Any) -> tuple[Any, Any]:
    """`scales` of features (D, n), by NumPy or `jax.numpy`, at least `least`, of shape (D,); 0 for constants."""
    deviations = features - _median(features, numpy.broadcast_to(weights[None], features.shape), numpy)[:, None]
    spread = _spread(features, deviations, weights, least, numpy)
    # In units of the largest, so that squares do not underflow.
    sizes, share = _sizes(deviations, numpy), weights / weights.sum()
    parts = deviations / sizes[:, None]
    parts = parts - (parts * share[None]).sum(axis=1)[:, None]
    found = sizes * numpy.sqrt((parts * parts * share[None]).sum(axis=1))
    return spread, numpy.where(found > 0, numpy.maximum(found, least), spread)


def _of_every_feature(spread: Any, deviation: Any, features: Any, numpy: Any) -> tuple[Any, Any]:
    """`scales` of features (D, n), those of constant ones too, which are 0 so far."""
    # A constant feature has no scale of its own: it must not widen those that share a variance with it.
    info = jnp.finfo(spread.dtype)
    spread = numpy.where(spread > 0, numpy.maximum(spread, LEAST[info.bits] * float(info.tiny)), 0)
    least = numpy.where(spread > 0, spread, numpy.inf).min()
    # But the rounding of its value is noise.
    rounding = 0.5 * float(info.eps) * numpy.abs(features).max(axis=1)
    least = numpy.maximum(numpy.where(numpy.isfinite(least), least, 1), rounding)
    spread = numpy.where(spread > 0, spread, least).astype(spread.dtype)
    # Compiled programs take a subnormal deviation for zero.
    return spread, numpy.where(deviation >= float(info.tiny), deviation, spread)


def _spread(features: Any, deviations: Any, weights: Any, least: Any, numpy: Any) -> Any:
    """The robust scales, of features (D, n) and their deviations from the median."""
    shortest, typical = _shortest(features, weights, numpy), _typical(deviations, weights, numpy)
    # Rows of many orders of magnitude would have the scale of the least.
    return numpy.maximum(numpy.where(shortest > 0, numpy.maximum(shortest, LEAST_SHARE * typical), typical), least)


def _shortest(features: Any, weights: Any, numpy: Any) -> Any:
    """Scales by the shortest intervals, of features (D, n) with weights (n,); 0 where there is none."""
    num_rows = features.shape[1]
    order = numpy.argsort(features, axis=1)
    values = numpy.take_along_axis(features, order, axis=1)
    sums = numpy.cumsum(weights[order], axis=1)
    before = numpy.pad(sums[:, :-1], ((0, 0), (1, 0)))
    fraction = numpy.maximum(FRACTION, LEAST_ROWS / (weights > 0).sum())
    ends = _first_at_least(sums, before + fraction * sums[:, -1:], numpy)
    # Intervals that would reach beyond the last row are none, nor is one that begins at a row that is not there.
    lengths = numpy.take_along_axis(values, numpy.minimum(ends, num_rows - 1), axis=1) - values
    known = (ends < num_rows) & (weights[order] > 0)
    shortest = numpy.where(known, lengths, numpy.inf).min(axis=1)
    return numpy.where(numpy.isfinite(shortest), shortest * (FRACTION / fraction / NORMAL_LENGTH), 0)


def _typical(deviations: Any, weights: Any, numpy: Any) -> Any:
    """Half the median distance from the median, of rows that differ from it; 0 where none does."""
    distances = numpy.abs(deviations)
    moved = numpy.where(distances > 0, weights[None], 0)
    return numpy.where(moved.sum(axis=1) > 0, _median(distances, moved, numpy) / 2, 0)


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
