"""The main job, at its smallest: what it writes, and that the numbers agree with the library."""

import csv

import numpy as np
import pytest
import tyro

from experiments import em_vs_gradient, report
from experiments.data import DATA_SETS
from jaxmix import kmeans


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("em_vs_gradient")
    return output, em_vs_gradient.main(em_vs_gradient.Options(smoke=True, output=output))


def test_a_row_for_each_data_set_and_solver_reaches_the_file(smoke):
    output, rows = smoke
    with (output / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    solvers = ["Lloyd (EM)", "gradient descent", "Adam", "mini-batch SGD"]
    assert [(row["data"], row["solver"]) for row in written] == [(d, s) for d in ("iris", "wine") for s in solvers]
    assert [float(row["best"]) for row in written] == [row["best"] for row in rows]
    assert not list(output.glob("*.part"))


def test_numbers_are_ordered_and_above_the_bound(smoke):
    for row in smoke[1]:
        data_set = DATA_SETS[row["data"]]()
        assert kmeans.lower_bound(data_set.x, data_set.k) <= row["best"] <= row["median"] <= row["worst"]
        assert 0 <= row["reached best"] <= 1
        assert row["passes"] >= row["steps"] > 0
        assert row["seconds"] > 0


def test_lloyd_on_iris_reaches_the_published_optimum(smoke):
    row = smoke[1][0]
    np.testing.assert_allclose(row["best"], 78.8514414, rtol=1e-4)
    assert row["passes"] == row["steps"]
    assert row["ended"] == "4 converged"


def test_report_and_figures_are_whole(smoke):
    output, _ = smoke
    text = (output / "report.md").read_text()
    assert all(heading in text for heading in ("## Set-up", "## Result", "## Reading"))
    assert text.count("times the passes") == 6
    for name in ("em_vs_gradient", "way"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (output / f"{name}.svg").read_text().rstrip().endswith("</svg>")


def test_options_are_read_from_the_command_line():
    options = tyro.cli(em_vs_gradient.Options, args=["--smoke", "--data", "wine", "digits", "--restarts", "5"])
    assert (options.smoke, options.data, options.restarts) == (True, ("wine", "digits"), 5)


def test_a_restart_that_has_ended_keeps_its_last_loss(smoke):
    options = em_vs_gradient.Options(smoke=True, restarts=4)
    case = em_vs_gradient.kmeans_case(DATA_SETS["iris"](), options)
    result = em_vs_gradient.run_method(case, em_vs_gradient.methods(options)[0])
    passes, excess = em_vs_gradient.curves(result, case.best_known)
    assert passes[0] == 0
    assert excess.shape == (4, len(passes))
    np.testing.assert_allclose(excess[:, -1], np.asarray(result.fits.loss) / case.best_known - 1, atol=1e-6)
    path = em_vs_gradient.way(case, result.method.make(0.0), case.starts[0], int(result.fits.num_steps[0]))
    np.testing.assert_array_equal(path[0], case.starts[0])
    np.testing.assert_allclose(path[-1], result.fits.params[0], rtol=1e-6)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.csv"
    report.write_csv(path, [{"a": 1, "b": "x"}])
    with pytest.raises(ValueError, match="fields not in"):
        report.write_csv(path, [{"a": 1, "b": "x"}, {"c": 2}])
    assert path.read_text() == "a,b\n1,x\n"
