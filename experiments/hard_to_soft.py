"""What does one float do between annealing, EM and K-means, and does annealing reach the best optimum more often?

A mixture of which the means alone are free: equal weights, one known width. Its inverse temperature is near 0 for
annealing, 1 for EM, and infinite for K-means.
"""

import dataclasses
import math
from functools import partial
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
from experiments.data import DATA_SETS
from experiments.kmeans_steps import REACHED, fifteen_clusters, five_clusters
from jaxmix import Data, Fit, Problem, Rows, as_data, gmm, kmeans, linalg, plot, seeding, solve
from jaxmix.mixture import Mixture, MixtureModel, Normal
from jaxmix.pytree import choice

SETS = {"five clusters": 5, "fifteen clusters": 15, "iris": 6}
LAST = 32.0
"""The inverse temperature from which annealing goes on to infinity."""
JITTER = 1e-3
"""How far annealing moves the means at each temperature, in widths: equal means would stay equal for ever."""
SMALL = 1e-5
"""The tolerance of a fit at one temperature, in nats a row; tenfold finer where it is the last."""


@dataclasses.dataclass(frozen=True)
class Options:
    """From deterministic annealing through EM to K-means by the inverse temperature."""

    smoke: bool = False
    """One data set, few temperatures and starts: to see that all works."""
    seed: int = 0
    """Seeds the data, the starts and the annealing."""
    temperatures: int = 33
    """Temperatures of the curves."""
    stages: int = 24
    """Temperatures that annealing goes through, half of them up to EM."""
    fits: int = 256
    """Restarts for each seeding."""
    annealings: int = 32
    """Annealings, each with its own noise."""
    output: Path = Path("results/hard_to_soft")
    """Where table, report and figures go."""


@choice
class Means(Problem):
    """The problem of a mixture whose weights and covariance are known."""

    mixture: MixtureModel

    def prepare(self, params: Mixture) -> Any:
        """That of the mixture."""
        return self.mixture.prepare(params)

    def e_step(self, prepared: Any, rows: Rows) -> gmm.Stats:
        """That of the mixture, with its assignment."""
        return self.mixture.e_step(prepared, rows)

    def m_step(self, stats: gmm.Stats, params: Mixture) -> Mixture:
        """New means; the rest stays."""
        return with_means(params, params.means + linalg.safe_divide(stats.moments.first, stats.counts[:, None]))

    def loss(self, prepared: Any, rows: Rows) -> jax.Array:
        """Minus the evidence of the assignment."""
        return self.mixture.loss(prepared, rows)


def with_means(params: Mixture, means: jax.Array) -> Mixture:
    """The mixture with other means."""
    return params._replace(components=params.components._replace(means=means))


def at_temperature(inverse_temperature: jax.Array | float) -> Means:
    """The problem at a temperature, which is a leaf: `vmap` over it."""
    return Means(gmm.GaussianMixture(gmm.TiedSpherical, assignment=gmm.Tempered(inverse_temperature)))


EM_LIMIT = Means(gmm.GaussianMixture(gmm.TiedSpherical))
HARD_LIMIT = Means(gmm.GaussianMixture(gmm.TiedSpherical, assignment=gmm.Hard()))


def mixture_at(centers: jax.Array, width: jax.Array | float) -> Mixture:
    """Equal weights, and one width for all."""
    k, dtype = centers.shape[-2], centers.dtype
    log_weights = jnp.full(centers.shape[:-1], -math.log(k), dtype)
    return Mixture(log_weights, Normal(centers, gmm.TiedSpherical(jnp.full(centers.shape[:-2], width, dtype))))


class Setting(NamedTuple):
    """A data set, its number of clusters, the width that is taken as known, and where one cluster first splits."""

    x: np.ndarray
    k: int
    width: float
    critical: float


def setting(name: str, seed: int) -> Setting:
    """The width is the one that the best K-means fit has; above the critical inverse temperature means part."""
    makers = {"five clusters": five_clusters, "fifteen clusters": fifteen_clusters}
    x = makers[name](seed) if name in makers else DATA_SETS[name]().x
    loss = float(kmeans.fit(jax.random.key(seed), x, SETS[name], restarts=64).loss)
    variance = loss / x.size
    largest = float(np.linalg.eigvalsh(np.cov(x.T.astype(float), bias=True))[-1])
    return Setting(x, SETS[name], math.sqrt(variance), variance / largest)


def groups(means: np.ndarray, width: float) -> np.ndarray:
    """A label for each mean: those closer than a quarter of a width to an earlier one share its label."""
    labels: list[int] = []
    for i, mean in enumerate(means):
        near = [labels[j] for j in range(i) if np.linalg.norm(mean - means[j]) < 0.25 * width]
        labels.append(near[0] if near else len(set(labels)))
    return np.array(labels)


@partial(jax.jit, static_argnames="max_steps")
def _at_each(inverse_temperatures: jax.Array, starts: Mixture, data: Data, max_steps: int) -> Fit:
    """At every temperature the start whose fit has the highest evidence, all in one program."""

    def at_one(inverse_temperature: jax.Array) -> Fit:
        problem = at_temperature(inverse_temperature)
        # Where means are about to part, they move slowly.
        return solve.best(solve.run_many(problem, solve.EM(), starts, data, max_steps=max_steps, atol=SMALL / 100))

    return jax.vmap(at_one)(inverse_temperatures)


class Point(NamedTuple):
    """The fit at an inverse temperature: its means, log-likelihood by row, J, and how many means are apart."""

    inverse_temperature: float
    means: np.ndarray
    log_likelihood: float
    cost: float
    apart: int


def curve(name: str, seed: int, num: int, num_starts: int) -> list[Point]:
    """Points from below the critical temperature to K-means itself, which is the last."""
    x, k, width, critical = setting(name, seed)
    data = as_data(x)
    starts = mixture_at(seeding.starts(jax.random.key(seed), data, k, restarts=num_starts), width)
    grid = jnp.asarray(np.geomspace(0.5 * critical, LAST, num), jnp.float32)
    fits = _at_each(grid, starts, data, 3000).params.means
    hard = solve.best(solve.run_many(HARD_LIMIT, solve.EM(), starts, data, atol=SMALL / 10)).params.means
    found = []
    for inverse_temperature, means in zip([*grid.tolist(), math.inf], [*fits, hard], strict=True):
        likelihood = float(gmm.log_likelihood(mixture_at(means, width), x)) / len(x)
        apart = groups(np.asarray(means), width).max() + 1
        found.append(
            Point(inverse_temperature, np.asarray(means), likelihood, float(kmeans.objective(means, x)), int(apart))
        )
    return found


class Ends(NamedTuple):
    """Where many starts of one way end: by EM and by K-means, the loss and the passes over the data of each.

    Attributes:
      losses: minus the log-likelihood by row, and J: two arrays of the same length.
      passes: two arrays of that length.
    """

    losses: dict[str, np.ndarray]
    passes: dict[str, np.ndarray]


def restarted(name: str, seed: int, init: str, num: int) -> Ends:
    """EM and K-means from the same starts."""
    x, k, width, _ = setting(name, seed)
    data = as_data(x)
    trials = 2 + int(math.log(k)) if init == "kmeans_plus_plus" else 0
    starts = seeding.starts(jax.random.key(seed), data, k, init=getattr(seeding, init), restarts=num)
    soft = solve.run_many(EM_LIMIT, solve.EM(), mixture_at(starts, width), data, max_steps=2000, atol=SMALL / 10)
    hard = kmeans.fit_restarts(jax.random.key(seed), data, k, init=starts)
    fits = {"EM": soft, "K-means": hard}
    losses = {title: np.asarray(fit.loss, float) / (len(x) if title == "EM" else 1) for title, fit in fits.items()}
    return Ends(losses, {title: np.asarray(fit.num_steps, float) + trials for title, fit in fits.items()})


def annealed(name: str, seed: int, stages: int, num: int) -> tuple[Ends, np.ndarray, np.ndarray]:
    """The ends, the inverse temperatures, and the means of the first annealing at each of them."""
    x, k, width, critical = setting(name, seed)
    data = as_data(x)
    first = np.geomspace(0.9 * critical, 1, stages // 2, endpoint=False)
    second = np.geomspace(1, LAST, stages - stages // 2)

    def anneal(key: jax.Array) -> tuple:
        def stage(params: Mixture, at: tuple[jax.Array, jax.Array]) -> tuple[Mixture, tuple[jax.Array, jax.Array]]:
            noise = JITTER * width * jax.random.normal(at[1], params.means.shape, params.means.dtype)
            moved = with_means(params, params.means + noise)
            fit = solve.run(at_temperature(at[0]), solve.EM(), moved, data, max_steps=100, atol=SMALL)
            return fit.params, (fit.num_steps, fit.params.means)

        def cooled(params: Mixture, grid: np.ndarray, key: jax.Array) -> tuple:
            return jax.lax.scan(stage, params, (jnp.asarray(grid, data.x.dtype), jax.random.split(key, len(grid))))

        low, high = jax.random.split(key)
        begun = mixture_at(jnp.repeat(jnp.mean(data.x, axis=0)[None], k, axis=0), width)
        params, (warm, way) = cooled(begun, first, low)
        soft = solve.run(EM_LIMIT, solve.EM(), params, data, max_steps=2000, atol=SMALL / 10)
        params, (cold, last_way) = cooled(params, second, high)
        hard = solve.run(HARD_LIMIT, solve.EM(), params, data, atol=SMALL / 10)
        passes = jnp.sum(warm) + jnp.stack([soft.num_steps, jnp.sum(cold) + hard.num_steps])
        return soft.loss / len(x), hard.params.means, passes, jnp.concatenate([way, last_way])

    keys = jax.random.split(jax.random.key(seed), num)
    soft, means, passes, ways = jax.jit(lambda keys: jax.lax.map(anneal, keys))(keys)
    costs = np.array([float(kmeans.objective(end, x)) for end in means])
    losses = {"EM": np.asarray(soft, float), "K-means": costs}
    taken = {title: np.asarray(passes[:, i], float) for i, title in enumerate(losses)}
    return Ends(losses, taken), np.concatenate([first, second]), np.asarray(ways[0])


def reached(ends: dict[str, Ends], target: str) -> dict[str, float]:
    """For each way the share of its starts that end at the best optimum that any found."""
    best = min(float(np.nanmin(end.losses[target])) for end in ends.values())
    slack = REACHED if target == "EM" else REACHED * abs(best)
    return {way: float(np.mean(end.losses[target] <= best + slack)) for way, end in ends.items()}


def chance(share: float, passes: float, budget: float) -> float:
    """That the best of the restarts which a budget of passes pays for, one at the least, is at the best optimum."""
    return 1 - (1 - share) ** max(1.0, budget / passes)


def table(name: str, ends: dict[str, Ends]) -> list[dict[str, Any]]:
    """A row for each target and way."""
    rows = []
    for target in ("EM", "K-means"):
        shares = reached(ends, target)
        budget = float(ends["annealing"].passes[target].mean())
        for way, end in ends.items():
            passes = float(end.passes[target].mean())
            rows.append(
                {
                    "data": name,
                    "K": SETS[name],
                    "target": target,
                    "way": way,
                    "starts": len(end.losses[target]),
                    "reaches best": shares[way],
                    "passes": passes,
                    "at the passes of one annealing": chance(shares[way], passes, budget),
                }
            )
    return rows


def draw_frames(name: str, seed: int, points: list[Point]) -> Figure:
    """Rows in the colors of their tempered responsibilities at six temperatures, the last of them zero."""
    x, k, width, critical = setting(name, seed)
    wanted = [0.5 * critical, 2 * critical, 5 * critical, 0.2, 1.0]
    grid = np.array([point.inverse_temperature for point in points[:-1]])
    shown = [points[int(np.argmin(np.abs(np.log(grid / b))))] for b in wanted] + [points[-1]]
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, 3, figsize=(8.6, 4.9), sharex=True, sharey=True)
        for axis, point in zip(axes.flat, shown, strict=True):
            labels = groups(point.means, width)
            hard = math.isinf(point.inverse_temperature)
            assignment = gmm.Hard() if hard else gmm.Tempered(point.inverse_temperature)
            # Means at one place are one cluster, which takes what all of them take.
            member = np.eye(k, dtype=np.float32)[labels]
            order = np.unique(labels, return_index=True)[1]

            def shares(rows: np.ndarray, point: Point = point, share: Any = assignment, member=member) -> np.ndarray:
                joint = gmm.log_joint(mixture_at(jnp.asarray(point.means), width), rows)
                return np.asarray(share(joint.T)[1]).T @ member

            plot.responsibilities(axis, x, shares(x))
            axis.set(aspect="equal")
            plot.scatter(axis, x[:0], None, point.means[order])
            plot.regions(axis, lambda rows, shares=shares: shares(rows).argmax(1))
            axis.set_title("K-means" if hard else f"inverse temperature {point.inverse_temperature:.2g}")
            axis.set_xlabel(f"log L / N = {point.log_likelihood:.3g}, J = {point.cost:.4g}")
        figure.set_layout_engine("constrained")
    return figure


def draw_curves(curves: dict[str, list[Point]], critical: dict[str, float]) -> Figure:
    """Log-likelihood, J and the number of means that are apart, against the inverse temperature."""
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(3, len(curves), figsize=(3.2 * len(curves), 6.2), sharex="col", squeeze=False)
        for column, (name, points) in zip(axes.T, curves.items(), strict=True):
            warm, cold = points[:-1], points[-1]
            grid = [point.inverse_temperature for point in warm]
            for axis, values, end, mark in (
                (column[0], [point.log_likelihood for point in warm], cold.log_likelihood, "o"),
                (column[1], [point.cost / cold.cost for point in warm], 1.0, "s"),
                (column[2], [point.apart for point in warm], cold.apart, "^"),
            ):
                axis.plot(grid, values, color=plot.COLORS[0], marker=mark, markersize=3)
                axis.axhline(end, color=plot.COLORS[1], linestyle="--", linewidth=1.2, label="K-means")
                axis.axvline(critical[name], color="black", linestyle=":", linewidth=1, label="first split, predicted")
                axis.axvline(1.0, color=plot.COLORS[2], linestyle="-.", linewidth=1, label="EM")
            column[0].set_title(f"{name}, K = {SETS[name]}")
            column[1].set_yscale("log")
            column[2].set(xscale="log", xlabel="inverse temperature")
        for axis, label in zip(axes[:, 0], ("log-likelihood / N", "J / J of K-means", "means apart"), strict=True):
            axis.set_ylabel(label)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.set_layout_engine("constrained")
    return figure


def draw_annealing(
    name: str, way: tuple[np.ndarray, np.ndarray], critical: float, rows: list[dict[str, Any]]
) -> Figure:
    """How the means of one annealing part, and what annealing and restarts reach for the same passes."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, 1 + len(names), figsize=(3.0 * (1 + len(names)), 3.4), squeeze=False)
        first, *others = axes[0]
        grid, means = way
        for k in range(means.shape[1]):
            first.plot(grid, means[:, k, 0], color=plot.COLORS[k % len(plot.COLORS)], marker=".", markersize=4)
        first.axvline(critical, color="black", linestyle=":", linewidth=1)
        first.set(xscale="log", xlabel="inverse temperature", ylabel="first coordinate of the means")
        first.set_title(f"one annealing of {name}")
        for axis, title in zip(others, names, strict=True):
            own = [row for row in rows if row["data"] == title and row["target"] == "K-means"]
            most = 4 * max(row["passes"] for row in own)
            for row in own:
                i = ways.index(row["way"])
                budget = np.geomspace(row["passes"], most, 50)
                axis.plot(
                    budget,
                    [chance(row["reaches best"], row["passes"], b) for b in budget],
                    color=plot.COLORS[i],
                    linestyle=plot.LINES[i],
                    marker=plot.MARKERS[i],
                    markevery=[0],
                    label=row["way"],
                )
            axis.set(xscale="log", ylim=(-0.03, 1.03), xlabel="passes over the data", title=f"{title}, K-means")
        others[0].set_ylabel("chance to reach the best J")
        figure.legend(*others[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ways))
        figure.set_layout_engine("constrained")
    return figure


def reading(curves: dict[str, list[Point]], critical: dict[str, float], rows: list[dict[str, Any]]) -> list[str]:
    """What curves and table say, in sentences that are computed from them."""
    lines = []
    for name, points in curves.items():
        parted = next((point.inverse_temperature for point in points if point.apart > 1), math.inf)
        highest = max(points[:-1], key=lambda point: point.log_likelihood)
        lowest = min(points, key=lambda point: point.cost)
        lines.append(
            f"- {name}: all means are one below {critical[name]:.3g} by theory; the first temperature of the curve at "
            f"which they part is {parted:.3g}. The log-likelihood is highest at {highest.inverse_temperature:.3g}, "
            f"J is lowest at {lowest.inverse_temperature:.3g}; J of EM is "
            f"{_nearest(points, 1.0).cost / points[-1].cost:.4g} times that of K-means."
        )
    for row in rows:
        if row["way"] == "annealing":
            others = [r for r in rows if (r["data"], r["target"]) == (row["data"], row["target"]) and r is not row]
            told = ", ".join(f"{r['way']} {r['at the passes of one annealing']:.2f}" for r in others)
            lines.append(
                f"- {row['data']}, {row['target']}: one annealing reaches the best optimum known with chance "
                f"{row['reaches best']:.2f}, in {row['passes']:.0f} passes; for as many passes restarts do with {told}."
            )
    return lines


def _nearest(points: list[Point], inverse_temperature: float) -> Point:
    return min(points[:-1], key=lambda point: abs(math.log(point.inverse_temperature / inverse_temperature)))


def write_report(options: Options, rows: list[dict[str, Any]], lines: list[str]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

The mixture has equal weights and one known width s, that of the best K-means fit; its means are free. At the inverse
temperature b a row's responsibilities are proportional to exp(-b |x - m|^2 / (2 s^2)): all are equal as b goes to 0,
b = 1 is EM, and as b goes to infinity the nearest mean takes all, which is K-means. b is a leaf of the problem: all
{options.temperatures} temperatures of the curves are one program under `vmap`, the best of some k-means++ starts at
each by its own evidence. All means at one place are a stable optimum below b = s^2 / (the largest eigenvalue of the
covariance of the rows), and no optimum above (Rose 1998).

An annealing starts with all means at the mean of the rows and goes through {options.stages} temperatures, from 0.9
times the critical one to {LAST:g}, with noise of {JITTER:g} widths at each. It ends by EM on its way, at b = 1, and by
K-means at the end. Restarts are {options.fits} fits for each seeding. The best optimum is the best that any of them
reached: within {REACHED:g} of its J, or {REACHED:g} nats a row. Steps are passes over the data; greedy k-means++ costs
as many passes as rows it tries for a center.

## Result

![Frames](frames.png)

![Curves](curves.png)

![Annealing](annealing.png)

In the last three panels a line starts at the mean passes of one start, or of one annealing, and goes on to the best of
more of them.

{report.markdown_table(rows)}

## Reading

{chr(10).join(lines)}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 110))
    if options.smoke:
        options = dataclasses.replace(options, temperatures=9, stages=8, fits=16, annealings=2)
    names = list(SETS)[: 1 if options.smoke else None]
    num_starts = 4 if options.smoke else 16
    curves: dict[str, list[Point]] = {}
    critical: dict[str, float] = {}
    ways: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows: list[dict[str, Any]] = []
    with report.Kept(options.output, console) as kept:
        for name in track(names, description="data sets", console=console):
            critical[name] = setting(name, options.seed).critical
            curves[name] = kept(curve, name, options.seed, options.temperatures, num_starts)
            ends = {
                title: kept(restarted, name, options.seed, init, options.fits)
                for title, init in (("random rows", "random_rows"), ("greedy k-means++", "kmeans_plus_plus"))
            }
            ends["annealing"], *way = kept(annealed, name, options.seed, options.stages, options.annealings)
            ways[name] = (way[0], way[1])
            rows += table(name, ends)
            report.write_csv(options.output / "table.csv", rows)
    first = names[0]
    for path, figure in (
        ("frames", draw_frames(first, options.seed, curves[first])),
        ("curves", draw_curves(curves, critical)),
        ("annealing", draw_annealing(first, ways[first], critical[first], rows)),
    ):
        report.save_figure(figure, options.output / path, dpi=110)
    plt.close("all")
    report.print_table("Starts that reach the best optimum", rows, console)
    write_report(options, rows, reading(curves, critical, rows))
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
