"""Small real data that travels with the package, and synthetic mixtures with a stated separation."""

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def old_faithful() -> np.ndarray:
    """272 eruptions of the Old Faithful geyser: length, and waiting time to the next, both in minutes.

    Returns:
      Array of shape (272, 2), float64, in minutes.

    References:
      Azzalini and Bowman (1990), Applied Statistics 39, 357-365; the data set `faithful` of R.

    Example:
      >>> from jaxmix import datasets
      >>> datasets.old_faithful().shape
      (272, 2)
    """
    text = resources.files("jaxmix").joinpath("data/old_faithful.csv").read_text()
    return np.loadtxt(text.splitlines(), delimiter=",", skiprows=1)


def separated_mixture(key: Array, n: int, k: int, num_features: int, separation: float) -> tuple[Array, Array]:
    r"""Rows of a mixture of K unit Gaussians in equal shares, as far apart as stated.

    $$\min_{i \ne j} |m_i - m_j| = c \sqrt{D}$$

    The means are drawn from a Gaussian and scaled so that the nearest two lie just that far apart.

    Args:
      key: a PRNG key.
      n: the number of rows, N.
      k: the number of components, at least 2.
      num_features: the number of features, D.
      separation: c; at 2 hardly any rows overlap in high dimension, below 1/2 all do.

    Returns:
      x of shape (N, D) and labels of shape (N,), int32.

    Raises:
      ValueError: for `k` below 2, or more components than rows.

    References:
      Dasgupta (1999), definition 1: c-separated mixtures.

    Example:
      >>> import jax
      >>> from jaxmix import datasets
      >>> x, labels = datasets.separated_mixture(jax.random.key(0), 10, 2, 3, 5.0)
      >>> x.shape, labels.tolist()
      ((10, 3), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    """
    if not 2 <= k <= n:
        raise ValueError(f"`k` must be between 2 and the number of rows, {n}, got {k}.")
    mean_key, noise_key = jax.random.split(key)
    means = jax.random.normal(mean_key, (k, num_features))
    distances = jnp.linalg.norm(means[:, None] - means[None], axis=2) + jnp.diag(jnp.full(k, jnp.inf))
    means = means * separation * num_features**0.5 / jnp.min(distances)
    labels = jnp.arange(n, dtype=jnp.int32) % k
    return means[labels] + jax.random.normal(noise_key, (n, num_features)), labels
