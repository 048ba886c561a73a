"""Rules of the source: imports, lengths, docstrings and their examples (docs/design.md)."""

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
# A module, or a package, imports those of lower rank, and none of the same or a higher rank. So `solve` never knows a
# model, and K-means and mixtures do not know each other: `gmm` is the one that starts mixtures from K-means.
RANKS = {
    "batches": 0,
    "branches": 0,
    "arrays": 1,
    "data": 0,
    "datasets": 0,
    "extras": 0,
    "linalg": 0,
    "memory": 0,
    "pytree": 0,
    "status": 0,
    "contracts": 2,
    "frame": 1,
    "kernels": 1,
    "typing": 1,
    "reduction": 3,
    "sampling": 1,
    "merging": 2,
    "sources": 2,
    "streams": 3,
    "streaming": 4,
    "subsampling": 5,
    "devices": -1,
    "sharding": 4,
    "hosts": 5,
    "local_search": 4,
    "validation": 2,
    "problem": 4,
    "seeding": 3,
    "solver": 5,
    "solve": 6,
    "fitting": 7,
    "kmeans": 8,
    "mixture": 8,
    "gmm": 9,
    "interop": 10,
    "metrics": 10,
    "plot": 10,
    "sweep": 10,
    "io": 11,
    "checkpoint": 12,
}


def path_of(module: str) -> Path:
    path = ROOT.parent / Path(*module.split("."))
    init = path / "__init__.py"
    return init if init.exists() else path.with_suffix(".py")


def imports_of(module: str) -> set[str]:
    """Every module that a module imports, at the top or within a function."""
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


def package(module: str) -> str:
    return module.split(".")[1] if module.startswith("jaxmix.") else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module):
    own = package(module)
    for name in imports_of(module):
        other = package(name)
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


# Their examples take long to compile; README.md, which is run, shows the same.
LONG = ("jaxmix.sweep", "jaxmix.mixture.components.gaussian.prior")


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
