"""What does a thousand fits cost as one call, and which of them fail? K x restarts x regularization of a mixture."""

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from experiments import report
from experiments.data import mixture
from jaxmix import Status, as_data, gmm, kmeans, plot, seeding, solve, sweep

REFINE = 10
"""Steps of K-means between seeding and EM, as `gmm.fit` does by itself."""
ATOL = 1e-5
"""The tolerance of EM, in nats a row: in float32 smaller changes are near the rounding of the log-likelihood."""
SHOWN = (Status.CONVERGED, Status.MAX_STEPS, Status.LOSS_ROSE, Status.NONFINITE)


@dataclasses.dataclass(frozen=True)
class Options:
    """A thousand mixtures in one program, failures and all."""

    smoke: bool = False
    """One data set, few fits: to see that all works."""
    seed: int = 0
    """Seeds the starts."""
    most: int = 8
    """The largest K."""
    restarts: int = 32
    """Starts for each K and regularization."""
    regularizations: tuple[float, ...] = (0.0, 1e-6, 1e-4, 1e-2)
    """Added to the diagonals of the covariances; the data are standardized. 0 is maximum likelihood itself."""
    max_steps: int = 500
    """The most steps of EM."""
    sampled: int = 4
    """Restarts of each K and regularization that the loop runs; its time is multiplied up to all of them."""
    data: tuple[str, ...] = ("faithful", "iris", "wine")
    """Data sets, standardized: faithful, iris, wine, digits, china, or synthetic ones such as "c = 1, D = 10"."""
    output: Path = Path("results/sweep")
    """Where table, report and figures go."""


class Swept(NamedTuple):
    """What a sweep gave, of shape (K, regularizations, restarts), and what it took.

    Attributes:
      statuses: integers.
      losses: minus the log-likelihoods.
      steps: of EM.
      collapsed: rows of the smallest component whose covariance is no longer a number; NaN where all are.
      off: how many of the K components ended switched off.
      best: the index of the restart that `best` chose, of shape (K, regularizations).
      compiling: seconds to compile the call.
      running: seconds to run it.
    """

    statuses: np.ndarray
    losses: np.ndarray
    steps: np.ndarray
    collapsed: np.ndarray
    off: np.ndarray
    best: np.ndarray
    compiling: float
    running: float


def swept(name: str, seed: int, options: Options) -> Swept:
    """All fits of a data set as one call of `sweep.mixtures`, compiled and run apart to time both."""
    x = mixture(name, seed).x
    ks = range(1, options.most + 1)

    def all_fits(key: jax.Array) -> tuple[sweep.Sweep, sweep.Sweep]:
        found = sweep.mixtures(
            key,
            x,
            ks,
            covariances=[gmm.Full],
            regularizations=options.regularizations,
            restarts=options.restarts,
            max_steps=options.max_steps,
            atol=ATOL,
        )["Full"]
        return found, found.best("restart")

    begin = time.perf_counter()
    program = jax.jit(all_fits).lower(jax.random.key(seed)).compile()
    compiled = time.perf_counter()
    found, best = jax.block_until_ready(program(jax.random.key(seed)))
    running = time.perf_counter() - compiled
    fits = found.fits
    broken = ~np.isfinite(np.asarray(fits.params.covariance.scale_tril)).all(axis=(-2, -1))
    weights = np.where(broken, np.asarray(jnp.exp(fits.params.log_weights)) * len(x), np.inf)
    smallest = weights.min(axis=-1)
    is_off = np.isneginf(np.asarray(fits.params.log_weights)).sum(axis=-1)
    losses = np.asarray(fits.loss, float)
    winners = np.asarray(best.fits.loss, float)
    chosen = (losses == winners[..., None]).argmax(axis=-1)
    return Swept(
        np.asarray(fits.status),
        losses,
        np.asarray(fits.num_steps),
        np.where(np.isfinite(smallest), smallest, np.nan),
        is_off - (options.most - np.arange(1, options.most + 1))[:, None, None],
        chosen,
        compiled - begin,
        running,
    )


class Looped(NamedTuple):
    """The same fits one after another, by a program for each K: some of the restarts.

    Attributes:
      losses: of shape (K, regularizations, sampled).
      statuses: of that shape.
      compiling: seconds to compile the programs of all K.
      running: seconds to run these fits.
    """

    losses: np.ndarray
    statuses: np.ndarray
    compiling: float
    running: float


def looped(name: str, seed: int, options: Options) -> Looped:
    """A Python loop over K, regularization and restart, as one writes it by hand: seed, refine, start, run."""
    data = as_data(mixture(name, seed).x)
    shape = (options.most, len(options.regularizations), options.sampled)
    losses, statuses = np.full(shape, np.nan), np.full(shape, -1)
    starts = seeding.starts(jax.random.key(seed), data, options.most, restarts=options.restarts)
    compiling = running = 0.0

    def fit(centers: jax.Array, regularization: float) -> tuple[float, int]:
        problem = gmm.GaussianMixture(regularization=jnp.asarray(regularization, data.x.dtype))
        refined = solve.run(kmeans.KMeans(), solve.EM(), centers, data, max_steps=REFINE).params
        start = gmm.start.from_centers(refined, data, problem=problem)
        found = solve.run(problem, solve.EM(), start, data, max_steps=options.max_steps, atol=ATOL)
        return float(found.loss), int(found.status)

    for k in range(1, options.most + 1):
        begin = time.perf_counter()
        fit(starts[0, :k], 1.0)
        compiled = time.perf_counter()
        for i, regularization in enumerate(options.regularizations):
            for restart in range(options.sampled):
                losses[k - 1, i, restart], statuses[k - 1, i, restart] = fit(starts[restart, :k], regularization)
        compiling, running = compiling + compiled - begin, running + time.perf_counter() - compiled
    return Looped(losses, statuses, compiling, running)


def status_rows(name: str, found: Swept, options: Options) -> list[dict[str, Any]]:
    """A row for each K and regularization: how its restarts ended, and what won."""
    rows = []
    for i in range(options.most):
        for j, regularization in enumerate(options.regularizations):
            statuses, losses = found.statuses[i, j], found.losses[i, j]
            failed = statuses == Status.NONFINITE
            sizes = found.collapsed[i, j][failed]
            sizes = sizes[np.isfinite(sizes)]
            winner = int(found.best[i, j])
            rows.append(
                {
                    "data": name,
                    "K": i + 1,
                    "regularization": regularization,
                    **{status.name: int((statuses == status).sum()) for status in SHOWN},
                    "rows of the collapsed": float(np.median(sizes)) if len(sizes) else float("nan"),
                    "with a component off": int((found.off[i, j] > 0).sum()),
                    "steps": float(np.median(found.steps[i, j])),
                    "best log L": -losses[winner],
                    "status of the best": "-" if failed.all() else Status(int(statuses[winner])).name,
                }
            )
    return rows


def time_row(name: str, found: Swept, loop: Looped, options: Options) -> dict[str, Any]:
    """Seconds of both ways, the loop's runs multiplied up to all restarts; and whether their fits agree."""
    ours, theirs = found.losses[:, :, : options.sampled], loop.losses
    both = np.isfinite(ours) & np.isfinite(theirs)
    running = loop.running * options.restarts / options.sampled
    return {
        "data": name,
        "fits": found.losses.size,
        "one call, compiling": found.compiling,
        "one call, running": found.running,
        "loop, compiling": loop.compiling,
        "loop, running": running,
        "loop / one call": (loop.compiling + running) / (found.compiling + found.running),
        "loop / one call, compiled": running / found.running,
        "log L alike": float(np.mean(np.abs(ours - theirs)[both] <= 1e-3 * mixture(name, 0).x.shape[0])),
        "failures alike": float(np.mean(np.isfinite(ours) == np.isfinite(theirs))),
    }


def draw_statuses(results: dict[str, Swept], options: Options) -> Figure:
    """How fits end: a row for each data set, a column for each regularization, a stack for each K."""
    colors = dict(zip(SHOWN, (plot.COLORS[2], plot.COLORS[4], plot.COLORS[3], plot.COLORS[1]), strict=True))
    hatches = dict(zip(SHOWN, ("", "//", "..", "xx"), strict=True))
    num = len(options.regularizations)
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(
            len(results), num, figsize=(2.3 * num + 0.6, 1.7 * len(results) + 0.9), sharex=True, sharey=True
        )
        for row, (name, found) in zip(np.atleast_2d(axes), results.items(), strict=True):
            for j, (axis, regularization) in enumerate(zip(row, options.regularizations, strict=True)):
                floor = np.zeros(options.most)
                for status in SHOWN:
                    share = (found.statuses[:, j] == status).mean(axis=1)
                    axis.bar(
                        np.arange(1, options.most + 1),
                        share,
                        bottom=floor,
                        color=colors[status],
                        hatch=hatches[status],
                        edgecolor="white",
                        linewidth=0.4,
                        label=status.name,
                    )
                    floor += share
                if name == next(iter(results)):
                    axis.set_title(f"regularization {regularization:g}")
                if name == list(results)[-1]:
                    axis.set_xlabel("components K")
            row[0].set_ylabel(f"{name}\nshare of fits")
        legend = np.atleast_2d(axes)[0, 0].get_legend_handles_labels()
        figure.legend(*legend, loc="outside lower center", ncols=len(SHOWN))
        figure.set_layout_engine("constrained")
    return figure


def draw_times(times: list[dict[str, Any]]) -> Figure:
    """Seconds of the one call and of the loop, compilation and runs."""
    with plt.rc_context(report.STYLE):
        figure, axis = plt.subplots(figsize=(6.6, 0.9 + 0.75 * len(times)))
        labels, place = [], 0.0
        for row in times:
            for way in ("one call", "loop"):
                parts = [row[f"{way}, compiling"], row[f"{way}, running"]]
                for part, left, color, label in zip(
                    parts, (0.0, parts[0]), (plot.COLORS[7], plot.COLORS[0]), ("compiling", "running"), strict=True
                ):
                    axis.barh(place, part, left=left, color=color, height=0.8, label=label if not labels else None)
                axis.annotate(
                    f" {sum(parts):.3g} s", (sum(parts), place), va="center", fontsize=8, annotation_clip=False
                )
                labels.append((place, f"{row['data']}: {way}"))
                place += 1
            place += 0.5
        axis.set_yticks(*map(list, zip(*labels, strict=True)))
        axis.invert_yaxis()
        axis.set_xlabel(f"seconds for {times[0]['fits']} fits")
        axis.margins(x=0.12)
        axis.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=2)
        figure.set_layout_engine("constrained")
    return figure


def never_wins(results: dict[str, Swept]) -> tuple[int, int]:
    """Of the points where some fit lives, how many have a failed winner or one above the lowest; and all of these."""
    wrong = points = 0
    for found in results.values():
        alive = (found.statuses != Status.NONFINITE) & np.isfinite(found.losses)
        for index in zip(*np.nonzero(alive.any(axis=-1)), strict=True):
            winner = found.best[index]
            lowest = found.losses[index][alive[index]].min()
            wrong += int(not alive[index][winner] or found.losses[index][winner] != lowest)
            points += 1
    return wrong, points


def reading(results: dict[str, Swept], times: list[dict[str, Any]], options: Options) -> list[str]:
    """What the tables say, in sentences that are computed from them."""
    lines = []
    for name, found in results.items():
        shares = ", ".join(
            f"{(found.statuses[:, j] == Status.NONFINITE).mean():.1%} at {regularization:g}"
            for j, regularization in enumerate(options.regularizations)
        )
        sizes = found.collapsed[np.isfinite(found.collapsed) & (found.statuses == Status.NONFINITE)]
        num_features = mixture(name, options.seed).x.shape[1]
        why = (
            f" Of those with a component whose covariance is no number, {np.mean(sizes < num_features + 0.5):.0%} have "
            f"one of at most D = {num_features} rows, which span no volume; the median has {np.median(sizes):.3g}."
            if len(sizes)
            else ""
        )
        lines.append(f"- {name}: NONFINITE are {shares}.{why}")
        rose = found.statuses == Status.LOSS_ROSE
        if rose.any():
            most = options.regularizations[int(rose.mean(axis=(0, 2)).argmax())]
            lines.append(
                f"- {name}: LOSS_ROSE are {rose.mean():.1%}, most of them at {most:g}. What is added to a covariance "
                "after its M-step is no part of the likelihood, which may then fall; a prior keeps the ascent."
            )
    wrong, points = never_wins(results)
    lines.append(
        f"- A failing fit never wins: of {points} points (K, regularization) with a fit that lives, {wrong} have "
        "another winner than the lowest finite loss."
    )
    lines += [
        f"- {row['data']}: {row['fits']} fits take {row['one call, compiling'] + row['one call, running']:.3g} s as "
        f"one call, {row['one call, compiling']:.3g} of them to compile; the loop takes "
        f"{row['loop / one call']:.3g} times as long, {row['loop / one call, compiled']:.3g} times without "
        "compilation. "
        f"{row['log L alike']:.1%} of the fits that end in both end alike, within 1e-3 nats a row, and "
        f"{row['failures alike']:.1%} fail in both or in neither."
        for row in times
    ]
    return lines


def write_report(
    options: Options, results: dict[str, Swept], times: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    """Question, set-up, result and reading, as Markdown."""
    sources = "\n".join(
        f"- {name}: {mixture(name, options.seed).source}; N, D = {mixture(name, options.seed).x.shape}"
        for name in results
    )
    added = ", ".join(f"{value:g}" for value in options.regularizations)
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{sources}

K = 1 to {options.most}, {options.restarts} restarts, regularization {added}:
{options.most * options.restarts * len(options.regularizations)} mixtures with full covariances for each data set, in
float32, to a change of {ATOL:g} nats a row or {options.max_steps} steps. The one call is `sweep.mixtures`, in which K
is swept by switching components off. The loop is written by hand in Python: for each K a program of its own, which is
compiled once, then one fit after another from the same starts. It runs {options.sampled} restarts of each point, and
its running time is multiplied by {options.restarts / options.sampled:g}; its compilation is measured whole.

## Result

![Statuses](statuses.png)

![Times](times.png)

{report.markdown_table(times)}

{report.markdown_table(rows)}

"Rows of the collapsed" is the median over failed restarts of the weight, in rows, of the smallest component whose
covariance is no number.

## Reading

{chr(10).join(reading(results, times, options))}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 140))
    if options.smoke:
        options = dataclasses.replace(
            options, most=6, restarts=4, sampled=2, max_steps=100, data=("wine",), regularizations=(0.0, 1e-2)
        )
    # Results are kept by what they depend on: not by where they go, nor by which other data sets there are.
    asked = dataclasses.replace(options, data=(), output=Path())
    results: dict[str, Swept] = {}
    times: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with report.Kept(options.output, console) as kept:
        for name in track(options.data, description="data sets", console=console):
            results[name] = kept(swept, name, options.seed, asked)
            times.append(time_row(name, results[name], kept(looped, name, options.seed, asked), options))
            rows += status_rows(name, results[name], options)
            report.write_csv(options.output / "table.csv", rows)
            report.write_csv(options.output / "times.csv", times)
    report.print_table("How the restarts end", rows, console)
    report.print_table("One call against a loop", times, console)
    report.save_figure(draw_statuses(results, options), options.output / "statuses", dpi=110)
    report.save_figure(draw_times(times), options.output / "times", dpi=110)
    plt.close("all")
    write_report(options, results, times, rows)
    console.print(f"Figures, table.csv, times.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
