"""Rows of the benchmark that are measured by process: memory, imports, first calls, and fits that must not hang."""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import targets
from experiments.peers import OF_KMEANS, TITLES
from experiments.processes import ROOT, LostError, answer
from experiments.races import NAMES
from experiments.workloads import Case

IMPORTS = {"jaxmix": "jaxmix", "sklearn": "sklearn.cluster", "jax": "jax.numpy"}


def memory_rows(
    case: Case, peers: Sequence[str], *, repeats: int, timeout: float, both: bool = True
) -> list[dict[str, Any]]:
    """Peak resident memory of a fit beyond what the process held before it: its libraries, and x.

    Of the first fit, which compiles, and, for `both`, of the second.
    """
    able = [name for name in peers if name in (OF_KMEANS if case.model == "kmeans" else ("sklearn",))]
    table = []
    for compiled in (False, True) if both else (False,):
        taken: dict[str, list[float]] = {}
        faults: dict[str, str] = {}
        how = ""
        for name in ("jaxmix", *able):
            try:
                job = {"case": dataclasses.asdict(case), "name": name, "compiled": compiled}
                answers = [answer("memory", timeout=timeout, **job) for _ in range(repeats)]
                taken[name], how = [a["mebibytes"] for a in answers], answers[0]["how"]
            except LostError as error:
                faults[name] = str(error)
        for name in able or [""]:
            table.append(
                targets.row(
                    "memory",
                    f"{NAMES[case.model]}, {'second' if compiled else 'first'} fit",
                    case.size,
                    case.data,
                    TITLES.get(name, name),
                    unit="MiB beyond x",
                    own=_pair(taken.get("jaxmix")),
                    other=_pair(taken.get(name)),
                    steps=case.steps,
                    target=targets.MEMORY[case.model] if case.n == 10**6 else None,
                    fault="; ".join(f"{who}: {why}" for who, why in faults.items() if who in ("jaxmix", name)),
                    note=f"{how}; {'compiled before' if compiled else 'compilation included'}",
                )
            )
    return table


def import_rows(peers: Sequence[str], *, repeats: int) -> list[dict[str, Any]]:
    """Seconds of an import in a fresh process, in turns."""
    modules = {name: module for name, module in IMPORTS.items() if name != "sklearn" or name in peers}
    taken: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(repeats):
        for name, module in modules.items():
            code = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
                env={**os.environ, "PYTHONPATH": path},
            )
            taken[name].append(float(done.stdout.split()[-1]))
    return [
        targets.row(
            "first-call",
            "import",
            "",
            "",
            IMPORTS[name],
            unit="s",
            own=_pair(taken["jaxmix"]),
            other=_pair(taken[name]),
            target=targets.IMPORT,
        )
        for name in modules
        if name != "jaxmix"
    ]


def first_call_rows(case: Case, *, repeats: int, timeout: float, cached: bool = True) -> list[dict[str, Any]]:
    """Seconds of the first default fit minus those of the second, without and with JAX's persistent cache filled.

    Only without, unless `cached`.
    """
    table = []
    with tempfile.TemporaryDirectory() as folder:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        job = {"case": dataclasses.asdict(case)}
        ways: list[tuple[str, dict[str, str]]] = [("no cache", {}), ("persistent cache", cache)]
        for title, environment in ways if cached else ways[:1]:
            fault, taken = "", []
            try:
                if environment:
                    answer("first", timeout=timeout, environment=environment, **job)
                    if not any(Path(folder).iterdir()):
                        fault = "the cache stayed empty"
                for _ in range(repeats):
                    first, second = answer("first", timeout=timeout, environment=environment, **job)
                    taken.append(first - second)
            except LostError as error:
                fault = str(error)
            table.append(
                targets.row(
                    "first-call",
                    f"first minus second call of {'kmeans' if case.model == 'kmeans' else 'gmm'}.fit, {title}",
                    case.size,
                    case.data,
                    "",
                    unit="s",
                    own=_pair(taken),
                    target=None if environment else targets.FIRST_CALL[case.model],
                    fault=fault,
                )
            )
    return table


def stress_row(case: Case, *, repeats: int, timeout: float) -> dict[str, Any]:
    """How many of many processes hung or failed: each makes the rows and fits them twice."""
    hung, failed, losses = [], [], []
    for _ in range(repeats):
        try:
            got = answer("fit", timeout=timeout, case=dataclasses.asdict(case), name="jaxmix")
            losses.append(got["loss"])
            if not got["finite"]:
                failed.append("not finite")
        except LostError as error:
            (hung if "no answer" in str(error) else failed).append(str(error))
    spread = (max(losses) - min(losses)) / abs(losses[0]) if losses else targets.NAN
    bad = len(hung) + len(failed)
    return targets.row(
        "stress",
        NAMES[case.model],
        case.size,
        case.data,
        "",
        unit=f"of {repeats} processes hung or failed",
        own=(bad, bad),
        steps=case.steps,
        target=targets.Target(0, "own", most=True),
        fault="" if not bad else f"{len(hung)} hung, {len(failed)} failed: {(hung + failed)[0]}",
        note=f"losses differ by {spread:.1e}; time-out {timeout:g} s",
    )


def _pair(values: list[float] | None) -> tuple[float, float]:
    return (min(values), float(np.median(values))) if values else targets.NONE
