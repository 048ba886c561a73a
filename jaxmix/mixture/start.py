"""From centers, labels or responsibilities to a mixture."""

import contextlib

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, memory, validation
from jaxmix.contracts import check_choice
from jaxmix.data import Data
from jaxmix.mixture import initial
from jaxmix.mixture.components.gaussian import Gaussian
from jaxmix.mixture.model import Mixture
from jaxmix.mixture.problem import MixtureModel
from jaxmix.typing import ArrayLike

__all__ = ["from_centers", "from_labels", "from_responsibilities"]


def from_responsibilities(
    resp: ArrayLike,
    x: Data | ArrayLike,
    *,
    problem: MixtureModel = MixtureModel(Gaussian()),
    weights: ArrayLike | None = None,
) -> Mixture:
    r"""One M-step from given responsibilities.

    $$\pi_k = N_k / \sum_j N_j, \qquad \theta_k = \arg\max_\theta \sum_n w_n r_{nk} \log p(x_n \mid \theta)$$

    A component without rows starts switched off, a Gaussian one at the mean of the data with variances near the squared
    spread of the features; with a prior, at the prior's mode.

    Args:
      resp: array of shape (N, K), non-negative; anything in rows of weight zero.
      x: array of shape (N, D), or `Data`.
      problem: the model whose M-step is taken, such as `gmm.GaussianMixture(gmm.Tied)`: its prior and its
        regularization hold for the start too.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      A `Mixture`.

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
    data = validation.as_data(x, weights)
    shares = validation.as_floating(resp, "resp").astype(data.x.dtype)
    if shares.ndim != 2 or shares.shape[0] != data.x.shape[0]:
        raise ValueError(f"`resp` must have shape ({data.x.shape[0]}, K), got {shares.shape}.")
    concrete = validation.is_concrete(shares, data.weights)
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        shares = linalg.fill_absent(shares, data.weights)
    if concrete and not (memory.on_host(shares) >= 0).all():
        raise ValueError("`resp` must be non-negative, and not NaN.")
    return _from_responsibilities(validated(problem).calibrate(data), shares, data)


def from_labels(
    labels: ArrayLike,
    x: Data | ArrayLike,
    k: int,
    *,
    problem: MixtureModel = MixtureModel(Gaussian()),
    weights: ArrayLike | None = None,
) -> Mixture:
    r"""One M-step from given labels.

    $$r_{nk} = [z_n = k]$$

    Args:
      labels: integer array of shape (N,), in [0, K).
      x: array of shape (N, D), or `Data`.
      k: the number of components, static.
      problem: the model whose M-step is taken, such as `gmm.GaussianMixture(gmm.Tied)`: its prior and its
        regularization hold for the start too.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      A `Mixture`.

    Raises:
      ValueError: for bad data or labels.

    References:
      Fraley and Raftery (2002), section 2.3: EM from a hard partition.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.start.from_labels([0, 0, 1, 1], [[0.0], [2.0], [7.0], [9.0]], 2)
      >>> mixture.covariances.ravel().round(3).tolist()
      [1.0, 1.0]
    """
    data = validation.as_data(x, weights)
    labels, data = validation.as_labels(labels, data, k)
    resp = jax.nn.one_hot(labels, k, dtype=data.x.dtype)
    return from_responsibilities(resp, data, problem=problem)


def from_centers(
    centers: ArrayLike,
    x: Data | ArrayLike,
    *,
    problem: MixtureModel = MixtureModel(Gaussian()),
    weights: ArrayLike | None = None,
) -> Mixture:
    r"""One M-step from the nearest centers: those of K-means, or of a seeding.

    $$r_{nk} = [k = \arg\min_j |S (x_n - u_j)|^2]$$

    S is 1 for most components. For Gaussian ones it is diagonal, one over the standard deviation of each feature; it is
    1 where all features have one variance.

    Args:
      centers: array of shape (K, D); a component whose center is at infinity starts switched off.
      x: array of shape (N, D), or `Data`.
      problem: the model whose M-step is taken, such as `gmm.GaussianMixture(gmm.Tied)`: its prior and its
        regularization hold for the start too.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      A `Mixture`.

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
    centers, data = validation.as_centers(centers, x, weights)
    return _from_centers(validated(problem).calibrate(data), centers, data)


def validated(problem: MixtureModel) -> MixtureModel:
    """A mixture model whose settings are valid, and which shares no memory with NumPy.

    Raises:
      ValueError: for anything else.
    """
    check_choice(problem, "problem", MixtureModel, "gmm.GaussianMixture()")
    return memory.without_numpy(problem)


@jax.jit
def _from_responsibilities(problem: MixtureModel, responsibilities: Array, data: Data) -> Mixture:
    return initial.from_responsibilities(problem, responsibilities, data)


@jax.jit
def _from_centers(problem: MixtureModel, centers: Array, data: Data) -> Mixture:
    # A prior, too, leaves components off whose centers are at infinity.
    off = jnp.any(jnp.isinf(centers), axis=1)
    return initial.from_centers(problem, jnp.where(off[:, None], 0, centers), ~off, data)
