"""Gaussian mixtures: densities, EM and its bound, six covariance families."""

from jaxmix.gmm import start
from jaxmix.gmm.bound import complete_log_likelihood, elbo, entropy, expected_complete_log_likelihood
from jaxmix.gmm.construct import mixture
from jaxmix.gmm.covariance import Covariance, Diagonal, Full, Moments, Spherical, Tied, TiedDiagonal, TiedSpherical
from jaxmix.gmm.em import GaussianMixture, Stats, e_step, m_step, recentre
from jaxmix.gmm.features import conditional, marginal
from jaxmix.gmm.fit import fit, fit_all
from jaxmix.gmm.model import GMM, log_joint, log_likelihood, log_prob, predict, responsibilities, sample
from jaxmix.gmm.posterior import Hard, Posterior, Soft, Tempered
from jaxmix.gmm.prior import NormalInverseWishart, fraley_raftery

__all__ = [
    "GMM",
    "Covariance",
    "Diagonal",
    "Full",
    "GaussianMixture",
    "Hard",
    "Moments",
    "NormalInverseWishart",
    "Posterior",
    "Soft",
    "Spherical",
    "Stats",
    "Tempered",
    "Tied",
    "TiedDiagonal",
    "TiedSpherical",
    "complete_log_likelihood",
    "conditional",
    "e_step",
    "elbo",
    "entropy",
    "expected_complete_log_likelihood",
    "fit",
    "fit_all",
    "fraley_raftery",
    "log_joint",
    "log_likelihood",
    "log_prob",
    "m_step",
    "marginal",
    "mixture",
    "predict",
    "recentre",
    "responsibilities",
    "sample",
    "start",
]
