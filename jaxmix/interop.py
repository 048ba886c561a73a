"""To and from other libraries: scikit-learn's estimators, and distributions of numpyro."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import door, gmm
from jaxmix.types import Fit

_FAMILIES = {"full": gmm.Full, "tied": gmm.Tied, "diag": gmm.Diagonal, "spherical": gmm.Spherical}


def from_sklearn(estimator: Any) -> Any:
    """The parameters of a fitted estimator.

    Args:
      estimator: a fitted `KMeans`, `MiniBatchKMeans` or `GaussianMixture` of scikit-learn.

    Returns:
      Centers, an array of shape (K, D), or a `GMM` of the family of its `covariance_type`; in its dtype, where JAX's
      configuration allows it.

    Raises:
      ValueError: for another estimator, or one that is not fitted.

    Example:
      >>> import numpy as np
      >>> from sklearn.cluster import KMeans
      >>> from jaxmix import interop
      >>> x = np.array([[0.0], [1.0], [9.0], [10.0]])
      >>> estimator = KMeans(2, n_init=1, random_state=0).fit(x)
      >>> sorted(interop.from_sklearn(estimator).ravel().tolist())
      [0.5, 9.5]
    """
    name = type(estimator).__name__
    if name not in ("KMeans", "MiniBatchKMeans", "GaussianMixture"):
        raise ValueError(f"`estimator` must be a KMeans, MiniBatchKMeans or GaussianMixture, got {name}.")
    if not hasattr(estimator, "means_" if name == "GaussianMixture" else "cluster_centers_"):
        raise ValueError(f"`estimator` is not fitted: call `fit` of the {name} first.")
    if name != "GaussianMixture":
        return door.as_floating(estimator.cluster_centers_, "cluster_centers_")
    family = _FAMILIES[estimator.covariance_type]
    covariances = np.asarray(estimator.covariances_)
    root = np.linalg.cholesky(covariances) if family in (gmm.Full, gmm.Tied) else np.sqrt(covariances)
    with np.errstate(divide="ignore"):
        log_weights = np.log(estimator.weights_)
    return gmm.GMM(
        door.as_floating(log_weights, "weights_"),
        door.as_floating(estimator.means_, "means_"),
        family(door.as_floating(root, "covariances_")),
    )


def to_sklearn(fit: Any) -> Any:
    """A fitted estimator of scikit-learn with these parameters: its `predict` gives the same labels.

    Args:
      fit: a `Fit`, centers of shape (K, D), or a `GMM`. What is switched off has to come last, and is left out. The
        families `TiedDiagonal` and `TiedSpherical` become "tied".

    Returns:
      A `sklearn.cluster.KMeans` or a `sklearn.mixture.GaussianMixture`.

    Raises:
      ValueError: for parameters with leading axes, such as restarts, that are not finite, that have a family of your
        own, or where something is off that does not come last.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import interop, kmeans
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = kmeans.fit(jax.random.key(0), x, 2)
      >>> estimator = interop.to_sklearn(fit)
      >>> bool((estimator.predict(x) == kmeans.assign(fit.params, x)).all())
      True
    """
    params = fit.params if isinstance(fit, Fit) else fit
    loss = float(fit.loss) if isinstance(fit, Fit) and fit.loss.shape == () else np.nan
    steps = int(fit.num_steps) if isinstance(fit, Fit) and fit.num_steps.shape == () else 0
    if isinstance(params, gmm.GMM):
        estimator = _mixture_estimator(params)
        estimator.lower_bound_, estimator.n_iter_ = -loss, steps
        estimator.converged_ = isinstance(fit, Fit) and int(fit.status) == 0
        return estimator
    from sklearn import cluster

    centers = np.asarray(door.as_floating(params, "params"))
    _check_rank(centers)
    centers = centers[: _num_first(np.asarray(np.isfinite(centers).all(axis=1)))]
    # Fitted on as many distinct rows, for the attributes that are scikit-learn's own.
    distinct = np.arange(centers.size, dtype=centers.dtype).reshape(centers.shape)
    estimator: Any = cluster.KMeans(len(centers), init=distinct, n_init=1, max_iter=1)  # pyright: ignore[reportArgumentType]
    estimator.fit(distinct)
    estimator.cluster_centers_, estimator.inertia_, estimator.n_iter_ = centers, loss, steps
    del estimator.labels_
    return estimator


def to_numpyro(params: gmm.GMM) -> Any:
    """A mixture as a distribution of numpyro: its `log_prob` is that of `gmm.log_prob`.

    Args:
      params: a `GMM` of any family.

    Returns:
      A `numpyro.distributions.MixtureSameFamily` of multivariate normals.

    Raises:
      ModuleNotFoundError: without numpyro.
    """
    from numpyro import distributions  # pyright: ignore[reportMissingImports]

    parts = distributions.MultivariateNormal(params.means, scale_tril=_factors(params))
    return distributions.MixtureSameFamily(distributions.Categorical(logits=params.log_weights), parts)


def _factors(params: gmm.GMM) -> Array:
    """Lower Cholesky factors of any family, (K, D, D): what it makes of the unit vectors."""
    k, num_features = params.means.shape
    labels = jnp.repeat(jnp.arange(k), num_features)
    unit = jnp.tile(jnp.eye(num_features, dtype=params.means.dtype), (k, 1))
    return jnp.swapaxes(params.covariance.colour(labels, unit).reshape(k, num_features, num_features), 1, 2)


def _mixture_estimator(params: gmm.GMM) -> Any:
    from sklearn.mixture import GaussianMixture

    means = np.asarray(params.means)
    _check_rank(means)
    num = _num_first(np.asarray(params.is_on))
    covariance = params.covariance
    if isinstance(covariance, (gmm.TiedDiagonal, gmm.TiedSpherical)):
        covariance = gmm.Tied(_factors(params)[0])
    kinds = {family: kind for kind, family in _FAMILIES.items()}
    if type(covariance) not in kinds:
        raise ValueError(f"scikit-learn has no family `{type(covariance).__name__}`.")
    kind = kinds[type(covariance)]
    root = np.asarray(jax.tree.leaves(covariance)[0])[slice(None) if kind == "tied" else slice(num)]
    if not (np.isfinite(root).all() and np.isfinite(means[:num]).all()):
        raise ValueError("`params` must be finite: this fit failed.")
    estimator: Any = GaussianMixture(num, covariance_type=kind)
    estimator.weights_ = np.exp(np.asarray(params.log_weights)[:num])
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
        raise ValueError(f"What is off, or not finite, must come last and leave something on: got {is_on.tolist()}.")
    return num
