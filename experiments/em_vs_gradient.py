"""Does EM beat gradient descent on the same objective, from the same starts?

Lloyd's algorithm, gradient descent, Adam and mini-batch gradient descent on the K-means cost J, on real data.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from jax import Array
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments import report
from experiments.data import DATA_SETS, DataSet
from jaxmix import Data, Fit, Problem, Solver, Status, as_data, kmeans, seeding, solve

REACHED = 1e-4  # a restart has reached the best known loss within this share of it
SEEDINGS = {"random": seeding.random_rows, "kmeans++": seeding.kmeans_plus_plus, "maximin": seeding.maximin}


@dataclasses.dataclass(frozen=True)
class Options:
    """Lloyd beside gradient descent on the K-means cost J, from the same starts, on real data."""

    smoke: bool = False
    """Two small data sets, few restarts and steps: seconds, to see that all works."""
    seed: int = 0
    """Seeds the starts and the order of the mini-batches."""
    restarts: int = 32
    """Starts for each data set."""
    init: Literal["random", "kmeans++", "maximin"] = "random"
    """How the starts are drawn. Random rows are the hardest, and tell the solvers apart."""
    data: tuple[Literal["iris", "wine", "digits", "china"], ...] = ("iris", "wine", "digits", "china")
    """The data sets."""
    output: Path = Path("results/em_vs_gradient")
    """Where table, report and figures go."""


class Case(NamedTuple):
    """A model on a data set: a row of the experiment. Every method runs on every case."""

    name: str
    model: str
    loss_name: str
    problem: Problem
    data: Data
    starts: Any
    scale: float  # the standard deviation of a coordinate: the unit of Adam's steps
    k: int
    best_known: float
    lower_bound: float
    source: str


class Method(NamedTuple):
    """A solver and the learning rates that it may choose from; none where there is nothing to tune."""

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


def kmeans_case(data_set: DataSet, options: Options) -> Case:
    """K-means on a data set, with its starts and what is known of its optimum."""
    key = jax.random.key(options.seed)
    data = as_data(data_set.x)
    many = kmeans.fit(jax.random.fold_in(key, 1), data, data_set.k, restarts=16 if options.smoke else 128)
    return Case(
        name=data_set.name,
        model="K-means",
        loss_name="J",
        problem=kmeans.KMeans(),
        data=data,
        starts=seeding.starts(key, data, data_set.k, init=SEEDINGS[options.init], restarts=options.restarts),
        scale=float(data_set.x.std(axis=0).mean()),
        k=data_set.k,
        best_known=float(many.loss),
        lower_bound=float(kmeans.lower_bound(data, data_set.k)),
        source=data_set.source,
    )


def methods(options: Options) -> list[Method]:
    """The solvers compared, each with a grid of learning rates.

    With clusters of equal weight the Hessian of J per row is 2 / K, so K / 2 is Newton's step: rates of gradient
    descent are shares of it. Adam's steps have the unit of the data.
    """
    steps, epochs = (40, 10) if options.smoke else (300, 60)
    key = jax.random.key(options.seed + 1)

    def newton(*shares: float) -> Callable[[Case], Sequence[float]]:
        return lambda case: [share * case.k / 2 for share in shares]

    return [
        Method("Lloyd (EM)", lambda rate: solve.EM(), lambda case: [float("nan")], steps),
        Method("gradient descent", partial(solve.Gradient, optimizer=optax.sgd), newton(0.25, 0.5, 1.0, 2.0), steps),
        Method(
            "Adam",
            partial(solve.Gradient, optimizer=optax.adam),
            lambda case: [share * case.scale for share in (0.01, 0.03, 0.1, 0.3)],
            steps,
        ),
        Method(
            "mini-batch SGD",
            partial(solve.Gradient, optimizer=optax.sgd, batch_size=32, key=key),
            newton(0.01, 0.03, 0.1, 0.3),
            epochs,
        ),
    ]


def run_method(case: Case, method: Method, *, tuning_starts: int = 4) -> Result:
    """Chooses the rate with the lowest median loss on a few starts, then times all restarts at that rate."""

    @jax.jit
    def fits(rate: Array, starts: Any) -> Fit:
        return solve.run_many(case.problem, method.make(rate), starts, case.data, max_steps=method.max_steps, rtol=1e-6)

    rates = jnp.asarray(method.rates(case), case.data.x.dtype)
    chosen = 0
    if len(rates) > 1:
        few = jax.tree.map(lambda leaf: leaf[:tuning_starts], case.starts)
        losses = jax.jit(jax.vmap(fits, in_axes=(0, None)))(rates, few).loss
        chosen = int(jnp.argmin(jnp.nan_to_num(jnp.median(losses, axis=1), nan=jnp.inf)))
    compiled = fits.lower(rates[chosen], case.starts).compile()
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(rates[chosen], case.starts))
    return Result(case, method, float(rates[chosen]), result, time.perf_counter() - start)


def table_row(result: Result, best_known: float) -> dict[str, Any]:
    """One line of the table."""
    case, fits = result.case, result.fits
    loss, status = np.asarray(fits.loss, float), np.asarray(fits.status)
    finite = loss[np.isfinite(loss)]
    bound = case.lower_bound
    return {
        "model": case.model,
        "data": case.name,
        "solver": result.method.name,
        "rate": result.rate,
        "best": float(finite.min()),
        "median": float(np.median(finite)),
        "worst": float(finite.max()),
        "reached best": float(np.mean(loss <= best_known * (1 + REACHED))),
        "above bound": float(finite.min() / bound - 1) if bound > 0 else float("nan"),
        "steps": float(np.median(fits.num_steps)),
        "passes": float(np.median(fits.num_passes)),
        "seconds": result.seconds,
        "ended": ", ".join(f"{(status == s).sum()} {Status(s).name.lower()}" for s in np.unique(status)),
    }


def curves(result: Result, best_known: float) -> tuple[np.ndarray, np.ndarray]:
    """Passes of shape (T,), and excess loss of shape (R, T): a restart that has ended keeps its last loss."""
    trace = np.asarray(result.fits.trace, float).copy()
    for lane, last in enumerate(np.asarray(result.fits.num_steps)):
        trace[lane, last:] = result.fits.loss[lane]
    longest = int(np.max(result.fits.num_steps))
    per_step = float(np.max(result.fits.num_passes)) / max(longest, 1)
    return per_step * np.arange(longest + 1), np.maximum(trace[:, : longest + 1] / best_known - 1, 0)


def draw_curves(results: Sequence[Result], best_known: dict[str, float]) -> Figure:
    """Excess J against passes: a panel for each case, restarts thin, their median thick."""
    cases = list(dict.fromkeys(result.case.name for result in results))
    names = list(dict.fromkeys(result.method.name for result in results))
    floor = 1e-5
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, len(cases), figsize=(3.1 * len(cases) + 0.3, 3.6), sharey=True, squeeze=False)
        for axis, case in zip(axes[0], cases, strict=True):
            shown = [result for result in results if result.case.name == case]
            for order, result in enumerate(shown):
                colour = report.COLOURS[names.index(result.method.name)]
                passes, excess = curves(result, best_known[case])
                # The start is drawn at one pass: a logarithmic axis has no zero.
                axis.plot(1 + passes, np.maximum(excess, floor).T, color=colour, alpha=0.13, linewidth=0.6)
                median = np.maximum(np.median(excess, axis=0), floor)
                axis.plot(1 + passes, median, color=colour, linewidth=2.2, zorder=5 + order, label=result.method.name)
            first = shown[0].case
            axis.set(xscale="log", yscale="log", ylim=(floor * 0.8, None), xlabel="1 + passes over the data")
            axis.set_title(f"{case}: N = {first.data.x.shape[0]}, D = {first.data.x.shape[1]}, K = {first.k}")
        loss = results[0].case.loss_name
        axes[0][0].set_ylabel(f"{loss} / best known {loss} - 1")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(names))
        figure.set_layout_engine("constrained")
    return figure


def way(case: Case, solver: Solver, start: Any, num_steps: int) -> Any:
    """The parameters after 0, 1, ..., num_steps steps."""

    def body(state: Any, _: None) -> tuple[Any, Any]:
        return solver.step(case.problem, state, case.data)[0], solver.params(case.problem, state)

    @jax.jit
    def walk(start: Any) -> Any:
        return jax.lax.scan(body, solver.init(case.problem, start, case.data), None, length=num_steps + 1)[1]

    return walk(start)


def draw_ways(results: Sequence[Result]) -> Figure:
    """Rows and the way of the centers in the first two principal components, a panel for each solver."""
    case = results[0].case
    x, origin = np.asarray(case.data.x), np.asarray(case.data.origin)
    plane = np.linalg.svd(x - origin, full_matrices=False)[2][:2].T
    lane = int(np.argmax(np.asarray(results[0].fits.trace[:, 0])))  # the start with the longest way to go
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, 2, figsize=(7.6, 4.7), sharex=True, sharey=True)
        for axis, result in zip(axes.flat, results, strict=True):
            num_steps = int(result.fits.num_steps[lane])
            start = jax.tree.map(lambda leaf: leaf[lane], case.starts)
            centers = np.asarray(way(case, result.method.make(jnp.float32(result.rate)), start, num_steps))
            labels = np.asarray(kmeans.assign(centers[-1], x))
            rows, path = (x - origin) @ plane, (centers - origin) @ plane
            axis.scatter(*rows.T, s=7, c=[report.COLOURS[z % 6] for z in labels], alpha=0.35, linewidths=0)
            for k in range(case.k):
                axis.plot(*path[:, k].T, color="black", linewidth=1.0, marker=".", markersize=3)
                axis.plot(*path[0, k], marker="o", markersize=6, color="white", markeredgecolor="black", zorder=9)
                axis.plot(*path[-1, k], marker="*", markersize=13, color="#F0E442", markeredgecolor="black", zorder=10)
            loss = float(result.fits.loss[lane])
            axis.set_title(f"{result.method.name}: {num_steps} steps, J = {loss:.5g}")
            axis.set_aspect("equal")
        figure.supxlabel("first principal component", fontsize=9)
        figure.supylabel("second principal component", fontsize=9)
        figure.suptitle(f"{case.name}: the centers' way from one start (circles) to its end (stars)", fontsize=10)
        figure.set_layout_engine("constrained")
    return figure


def reading(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the table says, in sentences drawn from it."""
    lines = []
    for name in dict.fromkeys(row["data"] for row in rows):
        em, *others = [row for row in rows if row["data"] == name]
        for other in others:
            lines.append(
                f"- {name}: {other['solver']} took {other['passes'] / em['passes']:.1f} times the passes and "
                f"{other['seconds'] / em['seconds']:.1f} times the wall time of {em['solver']}, "
                f"ended at a median loss {100 * (other['median'] / em['median'] - 1):+.2f} % from its own, "
                f"and reached the best from {100 * other['reached best']:.0f} % of the starts "
                f"({100 * em['reached best']:.0f} %)."
            )
    return lines


def write_report(options: Options, results: Sequence[Result], rows: Sequence[dict[str, Any]]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    cases = {result.case.name: result.case for result in results}
    sources = [f"- {c.name}: {c.source}; N, D = {c.data.x.shape}, K = {c.k}" for c in cases.values()]
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

The same {options.restarts} starts (seeding: {options.init}, seed {options.seed}) for every solver, in float32
on {jax.devices()[0].device_kind}, jax {jax.__version__}.

{chr(10).join(sources)}

Lloyd stops at its fixed point; gradient solvers when the decrease still to gain is below 1e-6 of J; mini-batches after
their last epoch. Learning rates are chosen on the first four starts from a grid of four, at no charge to the gradient
solvers: Lloyd has none to choose. A pass is one evaluation of J over all rows; a gradient counts as three, an epoch of
mini-batches as four (its gradients, and J itself). Seconds are those of all restarts together, compilation apart.
"Reached best" is the share of starts that end within {REACHED:g} of the best J of any run, or of 128 restarts from
k-means++. "Above bound" is the best J against the spectral lower bound, where that is above zero.

## Result

{report.markdown_table(rows)}

![J against passes](em_vs_gradient.png)

![The centers' way](way.png)

## Reading

{chr(10).join(reading(rows))}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 165))
    if options.smoke:
        options = dataclasses.replace(options, restarts=min(options.restarts, 4), data=("iris", "wine"))
    results: list[Result] = []
    best_known: dict[str, float] = {}

    def rows() -> list[dict[str, Any]]:
        return [table_row(result, best_known[result.case.name]) for result in results]

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starts", total=len(options.data) * len(methods(options)))
        for name in options.data:
            progress.update(task, description=f"{name}: best of many restarts")
            case = kmeans_case(DATA_SETS[name](), options)
            best_known[name] = case.best_known
            for method in methods(options):
                progress.update(task, description=f"{name}: {method.name}")
                results.append(run_method(case, method))
                best_known[name] = min(best_known[name], float(np.nanmin(results[-1].fits.loss)))
                # Written at each row: an interrupted run keeps what it has.
                report.write_csv(options.output / "table.csv", rows())
                progress.advance(task)
    for name in options.data:
        title = f"{name}: loss J, {options.restarts} restarts, seeding: {options.init}"
        report.print_table(title, [row for row in rows() if row["data"] == name], console)
    report.save_figure(draw_curves(results, best_known), options.output / "em_vs_gradient", dpi=110)
    report.save_figure(draw_ways([r for r in results if r.case.name == options.data[0]]), options.output / "way")
    plt.close("all")
    write_report(options, results, rows())
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows()


if __name__ == "__main__":
    main(tyro.cli(Options))
