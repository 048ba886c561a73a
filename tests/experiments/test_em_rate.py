"""The rate of EM: the eigenvalue is that of the whole Jacobian, the step that of Xu and Jordan, the prediction true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole import assert_whole

from experiments import em_map, em_rate


@pytest.fixture(scope="module")
def at_rest():
    data, true, start = em_rate.made(2.0, 1, 2, 0)
    end, lengths, _ = em_map.climb(em_map.point_of(true), data, 2000, 1e-9)
    return data, em_map.point_of(start), end, lengths


@pytest.mark.slow
def test_the_rate_is_the_largest_eigenvalue_of_the_whole_jacobian(at_rest):
    data, _, end, lengths = at_rest

    def of_vector(vector):
        w, m, c = vector[0], vector[1:3], vector[3:]
        point = em_map.Point(jnp.stack([w, 1 - w]), m[:, None], c[:, None, None])
        after = em_map.em(point, data)
        return jnp.concatenate([after.weights[:1], after.means.ravel(), after.covariances.ravel()])

    at = jnp.concatenate([end.weights[:1], end.means.ravel(), end.covariances.ravel()])
    eigenvalues = np.linalg.eigvals(np.asarray(jax.jacfwd(of_vector)(at)))
    rate = em_map.rate(end, data, jax.random.key(0), 3000, 1e-7)
    np.testing.assert_allclose(rate.value, eigenvalues.real.max(), rtol=1e-9)
    # Symmetric in the metric of P^-1.
    assert np.abs(eigenvalues.imag).max() < 1e-9
    np.testing.assert_allclose(rate.split, 0, atol=1e-6)
    np.testing.assert_allclose(lengths[1] / lengths[0], rate.value, rtol=1e-3)


@pytest.mark.slow
def test_the_step_is_p_times_the_gradient_and_uphill(at_rest):
    data, point, _, _ = at_rest
    for _ in range(5):
        assert em_map.eigenvalues_of_p(point, em_map.counts_of(point, data))[0] > 0
        point, (cosine, linear, _) = em_rate.directions(point, data)
        assert cosine > 0
        assert linear < 1e-12


@pytest.mark.slow
def test_slow_where_components_overlap(tmp_path):
    near, far = em_rate.main(em_rate.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "rates")
    assert near["overlap"] > far["overlap"]
    assert near["rate predicted"] > far["rate predicted"]
    np.testing.assert_allclose(far["rate measured"], far["rate predicted"], rtol=1e-3)
    assert far["passes SQUAREM"] <= far["passes EM"]
