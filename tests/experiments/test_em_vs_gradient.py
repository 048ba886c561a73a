"""The main job, at its smallest: what it writes, and that the numbers agree with the library."""

import csv

import numpy as np
import pytest
import tyro

from experiments import compare, em_vs_gradient, report
from experiments.data import DATA_SETS, mixture
from jaxmix import kmeans

KMEANS_SOLVERS = ["Lloyd (EM)", "gradient descent", "Adam", "mini-batch SGD"]
MIXTURE_SOLVERS = ["EM", "SQUAREM", "Adam", "stepwise EM"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("em_vs_gradient")
    return output, em_vs_gradient.main(em_vs_gradient.Options(smoke=True, output=output))


@pytest.mark.slow
def test_a_row_for_each_data_set_and_solver_reaches_the_file(smoke):
    output, rows = smoke
    with (output / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [(row["model"], row["data"], row["solver"]) for row in written] == [
        *(("K-means", "iris", solver) for solver in KMEANS_SOLVERS),
        *(("mixture", "c = 5", solver) for solver in MIXTURE_SOLVERS),
    ]
    assert [float(row["best"]) for row in written] == [row["best"] for row in rows]
    assert not list(output.glob("*.part"))


@pytest.mark.slow
def test_numbers_are_ordered_and_above_the_bound(smoke):
    for row in smoke[1]:
        assert row["best"] <= row["median"] <= row["worst"]
        assert 0 <= row["reached best"] <= 1
        assert row["passes"] >= row["steps"] > 0
        assert row["seconds"] > 0
        assert row["failed"] == 0
        if row["model"] == "K-means":
            data_set = DATA_SETS[row["data"]]()
            assert kmeans.lower_bound(data_set.x, data_set.k) <= row["best"]


@pytest.mark.slow
def test_em_is_what_others_are_compared_with(smoke):
    for row in smoke[1]:
        if row["solver"] in ("EM", "Lloyd (EM)"):
            assert row["below EM"] == 0
            assert row["passes"] == row["steps"]


@pytest.mark.slow
def test_on_separated_clusters_em_and_squarem_end_alike(smoke):
    rows = {row["solver"]: row for row in smoke[1] if row["data"] == "c = 5"}
    np.testing.assert_allclose(rows["SQUAREM"]["best"], rows["EM"]["best"], rtol=1e-5)


@pytest.mark.slow
def test_lloyd_on_iris_reaches_the_published_optimum(smoke):
    row = smoke[1][0]
    np.testing.assert_allclose(row["best"], 78.8514414, rtol=1e-4)
    assert row["passes"] == row["steps"]
    assert row["ended"] == "4 converged"


@pytest.mark.slow
def test_report_and_figures_are_whole(smoke):
    output, _ = smoke
    text = (output / "report.md").read_text()
    assert all(heading in text for heading in ("## Set-up", "## Result", "## Reading"))
    assert text.count("times the passes") == 3 + 3
    for name in ("em_vs_gradient", "mixtures", "way"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (output / f"{name}.svg").read_text().rstrip().endswith("</svg>")


def test_options_are_read_from_the_command_line():
    options = tyro.cli(em_vs_gradient.Options, args=["--smoke", "--data", "wine", "digits", "--restarts", "5"])
    assert (options.smoke, options.data, options.restarts) == (True, ("wine", "digits"), 5)


@pytest.mark.slow
def test_a_restart_that_has_ended_keeps_its_last_loss(smoke):
    options = em_vs_gradient.Options(smoke=True, restarts=4)
    case = em_vs_gradient.kmeans_case(DATA_SETS["iris"](), options)
    result = compare.Bench().run(case, em_vs_gradient.kmeans_methods(options)[0])
    passes, excess = compare.curves(result, case.best_known)
    assert passes[0] == 0
    assert excess.shape == (4, len(passes))
    np.testing.assert_allclose(excess[:, -1], np.asarray(result.fits.loss) / case.best_known - 1, atol=1e-6)
    path = compare.way(case, result.method.make(0.0), case.starts[0], int(result.fits.num_steps[0]))
    np.testing.assert_array_equal(path[0], case.starts[0])
    np.testing.assert_allclose(path[-1], result.fits.params[0], rtol=1e-6)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.csv"
    report.write_csv(path, [{"a": 1, "b": "x"}])
    with pytest.raises(ValueError, match="fields not in"):
        report.write_csv(path, [{"a": 1, "b": "x"}, {"c": 2}])
    assert path.read_text() == "a,b\n1,x\n"


@pytest.mark.slow
def test_excess_is_counted_in_the_cases_unit(smoke):
    options = em_vs_gradient.Options(smoke=True, restarts=4)
    case = em_vs_gradient.kmeans_case(DATA_SETS["iris"](), options)
    np.testing.assert_allclose(compare.excess(case, [110.0], 100.0), [0.1])
    np.testing.assert_allclose(compare.excess(case._replace(unit=50.0), [110.0], 100.0), [0.2])


def test_columns_that_say_nothing_are_left_out():
    rows = [{"a": 1.0, "b": float("nan")}, {"a": float("nan"), "b": float("nan")}]
    assert report.told(rows) == ["a"]
    assert report.markdown_table(rows) == "| a |\n|---|\n| 1 |\n| - |"


@pytest.mark.parametrize(("name", "shape"), [("faithful", (272, 2)), ("wine", (178, 13)), ("c = 1, D = 10", (600, 10))])
def test_data_for_mixtures(name, shape):
    data_set = mixture(name, seed=0)
    assert data_set.x.shape == shape
    assert data_set.x.dtype == np.float32
    with pytest.raises(ValueError, match="Unknown data set"):
        mixture("c=1", seed=0)
