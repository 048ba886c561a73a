"""How good is an image that is sent as the numbers of K code vectors? Colors, and patches of 8 x 8 pixels.

Vector quantization: `kmeans.fit` makes the code book, `kmeans.predict` encodes and `kmeans.reconstruct` decodes.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from experiments import report
from experiments.data import photograph
from jaxmix import Status, kmeans, plot

SHOWN = (2, 4, 16, 64, 256)
SIZES = {"colors": 1, "patches": 8}
"""Pixels along the side of what one code stands for."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Code books for a photograph, of colors and of patches: error, bits, pictures."""

    smoke: bool = False
    """Two small code books of a part of the image: to see that all works."""
    seed: int = 0
    """Seeds the starts and the sample of pixels."""
    image: Literal["china", "flower"] = "china"
    """Which photograph."""
    most: int = 256
    """The largest code book; all powers of two from 2 on are made."""
    sample: int = 40_000
    """How many of the pixels a code book of colors is fitted to; all are encoded."""
    restarts: int = 4
    """Starts of each fit."""
    output: Path = Path("results/compression")
    """Where table, report and figures go."""


class Coded(NamedTuple):
    """A row of the table, and what is sent: the codes (H / side, W / side) and the code book."""

    row: dict[str, Any]
    codes: np.ndarray
    centers: np.ndarray


def cut(image: np.ndarray, side: int) -> np.ndarray:
    """The image as a grid of vectors, of shape (H / side, W / side, 3 side^2); what is left at its edges goes."""
    height, width = image.shape[0] // side, image.shape[1] // side
    blocks = image[: height * side, : width * side].reshape(height, side, width, side, 3)
    return blocks.swapaxes(1, 2).reshape(height, width, 3 * side * side)


def joined(vectors: np.ndarray, side: int) -> np.ndarray:
    """The image that `cut` made these vectors of."""
    height, width, _ = vectors.shape
    blocks = vectors.reshape(height, width, side, side, 3)
    return blocks.swapaxes(1, 2).reshape(height * side, width * side, 3)


@jax.jit
def encode(centers: jax.Array, vectors: jax.Array) -> jax.Array:
    """The code of each vector; a line of the grid after another, so that not all distances are held."""
    return jax.lax.map(lambda line: kmeans.predict(centers, line), vectors)


def decoded(codes: np.ndarray, centers: np.ndarray, side: int) -> np.ndarray:
    """The image that the receiver sees."""
    return np.clip(joined(np.asarray(kmeans.reconstruct(centers, codes)), side), 0, 1)


def entropy(codes: np.ndarray) -> float:
    """Bits for each code, if frequent ones are sent by shorter words: what an entropy coder comes close to."""
    shares = np.bincount(codes.ravel()) / codes.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def signal_to_noise(error: float) -> float:
    """The peak signal-to-noise ratio in decibels, of a mean squared error of colors of 0 to 1."""
    return -10 * math.log10(error)


def coded(name: str, kind: str, k: int, seed: int, sample: int, restarts: int, smoke: bool) -> Coded:
    """Makes a code book of a photograph, and sends the image with it."""
    side, image = SIZES[kind], photograph(name)
    if smoke:
        image = image[:96, :96]
    vectors = cut(image, side)
    image = joined(vectors, side)
    rows = vectors.reshape(-1, vectors.shape[-1])
    if len(rows) > sample:
        rows = rows[np.random.default_rng(seed).choice(len(rows), sample, replace=False)]
    start = time.perf_counter()
    fit = kmeans.fit(jax.random.key(seed), rows, k, restarts=restarts, max_steps=100)
    fit = fit.throw(allow=[Status.CONVERGED, Status.MAX_STEPS])
    centers = np.asarray(fit.params)
    fitted = time.perf_counter()
    codes = np.asarray(encode(fit.params, vectors))
    ended = time.perf_counter()
    error = float(np.mean(np.square(decoded(codes, centers, side) - image, dtype=np.float64)))
    pixels = codes.size * side * side
    row = {
        "code": kind,
        "K": k,
        "PSNR, dB": signal_to_noise(error),
        "index bits": math.log2(k) * codes.size / pixels,
        "entropy bits": entropy(codes) * codes.size / pixels,
        "code book bits": centers.size * 8 / pixels,
        "steps": int(fit.num_steps),
        "fit, s": fitted - start,
        "encode, s": ended - fitted,
    }
    return Coded(row, codes, centers)


def draw_images(results: dict[int, Coded], kind: str, image: np.ndarray) -> Figure:
    """The image as it was, and as it is read from each code book."""
    shown = [k for k in SHOWN if k in results]
    num_columns = min(3, len(shown) + 1)
    num_rows = -(-(len(shown) + 1) // num_columns)
    with plt.rc_context({**report.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(num_rows, num_columns, figsize=(3.1 * num_columns, 2.35 * num_rows), squeeze=False)
        panels = list(axes.flat)
        panels[0].imshow(image)
        panels[0].set_title("original, 24 bits per pixel")
        for axis, k in zip(panels[1:], shown, strict=False):
            row, codes, centers = results[k]
            if kind == "colors":
                plot.image(axis, codes, centers)
            else:
                axis.imshow(decoded(codes, centers, SIZES[kind]))
            bits = row["entropy bits"] + row["code book bits"]
            axis.set_title(f"K = {k}: {row['PSNR, dB']:.1f} dB, {bits:.2f} bits")
        for axis in panels:
            axis.set_axis_off()
        figure.set_layout_engine("constrained")
    return figure


def draw_rates(rows: list[dict[str, Any]]) -> Figure:
    """Quality against bits, with and without the code book."""
    with plt.rc_context(report.STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 3.8))
        for kind, color, marker in zip(SIZES, report.COLORS, "os", strict=False):
            own = [row for row in rows if row["code"] == kind]
            quality = [row["PSNR, dB"] for row in own]
            alone = [row["entropy bits"] for row in own]
            whole = [row["entropy bits"] + row["code book bits"] for row in own]
            axis.plot(whole, quality, marker + "-", color=color, label=f"{kind}, with the code book")
            axis.plot(alone, quality, marker + ":", color=color, fillstyle="none", label=f"{kind}, codes alone")
        axis.set(xlabel="bits per pixel (entropy of the codes)", ylabel="PSNR, dB", xscale="log")
        axis.legend()
        figure.set_layout_engine("constrained")
    return figure


def gain_per_doubling(rows: list[dict[str, Any]]) -> float:
    """By how many decibels the quality rises with each doubling of the code book, over the upper half of them."""
    upper = rows[(len(rows) - 1) // 2 :]
    slope = np.polyfit([math.log2(row["K"]) for row in upper], [row["PSNR, dB"] for row in upper], 1)
    return float(slope[0])


def write_report(options: Options, rows: list[dict[str, Any]]) -> None:
    """Question, set-up, result and reading, as Markdown."""
    own = {kind: [row for row in rows if row["code"] == kind] for kind in SIZES}
    gains = {kind: gain_per_doubling(own[kind]) for kind in SIZES}
    last = own["patches"][-1]
    dearer = "more" if last["code book bits"] > last["entropy bits"] else "less"
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{options.image}.jpg of scikit-learn. One code stands for the color of a pixel (3 numbers), or for a patch of 8 x 8
pixels (192 numbers). Each code book is the best of {options.restarts} fits from k-means++, at most 100 steps, of
{options.sample} pixels or of all patches; the whole image is encoded. PSNR is the peak signal-to-noise ratio,
-10 log10 of the mean squared error of colors of 0 to 1. A code costs log2 K bits; its entropy is what it costs if
frequent codes are sent by shorter words; a code book is counted with 8 bits a number. All three are given per pixel.
"fit, s" includes compilation.

## Result

![Colors](colors.png)

![Patches](patches.png)

![Rates](rates.png)

{report.markdown_table(rows)}

## Reading

- Each doubling of the code book gains {gains["colors"]:.2f} dB with colors and {gains["patches"]:.2f} dB with patches
  (slopes over the larger half of the code books). For many code vectors theory says 20 log10(2) / D (Zador 1982): 2.01
  dB for D = 3 and 0.03 for D = 192. Vectors that fill fewer dimensions than they have gain more.
- The code book of {last["K"]} patches costs {last["code book bits"]:.3g} bits per pixel, {dearer} than its codes, which
  cost {last["entropy bits"]:.3g}. A code book that is large beside its codes pays where it serves many images.
"""
    report.write_text(options.output / "report.md", text)


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 120))
    if options.smoke:
        options = dataclasses.replace(options, most=4, sample=1000, restarts=2)
    ks = [2**power for power in range(1, int(math.log2(options.most)) + 1)]
    rows: list[dict[str, Any]] = []
    results: dict[str, dict[int, Coded]] = {kind: {} for kind in SIZES}
    with report.Kept(options.output, console) as kept:
        tasks = [(kind, k) for kind in SIZES for k in ks]
        for kind, k in track(tasks, description="code books", console=console):
            settings = (options.seed, options.sample, options.restarts, options.smoke)
            results[kind][k] = kept(coded, options.image, kind, k, *settings)
            rows.append(results[kind][k].row)
            report.write_csv(options.output / "table.csv", rows)
    image = photograph(options.image)
    for kind in SIZES:
        report.save_figure(draw_images(results[kind], kind, image), options.output / kind, dpi=130)
    report.save_figure(draw_rates(rows), options.output / "rates")
    plt.close("all")
    report.print_table(f"{options.image}.jpg", rows, console)
    write_report(options, rows)
    console.print(f"Figures, table.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
