"""What does EM do to a Gaussian mixture, and where does the bound touch the log-likelihood?

Frames of EM on Old Faithful: rows in the colors of their responsibilities, ellipses of one and two standard
deviations, the log-likelihood and its lower bound under each frame.
"""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from experiments import report
from experiments.data import mixture
from jaxmix import gmm, plot
from jaxmix.mixture import Mixture

CYCLES = (1, 2, 5, 20)


@dataclasses.dataclass(frozen=True)
class Options:
    """EM for a Gaussian mixture, step by step."""

    smoke: bool = False
    """Two cycles: to see that all works."""
    width: float = 0.6
    """Standard deviation of both components at the start, in units of the standardized data."""
    output: Path = Path("results/gmm_steps")
    """Where table, report and figures go."""


class Frame(NamedTuple):
    """A moment of EM: the mixture and the responsibilities that hold, and the two objectives of both.

    Attributes:
      title: what was done last.
      params: the mixture.
      resp: responsibilities of shape (N, K), or None before the first E-step.
      log_likelihood: of the mixture.
      bound: the lower bound of mixture and responsibilities; NaN before the first E-step.
    """

    title: str
    params: Mixture
    resp: np.ndarray | None
    log_likelihood: float
    bound: float


def frames(x: np.ndarray, params: Mixture, cycles: int) -> list[Frame]:
    """The start, and every E-step and M-step of some cycles."""

    def frame(title: str, params: Mixture, resp: np.ndarray | None) -> Frame:
        bound = float("nan") if resp is None else float(gmm.elbo(params, x, resp))
        return Frame(title, params, resp, float(gmm.log_likelihood(params, x)), bound)

    found = [frame("start", params, None)]
    for cycle in range(1, cycles + 1):
        resp = np.asarray(gmm.responsibilities(params, x))
        found.append(frame(f"E-step {cycle}", params, resp))
        params = gmm.m_step(gmm.e_step(params, x), params)
        found.append(frame(f"M-step {cycle}", params, resp))
    return found


def start(width: float) -> Mixture:
    """Two round components at the places of Bishop (2006), figure 9.8, with equal weights."""
    means = jnp.array([[-1.5, 1.0], [1.5, -1.0]], jnp.float32)
    return gmm.mixture([0.5, 0.5], means, jnp.tile(width**2 * jnp.eye(2)[None], (2, 1, 1)))


def draw(x: np.ndarray, found: list[Frame]) -> Figure:
    """Start, first E-step, first M-step, and after some cycles."""
    last = (len(found) - 1) // 2
    shown = [found[0], found[1]] + [
        found[2 * cycle]._replace(title=f"after {cycle} cycle{'s' * (cycle > 1)}") for cycle in CYCLES if cycle <= last
    ]
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, 3, figsize=(8.2, 5.9), sharex=True, sharey=True)
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        for axis, frame in zip(axes.flat, shown, strict=False):
            if frame.resp is None:
                plot.scatter(axis, x)
            else:
                plot.responsibilities(axis, x, frame.resp)
            plot.ellipses(axis, frame.params)
            bound = "" if frame.resp is None else f"bound {frame.bound:.1f}, "
            axis.set_title(frame.title)
            axis.set_xlabel(f"{bound}log L {frame.log_likelihood:.1f}")
            axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        figure.supylabel("waiting time, standardized", fontsize=9)
        figure.supxlabel("duration of the eruption, standardized", fontsize=9)
        figure.set_layout_engine("constrained")
    return figure


def draw_bound(found: list[Frame]) -> Figure:
    """The log-likelihood and the bound over half-steps: they touch after each E-step."""
    shown = found[2:19]  # the start lies far below
    with plt.rc_context(report.STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.4))
        steps = np.arange(len(shown))
        axis.plot(
            steps,
            [frame.log_likelihood for frame in shown],
            color=plot.COLORS[0],
            marker="o",
            markersize=4,
            label="log-likelihood",
        )
        axis.plot(
            steps,
            [frame.bound for frame in shown],
            color=plot.COLORS[1],
            marker="s",
            markersize=4,
            linestyle="--",
            label="lower bound",
        )
        axis.set_xticks(steps, [frame.title.replace("-step", "") for frame in shown], rotation=60)
        axis.set_ylabel("nats")
        axis.legend(loc="lower right")
        figure.set_layout_engine("constrained")
    return figure


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console()
    x = mixture("faithful", 0).x
    found = frames(x, start(options.width), 2 if options.smoke else max(CYCLES))
    rows = [
        {
            "step": frame.title,
            "log-likelihood": frame.log_likelihood,
            "bound": frame.bound,
            "gap": frame.log_likelihood - frame.bound,
        }
        for frame in found
    ]
    report.write_csv(options.output / "table.csv", rows)
    report.save_figure(draw(x, found), options.output / "frames", dpi=110)
    report.save_figure(draw_bound(found), options.output / "bound", dpi=110)
    plt.close("all")
    report.print_table("Old Faithful, two full components", rows, console)

    def fall(name: str) -> float:
        values = [row[name] for row in rows]
        return max(0.0, *(before - after for before, after in pairwise(values)))

    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

Old Faithful (272 rows, standardized), two components with full covariances, float32; equal weights, means (-1.5, 1) and
(1.5, -1), standard deviations {options.width:g}. The bound is that of Jensen's inequality,
sum_nk r_nk log(pi_k N(x_n | m_k, C_k) / r_nk): it equals the log-likelihood where the responsibilities r are those of
the mixture, which is what an E-step makes them, and an M-step raises it.

## Result

![Frames](frames.png)

![The bound](bound.png)

{report.markdown_table(rows)}

## Reading

- After each E-step the bound touches the log-likelihood: the gap is
  {max(abs(row["gap"]) for row in rows if row["step"].startswith("E")):.1g} nats at the most, which is rounding.
- An M-step raises the bound, and the log-likelihood by at least as much. Of these, the largest fall of the bound is
  {fall("bound"):.1g} nats, and of the log-likelihood {fall("log-likelihood"):.1g}: at rest float32 rounds by as
  much. They end {rows[-1]["log-likelihood"] - rows[0]["log-likelihood"]:.1f} nats above the start.
"""
    report.write_text(options.output / "report.md", text)
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
