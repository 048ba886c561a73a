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
EACH = [family for family in FAMILIES if family not in ROUND]
RANDOM = np.random.default_rng(5)
CLUSTERS = np.concatenate([RANDOM.normal(size=(70, 3)) @ RANDOM.normal(size=(3, 3)) + 9 * place for place in range(3)])
WEIGHTS = RANDOM.uniform(0.5, 2, size=len(CLUSTERS))
IRIS = np.asarray(cast(Any, datasets.load_iris()).data)
DIABETES = np.asarray(cast(Any, datasets.load_diabetes()).data)

ROWS = {"clusters": CLUSTERS, "iris": IRIS}

# About 1e-6 to 1e6.
POWERS = {"smaller": [-20, -20, -20, -20], "larger": [20, 20, 20, 20], "each": [-20, 7, 20, -3]}
FACTORS = {"smaller": [3.7e-5] * 3, "larger": [2.9e4] * 3, "each": [3.7e-5, 2.9e4, 0.31]}
DTYPES = (np.float64, np.float32)


def cases(factors: dict[str, list], more: tuple[str, ...], quick: tuple[Any, ...]) -> list[Any]:
    """Families, factors with which their maximum likelihood scales, dtypes, and one choice more."""
    found = [
        (family, name, dtype, one)
        for family in FAMILIES
        for name in factors
        if family in EACH or name != "each"
        for dtype in DTYPES
        for one in more
    ]
    return [pytest.param(*case, marks=[] if case == quick else pytest.mark.slow) for case in found]


def fits(x: np.ndarray, family: str, k: int = 3, **options: Any) -> Any:
    return gmm.fit_restarts(KEY, x, k, covariance=FAMILIES[family], restarts=4, max_steps=60, **options)


def parts(params: Any, factors: np.ndarray | float = 1.0) -> dict[str, np.ndarray]:
    """Weights, and means and covariances in the units before."""
    factors = np.broadcast_to(factors, params.means.shape[-1:])
    return {
        "weights": np.asarray(params.log_weights),
        "means": np.asarray(params.means) / factors,
        "covariances": np.asarray(params.covariances) / factors / factors[:, None],
    }


def assert_loss_is_shifted(found: Any, plain: Any, factors: np.ndarray, total: float, rtol: float) -> None:
    """By the logarithm of the factors, for each row."""
    shift = total * float(np.log(factors.astype(float)).sum())
    size = abs(shift) + float(np.abs(plain.loss).max())
    np.testing.assert_allclose(found.loss, np.asarray(plain.loss, float) + shift, rtol=0, atol=rtol * size)


@pytest.mark.parametrize(
    ("family", "name", "dtype", "data"), cases(POWERS, ("clusters", "iris"), ("Full", "each", np.float64, "clusters"))
)
def test_a_power_of_two_changes_no_bit_of_a_fit(family, name, dtype, data):
    x, weights = ROWS[data].astype(dtype), WEIGHTS.astype(dtype) if data == "clusters" else None
    factors = np.ldexp(dtype(1), POWERS[name][: x.shape[1]]).astype(dtype)
    found, plain = fits(x * factors, family, weights=weights), fits(x, family, weights=weights)
    for part, value in parts(found.params, factors).items():
        np.testing.assert_array_equal(value, parts(plain.params)[part], err_msg=part)
    for field in ("num_steps", "status", "held_up"):
        np.testing.assert_array_equal(getattr(found, field), getattr(plain, field), err_msg=field)
    total = len(x) if weights is None else float(weights.sum(dtype=float))
    assert_loss_is_shifted(found, plain, factors, total, 1e-12 if dtype == np.float64 else 1e-6)


def begin(x: np.ndarray, family: str, start: str) -> dict[str, Any]:
    """A mixture of labels that are nearly those of the clusters, or the default."""
    problem = gmm.GaussianMixture(FAMILIES[family])
    labels = np.arange(len(x)) // 50 % 3
    return {} if start == "a key" else {"init": gmm.start.from_labels(labels, x, 3, problem=problem)}


@pytest.mark.parametrize(
    ("family", "name", "dtype", "start"), cases(FACTORS, ("a key", "a mixture"), ("Full", "each", np.float32, "a key"))
)
def test_any_factor_changes_a_fit_by_rounding(family, name, dtype, start):
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    factors, rows = np.array(FACTORS[name], dtype), CLUSTERS.astype(dtype)
    plain, found = (fits(x, family, **begin(x, family, start)) for x in (rows, rows * factors))
    for part, value in parts(found.params, factors).items():
        wanted = parts(plain.params)[part]
        np.testing.assert_allclose(value, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max(), err_msg=part)
    assert_loss_is_shifted(found, plain, factors, len(CLUSTERS), rtol)


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH)
def test_a_power_of_two_changes_no_bit_of_fits_that_collapse(family):
    factors = np.ldexp(1.0, np.arange(10) * 4 - 20)
    found, plain = fits(DIABETES * factors, family, 4), fits(DIABETES, family, 4)
    for part, value in parts(found.params, factors).items():
        np.testing.assert_array_equal(value, parts(plain.params)[part], err_msg=part)
    np.testing.assert_array_equal(found.held_up, plain.held_up)


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH)
def test_a_fit_with_the_weak_prior_scales_too(family):
    factors = np.array(FACTORS["each"])
    plain, found = (
        fits(x, family, prior=gmm.weak_prior(x, strength=0.5, covariance=FAMILIES[family]))
        for x in (CLUSTERS, CLUSTERS * factors)
    )
    for part, value in parts(found.params, factors).items():
        wanted = parts(plain.params)[part]
        np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max(), err_msg=part)
