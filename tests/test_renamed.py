"""The page of renamed names: every new one exists with the arguments shown, every old one does not."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import jaxmix

PAGE = (Path(__file__).parent.parent / "docs" / "renamed.md").read_text()
ROWS = re.findall(r"^\| (.*) \| (.*) \|$", PAGE, flags=re.MULTILINE)


def found(path: str) -> Any:
    """What a dotted name stands for in jaxmix; None where there is no such name."""
    value: Any = jaxmix
    for name in path.removeprefix("jaxmix.").split("."):
        if inspect.ismodule(value) and not hasattr(value, name):
            try:
                value = importlib.import_module(f"{value.__name__}.{name}")
            except ModuleNotFoundError:
                return None
        else:
            value = getattr(value, name, None)
        if value is None:
            return None
    return value


def exists(code: str) -> bool:
    """Whether a name exists, and takes the arguments that a call shows: `name(first, second, keyword=)`."""
    path, call, arguments = re.fullmatch(r"([\w.]+)(\((.*)\))?", code).groups()  # pyright: ignore[reportOptionalMemberAccess]
    value = found(path)
    if value is None or call is None:
        return value is not None
    names = [name for name in inspect.signature(value).parameters if name != "self"]
    shown = re.sub(r"\([^()]*\)", "", arguments).split(", ")
    keywords = [argument.split("=")[0] for argument in shown if "=" in argument]
    first = [argument for argument in shown if argument.isidentifier()]
    positional = not first or len(first) + len(keywords) < len(shown) or names[: len(first)] == first
    return positional and set(keywords) <= set(names)


def codes(cell: str) -> list[str]:
    """The names of a cell: those that stand before a comma or a semicolon of its prose, or alone."""
    dotted = re.findall(r"`((?:jaxmix\.)?[\w.]+\.[\w.]+(?:\([^`]*\))?)`", cell)
    return [code for code in dotted if not code.startswith("jax.")]


@pytest.mark.parametrize(("old", "new"), [row for row in ROWS if codes(row[0])])
def test_new_names_exist_and_old_ones_do_not(old, new):
    assert codes(new), new
    assert [code for code in codes(new) if not exists(code)] == []
    assert [code for code in codes(old) if exists(code)] == []


def test_calls_are_compared_with_signatures():
    assert exists("kmeans.predict(centers, x)")
    assert exists("solve.Optax(optax.adam, learning_rate=0.05)")
    assert not exists("kmeans.predict(x, centers)")
    assert not exists("gmm.fit(family=)")
    assert not exists("kmeans.nothing")
    assert not exists("nothing.at.all")
