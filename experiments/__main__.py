"""Lists the experiments, a line each."""

import ast
from pathlib import Path


def questions() -> dict[str, str]:
    """Each experiment and the first line of its docstring: what can be run and has a question."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text()
        if path.name != "__main__.py" and "class Options" in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return found


if __name__ == "__main__":
    for name, question in questions().items():
        print(f"python -m experiments.{name:<18} {question}")
