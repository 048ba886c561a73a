"""How fast does EM end, and why? Its rate against the overlap of the components, predicted and measured.

Near a maximum EM multiplies the error by the Jacobian of its map; the largest eigenvalue is the share of the
information that the unknown labels take away (Dempster, Laird and Rubin 1977). And its step is a matrix times the
gradient of the log-likelihood, positive definite: Xu and Jordan (1996).
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from jax import Array
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from scipy.stats import rankdata

from experiments import em_map, report
from jaxmix import Data, as_data, datasets, gmm, plot, solve
from jaxmix.mixture import Mixture, Normal

RATE = 0.03
SOLVERS = {"EM": solve.EM(), "SQUAREM": solve.Squarem(), "Adam": solve.Optax(optax.adam, RATE)}
EXACT = gmm.GaussianMixture(regularization=0.0)
CLOSE = 1e-4
"""A solver has arrived within this many nats a row of the best of them."""


SHORTEST = 1e-8
"""As short as a step may be and still be told from rounding."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The rate of EM over separation, dimension and K."""

    smoke: bool = False
    """Two small cells: to see that all works."""
    seed: int = 0
    """Seeds the data."""
    separations: tuple[float, ...] = (0.2, 1.0, 5.0)
    """Distance of the nearest two means, in sqrt(D) standard deviations."""
    dimensions: tuple[int, ...] = (2, 10, 50)
    """Numbers of features."""
    components: tuple[int, ...] = (2, 4)
    """Numbers of components."""
    steps: int = 1500
    """The most steps of EM, and of the power iteration."""
    output: Path = Path("results/em_rate")
    """Where table, report and figures go."""


def num_rows(num_features: int, k: int) -> int:
    """Enough for covariances: at least forty rows for each feature of each component."""
    return max(600, 40 * num_features * k)


def made(separation: float, num_features: int, k: int, seed: int) -> tuple[Data, Mixture, Mixture]:
    """Rows, the mixture of their true labels, and a start: its means moved, one covariance, equal weights."""
    key, noise_key = jax.random.split(jax.random.key(seed))
    x, labels = datasets.separated_mixture(key, num_rows(num_features, k), k, num_features, separation)
    data = as_data(np.asarray(x, float))
    true = gmm.start.from_labels(np.asarray(labels), data, k)
    noise = jax.random.normal(noise_key, true.means.shape, true.means.dtype)
    tril = jnp.tile(jnp.eye(num_features, dtype=data.x.dtype)[None], (k, 1, 1))
    return data, true, Mixture(jnp.full(k, -math.log(k)), Normal(true.means + 0.3 * noise, gmm.Full(tril)))


@jax.jit
def overlap(params: Mixture, data: Data) -> Array:
    """The mean over rows of 1 - sum_k r_k^2: the chance that two labels drawn from the posterior differ."""
    shares = gmm.responsibilities(params, data.x)
    return 1 - jnp.mean(jnp.sum(jnp.square(shares), axis=1))


@jax.jit
def directions(point: em_map.Point, data: Data) -> tuple[em_map.Point, Array]:
    """Where a step of EM leads, and three numbers of it.

    The cosine of step and gradient; |step - P gradient| / |step| of weights and means, and of covariances.
    """
    after = em_map.em(point, data)
    step, gradient = em_map.minus(after, point), em_map.gradient(point, data)
    # Weights sum to one: what raises all of them alike is no direction.
    gradient = gradient._replace(weights=gradient.weights - jnp.mean(gradient.weights))
    predicted = em_map.preconditioned(point, em_map.counts_of(point, data), gradient)

    def length(*leaves: Array) -> Array:
        return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), start=jnp.zeros(())))

    cosine = em_map.inner(step, gradient) / (length(*step) * length(*gradient))
    rest = em_map.minus(step, predicted)
    linear = length(rest.weights, rest.means) / length(step.weights, step.means)
    return after, jnp.stack([cosine, linear, length(rest.covariances) / length(step.covariances)])


def arrivals(data: Data, start: Mixture, max_steps: int) -> dict[str, float]:
    """Passes of each solver until it is within `CLOSE` nats a row of the lowest loss of all; infinite if never."""
    fits = {}
    for name, solver in SOLVERS.items():
        steps = max_steps if name == "EM" else max_steps // 3
        fits[name] = solve.run(EXACT, solver, start, data, max_steps=steps, atol=1e-9)
    best = min(float(fit.loss) for fit in fits.values())
    found = {}
    for name, fit in fits.items():
        trace = np.asarray(fit.trace, float)[: int(fit.num_steps) + 1]
        reached = np.flatnonzero(trace <= best + CLOSE * len(data.x))
        per_step = float(fit.num_passes) / max(int(fit.num_steps), 1)
        found[name] = float(reached[0] * per_step) if len(reached) else math.inf
    return found


def cell(separation: float, num_features: int, k: int, seed: int, steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """A row of the table, and the cosine and both residuals for each step of a path of EM, of shape (T, 3)."""
    with jax.enable_x64(True):
        data, true, start = made(separation, num_features, k, seed)
        point = em_map.point_of(start)
        path, least = [], math.inf
        for _ in range(30):
            least = min(least, float(em_map.eigenvalues_of_p(point, em_map.counts_of(point, data))[0]))
            before = point
            point, found = directions(point, data)
            moved = em_map.minus(point, before)
            if em_map.inner(moved, moved) < SHORTEST**2:
                break
            path.append(np.asarray(found))
        end, lengths, num_steps = em_map.climb(em_map.point_of(true), data, steps, SHORTEST)
        rate = em_map.rate(end, data, jax.random.key(seed), steps, 1e-4)
        at_rest = float(lengths[1]) <= SHORTEST
        passes = arrivals(data, start, min(steps, 450))
        row = {
            "c": separation,
            "D": num_features,
            "K": k,
            "N": len(data.x),
            "overlap": float(overlap(em_map.mixture_of(end), data)),
            "rate predicted": float(rate.value),
            "within": float(rate.error),
            "rate measured": float(lengths[1] / lengths[0]) if num_steps > 2 else math.nan,
            "steps": int(num_steps),
            "at rest": at_rest,
            "J - (I + P H)": float(rate.split),
            "least cosine": float(min(found[0] for found in path)),
            "least eigenvalue of P": least,
            **{f"passes {name}": number for name, number in passes.items()},
        }
    return row, np.stack(path)


def draw(rows: list[dict[str, Any]], paths: list[np.ndarray]) -> Figure:
    """Measured against predicted, predicted against overlap, and what EM's step and the gradient have in common."""
    dimensions = list(dict.fromkeys(row["D"] for row in rows))
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(10.2, 3.4))
        floor = 1e-4
        for i, num in enumerate(dimensions):
            own = [row for row in rows if row["D"] == num]
            style: dict[str, Any] = {
                "color": plot.COLORS[i],
                "marker": plot.MARKERS[i],
                "linestyle": "",
                "fillstyle": "none",
            }
            gap = [max(1 - row["rate predicted"], floor) for row in own]
            seen = [1 - row["rate measured"] if row["at rest"] else math.nan for row in own]
            axes[0].plot(gap, seen, label=f"D = {num}", **style)
            axes[1].plot([max(row["overlap"], 1e-7) for row in own], gap, **style)
            for row, path in zip(rows, paths, strict=True):
                if row["D"] == num:
                    axes[2].plot(np.arange(len(path)) + 1, path[:, 0], color=plot.COLORS[i], linewidth=0.9)
        axes[0].plot([floor, 1], [floor, 1], color="#555555", linewidth=0.8, zorder=0)
        axes[0].set(
            xscale="log",
            yscale="log",
            xlabel="1 - rate, predicted",
            ylabel="1 - rate, measured",
            title="rate of EM, at rest",
        )
        axes[1].set(xscale="log", yscale="log", xlabel="overlap", ylabel="1 - rate, predicted", title="why it is slow")
        axes[2].set(
            xlabel="step of EM", ylabel="cosine of step and gradient", title="EM climbs", ylim=(0, 1.02), xlim=(0, None)
        )
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(dimensions))
        figure.set_layout_engine("constrained")
    return figure


def reading(rows: list[dict[str, Any]], paths: list[np.ndarray]) -> list[str]:
    """What the table says, in sentences that are computed from it."""
    seen = [row for row in rows if row["at rest"] and row["rate predicted"] > 1e-3]
    rest = [row for row in seen if row["within"] < 1e-2]
    lines = [f"- EM came to rest in {sum(row['at rest'] for row in rows)} of {len(rows)} cells."]
    if rest:
        apart = max(abs(row["rate measured"] - row["rate predicted"]) for row in rest)
        lines.append(
            f"- In {len(seen)} of them the rate is above 0.001. The measured one is the predicted one to {apart:.1g} "
            f"in the {len(rest)} whose power iteration ended with a residual below 0.01."
        )
    if len(rows) > 2:
        # Below this, both are rounding, and tie.
        overlaps, rates = ([max(row[name], 1e-7) for row in rows] for name in ("overlap", "rate predicted"))
        order = np.corrcoef(rankdata(overlaps), rankdata(rates))[0, 1]
        lines.append(f"- The rank correlation of overlap and rate over all cells is {order:.2f}.")
    whole = np.concatenate(paths)
    lines += [
        f"- Along {len(whole)} steps the cosine of EM's step and the gradient is {whole[:, 0].min():.2g} at the "
        f"least: {'always' if whole[:, 0].min() > 0 else 'not always'} uphill. The least eigenvalue of P is "
        f"{min(row['least eigenvalue of P'] for row in rows):.2g}.",
        f"- The step is P times the gradient: in weights and means to {whole[:, 1].max():.1g} of its length; in "
        f"covariances to {np.median(whole[:, 2]):.1g} (median), since EM takes them about the new means.",
    ]
    for name in list(SOLVERS)[1:]:
        both = [(row[f"passes {name}"], row["passes EM"]) for row in rows]
        fewer = sum(a < b for a, b in both)
        lines.append(f"- {name} arrives in fewer passes than EM in {fewer} of {len(both)} cells.")
    return lines


def write_report(options: Options, rows: list[dict[str, Any]], paths: list[np.ndarray]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

K unit Gaussians in equal shares, whose nearest means lie c sqrt(D) apart; full covariances, float64, no regularization;
N is 600, or 40 D K if that is more. EM runs from the mixture of the true labels until a step is shorter than 1e-8, in
weights, means and covariances together, or for {options.steps} steps. Its measured rate is the ratio of the last two
steps. The predicted one is the largest eigenvalue of the Jacobian of the EM map where it ended, by power iteration with
`jax.jvp`; "within" is its residual. The overlap is the mean over rows of 1 - sum_k r_k^2.

Xu and Jordan (1996): EM goes from theta to theta + P grad log L, P positive definite, so that the Jacobian at a maximum
is J = I + P H, H the Hessian: "J - (I + P H)" is how far both sides differ along the eigenvector. Cosines and residuals
are those of the first 30 steps, or as many as are longer than 1e-8, from a start whose means are moved by 0.3 and whose
covariances are all one. From it the solvers run too: passes over the data until the loss is within {CLOSE:g} nats a row
of the lowest that any of them found (a gradient counts three); inf is never, within 450 steps of EM or 150 of the
others. Adam's rate is {RATE:g}, not chosen for these data.

## Result

![Rates](rates.png)

On the left are the cells where EM came to rest. In the middle an overlap below 1e-7 is drawn there, and 1 - rate below
1e-4 likewise.

{report.markdown_table(rows)}

## Reading

{chr(10).join(reading(rows, paths))}
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 150))
    if options.smoke:
        options = dataclasses.replace(options, separations=(1.0, 2.0), dimensions=(2,), components=(2,), steps=300)
    cells = [(c, d, k) for d in options.dimensions for k in options.components for c in options.separations]
    rows: list[dict[str, Any]] = []
    paths: list[np.ndarray] = []
    with report.Kept(options.output, console) as kept:
        for separation, num_features, k in track(cells, description="cells", console=console):
            row, path = kept(cell, separation, num_features, k, options.seed, options.steps)
            rows.append(row)
            paths.append(path)
            report.write_csv(options.output / "table.csv", rows)
    names = ("c", "D", "K", "overlap", "rate predicted", "rate measured", "steps", "least cosine", "passes EM")
    report.print_table("The rate of EM", [{name: row[name] for name in names} for row in rows], console)
    report.save_figure(draw(rows, paths), options.output / "rates", dpi=120)
    plt.close("all")
    write_report(options, rows, paths)
    console.print(f"Figure, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
