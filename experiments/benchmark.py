"""Is it ahead of every peer on the same machine? Steps, restarts, memory, first calls, growth and accuracy.

The same rows, starts, dtype and number of steps for all, in turns; a row whose results disagree has no ratio.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import tyro
from rich.console import Console

from experiments import inference, isolated, machine, peers, races, report, restarts, targets
from experiments.benchmark_figure import draw
from experiments.workloads import Case

JOBS = ("kmeans", "gmm", "inference", "restarts", "memory", "first-call", "scaling", "accuracy", "stress")
DATA = ("clusters", "noise")

Rows = list[dict[str, Any]]
Task = tuple[str, Callable[[], Rows]]


@dataclasses.dataclass(frozen=True)
class Options:
    """jaxmix beside its peers on this machine: K-means and Gaussian mixtures."""

    job: tyro.conf.Positional[
        Literal[
            "kmeans", "gmm", "inference", "restarts", "memory", "first-call", "scaling", "accuracy", "stress", "all"
        ]
    ] = "all"
    """What to measure."""
    peers: str = ",".join(peers.MODULES)
    """Peers to measure against, with commas between: those that are not installed are named and left out."""
    smoke: bool = False
    """Tiny sizes, scikit-learn alone: to see that all works."""
    rounds: int = 9
    """The most turns of each contender."""
    budget: float = 60.0
    """Seconds after which a race begins no further turn, once there were two."""
    repeats: int = 20
    """Processes of each case of the stress test; imports and first calls take five at most."""
    timeout: float = 180.0
    """Seconds to wait for a process."""
    output: Path = Path("results/benchmark")
    """Where table, report and figure go."""


def kmeans_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """K-means steps at the sizes of the targets."""
    able = [name for name in names if name in peers.OF_KMEANS]
    sizes = ((500, 3, 4, 3),) if options.smoke else targets.KMEANS_SIZES
    for n, d, k, steps in sizes:
        for data in DATA:
            yield _race(Case("kmeans", n, d, k, steps, data), able, options)


def gmm_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """Mixture steps of each family at the sizes of the targets."""
    for family in ("full",) if options.smoke else ("full", "diagonal", "spherical", "tied"):
        sizes = targets.FULL_SIZES if family == "full" else targets.OTHER_SIZES
        for n, d, k, steps in ((400, 3, 2, 3),) if options.smoke else sizes:
            for data in DATA[: 1 if options.smoke else 2]:
                case = Case(family, n, d, k, steps, data)
                with_gmmx = "gmmx" in names and targets.of_steps(case, "gmmx") is not None
                able = [name for name in names if name == "sklearn" or (name == "gmmx" and with_gmmx)]
                yield _race(case, able, options)


def _race(case: Case, able: list[str], options: Options) -> Task:
    run = partial(races.race_rows, rounds=options.rounds, budget=options.budget, timeout=options.timeout)
    return f"{races.NAMES[case.model]} {case.size} {case.data}", partial(run, case, able)


def inference_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """Predictions by a mixture of each family, and of ten times the rows by full mixtures, with their memory."""
    n, d, k = (5000, 3, 2) if options.smoke else targets.PREDICTION_SIZE
    cases = [Case(family, n, d, k, 0) for family in inference.FAMILIES]
    large = Case("full", 10 * n, d, k, 0)
    for case in [*cases, large]:
        run = partial(inference.prediction_rows, case, names, rounds=options.rounds, budget=options.budget)
        yield f"predict, {case.model} {case.size}", run
    for compiled in (False, True):
        repeats = 1 if options.smoke else 3
        run = partial(inference.prediction_memory_row, large, compiled, repeats=repeats, timeout=options.timeout)
        yield f"memory of predict, {large.model} {large.size}", lambda run=run: [run()]


def restart_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """32 starts to convergence, with other numbers of fits in parallel, and the sweep over K."""
    sizes = ((300, 2, 3),) if options.smoke else ((20_000, 2, 8), (10_000, 16, 16))
    parallel = (3,) if options.smoke else (2, 4, 32)
    number, rounds = (3, 2) if options.smoke else (32, min(options.rounds, 5))
    models = (("kmeans", 300), ("full", 200))
    for model, steps in models[:1] if options.smoke else models:
        for n, d, k in sizes:
            for data in DATA[: 1 if options.smoke else 2]:
                case = Case(model, n, d, k, steps, data)
                run = partial(restarts.restart_rows, restarts=number, parallel=parallel, rounds=rounds, peers=names)
                yield f"{number} starts, {model} {case.size} {data}", partial(run, case)
    if "sklearn" not in names:
        return
    for model, steps in models[:1] if options.smoke else models:
        case = Case(model, 300 if options.smoke else 2000, 2, 3 if options.smoke else 10, steps)
        turns, threads = (1, (1,)) if options.smoke else (3, peers.THREADS)
        run = partial(restarts.sweep_row, case, restarts=number, rounds=turns, threads=threads)
        yield f"sweep, {model}", lambda run=run: [run()]


def memory_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """Peak memory beyond x."""
    sizes = (("kmeans", 500, 3, 4),) if options.smoke else (("kmeans", 10**6, 16, 64), ("full", 10**6, 16, 64))
    for model, n, d, k in sizes:
        case = Case(model, n, d, k, 2, "noise")
        repeats, both = (1, False) if options.smoke else (3, True)
        run = partial(isolated.memory_rows, repeats=repeats, timeout=options.timeout, both=both)
        yield f"memory, {model} {case.size}", partial(run, case, names)


def first_call_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """Imports and first calls."""
    repeats = 1 if options.smoke else min(options.repeats, 5)
    yield "imports", partial(isolated.import_rows, names, repeats=repeats)
    for model in ("kmeans",) if options.smoke else ("kmeans", "full"):
        case = Case(model, 300 if options.smoke else 10_000, 2, 3, 0)
        run = partial(isolated.first_call_rows, repeats=repeats, timeout=options.timeout, cached=not options.smoke)
        yield f"first call, {model}", partial(run, case)


def scaling_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """A step with ten times the rows, and with ten times the components."""
    sizes = (
        (("kmeans", 500, 3, 4),)
        if options.smoke
        else (("kmeans", 100_000, 16, 16), ("full", 20_000, 8, 8), ("full", 20_000, 16, 8), ("diagonal", 20_000, 16, 8))
    )
    for model, n, d, k in sizes:
        small = Case(model, n, d, k, 3 if options.smoke else 5, "noise")
        larger = {"N x 10": dataclasses.replace(small, n=10 * n), "K x 10": dataclasses.replace(small, k=10 * k)}
        for what, large in list(larger.items())[: 1 if options.smoke else 2]:
            run = partial(races.growth_row, small, large, what, rounds=options.rounds, budget=options.budget)
            yield f"{what}, {model} {small.size}", lambda run=run: [run()]


def accuracy_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """Float32 against float64 at every size of the targets, near the origin and far from it."""
    sizes = [("kmeans", *size) for size in targets.KMEANS_SIZES] + [("full", *size) for size in targets.FULL_SIZES]
    sizes += [(family, *size) for family in ("tied", "diagonal", "spherical") for size in targets.OTHER_SIZES]
    for model, n, d, k, steps in (("full", 400, 3, 2, 3),) if options.smoke else sizes:
        for data in DATA[: 1 if options.smoke else 2]:
            case = Case(model, n, d, k, steps, data)
            for one in (case, races.at_offset(case)):
                yield f"accuracy, {model} {case.size} {data}", lambda one=one: [races.accuracy_row(one)]


def stress_tasks(options: Options, names: list[str]) -> Iterator[Task]:
    """The larger fits, again and again."""
    sizes = (
        (("kmeans", 500, 3, 4, 3),)
        if options.smoke
        else (
            *(("kmeans", *size) for size in targets.KMEANS_SIZES[3:5]),
            *(("full", *size) for size in targets.FULL_SIZES[2:]),
        )
    )
    repeats = 1 if options.smoke else options.repeats
    for model, n, d, k, steps in sizes:
        case = Case(model, n, d, k, steps)
        run = partial(isolated.stress_row, case, repeats=repeats, timeout=options.timeout)
        yield f"stress, {model} {case.size}", lambda run=run: [run()]


TASKS = {
    "kmeans": kmeans_tasks,
    "gmm": gmm_tasks,
    "inference": inference_tasks,
    "restarts": restart_tasks,
    "memory": memory_tasks,
    "first-call": first_call_tasks,
    "scaling": scaling_tasks,
    "accuracy": accuracy_tasks,
    "stress": stress_tasks,
}


def reading(rows: Rows) -> list[str]:
    """How many targets are met, and every row that misses one or is void."""
    bound = [row for row in rows if row["target"]]
    lines = []
    for job in dict.fromkeys(row["job"] for row in bound):
        own = [row for row in bound if row["job"] == job]
        counts = [sum(row[f"met {which}"] == "yes" for row in own) for which in ("median", "min")]
        lines.append(f"- {job}: {counts[0]} of {len(own)} rows meet their target by medians, {counts[1]} by minima.")
    for row in rows:
        name = ", ".join(filter(None, (row["what"], row["N,D,K"], row["data"], row["peer"])))
        if row["check"] != "ok":
            lines.append(f"- {row['check']}. {name}")
        elif "no" in (row["met median"], row["met min"]):
            figures = [row[f"ratio {which}"] for which in ("median", "min")]
            if figures[0] != figures[0] or row["job"] in ("memory", "first-call"):
                figures = [row["jaxmix median"], row["jaxmix min"]]
            lines.append(f"- Missed {row['target']}: {name}: {figures[0]:.3g} by medians, {figures[1]:.3g} by minima.")
    return lines


def write_report(options: Options, rows: Rows, absent: dict[str, str], figure: bool) -> None:
    """Question, set-up, result and reading, as Markdown."""
    tables = "\n\n".join(
        f"### {job}\n\n{report.markdown_table([{k: v for k, v in row.items() if k != 'job'} for row in own])}"
        for job in dict.fromkeys(row["job"] for row in rows)
        if (own := [row for row in rows if row["job"] == job])
    )
    gone = "".join(
        f"- Left out, for it is not installed: {peers.TITLES[name]} ({why})\n" for name, why in absent.items()
    )
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{chr(10).join("- " + line for line in machine.described())}
{gone}
Ratios are the peer's time over jaxmix's; above 1, jaxmix is ahead. Each contender is warmed up, which compiles, and
then all take turns, {options.rounds} rounds or {options.budget:g} s, in an order that rotates, with a rest before each.
scikit-learn, its Intel extension and faiss run with {" and with ".join(map(str, peers.THREADS))} threads, and the
better is quoted, for minima and for medians. Times are divided by each contender's own passes over the rows: jaxmix,
scikit-learn, the Intel extension and ott take one more than steps, for the loss or the labels of what they return;
faiss and gmmx do not. gmmx runs in a process of its own under a time-out, with its own clock.

"clusters" are unit Gaussians whose means lie about 8 apart, "noise" is one unit Gaussian. K-means starts at random
rows; mixtures at random rows with the covariance of all rows, {peers.REGULARIZATION:g} added to the diagonals. Each
row is checked against the same steps in NumPy in float64: J and the mean log-likelihood within 1e-4 relative, the
covariances within 1e-3, every label at a contender's own centers but of rows whose two nearest
tie, and 99 in 100 labels those of float64; a row that fails is void.

Predictions are calls of `predict` on NumPy arrays, by one M-step from the nearest of random rows; where scikit-learn
lacks the family, the peer is a pass of EM by jaxmix. Labels are those of NumPy in float64, but of rows whose two best
components tie.

Restarts end at the fixed point (K-means) or where the mean log-likelihood changes by less than 1e-4; the best and the
median over starts must agree within 1e-4. The sweep runs in fresh processes, compilation included. Memory is the peak
resident memory of a fit beyond what its process held before, x among it. Growth is the time of a pass at ten times the
size over that of the small one.

## Result

{"![Ratios to the peers](benchmark.png)" if figure else ""}

{tables}

## Reading

{chr(10).join(reading(rows))}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> Rows:
    """Runs the benchmark, and returns the rows of its table."""
    console = Console(width=max(Console().width, 200))
    names = [name.strip() for name in options.peers.split(",") if name.strip()]
    unknown = [name for name in names if name not in peers.MODULES]
    if unknown:
        raise ValueError(f"Unknown peers {unknown}: choose from {list(peers.MODULES)}.")
    if options.smoke:
        names = [name for name in names if name == "sklearn"]
        options = dataclasses.replace(options, rounds=2, timeout=60.0)
    absent = peers.missing(names)
    names = [name for name in names if name not in absent]
    for line in [
        *machine.described(),
        *(f"Not installed, left out: {peers.TITLES[name]} ({why})" for name, why in absent.items()),
    ]:
        console.print(line)
    rows: Rows = []
    for job in JOBS if options.job == "all" else (options.job,):
        begin = len(rows)
        for title, task in TASKS[job](options, names):
            console.print(f"[dim]{title}[/dim]")
            rows += task()
            if rows:
                # Written at each step: an interrupted run keeps what it has.
                report.write_csv(options.output / "table.csv", rows)
        left_out = ("job", "unit", "jaxmix min", "peer min", "check", "note", "steps")
        shown = [{k: v for k, v in row.items() if k not in left_out} for row in rows[begin:]]
        if shown:
            report.print_table(job, shown, console)
    figure = draw(rows)
    if figure is not None:
        report.save_figure(figure, options.output / "benchmark", dpi=130)
        plt.close("all")
    write_report(options, rows, absent, figure is not None)
    for line in reading(rows):
        console.print(line)
    console.print(f"table.csv, report.md and the figure are in {options.output}/")
    return rows


if __name__ == "__main__":
    machine.with_new_kernels()
    main(tyro.cli(Options))
