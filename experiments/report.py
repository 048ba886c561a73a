"""What every experiment writes: a table on the terminal, CSV, Markdown and figures, whole or not at all."""

import csv
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import joblib
import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from jaxmix.plot import COLORS as COLORS

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
Result = TypeVar("Result")


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
    lines += ["| " + " | ".join(formatted(row[name]).replace("|", "\\|") for name in header) + " |" for row in rows]
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


class Kept:
    """The results of an unfinished run, each on disk as soon as it is there; the next start takes them from there.

    As a context: what a run kept is removed when it ends, and stays when an exception or Ctrl-C ends it. Ctrl-C ends
    the process within a second, also inside a compiled program, which Python cannot interrupt.

    Args:
      output: the folder of the experiment; the results lie in `unfinished` beneath it.
      console: where it says that it goes on; None for a new one.

    Example:
      >>> with Kept(Path("results/squares")) as kept:
      ...     squares = [kept(pow, number, 2) for number in range(3)]
      >>> squares
      [0, 1, 4]
    """

    def __init__(self, output: Path, console: Console | None = None):
        self.folder = output / "unfinished"
        self.console = console or Console()

    def __call__(self, compute: Callable[..., Result], *arguments: Any) -> Result:
        """`compute(*arguments)`, or what it gave before; both must pickle; `compute` is known by name and source."""
        return cast(Result, self.memory.cache(compute)(*arguments))

    def __enter__(self) -> "Kept":
        if self.folder.exists():
            self.console.print(f"Going on where the last run ended: its results are in {self.folder}.")
        self.memory = joblib.Memory(self.folder, verbose=0)
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        in_main = threading.current_thread() is threading.main_thread()
        self.old = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False) if in_main else None
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.old is not None:
            signal.set_wakeup_fd(self.old)
        os.close(self.writer)
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self) -> None:
        # The interpreter writes the signal here at once, when the main thread would not see it before XLA returns.
        while received := os.read(self.reader, 1):
            if received[0] == signal.SIGINT:
                self.console.print(f"\nInterrupted. What was finished is in {self.folder}; the same command goes on.")
                os._exit(128 + signal.SIGINT)
        os.close(self.reader)
