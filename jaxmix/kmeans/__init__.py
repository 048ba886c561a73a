"""K-means: assign, update, and the cost J; whole fits; the exact optimum in one dimension."""

from jaxmix.kmeans import exact
from jaxmix.kmeans.fit import fit, fit_restarts, lower_bound
from jaxmix.kmeans.lloyd import Lloyd
from jaxmix.kmeans.problem import KMeans
from jaxmix.kmeans.steps import Stats, e_step, m_step, objective, predict, recenter, reconstruct, update

__all__ = [
    "KMeans",
    "Lloyd",
    "Stats",
    "e_step",
    "exact",
    "fit",
    "fit_restarts",
    "lower_bound",
    "m_step",
    "objective",
    "predict",
    "recenter",
    "reconstruct",
    "update",
]
