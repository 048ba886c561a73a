"""The figure of the benchmark: the ratio of every row with a peer, and what it should be."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from experiments import report

PANELS = {
    "kmeans": "K-means, a step",
    "gmm": "Gaussian mixtures, a step",
    "inference": "predictions",
    "restarts": "restarts and sweeps",
}
PEERS = ("scikit-learn", "Intel extension", "faiss", "ott", "gmmx")


def draw(rows: list[dict[str, Any]]) -> Figure | None:
    """A panel for each job with peers, a line for each size and peer; None where there is no such row."""
    lines = {job: _lines(rows, job) for job in PANELS}
    lines = {job: own for job, own in lines.items() if own}
    if not lines:
        return None
    # The longest panel on the left; the others share the right, each as high as its lines.
    heights = [len(own) for own in lines.values()]
    with plt.rc_context(report.STYLE):
        figure = plt.figure(figsize=(10.5, max(3.0, 1.2 + 0.21 * max(heights[0], sum(heights[1:]) + 3))))
        columns = figure.add_gridspec(1, min(len(lines), 2))
        places = [columns[0]]
        if len(lines) > 1:
            below = columns[1].subgridspec(len(lines) - 1, 1, height_ratios=heights[1:])
            places += [below[i] for i in range(len(lines) - 1)]
        for place, (job, own) in zip(places, lines.items(), strict=True):
            _panel(figure.add_subplot(place), PANELS[job], own)
        _legend(figure, [row for own in lines.values() for part in own.values() for row in part])
        figure.set_layout_engine("constrained")
    return figure


def _lines(rows: list[dict[str, Any]], job: str) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["job"] == job and row["peer"] in PEERS:
            lines.setdefault((row["what"], row["N,D,K"], row["peer"]), []).append(row)
    return lines


def _panel(axis: Axes, title: str, lines: dict[tuple[str, str, str], list[dict[str, Any]]]) -> None:
    names = []
    for y, ((what, size, peer), own) in enumerate(lines.items()):
        kind = what.removeprefix("mixture, ").replace(", ", " ")
        names.append(f"{'' if kind == 'K-means' else kind + '  '}{size}".replace(", ", ","))
        color = report.COLORS[PEERS.index(peer)]
        for row in own:
            clusters = row["data"] == "clusters"
            height = y + (-0.16 if clusters else 0.16)
            if row["check"] != "ok":
                axis.plot(1, height, "x", color=color, markersize=5)
                continue
            ratios = (row["ratio min"], row["ratio median"])
            axis.plot(ratios, (height, height), color=color, linewidth=1.0)
            face = color if clusters else "white"
            axis.plot(ratios[1], height, "o", color=color, markerfacecolor=face, markersize=4.5)
        targets = {row["target"] for row in own if row["target"]}
        for target in targets:
            axis.plot([float(target.split()[1])] * 2, (y - 0.42, y + 0.42), color="black", linewidth=1.6)
    axis.axvline(1, color="#888888", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_title(title, loc="left")
    axis.set_xlabel("time of the peer / time of jaxmix")
    axis.grid(axis="y", visible=False)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, rows: list[dict[str, Any]]) -> None:
    handles = [
        Line2D([], [], color=report.COLORS[PEERS.index(peer)], marker="o", markersize=4.5, linewidth=1.0, label=peer)
        for peer in PEERS
        if any(row["peer"] == peer for row in rows)
    ]
    gray: dict[str, Any] = {"color": "#555555", "marker": "o", "linestyle": "none", "markersize": 4.5}
    handles += [
        Line2D([], [], label="clusters, medians", **gray),
        Line2D([], [], label="noise, medians", markerfacecolor="white", **gray),
        Line2D([], [], color="#555555", linewidth=1.0, label="to the ratio of minima"),
        Line2D([], [], color="black", linewidth=1.6, label="target"),
    ]
    if any(row["check"] != "ok" for row in rows):
        handles.append(Line2D([], [], color="#555555", marker="x", linestyle="none", label="void"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
