"""Gaussian components: six covariance families, and a conjugate prior."""

from jaxmix.mixture.components.gaussian.base import Covariance, Moments
from jaxmix.mixture.components.gaussian.component import Gaussian, Normal
from jaxmix.mixture.components.gaussian.data_priors import fraley_raftery, weak_prior
from jaxmix.mixture.components.gaussian.diagonal import Diagonal
from jaxmix.mixture.components.gaussian.full import Full
from jaxmix.mixture.components.gaussian.noise import noise_floor
from jaxmix.mixture.components.gaussian.prior import NormalInverseWishart
from jaxmix.mixture.components.gaussian.spherical import Spherical
from jaxmix.mixture.components.gaussian.tied import Tied
from jaxmix.mixture.components.gaussian.tied_diagonal import TiedDiagonal
from jaxmix.mixture.components.gaussian.tied_spherical import TiedSpherical

__all__ = [
    "Covariance",
    "Diagonal",
    "Full",
    "Gaussian",
    "Moments",
    "Normal",
    "NormalInverseWishart",
    "Spherical",
    "Tied",
    "TiedDiagonal",
    "TiedSpherical",
    "fraley_raftery",
    "noise_floor",
    "weak_prior",
]
