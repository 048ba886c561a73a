"""Covariance families: the type of `params.covariance` is the family."""

from jaxmix.gmm.covariance.base import Covariance, Moments
from jaxmix.gmm.covariance.diagonal import Diagonal
from jaxmix.gmm.covariance.full import Full
from jaxmix.gmm.covariance.spherical import Spherical
from jaxmix.gmm.covariance.tied import Tied
from jaxmix.gmm.covariance.tied_diagonal import TiedDiagonal
from jaxmix.gmm.covariance.tied_spherical import TiedSpherical

__all__ = ["Covariance", "Diagonal", "Full", "Moments", "Spherical", "Tied", "TiedDiagonal", "TiedSpherical"]
