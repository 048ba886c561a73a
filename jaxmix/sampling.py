"""Rows drawn by weight, and one of each stratum."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg
from jaxmix.data import Data
from jaxmix.devices import Axes


def by_mass(points: Array, mass: Array) -> Array:
    """Rows in proportion to `mass`, by inverting its cumulative sum.

    Args:
      points: Array of shape (R,), uniform in [0, 1).
      mass: Array of shape (N,), non-negative, not all zero.

    Returns:
      int32 Array of shape (R,), of rows with a positive mass.

    References:
      Devroye (1986), section III.2.1: inversion.

    Example:
      >>> by_mass(jnp.array([0.1, 0.5]), jnp.array([1.0, 0.0, 3.0])).tolist()
      [0, 2]
    """
    num_rows = mass.shape[0]
    # In two levels, of blocks and of rows within one: a sum along all rows rounds more, and compiles for long.
    width = _root(num_rows)
    blocks = jnp.pad(mass / jnp.max(mass), (0, -num_rows % width)).reshape(-1, width)
    totals = jnp.broadcast_to(jnp.sum(blocks, axis=1)[None], (points.shape[0], blocks.shape[0]))
    block, rest = _invert(totals, points * jnp.sum(totals[0]))
    rows = (block * width + _invert(blocks[block], rest)[0]).clip(0, num_rows - 1)
    # By rounding a point may lie above every sum: a row without mass is never taken.
    return jnp.where(mass[rows] > 0, rows, jnp.argmax(mass).astype(jnp.int32))


def stratified(key: Array, data: Data, num_rows: int, *, weighted: bool = True, axis: Axes | None = None) -> Data:
    r"""One row out of each of as many strata: rows that follow each other, alike in number.

    A row drawn from a stratum of s rows weighs s times as much as it did:

    $$E \sum_{n \in S} s_n w_n f(x_n) = \sum_n w_n f(x_n)$$

    No row is drawn twice. Rows of weight zero are in no stratum; where there are fewer others than strata, some of the
    rows returned have weight zero.

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      num_rows: how many to draw, at most N.
      weighted: whether any weight may be zero.
      axis: of the mesh whose devices have the rows, a share each, in a `shard_map`. Every device then returns the whole
        sample, that of all rows together.

    Returns:
      `Data` of `num_rows` rows, in their order.

    References:
      Cochran (1977), section 5.3: stratified random sampling.

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[1.0], [2.0], [3.0], [4.0]], weights=[0.0, 5.0, 1.0, 0.0])
      >>> sample = stratified(jax.random.key(0), data, 2)
      >>> sample.x.ravel().tolist(), sample.weights.tolist()
      ([2.0, 3.0], [5.0, 1.0])
    """
    # The i-th row that is there, from 1.
    ranks = jnp.cumsum(data.weights > 0, dtype=jnp.int32) if weighted else None
    here = jnp.array(data.x.shape[0], jnp.int32) if ranks is None else ranks[-1]
    before, there = (0, here) if axis is None else _among_devices(here, axis)
    size, rest = there // num_rows, there % num_rows
    index = jnp.arange(num_rows, dtype=jnp.int32)
    first = index * size + jnp.minimum(index, rest)
    sizes = size + (index < rest)
    place = jnp.floor(jax.random.uniform(key, (num_rows,), data.x.dtype) * sizes).astype(jnp.int32)
    rank = first + jnp.minimum(place, jnp.maximum(sizes - 1, 0)) - before
    rows = rank if ranks is None else jnp.searchsorted(ranks, rank + 1).astype(jnp.int32)
    rows = rows.clip(0, data.x.shape[0] - 1)
    own = None if axis is None else (rank >= 0) & (rank < here)
    return _collected(data, data.x[rows], data.weights[rows] * sizes.astype(data.weights.dtype), own, axis)


def proportional(
    key: Array, data: Data, mass: Array, num_rows: int, *, axis: Axes | None = None, slots: int = 1
) -> Data:
    r"""One row out of each of as many strata: rows that follow each other, of the same mass together.

    A row is drawn from its stratum in proportion to its mass q. Its weight makes sums over the sample unbiased:

    $$W_n = w_n \frac{\sum_m q_m}{|S| q_n}, \qquad E \sum_{n \in S} W_n f(x_n) = \sum_n w_n f(x_n)$$

    A row of more mass than a stratum has is drawn several times.

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      mass: Array of shape (N,), positive where the weight is, and 0 where the weight is 0.
      num_rows: how many to draw.
      axis: as in `stratified`.
      slots: into how many shares N is divided, within each of which masses are summed by themselves.

    Returns:
      `Data` of `num_rows` rows, in their order.

    References:
      Madow (1949): systematic sampling with unequal probabilities.

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[1.0], [2.0], [3.0]], weights=[1.0, 0.0, 1.0])
      >>> proportional(jax.random.key(0), data, jnp.array([1.0, 0.0, 1.0]), 2).x.ravel().tolist()
      [1.0, 3.0]
    """
    # In two levels, so that the sum of many masses does not hide one: of blocks, and within a block.
    size = mass.shape[0] // slots
    width = _root(size)
    padded = jnp.pad(mass.reshape(slots, size), ((0, 0), (0, -size % width)))
    within = jnp.cumsum(padded.reshape(slots, -1, width), axis=2)
    blocks = jnp.cumsum(within[:, :, -1], axis=1)
    # The sums of the slots of all devices up to each one: a height belongs to one of them, as all devices see it.
    every = blocks[:, -1] if axis is None else jax.lax.all_gather(blocks[:, -1], axis, tiled=True)
    ends = jnp.cumsum(every)
    first = 0 if axis is None else jax.lax.axis_index(axis) * slots
    total = ends[-1]
    index = jnp.arange(num_rows, dtype=jnp.int32)
    places, fine = jax.random.uniform(key, (2, num_rows), mass.dtype)
    heights = jnp.minimum((index + places) * (total / num_rows), jnp.nextafter(total, jnp.zeros_like(total)))
    owners = jnp.searchsorted(ends[:-1], heights, side="right")
    heights = heights - (ends[owners] - every[owners])
    own = owners.astype(jnp.int32) - first
    slot = own.clip(0, slots - 1)
    block = jnp.sum(blocks[slot] <= heights[:, None], axis=1, dtype=jnp.int32).clip(0, blocks.shape[1] - 1)
    # The digits that a height lacks beside the sum of all masses are drawn by themselves.
    left = heights - (blocks[slot, block] - within[slot, block, -1]) + fine * jnp.finfo(mass.dtype).eps * total
    place = jnp.sum(within[slot, block] <= left[:, None], axis=1, dtype=jnp.int32).clip(0, width - 1)
    rows = slot * size + (block * width + place).clip(0, size - 1)
    # By rounding a height may lie above every sum: a row without mass is never taken.
    largest = slot * size + jnp.argmax(mass.reshape(slots, size), axis=1).astype(jnp.int32)[slot]
    rows = jnp.where(mass[rows] > 0, rows, largest)
    weights = data.weights[rows] * (total / num_rows / mass[rows])
    is_own = None if axis is None else (own >= 0) & (own < slots)
    return _collected(data, data.x[rows], weights, is_own, axis)


class Reservoir:
    r"""A sample of rows that are seen some at a time, on the host.

    A row of mass q gets the priority q / u, with u uniform in (0, 1]. The rows of the highest priorities are kept. With
    the next priority after them, $\tau$, weights make sums over the sample unbiased:

    $$W_n = w_n \frac{\max(q_n, \tau)}{q_n}, \qquad E \sum_{n \in S} W_n f(x_n) = \sum_n w_n f(x_n)$$

    The sample does not depend on how many rows are seen at a time.

    Args:
      num_rows: how many rows to keep. Where there are fewer, all are kept, with their own weights.
      random: a NumPy generator.

    References:
      Duffield, Lund and Thorup (2007), section 2: priority sampling.

    Example:
      >>> reservoir = Reservoir(2, np.random.default_rng(0))
      >>> for first in range(0, 100, 10):
      ...     reservoir.add(np.arange(first, first + 10.0)[:, None], np.ones(10))
      >>> x, weights = reservoir.sample()
      >>> x.shape, weights.shape
      ((2, 1), (2,))
    """

    def __init__(self, num_rows: int, random: np.random.Generator):
        self.num_rows = num_rows
        self.random = random
        self._held: tuple[Any, ...] | None = None
        self._least = 0.0
        self._seen = 0

    def add(self, x: np.ndarray, weights: np.ndarray, mass: np.ndarray | None = None) -> None:
        """Shows rows (n, D) of positive weights (n,), and of masses where these are not the weights."""
        mass = np.asarray(weights if mass is None else mass, np.float64)
        priorities = mass / (1 - self.random.random(len(x)))
        order = np.arange(self._seen, self._seen + len(x))
        self._seen += len(x)
        # One more than are kept: it is the threshold.
        high = np.flatnonzero(priorities >= self._least)
        new = tuple(each[high] for each in (x, weights, mass, priorities, order))
        held = new if self._held is None else tuple(map(np.concatenate, zip(self._held, new, strict=True)))
        if len(held[0]) > self.num_rows + 1:
            best = np.argpartition(held[3], -self.num_rows - 1)[-self.num_rows - 1 :]
            held = tuple(each[best] for each in held)
            self._least = held[3].min()
        self._held = held

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows (S, D) in the order in which they were seen, and their weights (S,)."""
        assert self._held is not None
        x, weights, mass, priorities, order = self._held
        threshold, chosen = 0.0, np.argsort(order)
        if len(x) > self.num_rows:
            least = np.argmin(priorities)
            threshold, chosen = priorities[least], chosen[chosen != least]
        return x[chosen], (weights * (np.maximum(mass, threshold) / mass))[chosen]


def _collected(data: Data, x: Array, weights: Array, own: Array | None, axis: Axes | None) -> Data:
    """Rows that one device has, on all of them: the others add nothing."""
    if own is not None:
        x, weights = jax.lax.psum((jnp.where(own[:, None], x, 0), jnp.where(own, weights, 0)), axis)
        # Zeros may be no rows that the model can have.
        x = linalg.fill_absent(x, weights)
    return data._replace(x=x, weights=weights)


def _among_devices(number: Array, axis: Axes) -> tuple[Array, Array]:
    """The sum of a number over the devices before this one, and over all."""
    every = jax.lax.all_gather(number, axis)
    return jnp.sum(jnp.where(jnp.arange(every.shape[0]) < jax.lax.axis_index(axis), every, 0)), jnp.sum(every)


def ranks(chosen: Array) -> Array:
    """How many of the entries before each one are chosen.

    Args:
      chosen: Array of shape (N,), bool.

    Returns:
      int32 Array of shape (N,).

    Example:
      >>> ranks(jnp.array([True, False, True])).tolist()
      [0, 1, 1]
    """
    num_rows = chosen.shape[0]
    width = _root(num_rows)
    # In two levels, of which the lower is a product: a sum along all rows takes longer.
    blocks = jnp.pad(chosen, (0, -num_rows % width)).reshape(-1, width)
    index = jnp.arange(width, dtype=jnp.int32)
    within = linalg.dot(blocks.astype(jnp.float32), (index[:, None] < index[None]).astype(jnp.float32))
    totals = jnp.sum(blocks, axis=1, dtype=jnp.int32)
    before = jnp.cumsum(totals, dtype=jnp.int32) - totals
    return (within.astype(jnp.int32) + before[:, None]).ravel()[:num_rows]


def _root(number: int) -> int:
    """The square root, rounded up."""
    return math.isqrt(number - 1) + 1


def _invert(masses: Array, heights: Array) -> tuple[Array, Array]:
    """In each row of `masses` the entry whose share of the cumulative sum holds the height, and what is left of it."""
    num = masses.shape[1]
    index = jnp.arange(num, dtype=jnp.int32)
    sums = linalg.dot(masses, (index[:, None] <= index[None]).astype(masses.dtype))
    found = jnp.sum(sums <= heights[:, None], axis=1, dtype=jnp.int32).clip(0, num - 1)
    return found, heights - jnp.take_along_axis(sums - masses, found[:, None], axis=1)[:, 0]
