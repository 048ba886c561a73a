"""The rules of the house, held by reading the source (docs/design.md)."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import jaxmix

ROOT = Path(jaxmix.__file__).parent
MODULES = sorted(
    info.name for info in pkgutil.walk_packages([str(ROOT)], prefix="jaxmix.") if not info.name.endswith("__init__")
)
# A room may import the rooms of lower rank, and nothing beside or above it. `solve` never knows a model.
RANKS = {
    "types": 0,
    "linalg": 0,
    "memory": 0,
    "batches": 0,
    "datasets": 0,
    "extras": 0,
    "frame": 1,
    "door": 2,
    "rows": 3,
    "seeding": 3,
    "solve": 3,
    "kernels": 4,
    "kmeans": 5,
    "gmm": 6,
    "metrics": 7,
    "sweep": 8,
    "interop": 9,
    "io": 9,
    "plot": 9,
}


def path_of(module: str) -> Path:
    path = ROOT.parent / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module: str) -> set[str]:
    """Every module that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            # A submodule taken from its package is that submodule; another name is of the package.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= whole & set(MODULES) if whole <= set(MODULES) else whole | {node.module or ""}
    return names


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("jaxmix.") else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module):
    own = room(module)
    for name in imports_of(module):
        other = room(name)
        if other and other != own and f"jaxmix.{other}" in MODULES:
            assert RANKS[other] < RANKS[own], f"{module} imports {name}"


def test_no_import_circle():
    edges = {m: {n for n in imports_of(m) if n in MODULES and n != m} for m in MODULES}
    done: set[str] = set()
    while len(done) < len(edges):
        free = {m for m in edges if m not in done and edges[m] <= done}
        assert free, f"a circle among {set(edges) - done}"
        done |= free


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short_and_leave_the_configuration_alone(module):
    text = path_of(module).read_text()
    assert len(text.splitlines()) <= 350
    assert "config.update" not in text
    assert "matplotlib" not in text or module == "jaxmix.plot"


def public(module: str) -> list[tuple[str, Any]]:
    loaded = importlib.import_module(module)
    return [
        (name, value)
        for name, value in vars(loaded).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module
    ]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module):
    for name, value in public(module):
        doc = inspect.getdoc(value)
        assert doc, f"{module}.{name} has no docstring"
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    assert inspect.getdoc(function), f"{module}.{name}.{method} has no docstring"


# Those that compile for long: what they show is in README.md too, which is run.
LONG = ("jaxmix.sweep", "jaxmix.gmm.prior")


@pytest.mark.parametrize(
    "module", [pytest.param(m, marks=pytest.mark.slow if m in LONG else []) for m in MODULES], ids=MODULES
)
def test_examples_in_docstrings_run(module):
    import jax

    loaded = importlib.import_module(module)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    # Users start with JAX's own defaults: float32, and rank promotion allowed.
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        seen: set[str] = set()
        for name, value in public(module):
            target = inspect.unwrap(value) if not inspect.isclass(value) else value
            for test in finder.find(target, name, module=loaded, globs=dict(vars(loaded))):
                if test.examples and test.name not in seen:
                    seen.add(test.name)
                    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("module", MODULES)
def test_dataclasses_are_frozen(module):
    # Solvers and problems are keys of compiled programs.
    classes = [value for value in vars(importlib.import_module(module)).values() if dataclasses.is_dataclass(value)]
    assert all(vars(value)["__dataclass_params__"].frozen for value in classes)
