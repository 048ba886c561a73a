"""Fits of rows that two processes have, connected over the loopback interface."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import blobs
from jax.sharding import AxisType

from jaxmix import as_data, as_distributed, gmm, kmeans, solve

X = blobs(901, 3, 4, seed=2, spread=3.0)
WEIGHTS = 1.0 + np.arange(len(X)) % 3
KEY = jax.random.key(0)


def start(task: str, file: Path) -> list[subprocess.Popen]:
    """Both processes."""
    np.save(f"{file}.rows.npy", X)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(root), str(root.parent), os.environ.get("PYTHONPATH", "")])
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return [
        subprocess.Popen(
            [sys.executable, str(root / "processes.py"), str(number), str(port), task, str(file)],
            env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths, "JAX_ENABLE_X64": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def outputs(processes: list[subprocess.Popen]) -> list[str]:
    found = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], found[0][1][-2000:] + found[1][1][-2000:]
    return [output for output, _ in found]


def test_two_processes_with_unequal_rows_have_the_fit_of_one(tmp_path):
    printed = outputs(start("fits", tmp_path / "fit"))
    # 701 rows, up to a multiple of 32, in each.
    assert [line for each in printed for line in each.splitlines() if line.startswith("(")] == ["(1408, 3)"] * 2
    first, second = (
        {path.name.split(".")[2]: np.load(path) for path in tmp_path.glob(f"fit.{number}.*.npy")} for number in range(2)
    )
    for name in ("kmeans", "gmm", "ordered", "written", "read", "centers"):
        np.testing.assert_array_equal(first[name], second[name])
    data = as_data(X, WEIGHTS)
    one = solve.run(kmeans.KMeans(), solve.EM(), X[:4], data)
    for name in ("ordered", "written", "read"):
        np.testing.assert_allclose(first[name], one.loss, rtol=1e-12)
    # A sample is drawn from other strata, and ends at the same optimum.
    best = kmeans.fit_restarts(KEY, X, 4, weights=WEIGHTS, restarts=5)
    np.testing.assert_allclose(first["kmeans"], best.loss.min(), rtol=1e-12)
    np.testing.assert_allclose(first["gmm"].min(), gmm.fit(KEY, X, 4, weights=WEIGHTS).loss, rtol=0.02)
    labels = np.concatenate([first["labels"], second["labels"]])
    np.testing.assert_array_equal(labels, kmeans.predict(first["centers"], X))
    assert [path.name for path in tmp_path.glob("fit*") if path.suffix != ".npy"] == ["fit"]


def test_what_one_process_rejects_all_do(tmp_path):
    first, second = outputs(start("rejected", tmp_path / "none"))
    assert "The rows of process 1 are not valid: see the error that it raised." in first
    assert "these rows hold NaN or infinity: 0, 1, 2" in second
    for each in (first, second):
        assert "but the features are 2 float64 on 1, 3 float64 on 1" in each


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_an_error(tmp_path):
    processes = start("forever", tmp_path / "none")
    try:
        for process in processes:
            assert process.stdout is not None
            assert any("begins" in line for line in process.stdout)
        time.sleep(3)
        assert processes[0].poll() is None
        processes[1].kill()
        since = time.monotonic()
        _, errors = processes[0].communicate(timeout=60)
        # The heartbeat is 10 s.
        assert time.monotonic() - since < 40
        assert processes[0].returncode != 0
        assert "Gloo" in errors or "heartbeat" in errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_in_one_process_it_is_data_over_the_mesh():
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    data = as_distributed(X, WEIGHTS, mesh=mesh)
    assert data.x.shape == (960, 3)
    np.testing.assert_array_equal(data.x[:901], X)
    assert len(data.x.sharding.device_set) == 2
    np.testing.assert_allclose(data.weights.sum(), WEIGHTS.sum())
    fit = solve.run(kmeans.KMeans(), solve.EM(), X[:4], data)
    np.testing.assert_allclose(
        fit.loss, solve.run(kmeans.KMeans(), solve.EM(), X[:4], as_data(X, WEIGHTS)).loss, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("mesh", "x", "words"),
    [
        (None, X, "`mesh` of `Sharded` must be a jax.sharding.Mesh"),
        (jax.make_mesh((2,), ("other",), axis_types=(AxisType.Auto,)), X, "must name different axes of its mesh"),
        (jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,)), X[0], "`x` must have shape"),
    ],
)
def test_what_is_not_valid_is_rejected(mesh, x, words):
    with pytest.raises(ValueError, match=words):
        as_distributed(x, mesh=mesh)
