"""Pages of the docs whose tables the tests write: each module that has one rewrites its page when it is run."""

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def markdown(rows: list[list[str]]) -> str:
    """A table, its first row the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def rewritten(page: Path, *tables: str) -> str:
    """The page with its tables as they should be; one is known by its first line."""
    text = page.read_text()
    for table in tables:
        before, after = text.split(table.splitlines()[0] + "\n")
        rest = after.splitlines(keepends=True)
        while rest and rest[0].startswith("|"):
            rest.pop(0)
        text = before + table + "".join(rest)
    return text
