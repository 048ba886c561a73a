"""The benchmark, at its smallest: its rows are whole, and its check catches who is wrong. No timing is asserted."""

import csv
import dataclasses
import math

import numpy as np
import pytest

from experiments import benchmark, inference, peers, races, targets
from experiments.processes import LostError, answer
from experiments.timing import race
from experiments.workloads import Case, Judge, centers, distances, mixture_pass, mixture_start, nearest, rows
from jaxmix import gmm


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("benchmark")
    return output, benchmark.main(benchmark.Options(smoke=True, output=output))


@pytest.mark.slow
def test_every_job_has_rows_and_no_row_is_void(smoke):
    output, table = smoke
    assert {row["job"] for row in table} == set(benchmark.JOBS)
    assert {row["check"] for row in table} == {"ok"}
    with (output / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(table)
    assert (output / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    text = (output / "report.md").read_text()
    assert all(f"### {job}" in text for job in benchmark.JOBS)
    assert "float32" in text


@pytest.mark.slow
def test_ratios_to_peers_are_positive_and_finite(smoke):
    raced = [row for row in smoke[1] if row["job"] in ("kmeans", "gmm", "inference", "restarts", "scaling")]
    raced = [row for row in raced if row["peer"]]
    assert {row["peer"] for row in raced} >= {"scikit-learn", "jaxmix, num_parallel = 3"}
    for row in raced:
        for name in ("ratio min", "ratio median", "jaxmix median", "peer median"):
            assert 0 < row[name] < math.inf, row


@pytest.mark.slow
@pytest.mark.parametrize("model", ["kmeans", "full"])
def test_a_contender_that_is_wrong_voids_its_row_alone(model):
    case = Case(model, 500, 3, 4, 3) if model == "kmeans" else Case(model, 400, 3, 2, 3)
    [honest] = peers.contenders(case, rows(case), "jaxmix")
    [short] = peers.contenders(dataclasses.replace(case, steps=1), rows(case), "jaxmix")
    found = {
        row["peer"]: row
        for row in races.race_rows(
            case, [], rounds=1, budget=1, timeout=1, extra=[honest._replace(name="a"), short._replace(name="b")]
        )
    }
    assert found["a"]["check"] == "ok"
    assert found["b"]["check"].startswith("VOID: b: ")
    assert math.isnan(found["b"]["ratio median"])


def test_a_contender_that_raises_is_named_and_costs_no_other_anything():
    case = Case("kmeans", 500, 3, 4, 3)
    [honest] = peers.contenders(case, rows(case), "jaxmix")

    def fail():
        raise RuntimeError("out of order")

    times, lost = race([honest, honest._replace(name="broken", fit=fail)], rounds=2, budget=1)
    assert [entry.contender.name for entry in times] == ["jaxmix"]
    assert lost == {"broken": "RuntimeError: out of order"}


def test_a_wrong_label_is_found():
    case = Case("kmeans", 500, 3, 4, 3)
    x = rows(case)
    judge = Judge(case, x)
    [honest] = peers.contenders(case, x, "jaxmix")
    outcome = honest.read(honest.fit())
    assert judge.verdict(outcome) == ""
    clear = int(np.argmax(distances(outcome.params[0], x)[2]))
    others = np.array(outcome.labels)
    others[clear] = (others[clear] + 1) % 4
    assert judge.verdict(outcome._replace(labels=others)).startswith("labels")


@pytest.mark.slow
def test_wrong_labels_of_a_mixture_are_counted():
    case = Case("tied diagonal", 500, 3, 2, 0)
    x = rows(case)
    params = inference.mixture_of(case, x)
    labels = np.asarray(gmm.predict(params, x))
    assert inference.verdict(params, x, labels) == ""
    gaps = np.abs(np.diff(np.asarray(gmm.log_joint(params, x)), axis=1)[:, 0])
    clear = int(np.argmax(gaps))
    others = labels.copy()
    others[clear] = 1 - others[clear]
    assert inference.verdict(params, x, others) == "1 labels are not those of float64"


def test_a_missing_peer_is_named_and_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(peers.MODULES, "ott", "a_module_that_is_not_there")
    seen: list[str] = []

    def tasks(options, names):
        seen.extend(names)
        return iter([])

    monkeypatch.setitem(benchmark.TASKS, "kmeans", tasks)
    assert benchmark.main(benchmark.Options("kmeans", peers="ott,sklearn", output=tmp_path)) == []
    assert seen == ["sklearn"]
    assert "a_module_that_is_not_there" in capsys.readouterr().out
    assert "ott (No module named" in (tmp_path / "report.md").read_text()


def test_a_process_that_is_late_or_dies_is_lost():
    job = {"case": dataclasses.asdict(Case("kmeans", 50, 2, 2, 1)), "name": "jaxmix"}
    with pytest.raises(LostError, match="no answer within"):
        answer("fit", timeout=0.01, **job)
    with pytest.raises(LostError, match=r"ended with 1: KeyError"):
        answer("no such task", timeout=60, **job)


def test_the_float64_reference_is_the_textbook():
    case = Case("full", 200, 3, 2, 1)
    x = rows(case).astype(float)
    u = centers(case, x)
    squared = np.square(x[:, None] - u[None]).sum(axis=2)
    labels, least, gap = distances(u, x)
    np.testing.assert_array_equal(labels, squared.argmin(axis=1))
    np.testing.assert_array_equal(nearest(u, x), labels)
    np.testing.assert_allclose(least, squared.min(axis=1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gap, squared.max(axis=1) - squared.min(axis=1), rtol=1e-9, atol=1e-9)

    from scipy.stats import multivariate_normal

    weights, means, covariances = mixture_start(case, x, u)
    joint = np.stack(
        [w * multivariate_normal(m, c).pdf(x) for w, m, c in zip(weights, means, covariances, strict=True)]
    )
    resp = joint / joint.sum(axis=0)
    mean_loss, (new_weights, new_means, new_covariances) = mixture_pass((weights, means, covariances), x, "full")
    np.testing.assert_allclose(mean_loss, np.log(joint.sum(axis=0)).mean(), rtol=1e-10)
    np.testing.assert_allclose(new_weights, resp.mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(new_means, resp @ x / resp.sum(axis=1)[:, None], rtol=1e-9, atol=1e-12)
    for k in range(2):
        scatter = np.cov(x.T, aweights=resp[k], bias=True) + 1e-6 * np.eye(3)
        np.testing.assert_allclose(new_covariances[k], scatter, rtol=1e-8, atol=1e-10)


def test_a_target_is_judged_by_its_own_figure():
    own = targets.row("memory", "", "1,1,1", "", "", unit="", own=(80, 95), target=targets.MEMORY["kmeans"])
    assert (own["met min"], own["met median"], own["target"]) == ("yes", "no", "≤ 90")
    ratio = targets.row("kmeans", "", "1,1,1", "", "", unit="", own=(1, 1), other=(5, 4), target=targets.Target(5))
    assert (ratio["met min"], ratio["met median"]) == ("yes", "no")
    void = targets.row(
        "kmeans", "", "1,1,1", "", "", unit="", own=(1, 1), other=(9, 9), target=targets.Target(5), fault="x"
    )
    assert (void["met min"], void["met median"]) == ("no", "no")
