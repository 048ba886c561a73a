"""K-means: assign, update, and the cost J; whole fits; the exact optimum in one dimension."""

from jaxmix.kmeans import exact
from jaxmix.kmeans.fit import fit, fit_all, lower_bound
from jaxmix.kmeans.problem import KMeans
from jaxmix.kmeans.steps import Stats, assign, e_step, m_step, objective, recentre, reconstruct, update

__all__ = [
    "KMeans",
    "Stats",
    "assign",
    "e_step",
    "exact",
    "fit",
    "fit_all",
    "lower_bound",
    "m_step",
    "objective",
    "recentre",
    "reconstruct",
    "update",
]
