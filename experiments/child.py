"""Jobs that need a process of their own, and the parent's side of them: nothing here can hang the benchmark.

`python -m experiments.child '{"task": ..., ...}'` answers in lines of JSON. What may dead-lock, what is measured by
process (memory, first calls) and what must start cold runs here.
"""

import ctypes
import dataclasses
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.timing import Contender, LostError
from experiments.workloads import Case, Outcome, rows

ROOT = Path(__file__).parent.parent


class Child:
    """A process that answers in lines of JSON, or is lost.

    Args:
      job: its task and what that needs.
      environment: what is added to the environment.
      timeout: seconds to wait for one answer.
    """

    def __init__(self, job: Mapping[str, Any], *, timeout: float, environment: Mapping[str, str] | None = None):
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.timeout = timeout
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.child", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                stream.close()

    def ask(self, word: str | None = None) -> Any:
        """Sends a word, if there is one, and waits for a line.

        Raises:
          LostError: where none comes in time, or the process ends.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if word is not None:
                self.process.stdin.write(f"{word}\n".encode())
                self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], self.timeout)
            line = self.process.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready, line = [True], b""
        if not ready:
            self.process.kill()
            raise LostError(f"no answer within {self.timeout:g} s")
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().splitlines()
            raise LostError(f"ended with {self.process.returncode}: {last[-1] if last else 'no word'}")
        return json.loads(line)


def answer(task: str, *, timeout: float, environment: Mapping[str, str] | None = None, **job: Any) -> Any:
    """What a new process answers to one task."""
    with Child({"task": task, **job}, timeout=timeout, environment=environment) as child:
        return child.ask()


def served(case: Case, name: str, *, timeout: float) -> tuple[Child, Contender]:
    """A contender in a process of its own, with a clock of its own: one that may hang."""
    child = Child({"task": "serve", "case": dataclasses.asdict(case), "name": name}, timeout=timeout)

    def read(done: Any) -> Outcome:
        params = tuple(np.asarray(part) for part in done["params"])
        return Outcome(params, float("nan"), None, done["steps"], done["passes"])

    return child, Contender(name, 0, lambda: child.ask("read"), read, clock=lambda: child.ask("time"))


def _serve(case: Case, name: str, say: Callable[[Any], None]) -> None:
    from experiments.peers import contenders

    contender = contenders(case, rows(case), name)[0]
    for line in sys.stdin:
        if line.strip() == "read":
            outcome = contender.read(contender.fit())
            say({"params": [p.tolist() for p in outcome.params], "steps": outcome.steps, "passes": outcome.passes})
        else:
            begin = time.perf_counter()
            contender.fit()
            say(time.perf_counter() - begin)


def _fit(case: Case, name: str, say: Callable[[Any], None]) -> None:
    from experiments.peers import contenders

    contender = contenders(case, rows(case), name)[0]
    losses = [contender.read(contender.fit()).loss for _ in range(2)]
    say({"loss": losses[0], "finite": bool(np.isfinite(losses).all())})


def _memory(case: Case, name: str, compiled: bool, say: Callable[[Any], None]) -> None:
    from experiments.peers import contenders, start

    x: Any = rows(case)
    if name in ("jaxmix", "ott"):
        import jax

        x = jax.block_until_ready(jax.numpy.asarray(x))
    host = np.asarray(x)
    fit = contenders(case, host, name, ours=x)[-1].fit
    start(case, host)
    if compiled:
        fit()
    before, how = _forget_peak()
    fit()
    say({"mebibytes": (_peak() - before) / 2**10, "how": how})


def _forget_peak() -> tuple[float, str]:
    """Resident kibibytes now, with the peak set back to it where the system can."""
    if sys.platform == "linux":
        # What the allocator holds back would hide as much of the peak.
        ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            return _peak(), "VmHWM, set back before the fit"
        except OSError:
            pass
    return _peak(), "ru_maxrss, not set back"


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "darwin" else 1)


def _first(case: Case, say: Callable[[Any], None]) -> None:
    import jax

    from jaxmix import gmm, kmeans

    x = jax.block_until_ready(jax.numpy.asarray(rows(case)))
    key = jax.block_until_ready(jax.random.key(0))
    fit: Any = kmeans.fit if case.model == "kmeans" else gmm.fit
    taken = []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(fit(key, x, case.k))
        taken.append(time.perf_counter() - begin)
    say(taken)


def main(job: dict[str, Any]) -> None:
    """Does a job, and says the answer on what was standard output; whatever else prints, prints to the errors."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: Any) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    task = job.pop("task")
    if "case" in job:
        job["case"] = Case(**job["case"])
    if task == "sweep":
        from experiments.restarts import cold_sweep

        say(cold_sweep(**job))
    else:
        {"serve": _serve, "fit": _fit, "memory": _memory, "first": _first}[task](**job, say=say)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
