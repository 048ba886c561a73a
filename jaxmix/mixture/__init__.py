"""Mixtures of any component: the model, its densities, bound and starts."""

from jaxmix.mixture import start
from jaxmix.mixture.assignment import Assignment, Hard, Soft, Tempered
from jaxmix.mixture.bound import complete_log_likelihood, elbo, entropy, expected_complete_log_likelihood
from jaxmix.mixture.component import Component
from jaxmix.mixture.components.gaussian import Gaussian, Normal
from jaxmix.mixture.components.poisson import Poisson, Rates
from jaxmix.mixture.densities import log_joint, log_likelihood, log_prob, predict, responsibilities, sample
from jaxmix.mixture.model import Mixture, Stats
from jaxmix.mixture.problem import MixtureModel

__all__ = [
    "Assignment",
    "Component",
    "Gaussian",
    "Hard",
    "Mixture",
    "MixtureModel",
    "Normal",
    "Poisson",
    "Rates",
    "Soft",
    "Stats",
    "Tempered",
    "complete_log_likelihood",
    "elbo",
    "entropy",
    "expected_complete_log_likelihood",
    "log_joint",
    "log_likelihood",
    "log_prob",
    "predict",
    "responsibilities",
    "sample",
    "start",
]
