"""An unfinished run keeps what it has, ends at Ctrl-C within a second, and goes on from there."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import report

CALLS = []


def square(number):
    CALLS.append(number)
    if number == 2 and len(CALLS) == 3:
        raise RuntimeError("the third call fails")
    return number**2


def test_a_second_start_goes_on_behind_the_last_result_and_a_third_begins_anew(tmp_path, capsys):
    CALLS.clear()

    def run():
        with report.Kept(tmp_path) as kept:
            return [kept(square, number) for number in range(4)]

    with pytest.raises(RuntimeError, match="third"):
        run()
    assert run() == [0, 1, 4, 9]
    assert CALLS == [0, 1, 2, 2, 3]
    assert "Going on" in capsys.readouterr().out
    assert run() == [0, 1, 4, 9]
    assert len(CALLS) == 9
    assert "Going on" not in capsys.readouterr().out


BUSY = """
import signal, sys, jax, jax.numpy as jnp
from pathlib import Path
from experiments import report

# As on a terminal: what a shell runs in the background ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

def first():
    return 1

def endless():
    return float(jax.jit(lambda: jax.lax.while_loop(lambda x: x < 2, lambda x: jnp.sin(x), 1.0))())

with report.Kept(Path(sys.argv[1])) as kept:
    kept(first)
    print("started", flush=True)
    kept(endless)
"""


def test_ctrl_c_ends_a_compiled_program_and_keeps_what_was_done(tmp_path):
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(2)  # long enough to be inside the loop
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        rest, _ = process.communicate(timeout=30)
        assert time.perf_counter() - start < 5  # a second, and room for a busy machine
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Interrupted" in rest
    assert list((tmp_path / "unfinished").rglob("output.pkl"))
