"""Rows of the benchmark that time steps: jaxmix against its peers, a step against a larger one, and their accuracy."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import jax.numpy as jnp

from experiments import targets
from experiments.peers import TITLES, contenders
from experiments.processes import served
from experiments.timing import Contender, Times, best_threads, race
from experiments.workloads import Case, Judge, rows

NAMES = {
    "kmeans": "K-means",
    "full": "mixture, full",
    "tied": "mixture, tied",
    "diagonal": "mixture, diagonal",
    "spherical": "mixture, spherical",
}
MILLI = 1e3


def race_rows(
    case: Case,
    peers: Sequence[str],
    *,
    rounds: int,
    budget: float,
    timeout: float,
    extra: Sequence[Contender] = (),
) -> list[dict[str, Any]]:
    """A row for each peer: milliseconds a pass of the same steps from the same start.

    Args:
      case: what to fit.
      peers: names, of those that are there.
      rounds: the most turns each.
      budget: seconds after which no turn begins, once there were two.
      timeout: seconds for one answer of a peer that runs in a process of its own.
      extra: more contenders, judged as the others are.
    """
    x = rows(case)
    judge = Judge(case, x)
    own = jnp.asarray(x)
    with ExitStack() as stack:
        racers = contenders(case, x, "jaxmix", ours=own)
        for name in peers:
            if name == "gmmx":
                # It has been seen to dead-lock.
                child, contender = served(case, name, timeout=timeout)
                stack.enter_context(child)
                racers.append(contender)
            else:
                racers += contenders(case, x, name, ours=own)
        racers += extra
        times, lost = race(racers, rounds=rounds, budget=budget)
    names = dict.fromkeys(racer.name for racer in racers[1:])
    return [_row(case, judge, name, times, lost) for name in names]


def _row(case: Case, judge: Judge, name: str, times: list[Times], lost: dict[str, str]) -> dict[str, Any]:
    own, other = best_threads(times, "jaxmix"), best_threads(times, name)
    faults, notes = [], []
    for title, found in (("jaxmix", own), (name, other)):
        if found is None:
            faults.append(f"{title}: {lost.get(title, 'did not end')}")
            continue
        verdict = judge.verdict(found[2].outcome)
        faults += [f"{title}: {verdict}"] if verdict else []
        if found[2].outcome.steps != case.steps:
            notes.append(f"{title} ended after {found[2].outcome.steps} steps")
    if own and other and own[2].outcome.passes != other[2].outcome.passes:
        notes.append(f"{own[2].outcome.passes} passes, peer {other[2].outcome.passes}")
    return targets.row(
        "kmeans" if case.model == "kmeans" else "gmm",
        NAMES[case.model],
        case.size,
        case.data,
        TITLES.get(name, name),
        unit="ms a pass",
        own=scaled(own),
        other=scaled(other),
        threads=(other[2].contender.threads or "") if other else "",
        steps=case.steps,
        target=targets.of_steps(case, name),
        fault="; ".join(faults),
        note="; ".join(notes),
    )


def scaled(found: tuple[float, float, Times] | None) -> tuple[float, float]:
    """The minimum and the median of `best_threads`, in milliseconds."""
    return targets.NONE if found is None else (MILLI * found[0], MILLI * found[1])


def growth_row(small: Case, large: Case, what: str, *, rounds: int, budget: float) -> dict[str, Any]:
    """How much longer a pass of a case takes than one of a tenth of its size."""
    racers, faults = [], []
    for name, case in (("small", small), ("large", large)):
        x = rows(case)
        racers.append(contenders(case, x, "jaxmix")[0]._replace(name=name))
    times, lost = race(racers, rounds=rounds, budget=budget)
    found = {name: best_threads(times, name) for name in ("small", "large")}
    for name, case in (("small", small), ("large", large)):
        entry = found[name]
        # A rate that rose or a fit that ended early would not be a step's time.
        if entry is None or not jnp.isfinite(entry[2].outcome.loss):
            faults.append(f"{case.size}: {lost.get(name, 'not finite')}")
    return targets.row(
        "scaling",
        f"{NAMES[small.model]}, {what}",
        small.size,
        small.data,
        f"jaxmix at {large.size.replace(',', ', ')}",
        unit="ms a pass",
        own=scaled(found["small"]),
        other=scaled(found["large"]),
        steps=small.steps,
        target=targets.GROWTH,
        fault="; ".join(faults),
    )


def accuracy_row(case: Case) -> dict[str, Any]:
    """The errors of float32 against the same steps in float64, as shares of what is allowed."""
    x = rows(case)
    judge = Judge(case, x)
    contender = contenders(case, x, "jaxmix")[0]
    outcome = contender.read(contender.fit())
    errors = judge.errors(outcome)
    said = ", ".join(f"{name} off by {error:.1e}" for name, error in errors.items())
    where = f", {case.offset:g} standard deviations from the origin" if case.offset else ""
    worst = max(
        errors.get("objective", 0.0) / judge.objective,
        errors.get("covariances", 0.0) / judge.covariance,
    )
    return targets.row(
        "accuracy",
        NAMES[case.model] + where,
        case.size,
        case.data,
        "NumPy, float64",
        unit="share of the error allowed",
        own=(worst, worst),
        steps=case.steps,
        target=targets.Target(1, "own", most=True),
        fault="" if not judge.verdict(outcome) else judge.verdict(outcome),
        note=said,
    )


def at_offset(case: Case) -> Case:
    """The same rows, 100 standard deviations from the origin."""
    return dataclasses.replace(case, offset=100.0)
