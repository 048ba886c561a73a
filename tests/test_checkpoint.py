"""Fits in segments end as one program does, and with the same bits wherever they were stopped."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, SOLVERS, blobs

from jaxmix import Checkpoint, Status, Stream, io, kmeans, solve
from jaxmix.solve import segments

X = blobs(300, 3, 4)
STARTS = jnp.asarray(X[:12].reshape(3, 4, 3))
FIXED: dict[str, Any] = {"max_steps": 12}


class Stopped(Exception):  # noqa: N818
    pass


def stopping(after):
    """A `progress` that raises at a call, as a kill between two segments would."""
    calls = iter(range(after + 1))

    def progress(report):
        if next(calls) == after:
            raise Stopped

    return progress


@pytest.mark.parametrize("problem", ["kmeans_blocks", pytest.param("gmm_full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_stopped_and_goes_on_with_the_same_bits(problem, solver, tmp_path):
    case, chosen = PROBLEMS[problem](), SOLVERS[solver].solver

    def run(name, progress=None):
        checkpoint = Checkpoint(tmp_path / name, every=2, progress=progress)
        return solve.run(case.problem, chosen, case.start, case.data, checkpoint=checkpoint, max_steps=6)

    whole = run("whole")
    with pytest.raises(Stopped):
        run("stopped", stopping(1))
    found = run("stopped")
    jax.tree.map(np.testing.assert_array_equal, found, whole)
    plain = solve.run(case.problem, chosen, case.start, case.data, max_steps=6)
    np.testing.assert_allclose(found.loss, plain.loss, rtol=1e-7)
    assert (found.status, found.num_steps, found.num_passes) == (plain.status, plain.num_steps, plain.num_passes)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_many_starts_go_on_where_they_were(after, tmp_path):
    def run(path, progress=None):
        checkpoint = Checkpoint(path, every=1, progress=progress)
        return solve.run_many(kmeans.KMeans(), solve.EM(), STARTS, X, checkpoint=checkpoint, **FIXED)

    whole = run(None)
    with pytest.raises(Stopped):
        run(tmp_path / "fits", stopping(after))
    reports = []
    found = run(tmp_path / "fits", reports.append)
    jax.tree.map(np.testing.assert_array_equal, found, whole)
    assert len(reports) < whole.num_steps.sum()
    # The file stays, and holds the fits.
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "fits", stopping(0)), whole)
    plain = solve.run_many(kmeans.KMeans(), solve.EM(), STARTS, X, **FIXED)
    np.testing.assert_allclose(found.loss, plain.loss, rtol=1e-12)


def test_a_stream_goes_on_too(tmp_path):
    def run(progress=None):
        checkpoint = Checkpoint(tmp_path / "fit", every=2, progress=progress)
        return solve.run(kmeans.KMeans(), solve.EM(), STARTS[1], Stream(X), checkpoint=checkpoint)

    with pytest.raises(Stopped):
        run(stopping(1))
    plain = solve.run(kmeans.KMeans(), solve.EM(), STARTS[1], X)
    found = run()
    np.testing.assert_allclose(found.loss, plain.loss, rtol=1e-12)
    assert found.num_steps == plain.num_steps > 2


def test_reports_say_how_far_a_fit_is():
    reports = []
    checkpoint = Checkpoint(every=2, progress=reports.append)
    fits = solve.run_many(kmeans.KMeans(), solve.EM(), STARTS, X, checkpoint=checkpoint)
    assert [r.index for r in reports] == sorted(r.index for r in reports)
    assert {r.num_starts for r in reports} == {3}
    for index in range(3):
        own = [r for r in reports if r.index == index]
        assert [r.num_steps for r in own[:-1]] == list(range(2, 2 * len(own), 2))
        assert own[-1].num_steps == own[-1].num_passes == fits.num_steps[index]
        assert all(a.loss >= b.loss for a, b in itertools.pairwise(own))
        assert own[-1].statuses == ({"CONVERGED": index} if index else {})
    assert all(r.rows_per_second > 0 for r in reports)
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(reports))


def test_a_fit_ends_in_time_and_goes_on_later(tmp_path, monkeypatch):
    def run(**settings):
        checkpoint = Checkpoint(tmp_path / "fits", every=1, **settings)
        return solve.run_many(kmeans.KMeans(), solve.EM(), STARTS, X, checkpoint=checkpoint)

    none = run(max_seconds=0.0)
    assert (none.status == Status.MAX_SECONDS).all()
    assert (none.num_steps == 0).all()
    for start, loss in zip(STARTS, none.loss, strict=True):
        np.testing.assert_allclose(loss, kmeans.objective(start, X), rtol=1e-12)

    some = run(max_seconds=1e6)
    assert (some.status == Status.CONVERGED).all()
    (tmp_path / "fits").unlink()
    # By a clock of its own: a second passes in each segment.
    now = [0.0]
    monkeypatch.setattr(segments.time, "monotonic", lambda: now[0])
    late = run(max_seconds=0.5, progress=lambda report: now.append(now.pop() + 1))
    assert late.status.tolist() == [Status.MAX_SECONDS] * 3
    assert late.num_steps.tolist() == [1, 0, 0]
    jax.tree.map(np.testing.assert_array_equal, run(), some)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", lambda a: {**a, "data": X + 1}),
        ("weights", lambda a: {**a, "data": Stream(X, weights=1.0 + np.arange(300) % 2)}),
        ("start", lambda a: {**a, "params": STARTS[1]}),
        ("solver", lambda a: {**a, "solver": solve.Squarem()}),
        ("problem", lambda a: {**a, "problem": kmeans.KMeans(empty="keep")}),
        ("tolerance", lambda a: {**a, "rtol": 1e-3}),
    ],
)
def test_the_file_of_another_fit_is_refused(name, change, tmp_path):
    given = {"problem": kmeans.KMeans(), "solver": solve.EM(), "params": STARTS[0], "data": X, "rtol": 0.0}
    checkpoint = Checkpoint(tmp_path / "fit")
    solve.run(**given, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="is of another fit"):
        solve.run(**change(given), checkpoint=checkpoint)


def test_what_is_no_checkpoint_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="`every` must be a Python integer of at least 1"):
        Checkpoint(every=0)
    with pytest.raises(ValueError, match="`path` must be a path or None, got 3"):
        Checkpoint(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`checkpoint` must be a `jaxmix\.Checkpoint` or None, got 'file'"):
        solve.run(kmeans.KMeans(), solve.EM(), STARTS[0], X, checkpoint="file")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`max_seconds` must be at least 0, or None, got -1"):
        Checkpoint(max_seconds=-1)
    with pytest.raises(ValueError, match="is for the host"):
        jax.jit(lambda s: solve.run(kmeans.KMeans(), solve.EM(), s, X, checkpoint=Checkpoint()).loss)(STARTS[0])
    (tmp_path / "other").write_text("nothing")
    with pytest.raises(io.LoadError, match="no safetensors file"):
        solve.run(kmeans.KMeans(), solve.EM(), STARTS[0], X, checkpoint=Checkpoint(tmp_path / "other"))


KILLED = """
import sys, hashlib
import jax, numpy as np
from jaxmix import Checkpoint, gmm, solve
x = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
starts = gmm.start.from_centers(x[:4], x)
starts = jax.tree.map(lambda leaf: np.stack([leaf * (1 + 0.01 * i) for i in range(6)]), starts)
checkpoint = Checkpoint(sys.argv[1], every=3, progress=lambda report: print("step", flush=True))
fits = solve.run_many(gmm.GaussianMixture(), solve.EM(), starts, x, max_steps=60, checkpoint=checkpoint)
print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(fits))).hexdigest())
"""


@pytest.mark.slow
def test_a_process_that_is_killed_ends_with_the_same_bits_when_started_again(tmp_path):
    def start(path):
        command = [sys.executable, "-c", KILLED, str(path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)

    whole = start(tmp_path / "whole").communicate()[0].split()
    random, steps, done = np.random.default_rng(1), whole.count("step"), 0
    assert steps > 60
    for _ in range(10):
        process = start(tmp_path / "killed")
        assert process.stdout is not None
        for _ in range(int(random.integers(1, 6))):
            process.stdout.readline()
            done += 1
        time.sleep(float(random.uniform(0, 0.01)))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    again = start(tmp_path / "killed").communicate()[0].split()
    assert re.fullmatch("[0-9a-f]{64}", again[-1])
    assert again[-1] == whole[-1]
    assert again.count("step") <= steps - done
