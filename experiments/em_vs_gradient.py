"""Does EM beat gradient descent on the same objective, from the same starts?

Lloyd's algorithm beside gradient descent on the K-means cost J, and EM and its accelerations beside gradients on the
log-likelihood of a Gaussian mixture: real data, and synthetic mixtures of stated separation.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments import report
from experiments.compare import Bench, Case, Method, Result, draw_curves, table_row, way
from experiments.data import DATA_SETS, DataSet, mixture
from jaxmix import Fit, as_data, gmm, kmeans, seeding, solve
from jaxmix.mixture import Mixture, Normal

SEEDINGS = {"random": seeding.random_rows, "kmeans++": seeding.kmeans_plus_plus, "maximin": seeding.maximin}
NOTHING = [float("nan")]  # to tune


@dataclasses.dataclass(frozen=True)
class Options:
    """EM beside gradient descent on the same objective, from the same starts: K-means and Gaussian mixtures."""

    smoke: bool = False
    """Two small data sets of each kind, few restarts and steps: to see that all works."""
    seed: int = 0
    """Seeds the starts, the synthetic data and the order of the mini-batches."""
    restarts: int = 32
    """Starts for each data set of K-means; mixtures take half as many."""
    init: Literal["random", "kmeans++", "maximin"] = "random"
    """How the starts are drawn. Random rows are the hardest, and tell the solvers apart."""
    data: tuple[Literal["iris", "wine", "digits", "china"], ...] = ("iris", "wine", "digits", "china")
    """The data sets of K-means."""
    mixtures: tuple[str, ...] = ("faithful", "c = 0.2", "c = 1", "c = 5")
    """The data sets of the mixtures: faithful, iris, wine, or "c = 0.2", "c = 1, D = 10", ...: synthetic mixtures of
    unit Gaussians whose means lie at least c sqrt(D) apart (Dasgupta 1999), in two dimensions unless D is given."""
    output: Path = Path("results/em_vs_gradient")
    """Where table, report and figures go."""


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
        unit=float("nan"),
        reached=1e-4,
        tolerance={"rtol": 1e-6},
        source=data_set.source,
    )


def mixture_case(data_set: DataSet, options: Options) -> Case:
    """A Gaussian mixture on a data set, maximum likelihood with nothing added, from the nearest of random rows."""
    data = as_data(data_set.x)
    problem = gmm.GaussianMixture(regularization=0.0)
    key = jax.random.key(options.seed)
    centers = seeding.starts(key, data, data_set.k, init=SEEDINGS[options.init], restarts=max(options.restarts // 2, 2))
    # One covariance at the start: that of the data. Rows alone with their center would collapse at once.
    one = gmm.start.from_labels(jnp.zeros(len(data_set.x), jnp.int32), data, 1, problem=problem)
    k = data_set.k
    log_weights = jnp.full(k, -jnp.log(k), data.x.dtype)
    covariance = jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=0), one.covariance)
    starts = jax.vmap(lambda means: Mixture(log_weights, Normal(means, covariance)))(centers)
    return Case(
        name=data_set.name,
        model="mixture",
        loss_name="-log L",
        problem=problem,
        data=data,
        starts=starts,
        scale=1.0,
        k=k,
        best_known=float("inf"),
        lower_bound=float("nan"),
        unit=float(data.x.shape[0]),
        reached=1e-3,
        tolerance={"atol": 1e-6},
        source=data_set.source,
    )


def kmeans_methods(options: Options) -> list[Method]:
    """The solvers compared, each with a grid of learning rates.

    With clusters of equal weight the Hessian of J per row is 2 / K, so K / 2 is Newton's step: rates of gradient
    descent are shares of it. Adam's steps have the unit of the data.
    """
    steps, epochs = (40, 10) if options.smoke else (300, 60)
    key = jax.random.key(options.seed + 1)

    def newton(*shares: float) -> Callable[[Case], Sequence[float]]:
        return lambda case: [share * case.k / 2 for share in shares]

    return [
        Method("Lloyd (EM)", lambda rate: solve.EM(), lambda case: NOTHING, steps),
        Method("gradient descent", partial(solve.Optax, optax.sgd), newton(0.25, 0.5, 1.0, 2.0), steps),
        Method(
            "Adam",
            partial(solve.Optax, optax.adam),
            lambda case: [share * case.scale for share in (0.01, 0.03, 0.1, 0.3)],
            steps,
        ),
        Method(
            "mini-batch SGD",
            partial(solve.Optax, optax.sgd, batch_size=32, key=key),
            newton(0.01, 0.03, 0.1, 0.3),
            epochs,
        ),
    ]


def mixture_methods(options: Options) -> list[Method]:
    """EM, its accelerations and gradients, with about the same number of passes each."""
    passes = 60 if options.smoke else 600
    key = jax.random.key(options.seed + 1)

    def fixed(solver: Any) -> Callable[[Any], Any]:
        return lambda rate: solver

    def among(*rates: float) -> Callable[[Case], Sequence[float]]:
        return lambda case: rates[-1:] if options.smoke else rates

    methods = [
        Method("EM", fixed(solve.EM()), lambda case: NOTHING, passes),
        Method("over-relaxed EM", fixed(solve.OverRelaxed()), lambda case: NOTHING, passes),
        Method("SQUAREM", fixed(solve.Squarem()), lambda case: NOTHING, passes // 3),
        Method("Anderson", fixed(solve.Anderson()), lambda case: NOTHING, passes),
        Method("L-BFGS", fixed(solve.LBFGS()), lambda case: NOTHING, passes // 9),
        Method("Adam", partial(solve.Optax, optax.adam), among(0.01, 0.03, 0.1), passes // 3),
        Method("gradient descent", partial(solve.Optax, optax.sgd), among(0.1, 0.3, 1.0), passes // 3),
        Method("stepwise EM", lambda decay: solve.Stepwise(32, key, decay), among(0.6, 0.8, 1.0), passes // 6),
    ]
    few = ("EM", "SQUAREM", "Adam", "stepwise EM")
    return [method for method in methods if method.name in few or not options.smoke]


def draw_ways(results: Sequence[Result]) -> Figure:
    """Rows and the way of the centers in the first two principal components, a panel for each solver."""
    case = results[0].case
    x = np.asarray(case.data.x)
    middle = x.mean(axis=0)
    plane = np.linalg.svd(x - middle, full_matrices=False)[2][:2].T
    longest = int(np.argmax(np.asarray(results[0].fits.trace[:, 0])))  # the start with the longest way to go
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, 2, figsize=(7.6, 4.7), sharex=True, sharey=True)
        for axis, result in zip(axes.flat, results, strict=True):
            num_steps = int(result.fits.num_steps[longest])
            start = jax.tree.map(lambda leaf: leaf[longest], case.starts)
            centers = np.asarray(way(case, result.method.make(jnp.float32(result.rate)), start, num_steps))
            labels = np.asarray(kmeans.predict(centers[-1], x))
            rows, path = (x - middle) @ plane, (centers - middle) @ plane
            axis.scatter(*rows.T, s=7, c=[report.COLORS[z % 6] for z in labels], alpha=0.35, linewidths=0)
            for k in range(case.k):
                axis.plot(*path[:, k].T, color="black", linewidth=1.0, marker=".", markersize=3)
                axis.plot(*path[0, k], marker="o", markersize=6, color="white", markeredgecolor="black", zorder=9)
                axis.plot(*path[-1, k], marker="*", markersize=13, color="#F0E442", markeredgecolor="black", zorder=10)
            loss = float(result.fits.loss[longest])
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
    for model, name in dict.fromkeys((row["model"], row["data"]) for row in rows):
        em, *others = [row for row in rows if (row["model"], row["data"]) == (model, name)]
        for other in others:
            least = "at least " if other["out of steps"] > 0.5 else ""
            lines.append(
                f"- {model}, {name}: {other['solver']} took {least}{other['passes'] / em['passes']:.2g} times the "
                f"passes and "
                f"{other['seconds'] / em['seconds']:.2g} times the wall time of {em['solver']}, "
                f"reached the best from {100 * other['reached best']:.0f} % of the starts "
                f"({100 * em['reached best']:.0f} %), ended worse than it from {other['below EM']}, "
                f"failed from {other['failed']}; {100 * other['out of steps']:.0f} % ran out of steps."
            )
    return lines


def write_report(options: Options, results: Sequence[Result], rows: Sequence[dict[str, Any]]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    cases = {(result.case.model, result.case.name): result.case for result in results}
    sources = [
        f"- {model}, {c.name}: {c.source}; N, D = {c.data.x.shape}, K = {c.k}" for (model, _), c in cases.items()
    ]
    models = {
        model: [row for row in rows if row["model"] == model] for model in dict.fromkeys(r["model"] for r in rows)
    }
    tables = "\n\n".join(report.markdown_table(list(part)) for part in models.values())
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

The same starts (seeding: {options.init}, seed {options.seed}) for every solver, in float32 on
{jax.devices()[0].device_kind}, jax {jax.__version__}. Mixtures have full covariances, and start with that of all rows
for every component; nothing is added to a covariance, so that all solvers have the one objective, the log-likelihood.

{chr(10).join(sources)}

Lloyd stops at its fixed point, EM and its accelerations on a change of the log-likelihood below 1e-6 a row, gradient
solvers when the decrease still to gain is below that (1e-6 of J for K-means), mini-batches after their last epoch.
Rates, and the decay of stepwise EM, are the best of a grid by the median loss of all starts, at no charge: EM has
nothing to choose. A pass is one evaluation of the objective over all rows; a gradient counts as three, an epoch of
mini-batch gradients as four and of stepwise EM as two, the exact loss at its start among them. Seconds are those of
all restarts together, compilation apart. Losses are sums over rows: J, or minus the log-likelihood.

"Reached best" is the share of starts that end within 1e-4 of the best J of any run (1e-3 a row of the best
log-likelihood); "below EM" how many starts end worse than EM does from the same start, by more than that; "failed" how
many end at a loss that is not finite. "Above bound" is the best J against the spectral lower bound, where that is
above zero.

## Result

{tables}

![J against passes](em_vs_gradient.png)

![Log-likelihood against passes and wall time](mixtures.png)

![The centers' way](way.png)

## Reading

{chr(10).join(reading(rows))}
"""
    report.write_text(options.output / "report.md", text)


def cases_of(options: Options) -> list[tuple[Callable[[], Case], list[Method]]]:
    """Every case, not yet made, and its methods."""
    by_kmeans = [(partial(kmeans_case, DATA_SETS[name](), options), kmeans_methods(options)) for name in options.data]
    by_mixture = [
        (partial(mixture_case, mixture(name, options.seed), options), mixture_methods(options))
        for name in options.mixtures
    ]
    return [*by_kmeans, *by_mixture]


@cache
def bench(options: Options) -> Bench:
    """One for all cases of a run, which shares what is compiled."""
    return Bench()


@cache
def made(options: Options, number: int) -> tuple[Case, list[Method]]:
    """One of the cases, made once."""
    make, methods = cases_of(options)[number]
    return make(), methods


def raced(options: Options, number: int, name: str) -> tuple[float, Fit, float]:
    """The rate of a method on one of the cases, its fits as NumPy arrays, and the seconds they took."""
    case, methods = made(options, number)
    result = bench(options).run(case, next(method for method in methods if method.name == name))
    return result.rate, jax.tree.map(np.asarray, result.fits), result.seconds


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 175))
    if options.smoke:
        few = min(options.restarts, 4)
        options = dataclasses.replace(options, restarts=few, data=("iris",), mixtures=("c = 5",))
    results: list[Result] = []
    best_known: dict[tuple[str, str], float] = {}
    here = dataclasses.replace(options, output=Path())  # results are the same wherever they are written

    def rows() -> list[dict[str, Any]]:
        first = {(r.case.model, r.case.name): r for r in reversed(results)}
        keys = [(r.case.model, r.case.name) for r in results]
        return [table_row(r, best_known[key], first[key]) for r, key in zip(results, keys, strict=True)]

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with report.Kept(options.output, console) as kept, Progress(*columns, console=console) as progress:
        todo = cases_of(here)
        task = progress.add_task("starts", total=sum(len(methods) for _, methods in todo))
        for number in range(len(todo)):
            case, methods = made(here, number)
            key = (case.model, case.name)
            best_known[key] = case.best_known
            for method in methods:
                progress.update(task, description=f"{case.model}, {case.name}: {method.name}")
                results.append(Result(case, method, *kept(raced, here, number, method.name)))
                best_known[key] = min(best_known[key], float(np.nanmin(results[-1].fits.loss)))
                report.write_csv(options.output / "table.csv", rows())
                progress.advance(task)
    for model, name in best_known:
        shown = [row for row in rows() if (row["model"], row["data"]) == (model, name)]
        report.print_table(f"{model}, {name}: {options.init} starts", shown, console)
    for model, path, ylabel, floor, wall in (
        ("K-means", "em_vs_gradient", "J / best known J - 1", 1e-5, False),
        ("mixture", "mixtures", "nats a row below the best log-likelihood", 1e-5, True),
    ):
        own = [result for result in results if result.case.model == model]
        best = {name: value for (kind, name), value in best_known.items() if kind == model}
        figure = draw_curves(own, best, ylabel=ylabel, floor=floor, wall=wall)
        report.save_figure(figure, options.output / path, dpi=110)
    ways = [r for r in results if r.case.model == "K-means" and r.case.name == options.data[0]]
    report.save_figure(draw_ways(ways), options.output / "way")
    plt.close("all")
    write_report(options, results, rows())
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows()


if __name__ == "__main__":
    main(tyro.cli(Options))
