"""The loss of a default fit never rises, in any step of any restart, on real data."""

from typing import Any

import jax
import numpy as np
import pytest
from sklearn import datasets as others

from jaxmix import Status, datasets, gmm
from tests.mixtures import FAMILIES

KEY = jax.random.key(0)
MOST = 8
DATA = {
    "faithful": datasets.old_faithful,
    **{name: getattr(others, f"load_{name}") for name in ("iris", "wine", "breast_cancer", "diabetes")},
}


def rows(name: str) -> np.ndarray:
    found: Any = DATA[name]()
    return np.asarray(found if isinstance(found, np.ndarray) else found.data)


def greatest_rise(fits: Any) -> float:
    """Of one entry of a trace over the one before, as a share of the largest."""
    trace = np.asarray(fits.trace)
    return float(np.diff(trace, axis=1).max() / np.abs(trace).max())


QUICK = [pytest.param("faithful", "Full", [3])]
SLOW = [pytest.param(name, family, range(1, MOST + 1), marks=pytest.mark.slow) for name in DATA for family in FAMILIES]


@pytest.mark.parametrize(("name", "family", "counts"), QUICK + SLOW)
def test_the_loss_never_rises_on_real_data(name, family, counts):
    x = rows(name)
    for k in counts:
        # One program for every K.
        fits = gmm.fit_restarts(KEY, x, MOST, covariance=FAMILIES[family], num_active=np.int32(k), max_steps=200)
        assert set(np.asarray(fits.status).tolist()) <= {Status.CONVERGED, Status.MAX_STEPS}, k
        assert np.isfinite(fits.trace).all()
        assert greatest_rise(fits) <= 1e-9, k
