"""Short forms that the tests of mixtures share."""

from typing import Any

import jax.numpy as jnp
import pytest
from jax import Array

from jaxmix import as_data, gmm, solve

FAMILIES = {
    family.__name__: family
    for family in (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)
}

# Each is a program of its own: two in the quick suite, with matrices and with one variance.
EVERY_FAMILY = [
    pytest.param(family, marks=[] if family in (gmm.Full, gmm.TiedSpherical) else pytest.mark.slow)
    for family in FAMILIES.values()
]


def exact(covariance: Any = gmm.Full, **options: Any) -> gmm.MixtureModel:
    """Nothing is added to the covariances: the M-step maximizes the bound, and the loss never rises."""
    return gmm.GaussianMixture(covariance, regularization=0.0, **options)


def model(params: gmm.Mixture, **options: Any) -> gmm.MixtureModel:
    """The `GaussianMixture` of the family of some parameters."""
    return gmm.GaussianMixture(type(params.covariance), **options)


def make(log_weights: Any, means: Any, covariance: Any) -> gmm.Mixture:
    """A Gaussian mixture from its parts."""
    return gmm.Mixture(log_weights, gmm.Normal(means, covariance))


def replace(params: gmm.Mixture, **changes: Any) -> gmm.Mixture:
    """The mixture with other log weights, means or covariance."""
    components = {name: changes[name] for name in changes if name != "log_weights"}
    log_weights = changes.get("log_weights", params.log_weights)
    return gmm.Mixture(log_weights, params.components._replace(**components))


def loss(problem: gmm.MixtureModel, params: gmm.Mixture, data: Any) -> Array:
    """The loss without the penalty, by direct or expanded sums as the problem chooses."""
    data = as_data(data)
    objective = solve.make_objective(problem, params, data)
    return objective.reduce(problem.loss, problem.prepare(params), objective.rows)


def e_step(problem: gmm.MixtureModel, params: gmm.Mixture, data: Any) -> gmm.Stats:
    """The statistics of all rows."""
    return gmm.e_step(params, data, assignment=problem.assignment)


def em_step(problem: gmm.MixtureModel, params: gmm.Mixture, data: Any) -> gmm.Mixture:
    """One step of EM."""
    return problem.m_step(e_step(problem, params, data), params)


def switched_off(params: gmm.Mixture, index: int) -> gmm.Mixture:
    """The mixture without one component, its weight shared equally by the others."""
    k = params.log_weights.shape[0]
    weights = jnp.where(jnp.arange(k) == index, 0.0, 1 / (k - 1))
    return params._replace(log_weights=jnp.log(weights))
