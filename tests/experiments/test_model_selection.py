"""The BIC table, at its smallest."""

import csv

import numpy as np
import pytest

from experiments import model_selection
from experiments.data import mixture
from jaxmix import gmm, metrics


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("model_selection")
    return output, model_selection.main(model_selection.Options(smoke=True, output=output))


@pytest.mark.slow
def test_a_row_for_each_family_and_k_reaches_the_file(smoke):
    output, rows = smoke
    with (output / "table.csv").open() as file:
        written = [(row["family"], int(row["K"])) for row in csv.DictReader(file)]
    assert written == [(family, k) for family in ("Full", "Tied") for k in (1, 2, 3)]
    assert (output / "bic.png").read_bytes().startswith(b"\x89PNG")
    assert "lowest BIC" in (output / "report.md").read_text()
    assert len(rows) == 6


@pytest.mark.slow
def test_one_component_is_the_closed_form(smoke):
    x = mixture("faithful", 0).x.astype(float)
    covariance = np.cov(x.T, bias=True) + 1e-3 * np.eye(2)
    params = gmm.mixture([1.0], x.mean(axis=0)[None], covariance[None])
    for row in smoke[1]:
        if row["K"] == 1:
            np.testing.assert_allclose(row["bic"], metrics.bic(params, x), rtol=1e-5)
            np.testing.assert_allclose(row["icl"], row["bic"], rtol=1e-6)
            np.testing.assert_allclose(row["bic"] - row["aic"], 5 * (np.log(272) - 2), rtol=1e-3)


@pytest.mark.slow
def test_data_in_minutes_and_standardized_have_one_order(smoke):
    # Standardizing moves every log-likelihood by the same constant: the order of BIC within a family stays.
    bic = {row["K"]: row["bic"] for row in smoke[1] if row["family"] == "Tied"}
    assert bic[3] < bic[2] < bic[1]
