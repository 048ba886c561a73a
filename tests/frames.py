"""Frames of pandas and polars, and a stand-in where neither is installed."""

from typing import Any

import numpy as np


class Frame:
    """An object that `numpy.asarray` reads as an array, as it does frames; its columns may have names."""

    def __init__(self, values: Any, columns: tuple[str, ...] = ()):
        self.values = values
        self.columns = columns

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.values, dtype)


class NAType:
    """What pandas puts where a value is missing."""


def frame(package: str, values: Any) -> Any:
    """A frame of that package, or its stand-in."""
    try:
        module = __import__(package)
    except ModuleNotFoundError:
        return Frame(values)
    return module.DataFrame({str(i): column for i, column in enumerate(np.asarray(values).T.tolist())})
