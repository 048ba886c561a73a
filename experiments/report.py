"""What every experiment writes: a table on the terminal, CSV, Markdown and figures, whole or not at all."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from jaxmix.plot import COLOURS as COLOURS

STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "jaxmix",
}

Row = Mapping[str, Any]


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a crash leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes all rows so far; the first row's keys are the header."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Writes PNG and SVG, without the date, so that equal results are equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=dpi, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def formatted(value: Any) -> str:
    """A cell: floats to four significant digits, NaN as a dash."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.5g}"
    return str(value)


def told(rows: Sequence[Row]) -> list[str]:
    """The columns that say something: not NaN in every row."""
    return [name for name in rows[0] if any(row[name] == row[name] for row in rows)]


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    header = told(rows)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(formatted(row[name]) for name in header) + " |" for row in rows]
    return "\n".join(lines)


def print_table(title: str, rows: Sequence[Row], console: Console) -> None:
    """Rows as a table on the terminal."""
    table = Table(title=title, title_justify="left")
    header = told(rows)
    for name in header:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(formatted(row[name]) for name in header))
    console.print(table)
