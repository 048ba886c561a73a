"""Small real data that travels with the package."""

from importlib import resources

import numpy as np


def old_faithful() -> np.ndarray:
    """272 eruptions of the Old Faithful geyser: length, and waiting time to the next, both in minutes.

    Returns:
      Array of shape (272, 2), float64, in minutes.

    References:
      Azzalini and Bowman (1990), Applied Statistics 39, 357-365; the data set `faithful` of R.

    Example:
      >>> from jaxmix import datasets
      >>> datasets.old_faithful().shape
      (272, 2)
    """
    text = resources.files("jaxmix").joinpath("data/old_faithful.csv").read_text()
    return np.loadtxt(text.splitlines(), delimiter=",", skiprows=1)
