"""What does each E-step and each M-step of K-means do, and how often does a start end badly?

Frames of Lloyd's algorithm on Old Faithful; two starts that end in poor minima; and for each seeding the share of
restarts that do so.
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
from experiments.data import DATA_SETS, mixture
from jaxmix import kmeans, plot, seeding

RESTARTS = (1, 2, 4, 8, 16, 32)
REACHED = 1e-3
"""A fit is at the best minimum known if its J is above it by less than this share."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Lloyd's algorithm step by step, poor minima, and how often restarts end in one."""

    smoke: bool = False
    """Few fits, few frames: to see that all works."""
    seed: int = 0
    """Seeds the data and the starts."""
    fits: int = 512
    """Fits for each seeding."""
    output: Path = Path("results/kmeans_steps")
    """Where table, report and figures go."""


class Frame(NamedTuple):
    """A moment of the algorithm: the labels that hold, the centers that hold, and J of both together."""

    title: str
    labels: np.ndarray | None
    centers: np.ndarray
    cost: float


def plain_kmeans_plus_plus(key: jax.Array, data: Any, k: int) -> jax.Array:
    """The method of the paper: one row drawn for each center."""
    return seeding.kmeans_plus_plus(key, data, k, trials=1)


SEEDINGS = {
    "random rows": seeding.random_rows,
    "k-means++": plain_kmeans_plus_plus,
    "greedy k-means++": seeding.kmeans_plus_plus,
    "maximin": seeding.maximin,
}


def frames(x: np.ndarray, centers: np.ndarray, most: int) -> list[Frame]:
    """The start, and each E-step and M-step until nothing changes, `most` rounds at the most."""
    found = [Frame("start", None, centers, float(kmeans.objective(centers, x)))]
    labels: np.ndarray | None = None
    for turn in range(1, most + 1):
        new_labels = np.asarray(kmeans.predict(centers, x))
        if labels is not None and (new_labels == labels).all():
            break
        labels = new_labels
        found.append(Frame(f"E-step {turn}", labels, centers, float(kmeans.objective(centers, x, labels))))
        centers = np.asarray(kmeans.update(centers, x, labels))
        found.append(Frame(f"M-step {turn}", labels, centers, float(kmeans.objective(centers, x, labels))))
    return found


def draw_frames(x: np.ndarray, found: list[Frame]) -> Figure:
    """The first frames and the last, J under each."""
    shown = found if len(found) <= 8 else [*found[:7], found[-1]._replace(title=f"end: {found[-1].title}")]
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, 4, figsize=(9.6, 5.2), sharex=True, sharey=True)
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        for axis, frame in zip(axes.flat, shown, strict=False):
            plot.scatter(axis, x, frame.labels, frame.centers)
            plot.regions(axis, frame.centers)
            axis.set_title(frame.title)
            axis.set_xlabel(f"J = {frame.cost:.4g}")
        figure.supylabel("waiting time, standardized", fontsize=9)
        figure.supxlabel("duration of the eruption, standardized", fontsize=9)
        figure.set_layout_engine("constrained")
    return figure


def five_clusters(seed: int) -> np.ndarray:
    """Five round clusters, two of them apart from the other three."""
    rng = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [2.5, 0.0], [1.25, 2.2], [9.0, 0.5], [9.0, 3.5]])
    return (means[np.arange(500) % 5] + 0.45 * rng.normal(size=(500, 2))).astype(np.float32)


def fifteen_clusters(seed: int) -> np.ndarray:
    """Fifteen round clusters at random places."""
    rng = np.random.default_rng(seed + 1)
    means = rng.uniform(0, 20, size=(15, 2))
    return (means[np.arange(1500) % 15] + 0.5 * rng.normal(size=(1500, 2))).astype(np.float32)


SETS: dict[str, tuple[Callable[[int], np.ndarray], int]] = {
    "five clusters": (five_clusters, 5),
    "fifteen clusters": (fifteen_clusters, 15),
    "iris": (lambda seed: DATA_SETS["iris"]().x, 6),
}
"""Rows by a seed, and how many clusters are looked for."""


BAD_STARTS = {
    "all five in the left group": np.array([[0.0, 0.0], [2.5, 0.0], [1.25, 2.2], [1.2, 0.5], [0.5, 1.0]], np.float32),
    "four in the right group": np.array([[1.2, 0.7], [9.0, 0.2], [9.2, 0.8], [8.8, 3.3], [9.2, 3.8]], np.float32),
}


def draw_poor_minima(x: np.ndarray, best: np.ndarray) -> Figure:
    """Where two bad starts end, beside the best minimum known."""
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.0), sharex=True, sharey=True)
        ends = {title: frames(x, start, 100)[-1] for title, start in BAD_STARTS.items()}
        ends["the best known"] = frames(x, best, 100)[-1]
        for axis, (title, frame) in zip(axes, ends.items(), strict=True):
            plot.scatter(axis, x, frame.labels, frame.centers)
            plot.regions(axis, frame.centers)
            axis.set(title=title, xlabel=f"J = {frame.cost:.4g}")
        figure.set_layout_engine("constrained")
    return figure


def share_poor(reached: np.ndarray, restarts: int) -> float:
    """The chance that the best of some restarts, drawn from these fits without replacement, is a poor minimum."""
    num, poor = len(reached), int((~reached).sum())
    return float(np.prod([(poor - i) / (num - i) for i in range(restarts)])) if poor >= restarts else 0.0


def seeding_rows(name: str, seed: int, num: int) -> list[dict[str, Any]]:
    """For each seeding, and each number of restarts, how often the best of them is poor; of `num` fits."""
    make, k = SETS[name]
    x, key = make(seed), jax.random.key(seed)
    fits = {
        title: kmeans.fit_restarts(jax.random.fold_in(key, i), x, k, init=init, restarts=num)
        for i, (title, init) in enumerate(SEEDINGS.items())
    }
    best = min(float(found.loss.min()) for found in fits.values())
    rows = []
    for title, found in fits.items():
        losses = np.asarray(found.loss, float)
        reached = losses <= best * (1 + REACHED)
        rows += [
            {
                "data": name,
                "K": k,
                "seeding": title,
                "restarts": number,
                "ends poorly": share_poor(reached, number),
                "median J / best": float(np.median(losses) / best),
                "steps": float(np.median(found.num_steps)),
            }
            for number in RESTARTS
            if number <= num
        ]
    return rows


def draw_shares(rows: list[dict[str, Any]]) -> Figure:
    """The share of poor ends against the number of restarts, a line for each seeding."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(3.3 * len(names), 3.2), sharey=True, squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            for i, title in enumerate(SEEDINGS):
                own = [row for row in rows if (row["data"], row["seeding"]) == (name, title)]
                axis.plot(
                    [row["restarts"] for row in own],
                    [row["ends poorly"] for row in own],
                    color=plot.COLORS[i],
                    marker=plot.MARKERS[i],
                    markersize=4,
                    label=title,
                )
            axis.set_xscale("log", base=2)
            axis.set_xticks(RESTARTS, [str(number) for number in RESTARTS])
            axis.set(title=f"{name}, K = {next(row['K'] for row in rows if row['data'] == name)}", xlabel="restarts")
            axis.set_ylim(-0.02, 1.02)
        axes[0][0].set_ylabel("share that ends in a poor minimum")
        axes[0][-1].legend()
        figure.set_layout_engine("constrained")
    return figure


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console()
    faithful = mixture("faithful", options.seed).x
    found = frames(faithful, np.array([[-1.5, 1.0], [1.5, -1.0]], np.float32), 3 if options.smoke else 100)
    five = five_clusters(options.seed)
    rows: list[dict[str, Any]] = []
    num = 32 if options.smoke else options.fits
    with report.Kept(options.output, console) as kept:
        for name in track(list(SETS)[: 1 if options.smoke else None], description="seedings", console=console):
            rows += kept(seeding_rows, name, options.seed, num)
            report.write_csv(options.output / "table.csv", rows)
    best = kmeans.fit(jax.random.key(options.seed), five, 5, restarts=32).params
    for path, figure in (
        ("frames", draw_frames(faithful, found)),
        ("poor_minima", draw_poor_minima(five, np.asarray(best))),
        ("shares", draw_shares(rows)),
    ):
        report.save_figure(figure, options.output / path, dpi=110)
    plt.close("all")
    report.print_table("Restarts that end in a poor minimum", rows, console)
    write_report(options, found, rows)
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows


def write_report(options: Options, found: list[Frame], rows: list[dict[str, Any]]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    fallen = [f"- {frame.title}: J = {frame.cost:.6g}" for frame in found]
    single = [row for row in rows if row["restarts"] == 1]
    lines = [
        f"- {row['data']}, {row['seeding']}: one start ends poorly {100 * row['ends poorly']:.0f} % of the time; its "
        f"median J is {row['median J / best']:.3g} times the best, after {row['steps']:.0f} steps."
        for row in single
    ]
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

Old Faithful (272 rows, standardized), K = 2, from the centers (-1.5, 1) and (1.5, -1). An E-step gives each row the
nearest center, an M-step moves each center to the mean of its rows; neither can raise J, the sum of squared distances
of rows to the center they were given.

Then {32 if options.smoke else options.fits} fits for each seeding, float32, each to its fixed point. A fit ends poorly
if its J is above the best known by more than {REACHED:g} of it; for R restarts it is the chance that all of R fits,
drawn from these, do.

## Result

![Frames](frames.png)

{chr(10).join(fallen)}

![Poor minima](poor_minima.png)

![Shares](shares.png)

{report.markdown_table(rows)}

## Reading

{chr(10).join(lines)}
"""
    report.write_text(options.output / "report.md", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
