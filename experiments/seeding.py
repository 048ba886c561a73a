"""Which seeding? J after seeding and at the end, steps and time, of random rows, k-means++, k-means|| and maximin.

The experiments of Arthur and Vassilvitskii (2007) and of Bahmani et al. (2012) that need no downloads, and real data.
"""

import dataclasses
import math
import re
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console
from rich.progress import track

from experiments import report
from experiments.data import DATA_SETS
from experiments.kmeans_steps import SEEDINGS, fifteen_clusters
from jaxmix import as_data, kmeans, plot, seeding
from jaxmix.data import Data

MAX_STEPS = 2000


def few_parallel(key: jax.Array, data: Data, k: int) -> jax.Array:
    """k-means|| with K/2 rows in each round, where its default draws 2K."""
    return seeding.kmeans_parallel(key, data, k, oversampling=0.5)


METHODS = {**SEEDINGS, "k-means||, 2K": seeding.kmeans_parallel, "k-means||, K/2": few_parallel}
MIXTURES = tuple(f"GaussMixture, R = {spread}" for spread in (1, 10, 100))
REAL = (("iris", 3), ("digits", 10), ("china", 16), ("china", 64))
FLOOR = 1e-4
"""What J may lie above the best and still be drawn as equal to it: float32 rounds the sums."""
PUBLISHED_NORM = {
    ("NORM-10", 10): ((10898.0, 2526.9), (5.122, 5.122)),
    ("NORM-10", 25): ((787.992, 4.40205), (4.46809, 4.41158)),
    ("NORM-10", 50): ((3.47662, 3.40053), (3.35897, 3.26072)),
    ("NORM-25", 10): ((135512.0, 119201.0), (126433.0, 111611.0)),
    ("NORM-25", 25): ((48050.5, 25734.6), (15.8313, 15.8313)),
    ("NORM-25", 50): ((5466.02, 14.79), (14.76, 14.73)),
}
"""Average and least J / N of random rows and of k-means++: Arthur and Vassilvitskii (2007), tables 1 and 2."""
PUBLISHED_MIXTURES = {
    "GaussMixture, R = 1": {"": (math.nan, 14.0), "++": (23.0, 14.0), "||, K/2": (21.0, 14.0), "||, 2K": (20.0, 14.0)},
    "GaussMixture, R = 10": {
        "": (math.nan, 201.0),
        "++": (62.0, 31.0),
        "||, K/2": (36.0, 28.0),
        "||, 2K": (27.0, 23.0),
    },
    "GaussMixture, R = 100": {
        "": (math.nan, 23337.0),
        "++": (30.0, 15.0),
        "||, K/2": (23.0, 15.0),
        "||, 2K": (16.0, 15.0),
    },
}
"""Median J / 1e4 after seeding and at the end; "" is random rows: Bahmani et al. (2012), table 1."""
CASES = (
    *REAL,
    *((name, k) for name in ("NORM-10", "NORM-25") for k in (10, 25, 50)),
    *((name, 50) for name in MIXTURES),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Seedings of K-means: what they cost, and what they save."""

    smoke: bool = False
    """Three small data sets, few runs: to see that all works."""
    seed: int = 0
    """Seeds the data and the starts."""
    runs: int = 20
    """Starts for each seeding; 11 on GaussMixture."""
    output: Path = Path("results/seeding")
    """Where table, report and figures go."""


class Made(NamedTuple):
    """Rows, and J of the centers that they were drawn about; NaN for real data."""

    x: np.ndarray
    true_cost: float


def made(name: str, seed: int, num_rows: int = 10_000) -> Made:
    """Real data by name, "NORM-10", "NORM-25" or "GaussMixture, R = 10"."""
    if name in DATA_SETS:
        return Made(DATA_SETS[name]().x, math.nan)
    rng = np.random.default_rng(seed)
    if match := re.fullmatch(r"NORM-([0-9]+)", name):
        num, num_features = int(match[1]), {10: 5, 25: 15}[int(match[1])]
        centers = rng.uniform(0, 500, size=(num, num_features))
    else:
        centers = float(name.removeprefix("GaussMixture, R = ")) * rng.normal(size=(50, 15))
    noise = rng.normal(size=(num_rows, centers.shape[1]))
    x = (centers[np.arange(num_rows) % len(centers)] + noise).astype(np.float32)
    return Made(x, float(kmeans.objective(centers, x)))


def measured(name: str, k: int, runs: int, seed: int, num_rows: int) -> list[dict[str, Any]]:
    """A row for each seeding: every start's J and steps, and the mean seconds of a start, compilation apart."""
    x, true_cost = made(name, seed, num_rows)
    data, key = as_data(x), jax.random.key(seed)
    fit = partial(kmeans.fit_restarts, key, k=k, max_steps=MAX_STEPS)
    # Rows that are all equal end at once: what is left is the compilation, which the times leave out.
    jax.block_until_ready(fit(as_data(np.zeros_like(x)), init=np.zeros((runs, k, x.shape[1]), np.float32)))
    rows = []
    for method, init in METHODS.items():
        if init is few_parallel and name not in MIXTURES:
            continue
        seed_all = jax.jit(partial(seeding.starts, k=k, init=init, restarts=runs)).lower(key, data).compile()
        begin = time.perf_counter()
        starts = jax.block_until_ready(seed_all(key, data))
        seeded = time.perf_counter()
        fits = jax.block_until_ready(fit(data, init=starts))
        ended = time.perf_counter()
        rows.append(
            {
                "data": name,
                "K": k,
                "seeding": method,
                "N": len(x),
                "D": x.shape[1],
                "seeded": np.asarray(fits.trace[:, 0], float),
                "end": np.asarray(fits.loss, float),
                "steps": np.asarray(fits.num_steps, float),
                "seconds seeding": (seeded - begin) / runs,
                "seconds after": (ended - seeded) / runs,
                "true J": true_cost,
            }
        )
    return rows


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: means over the starts of a seeding, as multiples of the best J that any of them reached."""
    best = {key: min(r["end"].min() for r in results if _case(r) == key) for key in map(_case, results)}
    return [
        {
            "data": r["data"],
            "N": r["N"],
            "D": r["D"],
            "K": r["K"],
            "seeding": r["seeding"],
            "J seeded / best": float(r["seeded"].mean() / best[_case(r)]),
            "J / best": float(r["end"].mean() / best[_case(r)]),
            "least J / best": float(r["end"].min() / best[_case(r)]),
            "steps": float(r["steps"].mean()),
            "ms seeding": 1e3 * r["seconds seeding"],
            "ms in all": 1e3 * (r["seconds seeding"] + r["seconds after"]),
        }
        for r in results
    ]


def _case(row: dict[str, Any]) -> tuple[str, int]:
    return row["data"], row["K"]


def _published(row: dict[str, Any]) -> tuple[float, float]:
    """The paper's two numbers for a row, or nothing where it has none."""
    seeding = row["seeding"]
    if row["data"] in MIXTURES:
        name = "" if seeding == "random rows" else seeding.removeprefix("k-means")
        return PUBLISHED_MIXTURES[row["data"]].get(name, (math.nan, math.nan))
    random, careful = PUBLISHED_NORM[_case(row)]
    return {"random rows": random, "k-means++": careful}.get(seeding, (math.nan, math.nan))


def norm_rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Arthur and Vassilvitskii tabulate: average and least J, here by row, and the time."""
    return [
        {
            "data": r["data"],
            "K": r["K"],
            "seeding": r["seeding"],
            "average J / N": float(r["end"].mean() / r["N"]),
            "published average": _published(r)[0],
            "least J / N": float(r["end"].min() / r["N"]),
            "published least": _published(r)[1],
            "true centers": r["true J"] / r["N"],
            "average seconds": r["seconds seeding"] + r["seconds after"],
        }
        for r in results
        if r["data"].startswith("NORM")
    ]


def mixture_rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Bahmani et al. tabulate: medians of J after seeding and at the end, in units of 1e4."""
    return [
        {
            "data": r["data"],
            "seeding": r["seeding"],
            "median J seeded / 1e4": float(np.median(r["seeded"]) / 1e4),
            "published seeded": _published(r)[0],
            "median J / 1e4": float(np.median(r["end"]) / 1e4),
            "published": _published(r)[1],
            "true centers": r["true J"] / 1e4,
            "median steps": float(np.median(r["steps"])),
        }
        for r in results
        if r["data"] in MIXTURES
    ]


def draw(rows: list[dict[str, Any]]) -> Figure:
    """A line for each data set and K, a mark for each seeding: J after seeding, J at the end, steps, time."""
    cases = list(dict.fromkeys(map(_case, rows)))
    panels = {
        "J seeded / best": "J after seeding / best - 1",
        "J / best": "J at the end / best - 1",
        "steps": "steps of Lloyd",
        "ms in all": "time of a start, ms",
    }
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(10.4, 1.5 + 0.27 * len(cases)), sharey=True)
        for axis, (column, label) in zip(axes, panels.items(), strict=True):
            for i, method in enumerate(METHODS):
                own = [row for row in rows if row["seeding"] == method]
                axis.plot(
                    [max(row[column] - 1, FLOOR) if "best" in column else row[column] for row in own],
                    [cases.index(_case(row)) for row in own],
                    linestyle="none",
                    marker=plot.MARKERS[i],
                    markersize=4.5,
                    color=plot.COLORS[i],
                    fillstyle="none",
                    label=method,
                )
            axis.set(xscale="log", xlabel=label)
            axis.xaxis.set_minor_formatter(NullFormatter())
        axes[2].set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
        axes[0].set_yticks(range(len(cases)), [f"{name}, K = {k}" for name, k in cases])
        axes[0].invert_yaxis()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS))
        figure.set_layout_engine("constrained")
    return figure


def draw_starts(seed: int) -> Figure:
    """Where each seeding puts the centers of fifteen clusters, with J."""
    x = fifteen_clusters(seed)
    best = float(kmeans.fit(jax.random.key(seed), x, 15, restarts=32).loss)
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, 3, figsize=(8.4, 5.8), sharex=True, sharey=True)
        for axis, (method, init) in zip(axes.flat, METHODS.items(), strict=True):
            centers = seeding.starts(jax.random.key(seed), as_data(x), 15, init=init, restarts=1)[0]
            plot.scatter(axis, x, None, centers)
            axis.set(title=method, xlabel=f"J = {float(kmeans.objective(centers, x)) / best:.3g} times the best")
        figure.set_layout_engine("constrained")
    return figure


def reading(rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[str]:
    """What the table says, in sentences that are computed from it."""
    cells = {(*_case(row), row["seeding"]): row for row in rows}
    cases = list(dict.fromkeys(map(_case, rows)))

    def against(method: str, other: str, column: str) -> str:
        pairs = [(cells[*c, method][column], cells[*c, other][column]) for c in cases]
        ratio = math.exp(float(np.mean([math.log(a / b) for a, b in pairs])))
        return f"{sum(a < b for a, b in pairs)} of {len(pairs)} cases (geometric mean of the ratio {ratio:.2f})"

    lines = []
    for method, other in (
        ("k-means++", "random rows"),
        ("greedy k-means++", "k-means++"),
        ("k-means||, 2K", "k-means++"),
        ("maximin", "greedy k-means++"),
    ):
        lines.append(
            f"- {method} against {other}: a lower mean J after seeding in {against(method, other, 'J seeded / best')}, "
            f"at the end in {against(method, other, 'J / best')}; fewer steps in {against(method, other, 'steps')}; "
            f"less time in {against(method, other, 'ms in all')}."
        )
    pairs = [(row, _published(row)) for row in results if row["data"] in MIXTURES or row["data"].startswith("NORM")]
    middle = {True: np.median, False: np.mean}
    for method in ("k-means++", "k-means||, K/2", "k-means||, 2K"):
        found = [
            float(middle[row["data"] in MIXTURES](row["end"]) / (row["N"] * value))
            for row, published in pairs
            for value in [published[row["data"] in MIXTURES]]
            if row["seeding"] == method and not math.isnan(value)
        ]
        if found:
            lines.append(
                f"- {method}: J at the end is {min(found):.2f} to {max(found):.2f} times the published, in the "
                f"{len(found)} cases that have one."
            )
    ratios = {c: cells[*c, "k-means++"]["J seeded / best"] for c in cases}
    closest = max(cases, key=lambda c: ratios[c] / bound(c[1]))
    lines.append(
        "- The theorem of Arthur and Vassilvitskii bounds the expected J after k-means++ by 8 (log K + 2) times the "
        f"optimum. The mean comes closest to it on {closest[0]}, K = {closest[1]}: {ratios[closest]:.3g} times the "
        f"best J found, where the bound is {bound(closest[1]):.3g}."
    )
    return lines


def bound(k: int) -> float:
    """Theorem 1.1 of Arthur and Vassilvitskii (2007): expected J after k-means++, as a multiple of the optimum."""
    return 8 * (math.log(k) + 2)


def write_report(options: Options, results: list[dict[str, Any]]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    rows = summary(results)
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{options.runs} starts for each seeding, 11 on GaussMixture; each runs by Lloyd to its fixed point, in float32. Time is
that of one start, compilation apart. Greedy k-means++ tries 2 + floor(log K) rows for each center; k-means|| draws 2K
rows, or K/2, in each of five rounds, and ends with greedy k-means++ among them.

- NORM-10 and NORM-25 (Arthur and Vassilvitskii 2007): 10 centers in 5 dimensions, 25 in 15, uniform in a cube of side
  500; as many rows about each, of unit variance; N = 10,000.
- GaussMixture (Bahmani et al. 2012): 50 centers in 15 dimensions from a Gaussian of standard deviation R, as many rows
  of unit variance about each; N = 10,000, K = 50. The paper calls R the variance; its numbers are those of the standard
  deviation.
- Real data: iris, digits, and pixels of china.jpg, which scikit-learn ships.

Spam, Cloud and Intrusion are left out: no package ships them. The papers' numbers stand beside ours. They are quoted
from memory, for the papers were not at hand: look them up before you cite them. Both drew other rows from the same
laws, so that what is left to chance, such as J after random rows, differs; their k-means|| ends with k-means++ and not
with its greedy form.

## Result

J as a multiple of the best that any start reached, means over the starts; marks at {FLOOR:g} are that or less:

![Seedings](seedings.png)

![Where the centers start](starts.png)

{report.markdown_table(rows)}

The tables of the two papers, in their form: average and least J, here by row, where N is 10,000 in all; and medians of
J in units of 10,000. "Published" is what the papers print, where they do. "True centers" is J of the centers that the
rows were drawn about.

{report.markdown_table(norm_rows(results))}

{report.markdown_table(mixture_rows(results))}

## Reading

{chr(10).join(reading(rows, results))}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 130))
    if options.smoke:
        options = dataclasses.replace(options, runs=4)
    cases = (("iris", 3), ("NORM-10", 10), (MIXTURES[2], 50)) if options.smoke else CASES
    num_rows = 500 if options.smoke else 10_000
    results: list[dict[str, Any]] = []
    with report.Kept(options.output, console) as kept:
        for name, k in track(cases, description="data sets", console=console):
            runs = min(options.runs, 11) if name in MIXTURES else options.runs
            results += kept(measured, name, k, runs, options.seed, num_rows)
            report.write_csv(options.output / "table.csv", summary(results))
    rows = summary(results)
    shown = [{name: value for name, value in row.items() if name not in ("N", "D")} for row in rows]
    report.print_table("J as a multiple of the best", shown, console)
    report.save_figure(draw(rows), options.output / "seedings", dpi=110)
    report.save_figure(draw_starts(options.seed), options.output / "starts", dpi=110)
    plt.close("all")
    write_report(options, results)
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
