"""A fit of scaled rows is the scaled fit: each feature has its own unit, and round families have one for all."""

from typing import Any, cast

import jax
import numpy as np
import pytest
from sklearn import datasets

from jaxmix import gmm
from tests.mixtures import FAMILIES

KEY = jax.random.key(3)
ROUND = ("Spherical", "TiedSpherical")
RANDOM = np.random.default_rng(5)
CLUSTERS = np.concatenate([RANDOM.normal(size=(70, 3)) @ RANDOM.normal(size=(3, 3)) + 9 * place for place in range(3)])
WEIGHTS = RANDOM.uniform(0.5, 2, size=len(CLUSTERS))
IRIS = np.asarray(cast(Any, datasets.load_iris()).data)
DIABETES = np.asarray(cast(Any, datasets.load_diabetes()).data)

# About 1e-6 to 1e6.
POWERS = {"smaller": [-20, -20, -20, -20], "larger": [20, 20, 20, 20], "each": [-20, 7, 20, -3]}
FACTORS = {"smaller": [3.7e-5] * 3, "larger": [2.9e4] * 3, "each": [3.7e-5, 2.9e4, 0.31]}
QUICK = ("Full", "each")


def pairs(cases: dict[str, list]) -> list[Any]:
    """Families, and the factors with which maximum likelihood of a family scales."""
    found = [(family, name) for family in FAMILIES for name in cases if family not in ROUND or name != "each"]
    return [pytest.param(*pair, marks=[] if pair == QUICK else pytest.mark.slow) for pair in found]


def fits(x: np.ndarray, family: str, k: int = 3, **options: Any) -> Any:
    return gmm.fit_restarts(KEY, x, k, covariance=FAMILIES[family], restarts=4, max_steps=60, **options)


def unscaled(params: Any, factors: np.ndarray) -> list[np.ndarray]:
    """Weights, means and covariances in the units before; the factors are powers of two, or rounding is allowed."""
    return [
        np.asarray(params.log_weights),
        np.asarray(params.means) / factors,
        np.asarray(params.covariances) / factors / factors[:, None],
    ]


def shift(factors: np.ndarray, total: float) -> float:
    """By how much the loss grows."""
    return total * float(np.log(factors.astype(float)).sum())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("family", "name"), pairs(POWERS))
def test_a_power_of_two_changes_no_bit_of_a_fit(family, name, dtype):
    for x, weights in ((CLUSTERS, None), (CLUSTERS, WEIGHTS), (IRIS, None)):
        factors = np.ldexp(dtype(1), POWERS[name][: x.shape[1]]).astype(dtype)
        x, total = x.astype(dtype), len(x) if weights is None else weights.sum()
        found, plain = fits(x * factors, family, weights=weights), fits(x, family, weights=weights)
        for one, other in zip(unscaled(found.params, factors), unscaled(plain.params, factors / factors), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(found.num_steps, plain.num_steps)
        np.testing.assert_array_equal(found.status, plain.status)
        np.testing.assert_array_equal(found.held_up, plain.held_up)
        size = abs(shift(factors, total)) + np.abs(plain.loss).max()
        # A sum of so many logarithms, each rounded.
        rounding = 1e-12 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(found.loss, plain.loss + shift(factors, total), rtol=0, atol=rounding * size)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
@pytest.mark.parametrize(("family", "name"), pairs(FACTORS))
def test_any_factor_changes_a_fit_by_rounding(family, name, dtype, rtol):
    factors = np.array(FACTORS[name], dtype)
    x = CLUSTERS.astype(dtype)
    found, plain = fits(x * factors, family), fits(x, family)
    for one, other in zip(unscaled(found.params, factors), unscaled(plain.params, factors / factors), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max())
    size = abs(shift(factors, len(x))) + np.abs(plain.loss).max()
    np.testing.assert_allclose(found.loss, plain.loss + shift(factors, len(x)), rtol=0, atol=rtol * size)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Full", "Tied", "Diagonal", "TiedDiagonal"])
def test_a_power_of_two_changes_no_bit_of_fits_that_collapse(family):
    factors = np.ldexp(1.0, np.arange(10) * 4 - 20)
    found, plain = fits(DIABETES * factors, family, 4), fits(DIABETES, family, 4)
    for one, other in zip(unscaled(found.params, factors), unscaled(plain.params, np.ones(10)), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.held_up, plain.held_up)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Full", "Tied", "Diagonal", "TiedDiagonal"])
def test_a_fit_with_the_weak_prior_scales_too(family):
    factors = np.array(FACTORS["each"])
    pair = []
    for x in (CLUSTERS * factors, CLUSTERS):
        pair.append(fits(x, family, prior=gmm.weak_prior(x, strength=0.5, covariance=FAMILIES[family])))
    for one, other in zip(unscaled(pair[0].params, factors), unscaled(pair[1].params, factors / factors), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())
