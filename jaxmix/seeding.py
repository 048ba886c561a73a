"""Where to start: (key, data, k) -> centers. All of them see the weights: weight 0 is never drawn."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import batches, frame, linalg, sampling, validation
from jaxmix.data import Data
from jaxmix.kernels import segments
from jaxmix.typing import ArrayLike, Seeding

__all__ = ["kmeans_parallel", "kmeans_plus_plus", "maximin", "random_rows", "starts"]

CHUNK_DISTANCES = 2**20
"""Distances of rows to candidates of k-means|| that are held at a time."""


def random_rows(key: Array, data: Data, k: int) -> Array:
    r"""K rows drawn without replacement, in proportion to their weights.

    Each draw takes row n with probability $w_n / \sum_m w_m$ over the rows not yet drawn, all at once by the
    largest of log-weights plus Gumbel noise. Rows of equal value count as different rows.

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      k: the number of centers.

    Returns:
      Array of shape (K, D). With fewer than K rows of positive weight, the first drawn is repeated.

    Raises:
      ValueError: for a `k` that is not an integer of at least 1.

    References:
      Forgy (1965) for the start; Efraimidis and Spirakis (2006), algorithm A, for the draw.

    Example:
      >>> import jax
      >>> from jaxmix import as_data, seeding
      >>> seeding.random_rows(jax.random.key(0), as_data([[1.0], [2.0]]), 2).shape
      (2, 1)
    """
    validation.check_int(k, "k", least=1)
    num_rows = data.weights.shape[0]
    noise = jax.random.gumbel(key, data.weights.shape, data.weights.dtype)
    rows = jax.lax.top_k(jnp.log(data.weights) + noise, min(k, num_rows))[1]
    rows = jnp.where(data.weights[rows] > 0, rows, rows[0])
    return data.x[jnp.pad(rows, (0, k - rows.shape[0]), constant_values=rows[0])]


def kmeans_plus_plus(key: Array, data: Data, k: int, *, trials: int | None = None) -> Array:
    r"""Greedy k-means++: each next center is the best of a few rows drawn by their cost.

    A row is drawn with probability $w_n D_n^2 / \sum_m w_m D_m^2$, where $D_n$ is its distance to the nearest
    center so far; of `trials` such rows the one that lowers J most is taken. No two centers are equal while
    distinct rows remain; after that, rows are drawn by weight.

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      k: the number of centers.
      trials: rows tried for each center; None for 2 + floor(log K), as scikit-learn does; 1 for the plain
        method of the paper. To give it to `fit`, bind functools.partial(kmeans_plus_plus, trials=1) to a name
        once: each new partial compiles anew.

    Returns:
      Array of shape (K, D).

    Raises:
      ValueError: for `trials` below 1, or a `k` that is not an integer of at least 1.

    References:
      Arthur and Vassilvitskii (2007), section 2.2, and section 5 for the greedy variant.

    Example:
      >>> import jax
      >>> from jaxmix import as_data, seeding
      >>> centers = seeding.kmeans_plus_plus(jax.random.key(0), as_data([[1.0], [1.0], [2.0]]), 2)
      >>> sorted(centers.ravel().tolist())
      [1.0, 2.0]
    """
    validation.check_int(k, "k", least=1)
    if trials is None:
        trials = 2 + int(math.log(k))
    if trials < 1:
        raise ValueError(f"`trials` must be at least 1, got {trials}.")
    return _one_by_one(key, data, k, trials)


def kmeans_parallel(
    key: Array, data: Data, k: int, *, rounds: int = 5, oversampling: float = 2.0, trials: int | None = None
) -> Array:
    r"""k-means||: in a few rounds many rows at a time are drawn by their cost, and k-means++ chooses K of them.

    After a first row, each round draws round(`oversampling` K) rows with probability
    $w_n D_n^2 / \sum_m w_m D_m^2$, where $D_n$ is the distance to the nearest row of the rounds before. Each row drawn
    then weighs as much as the rows nearest to it. The passes over the data are `rounds` + 1, whatever K; the work is
    about `rounds` x `oversampling` times that of k-means++ with one trial.

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      k: the number of centers.
      rounds: how often rows are drawn, static.
      oversampling: rows drawn in a round, as a multiple of K; static. The paper draws each row by itself, so that
        their number varies; here it is fixed.
      trials: of the k-means++ at the end, as in `kmeans_plus_plus`.

    Returns:
      Array of shape (K, D). Two may be equal only where fewer than K distinct rows were drawn.

    Raises:
      ValueError: for `rounds` or `trials` below 1, an `oversampling` that draws no row, or a `k` that is not an
        integer of at least 1.

    References:
      Bahmani, Moseley, Vattani, Kumar and Vassilvitskii (2012), algorithm 2.

    Example:
      >>> import jax
      >>> from jaxmix import as_data, seeding
      >>> centers = seeding.kmeans_parallel(jax.random.key(0), as_data([[1.0], [1.0], [2.0]]), 2)
      >>> sorted(centers.ravel().tolist())
      [1.0, 2.0]
    """
    validation.check_int(k, "k", least=1)
    num_drawn = round(oversampling * k)
    if rounds < 1 or num_drawn < 1:
        raise ValueError(f"`rounds` and rows in each must be at least 1, got {rounds} and {num_drawn}.")
    return _parallel(key, data, k, rounds, num_drawn, trials)


def maximin(key: Array, data: Data, k: int) -> Array:
    r"""Farthest-first: a first row drawn by weight, then always the row farthest from all centers so far.

    $$u_{j+1} = \arg\max_{x_n: w_n > 0} \min_{i \le j} |x_n - u_i|$$

    Args:
      key: a PRNG key, for the first row.
      data: `Data` of N rows.
      k: the number of centers.

    Returns:
      Array of shape (K, D). No two are equal while distinct rows remain.

    Raises:
      ValueError: for a `k` that is not an integer of at least 1.

    References:
      Gonzalez (1985), section 2: within twice the smallest possible largest radius.

    Example:
      >>> import jax
      >>> from jaxmix import as_data, seeding
      >>> centers = seeding.maximin(jax.random.key(0), as_data([[0.0], [1.0], [9.0]]), 2)
      >>> 9.0 in centers.ravel().tolist()
      True
    """
    validation.check_int(k, "k", least=1)
    return _one_by_one(key, data, k, 1, farthest=True)


def starts(
    key: Array,
    data: Data,
    k: int,
    *,
    init: Seeding | ArrayLike = kmeans_plus_plus,
    restarts: int = 8,
    num_active: ArrayLike | None = None,
) -> Array:
    """The starts of a fit, one for each restart.

    The i-th start depends on the key and on i, not on how many there are.

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      k: the number of centers.
      init: a function (key, data, k) -> centers, or an array of shape (K, D) for one start or (R, K, D) for R;
        an array leaves `key` and `restarts` unused.
      restarts: how many starts a function makes, at least 1.
      num_active: integer from 1 to K, traced: of each start only that many centers are on. The others stand at
        infinity, where they take no row: so K is swept in one compiled program. The seedings here grow one center
        at a time, so the first j of their centers are a seeding of j.

    Returns:
      Array of shape (R, K, D), in the dtype of the data.

    Raises:
      ValueError: for an array of another shape, `k` or `restarts` below 1, a `num_active` out of range, or a key that
        is none.

    Example:
      >>> import jax
      >>> from jaxmix import as_data, seeding
      >>> data = as_data([[0.0], [1.0], [9.0]])
      >>> seeding.starts(jax.random.key(0), data, 2, restarts=4).shape
      (4, 2, 1)
    """
    validation.check_int(k, "k", least=1, hint=validation.SWEPT)
    active = None if num_active is None else validation.as_count(num_active, "num_active", most=k)
    if not callable(init):
        return _switched_off(as_starts(init, k, data), active)
    validation.check_key(key)
    return _starts(key, data, active, k, init, validation.check_int(restarts, "restarts", least=1))


def as_starts(init: ArrayLike, k: int, data: Data) -> Array:
    """Centers to start from, of shape (K, D) or (R, K, D), as an array of shape (R, K, D) in the dtype of the data.

    Raises:
      ValueError: for another shape.
    """
    if isinstance(init, str):
        names = ", ".join(f"seeding.{name}" for name in __all__ if name != "starts")
        raise ValueError(f"`init` must be a function or an array, got {init!r}. The functions are {names}.")
    centers = validation.as_floating(init, "init").astype(data.x.dtype)
    shape = (k, data.x.shape[1])
    if centers.ndim not in (2, 3) or centers.shape[-2:] != shape or centers.shape[0] == 0:
        raise ValueError(
            f"`init` must be a function (key, data, k) -> centers, or have shape {shape} or "
            f"(R, {k}, {shape[1]}), got shape {centers.shape}."
        )
    return centers if centers.ndim == 3 else centers[None]


def seeded(key: Array, data: Data, k: int, init: Seeding, numbers: Array) -> Array:
    """The centers that a seeding makes for restarts of these numbers, (R, K, D): each by the key and its own."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    centers = batches.map_batches(lambda key: init(key, data, k), keys, batches.num_parallel())
    if centers.shape != (*numbers.shape, k, data.x.shape[1]):
        raise ValueError(f"`init` must return shape ({k}, {data.x.shape[1]}), got {centers.shape[1:]}.")
    return centers.astype(data.x.dtype)


def switched_off(centers: Array, num_active: Array | None) -> Array:
    """Centers (..., K, D), those from the number that is active on at infinity; NaN for a number out of range."""
    if num_active is None:
        return centers
    k = centers.shape[-2]
    on = (jnp.arange(k) < num_active).reshape((1,) * (centers.ndim - 2) + (k, 1))
    known = (num_active >= 1) & (num_active <= k)
    return jnp.where(known, jnp.where(on, centers, jnp.inf), jnp.nan)


@partial(jax.jit, static_argnames=("k", "init", "restarts"))
def _starts(key: Array, data: Data, num_active: Array | None, k: int, init: Seeding, restarts: int) -> Array:
    return switched_off(seeded(key, data, k, init, jnp.arange(restarts)), num_active)


_switched_off = jax.jit(switched_off)


# Inlined, so that the programs of fits are what they would be without.
@partial(jax.jit, static_argnames=("k", "rounds", "num_drawn", "trials"), inline=True)
def _parallel(key: Array, data: Data, k: int, rounds: int, num_drawn: int, trials: int | None) -> Array:
    x, weights, scale = data.x, data.weights, frame.distance_scale(data)
    first_key, key, last_key = jax.random.split(key, 3)
    first = sampling.by_mass(jax.random.uniform(first_key, (1,), x.dtype), weights)

    def draw(closest: Array, points: Array) -> tuple[Array, Array]:
        found = sampling.by_mass(points, costs(closest, weights))
        return jnp.minimum(closest, _nearest(x, x[found], scale)[0]), found

    points = jax.random.uniform(key, (rounds, num_drawn), x.dtype)
    drawn = jax.lax.scan(draw, _nearest(x, x[first], scale)[0], points)[1]
    candidates = x[jnp.concatenate([first, drawn.ravel()])]
    # Of equal candidates the first owns the rows, and the others weigh nothing.
    owners = _nearest(x, candidates, scale)[1]
    owned = segments.sum_by_label(weights[:, None], owners, candidates.shape[0])[:, 0]
    return kmeans_plus_plus(last_key, data._replace(x=candidates, weights=owned), k, trials=trials)


@partial(jax.jit, static_argnames=("k", "trials", "farthest"), inline=True)
def _one_by_one(key: Array, data: Data, k: int, trials: int, *, farthest: bool = False) -> Array:
    """Grows a set of centers by the best of some rows, or by the farthest row from the centers so far."""
    x, weights, scale = data.x, data.weights, frame.distance_scale(data)
    # All random numbers at once, and flat: the generator is much of what there is to compile. Row i does not depend
    # on K.
    points = jax.random.uniform(key, (k * trials,), x.dtype).reshape(k, trials)
    present = weights > 0

    def candidates(points: Array, closest: Array, index: Array) -> Array:
        if farthest:
            row = jnp.argmax(jnp.where(present, closest, -1)).astype(jnp.int32)
            return jnp.where(index > 0, row, sampling.by_mass(points, weights))
        # The first center is one row, drawn by weight: each trial is the same.
        mass = jnp.where(index > 0, costs(closest, weights), weights)
        return sampling.by_mass(jnp.where(index > 0, points, points[0]), mass)

    def body(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        chosen, closest = carry
        rows = candidates(points[index], closest, index)
        # Rows that are not there cost nothing, so they are never candidates.
        nearer = jnp.minimum(closest[None], linalg.squared_distances(x[rows], x, scale))
        trial = jnp.where(present[None], nearer, 0)
        winner = jnp.argmin(jnp.sum(trial * weights[None], axis=1))
        return chosen.at[index].set(rows[winner]), trial[winner]

    nothing = (jnp.zeros(k, jnp.int32), jnp.full(x.shape[0], jnp.inf, x.dtype))
    return x[jax.lax.fori_loop(0, k, body, nothing)[0]]


def costs(closest: Array, weights: Array) -> Array:
    """The rows' share of J up to a factor, or their weights where J is zero."""
    # Scaled so that neither tiny weights nor tiny distances underflow.
    costs = weights * linalg.safe_divide(closest, jnp.max(closest))
    return jnp.where(jnp.any(costs > 0), costs, weights)


def _nearest(x: Array, centers: Array, scale: Array | None) -> tuple[Array, Array]:
    """Each row's squared distance to the nearest center, and which that is; (N, K) is never stored."""

    def of_row(row: Array) -> tuple[Array, Array]:
        distances = linalg.squared_distances(row[None], centers, scale)[0]
        nearest = jnp.argmin(distances)
        return distances[nearest], nearest

    return jax.lax.map(of_row, x, batch_size=min(x.shape[0], max(1, CHUNK_DISTANCES // centers.shape[0])))
