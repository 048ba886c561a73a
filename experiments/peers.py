"""Who races: jaxmix and its peers, each told to take the same steps from the same start.

Passes are E-steps. jaxmix, scikit-learn, the Intel extension and ott take one more than they take steps, for the loss
or the labels of what they return; faiss and gmmx do not.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.timing import Contender
from experiments.workloads import REGULARIZATION, Case, Outcome, start
from jaxmix import Problem, gmm, kmeans, solve
from jaxmix.mixture import Mixture, Normal

MODULES = {
    "sklearn": "sklearn.cluster",
    "sklearnex": "sklearnex.cluster",
    "faiss": "faiss",
    "ott": "ott.tools.k_means",
    "gmmx": "gmmx",
}
TITLES = {
    "sklearn": "scikit-learn",
    "sklearnex": "Intel extension",
    "faiss": "faiss",
    "ott": "ott",
    "gmmx": "gmmx",
}
OF_KMEANS = ("sklearn", "sklearnex", "faiss", "ott")
THREADS = (1, 2)
FAMILIES = {"full": gmm.Full, "tied": gmm.Tied, "diagonal": gmm.Diagonal, "spherical": gmm.Spherical}
SKLEARN_FAMILIES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def missing(names: Sequence[str]) -> dict[str, str]:
    """Those of the peers that cannot be imported here, and why."""
    reasons = {}
    for name in names:
        try:
            importlib.import_module(MODULES[name])
        except ImportError as error:
            reasons[name] = str(error)
    return reasons


def as_mixture(params: tuple[np.ndarray, ...], family: str) -> Mixture:
    """Weights, means and dense covariances as a mixture of jaxmix, in float32."""
    weights, means, covariances = params
    if family == "full":
        covariance: Any = gmm.Full(_single(np.linalg.cholesky(covariances)))
    elif family == "tied":
        covariance = gmm.Tied(_single(np.linalg.cholesky(covariances[0])))
    else:
        scales = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        covariance = gmm.Diagonal(_single(scales)) if family == "diagonal" else gmm.Spherical(_single(scales[:, 0]))
    return Mixture(_single(np.log(weights)), Normal(_single(means), covariance))


def model_of(case: Case) -> Problem:
    """The case's problem in jaxmix."""
    if case.model == "kmeans":
        return kmeans.KMeans()
    return gmm.GaussianMixture(FAMILIES[case.model], regularization=REGULARIZATION)


def as_sklearn(params: tuple[np.ndarray, ...], family: str) -> dict[str, np.ndarray]:
    """The same as arguments of scikit-learn's GaussianMixture, in float32."""
    weights, means, covariances = params
    precisions = np.linalg.inv(covariances)
    if family == "tied":
        precisions = precisions[0]
    elif family != "full":
        precisions = np.diagonal(precisions, axis1=1, axis2=2)
        precisions = precisions[:, 0] if family == "spherical" else precisions
    names = ("weights_init", "means_init", "precisions_init")
    return {name: value.astype(np.float32) for name, value in zip(names, (weights, means, precisions), strict=True)}


def dense(covariances: np.ndarray, family: str, k: int, d: int) -> np.ndarray:
    """scikit-learn's covariances of any family, of shape (K, D, D)."""
    if family == "tied":
        return np.repeat(covariances[None], k, axis=0)
    return covariances if family == "full" else covariances.reshape(k, -1, 1) * np.eye(d)


def contenders(case: Case, x: np.ndarray, name: str, *, ours: Any = None) -> list[Contender]:
    """The ways in which one library does a case: one for each number of threads, where it can be told.

    Args:
      case: what to fit.
      x: its rows.
      name: "jaxmix" or a key of `MODULES`.
      ours: the rows as a JAX array, where there is one already.
    """
    if name in ("jaxmix", "ott", "gmmx"):
        own = jnp.asarray(x) if ours is None else ours
        make = {"jaxmix": _jaxmix, "ott": _ott, "gmmx": _gmmx}[name]
        fit, read = make(case, own, start(case, x))
        return [Contender(name, 0, fit, read)]
    if case.model == "kmeans":
        make = {"sklearn": _sklearn_kmeans, "sklearnex": _intel_kmeans, "faiss": _faiss}[name]
    elif name == "sklearn":
        make = _sklearn_mixture
    else:
        raise ValueError(f"{name} has no mixtures here.")
    fit, read = make(case, x, start(case, x))
    return [Contender(name, threads, fit, read, partial(limited, name, threads)) for threads in THREADS]


def limited(name: str, threads: int) -> AbstractContextManager:
    """A context in which a peer has that many threads."""
    if name == "faiss":
        faiss: Any = importlib.import_module("faiss")
        faiss.omp_set_num_threads(threads)
    if name == "sklearnex":
        importlib.import_module("daal4py").daalinit(threads)
    limits: Any = importlib.import_module("threadpoolctl")
    return limits.threadpool_limits(limits=threads)


def sklearn_mixture(case: Case, params: tuple[np.ndarray, ...], **options: Any) -> Callable[[np.ndarray], Any]:
    """scikit-learn's fit of a mixture from given parameters, silent about fits that are meant to run out of steps."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    covariance_type: Any = SKLEARN_FAMILIES[case.model]
    given = as_sklearn(params, case.model)

    def fit(x: np.ndarray) -> Any:
        model = GaussianMixture(
            len(params[0]), covariance_type=covariance_type, reg_covar=REGULARIZATION, **given, **options
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(x)

    return fit


def _single(value: np.ndarray) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


Ways = tuple[Callable[[], Any], Callable[[Any], Outcome]]


def _jaxmix(case: Case, x: Any, begin: Any) -> Ways:
    problem = model_of(case)
    first = jnp.asarray(begin) if case.model == "kmeans" else as_mixture(begin, case.model)

    def fit() -> Any:
        return jax.block_until_ready(solve.run(problem, solve.EM(), first, x, max_steps=case.steps, rtol=0, atol=0))

    def read(done: Any) -> Outcome:
        steps = int(done.num_steps)
        if case.model == "kmeans":
            labels = np.asarray(kmeans.predict(done.params, x))
            return Outcome((np.asarray(done.params),), float(done.loss), labels, steps, steps + 1)
        parts = (done.params.weights, done.params.means, done.params.covariances)
        return Outcome(tuple(map(np.asarray, parts)), -float(done.loss) / case.n, None, steps, steps + 1)

    return fit, read


def _sklearn_kmeans(case: Case, x: np.ndarray, begin: np.ndarray, module: str = "sklearn.cluster") -> Ways:
    maker: Any = importlib.import_module(module).KMeans

    def fit() -> Any:
        with warnings.catch_warnings():
            if module == "sklearnex.cluster":
                warnings.simplefilter("ignore")
            return maker(case.k, init=begin, n_init=1, max_iter=case.steps, tol=0, algorithm="lloyd").fit(x)

    def read(done: Any) -> Outcome:
        steps = int(done.n_iter_)
        labels = np.asarray(done.labels_)
        return Outcome((np.asarray(done.cluster_centers_),), float(done.inertia_), labels, steps, steps + 1)

    return fit, read


def _intel_kmeans(case: Case, x: np.ndarray, begin: np.ndarray) -> Ways:
    return _sklearn_kmeans(case, x, begin, "sklearnex.cluster")


def _faiss(case: Case, x: np.ndarray, begin: np.ndarray) -> Ways:
    faiss: Any = importlib.import_module("faiss")

    def fit() -> Any:
        # Without these it would draw 256 rows for each center.
        model = faiss.Kmeans(
            case.d, case.k, niter=case.steps, min_points_per_centroid=1, max_points_per_centroid=case.n
        )
        model.train(x, init_centroids=begin)
        return model

    def read(done: Any) -> Outcome:
        # Its objective is that of the centers before the last update.
        return Outcome((done.centroids.copy(),), float("nan"), done.assign(x)[1], case.steps, case.steps)

    return fit, read


def _ott(case: Case, x: Any, begin: np.ndarray) -> Ways:
    k_means: Any = importlib.import_module("ott.tools.k_means").k_means
    first = jnp.asarray(begin)

    @jax.jit
    def run(x: jax.Array, first: jax.Array) -> Any:
        steps = {"min_iterations": case.steps, "max_iterations": case.steps}
        return k_means(x, case.k, init=lambda *_: first, n_init=1, tol=0.0, **steps)

    def read(done: Any) -> Outcome:
        labels = np.asarray(done.assignment).astype(int)
        return Outcome((np.asarray(done.centroids),), float(done.error), labels, case.steps, case.steps + 1)

    return lambda: jax.block_until_ready(run(x, first)), read


def _sklearn_mixture(case: Case, x: np.ndarray, begin: tuple[np.ndarray, ...]) -> Ways:
    run = sklearn_mixture(case, begin, max_iter=case.steps, tol=0.0)

    def read(done: Any) -> Outcome:
        covariances = dense(np.asarray(done.covariances_), case.model, case.k, case.d)
        steps = int(done.n_iter_)
        # Its lower bound is that of the parameters before the last M-step.
        return Outcome((done.weights_, done.means_, covariances), float("nan"), None, steps, steps + 1)

    return lambda: run(x), read


def _gmmx(case: Case, x: Any, begin: tuple[np.ndarray, ...]) -> Ways:
    gmmx: Any = importlib.import_module("gmmx")
    weights, means, covariances = map(_single, begin)
    first = gmmx.GaussianMixtureModelJax.from_squeezed(means, covariances, weights, "full")
    fitter = gmmx.EMFitter(max_iter=case.steps, tol=0.0, reg_covar=REGULARIZATION)

    def read(done: Any) -> Outcome:
        fitted = done.gmm
        parts = (fitted.weights_numpy, fitted.means_numpy, fitted.covariances.values_numpy)
        steps = int(done.n_iter)
        return Outcome(tuple(map(np.asarray, parts)), float("nan"), None, steps, steps)

    return lambda: jax.block_until_ready(fitter.fit(x, first)), read
