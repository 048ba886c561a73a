"""Lists the experiments, a line each; `all` runs one after another, but for those that measure time alone."""

import ast
import subprocess
import sys
import time
from pathlib import Path


def questions() -> dict[str, str]:
    """Each experiment and the first line of its docstring: what can be run and has a question."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text()
        if path.name != "__main__.py" and "class Options" in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return found


def run_all(options: list[str]) -> None:
    """Every experiment in a process of its own, with the same options; ends at the first that fails."""
    seconds = {}
    for name in questions():
        if name not in ("benchmark", "quality"):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", f"experiments.{name}", *options], check=True)
            seconds[name] = time.perf_counter() - start
    for name, taken in seconds.items():
        print(f"{name:<18} {taken:6.0f} s")
    print(f"{'all':<18} {sum(seconds.values()):6.0f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["all"]:
        run_all(sys.argv[2:])
    else:
        for name, question in questions().items():
            print(f"python -m experiments.{name:<18} {question}")
