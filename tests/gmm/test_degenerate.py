"""Degenerate and bad data, as the table of docs/degenerate.md: what becomes of each is looked up and run.

`python -m tests.gmm.test_degenerate`, from the root, writes the table of the page anew.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmix import Fit, Status, gmm, kmeans
from tests.mixtures import make, replace
from tests.pages import DOCS, markdown, rewritten

N, D, K = 24, 4, 2
PAGE = DOCS / "degenerate.md"
COLUMNS = {
    "kmeans": "K-means",
    "likelihood": "mixture, `regularization=0`",
    "default": "default",
    "prior": "`fraley_raftery` prior",
    "diagonal": "prior, `Diagonal`",
}


class Case(NamedTuple):
    name: str
    expected: str  # a word of the page for each column, or one for all
    x: np.ndarray
    weights: np.ndarray | None = None
    k: int = K
    start: tuple[list[float], list[float], list[float]] | None = None  # weights, places and widths of the components
    hidden: bool = False


def words(case: Case) -> list[str]:
    found = case.expected.split(", ")
    return found * len(COLUMNS) if len(found) == 1 else found


def first(n: int) -> np.ndarray:
    """Weights of one for the first rows, and zero for what only fills the shape."""
    return (np.arange(N) < n).astype(float)


def with_column(column: np.ndarray | float) -> np.ndarray:
    return np.column_stack([PLAIN[:, :-1], np.broadcast_to(column, N)])


PLAIN = np.where(np.arange(N) % 2 == 0, -3.0, 3.0)[:, None] + np.random.default_rng(0).normal(size=(N, D))
WITH_NAN = np.where(np.arange(N)[:, None] == 3, np.nan, PLAIN)
OUTLIER = np.where(np.arange(N)[:, None] == 0, 50.0, PLAIN)

CASES = [
    Case("rows with weights", "finite", PLAIN, np.arange(1.0, N + 1)),
    Case("rows of weight zero", "finite", PLAIN, np.arange(N) % 3),
    Case("NaN in a row of weight zero", "finite", WITH_NAN, 1 - (np.arange(N) == 3)),
    Case("every row twice", "finite", PLAIN[np.arange(N) // 2]),
    Case("two distinct rows", "J = 0, NONFINITE, finite, finite, finite", PLAIN[np.arange(N) % 2]),
    Case("all rows equal", "J = 0, NONFINITE, off, NONFINITE, NONFINITE", np.ones((N, D))),
    Case("a constant column", "finite, NONFINITE, finite, finite, finite", with_column(7.0)),
    Case("collinear columns", "finite, NONFINITE, finite, finite, finite", with_column(2 * PLAIN[:, 0] + 1)),
    Case("N = K", "J = 0, NONFINITE, finite, finite, finite", PLAIN, first(K)),
    Case("N < D", "finite, NONFINITE, finite, finite, finite", PLAIN, first(3)),
    Case("one row, K = 1", "J = 0, NONFINITE, finite, ValueError, ValueError", PLAIN, first(1), k=1),
    Case(
        "K above the rows of positive weight, under `jit`",
        "J = 0, NONFINITE, off, NONFINITE, NONFINITE",
        PLAIN,
        first(1),
        hidden=True,
    ),
    Case("all weights zero under `jit`", "NONFINITE", PLAIN, first(0), hidden=True),
    Case("NaN rows under `jit`", "NONFINITE", WITH_NAN, first(N), hidden=True),
    Case("offset 1e4 in float32", "finite", (PLAIN + 1e4).astype(np.float32), first(N)),
    Case(
        "a component that loses its rows",
        "finite, off, off, finite, finite",
        PLAIN,
        start=([0.5, 0.5], [0.0, 1e4], [3.0, 1.0]),
    ),
    Case(
        "a component that collapses onto a row",
        "finite, NONFINITE, finite, finite, finite",
        OUTLIER,
        start=([1 / N, 1 - 1 / N], [50.0, 0.0], [1e-2, 3.0]),
    ),
]


def fits(x, weights, start, *, column: str, k: int) -> Fit:
    key = jax.random.key(0)
    options = {"weights": weights, "restarts": 2, "max_steps": 30}
    if column == "kmeans":
        return kmeans.fit_restarts(key, x, k, **options, **({} if start is None else {"init": start.means}))
    family = gmm.Diagonal if column == "diagonal" else gmm.Full
    settings: dict[str, Any] = {}
    if column == "likelihood":
        settings["regularization"] = 0.0
    elif column != "default":
        settings["prior"] = gmm.fraley_raftery(x, k, covariance=family, weights=weights)
    if start is not None and family is gmm.Diagonal:
        start = replace(start, covariance=gmm.Diagonal(jnp.diagonal(start.covariance.scale_tril, axis1=-2, axis2=-1)))
    if start is not None:
        settings["init"] = start
    return gmm.fit_restarts(key, x, k, covariance=family, **settings, **options)


hidden_fits = partial(jax.jit, static_argnames=("column", "k"))(fits)


def mixture(weights: list[float], places: list[float], widths: list[float]) -> gmm.Mixture:
    """A start of round components, twice."""
    one = make(
        jnp.log(jnp.array(weights)),
        jnp.tile(jnp.array(places)[:, None], (1, D)),
        gmm.Full(jnp.array(widths)[:, None, None] * jnp.eye(D)[None]),
    )
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)


def outcome(case: Case, column: str) -> str:
    """What becomes of the two restarts, in a word of the page."""
    start = None if case.start is None else mixture(*case.start)
    weights = np.ones(N) if case.weights is None else case.weights
    try:
        found = (hidden_fits if case.hidden else fits)(case.x, weights, start, column=column, k=case.k)
    except ValueError:
        return "ValueError"
    failed = np.asarray(found.status) == Status.NONFINITE
    if failed.all():
        return "NONFINITE"
    if failed.any():
        return "restarts that differ"
    assert np.isfinite(found.loss).all(), "a good status and a loss that is not finite"
    if column == "kmeans":
        assert np.isfinite(found.params).all(), "a good status and centers that are not finite"
        return "J = 0" if (found.loss == 0).all() else "finite"
    params = found.params
    covariances = np.asarray(jax.vmap(lambda mixture: mixture.covariances)(params))
    assert np.isfinite(params.means).all(), "a good status and means that are not finite"
    assert np.isfinite(covariances).all(), "a good status and covariances that are not finite"
    assert not np.isnan(params.log_weights).any(), "a good status and weights that are NaN"
    assert (np.linalg.eigvalsh(covariances)[..., 0] > 0).all(), "a good status and a covariance that is singular"
    return "off" if np.isneginf(params.log_weights).any() else "finite"


def table() -> str:
    """The table of the page, from the cases."""
    return markdown([["data", *COLUMNS.values()], *([case.name, *words(case)] for case in CASES)])


# Each row under `jit` is a program of its own.
@pytest.mark.parametrize(
    ("case", "column"),
    [
        pytest.param(
            case,
            column,
            id=f"{case.name}-{column}",
            marks=[pytest.mark.slow]
            if column in ("prior", "diagonal") or (case.hidden and column not in ("kmeans", "likelihood"))
            else [],
        )
        for case in CASES
        for column in COLUMNS
    ],
)
def test_what_becomes_of_degenerate_data_is_what_the_page_says(case, column):
    expected = dict(zip(COLUMNS, words(case), strict=True))[column]
    found = outcome(case, column)
    assert found == expected


def test_the_page_shows_exactly_this_table():
    assert PAGE.read_text() == rewritten(PAGE, table()), "run `python -m tests.gmm.test_degenerate`"


@pytest.mark.parametrize("column", ["likelihood", "default"])
@pytest.mark.parametrize("place", range(D))
@pytest.mark.parametrize("kind", ["constant", "collinear"])
def test_rows_in_a_subspace_need_noise_whichever_column_it_is_and_in_float32_too(kind, place, column):
    added = 7.0 if kind == "constant" else 2 * PLAIN[:, :1] + 1
    x = np.insert(PLAIN[:, :-1], [place], np.broadcast_to(added, (N, 1)), axis=1)
    for dtype in (np.float32, np.float64):
        case = Case(kind, "", x.astype(dtype), np.ones(N, dtype))
        assert outcome(case, column) == {"likelihood": "NONFINITE", "default": "finite"}[column]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE, table()))
