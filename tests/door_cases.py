"""What comes in at the door, and what becomes of it: the tables of docs/door.md, run by tests/test_door.py.

`python -m tests.door_cases`, from the root, writes the tables of the page anew.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmix import Fit, Status, as_data, gmm, kmeans, solve
from tests import oracles
from tests.pages import DOCS, markdown, rewritten

PAGE = DOCS / "door.md"
N, D, K = 24, 2, 3
KEY = jax.random.key(0)
GROUPS = np.arange(N) % K
X = np.array([[0.0, 0.0], [9.0, 1.0], [-8.0, 9.0]])[GROUPS] + np.random.default_rng(0).normal(size=(N, D))
ONES = np.ones(N)
FAMILIES = {
    family.__name__: family
    for family in (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)
}
MODELS: dict[str, Any] = {"K-means": None, **FAMILIES}
# One program a model, a shape and a dtype.
UNTYPED: Any = gmm  # what comes may be anything
UNTYPED_SOLVE: Any = solve
HELD_UP = 1e-5  # variances that are the regularization's, 1e-6, and little else
SETTINGS: dict[str, Any] = {"x": X, "weights": ONES, "restarts": 2, "max_steps": 200}


class Frame:
    """What pandas and polars frames are to the door, where neither is installed."""

    def __init__(self, values: Any):
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.values, dtype)


def frame(package: str, values: Any) -> Any:
    """A frame of that package, or its stand-in."""
    try:
        module = __import__(package)
    except ModuleNotFoundError:
        return Frame(values)
    return module.DataFrame({str(i): column for i, column in enumerate(np.asarray(values).T.tolist())})


def at(array: np.ndarray, row: int, value: float) -> np.ndarray:
    """A copy with one row, or one number, replaced."""
    changed = array.copy()
    changed[row] = value
    return changed


def first(n: int) -> np.ndarray:
    """Weights of one for the first rows, and zero for what only fills the shape."""
    return (np.arange(N) < n).astype(float)


def start(model: str, **changes: Any) -> Any:
    """Two equal starts for a model, the first K rows: centers, or a mixture of unit scales; its fields replaced."""
    family = MODELS[model]
    means = changes.pop("means", X[:K])
    if family is None:
        return np.stack([means, means])
    scale = changes.pop("scale", 1.0)
    mixture = UNTYPED.GMM(np.full(K, -np.log(K)), means, family.unit(K, D, float))._replace(**changes)
    return jax.tree.map(
        lambda leaf: np.stack([leaf, leaf]),
        mixture._replace(covariance=jax.tree.map(lambda leaf: scale * np.asarray(leaf), mixture.covariance)),
    )


def bare(model: str, **changes: Any) -> Any:
    """A mixture to start from, its fields replaced by whatever they are."""
    return UNTYPED.GMM(np.full(K, -np.log(K)), X[:K], MODELS[model].unit(K, D, float))._replace(**changes)


Change = dict[str, Any] | Callable[[str], dict[str, Any]]


class Refused(NamedTuple):
    """What is refused, and in which words: word by word the same for every model."""

    argument: str
    came: str
    change: Change
    message: str
    traced: str = (
        ""  # what becomes of K-means and of mixtures under `jit` and `vmap`; empty where it is refused there too
    )
    only: str = ""  # "K-means" or "mixtures", if only these have such an argument


class Taken(NamedTuple):
    """What is taken, and what becomes of it: a word for K-means, one for mixtures, and families that differ."""

    came: str
    change: Change
    kmeans: str
    mixtures: str
    families: tuple[tuple[str, str], ...] = ()
    traced: bool = False  # whether it is run under `jit` and `vmap` too, where the same must become of it
    like: np.ndarray | None = None  # the plain array whose fit this must be


NUMBERS = "must hold real numbers, got dtype {}. Convert it to float first."
COUNT = "must be a Python integer of at least {} (it sets a shape), got {}."
TYPED = (
    "`key` must be one typed PRNG key, such as jax.random.key(0), got {}. For an old-style key: "
    "jax.random.wrap_key_data(key)."
)
NOT_FINITE = (
    "`x` must be finite, but 1 rows hold NaN or infinity (the first is row 3). Drop them, or give them weight 0."
)
NO_MIXTURE = (
    "`init` must be a mixture of finite numbers with covariances that are positive definite, but it holds NaN, "
    "infinity, or a scale that is not above 0. If it is that of a fit, see its status."
)
RAGGED = "must be an array of numbers, but it is none, or ragged: "
WEIGHTS = "`weights` must be finite and non-negative, but 1 are not (the first is {}, of row 3)."
TOLERANCE = "must be finite and at least 0, got {}."
ONE = "must be one real number, got {} of shape {}. To sweep it, use jax.vmap."

REFUSED = [
    Refused("x", "one axis", {"x": X[:, 0]}, "`x` must have shape (N, D), got (24,). Use x[:, None] for one feature."),
    Refused("x", "three axes", {"x": X[None]}, "`x` must have shape (N, D), got (1, 24, 2)."),
    Refused("x", "no rows", {"x": X[:0]}, "`x` must have at least one row and one column, got shape (0, 2)."),
    Refused("x", "no columns", {"x": X[:, :0]}, "`x` must have at least one row and one column, got shape (24, 0)."),
    Refused("x", "NaN", {"x": at(X, 3, np.nan)}, NOT_FINITE, "NONFINITE"),
    Refused("x", "inf", {"x": at(X, 3, np.inf)}, NOT_FINITE, "NONFINITE"),
    Refused("x", "-inf", {"x": at(X, 3, -np.inf)}, NOT_FINITE, "NONFINITE"),
    Refused("x", "complex numbers", {"x": X + 1j}, f"`x` {NUMBERS.format('complex128')}"),
    Refused("x", "strings", {"x": X.astype(str)}, f"`x` {NUMBERS.format('<U32')}"),
    Refused("x", "objects", {"x": X.astype(object)}, f"`x` {NUMBERS.format('object')}"),
    Refused("x", "dates", {"x": np.zeros((N, D), "datetime64[s]")}, f"`x` {NUMBERS.format('datetime64[s]')}"),
    Refused("x", "differences of dates", {"x": np.zeros((N, D), "m8[s]")}, f"`x` {NUMBERS.format('timedelta64[s]')}"),
    Refused("x", "None", {"x": None}, f"`x` {NUMBERS.format('object')}"),
    Refused("x", "a ragged list", {"x": [[1.0], [1.0, 2.0]]}, f"`x` {RAGGED}"),
    Refused(
        "x",
        "masked entries",
        {"x": np.ma.masked_greater(X, 8.0)},
        "`x` has masked entries, whose values mean nothing. Drop those rows, or fill them.",
    ),
    Refused("x", "a frame with a column of words", {"x": Frame(X.astype(object))}, f"`x` {NUMBERS.format('object')}"),
    Refused(
        "x",
        "`Data`, and weights besides",
        lambda model: {"x": as_data(X)},
        "`x` is a `Data`, which has weights already: give `as_data(x.x, weights)` instead.",
    ),
    Refused("k", "0", {"k": 0}, f"`k` {COUNT.format(1, 0)}"),
    Refused("k", "-2", {"k": -2}, f"`k` {COUNT.format(1, -2)}"),
    Refused("k", "2.0", {"k": 2.0}, f"`k` {COUNT.format(1, 2.0)}"),
    Refused("k", "True", {"k": True}, f"`k` {COUNT.format(1, True)}"),
    Refused("k", "N + 1", {"k": N + 1}, "`k` must be at most the number of rows with positive weight, 24, got 25."),
    Refused(
        "k",
        "more than rows of positive weight",
        {"weights": first(K - 1)},
        "`k` must be at most the number of rows with positive weight, 2, got 3.",
        "J = 0, off",
    ),
    Refused(
        "k",
        "one row",
        {"weights": first(1)},
        "`k` must be at most the number of rows with positive weight, 1, got 3.",
        "J = 0, off",
    ),
    Refused("weights", "-1", {"weights": at(ONES, 3, -1)}, WEIGHTS.format(-1), "NONFINITE"),
    Refused("weights", "NaN", {"weights": at(ONES, 3, np.nan)}, WEIGHTS.format(np.nan), "NONFINITE"),
    Refused("weights", "inf", {"weights": at(ONES, 3, np.inf)}, WEIGHTS.format(np.inf), "NONFINITE"),
    Refused(
        "weights",
        "all zero",
        {"weights": 0 * ONES},
        "`weights` must not be all zero: there would be no rows.",
        "NONFINITE",
    ),
    Refused(
        "weights",
        "whose sum is infinite",
        {"weights": 1e308 * ONES},
        "`weights` must have a finite sum in float64, but the largest is 1e+308.",
        "NONFINITE",
    ),
    Refused(
        "weights",
        "too few",
        {"weights": ONES[1:]},
        "`weights` must have shape (24,), one for each row of `x`, got (23,).",
    ),
    Refused(
        "weights",
        "a column",
        {"weights": ONES[:, None]},
        "`weights` must have shape (24,), one for each row of `x`, got (24, 1).",
    ),
    Refused("weights", "strings", {"weights": ["1"] * N}, f"`weights` {NUMBERS.format('<U1')}"),
    Refused(
        "init",
        "of another K",
        {"init": X[: K - 1]},
        "`init` must be a function (key, data, k) -> centers, or have shape (3, 2) or (R, 3, 2), got shape (2, 2).",
    ),
    Refused(
        "init",
        "of one axis",
        {"init": X[0]},
        "`init` must be a function (key, data, k) -> centers, or have shape (3, 2) or (R, 3, 2), got shape (2,).",
    ),
    Refused("init", "complex numbers", {"init": X[:K] + 1j}, f"`init` {NUMBERS.format('complex128')}"),
    Refused("init", "the name of a method", {"init": "k-means++"}, f"`init` {NUMBERS.format('<U9')}"),
    Refused(
        "init",
        "a function that returns another shape",
        {"init": lambda key, data, k: data.x[:1]},
        "`init` must return shape (3, 2), got (1, 2).",
    ),
    Refused("restarts", "0", {"restarts": 0}, f"`restarts` {COUNT.format(1, 0)}"),
    Refused("restarts", "1.5", {"restarts": 1.5}, f"`restarts` {COUNT.format(1, 1.5)}"),
    Refused("num_active", "K + 1", {"num_active": K + 1}, "`num_active` must be between 1 and 3, got 4.", "NONFINITE"),
    Refused("num_active", "a string", {"num_active": "2"}, "`num_active` must be one integer, got <U1 of shape ()."),
    Refused("key", "a number", {"key": 0}, TYPED.format("int of dtype None and shape None")),
    Refused("key", "None", {"key": None}, TYPED.format("NoneType of dtype None and shape None")),
    Refused(
        "key",
        "an old-style key",
        {"key": np.zeros(2, np.uint32)},
        TYPED.format("ndarray of dtype uint32 and shape (2,)"),
    ),
    Refused(
        "key",
        "two keys",
        lambda model: {"key": jax.random.split(KEY, 2)},
        TYPED.format("PRNGKeyArray of dtype key<fry> and shape (2,)"),
    ),
    Refused("max_steps", "-1", {"max_steps": -1}, f"`max_steps` {COUNT.format(0, -1)}"),
    Refused("max_steps", "2.5", {"max_steps": 2.5}, f"`max_steps` {COUNT.format(0, 2.5)}"),
    Refused("rtol", "-1", {"rtol": -1.0}, f"`rtol` {TOLERANCE.format(-1.0)}", "fitted, fitted or MAX_STEPS"),
    Refused("rtol", "NaN", {"rtol": np.nan}, f"`rtol` {TOLERANCE.format(np.nan)}", "fitted, fitted or MAX_STEPS"),
    Refused("atol", "inf", {"atol": np.inf}, f"`atol` {TOLERANCE.format(np.inf)}", "fitted"),
    Refused("atol", "two numbers", {"atol": [0.1, 0.2]}, f"`atol` {ONE.format('float64', (2,))}"),
    Refused("atol", "None", {"atol": None}, f"`atol` {ONE.format('object', ())}"),
    Refused(
        "solver",
        "a class",
        {"solver": solve.EM},
        "`solver` lacks functions of the contract `Solver`: got <class 'jaxmix.solve.em.EM'>.",
    ),
    Refused(
        "problem", "a solver", {"problem": solve.EM()}, "`problem` lacks functions of the contract `Problem`: got EM()."
    ),
    Refused("learning_rate", "NaN", {"solver": solve.Gradient(np.nan)}, f"`learning_rate` {TOLERANCE.format(np.nan)}"),
    Refused(
        "batch_size",
        "2.5",
        {"solver": UNTYPED_SOLVE.Gradient(0.1, batch_size=2.5, key=KEY)},
        f"`batch_size` {COUNT.format(1, 2.5)}",
    ),
    Refused(
        "empty",
        "another word",
        {"problem": kmeans.KMeans(empty="drop")},
        "`empty` must be one of ('farthest', 'keep'), got 'drop'.",
        only="K-means",
    ),
    Refused(
        "family",
        "a name",
        {"family": "full"},
        "`family` must be a covariance family, such as gmm.Full, got 'full'.",
        only="mixtures",
    ),
    Refused("refine", "-1", {"refine": -1}, f"`refine` {COUNT.format(0, -1)}", only="mixtures"),
    Refused(
        "regularization",
        "-1",
        {"problem": gmm.GaussianMixture(-1.0)},
        f"`regularization` {TOLERANCE.format(-1.0)}",
        only="mixtures",
    ),
    Refused(
        "regularization",
        "a string",
        {"problem": UNTYPED.GaussianMixture("1e-6")},
        f"`regularization` {ONE.format('<U4', ())}",
        only="mixtures",
    ),
    Refused(
        "inverse_temperature",
        "0",
        {"problem": gmm.GaussianMixture(posterior=gmm.Tempered(0.0))},
        "`inverse_temperature` must be finite and above 0, got 0.0.",
        only="mixtures",
    ),
    Refused(
        "init",
        "a mixture of another K",
        lambda model: {"init": bare(model, means=X[: K - 1])},
        "`init.means` must have shape (3, 2) or a leading axis R, got (2, 2).",
        only="mixtures",
    ),
    Refused(
        "init",
        "a mixture of another D",
        lambda model: {"init": bare(model, means=X[:K, :1])},
        "`init.means` must have shape (3, 2) or a leading axis R, got (3, 1).",
        only="mixtures",
    ),
    Refused(
        "init",
        "weights, not their logarithms",
        lambda model: {"init": bare(model, log_weights=np.full(K, 1 / K))},
        "`init.log_weights` must be logarithms of weights that sum to 1, but these sum to 4.18684. From weights, use "
        "gmm.mixture(weights, means, covariances).",
        only="mixtures",
    ),
    Refused(
        "init", "scales of zero", lambda model: {"init": start(model, scale=0.0)}, NO_MIXTURE, "NONFINITE", "mixtures"
    ),
    Refused(
        "init", "negative scales", lambda model: {"init": start(model, scale=-1.0)}, NO_MIXTURE, "NONFINITE", "mixtures"
    ),
    Refused(
        "init",
        "a matrix for a family",
        lambda model: {"init": bare(model, covariance=np.eye(D))},
        "`init.covariance` must be a covariance family, such as gmm.Full, got ndarray.",
        only="mixtures",
    ),
    Refused(
        "init",
        "covariances of another K",
        lambda model: {"init": bare(model, covariance=UNTYPED.Diagonal(np.ones((K - 1, D))))},
        "`init.covariance.scale` must have shape (3, 2) for means of shape (3, 2), got (2, 2).",
        only="mixtures",
    ),
    Refused(
        "init",
        "means that are strings",
        lambda model: {"init": bare(model, means=X[:K].astype(str))},
        f"`init.means` {NUMBERS.format('<U32')}",
        only="mixtures",
    ),
]
UNCORRELATED = tuple((name, "fitted") for name in FAMILIES if name not in ("Full", "Tied"))

TAKEN = [
    Taken("a NumPy array", {}, "fitted", "fitted", traced=True),
    Taken("a JAX array", {"x": jnp.asarray(X), "weights": jnp.asarray(ONES)}, "fitted", "fitted", like=X),
    Taken("a list of lists, a list of weights", {"x": X.tolist(), "weights": [1] * N}, "fitted", "fitted", like=X),
    Taken("a pandas frame", {"x": frame("pandas", X)}, "fitted", "fitted", like=X),
    Taken("a polars frame", {"x": frame("polars", X)}, "fitted", "fitted", like=X),
    Taken("anything with `__array__`", {"x": Frame(X), "weights": Frame(ONES)}, "fitted", "fitted", like=X),
    Taken("NumPy's extended precision, taken as float64", {"x": X.astype(np.longdouble)}, "fitted", "fitted", like=X),
    Taken(
        "integers, taken as the default float", {"x": X.round().astype(np.int16)}, "fitted", "fitted", like=X.round()
    ),
    Taken("booleans, taken as the default float", {"x": X > 4}, "J = 0", "held up", like=(X > 4) * 1.0),
    Taken("float32, kept", {"x": X.astype(np.float32)}, "fitted", "fitted"),
    Taken(
        "float16, taken as float32",
        {"x": X.astype(np.float16)},
        "fitted",
        "fitted",
        like=X.astype(np.float16).astype(np.float32),
    ),
    Taken(
        "bfloat16, taken as float32",
        {"x": jnp.asarray(X, jnp.bfloat16)},
        "fitted",
        "fitted",
        like=np.asarray(jnp.asarray(X, jnp.bfloat16), np.float32),
    ),
    Taken("one feature, D = 1", {"x": X[:, :1]}, "fitted", "fitted"),
    Taken("as many rows as centers, N = K", {"weights": first(K)}, "J = 0", "held up", traced=True),
    Taken("subnormal entries", {"x": np.where(X > 4, 1e-310, 5e-324)}, "J = 0", "off", traced=True),
    Taken("a row of 1e30", {"x": at(X, 3, 1e30)}, "fitted", "NONFINITE", traced=True),
    Taken("a row of 1e30 in float32", {"x": at(X, 3, 1e30).astype(np.float32)}, "fitted", "NONFINITE"),
    Taken(
        "a constant column",
        {"x": np.column_stack([X[:, 0], 7 * ONES])},
        "fitted",
        "held up",
        families=(("Spherical", "fitted"), ("TiedSpherical", "fitted")),
        traced=True,
    ),
    Taken("a column twice", {"x": X[:, [0, 0]]}, "fitted", "held up", families=UNCORRELATED, traced=True),
    Taken("all rows equal", {"x": X[[0] * N]}, "J = 0", "off", traced=True),
    Taken("two distinct rows, K = 3", {"x": X[np.arange(N) % 2]}, "J = 0", "off", traced=True),
    Taken("one weight of 1e12", {"weights": at(ONES, 3, 1e12)}, "fitted", "held up", traced=True),
    Taken("weights that are mostly zero", {"weights": first(3 * K)}, "fitted", "fitted", traced=True),
    Taken("weights of 1e-12", {"weights": 1e-12 * ONES}, "fitted", "fitted", traced=True),
    Taken(
        "a row of weight zero that holds NaN",
        {"x": at(X, 3, np.nan), "weights": at(ONES, 3, 0)},
        "fitted",
        "fitted",
        traced=True,
    ),
    Taken(
        "`init` with NaN",
        lambda model: {"init": start(model, means=at(X[:K], 0, np.nan))},
        "NONFINITE",
        "NONFINITE",
        traced=True,
    ),
    Taken(
        "`init` with equal centers",
        lambda model: {"init": start(model, means=X[[0] * K])},
        "fitted",
        "fitted",
        traced=True,
    ),
    Taken("`init` of integers", lambda model: {"init": start(model, means=X[:K].astype(int))}, "fitted", "fitted"),
    Taken("`max_steps` of 0", {"max_steps": 0}, "MAX_STEPS", "MAX_STEPS"),
]


def arguments(case: Refused | Taken, model: str) -> dict[str, Any]:
    """What `fit_all` is given, all of it."""
    change = case.change(model) if callable(case.change) else case.change
    family = {} if MODELS[model] is None else {"family": MODELS[model]}
    return {"key": KEY, "k": K, **family, **SETTINGS, **change}


def fits(model: str, given: dict[str, Any]) -> Fit:
    """The two restarts."""
    function = kmeans.fit_all if MODELS[model] is None else gmm.fit_all
    given = dict(given)
    return function(given.pop("key"), given.pop("x"), given.pop("k"), **given)


def outcome(fit: Fit, x: np.ndarray, weights: np.ndarray) -> str:
    """What became of one fit, in a word of the page; its loss must be that of its parameters, as NumPy has it."""
    if fit.status == Status.NONFINITE:
        return "NONFINITE"
    weights = np.asarray(weights, float)
    present = weights > 0
    x, weights = x[present], weights[present]
    if isinstance(fit.params, gmm.GMM):
        np.testing.assert_allclose(np.exp(np.asarray(fit.params.log_weights, float)).sum(), 1, rtol=1e-5)
        loss, least, condition = oracles.mixture_loss(fit.params, x, weights)
        word = "off" if np.isneginf(fit.params.log_weights).any() else "held up" if least < HELD_UP else "fitted"
    else:
        loss, condition = oracles.cost(fit.params, x, weights), 0.0
        word = "fitted" if loss else "J = 0"
    assert np.isfinite(loss), "a good status, and parameters whose loss is no number"
    epsilon = float(jnp.finfo(fit.loss.dtype).eps)
    slack = epsilon * (1000 + 10 * condition)
    np.testing.assert_allclose(fit.loss, loss, rtol=1000 * epsilon, atol=slack * weights.sum())
    status = Status(int(fit.status))
    return word if status == Status.CONVERGED else status.name


def tables() -> tuple[str, str]:
    """The tables of the page, from the cases."""
    refused = [["argument", "what came", "the words of the `ValueError`", "unseen: K-means, mixtures"]]
    refused += [
        [
            f"`{case.argument}`",
            case.came,
            case.message.replace("<", r"\<") + ("..." if case.message.endswith(RAGGED) else ""),
            case.traced,
        ]
        for case in REFUSED
    ]
    taken = [["what came", "K-means", "mixtures", "unseen"]]
    for case in TAKEN:
        families = "".join(f"; {word} ({name})" for name, word in case.families)
        taken.append([case.came, case.kmeans, case.mixtures + families, "the same" if case.traced else ""])
    return markdown(refused), markdown(taken)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE, *tables()))
