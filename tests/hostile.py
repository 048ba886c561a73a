"""Data of every kind that breaks fits: the tables and the properties of tests/test_hostile.py share them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st

from jaxmix import Fit, Status, gmm, kmeans
from tests.mixtures import FAMILIES

N = 131  # what all rows are filled up to, by rows of weight zero
WIDTH, WIDE = 3, 30
MOST = 6  # the most components
KEY = jax.random.key(0)
DTYPES = (np.float32, np.float64)
RANDOM = np.random.default_rng(0)
TWO = np.concatenate([RANDOM.normal(size=(60, 3)), RANDOM.normal(size=(60, 3)) + 6])


class Rows(NamedTuple):
    x: np.ndarray
    weights: np.ndarray | None = None
    refused: bool = False  # whether no model takes them


def ordinary() -> dict[str, Rows]:
    """Kinds of three columns that are the same in both dtypes."""
    random = np.random.default_rng(1)
    normal, plane = random.normal(size=(80, 3)), random.normal(size=(2, 3))
    far = TWO[:1] + 1e4
    kinds = {
        "two clusters": TWO,
        "one row": TWO[:1],
        "two rows": TWO[:2],
        "as many rows as features": TWO[:3],
        "four rows": TWO[:4],
        "five rows": TWO[58:63],
        "six rows": TWO[57:63],
        "seven rows": TWO[57:64],
        "a constant column": np.c_[TWO[:, :2], np.full(120, 7.0)],
        "a column of zeros": np.c_[TWO[:, :2], np.zeros(120)],
        "two constant columns": np.c_[TWO[:, :1], np.full((120, 2), -3e5)],
        "all constant": np.full((20, 3), 2.5),
        "all zero": np.zeros((20, 3)),
        "negative zeros": np.where(np.arange(60).reshape(20, 3) % 2, -0.0, 0.0),
        "one row 130 times": np.repeat(TWO[:1], 130, axis=0),
        "a column twice": np.c_[TWO[:, :2], TWO[:, 0]],
        "a column twice but for its last digit": np.c_[TWO[:, :2], TWO[:, 0] * (1 + 1e-7)],
        "a column and its negative": np.c_[TWO[:, :2], -TWO[:, 0]],
        "three distinct rows": np.repeat(TWO[[0, 1, 70]], 20, axis=0),
        "two distinct rows far apart": np.where(np.arange(60)[:, None] % 2, np.full(3, 1e15), 0.0),
        "mostly one row": np.concatenate([np.repeat(TWO[:1], 50, axis=0), TWO[:10]]),
        "every row twice": np.repeat(TWO[::2], 2, axis=0),
        "binary": (normal > 0).astype(float),
        "a rare one": np.c_[TWO[:, :2], np.arange(120) == 3],
        "one of three columns": np.eye(3)[np.arange(90) % 3],
        "small integers": random.integers(0, 4, size=(100, 3)).astype(float),
        "rare counts": random.poisson(0.1, size=(120, 3)).astype(float),
        "a grid": np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3),
        "outlier at 1e4": np.concatenate([TWO, far]),
        "outlier at 1e8": np.concatenate([TWO, [[1e8] * 3]]),
        "outlier at -1e15": np.concatenate([TWO, [[-1e15] * 3]]),
        "outlier in one column": np.concatenate([TWO, [[0, 1e8, 0]]]),
        "outliers on both sides": np.concatenate([TWO, [[1e8] * 3, [-1e8] * 3]]),
        "an outlier five times": np.concatenate([TWO, np.full((5, 3), 1e8)]),
        "Cauchy": random.standard_cauchy((120, 3)),
        "cubes of Cauchy": random.standard_cauchy((120, 3)) ** 3,
        "ten rows of 1000 Cauchy": np.concatenate([TWO, 1e3 * random.standard_cauchy((10, 3))]),
        "offset 1e6": TWO + 1e6,
        "offset -1e6": TWO - 1e6,
        "an offset each": TWO + np.array([1e6, 0.0, -1e3]),
        "scale 1e-6": TWO * 1e-6,
        "scale 1e6": TWO * 1e6,
        "a scale each": TWO * [1e-6, 1.0, 1e6],
        "columns of 1e-12, 1 and 1e12": TWO * [1e-12, 1.0, 1e12],
        "scale 1e-15": TWO * 1e-15,
        "scale 1e15": TWO * 1e15,
        "narrow clusters": np.concatenate([1e-6 * TWO[:60], 1e-6 * TWO[60:] + 1.0]),
        "narrow clusters far from zero": np.concatenate([1e-4 * TWO[:60] + 48, 1e-4 * TWO[60:] + 48.5]),
        "times in seconds": 1.7e9 + 3600 * normal,
        "a line": np.outer(TWO[:60, 0], [1.0, 2.0, 3.0]),
        "a line far from zero": 1e6 + np.outer(TWO[:60, 0], [1.0, 2.0, 3.0]),
        "a plane": TWO[:60, :2] @ plane,
        "nearly a line": np.outer(TWO[:60, 0], [1.0, 2.0, 3.0]) + 1e-9 * TWO[:60],
        "a line in each cluster": np.concatenate(
            [np.outer(TWO[:60, 0], plane[0]), np.outer(TWO[:60, 1], plane[1]) + 9]
        ),
        "clusters far apart": np.concatenate([TWO[:60], TWO[:60] + 1e5]),
        "clusters 1e10 apart": np.concatenate([TWO[:60], TWO[:60] + 1e10]),
        "clusters of widths 1e-5 and 1e5": np.concatenate([1e-5 * TWO[:60], 1e5 * TWO[:60]]),
        "log-normal": np.exp(3 * normal),
        "sparse": np.where(random.random((120, 3)) < 0.9, 0, random.normal(size=(120, 3))),
        "steps": np.arange(99.0).reshape(33, 3),
        "powers of two": np.ldexp(1.0, np.arange(120)[:, None] - 60) * [1.0, -1.0, 2.0],
        "values of 1e30": 1e30 * TWO,
        "values of 1e-30": 1e-30 * TWO,
        "a row of 1e30": np.concatenate([TWO, [[1e30] * 3]]),
        "a row of 1e30 in one column": np.concatenate([TWO, [[0, 1e30, 0]]]),
        "rows of 1e30 and of 1e-30": np.where(np.arange(120)[:, None] % 2, 1e30, 1e-30) * TWO,
        "rows of 1 and of 1e-30": np.where(np.arange(120)[:, None] % 2, 1.0, 1e-30) * TWO,
        "columns of 1e-30, 1 and 1e30": TWO * [1e-30, 1.0, 1e30],
        "many magnitudes": 10.0 ** random.uniform(-30, 30, (120, 3)) * np.sign(random.normal(size=(120, 3))),
        "values of 1e-40": 1e-40 * TWO,
    }
    return {name: Rows(np.asarray(x, float)) for name, x in kinds.items()}


def at_the_limits(dtype: Any) -> dict[str, Rows]:
    """Kinds of three columns at the ends of a dtype's range, or of its digits."""
    info = np.finfo(dtype)
    digits = np.arange(120.0)[:, None] * [1.0, 2.0, 3.0]
    kinds = {
        "rows one rounding apart": 1 + float(info.eps) * digits,
        "rows one rounding apart, and an outlier": np.concatenate([1 + float(info.eps) * digits, [[1e3] * 3]]),
        "subnormal": float(info.tiny) * TWO / 1024,
        "the smallest normal numbers": float(info.tiny) * (1 + digits),
        "a column that is mostly subnormal": float(info.tiny) * (1 + digits) * [1.0, 0.01, 1.0],
        "the root of the smallest": float(np.sqrt(info.tiny)) * TWO,
        "the root of the largest": float(np.sqrt(info.max)) * TWO,
        "a quarter of the largest": float(info.max) / 4 * (TWO / np.abs(TWO).max()),
        "the largest and the smallest": np.where(digits % 2, float(info.max) / 4, float(info.tiny)),
    }
    return {name: Rows(x) for name, x in kinds.items()}


def weighted() -> dict[str, Rows]:
    """Kinds of weights."""
    random = np.random.default_rng(2)
    places, ones = np.arange(120), np.ones(120)
    kinds = {
        "a third of the weights zero": (TWO, (places % 3 > 0).astype(float)),
        "NaN in rows of weight zero": (np.where(places[:, None] % 3, TWO, np.nan), (places % 3 > 0).astype(float)),
        "weight on one row": (TWO, (places == 7).astype(float)),
        "weight on six rows": (TWO, (places % 20 == 7).astype(float)),
        "weights of 1e-30": (TWO, 1e-30 * ones),
        "weights of 1e30": (TWO, 1e30 * ones),
        "one weight of 1e12": (TWO, np.where(places == 7, 1e12, 1)),
        "one weight of 1e30": (TWO, np.where(places == 7, 1e30, 1)),
        "one weight of 1e-30": (TWO, np.where(places == 7, 1e-30, 1)),
        "weights of many magnitudes": (TWO, 10.0 ** random.uniform(-30, 30, 120)),
        "an outlier of weight 1e-12": (np.concatenate([TWO, [[1e8] * 3]]), np.append(ones, 1e-12)),
        "an outlier of weight 1e12": (np.concatenate([TWO, [[1e8] * 3]]), np.append(ones, 1e12)),
        "weights of 1e30 on values of 1e15": (1e15 * TWO, 1e30 * ones),
        "weights of 1e-30 on values of 1e-15": (1e-15 * TWO, 1e-30 * ones),
        "weights of 1e30 on values of 1e-30": (1e-30 * TWO, 1e30 * ones),
        "weights of 1e30, and an outlier": (np.concatenate([TWO, [[1e5] * 3]]), np.append(1e30 * ones, 1e30)),
        "weights of 1e-30 on values of 1e30": (1e30 * TWO, 1e-30 * ones),
    }
    return {name: Rows(x, weights) for name, (x, weights) in kinds.items()}


def of_thirty_columns() -> dict[str, Rows]:
    """Kinds of as many columns."""
    random = np.random.default_rng(3)
    normal = random.normal(size=(120, WIDE))
    kinds = {
        "wide": normal,
        "wide, fewer rows than columns": normal[:20],
        "wide, two rows": normal[:2],
        "wide, as many rows as columns": normal[:WIDE],
        "wide, of rank three": normal[:, :3] @ normal[:3],
        "wide, one of thirty columns": np.eye(WIDE)[np.arange(120) % WIDE],
        "wide, mostly constant columns": np.where(np.arange(WIDE) < 3, normal, 4.0),
        "wide, mostly zero": np.where(random.random(normal.shape) < 0.95, 0, random.poisson(3, normal.shape)),
        "wide, a scale each": normal * 10.0 ** np.linspace(-12, 12, WIDE),
        "wide, an offset each": normal + 10.0 ** np.linspace(-6, 6, WIDE),
        "wide, one row repeated": np.repeat(normal[:1], 50, axis=0),
        "wide, heavy tails": random.standard_cauchy((120, WIDE)),
    }
    return {name: Rows(np.asarray(x, float)) for name, x in kinds.items()}


def refused() -> dict[str, Rows]:
    """Kinds that are no rows, or that would be rounded."""
    place = np.arange(120)[:, None] == 7
    whole = np.arange(30).reshape(10, 3)
    kinds = {
        "NaN": Rows(np.where(place, np.nan, TWO)),
        "one NaN": Rows(np.where(place & [True, False, False], np.nan, TWO)),
        "infinity": Rows(np.where(place, np.inf, TWO)),
        "minus infinity": Rows(np.where(place, -np.inf, TWO)),
        "integers that floats round": Rows(whole + 2**53 + 1),
        "the largest integers": Rows(whole - 40 + np.iinfo(np.int64).max),
        "a weight of NaN": Rows(TWO, np.where(place[:, 0], np.nan, 1)),
        "a weight of infinity": Rows(TWO, np.where(place[:, 0], np.inf, 1)),
        "a weight below zero": Rows(TWO, np.where(place[:, 0], -1e-30, 1)),
        "no weight": Rows(TWO, np.zeros(120)),
    }
    return {name: rows._replace(refused=True) for name, rows in kinds.items()}


@functools.cache
def narrow(dtype: Any) -> dict[str, Rows]:
    """Every kind of three columns that is not refused."""
    return ordinary() | at_the_limits(dtype) | weighted()


@functools.cache
def kinds(dtype: Any, *, wide: bool = False) -> dict[str, Rows]:
    """Every kind of one width, in a dtype."""
    found = of_thirty_columns() if wide else narrow(dtype) | refused()
    return {name: filled(rows, dtype) for name, rows in found.items()}


def filled(rows: Rows, dtype: Any) -> Rows:
    """Rows in a dtype, filled up with rows of weight zero, so that all data of a width are one program."""
    dtype = dtype if rows.x.dtype.kind == "f" else rows.x.dtype
    x, weights = np.zeros((N, rows.x.shape[1]), dtype), np.zeros(N, dtype)
    with np.errstate(all="ignore"):
        x[: len(rows.x)] = rows.x
        weights[: len(rows.x)] = 1 if rows.weights is None else rows.weights
    return rows._replace(x=x, weights=weights)


def mixture(family: str) -> Callable[..., Fit]:
    """Every restart of a mixture of a family."""

    def fits(x: Any, k: int, weights: Any, **options: Any) -> Fit:
        options = {"restarts": 2, "max_steps": 40, **options}
        return gmm.fit_restarts(KEY, x, k, weights=weights, covariance=FAMILIES[family], **options)

    return fits


def means(empty: str) -> Callable[..., Fit]:
    """Every restart of K-means."""

    def fits(x: Any, k: int, weights: Any, **options: Any) -> Fit:
        options = {"restarts": 2, "max_steps": 40, **options}
        return kmeans.fit_restarts(KEY, x, k, weights=weights, empty=empty, **options)

    return fits


MODELS = {
    "K-means": means("farthest"),
    "K-means, keep": means("keep"),
    **{family: mixture(family) for family in FAMILIES},
}


def fault(model: str, rows: Rows, k: int, *, num_active: int | None = None, **options: Any) -> str:
    """What is wrong with the fits of rows, in a word; empty if they end finite, or are refused as they should be."""
    x, weights = rows.x, np.asarray(rows.weights)
    present = x[weights > 0]
    must_be_refused = rows.refused or not is_data(present, weights) or len(present) < k
    active = None if num_active is None else np.int32(num_active)
    try:
        fits = MODELS[model](x, k, weights, num_active=active, **options)
    except ValueError as error:
        # Squares beyond the dtype may be scaled away, or refused.
        allowed = must_be_refused or squares_overflow(present, weights)
        return "" if allowed and is_sentence(str(error)) else f"refused: {error}"
    if must_be_refused:
        return "not refused"
    statuses = {Status(status) for status in np.asarray(fits.status).tolist()}
    wrong = statuses & {Status.NONFINITE, Status.RUNNING}
    if Status.LOSS_ROSE in statuses and not may_rise(model, fits, present):
        wrong.add(Status.LOSS_ROSE)
    if wrong:
        return ", ".join(sorted(status.name for status in wrong))
    if model.startswith("K-means"):
        # Centers that are off stand at infinity.
        centers = np.asarray(fits.params)[:, : num_active or k]
        if not np.isfinite(centers).all():
            return "centers"
        return "" if is_cost(np.asarray(fits.loss), centers, present, weights[weights > 0]) else f"J is {fits.loss}"
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fits.params.components)):
        return "components"
    shares = np.exp(np.asarray(fits.params.log_weights, float))
    if not np.allclose(shares.sum(axis=1), 1, rtol=1e-5):
        return "shares"
    return "" if np.isfinite(fits.loss).all() else f"loss is {fits.loss}"


def is_cost(losses: np.ndarray, centers: np.ndarray, x: np.ndarray, weights: np.ndarray) -> bool:
    """Whether every loss is the cost of its centers, to rounding, or infinite where that is beyond the dtype."""
    info = np.finfo(x.dtype)
    # Their range is that of no dtype.
    wide, counts = x.astype(np.longdouble), weights.astype(np.longdouble)
    distances = np.square(wide[None, :, None] - centers[:, None].astype(np.longdouble)).sum(axis=-1)
    costs = distances.min(axis=-1) @ counts
    # Rounding of the sum, and of distances that vanish beside the coordinates; what underflows is 0.
    vanishing = counts.sum() * (20 * float(info.eps) * np.abs(wide).max()) ** 2
    slack = 100 * float(info.eps) * costs + vanishing + 4 * (counts.sum() + len(x)) * float(info.tiny)
    with np.errstate(invalid="ignore"):
        near = np.abs(losses - costs) <= slack
    return bool((near | (np.isposinf(losses) & (costs > float(info.max) / 16))).all())


def is_data(present: np.ndarray, weights: np.ndarray) -> bool:
    """Whether rows are numbers, and losses of a million nats can be summed over the weights."""
    total = np.sum(weights, dtype=float) if (weights >= 0).all() else np.nan
    return bool(np.isfinite(present).all() and total <= np.finfo(weights.dtype).max / 2**20)


def is_sentence(text: str) -> bool:
    """Whether an error names an argument, and ends as a sentence does."""
    return text.startswith("`") and text.rstrip().endswith(".") and len(text.split()) > 5


def squares_overflow(x: np.ndarray, weights: np.ndarray) -> bool:
    """Whether sums of squares of rows, with their weights or without, may be beyond the dtype."""
    largest, total = 4 * np.abs(x).max().astype(np.longdouble), max(weights.sum(dtype=np.longdouble), len(x))
    return bool(total * largest**2 > np.finfo(x.dtype).max)


def may_rise(model: str, fits: Fit, x: np.ndarray) -> bool:
    """Whether a tied family leaves whitened rows fewer than half their digits, as docs/precision.md says."""
    if not model.startswith("Tied"):
        return False
    offsets = np.abs(np.asarray(x, float) - np.mean(x, axis=0, dtype=float))
    scales = np.asarray(fits.params.components.covariance[0], float)
    with np.errstate(all="ignore"):
        inverses = np.abs(np.linalg.inv(scales)) if model == "Tied" else 1 / scales
        whitened = [one @ offsets.max(axis=0) if model == "Tied" else one * offsets.max(axis=0) for one in inverses]
    return np.max(whitened) > float(np.finfo(x.dtype).eps) ** -0.5


class Recipe(NamedTuple):
    """What is done to rows of some kind."""

    model: str
    k: int
    dtype: Any
    kind: str
    exponents: list[int]  # of ten, a factor for each column
    offsets: list[float]  # in units of these factors
    outliers: list[tuple[int, int, float]]  # a place, a row, and a factor of it
    copies: tuple[int, int]  # how many rows become one, and which
    constant: list[bool]  # columns
    factors: list[float]  # of weights

    def make(self) -> Rows:
        """At least as many rows as components."""
        rows = narrow(self.dtype)[self.kind]
        num_rows = max(len(rows.x), MOST)
        x, places = np.resize(rows.x, (num_rows, WIDTH)), np.arange(num_rows)
        weights = np.ones(num_rows) if rows.weights is None else np.resize(rows.weights, num_rows)
        with np.errstate(all="ignore"):
            x = (x + self.offsets) * 10.0 ** np.array(self.exponents)
            for place, row, factor in self.outliers:
                x[place % num_rows] = factor * x[row % num_rows]
        x[places < self.copies[0]] = x[self.copies[1] % num_rows]
        x[:, self.constant] = x[0, self.constant]
        return filled(Rows(x, weights * np.resize(self.factors, num_rows)), self.dtype)


def recipes(models: tuple[str, ...]) -> st.SearchStrategy[Recipe]:
    """Any of them, for these models."""

    def each(elements: st.SearchStrategy[Any], size: int = WIDTH) -> st.SearchStrategy[list[Any]]:
        return st.lists(elements, min_size=size, max_size=size)

    def of_dtype(dtype: Any) -> st.SearchStrategy[Recipe]:
        return st.builds(
            Recipe,
            model=st.sampled_from(models),
            k=st.integers(1, MOST),
            dtype=st.just(dtype),
            kind=st.sampled_from(sorted(narrow(dtype))),
            exponents=st.just([0] * WIDTH) | each(st.integers(-6, 6)),
            offsets=st.just([0.0] * WIDTH) | each(st.sampled_from([0.0, 1.0, -1e3, 1e6])),
            outliers=st.lists(st.tuples(places, places, st.sampled_from([-1e5, 1e2, 1e9])), max_size=3),
            copies=st.tuples(st.sampled_from([0, 1, 5, 50]), places),
            constant=each(st.sampled_from([False, False, False, True])),
            factors=st.just([1.0]) | each(st.sampled_from([1.0, 1.0, 1.0, 0.0, 1e-6, 1e6]), 7),
        )

    places = st.integers(0, N - 1)
    return st.sampled_from(DTYPES).flatmap(of_dtype)
