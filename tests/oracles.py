"""Plain NumPy, in float64, for what the library computes."""

from typing import Any

import jax
import numpy as np


def cost(centers: Any, x: Any, weights: Any) -> float:
    """J, with every row at its nearest center."""
    centers, x = np.asarray(centers, float), np.asarray(x, float)
    with np.errstate(under="ignore"):
        return float(np.asarray(weights, float) @ ((x[:, None] - centers[None]) ** 2).sum(-1).min(1))


def mixture_loss(params: Any, x: Any, weights: Any, noise: Any = 0.0) -> tuple[float, float, float]:
    """Minus the log-likelihood, less what noise of the rows takes off, the least variance of any direction, and the
    largest condition number.
    """
    log_weights = np.asarray(params.log_weights, float)
    on = np.isfinite(log_weights)
    # Squares of wide float32 numbers are beyond float32.
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    means, covariances = params.means[on], np.asarray(params.covariances)[on]
    noise = np.broadcast_to(noise, params.means.shape)[on]
    shifted = np.asarray(x, float)[None] - means[:, None]
    squares = (shifted * np.swapaxes(np.linalg.solve(covariances, np.swapaxes(shifted, 1, 2)), 1, 2)).sum(-1)
    determinants = np.linalg.slogdet(2 * np.pi * covariances)[1]
    traces = (np.diagonal(np.linalg.inv(covariances), axis1=1, axis2=2) * noise).sum(axis=1)
    joint = log_weights[on, None] - 0.5 * (squares + (determinants + traces)[:, None])
    sizes = np.linalg.eigvalsh(covariances)
    loss = -np.asarray(weights, float) @ np.logaddexp.reduce(joint, axis=0)
    with np.errstate(over="ignore"):
        condition = (sizes[:, -1] / np.maximum(sizes[:, 0], 1e-300)).max()
    return float(loss), float(sizes.min()), float(condition)
