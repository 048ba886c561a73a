"""Optional dependencies: an error that names the extra of jaxmix that brings a missing module."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Imports of modules that only an extra installs stand in this context.

    Args:
      extra: its name in `pyproject.toml`.

    Raises:
      ModuleNotFoundError: for a module that is not installed, with the command that installs it.

    Example:
      >>> from jaxmix import extras
      >>> with extras.needed("plot"):
      ...     import not_installed
      Traceback (most recent call last):
      ModuleNotFoundError: No module named 'not_installed', an optional dependency: pip install 'jaxmix[plot]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"No module named {error.name!r}, an optional dependency: pip install 'jaxmix[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
