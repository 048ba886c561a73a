"""From centers, labels or responsibilities to a mixture."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door, linalg, memory, rows
from jaxmix.gmm.covariance import Covariance, Full, Moments
from jaxmix.gmm.em import GaussianMixture, Stats
from jaxmix.gmm.model import GMM
from jaxmix.kernels import mixture
from jaxmix.types import ArrayLike, Data, Problem


def from_responsibilities(
    resp: ArrayLike,
    data: Data | ArrayLike,
    *,
    family: type[Covariance] = Full,
    problem: Problem = GaussianMixture(),
) -> GMM:
    r"""One M-step from given responsibilities.

    $$\pi_k = N_k / \sum_j N_j, \qquad m_k = \frac{1}{N_k} \sum_n w_n r_{nk} x_n$$

    A component without rows starts switched off, at the mean of the data with a unit covariance; with a prior, at the
    prior's mode.

    Args:
      resp: array of shape (N, K), non-negative; anything in rows of weight zero.
      data: `Data`, or an array of shape (N, D).
      family: a covariance family.
      problem: whose M-step is taken: its regularization holds for the start too.

    Returns:
      A `GMM` of that family.

    Raises:
      ValueError: for bad data, or `resp` of another shape.

    References:
      Bishop (2006), equations 9.24 to 9.26.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> resp = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> gmm.start.from_responsibilities(resp, [[0.0], [2.0], [7.0], [9.0]]).means.ravel().tolist()
      [1.0, 8.0]
    """
    data = door.as_data(data)
    shares = door.as_floating(resp, "resp").astype(data.x.dtype)
    if shares.ndim != 2 or shares.shape[0] != data.x.shape[0]:
        raise ValueError(f"`resp` must have shape ({data.x.shape[0]}, K), got {shares.shape}.")
    concrete = door.is_concrete(shares, data.weights)
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        shares = linalg.fill_absent(shares, data.weights)
    if concrete and not (memory.on_host(shares) >= 0).all():
        raise ValueError("`resp` must be non-negative, and not NaN.")
    log_weights = jnp.zeros(shares.shape[1], data.x.dtype)
    problem = memory.without_numpy(problem)
    return _maximise(shares, data, log_weights, problem, family=family, kinds=door.kinds(problem))


@partial(jax.jit, static_argnames=("family", "kinds"))
def _maximise(
    resp: Array, data: Data, log_weights: Array, problem: Problem, *, family: type[Covariance], kinds: tuple
) -> GMM:
    """The M-step of rows that no mixture has seen; log weights of -inf stay so."""
    k, (num_rows, num_features) = resp.shape[1], data.x.shape
    unit = family.unit(k, num_features, data.x.dtype)

    # In chunks, as the E-step: a product along all rows is cut by the number of threads, and rounds by it.
    def sums(function: Callable[[Array, Data], Any]) -> Any:
        def of_chunk(first: Array | int, chunk: Data) -> Any:
            shares = jax.lax.dynamic_slice_in_dim(resp, first, chunk.x.shape[0])
            return function(chunk.weights[:, None] * shares, chunk)

        return rows.reduce_chunks(of_chunk, data, mixture.chunk_rows(num_rows, k, num_features))

    counts, first = sums(lambda r, chunk: (jnp.sum(r, axis=0), linalg.dot(r.T, chunk.x - chunk.origin[None])))
    means = data.origin[None] + linalg.safe_divide(first, counts[:, None])
    # Means about one origin are near, to its rounding: about themselves they and the covariances come out right.
    moments = Moments(counts, *sums(lambda r, chunk: unit.moments(r, means, chunk.x)))
    empty = GMM(log_weights, means, unit)
    return problem.m_step(Stats(jnp.zeros((), data.x.dtype), moments), empty)


def from_labels(
    labels: ArrayLike,
    data: Data | ArrayLike,
    k: int,
    *,
    family: type[Covariance] = Full,
    problem: Problem = GaussianMixture(),
) -> GMM:
    r"""One M-step from given labels.

    $$r_{nk} = [z_n = k]$$

    Args:
      labels: integer array of shape (N,), in [0, K).
      data: `Data`, or an array of shape (N, D).
      k: the number of components, static.
      family: a covariance family.
      problem: whose M-step is taken: its regularization holds for the start too.

    Returns:
      A `GMM` of that family.

    Raises:
      ValueError: for bad data or labels.

    References:
      Fraley and Raftery (2002), section 2.3: EM from a hard partition.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.start.from_labels([0, 0, 1, 1], [[0.0], [2.0], [7.0], [9.0]], 2)
      >>> mixture.covariances.ravel().round(4).tolist()
      [1.0, 1.0]
    """
    data = door.as_data(data)
    labels, data = door.as_labels(labels, data, k)
    resp = jax.nn.one_hot(labels, k, dtype=data.x.dtype)
    return from_responsibilities(resp, data, family=family, problem=problem)


def from_centers(
    centers: ArrayLike,
    data: Data | ArrayLike,
    *,
    family: type[Covariance] = Full,
    problem: Problem = GaussianMixture(),
) -> GMM:
    r"""One M-step from the nearest centers: those of K-means, or of a seeding.

    $$r_{nk} = [k = \arg\min_j |x_n - u_j|^2]$$

    Args:
      centers: array of shape (K, D); a component whose center stands at infinity starts switched off.
      data: `Data`, or an array of shape (N, D).
      family: a covariance family.
      problem: whose M-step is taken: its regularization holds for the start too.

    Returns:
      A `GMM` of that family.

    Raises:
      ValueError: for bad data or centers.

    References:
      Bishop (2006), section 9.2.2: K-means to start EM.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> gmm.start.from_centers([[1.0], [8.0]], [[0.0], [2.0], [7.0], [9.0]]).means.ravel().tolist()
      [1.0, 8.0]
    """
    data = door.as_data(data)
    centers = door.as_centers(centers, data)
    resp, log_weights = _nearest(centers, data)
    problem = memory.without_numpy(problem)
    return _maximise(resp, data, log_weights, problem, family=family, kinds=door.kinds(problem))


@jax.jit
def _nearest(centers: Array, data: Data) -> tuple[Array, Array]:
    nearest: Array = jnp.argmin(linalg.squared_distances(data.x, centers), axis=1)
    # A center of NaN is nearest to nothing, whatever argmin says.
    known = jnp.where(jnp.any(jnp.isnan(centers)), jnp.nan, jnp.ones((), data.x.dtype))
    resp = known * jax.nn.one_hot(nearest, centers.shape[0], dtype=data.x.dtype)
    # With a prior, too, what is at infinity stays off.
    log_weights = jnp.where(jnp.all(jnp.isfinite(centers), axis=1), jnp.zeros((), data.x.dtype), -jnp.inf)
    return resp, log_weights
