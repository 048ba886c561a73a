"""No modules of the experiments import each other in a circle, wherever in them the imports stand."""

import ast
from pathlib import Path

import experiments

FOLDER = Path(experiments.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imports_of(module: str) -> set[str]:
    """Every module of the experiments that a module imports, also within its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return {name.split(".")[1] for name in names if name.startswith("experiments.")} & set(MODULES)


def test_no_import_circle():
    edges = {module: imports_of(module) for module in MODULES}
    done: set[str] = set()
    while len(done) < len(edges):
        free = {module for module in edges if module not in done and edges[module] <= done}
        assert free, f"a circle among {set(edges) - done}"
        done |= free
