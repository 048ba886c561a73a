"""Real data that ships with a package, and synthetic mixtures, as float32 rows. Nothing is downloaded."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmix import datasets


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
    """178 wines, 13 chemical measurements, each standardized."""
    x = _load("load_wine")(return_X_y=True)[0]
    return DataSet("wine", _as_rows((x - x.mean(0)) / x.std(0)), 3, "Aeberhard and Forina (1992), standardized")


def digits() -> DataSet:
    """1797 handwritten digits, 8 x 8 pixels of 0 to 16."""
    x = _load("load_digits")(return_X_y=True)[0]
    return DataSet("digits", _as_rows(x), 10, "Alpaydin and Kaynak (1998), pixels of 0 to 16")


def photograph(name: str) -> np.ndarray:
    """A photograph that scikit-learn ships, "china" or "flower": colors of 0 to 1, of shape (427, 640, 3)."""
    return np.asarray(_load("load_sample_image")(f"{name}.jpg"), np.float32) / 255


def china(num_pixels: int = 4000, seed: int = 0) -> DataSet:
    """A random sample of the pixels of a photograph, colors of 0 to 1."""
    pixels = photograph("china").reshape(-1, 3)
    rows = np.random.default_rng(seed).choice(len(pixels), num_pixels, replace=False)
    return DataSet("china", _as_rows(pixels[rows]), 16, f"{num_pixels} pixels of china.jpg, RGB of 0 to 1")


DATA_SETS: dict[str, Callable[[], DataSet]] = {"iris": iris, "wine": wine, "digits": digits, "china": china}


def _as_rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)


def _standardized(x: np.ndarray) -> np.ndarray:
    return _as_rows((x - x.mean(0)) / x.std(0))


def mixture(name: str, seed: int) -> DataSet:
    """Data for mixtures: "faithful", "iris", "wine", or a synthetic mixture: "c = 0.2", "c = 1, D = 10, K = 5"."""
    if name == "faithful":
        return DataSet(name, _standardized(datasets.old_faithful()), 3, "Azzalini and Bowman (1990), standardized")
    if name in DATA_SETS:
        data_set = DATA_SETS[name]()
        source = data_set.source.removesuffix(", standardized")
        return data_set._replace(x=_standardized(data_set.x), source=f"{source}, standardized")
    match = re.fullmatch(r"c = ([0-9.]+)(?:, D = ([0-9]+))?(?:, K = ([0-9]+))?", name)
    if match is None:
        raise ValueError(
            f"Unknown data set {name!r}: faithful, {', '.join(DATA_SETS)}, or c = 0.2, or c = 1, D = 10, K = 5."
        )
    separation, num_features, k = float(match[1]), int(match[2] or 2), int(match[3] or 3)
    x, _ = datasets.separated_mixture(jax.random.key(seed), 600, k, num_features, separation)
    return DataSet(
        name, _as_rows(np.asarray(x)), k, f"{k} unit Gaussians whose means are {separation:g} sqrt(D) apart or more"
    )
