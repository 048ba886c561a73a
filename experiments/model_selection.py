"""How many components, and of which family? BIC, AIC and ICL over K and all six families, one program a family."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from experiments import report
from experiments.data import DataSet, mixture
from jaxmix import Status, gmm, metrics, plot, sweep

FAMILIES = ("Full", "Tied", "Diagonal", "TiedDiagonal", "Spherical", "TiedSpherical")
CRITERIA = {"bic": metrics.bic, "aic": metrics.aic, "icl": metrics.icl}


@dataclasses.dataclass(frozen=True)
class Options:
    """BIC, AIC and ICL of Gaussian mixtures over the number of components and the covariance family."""

    smoke: bool = False
    """One data set, two families, three K, few restarts: to see that all works."""
    seed: int = 0
    """Seeds the starts and the synthetic data."""
    restarts: int = 16
    """Starts for each K and family."""
    most: int = 8
    """The largest K."""
    regularization: float = 1e-3
    """Added to the diagonals of the covariances; the data are standardized."""
    data: tuple[str, ...] = ("faithful", "iris", "wine", "c = 4", "c = 1, D = 10, K = 5", "c = 0.2")
    """Data sets: faithful, iris, wine, or synthetic mixtures such as "c = 1, D = 10, K = 5"."""
    output: Path = Path("results/model_selection")
    """Where table, report and figures go."""


def table(name: str, family: str, seed: int, settings: tuple[int, int, float, int]) -> list[dict[str, Any]]:
    """A row for each K of a data set and family."""
    most, restarts, regularization, max_steps = settings
    x = mixture(name, seed).x
    start = time.perf_counter()
    swept = sweep.mixtures(
        jax.random.key(seed),
        x,
        range(1, most + 1),
        covariances=[getattr(gmm, family)],
        regularizations=[regularization],
        restarts=restarts,
        max_steps=max_steps,
    )[family].at(regularization=0)
    best = swept.best("restart")
    columns = {criterion: best.map(lambda fit, f=f: f(fit.params, x)) for criterion, f in CRITERIA.items()}
    seconds = time.perf_counter() - start
    converged = np.mean(np.asarray(swept.fits.status) == Status.CONVERGED, axis=1)
    return [
        {
            "data": name,
            "family": family,
            "K": row["k"],
            "log-likelihood": -row["loss"],
            **{criterion: row[criterion] for criterion in CRITERIA},
            "converged": float(share),
            "seconds": seconds,
        }
        for row, share in zip(best.to_records(**columns), converged, strict=True)
    ]


def draw(rows: list[dict[str, Any]]) -> Figure:
    """BIC against K: a panel for each data set, a line for each family, the lowest point marked."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    with plt.rc_context(report.STYLE):
        columns = min(3, len(names))
        lines = -(-len(names) // columns)
        figure, axes = plt.subplots(lines, columns, figsize=(3.3 * columns + 0.3, 3.0 * lines + 0.4), squeeze=False)
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(axes.flat, names, strict=False):
            own = [row for row in rows if row["data"] == name]
            curves = {family: [row["bic"] for row in own if row["family"] == family] for family in families}
            plot.criteria(axis, [row["K"] for row in own if row["family"] == families[0]], curves, name="")
            axis.get_legend().remove()
            lowest = min(own, key=lambda row: row["bic"])
            axis.set(title=f"{name}\n{lowest['family']}, K = {lowest['K']}", xlabel="components K")
        for axis in axes[:, 0]:
            axis.set_ylabel("BIC (lower is better)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(
            handles[: len(families)], labels[: len(families)], loc="outside lower center", ncols=len(families)
        )
        figure.set_layout_engine("constrained")
    return figure


def write_report(options: Options, data_sets: list[DataSet], rows: list[dict[str, Any]]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    sources = "\n".join(f"- {d.name}: {d.source}; N, D = {d.x.shape}" for d in data_sets)
    lines = []
    for data_set in data_sets:
        own = [row for row in rows if row["data"] == data_set.name]
        chosen = {name: min(own, key=lambda row, name=name: row[name]) for name in CRITERIA}
        said = ", ".join(f"{name.upper()} {row['family']} with K = {row['K']}" for name, row in chosen.items())
        known = f" It was made with TiedSpherical, K = {data_set.k}." if data_set.name.startswith("c = ") else ""
        lines.append(f"- {data_set.name}: lowest {said}.{known}")
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{sources}

{options.restarts} restarts for each point, k-means++ and ten steps of K-means first, {options.regularization:g} added
to the diagonals of the covariances, float32. K is swept by switching components off, so that each family is one
compiled program; "seconds" is all of it, compilation included. BIC = -2 log L + p log N, AIC = -2 log L + 2 p, ICL adds
what the most probable labels cost; lower is better.

## Result

![BIC against K](bic.png)

{report.markdown_table(rows)}

## Reading

{chr(10).join(lines)}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 120))
    if options.smoke:
        options = dataclasses.replace(options, restarts=2, most=3, data=options.data[:1])
    data_sets = [mixture(name, options.seed) for name in options.data]
    tasks = [(name, family) for name in options.data for family in (FAMILIES[:2] if options.smoke else FAMILIES)]
    settings = (options.most, options.restarts, options.regularization, 100 if options.smoke else 500)
    rows: list[dict[str, Any]] = []
    with report.Kept(options.output, console) as kept:
        for name, family in track(tasks, description="data sets and families", console=console):
            rows += kept(table, name, family, options.seed, settings)
            report.write_csv(options.output / "table.csv", rows)
    for data_set in data_sets:
        own = sorted((row for row in rows if row["data"] == data_set.name), key=lambda row: row["bic"])
        report.print_table(f"{data_set.name}: the lowest BIC first", own[:8], console)
    report.save_figure(draw(rows), options.output / "bic", dpi=110)
    plt.close("all")
    write_report(options, data_sets, rows)
    console.print(f"Figure, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
