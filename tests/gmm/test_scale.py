"""A fit of scaled rows is the scaled fit: each feature has its own unit, and round families have one for all."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from jaxmix import Status, as_data, gmm, sweep
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


class Variances(NamedTuple):
    """A family that holds variances, which do not scale as the rows do."""

    variances: jax.Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> "Variances":
        return cls(jnp.ones((k, num_features), dtype))

    moments = staticmethod(gmm.Diagonal.moments)
    log_density = staticmethod(gmm.Diagonal.log_density)
    num_free_parameters = staticmethod(gmm.Diagonal.num_free_parameters)
    component_fraction = staticmethod(gmm.Diagonal.component_fraction)
    prior_degrees = staticmethod(gmm.Diagonal.prior_degrees)

    def root(self):
        return gmm.Diagonal(jnp.sqrt(self.variances))

    def maximize(self, counts, moments, denominators, noise):
        return Variances(jnp.square(self.root().maximize(counts, moments, denominators, noise).scale))

    def prepare(self, means):
        return self.root().prepare(means)

    def transform_noise(self, labels, noise):
        return self.root().transform_noise(labels, noise)

    def to_dense(self, k, num_features):
        return self.root().to_dense(k, num_features)

    def unconstrain(self):
        return Variances(jnp.log(self.variances))

    def constrain(self):
        return Variances(jnp.exp(self.variances))


def test_a_family_without_a_method_for_it_is_fitted_in_the_unit_of_the_rows():
    own = gmm.fit(KEY, 40 * CLUSTERS, 3, covariance=Variances, restarts=2, max_steps=30)
    diagonal = gmm.fit(KEY, 40 * CLUSTERS, 3, covariance=gmm.Diagonal, restarts=2, max_steps=30)
    order, same = (np.argsort(np.asarray(fit.params.means)[:, 0]) for fit in (own, diagonal))
    np.testing.assert_allclose(own.params.covariances[order], diagonal.params.covariances[same], rtol=1e-4)
    np.testing.assert_allclose(own.loss, diagonal.loss, rtol=1e-8)


@pytest.mark.parametrize(("constant", "width"), [(1e18, 1e-10), (1e6, 1e-20), (1e30, 1e-10)])
def test_a_large_constant_beside_a_narrow_feature_ends_finite_in_float32(constant, width):
    x = np.c_[np.full(60, constant), width * CLUSTERS[:60, 0]].astype(np.float32)
    fits = gmm.fit_restarts(KEY, x, 2, restarts=2, max_steps=20)
    assert np.isfinite(fits.loss).all()
    np.testing.assert_allclose(fits.params.means[..., 0], constant, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_a_traced_regularization_that_is_none_is_not_taken_for_zero(value):
    fit = jax.jit(lambda r: gmm.fit(KEY, CLUSTERS, 2, regularization=r, restarts=2, max_steps=20))(value)
    assert fit.status == Status.NONFINITE


def test_a_row_of_weight_zero_in_data_does_not_widen_the_noise():
    data = as_data(np.concatenate([CLUSTERS, CLUSTERS[:1]]))
    data = data._replace(x=data.x.at[-1, 0].set(1e300), weights=data.weights.at[-1].set(0.0))
    np.testing.assert_allclose(gmm.noise_floor(data), gmm.noise_floor(CLUSTERS), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(gmm.noise_floor)(data), gmm.noise_floor(CLUSTERS), rtol=1e-12)


@pytest.mark.slow
def test_a_wide_prior_or_noise_beside_narrow_rows_is_within_range():
    x = (1e-20 * CLUSTERS[:, :2]).astype(np.float32)
    prior = gmm.NormalInverseWishart(jnp.zeros(2), 0.01, 4.0, jnp.eye(2))
    each: list[dict[str, Any]] = [{"prior": prior}, {"regularization": 1e-2}]
    for options in each:
        assert np.isfinite(gmm.fit(KEY, x, 2, restarts=2, max_steps=20, **options).loss)
    swept = sweep.mixtures(KEY, x, [2], covariances=[gmm.Full], regularizations=[1e-4, 1e-2], restarts=2, max_steps=20)
    assert np.isfinite(swept["Full"].fits.loss).all()


def test_a_prior_for_another_family_is_refused():
    with pytest.raises(
        ValueError, match=r"rows for Diagonal, less than 0. .* gmm.weak_prior\(x, covariance=gmm.Diagonal\)"
    ):
        gmm.fit(KEY, CLUSTERS, 2, covariance=gmm.Diagonal, prior=gmm.weak_prior(CLUSTERS))
