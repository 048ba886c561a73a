"""What is public has a page, says its shapes and shows an example. The examples are run by test_house.py."""

import functools
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jaxmix
import jaxmix.plot

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
DOCUMENTED = set(re.findall(r"^\.\. auto\w+:: (\S+)$", PAGE, flags=re.MULTILINE))
FACES = [
    "jaxmix",
    "jaxmix.kmeans",
    "jaxmix.kmeans.exact",
    "jaxmix.gmm",
    "jaxmix.gmm.start",
    "jaxmix.mixture",
    "jaxmix.metrics",
    "jaxmix.seeding",
    "jaxmix.solve",
    "jaxmix.sweep",
    "jaxmix.linalg",
    "jaxmix.pytree",
    "jaxmix.merging",
    "jaxmix.reduction",
    "jaxmix.io",
    "jaxmix.interop",
    "jaxmix.plot",
    "jaxmix.datasets",
]
# Contracts with skeletons on docs/extend.md, exceptions, and numpyro, which is not a dependency.
WITHOUT_EXAMPLE = {"Assignment", "Covariance", "FitError", "LoadError", "Progress", "Report", "to_numpyro"}


def public(face: str) -> dict[str, Any]:
    """The names that a module offers: its `__all__`, or what it defines without an underscore."""
    # By attributes: `jaxmix.gmm.start` is a module of `jaxmix.mixture`.
    module = functools.reduce(getattr, face.split(".")[1:], jaxmix)
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    values = {name: getattr(module, name) for name in names}
    return {f"{face}.{name}": value for name, value in values.items() if not isinstance(value, ModuleType)}


# A name may be offered in two places: by the package and by the module that defines it.
NAMES: dict[int, list[str]] = {}
VALUES: dict[int, Any] = {}
for _face in FACES:
    for _name, _value in public(_face).items():
        NAMES.setdefault(id(_value), []).append(_name)
        VALUES[id(_value)] = _value
PUBLIC = [pytest.param(names, VALUES[key], id=names[0].removeprefix("jaxmix.")) for key, names in NAMES.items()]


def entry(doc: str, section: str, name: str = "") -> str:
    """A section of a docstring, or the entry of a name in it."""
    text = re.search(rf"^{section}:\n(.*?)(?=^\S|\Z)", doc, flags=re.MULTILINE | re.DOTALL)
    if text is None or not name:
        return text[1] if text else ""
    found = re.search(rf"^  {name}: (.*?)(?=^  \w+:|\Z)", text[1], flags=re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def holds_arrays(annotation: Any) -> bool:
    return "Array" in str(annotation) and not str(annotation).startswith(
        ("typing.Callable", "collections.abc.Callable")
    )


TOLD = r"shape|key|traced|as in `|tolerance"
"""A word that says what an array is: its shape, or that it is a key or one number."""


@pytest.mark.parametrize(("names", "value"), PUBLIC)
def test_a_public_name_has_a_page_and_an_example(names, value):
    assert DOCUMENTED & set(names), "not in docs/api.md"
    assert ">>>" in (inspect.getdoc(value) or "") or names[0].split(".")[-1] in WITHOUT_EXAMPLE


def test_the_api_page_shows_nothing_that_is_not_public():
    assert {name for names in NAMES.values() for name in names} >= DOCUMENTED


@pytest.mark.parametrize(("names", "value"), [p for p in PUBLIC if inspect.isclass(p.values[1])])
def test_a_public_class_says_the_shapes_of_its_arrays(names, value):
    for name, annotation in inspect.get_annotations(value).items():
        if holds_arrays(annotation):
            assert re.search(TOLD, entry(inspect.getdoc(value) or "", "Attributes", name)), name


@pytest.mark.parametrize(("names", "value"), [p for p in PUBLIC if not inspect.isclass(p.values[1])])
def test_a_public_function_says_its_shapes_and_what_it_takes_and_returns(names, value):
    doc, signature = inspect.getdoc(value) or "", inspect.signature(value)
    parameters = signature.parameters.values()
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters)
    assert entry(doc, "Returns") or signature.return_annotation is None
    if "Takes and raises what `fit` does." in doc:
        assert value.__module__.endswith((".fit", ".fitting"))
        return
    for parameter in parameters:
        told = entry(doc, "Args", parameter.name)
        assert told, f"{parameter.name} has no entry"
        assert not holds_arrays(parameter.annotation) or re.search(TOLD, told), parameter.name
    assert not holds_arrays(signature.return_annotation) or "shape" in entry(doc, "Returns")


def test_a_docstring_without_shapes_is_found():
    doc = "Adds.\n\nArgs:\n  x: the rows.\n  key: a PRNG key,\n    for noise.\n\nReturns:\n  The sum, of shape ().\n"
    assert entry(doc, "Args", "x") == "the rows.\n"
    assert not re.search(TOLD, entry(doc, "Args", "x"))
    assert "noise" in entry(doc, "Args", "key")
    assert entry(doc, "Args", "y") == entry(doc, "Raises") == ""
    assert "shape" in entry(doc, "Returns")
