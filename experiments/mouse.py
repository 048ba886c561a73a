"""What does each assumption of K-means cost, and what does a mixture gain? The mouse, and three more shapes.

K-means takes clusters to be round, of one size and of one spread. Each data set breaks one of these, the mouse two.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from experiments import report
from jaxmix import Fit, gmm, kmeans, metrics, plot

NOISE = -1
"""The label of rows that belong to no cluster: they are fitted, and left out of the adjusted Rand index."""


@dataclasses.dataclass(frozen=True)
class Options:
    """K-means beside Gaussian mixtures where clusters are not round, equal or of one spread."""

    smoke: bool = False
    """The mouse alone, few restarts: to see that all works."""
    seed: int = 0
    """Seeds the data and the starts."""
    restarts: int = 32
    """Starts of each fit."""
    output: Path = Path("results/mouse")
    """Where table, report and figures go."""


class Shape(NamedTuple):
    """Rows of shape (N, 2), their true labels, and how many clusters there are."""

    x: np.ndarray
    labels: np.ndarray
    k: int


def mouse(rng: np.random.Generator) -> Shape:
    """A head and two ears, the head of two and a half times their spread and of more rows, and a little noise."""
    parts = [((0.5, 0.45), 0.11, 300), ((0.22, 0.8), 0.045, 100), ((0.78, 0.8), 0.045, 100)]
    shape = _round(rng, parts)
    noise = rng.uniform(0, 1, size=(15, 2))
    return Shape(np.vstack([shape.x, noise]), np.append(shape.labels, np.full(15, NOISE)), 3)


def stretched(rng: np.random.Generator) -> Shape:
    """Three parallel clusters, six times as long as they are wide."""
    labels = np.arange(450) % 3
    x = rng.normal(size=(450, 2)) * np.array([1.8, 0.3])
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    return Shape((x + np.array([0.0, 1.0]) * (2.0 * labels[:, None] - 2.0)) @ turn.T, labels, 3)


def unequal_sizes(rng: np.random.Generator) -> Shape:
    """Three clusters of one spread, one of them of most rows."""
    return _round(rng, [((0.0, 0.0), 0.6, 600), ((2.6, 0.4), 0.6, 40), ((1.0, 2.6), 0.6, 40)])


def unequal_spreads(rng: np.random.Generator) -> Shape:
    """Three clusters of as many rows, one of them four and eight times as wide as the others."""
    return _round(rng, [((0.0, 0.0), 1.6, 200), ((3.4, 0.4), 0.2, 200), ((2.6, 2.8), 0.4, 200)])


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "mouse": mouse,
    "stretched": stretched,
    "unequal sizes": unequal_sizes,
    "unequal spreads": unequal_spreads,
}


def _round(rng: np.random.Generator, parts: list[tuple[tuple[float, float], float, int]]) -> Shape:
    x = np.vstack([np.array(mean) + spread * rng.normal(size=(num, 2)) for mean, spread, num in parts])
    return Shape(x, np.repeat(np.arange(len(parts)), [num for _, _, num in parts]), len(parts))


class Result(NamedTuple):
    """Both fits of a data set, and the labels that they give its rows."""

    shape: Shape
    fits: dict[str, Fit]
    labels: dict[str, np.ndarray]


def fitted(name: str, seed: int, restarts: int) -> Result:
    """K-means and a full mixture of one of the shapes, each the best of its restarts, as NumPy arrays."""
    shape, key = SHAPES[name](np.random.default_rng(seed)), jax.random.key(seed)
    x = shape.x.astype(np.float32)
    centers = kmeans.fit(key, x, shape.k, restarts=restarts)
    # A floor for the covariances in units of the data, so that no component collapses onto rows of noise.
    prior = gmm.fraley_raftery(x, shape.k)
    mixture = gmm.fit(key, x, shape.k, prior=prior, restarts=restarts, max_steps=1000)
    labels = {
        "K-means": np.asarray(kmeans.predict(centers.params, x)),
        "mixture": np.asarray(gmm.predict(mixture.params, x)),
    }
    fits = jax.tree.map(np.asarray, {"K-means": centers, "mixture": mixture})
    return Result(shape._replace(x=x), fits, labels)


def score(result: Result, model: str) -> float:
    """The adjusted Rand index of rows that belong to a cluster."""
    known = result.shape.labels != NOISE
    return float(metrics.adjusted_rand_index(result.shape.labels[known], result.labels[model][known]))


def draw(results: dict[str, Result]) -> Figure:
    """A column for each data set: the truth, K-means, the mixture."""
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(3, len(results), figsize=(2.7 * len(results) + 0.4, 7.4), squeeze=False)
        for column, (name, result) in zip(axes.T, results.items(), strict=True):
            x, truth, _ = result.shape
            for axis in column:
                axis.set(xticks=[], yticks=[], aspect="equal")
            plot.scatter(column[0], x[truth == NOISE])
            plot.scatter(column[0], x[truth != NOISE], truth[truth != NOISE])
            column[0].set_title(name)
            for axis, model in zip(column[1:], ("K-means", "mixture"), strict=True):
                params = result.fits[model].params
                matched = _matched(truth, result.labels[model])
                plot.scatter(axis, x, matched[result.labels[model]])
                axis.set(xlim=column[0].get_xlim(), ylim=column[0].get_ylim())
                order = np.argsort(matched)
                if model == "mixture":
                    shown = jax.tree.map(lambda leaf, order=order: leaf[order], params)
                    plot.ellipses(axis, shown)
                else:
                    plot.scatter(axis, x[:0], None, np.asarray(params)[order])
                    plot.regions(axis, np.asarray(params)[order])
                axis.set_xlabel(f"ARI {score(result, model):.2f}")
                axis.set(xlim=column[0].get_xlim(), ylim=column[0].get_ylim())
        for row, title in zip(axes, ("truth", "K-means", "mixture"), strict=True):
            row[0].set_ylabel(title)
        figure.set_layout_engine("constrained")
    return figure


def _matched(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each found cluster the true one that it shares most rows with, one to one."""
    from scipy.optimize import linear_sum_assignment

    k = max(truth.max(), labels.max()) + 1
    known = truth != NOISE
    shared = np.zeros((k, k))
    np.add.at(shared, (labels[known], truth[known]), 1)
    return linear_sum_assignment(-shared)[1]


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console()
    results: dict[str, Result] = {}
    rows: list[dict[str, Any]] = []
    restarts = 8 if options.smoke else options.restarts
    with report.Kept(options.output, console) as kept:
        for name in track(list(SHAPES)[: 1 if options.smoke else None], description="shapes", console=console):
            results[name] = kept(fitted, name, options.seed, restarts)
            rows += [
                {
                    "data": name,
                    "model": model,
                    "ARI": score(results[name], model),
                    "loss": float(fit.loss),
                    "steps": int(fit.num_steps),
                }
                for model, fit in results[name].fits.items()
            ]
            report.write_csv(options.output / "table.csv", rows)
    report.save_figure(draw(results), options.output / "shapes", dpi=110)
    plt.close("all")
    report.print_table("Adjusted Rand index", rows, console)
    lines = [
        f"- {name}: {(SHAPES[name].__doc__ or '').rstrip('.')}. K-means {score(result, 'K-means'):.2f}, mixture "
        f"{score(result, 'mixture'):.2f}."
        for name, result in results.items()
    ]
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

Generated rows, seed {options.seed}, float32; the true number of clusters is given to both. K-means by Lloyd,
mixtures with full covariances by EM under the weak prior of Fraley and Raftery (2007); each the best of
{restarts} restarts by its own objective. ARI is the adjusted Rand index against the
true clusters: 1 is agreement, 0 is chance. The mouse has 15 rows of noise, which are fitted and not scored.

## Result

![Shapes](shapes.png)

{report.markdown_table(rows)}

## Reading

{chr(10).join(lines)}
"""
    report.write_text(options.output / "report.md", text)
    console.print(f"Figure, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
