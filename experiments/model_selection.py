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
from rich.progress import Progress

from experiments import report
from experiments.data import DataSet, mixture
from jaxmix import Status, gmm, metrics, plot, sweep

FAMILIES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.TiedDiagonal, gmm.Spherical, gmm.TiedSpherical)
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
    """Added to the diagonals of the covariances; the data are standardised."""
    data: tuple[str, ...] = ("faithful", "iris", "c = 5")
    """Data sets: faithful, iris, wine, or synthetic mixtures such as "c = 1, D = 10"."""
    output: Path = Path("results/model_selection")
    """Where table, report and figures go."""


def table(data_set: DataSet, options: Options, progress: Progress, task: Any) -> list[dict[str, Any]]:
    """A row for each family and K."""
    rows = []
    families = FAMILIES[:2] if options.smoke else FAMILIES
    for family in families:
        progress.update(task, description=f"{data_set.name}: {family.__name__}")
        start = time.perf_counter()
        swept = sweep.mixtures(
            jax.random.key(options.seed),
            data_set.x,
            range(1, options.most + 1),
            families=[family],
            regularizations=[options.regularization],
            restarts=options.restarts,
            max_steps=100 if options.smoke else 500,
        )[family.__name__].at(regularization=0)
        best = swept.best("restart")
        columns = {name: best.map(lambda fit, f=f: f(fit.params, data_set.x)) for name, f in CRITERIA.items()}
        seconds = time.perf_counter() - start
        converged = np.mean(np.asarray(swept.fits.status) == Status.CONVERGED, axis=1)
        for row, share in zip(best.rows(**columns), converged, strict=True):
            rows.append(
                {
                    "data": data_set.name,
                    "family": family.__name__,
                    "K": row["k"],
                    "log-likelihood": -row["loss"],
                    **{name: row[name] for name in CRITERIA},
                    "converged": float(share),
                    "seconds": seconds,
                }
            )
        progress.advance(task)
    return rows


def draw(rows: list[dict[str, Any]]) -> Figure:
    """BIC against K: a panel for each data set, a line for each family, the lowest point marked."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(3.3 * len(names) + 0.3, 3.4), squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            own = [row for row in rows if row["data"] == name]
            lines = {family: [row["bic"] for row in own if row["family"] == family] for family in families}
            plot.criteria(axis, [row["K"] for row in own if row["family"] == families[0]], lines, name="")
            axis.get_legend().remove()
            lowest = min(own, key=lambda row: row["bic"])
            axis.set(title=f"{name}: {lowest['family']}, K = {lowest['K']}", xlabel="components K")
        axes[0][0].set_ylabel("BIC (lower is better)")
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
        lines.append(f"- {data_set.name}: lowest {said}.")
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
    rows: list[dict[str, Any]] = []
    with Progress(console=console) as progress:
        task = progress.add_task("families", total=len(data_sets) * (2 if options.smoke else len(FAMILIES)))
        for data_set in data_sets:
            rows += table(data_set, options, progress, task)
            # Written at each data set: an interrupted run keeps what it has.
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
