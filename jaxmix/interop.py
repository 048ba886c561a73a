"""To and from other libraries: scikit-learn's estimators, and distributions of numpyro."""

import functools
from typing import Any

import jax
import numpy as np

from jaxmix import extras, gmm, kmeans, validation
from jaxmix.arrays import check_on_host
from jaxmix.data import Data
from jaxmix.mixture import Mixture, Normal
from jaxmix.mixture.components.gaussian.component import factors
from jaxmix.mixture.model import check_mixture
from jaxmix.solver import Fit, Status
from jaxmix.typing import ArrayLike

_FAMILIES = {"full": gmm.Full, "tied": gmm.Tied, "diag": gmm.Diagonal, "spherical": gmm.Spherical}
_FITTED = {"KMeans": "cluster_centers_", "MiniBatchKMeans": "cluster_centers_", "GaussianMixture": "means_"}
_UNLIKE = {
    "BisectingKMeans": "Its `predict` follows the tree of bisections, not the nearest of its centers. To take the "
    "nearest all the same, use `cluster_centers_`.",
    "BayesianGaussianMixture": "Its `predict` averages over a posterior, which no single mixture does. To take one "
    "mixture all the same, build one with `gmm.mixture` from its `weights_`, `means_` and `covariances_`.",
}


def from_sklearn(estimator: Any) -> Any:
    """The parameters of a fitted estimator.

    Args:
      estimator: a fitted `KMeans`, `MiniBatchKMeans` or `GaussianMixture` of scikit-learn, or of a subclass.

    Returns:
      Centers, an array of shape (K, D), or a `Mixture` with the covariances of its `covariance_type`; in its dtype,
      where JAX's configuration allows it.

    Raises:
      ValueError: for another estimator, or one that is not fitted. Among the others are `BisectingKMeans` and
        `BayesianGaussianMixture`: their `predict` is not that of their centers, or of one mixture.

    Example:
      >>> import numpy as np
      >>> from sklearn.cluster import KMeans
      >>> from jaxmix import interop
      >>> x = np.array([[0.0], [1.0], [9.0], [10.0]])
      >>> estimator = KMeans(2, n_init=1, random_state=0).fit(x)
      >>> sorted(interop.from_sklearn(estimator).ravel().tolist())
      [0.5, 9.5]
    """
    bases = [cls.__name__ for cls in type(estimator).__mro__]
    name = next((base for base in bases if base in _FITTED), None)
    if name is None:
        hint = next((" " + _UNLIKE[base] for base in bases if base in _UNLIKE), "")
        raise ValueError(f"`estimator` must be a KMeans, MiniBatchKMeans or GaussianMixture, got {bases[0]}.{hint}")
    if not hasattr(estimator, _FITTED[name]):
        raise ValueError(f"`estimator` is not fitted: call `fit` of the {bases[0]} first.")
    if name != "GaussianMixture":
        return validation.as_floating(estimator.cluster_centers_, "cluster_centers_")
    family = _FAMILIES[estimator.covariance_type]
    covariances = np.asarray(estimator.covariances_)
    root = np.linalg.cholesky(covariances) if family in (gmm.Full, gmm.Tied) else np.sqrt(covariances)
    with np.errstate(divide="ignore"):
        log_weights = np.log(estimator.weights_)
    means = validation.as_floating(estimator.means_, "means_")
    components = Normal(means, family(validation.as_floating(root, "covariances_")))
    return Mixture(validation.as_floating(log_weights, "weights_"), components)


def to_sklearn(fit: Any, x: ArrayLike | Data | None = None, *, weights: ArrayLike | None = None) -> Any:
    r"""A fitted estimator of scikit-learn with these parameters: its `predict` gives the same labels.

    Its arrays are copies in float64, and its settings are scikit-learn's defaults for this number of components: a
    `sklearn.base.clone` of it fits anew, from starts of its own. A `KMeans` predicts rows of float32 and float64; once
    pickled or copied it is scikit-learn's own class, which takes float64 alone.

    A `GaussianMixture` has as `lower_bound_` the log-likelihood of a row, a mean over the rows `x`. Without `x` it is
    NaN: a `Fit` holds a sum over rows, with the log prior in it if there is one, and no number of rows.

    $$\frac{1}{\sum_n w_n} \sum_n w_n \log p(x_n)$$

    Args:
      fit: a `Fit`, centers of shape (K, D), or a Gaussian `Mixture`. Components that are switched off must come last,
        and are left out. The families `TiedDiagonal` and `TiedSpherical` become "tied".
      x: array of shape (N, D), or `Data`: the rows that `lower_bound_` and `inertia_` are of. Without them `inertia_`
        is the loss of the `Fit`, and NaN for centers alone.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      A `sklearn.cluster.KMeans` or a `sklearn.mixture.GaussianMixture`.

    Raises:
      ValueError: for parameters with leading axes, such as restarts, that are not finite, or that have components or a
        family of your own; if a component is switched off that does not come last; for `weights` without `x`.
      ModuleNotFoundError: without scikit-learn, which `pip install 'jaxmix[sklearn]'` brings.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import interop, kmeans
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = kmeans.fit(jax.random.key(0), x, 2)
      >>> estimator = interop.to_sklearn(fit)
      >>> bool((estimator.predict(x) == kmeans.predict(fit.params, x)).all())
      True
    """
    check_on_host("to_sklearn", fit, x)
    if x is None and weights is not None:
        raise ValueError("`weights` belong to rows: give `x` too.")
    data = None if x is None else validation.as_data(x, weights)
    params = fit.params if isinstance(fit, Fit) else fit
    if isinstance(params, Mixture):
        estimator = _mixture_estimator(params)
        estimator.lower_bound_ = np.nan if data is None else _mean_log_prob(params, data)
        estimator.converged_ = isinstance(fit, Fit) and int(fit.status) == Status.CONVERGED
    else:
        estimator = _centers_estimator(params)
        if data is not None:
            estimator.inertia_ = float(kmeans.objective(estimator.cluster_centers_, data.x, weights=data.weights))
        else:
            estimator.inertia_ = float(fit.loss) if isinstance(fit, Fit) else np.nan
    estimator.n_iter_ = int(fit.num_steps) if isinstance(fit, Fit) else 0
    return estimator


def to_numpyro(params: Mixture) -> Any:
    """A mixture as a distribution of numpyro: its `log_prob` is that of `gmm.log_prob`.

    Args:
      params: a Gaussian `Mixture` of any family.

    Returns:
      A `numpyro.distributions.MixtureSameFamily` of multivariate normals.

    Raises:
      ValueError: for anything but a `Mixture`.
      ModuleNotFoundError: without numpyro, which `pip install 'jaxmix[numpyro]'` brings.
    """
    check_mixture(params, "params")
    with extras.needed("numpyro"):
        from numpyro import distributions  # pyright: ignore[reportMissingImports]

    parts = distributions.MultivariateNormal(params.means, scale_tril=factors(params.components))
    return distributions.MixtureSameFamily(distributions.Categorical(logits=params.log_weights), parts)


def _mean_log_prob(params: Mixture, data: Data) -> float:
    total = gmm.log_likelihood(params, data.x, weights=data.weights)
    return float(total) / np.sum(np.asarray(data.weights, np.float64))


def _centers_estimator(params: Any) -> Any:
    centers = np.array(validation.as_floating(params, "params"), np.float64)
    _check_rank(centers)
    centers = centers[: _num_first(np.asarray(np.isfinite(centers).all(axis=1)))]
    # Fitted on as many distinct rows, for the attributes that are scikit-learn's own.
    distinct = np.arange(float(centers.size)).reshape(centers.shape)
    kind = _any_precision()
    estimator = kind(len(centers), init=distinct, n_init=1, max_iter=1).fit(distinct)
    estimator.set_params(**kind(len(centers)).get_params())
    estimator.cluster_centers_ = centers
    del estimator.labels_
    return estimator


@functools.cache
def _any_precision() -> Any:
    """A `KMeans` that predicts rows of another precision than its centers, which that of scikit-learn rejects (1.9)."""
    with extras.needed("sklearn"):
        from sklearn.cluster import KMeans

    class AnyPrecision(KMeans):
        def _check_test_data(self, X: Any) -> Any:
            rows: Any = super()._check_test_data(X)
            return rows.astype(self.cluster_centers_.dtype, copy=False)

        def __reduce__(self) -> Any:
            # Read where jaxmix is not installed, too.
            return KMeans, (), self.__getstate__()

    # Shown as, and versioned as, the class that it stands for.
    AnyPrecision.__name__ = AnyPrecision.__qualname__ = KMeans.__name__
    AnyPrecision.__module__ = KMeans.__module__
    return AnyPrecision


def _mixture_estimator(params: Mixture) -> Any:
    with extras.needed("sklearn"):
        from sklearn.mixture import GaussianMixture

    if not isinstance(params.components, Normal):
        raise ValueError(f"scikit-learn has no mixtures of other components: got {type(params.components).__name__}.")
    means = np.array(params.means, np.float64)
    _check_rank(means)
    num = _num_first(np.asarray(params.is_on))
    covariance = params.covariance
    if isinstance(covariance, (gmm.TiedDiagonal, gmm.TiedSpherical)):
        covariance = gmm.Tied(factors(params.components)[0])
    kinds = {family: kind for kind, family in _FAMILIES.items()}
    if type(covariance) not in kinds:
        raise ValueError(f"scikit-learn has no family `{type(covariance).__name__}`.")
    kind = kinds[type(covariance)]
    root = np.asarray(jax.tree.leaves(covariance)[0], np.float64)[slice(None) if kind == "tied" else slice(num)]
    if not (np.isfinite(root).all() and np.isfinite(means[:num]).all()):
        raise ValueError("`params` must be finite: this fit failed.")
    estimator: Any = GaussianMixture(num, covariance_type=kind)
    # In float32 they may sum to 1 + 1e-8, which a draw rejects.
    estimator.weights_ = np.exp(np.asarray(params.log_weights, np.float64)[:num])
    estimator.weights_ /= estimator.weights_.sum()
    estimator.means_, estimator.n_features_in_ = means[:num], means.shape[1]
    if kind in ("full", "tied"):
        inverse = np.linalg.inv(root)
        estimator.covariances_ = root @ np.swapaxes(root, -1, -2)
        estimator.precisions_cholesky_ = np.swapaxes(inverse, -1, -2)
        estimator.precisions_ = np.swapaxes(inverse, -1, -2) @ inverse
    else:
        estimator.covariances_, estimator.precisions_cholesky_ = np.square(root), 1 / root
        estimator.precisions_ = np.square(1 / root)
    return estimator


def _check_rank(array: np.ndarray) -> None:
    if array.ndim != 2:
        raise ValueError(
            f"`params` must be those of one fit, of shape (K, D), got {array.shape}: choose one, as `best` does."
        )


def _num_first(is_on: np.ndarray) -> int:
    """How many are on, which have to be the first."""
    num = int(is_on.sum())
    if num == 0 or not is_on[:num].all():
        raise ValueError(
            f"Components that are switched off, or not finite, must come last, after at least one that is on: got "
            f"{is_on.tolist()}."
        )
    return num
