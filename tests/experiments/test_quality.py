"""Time to quality, at its smallest: its losses are right, and its table is whole. No timing is asserted."""

import csv

import jax
import numpy as np
import pytest

from experiments import quality
from jaxmix import gmm, kmeans, solve


def test_losses_are_those_of_the_library():
    x = quality.clusters(200, 2, 3, 3.0)
    centers = np.asarray(kmeans.fit(jax.random.key(0), x, 3, restarts=2).params)
    np.testing.assert_allclose(quality.loss(x, (centers,)) * 200, kmeans.objective(centers, x), rtol=1e-5)
    params = gmm.start.from_centers(centers, x)
    parts = tuple(np.asarray(part) for part in (params.weights, params.means, params.covariances))
    likelihood = -solve.objective(gmm.GaussianMixture(regularization=0.0), params, x)
    np.testing.assert_allclose(-quality.loss(x, parts) * 200, likelihood, rtol=1e-5)


def test_the_excess_is_over_the_lowest_loss():
    workload = quality.Workload("rows", "kmeans", 2, lambda: np.zeros((1, 1)))
    taken = {"jaxmix": quality.Taken(9.0, [1.0, 3.0, 2.0], [2.0, 2.2, 2.1])}
    taken["peer"] = quality.Taken(1.0, [4.0], [2.5])
    own, peer = quality.rows_of(workload, taken)
    np.testing.assert_allclose([own["seconds"], own["excess"], own["lowest"], own["highest"]], [2, 5, 0, 10])
    np.testing.assert_allclose([peer["over jaxmix"], peer["excess"], peer["first call"]], [2, 25, 1])


@pytest.mark.slow
def test_the_table_has_a_row_for_every_contender(tmp_path):
    # As it is measured: gmmx takes nothing but float32.
    with jax.enable_x64(False):
        rows = quality.main(quality.Options(smoke=True, seeds=2, output=tmp_path))
    assert {row["model"] for row in rows} == {"kmeans", "mixture"}
    assert len([row for row in rows if row["contender"] == "jaxmix"]) == 2
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
