"""How soon is a fit good? Default fits beside those of peers: the excess over the best loss known, against seconds."""

import dataclasses
import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console
from sklearn.datasets import load_breast_cancer
from sklearn.mixture import GaussianMixture

from experiments import data, machine, report
from experiments.peers import MODULES, THREADS, TITLES, limited, missing
from jaxmix import gmm, kmeans

BLOCK = 20_000
"""Rows whose loss in float64 is taken at a time."""


class Workload(NamedTuple):
    """Rows to fit.

    Attributes:
      name: what they are.
      model: "kmeans", or "mixture" for full covariances.
      k: K.
      make: makes the rows, (N, D) float32.
    """

    name: str
    model: str
    k: int
    make: Callable[[], np.ndarray]


class Contender(NamedTuple):
    """A public call of a library.

    Attributes:
      name: the library, and what is not its default.
      fit: from a seed to parameters: (centers,), or (weights, means, covariances).
      limits: the context that it runs in.
    """

    name: str
    fit: Callable[[int], tuple[np.ndarray, ...]]
    limits: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclasses.dataclass(frozen=True)
class Options:
    """Default fits of jaxmix and its peers: how soon, and how good."""

    model: str = "kmeans,mixture"
    """Which models, with commas between."""
    data: str = ""
    """Only data sets whose names hold this."""
    seeds: int = 10
    """Fits of each contender."""
    budget: float = 60.0
    """Seconds of one contender on one data set after which it begins no further fit, once there were three."""
    smoke: bool = False
    """Tiny data: to see that all works."""
    output: Path = Path("results/quality")
    """Where table, report and figure go."""


def clusters(n: int, d: int, k: int, spread: float) -> np.ndarray:
    """Unit Gaussians of random sizes whose means are normal with a standard deviation `spread`."""
    random = np.random.default_rng(0)
    means = spread * random.normal(size=(k, d))
    return (means[random.integers(k, size=n)] + random.normal(size=(n, d))).astype(np.float32)


def heavy_tails(n: int, d: int) -> np.ndarray:
    """Rows of Student's t with three degrees of freedom."""
    return np.random.default_rng(0).standard_t(3, size=(n, d)).astype(np.float32)


def breast_cancer() -> np.ndarray:
    """569 tumors, 30 measurements, each standardized."""
    x: Any = load_breast_cancer(return_X_y=True)[0]
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def workloads(options: Options) -> Iterator[Workload]:
    """The data sets of the models asked for."""
    if options.smoke:
        every = [
            Workload("clusters 9k x 2", "kmeans", 3, partial(clusters, 9000, 2, 3, 3.0)),
            Workload("clusters 9k x 2", "mixture", 3, partial(clusters, 9000, 2, 3, 3.0)),
        ]
    else:
        every = [
            Workload("breast cancer 569 x 30", "kmeans", 5, breast_cancer),
            Workload("digits 1797 x 64", "kmeans", 10, lambda: data.digits().x),
            Workload("overlapping 20k x 2", "kmeans", 8, partial(clusters, 20_000, 2, 8, 1.5)),
            Workload("heavy tails 100k x 8", "kmeans", 32, partial(heavy_tails, 100_000, 8)),
            Workload("clusters 200k x 16", "kmeans", 32, partial(clusters, 200_000, 16, 32, 1.5)),
            Workload("clusters 200k x 8", "kmeans", 64, partial(clusters, 200_000, 8, 64, 2.0)),
            Workload("noise 200k x 16", "kmeans", 32, partial(clusters, 200_000, 16, 1, 0.0)),
            Workload("colors 273k x 3", "kmeans", 16, lambda: data.photograph("china").reshape(-1, 3)),
            Workload("clusters 1M x 16", "kmeans", 64, partial(clusters, 1_000_000, 16, 64, 1.5)),
            Workload("overlapping 20k x 2", "mixture", 8, partial(clusters, 20_000, 2, 8, 1.5)),
            Workload("overlapping 100k x 8", "mixture", 16, partial(clusters, 100_000, 8, 16, 1.0)),
        ]
    return (each for each in every if each.model in options.model.split(",") and options.data in each.name)


def contenders(workload: Workload, x: np.ndarray) -> list[Contender]:
    """The public calls that fit it, of the libraries that are installed; a peer's with each number of threads."""
    found = [Contender("jaxmix", partial(_own, workload, jax.numpy.asarray(x)))]
    there = {name for name in MODULES if name not in missing([name])}
    for (library, title), fit in (_of_kmeans if workload.model == "kmeans" else _of_mixtures)(workload, x).items():
        if library in there:
            # JAX decides by itself how many threads it has.
            limits = [nullcontext] if library == "gmmx" else [partial(limited, library, threads) for threads in THREADS]
            found += [Contender(f"{TITLES[library]}{title}", fit, each) for each in limits]
    return found


def _own(workload: Workload, rows: Any, seed: int) -> tuple[np.ndarray, ...]:
    if workload.model == "kmeans":
        return (np.asarray(kmeans.fit(jax.random.key(seed), rows, workload.k).params),)
    params = gmm.fit(jax.random.key(seed), rows, workload.k).params
    return tuple(np.asarray(part) for part in (params.weights, params.means, params.covariances))


def _of_kmeans(workload: Workload, x: np.ndarray) -> dict[tuple[str, str], Callable[[int], tuple[np.ndarray, ...]]]:
    def estimator(module: str, name: str, options: dict[str, Any], seed: int) -> tuple[np.ndarray, ...]:
        make = getattr(importlib.import_module(module), name)
        return (np.asarray(make(workload.k, random_state=seed, **options).fit(x).cluster_centers_),)

    def faiss(seed: int) -> tuple[np.ndarray, ...]:
        model = importlib.import_module("faiss").Kmeans(x.shape[1], workload.k, nredo=8, seed=seed)
        model.train(x)
        return (model.centroids.copy(),)

    return {
        ("sklearn", ", n_init = 1"): partial(estimator, "sklearn.cluster", "KMeans", {"n_init": 1}),
        ("sklearn", ", n_init = 8"): partial(estimator, "sklearn.cluster", "KMeans", {"n_init": 8}),
        ("sklearn", ", mini-batches"): partial(estimator, "sklearn.cluster", "MiniBatchKMeans", {}),
        ("sklearnex", ", n_init = 8"): partial(estimator, "sklearnex.cluster", "KMeans", {"n_init": 8}),
        ("faiss", ", nredo = 8"): faiss,
    }


def _of_mixtures(workload: Workload, x: np.ndarray) -> dict[tuple[str, str], Callable[[int], tuple[np.ndarray, ...]]]:
    def sklearn(num: int, seed: int) -> tuple[np.ndarray, ...]:
        found: Any = GaussianMixture(workload.k, n_init=num, random_state=seed).fit(x)
        return found.weights_, found.means_, found.covariances_

    def gmmx(seed: int) -> tuple[np.ndarray, ...]:
        library: Any = importlib.import_module("gmmx")
        start = library.GaussianMixtureModelJax.from_k_means(x, workload.k, random_state=seed)
        found = jax.block_until_ready(library.EMFitter().fit(x, start)).gmm
        return found.weights_numpy, found.means_numpy, found.covariances.values_numpy

    return {
        ("sklearn", ", n_init = 1"): partial(sklearn, 1),
        ("sklearn", ", n_init = 8"): partial(sklearn, 8),
        ("gmmx", ""): gmmx,
    }


def loss(x: np.ndarray, params: tuple[np.ndarray, ...]) -> float:
    """J of a row, or minus the log-likelihood of a row, in float64."""
    total = 0.0
    for begin in range(0, len(x), BLOCK):
        block = x[begin : begin + BLOCK].astype(np.float64)
        if len(params) == 1:
            u = params[0].astype(np.float64)
            distances = np.square(block).sum(1)[:, None] - 2 * block @ u.T + np.square(u).sum(1)
            total += distances.min(axis=1).sum()
        else:
            total -= _log_likelihood(block, *(part.astype(np.float64) for part in params))
    return total / len(x)


def _log_likelihood(x: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    on = weights > 0
    joint = []
    for weight, mean, covariance in zip(weights[on], means[on], covariances[on], strict=True):
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        white = (x - mean) @ inverse.T
        scale = np.log(np.diagonal(inverse)).sum() - 0.5 * x.shape[1] * np.log(2 * np.pi)
        joint.append(np.log(weight) + scale - 0.5 * np.square(white).sum(axis=1))
    return float(np.logaddexp.reduce(joint, axis=0).sum())


class Taken(NamedTuple):
    """What a contender took, and what it found.

    Attributes:
      first: seconds of its first fit, compilation included.
      seconds: of the others.
      losses: of the others.
    """

    first: float
    seconds: list[float]
    losses: list[float]


def timed(contender: Contender, seed: int) -> tuple[float, tuple[np.ndarray, ...]]:
    """Seconds of a fit, and its parameters."""
    with contender.limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        params = contender.fit(seed)
        return time.perf_counter() - begin, params


def measured(workload: Workload, options: Options) -> dict[str, Taken]:
    """All contenders in turns, a seed after another; of those of one name only the faster number of threads."""
    x = workload.make()
    racers = contenders(workload, x)
    first = [timed(each, options.seeds)[0] for each in racers]
    # The first call of a number of threads also starts them.
    warm = [timed(each, options.seeds)[0] for each in racers]
    chosen = {
        each.name: min((warm[i], i) for i, one in enumerate(racers) if one.name == each.name)[1] for each in racers
    }
    taken = {name: Taken(first[i], [], []) for name, i in chosen.items()}
    for seed in range(options.seeds):
        for name, i in chosen.items():
            if len(taken[name].seconds) >= 3 and sum(taken[name].seconds) > options.budget:
                continue
            seconds, params = timed(racers[i], seed)
            taken[name].seconds.append(seconds)
            taken[name].losses.append(loss(x, params))
    return taken


def rows_of(workload: Workload, taken: dict[str, Taken]) -> list[dict[str, Any]]:
    """The rows of the table: the excess is over the best loss that any fit found."""
    least = min(min(each.losses) for each in taken.values())

    def excess(losses: list[float]) -> np.ndarray:
        # Of a likelihood in nats, of J in percent.
        over = np.asarray(losses) - least
        return 100 * over / least if workload.model == "kmeans" else over

    own = np.median(taken["jaxmix"].seconds)
    return [
        {
            "model": workload.model,
            "data": workload.name,
            "K": workload.k,
            "contender": name,
            "fits": len(each.losses),
            "seconds": float(np.median(each.seconds)),
            "over jaxmix": float(np.median(each.seconds) / own),
            "first call": each.first,
            "excess": float(np.median(excess(each.losses))),
            "lowest": float(excess(each.losses).min()),
            "highest": float(excess(each.losses).max()),
        }
        for name, each in taken.items()
    ]


def draw(rows: list[dict[str, Any]]) -> Figure:
    """A panel for each data set: the excess against seconds, a mark for each contender."""
    titles = list(dict.fromkeys((row["model"], row["data"], row["K"]) for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    columns = min(4, len(titles))
    lines = -(-len(titles) // columns)
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(lines, columns, figsize=(2.7 * columns, 2.4 * lines + 0.5), squeeze=False)
        for axis, title in zip(axes.ravel(), titles, strict=False):
            for row in (row for row in rows if (row["model"], row["data"], row["K"]) == title):
                color = report.COLORS[names.index(row["contender"])]
                spread = [[row["excess"] - row["lowest"]], [row["highest"] - row["excess"]]]
                axis.errorbar(row["seconds"], row["excess"], spread, fmt="o", color=color, markersize=5, linewidth=1)
            model, what, k = title
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_ylim(bottom=0)
            axis.set_title(f"{what}, K = {k}", loc="left", fontsize=8)
            axis.set_ylabel("excess of J, %" if model == "kmeans" else "excess, nats a row", fontsize=8)
            axis.tick_params(labelsize=7)
        for axis in axes.ravel()[len(titles) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel("seconds", fontsize=8)
        handles = [
            Line2D([], [], color=report.COLORS[i], marker="o", linestyle="none", label=name)
            for i, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names), fontsize=8)
        figure.set_layout_engine("constrained")
    return figure


def main(options: Options) -> list[dict[str, Any]]:
    """Runs all data sets, and returns the rows of the table."""
    console = Console(width=max(Console().width, 160))
    for line in machine.described():
        console.print(line)
    rows: list[dict[str, Any]] = []
    for workload in workloads(options):
        console.print(f"[dim]{workload.model}, {workload.name}[/dim]")
        rows += rows_of(workload, measured(workload, options))
        # Written at each step: an interrupted run keeps what it has.
        report.write_csv(options.output / "table.csv", rows)
    report.print_table("default fits", rows, console)
    report.save_figure(draw(rows), options.output / "quality", dpi=130)
    plt.close("all")
    about = "\n".join(f"- {line}" for line in machine.described())
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{about}

Each library's public call with its defaults, but for the number of starts that is named; peers with the better of
{" and ".join(map(str, THREADS))} threads, and gmmx from scikit-learn's K-means. The first call of each, which
compiles, is apart; then {options.seeds} seeds in turns, fewer where they take longer than {options.budget:g} s. Losses
are taken in float64 by NumPy. The excess is over the lowest loss of all fits of the data: of J in percent, of the
log-likelihood in nats a row; "lowest" and "highest" are those of the seeds. Rows are NumPy arrays for peers, and on the
device already for jaxmix.

## Result

![Excess against seconds](quality.png)

{report.markdown_table(rows)}
"""
    report.write_text(options.output / "report.md", text)
    console.print(f"table.csv, report.md and the figure are in {options.output}/")
    return rows


if __name__ == "__main__":
    machine.with_new_kernels()
    main(tyro.cli(Options))
