"""The parameters of a mixture from shares of rows, before any mixture has seen them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.data import Data, Rows
from jaxmix.frame import Frame, times
from jaxmix.kernels import nearest
from jaxmix.mixture.component import Component, total
from jaxmix.mixture.model import Mixture, Stats
from jaxmix.reduction import Blocks

FEW = 2**20
"""Differences of rows and centers. With fewer, the textbook's way to the labels takes no time, and is less to compile.
"""


def from_responsibilities(model: Any, responsibilities: Array, data: Data) -> Mixture:
    """One M-step from responsibilities of shape (N, K).

    Args:
      model: a `MixtureModel`.
      responsibilities: Array of shape (N, K), non-negative.
      data: the rows.
    """
    is_on = jnp.ones(responsibilities.shape[1], bool)
    return _maximized(model, _given, is_on, data, Blocks(), columns=responsibilities.astype(data.x.dtype))


def from_centers(model: Any, centers: Array, active: Array, data: Data, reduce: Any = Blocks()) -> Mixture:
    """One M-step from the nearest centers.

    Args:
      model: a `MixtureModel`.
      centers: Array of shape (K, D), finite, or NaN: then so are the parameters.
      active: Array of shape (K,), bool. Components of others are switched off.
      data: the rows.
      reduce: sums over rows.
    """
    num_differences = reduce.num_counted(data.x) * centers.size
    nearest_of = _nearest_as_written if num_differences <= FEW else _nearest
    return _maximized(model, nearest_of, active, data, reduce, centers=jnp.where(active[:, None], centers, jnp.inf))


def _given(_: None, rows: Rows, num_features: int) -> Array:
    return rows.x[:, num_features:].T


class _Centers(NamedTuple):
    """Centers, and what differences are multiplied by before they are squared."""

    prepared: nearest.Prepared
    scale: Array | None


def _nearest(held: _Centers, rows: Rows, num_features: int) -> Array:
    return _shares(held.prepared, rows, nearest.labels(held.prepared, times(rows.x, held.scale))[0])


def _nearest_as_written(held: _Centers, rows: Rows, num_features: int) -> Array:
    centers = held.prepared
    return _shares(centers, rows, nearest.labels_reference(centers.centers, times(rows.x, held.scale)))


def _shares(centers: nearest.Prepared, rows: Rows, found: Array) -> Array:
    # A center of NaN is nearest to nothing, whatever the labels say.
    known = jnp.where(centers.broken >= 0, jnp.nan, jnp.ones((), rows.x.dtype))
    return known * jax.nn.one_hot(found, centers.centers.shape[0], dtype=rows.x.dtype, axis=0)


def _maximized(
    model: Any,
    shares_of: Callable[[Any, Rows, int], Array],
    is_on: Array,
    data: Data,
    reduce: Any,
    *,
    centers: Array | None = None,
    columns: Array | None = None,
) -> Mixture:
    """The M-step of rows that no mixture has seen, whose shares are made of centers, or of columns beside the rows."""
    k, num_features = is_on.shape[0], data.x.shape[1]
    component = model.component
    params = component.initial(k, num_features, data.x.dtype)
    # Around the rows' origin, so that moments about zero keep their digits, and in the unit of the fit.
    frame = Frame(data.origin, component.unit())
    found = component.moved(params, frame)
    x, distance_scale = data.x, component.seeding_scale()
    if found is not None:
        component, x, reduce = found[0], frame.apply(x), reduce.within(frame)
        centers = None if centers is None else frame.apply(centers)
        distance_scale = component.seeding_scale()
    held = None if centers is None else _Centers(nearest.prepare(times(centers, distance_scale)), distance_scale)
    extended = x if columns is None else jnp.concatenate([x, columns], axis=1)
    rows = reduce.cut(extended, data.weights, component.footprint(k, num_features))

    def of_block(prepared: Any, block: Rows) -> tuple[Array, Any]:
        shares = block.weigh(shares_of(prepared[0], block, num_features))
        block = block._replace(x=block.x[:, :num_features])
        return total(shares), component.moments(shares, block, prepared[1])

    def sums(params: Any) -> tuple[Array, Any]:
        return reduce(of_block, (held, component.prepare(params)), rows)

    def of_rows(held: Any, block: Rows) -> tuple[Array, Array]:
        shares = block.weigh(shares_of(held, block, num_features))
        return total(shares), linalg.dot(shares, block.x[:, :num_features])

    if type(component).place is not Component.place:
        # First the means alone: all moments about a far place would lose digits, and take longer.
        params = component.place(*reduce(of_rows, held, rows), params)
    counts, moments = sums(params)
    log_weights = jnp.where(is_on, jnp.zeros((), data.x.dtype), -jnp.inf)
    # By the model's own M-step, with the component in its frame.
    stats = Stats(jnp.zeros((), data.x.dtype), counts, moments)
    start = type(model)(component, model.assignment).m_step(stats, Mixture(log_weights, params))
    if found is None:
        return start
    back = component.moved(start.components, frame.inverse)
    assert back is not None
    return start._replace(components=back[1])
