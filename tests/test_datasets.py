"""Data that ships, and data that is drawn."""

import jax
import numpy as np
import pytest

from jaxmix import datasets


def test_old_faithful_is_the_published_table():
    x = datasets.old_faithful()
    assert x.shape == (272, 2)
    # R: colMeans(faithful)
    np.testing.assert_allclose(x.mean(axis=0), [3.487783, 70.897059], atol=1e-6)


@pytest.mark.parametrize("separation", [0.2, 1.0, 5.0])
def test_nearest_means_lie_as_far_apart_as_stated_and_clusters_are_unit(separation):
    x, labels = map(np.asarray, datasets.separated_mixture(jax.random.key(0), 30_000, 3, 4, separation))
    means = np.stack([x[labels == k].mean(axis=0) for k in range(3)])
    distances = np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(distances.min(), separation * 2, atol=0.05)
    np.testing.assert_allclose(np.cov(x[labels == 1].T), np.eye(4), atol=0.05)
    np.testing.assert_array_equal(np.bincount(labels), 10_000)


def test_fewer_than_two_components_are_rejected():
    with pytest.raises(ValueError, match="`k` must be between 2"):
        datasets.separated_mixture(jax.random.key(0), 10, 1, 2, 1.0)
