"""Real data that scikit-learn ships, as float32 rows. Nothing is downloaded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class DataSet(NamedTuple):
    """Rows, how many centers to look for, and where they come from."""

    name: str
    x: np.ndarray
    k: int
    source: str


def _load(name: str) -> Any:
    import sklearn.datasets

    return getattr(sklearn.datasets, name)


def iris() -> DataSet:
    """150 flowers, 4 lengths in cm."""
    return DataSet("iris", _as_rows(_load("load_iris")(return_X_y=True)[0]), 3, "Fisher (1936), in cm")


def wine() -> DataSet:
    """178 wines, 13 chemical measurements, each standardised."""
    x = _load("load_wine")(return_X_y=True)[0]
    return DataSet("wine", _as_rows((x - x.mean(0)) / x.std(0)), 3, "Aeberhard and Forina (1992), standardised")


def digits() -> DataSet:
    """1797 handwritten digits, 8 x 8 pixels of 0 to 16."""
    x = _load("load_digits")(return_X_y=True)[0]
    return DataSet("digits", _as_rows(x), 10, "Alpaydin and Kaynak (1998), pixels of 0 to 16")


def china(num_pixels: int = 8000, seed: int = 0) -> DataSet:
    """A random sample of the pixels of a photograph, colours of 0 to 1."""
    pixels = _load("load_sample_image")("china.jpg").reshape(-1, 3) / 255.0
    rows = np.random.default_rng(seed).choice(len(pixels), num_pixels, replace=False)
    return DataSet("china", _as_rows(pixels[rows]), 16, f"{num_pixels} pixels of china.jpg, RGB of 0 to 1")


DATA_SETS: dict[str, Callable[[], DataSet]] = {"iris": iris, "wine": wine, "digits": digits, "china": china}


def _as_rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)
