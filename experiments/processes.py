"""The parent's side of jobs that run in a process of their own: nothing here can hang the benchmark.

Jobs that may dead-lock, that are measured by process (memory, first calls), or that must start cold are done by
`experiments.child`.
"""

import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.timing import Contender, LostError
from experiments.workloads import Case, Outcome

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
