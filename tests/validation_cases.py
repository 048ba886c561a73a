"""Invalid and unusual arguments, and their results: the tables of docs/input_validation.md.

tests/test_validation.py runs them. `python -m tests.validation_cases`, from the root, prints the tables and writes them
to the page.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from jaxmix import Blocks, Fit, Solver, Status, Subsample, as_data, gmm, kmeans, solve
from jaxmix.pytree import choice
from tests import oracles
from tests.frames import Frame, NAType, frame
from tests.pages import DOCS, markdown, rewritten

PAGE = DOCS / "input_validation.md"
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
UNTYPED: Any = gmm  # arguments of any type
UNTYPED_SOLVE: Any = solve
SETTINGS: dict[str, Any] = {"x": X, "weights": ONES, "restarts": 2, "max_steps": 200}


def at(array: np.ndarray, row: int, value: Any) -> np.ndarray:
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
    covariance = jax.tree.map(lambda leaf: scale * np.asarray(leaf), family.identity(K, D, float))
    mixture = UNTYPED.Mixture(np.full(K, -np.log(K)), UNTYPED.Normal(means, covariance))
    return jax.tree.map(lambda leaf: np.stack([leaf, leaf]), mixture)


def bare(model: str, **changes: Any) -> Any:
    """A mixture to start from, its fields replaced by whatever they are."""
    log_weights = changes.pop("log_weights", np.full(K, -np.log(K)))
    parts = {"means": X[:K], "covariance": MODELS[model].identity(K, D, float), **changes}
    return UNTYPED.Mixture(log_weights, UNTYPED.Normal(**parts))


def other_family(model: str) -> Any:
    """Covariances of a family that is not the model's."""
    return (gmm.Spherical if model != "Spherical" else gmm.Diagonal).identity(K, D, float)


class Undecorated(Solver):
    """A solver whose author forgot `choice`."""


@choice
class Stepless(Solver):
    """A solver whose author forgot `step`."""

    def init(self, objective: Any, params: Any) -> Any:
        """The start."""
        return params


Change = dict[str, Any] | Callable[[str], dict[str, Any]]


class Rejected(NamedTuple):
    """An argument that is rejected, and the error: word by word the same for every model."""

    argument: str
    given: str
    change: Change
    message: str
    traced: str = ""  # the result of K-means and of mixtures under `jit` and `vmap`; empty if it is rejected there too
    only: str = ""  # "K-means" or "mixtures", if only these have such an argument


class Accepted(NamedTuple):
    """An argument that is accepted, and the result: a word for K-means, one for mixtures, and families that differ."""

    given: str
    change: Change
    kmeans: str
    mixtures: str
    families: tuple[tuple[str, str], ...] = ()
    traced: bool = False  # whether it is run under `jit` and `vmap` too, with the same result
    like: np.ndarray | None = None  # the plain array whose fit must be the same


NUMBERS = "must hold real numbers, but "
STRINGS = (
    "it holds strings, such as {1!r} in row 0{2}. Encode categories as numbers, such as a column of 0 and 1 for each. "
    "Of numbers written as text make np.asarray({0}, float)."
)
COMPLEX = "it holds complex numbers. Give their real and imaginary parts as columns, {0}.real and {0}.imag."
UNIT = 'such as np.timedelta64(1, "D").'
WIDE = (
    "`x` holds integers that float64 would round, such as 9007199254740993 in row 3, column 0. Leave out columns that "
    "only identify rows. Subtract an offset from such integers."
)
INSTANCE = "must be an instance of a class derived from `{}`, such as {}, got {}."
COUNT = "must be a Python integer of at least {} (it sets a shape), got {}."
TYPED = (
    "`key` must be one typed PRNG key, such as jax.random.key(0), got {}. For an old-style key: "
    "jax.random.wrap_key_data(key)."
)
NOT_FINITE = "`x` must be finite, but these rows hold NaN or infinity: 3. Drop them, or give them weight 0."
NO_MIXTURE = (
    "`init` must be a mixture of finite numbers with covariances that are positive definite, but it holds NaN, "
    "infinity, or a scale that is not above 0. If it is that of a fit, see its status."
)
RAGGED = "could not be read as a numeric array: "
FORM = "`init.components` must have the form "
OPEN = (RAGGED, FORM)  # messages that go on in words of NumPy, or of the family
WEIGHTS = "`weights` must be finite and non-negative, but 1 are not (the first is {}, of row 3)."
TOLERANCE = "must be finite and at least 0, got {}."
ONE = "must be one real number, got {} of shape {}. To sweep it, use jax.vmap."

REJECTED = [
    Rejected(
        "x",
        "one axis",
        {"x": X[:, 0]},
        "`x` must have shape (N, D), got (24,). Use x[:, None] for one feature, or x[None] for one row.",
    ),
    Rejected("x", "three axes", {"x": X[None]}, "`x` must have shape (N, D), got (1, 24, 2)."),
    Rejected("x", "no rows", {"x": X[:0]}, "`x` must have at least one row and one column, got shape (0, 2)."),
    Rejected("x", "no columns", {"x": X[:, :0]}, "`x` must have at least one row and one column, got shape (24, 0)."),
    Rejected("x", "NaN", {"x": at(X, 3, np.nan)}, NOT_FINITE, "NONFINITE"),
    Rejected("x", "inf", {"x": at(X, 3, np.inf)}, NOT_FINITE, "NONFINITE"),
    Rejected("x", "-inf", {"x": at(X, 3, -np.inf)}, NOT_FINITE, "NONFINITE"),
    Rejected("x", "complex numbers", {"x": X + 1j}, f"`x` {NUMBERS}{COMPLEX.format('x')}"),
    Rejected(
        "x",
        "strings",
        {"x": X.round().astype(str)},
        f"`x` {NUMBERS}{STRINGS.format('x', str(X.round()[0, 0]), ', column 0')}",
    ),
    Rejected("x", "objects", {"x": X.astype(object)}, f"`x` {NUMBERS}its dtype is object. Write np.asarray(x, float)."),
    Rejected(
        "x",
        "dates",
        {"x": np.zeros((N, D), "datetime64[s]")},
        f"`x` {NUMBERS}it holds dates. Subtract a first date, and divide by a unit, {UNIT}",
    ),
    Rejected(
        "x",
        "differences of dates",
        {"x": np.zeros((N, D), "m8[s]")},
        f"`x` {NUMBERS}it holds differences of dates. Divide them by a unit, {UNIT}",
    ),
    Rejected("x", "None", {"x": None}, f"`x` {NUMBERS}it is None."),
    Rejected(
        "x",
        "a PRNG key",
        lambda model: {"x": KEY},
        f"`x` {NUMBERS}it is a PRNG key. Look at the order of the arguments.",
    ),
    Rejected(
        "x",
        "integers that float64 cannot hold",
        {"x": at(X.astype(int), 3, [2**53 + 1, 0])},
        WIDE,
    ),
    Rejected(
        "x",
        "a sparse matrix",
        {"x": scipy.sparse.csr_matrix(X)},
        "`x` is a sparse matrix (csr_matrix), but must be a dense array. Write x.toarray(). Where that is too large, "
        "reduce the columns first, such as by TruncatedSVD of scikit-learn.",
    ),
    Rejected(
        "x",
        "a frame with missing values",
        {"x": Frame(at(X.astype(object), 3, [0.0, NAType()]), ("length", "width"))},
        f"`x` {NUMBERS}it has missing values, such as in row 3, column 'width'. Drop those rows, or impute the values.",
    ),
    Rejected("x", "a ragged list", {"x": [[1.0], [1.0, 2.0]]}, f"`x` {RAGGED}"),
    Rejected(
        "x",
        "masked entries",
        {"x": np.ma.masked_greater(X, 8.0)},
        "`x` has masked entries, whose values mean nothing. Drop those rows, or fill them.",
    ),
    Rejected(
        "x",
        "a frame with a column of words",
        {"x": Frame(np.array([[value, "Rome"] for value in X[:, 0].tolist()], object), ("length", "city"))},
        f"`x` {NUMBERS}{STRINGS.format('x', 'Rome', ', column ' + repr('city'))}",
    ),
    Rejected(
        "x",
        "`Data`, and weights besides",
        lambda model: {"x": as_data(X)},
        "`x` is a `Data`, which has weights already: give `as_data(x.x, weights)` instead.",
    ),
    Rejected("k", "0", {"k": 0}, f"`k` {COUNT.format(1, 0)}"),
    Rejected("k", "-2", {"k": -2}, f"`k` {COUNT.format(1, -2)}"),
    Rejected("k", "2.0", {"k": 2.0}, f"`k` {COUNT.format(1, 2.0)}"),
    Rejected("k", "True", {"k": True}, f"`k` {COUNT.format(1, True)}"),
    Rejected("k", "N + 1", {"k": N + 1}, "`k` must be at most the number of rows with positive weight, 24, got 25."),
    Rejected(
        "k",
        "more than rows of positive weight",
        {"weights": first(K - 1)},
        "`k` must be at most the number of rows with positive weight, 2, got 3.",
        "J = 0, off",
    ),
    Rejected(
        "k",
        "one row",
        {"weights": first(1)},
        "`k` must be at most the number of rows with positive weight, 1, got 3.",
        "J = 0, off",
    ),
    Rejected("weights", "-1", {"weights": at(ONES, 3, -1)}, WEIGHTS.format(-1), "NONFINITE"),
    Rejected("weights", "NaN", {"weights": at(ONES, 3, np.nan)}, WEIGHTS.format(np.nan), "NONFINITE"),
    Rejected("weights", "inf", {"weights": at(ONES, 3, np.inf)}, WEIGHTS.format(np.inf), "NONFINITE"),
    Rejected(
        "weights",
        "all zero",
        {"weights": 0 * ONES},
        "`weights` must not be all zero: there would be no rows.",
        "NONFINITE",
    ),
    Rejected(
        "weights",
        "whose sum is near the largest number",
        {"weights": 1e308 * ONES},
        "`weights` must have a sum of at most 1.7e+302 in float64, because losses are sums over them, but the "
        "largest is 1e+308. Divide them by their mean.",
        "NONFINITE",
    ),
    Rejected(
        "weights",
        "too few",
        {"weights": ONES[1:]},
        "`weights` must have shape (24,), one for each row of `x`, got (23,).",
    ),
    Rejected(
        "weights",
        "a column",
        {"weights": ONES[:, None]},
        "`weights` must have shape (24,), one for each row of `x`, got (24, 1).",
    ),
    Rejected("weights", "strings", {"weights": ["1"] * N}, f"`weights` {NUMBERS}{STRINGS.format('weights', '1', '')}"),
    Rejected(
        "init",
        "of another K",
        {"init": X[: K - 1]},
        "`init` must be a function (key, data, k) -> centers, or have shape (3, 2) or (R, 3, 2), got shape (2, 2).",
    ),
    Rejected(
        "init",
        "of one axis",
        {"init": X[0]},
        "`init` must be a function (key, data, k) -> centers, or have shape (3, 2) or (R, 3, 2), got shape (2,).",
    ),
    Rejected("init", "complex numbers", {"init": X[:K] + 1j}, f"`init` {NUMBERS}{COMPLEX.format('init')}"),
    Rejected(
        "init",
        "the name of a method",
        {"init": "random"},
        "`init` must be a function or an array, got 'random'. The functions are seeding.kmeans_parallel, "
        "seeding.kmeans_plus_plus, seeding.maximin, seeding.random_rows.",
    ),
    Rejected(
        "init",
        "a function of other arguments",
        {"init": lambda key: X[:K]},
        "`init` must be a function (key, data, k) -> centers, but the function <lambda> is not: too many positional "
        "arguments.",
    ),
    Rejected(
        "init",
        "a fit",
        lambda model: {"init": Fit(*[jnp.zeros(())] * 6)},
        "`init` is a `Fit`, not its parameters. Give `fit.params`.",
    ),
    Rejected(
        "init",
        "a function that returns another shape",
        {"init": lambda key, data, k: data.x[:1]},
        "`init` must return shape (3, 2), got (1, 2).",
    ),
    Rejected("restarts", "0", {"restarts": 0}, f"`restarts` {COUNT.format(1, 0)}"),
    Rejected("restarts", "1.5", {"restarts": 1.5}, f"`restarts` {COUNT.format(1, 1.5)}"),
    Rejected(
        "subsample",
        "a number",
        {"subsample": 2000},
        f"`subsample` {INSTANCE.format('Subsample', 'Subsample()', '2000')}",
    ),
    Rejected(
        "subsample",
        "`Subsample(rows=0)`",
        {"subsample": Subsample(rows=0)},
        "`rows` of `Subsample` must be an integer of at least 1, got 0.",
    ),
    Rejected(
        "subsample",
        "fewer rows than K",
        {"subsample": Subsample(rows=2)},
        "`rows` of `Subsample` must be at least `k`, 3, got 2.",
    ),
    Rejected(
        "subsample",
        "`Subsample(finished=0)`",
        {"subsample": Subsample(finished=0)},
        "`finished` of `Subsample` must be an integer of at least 1, got 0.",
    ),
    Rejected(
        "subsample",
        "`Subsample(swaps=-1)`",
        {"subsample": Subsample(swaps=-1)},
        "`swaps` of `Subsample` must be an integer of at least 0, got -1.",
    ),
    Rejected(
        "subsample",
        "`Subsample(share=1.0)`",
        {"subsample": Subsample(share=1.0)},
        "`share` of `Subsample` must be a number of at least 0 and below 1, got 1.0.",
    ),
    Rejected("num_active", "K + 1", {"num_active": K + 1}, "`num_active` must be between 1 and 3, got 4.", "NONFINITE"),
    Rejected("num_active", "a string", {"num_active": "2"}, "`num_active` must be one integer, got <U1 of shape ()."),
    Rejected("key", "a number", {"key": 0}, TYPED.format("int of dtype None and shape None")),
    Rejected("key", "None", {"key": None}, TYPED.format("NoneType of dtype None and shape None")),
    Rejected(
        "key",
        "an old-style key",
        {"key": np.zeros(2, np.uint32)},
        TYPED.format("ndarray of dtype uint32 and shape (2,)"),
    ),
    Rejected(
        "key",
        "two keys",
        lambda model: {"key": jax.random.split(KEY, 2)},
        TYPED.format("PRNGKeyArray of dtype key<fry> and shape (2,)"),
    ),
    Rejected("max_steps", "-1", {"max_steps": -1}, f"`max_steps` {COUNT.format(0, -1)}"),
    Rejected("max_steps", "2.5", {"max_steps": 2.5}, f"`max_steps` {COUNT.format(0, 2.5)}"),
    Rejected("rtol", "-1", {"rtol": -1.0}, f"`rtol` {TOLERANCE.format(-1.0)}", "fitted, fitted or MAX_STEPS"),
    Rejected("rtol", "NaN", {"rtol": np.nan}, f"`rtol` {TOLERANCE.format(np.nan)}", "fitted, fitted or MAX_STEPS"),
    Rejected("atol", "inf", {"atol": np.inf}, f"`atol` {TOLERANCE.format(np.inf)}", "fitted"),
    Rejected("atol", "two numbers", {"atol": [0.1, 0.2]}, f"`atol` {ONE.format('float64', (2,))}"),
    Rejected("atol", "None", {"atol": None}, f"`atol` {ONE.format('object', ())}"),
    Rejected(
        "solver",
        "a class",
        {"solver": solve.EM},
        "`solver` must be an instance, got the class EM. Write EM().",
    ),
    Rejected(
        "solver",
        "a problem",
        {"solver": kmeans.KMeans()},
        f"`solver` {INSTANCE.format('Solver', 'solve.EM()', 'an instance of KMeans')}",
    ),
    Rejected(
        "solver",
        "one without the decorator",
        {"solver": Undecorated()},
        "`solver` is of the class Undecorated, which lacks the decorator `jaxmix.pytree.choice`: write @choice above "
        "its definition.",
    ),
    Rejected(
        "solver",
        "one without `step`",
        lambda model: {"solver": Stepless()},
        "`solver` is of the class Stepless, which must define `step(objective, state)`.",
    ),
    Rejected("reduce", "a number", {"reduce": 4096}, f"`reduce` {INSTANCE.format('Blocks', 'Blocks(4096)', '4096')}"),
    Rejected(
        "size",
        "0",
        {"reduce": Blocks(0)},
        "`size` must be an integer of at least 1, the rows of a block, or None, got 0.",
    ),
    Rejected(
        "optimizer",
        "one that is built already",
        {"solver": UNTYPED_SOLVE.Optax(optax.adam(0.05), 0.05)},
        "`optimizer` must be a function from a learning rate to an optax transformation, got one that is built "
        "already. For optax.adam(0.05) write Optax(optax.adam, learning_rate=0.05); for a chain, Optax(make, "
        "learning_rate=0.05) with def make(rate): return optax.chain(...).",
    ),
    Rejected(
        "optimizer",
        "a number, before the optimizer",
        {"solver": UNTYPED_SOLVE.Optax(0.05, optax.adam)},
        "`optimizer` must be a function from a learning rate to an optax transformation, got 0.05. For "
        "optax.adam(0.05) write Optax(optax.adam, learning_rate=0.05); for a chain, Optax(make, learning_rate=0.05) "
        "with def make(rate): return optax.chain(...).",
    ),
    Rejected(
        "optimizer",
        "a function without arguments",
        {"solver": UNTYPED_SOLVE.Optax(lambda: optax.adam(0.05), 0.05)},
        "`optimizer` must be a function from a learning rate to an optax transformation, but the function <lambda> is "
        "not: too many positional arguments.",
    ),
    Rejected(
        "learning_rate",
        "a schedule",
        {"solver": UNTYPED_SOLVE.Optax(optax.adam, lambda step: 0.1)},
        "`learning_rate` must be a number, got the function <lambda>. For a schedule, write Optax(make, "
        "learning_rate=1.0) with def make(rate): return optax.adam(lambda step: rate * schedule(step)).",
    ),
    Rejected(
        "learning_rate",
        "NaN",
        {"solver": solve.Optax(optax.adam, np.nan)},
        f"`learning_rate` {TOLERANCE.format(np.nan)}",
    ),
    Rejected(
        "batch_size",
        "2.5",
        {"solver": UNTYPED_SOLVE.Optax(optax.sgd, 0.1, batch_size=2.5, key=KEY)},
        f"`batch_size` {COUNT.format(1, 2.5)}",
    ),
    Rejected(
        "empty",
        "another word",
        {"empty": "drop"},
        "`empty` must be one of ('farthest', 'keep'), got 'drop'.",
        only="K-means",
    ),
    Rejected(
        "covariance",
        "a name",
        {"covariance": "full"},
        "`covariance` must be a covariance family, a class such as gmm.Full, got 'full'.",
        only="mixtures",
    ),
    Rejected(
        "assignment",
        "a class",
        {"assignment": gmm.Hard},
        "`assignment` must be an instance, got the class Hard. Write Hard().",
        only="mixtures",
    ),
    Rejected(
        "prior",
        "a function that makes one",
        {"prior": gmm.fraley_raftery},
        f"`prior` {INSTANCE.format('NormalInverseWishart', 'gmm.weak_prior(x)', 'the function fraley_raftery')} "
        "Call it: fraley_raftery(...).",
        only="mixtures",
    ),
    Rejected("refine", "-1", {"refine": -1}, f"`refine` {COUNT.format(0, -1)}", only="mixtures"),
    Rejected(
        "regularization",
        "-1",
        {"regularization": -1.0},
        f"`regularization` {TOLERANCE.format(-1.0)}",
        only="mixtures",
    ),
    Rejected(
        "regularization",
        "a string",
        {"regularization": "1e-6"},
        f"`regularization` {ONE.format('<U4', ())}",
        only="mixtures",
    ),
    Rejected(
        "inverse_temperature",
        "0",
        {"assignment": gmm.Tempered(0.0)},
        "`inverse_temperature` must be finite and above 0, got 0.0.",
        only="mixtures",
    ),
    Rejected(
        "init",
        "a mixture of another K",
        lambda model: {"init": bare(model, means=X[: K - 1])},
        "`init.means` must have shape (3, 2) or a leading axis R, got (2, 2).",
        only="mixtures",
    ),
    Rejected(
        "init",
        "a mixture of another D",
        lambda model: {"init": bare(model, means=X[:K, :1])},
        "`init.means` must have shape (3, 2) or a leading axis R, got (3, 1).",
        only="mixtures",
    ),
    Rejected(
        "init",
        "weights, not their logarithms",
        lambda model: {"init": bare(model, log_weights=np.full(K, 1 / K))},
        "`init.log_weights` must be logarithms of weights that sum to 1, but these sum to 4.18684. From weights, use "
        "gmm.mixture(weights, means, covariances).",
        only="mixtures",
    ),
    Rejected(
        "init", "scales of zero", lambda model: {"init": start(model, scale=0.0)}, NO_MIXTURE, "NONFINITE", "mixtures"
    ),
    Rejected(
        "init", "negative scales", lambda model: {"init": start(model, scale=-1.0)}, NO_MIXTURE, "NONFINITE", "mixtures"
    ),
    Rejected(
        "init",
        "a matrix for a family",
        lambda model: {"init": bare(model, covariance=np.eye(D))},
        FORM,
        only="mixtures",
    ),
    Rejected(
        "init",
        "covariances of another family",
        lambda model: {"init": bare(model, covariance=other_family(model))},
        FORM,
        only="mixtures",
    ),
    Rejected(
        "init",
        "means that are strings",
        lambda model: {"init": bare(model, means=X[:K].round().astype(str))},
        f"`init.means` {NUMBERS}{STRINGS.format('init.means', str(X.round()[0, 0]), ', column 0')}",
        only="mixtures",
    ),
]
UNCORRELATED = tuple((name, "fitted") for name in FAMILIES if name not in ("Full", "Tied"))

ACCEPTED = [
    Accepted("a NumPy array", {}, "fitted", "fitted", traced=True),
    Accepted("a JAX array", {"x": jnp.asarray(X), "weights": jnp.asarray(ONES)}, "fitted", "fitted", like=X),
    Accepted("a list of lists, a list of weights", {"x": X.tolist(), "weights": [1] * N}, "fitted", "fitted", like=X),
    Accepted("a pandas frame", {"x": frame("pandas", X)}, "fitted", "fitted", like=X),
    Accepted("a polars frame", {"x": frame("polars", X)}, "fitted", "fitted", like=X),
    Accepted("anything with `__array__`", {"x": Frame(X), "weights": Frame(ONES)}, "fitted", "fitted", like=X),
    Accepted("NumPy's extended precision, read as float64", {"x": X.astype(np.longdouble)}, "fitted", "fitted", like=X),
    Accepted(
        "integers, read as the default float",
        {"x": X.round().astype(np.int16)},
        "fitted",
        "fitted",
        like=X.round(),
    ),
    Accepted("booleans, read as the default float", {"x": X > 4}, "J = 0", "held up", like=(X > 4) * 1.0),
    Accepted("float32, kept", {"x": X.astype(np.float32)}, "fitted", "fitted"),
    Accepted(
        "float16, read as float32",
        {"x": X.astype(np.float16)},
        "fitted",
        "fitted",
        like=X.astype(np.float16).astype(np.float32),
    ),
    Accepted(
        "bfloat16, read as float32",
        {"x": jnp.asarray(X, jnp.bfloat16)},
        "fitted",
        "fitted",
        like=np.asarray(jnp.asarray(X, jnp.bfloat16), np.float32),
    ),
    Accepted("one feature, D = 1", {"x": X[:, :1]}, "fitted", "fitted"),
    Accepted("as many rows as centers, N = K", {"weights": first(K)}, "J = 0", "held up", traced=True),
    Accepted("subnormal entries", {"x": np.where(X > 4, 1e-310, 5e-324)}, "J = 0", "off", traced=True),
    Accepted("a row of 1e30", {"x": at(X, 3, 1e30)}, "fitted", "fitted", traced=True),
    Accepted("a row of 1e30 in float32", {"x": at(X, 3, 1e30).astype(np.float32)}, "fitted", "off"),
    Accepted(
        "a constant column",
        {"x": np.column_stack([X[:, 0], 7 * ONES])},
        "fitted",
        "held up",
        families=(("Spherical", "fitted"), ("TiedSpherical", "fitted")),
        traced=True,
    ),
    Accepted("a column twice", {"x": X[:, [0, 0]]}, "fitted", "held up", families=UNCORRELATED, traced=True),
    Accepted("all rows equal", {"x": X[[0] * N]}, "J = 0", "off", traced=True),
    Accepted("two distinct rows, K = 3", {"x": X[np.arange(N) % 2]}, "J = 0", "off", traced=True),
    Accepted("one weight of 1e12", {"weights": at(ONES, 3, 1e12)}, "fitted", "held up", traced=True),
    Accepted("weights that are mostly zero", {"weights": first(3 * K)}, "fitted", "fitted", traced=True),
    Accepted("weights of 1e-12", {"weights": 1e-12 * ONES}, "fitted", "fitted", traced=True),
    Accepted(
        "a row of weight zero that holds NaN",
        {"x": at(X, 3, np.nan), "weights": at(ONES, 3, 0)},
        "fitted",
        "fitted",
        traced=True,
    ),
    Accepted(
        "`init` with NaN",
        lambda model: {"init": start(model, means=at(X[:K], 0, np.nan))},
        "NONFINITE",
        "NONFINITE",
        traced=True,
    ),
    Accepted(
        "`init` with equal centers",
        lambda model: {"init": start(model, means=X[[0] * K])},
        "fitted",
        "fitted",
        traced=True,
    ),
    Accepted("`init` of integers", lambda model: {"init": start(model, means=X[:K].astype(int))}, "fitted", "fitted"),
    Accepted("`max_steps` of 0", {"max_steps": 0}, "MAX_STEPS", "MAX_STEPS"),
]


def arguments(case: Rejected | Accepted, model: str) -> dict[str, Any]:
    """All arguments of `fit_restarts`."""
    change = case.change(model) if callable(case.change) else case.change
    covariance = {} if MODELS[model] is None else {"covariance": MODELS[model]}
    return {"key": KEY, "k": K, **covariance, **SETTINGS, **change}


def fits(model: str, given: dict[str, Any]) -> Fit:
    """The two restarts."""
    function = kmeans.fit_restarts if MODELS[model] is None else gmm.fit_restarts
    given = dict(given)
    return function(given.pop("key"), given.pop("x"), given.pop("k"), **given)


def outcome(fit: Fit, x: np.ndarray, weights: np.ndarray) -> str:
    """The result of one fit, in a word of the page; its loss must be that of its parameters, as NumPy computes it."""
    if fit.status == Status.NONFINITE:
        return "NONFINITE"
    weights = np.asarray(weights, float)
    present = weights > 0
    x, weights = x[present], weights[present]
    if isinstance(fit.params, gmm.Mixture):
        np.testing.assert_allclose(np.exp(np.asarray(fit.params.log_weights, float)).sum(), 1, rtol=1e-5)
        noise = np.asarray(gmm.noise_floor(x.astype(fit.loss.dtype), weights=weights), float)
        # Its rounding is noise of a place.
        rounding = 0.5 * float(jnp.finfo(fit.loss.dtype).eps) * np.abs(np.asarray(fit.params.means, float))
        each = np.maximum(noise, np.square(rounding))
        loss, least, condition = oracles.mixture_loss(fit.params, x, weights, each)
        held_up = least < 2 * noise.max()
        word = "off" if np.isneginf(fit.params.log_weights).any() else "held up" if held_up else "fitted"
    else:
        loss, condition = oracles.cost(fit.params, x, weights), 0.0
        word = "fitted" if loss else "J = 0"
    assert np.isfinite(loss), "a good status, and parameters whose loss is not finite"
    epsilon = float(jnp.finfo(fit.loss.dtype).eps)
    slack = epsilon * (1000 + 10 * condition)
    np.testing.assert_allclose(fit.loss, loss, rtol=1000 * epsilon, atol=slack * weights.sum())
    status = Status(int(fit.status))
    return word if status == Status.CONVERGED else status.name


def tables() -> tuple[str, str]:
    """The tables of the page, from the cases."""
    rejected = [["argument", "value", "message of the `ValueError`", "traced: K-means, mixtures"]]
    rejected += [
        [
            f"`{case.argument}`",
            case.given,
            case.message.replace("<", r"\<") + ("..." if case.message.endswith(OPEN) else ""),
            case.traced,
        ]
        for case in REJECTED
    ]
    taken = [["value", "K-means", "mixtures", "traced"]]
    for case in ACCEPTED:
        families = "".join(f"; {word} ({name})" for name, word in case.families)
        taken.append([case.given, case.kmeans, case.mixtures + families, "the same" if case.traced else ""])
    return markdown(rejected), markdown(taken)


if __name__ == "__main__":
    print(*tables(), sep="\n")
    PAGE.write_text(rewritten(PAGE, *tables()))
