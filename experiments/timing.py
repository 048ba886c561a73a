"""Contenders timed in turns: what a neighbor on the machine takes away, it takes from all of them."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from experiments.workloads import Outcome

REST = 0.02
"""Seconds between two contenders: threads of OpenMP and BLAS spin for a while after their work is done."""
SLOWER = 1.3
"""A number of threads that is slower than another by this at the warm-up does not race."""


class LostError(RuntimeError):
    """A contender that failed, or gave no answer in time."""


class Contender(NamedTuple):
    """One way to do the job.

    Attributes:
      name: of the library.
      threads: how many it is told to use; 0 where it is told nothing.
      fit: does the job, and waits for its end.
      read: what `fit` returned as an `Outcome`; not timed.
      limits: a context in which `fit` has that many threads; entered outside the clock.
      clock: times `fit` instead of the caller, where the call itself costs.
    """

    name: str
    threads: int
    fit: Callable[[], Any]
    read: Callable[[Any], Outcome]
    limits: Callable[[], AbstractContextManager] = nullcontext
    clock: Callable[[], float] | None = None


class Times(NamedTuple):
    """What a contender took: seconds a pass, or a whole fit where passes are 1."""

    contender: Contender
    outcome: Outcome
    seconds: list[float]

    @property
    def least(self) -> float:
        """The minimum."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.seconds))


def clocked(contender: Contender, repeats: int = 1) -> float:
    """Seconds of one call, over some calls in a row."""
    with contender.limits():
        time.sleep(REST)
        begin = time.perf_counter()
        if contender.clock is not None:
            return float(np.mean([contender.clock() for _ in range(repeats)]))
        for _ in range(repeats):
            contender.fit()
        return (time.perf_counter() - begin) / repeats


def race(
    contenders: Sequence[Contender], *, rounds: int, budget: float, by_pass: bool = True
) -> tuple[list[Times], dict[str, str]]:
    """Each contender warmed up, so that it has compiled, and then timed in turns.

    Args:
      contenders: who races; those of one name differ in their threads.
      rounds: the most turns each.
      budget: seconds after which no round begins, once there were two.
      by_pass: whether seconds are divided by the contender's own number of passes.

    Returns:
      The times of those that ended, and what happened to the others, by name.
    """
    lost: dict[str, str] = {}
    outcomes: dict[int, Outcome] = {}
    first: dict[int, float] = {}
    for i, contender in enumerate(contenders):
        try:
            with contender.limits():
                outcomes[i] = contender.read(contender.fit())
            first[i] = clocked(contender)
        except Exception as error:  # a peer may raise anything: it costs its own row, and no other
            lost[contender.name] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    seconds: dict[int, list[float]] = {}
    for i in outcomes:
        same = [first[j] for j in first if contenders[j].name == contenders[i].name]
        if i in first and first[i] <= SLOWER * min(same):
            seconds[i] = []
    # A call of a millisecond is below what a round can tell.
    repeats = {i: int(np.clip(REST / max(first[i], 1e-6), 1, 50)) for i in seconds}
    begin = time.perf_counter()
    for turn in range(rounds):
        order = list(seconds)
        if not order or (turn >= 2 and time.perf_counter() - begin > budget):
            break
        for i in order[turn % len(order) :] + order[: turn % len(order)]:
            try:
                seconds[i].append(clocked(contenders[i], repeats[i]) / (outcomes[i].passes if by_pass else 1))
            except Exception as error:
                lost[contenders[i].name] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                del seconds[i]
    return [Times(contenders[i], outcomes[i], taken) for i, taken in seconds.items()], lost


def best_threads(times: Sequence[Times], name: str) -> tuple[float, float, Times] | None:
    """Of one contender the least minimum and the least median over its numbers of threads, and the latter's times."""
    own = [entry for entry in times if entry.contender.name == name]
    if not own:
        return None
    chosen = min(own, key=lambda entry: entry.median)
    return min(entry.least for entry in own), chosen.median, chosen
