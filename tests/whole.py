"""What a run of an experiment must leave behind."""

from pathlib import Path


def assert_whole(output: Path, *figures: str) -> None:
    """A table, each figure as PNG and SVG, and a report that shows them; nothing half written."""
    assert (output / "table.csv").exists()
    for figure in figures:
        assert (output / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (output / f"{figure}.svg").exists()
        assert f"({figure}.png)" in (output / "report.md").read_text()
    assert not list(output.glob("*.part"))
