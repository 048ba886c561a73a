"""Jobs that run in a process of their own, started by `experiments.processes`.

`python -m experiments.child '{"task": ..., ...}'` answers in lines of JSON.
"""

import ctypes
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.workloads import Case, rows


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


def _predict(case: Case, compiled: bool, say: Callable[[Any], None]) -> None:
    import jax

    from experiments.inference import mixture_of
    from jaxmix import gmm

    x = rows(case)
    params = jax.block_until_ready(mixture_of(case, x))
    if compiled:
        jax.block_until_ready(gmm.predict(params, x))
    before, how = _forget_peak()
    jax.block_until_ready(gmm.predict(params, x))
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
        {"serve": _serve, "fit": _fit, "memory": _memory, "first": _first, "predict": _predict}[task](**job, say=say)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
