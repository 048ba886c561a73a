"""Checks of what users write themselves: choices, such as problems and solvers, and functions."""

import functools
import inspect
from typing import Any

from jaxmix.arrays import described
from jaxmix.pytree import is_choice


def check_choice(value: Any, name: str, contract: type, example: str, required: tuple[str, ...] = ()) -> None:
    """Rejects all but a valid instance of a class that derives from `contract` and is decorated with `choice`.

    Args:
      value: the argument.
      name: what to call it in an error.
      contract: the class to derive from, such as `Solver`; its `validate` is called, if it has one.
      example: an instance, as it is written.
      required: the methods that the class must define.

    Raises:
      ValueError: naming the argument, and what is missing.
    """
    if isinstance(value, type) and issubclass(value, contract):
        raise ValueError(f"`{name}` must be an instance, got the class {value.__name__}. Write {_call(value)}.")
    if not isinstance(value, contract):
        call = f" Call it: {value.__name__}(...)." if inspect.isfunction(value) else ""
        raise ValueError(
            f"`{name}` must be an instance of a class derived from `{contract.__name__}`, such as {example}, got "
            f"{described(value)}.{call}"
        )
    cls = type(value).__name__
    if not is_choice(value):
        raise ValueError(
            f"`{name}` is of the class {cls}, which lacks the decorator `jaxmix.pytree.choice`: write @choice above "
            "its definition."
        )
    missing = [method for method in required if getattr(type(value), method) is getattr(contract, method)]
    if missing:
        signatures = ", ".join(f"`{method}{_parameters(getattr(contract, method))}`" for method in missing)
        raise ValueError(f"`{name}` is of the class {cls}, which must define {signatures}.")
    getattr(value, "validate", lambda: None)()


def check_call(function: Any, name: str, words: str, *arguments: str) -> None:
    """Rejects all but a function of so many arguments.

    Args:
      function: the argument.
      name: what to call it in an error.
      words: what it is a function of, such as "from a learning rate to an optax transformation".
      arguments: the names of what it is called with.

    Raises:
      ValueError: naming the argument.
    """
    if not callable(function):
        raise ValueError(f"`{name}` must be a function {words}, got {described(function)}.")
    problem = _mismatch(function, arguments)
    if problem:
        raise ValueError(f"`{name}` must be a function {words}, but {described(function)} is not: {problem}.")


@functools.lru_cache(maxsize=64)
def _mismatch(function: Any, arguments: tuple[str, ...]) -> str:
    """Why a function cannot be called with so many arguments; "" if it can."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:
        pass  # some functions of C have no signature
    return ""


def _call(cls: Any) -> str:
    """How an instance of a class is written."""
    needed = [
        name for name, parameter in inspect.signature(cls).parameters.items() if parameter.default is parameter.empty
    ]
    return f"{cls.__name__}({', '.join(needed)})"


def _parameters(method: Any) -> str:
    names = list(inspect.signature(method).parameters)[1:]
    return f"({', '.join(names)})"
