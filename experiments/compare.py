"""Solvers on the same problem from the same starts: what is run, timed, tabled and drawn."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from experiments import report
from jaxmix import Data, Fit, Problem, Solver, Status, solve


class Case(NamedTuple):
    """A model on a data set: a row of the experiment. Every method of its model runs on it."""

    name: str
    model: str
    loss_name: str
    problem: Problem
    data: Data
    starts: Any
    scale: float  # the standard deviation of a coordinate: the unit of Adam's steps
    k: int
    best_known: float
    lower_bound: float  # NaN where none is known
    unit: float  # what excess loss is counted in: the rows, or NaN for the best loss itself
    reached: float  # a restart has reached the best known loss within this much, in that unit
    tolerance: dict[str, Any]  # of the solvers that end by themselves
    source: str


class Method(NamedTuple):
    """A solver and the rates that it may choose from; one NaN where there is nothing to tune."""

    name: str
    make: Callable[[Any], Solver]
    rates: Callable[[Case], Sequence[float]]
    max_steps: int


class Result(NamedTuple):
    """All restarts of one method on one case."""

    case: Case
    method: Method
    rate: float
    fits: Fit
    seconds: float


class Bench:
    """Runs methods on cases; cases of one shape share what was compiled."""

    def __init__(self) -> None:
        self._programs: dict[tuple[str, str], Callable[..., Fit]] = {}

    def run(self, case: Case, method: Method) -> Result:
        """Times every rate on all starts, and keeps the one with the lowest median loss."""
        name = (case.model, method.name)
        program = self._programs.setdefault(name, jax.jit(lambda *arrays: _fits(case, method, *arrays)))
        results = []
        for number in method.rates(case):
            rate = jnp.asarray(number, case.data.x.dtype)
            if not results:
                program(rate, case.starts, case.data)  # compiles
            seconds, fits = _timed(program, rate, case.starts, case.data)
            results.append(Result(case, method, float(rate), fits, seconds))
        return min(results, key=lambda result: np.median(np.nan_to_num(result.fits.loss, nan=np.inf, posinf=np.inf)))


def _timed(program: Callable[..., Fit], *arrays: Any) -> tuple[float, Fit]:
    """Seconds and fits; the fastest of three where that costs little, since machines are noisy."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        fits = jax.block_until_ready(program(*arrays))
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 3 or seconds[0] > 0.5:
            return min(seconds), fits


def _fits(case: Case, method: Method, rate: Array, starts: Any, data: Data) -> Fit:
    solver = method.make(rate)
    return solve.run_many(case.problem, solver, starts, data, max_steps=method.max_steps, **case.tolerance)


def excess(case: Case, loss: Any, best_known: float) -> np.ndarray:
    """How far losses lie above the best known, in the case's unit."""
    unit = best_known if np.isnan(case.unit) else case.unit
    return (np.asarray(loss, float) - best_known) / unit


def table_row(result: Result, best_known: float, em: Result) -> dict[str, Any]:
    """One line of the table; `em` is what each restart is compared with."""
    case, fits = result.case, result.fits
    loss, status = np.asarray(fits.loss, float), np.asarray(fits.status)
    finite = loss[np.isfinite(loss)]
    worse = excess(case, loss, best_known) > excess(case, em.fits.loss, best_known) + case.reached
    return {
        "model": case.model,
        "data": case.name,
        "solver": result.method.name,
        "rate": result.rate,
        "best": float(finite.min()),
        "median": float(np.median(finite)),
        "worst": float(finite.max()),
        "reached best": float(np.mean(excess(case, loss, best_known) <= case.reached)),
        "below EM": int(worse.sum()),
        "failed": int((status == Status.NONFINITE).sum()),
        "out of steps": float(np.mean(status == Status.MAX_STEPS)),
        "above bound": float(finite.min() / case.lower_bound - 1) if case.lower_bound > 0 else float("nan"),
        "steps": float(np.median(fits.num_steps)),
        "passes": float(np.median(fits.num_passes)),
        "seconds": result.seconds,
        "ended": ", ".join(f"{(status == s).sum()} {Status(s).name.lower()}" for s in np.unique(status)),
    }


def curves(result: Result, best_known: float) -> tuple[np.ndarray, np.ndarray]:
    """Passes of shape (T,), and excess loss of shape (R, T): a restart that has ended keeps its last loss."""
    trace = np.asarray(result.fits.trace, float)
    longest = int(np.max(result.fits.num_steps))
    per_step = float(np.max(result.fits.num_passes)) / max(longest, 1)
    gaps = excess(result.case, trace[:, : longest + 1], best_known)
    return per_step * np.arange(longest + 1), np.maximum(gaps, 0)


def draw_curves(
    results: Sequence[Result], best_known: dict[str, float], *, ylabel: str, floor: float, wall: bool = False
) -> Figure:
    """Excess loss against passes, a panel for each case, restarts thin, their median thick; below it, wall time."""
    cases = list(dict.fromkeys(result.case.name for result in results))
    names = list(dict.fromkeys(result.method.name for result in results))
    height = 6.4 if wall else 3.6
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(
            1 + wall, len(cases), figsize=(3.1 * len(cases) + 0.3, height), sharey=True, squeeze=False
        )
        for column, case in zip(axes.T, cases, strict=True):
            shown = [result for result in results if result.case.name == case]
            for order, result in enumerate(shown):
                color = report.COLORS[names.index(result.method.name)]
                passes, gaps = curves(result, best_known[case])
                gaps = np.maximum(gaps, floor)
                # The start is drawn at one pass: a logarithmic axis has no zero.
                column[0].plot(1 + passes, gaps.T, color=color, alpha=0.13, linewidth=0.6)
                line = {"color": color, "linewidth": 2.0, "zorder": 5 + order, "label": result.method.name}
                column[0].plot(1 + passes, np.median(gaps, axis=0), **line)
                if wall:
                    milliseconds = 1e3 * result.seconds * np.arange(1, len(passes) + 1) / len(passes)
                    column[1].plot(milliseconds, np.median(gaps, axis=0), **line)
            first = shown[0].case
            column[0].set(xscale="log", yscale="log", ylim=(floor * 0.8, None), xlabel="1 + passes over the data")
            column[0].set_title(f"{case}: N = {first.data.x.shape[0]}, D = {first.data.x.shape[1]}, K = {first.k}")
            if wall:
                column[1].set(xscale="log", yscale="log", xlabel="milliseconds, all restarts together")
        for row in axes:
            row[0].set_ylabel(ylabel)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 8))
        figure.set_layout_engine("constrained")
    return figure


def way(case: Case, solver: Solver, start: Any, num_steps: int) -> Any:
    """The parameters after 0, 1, ..., num_steps steps."""

    @jax.jit
    def walk(start: Any, data: Data) -> Any:
        objective = solve.make_objective(case.problem, start, data)

        def body(state: Any, _: None) -> tuple[Any, Any]:
            return solver.step(objective, state)[0], solver.params(objective, state)

        return jax.lax.scan(body, solver.init(objective, start), None, length=num_steps + 1)[1]

    return walk(start, case.data)
