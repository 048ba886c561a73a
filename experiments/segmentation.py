"""Which parts does an image fall into? K-means and mixtures on the color of pixels, and on color and position."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from experiments import report
from experiments.data import photograph
from jaxmix import gmm, kmeans, metrics, plot

IMAGES = ("china", "flower")
MODELS = ("K-means", "mixture")


@dataclasses.dataclass(frozen=True)
class Options:
    """Label maps of photographs by K-means and Gaussian mixtures, with and without the position of the pixels."""

    smoke: bool = False
    """One small image, few restarts: to see that all works."""
    seed: int = 0
    """Seeds the starts and the sample of pixels."""
    parts: int = 6
    """The number of clusters or components."""
    position: float = 1.0
    """The spread of rows and columns next to that of the colors, each of which has standard deviation 1."""
    sample: int = 15_000
    """How many pixels the models are fitted to; all are labeled."""
    restarts: int = 8
    """Starts of each fit."""
    output: Path = Path("results/segmentation")
    """Where table, report and figures go."""


class Segmented(NamedTuple):
    """A row of the table, the label map (H, W), and the mean color of each part (K, 3)."""

    row: dict[str, Any]
    labels: np.ndarray
    colors: np.ndarray


def pixels(name: str, smoke: bool) -> np.ndarray:
    """The image at half its size, each pixel the mean of four; of shape (H, W, 3)."""
    image = photograph(name)[:426]
    image = image.reshape(213, 2, 320, 2, 3).mean(axis=(1, 3))
    return image[::6, ::6] if smoke else image


def features(image: np.ndarray, position: float) -> np.ndarray:
    """Standardized colors, and rows and columns in one unit, of standard deviation `position` on average."""
    colors = image.reshape(-1, 3)
    colors = (colors - colors.mean(0)) / colors.std(0)
    if position == 0:
        return colors
    places = np.stack(np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij"), axis=-1).reshape(-1, 2)
    places = places - places.mean(0)
    return np.hstack([colors, position * places / np.sqrt(np.mean(np.square(places)))]).astype(np.float32)


def cut_share(labels: np.ndarray) -> float:
    """The share of neighboring pixels, beside or below each other, that belong to different parts."""
    cuts = [labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]]
    return sum(cut.sum() for cut in cuts) / sum(cut.size for cut in cuts)


def pieces(labels: np.ndarray) -> int:
    """Into how many connected regions the label map falls."""
    total, regions = 0, np.zeros(labels.shape, np.int32)
    for k in np.unique(labels):
        ndimage.label(labels == k, output=regions)
        total += int(regions.max())
    return total


def segmented(name: str, model: str, position: float, options: tuple[int, int, int, int, bool]) -> Segmented:
    """Labels every pixel by a model fitted to a sample of them."""
    seed, parts, sample, restarts, smoke = options
    image = pixels(name, smoke)
    x = features(image, position)
    rows = x[np.random.default_rng(seed).choice(len(x), min(sample, len(x)), replace=False)]
    key = jax.random.key(seed)
    if model == "K-means":
        fit = kmeans.fit(key, rows, parts, restarts=restarts).throw()
        labels = kmeans.predict(fit.params, x)
    else:
        prior = gmm.fraley_raftery(rows, parts)
        fit = gmm.fit(key, rows, parts, prior=prior, restarts=restarts, max_steps=500, rtol=1e-5).throw()
        labels = gmm.predict(fit.params, x)
    labels = np.asarray(labels).reshape(image.shape[:2])
    colors = np.array([image[labels == k].mean(0) if (labels == k).any() else np.zeros(3) for k in range(parts)])
    rest = np.square(image - colors[labels]).sum() / np.square(image - image.mean(axis=(0, 1))).sum()
    row = {
        "image": name,
        "model": model,
        "position": position,
        "color explained": float(1 - rest),
        "neighbors cut": float(cut_share(labels)),
        "pieces": pieces(labels),
        "steps": int(fit.num_steps),
    }
    return Segmented(row, labels, colors)


def draw(results: dict[tuple[str, str, float], Segmented], smoke: bool) -> Figure:
    """A row for each image: the photograph, and the parts by each model, in their mean colors."""
    names = list(dict.fromkeys(name for name, _, _ in results))
    ways = list(dict.fromkeys((model, position) for _, model, position in results))
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        size = (2.5 * (len(ways) + 1), 1.95 * len(names))
        figure, axes = plt.subplots(len(names), len(ways) + 1, figsize=size, squeeze=False)
        for axis_row, name in zip(axes, names, strict=True):
            axis_row[0].imshow(pixels(name, smoke), interpolation="nearest")
            axis_row[0].set_axis_off()
            for axis, (model, position) in zip(axis_row[1:], ways, strict=True):
                found = results[name, model, position]
                plot.image(axis, found.labels, found.colors)
        titles = ["photograph", *(f"{model}, {said(position)}" for model, position in ways)]
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        figure.set_layout_engine("constrained")
    return figure


def said(position: float) -> str:
    """What a model saw, in words."""
    return "color and position" if position else "color"


def write_report(options: Options, rows: list[dict[str, Any]], agreement: dict[tuple[str, float], float]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    by = {(row["image"], row["model"], row["position"]): row for row in rows}
    lines = []
    for (name, position), index in agreement.items():
        lines.append(f"- {name}, {said(position)}: the adjusted Rand index of the two label maps is {index:.2f}.")
    for name, model in dict.fromkeys((row["image"], row["model"]) for row in rows):
        alone, both = by[name, model, 0.0], by[name, model, options.position]
        lines.append(
            f"- {name}, {model}: position makes {both['pieces']} connected pieces of {alone['pieces']}, cuts "
            f"{both['neighbors cut']:.1%} of neighbors in place of {alone['neighbors cut']:.1%}, and explains "
            f"{both['color explained']:.0%} of the colors' variance in place of {alone['color explained']:.0%}."
        )
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

The two photographs that scikit-learn ships, at half their size (213 x 320). A row is a pixel: its three colors,
standardized, and with position its line and column too, of standard deviation {options.position:g}. K = {options.parts}
for both models; covariances are full, under the weak prior of Fraley and Raftery (2007). {options.restarts} restarts on
{options.sample} pixels, then all pixels are labeled. A part is drawn in its mean color.

## Result

![Parts](parts.png)

{report.markdown_table(rows)}

"Color explained" is the share of the colors' variance between parts; "neighbors cut" the share of pixels beside or
below each other that have different labels; "pieces" counts connected regions.

## Reading

{chr(10).join(lines)}

K-means measures every part by one round distance; a mixture lets a part be wide along one feature and narrow along
another, as a sky is.
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 120))
    names = IMAGES[:1] if options.smoke else IMAGES
    if options.smoke:
        options = dataclasses.replace(options, restarts=2, parts=3)
    settings = (options.seed, options.parts, options.sample, options.restarts, options.smoke)
    rows: list[dict[str, Any]] = []
    results: dict[tuple[str, str, float], Segmented] = {}
    tasks = [(name, model, position) for name in names for position in (0.0, options.position) for model in MODELS]
    with report.Kept(options.output, console) as kept:
        for task in track(tasks, description="images", console=console):
            results[task] = kept(segmented, *task, settings)
            rows.append(results[task].row)
            report.write_csv(options.output / "table.csv", rows)
    agreement = {
        (name, position): float(
            metrics.adjusted_rand_index(*(results[name, model, position].labels.ravel() for model in MODELS))
        )
        for name in names
        for position in (0.0, options.position)
    }
    report.save_figure(draw(results, options.smoke), options.output / "parts", dpi=130)
    plt.close("all")
    report.print_table("Parts of images", rows, console)
    write_report(options, rows, agreement)
    console.print(f"Figure, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
