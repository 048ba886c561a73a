"""Conjugate priors on the parameters of a Gaussian mixture: MAP instead of maximum likelihood."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door, linalg
from jaxmix.gmm.covariance import Covariance, Full, Moments
from jaxmix.gmm.covariance.base import LOG_TWO_PI
from jaxmix.gmm.model import GMM
from jaxmix.types import ArrayLike, Data


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NormalInverseWishart:
    r"""A normal-inverse-Wishart prior on each component, and a Dirichlet prior on the weights.

    $$m_k \mid C_k \sim N(\mu, C_k / \kappa), \qquad C_k \sim \mathrm{IW}(\nu, \Lambda),
      \qquad \pi \sim \mathrm{Dirichlet}(\alpha, \dots, \alpha)$$

    Where features are independent, each variance has an inverse gamma prior,
    $p(s^2) \propto (s^2)^{-(\nu + 2) / 2} e^{-\Lambda_{dd} / 2 s^2}$; a spherical component has one, with
    $\operatorname{tr} \Lambda$. A tied family has one covariance prior for all components, and a prior for each mean.
    Scale $\Lambda$ adds to a component's scatter, and $\nu$ to its count: no covariance can become singular where
    $\Lambda$ is positive definite.

    All fields are traced: vmap over the strength of a prior. Values that make no prior (a negative shrinkage, a
    concentration below 1, for which the M-step has no maximum) are refused by `gmm.fit`, and under `jit` end in
    `Status.NONFINITE`.

    Attributes:
      mean: array of shape (D,), $\mu$.
      shrinkage: $\kappa \ge 0$, in rows; 0 for a flat prior on the means.
      degrees: $\nu \ge 0$, in rows.
      scale: array of shape (D, D), $\Lambda$, symmetric and positive semi-definite, in squared units of x times rows.
      concentration: $\alpha \ge 1$; 1 is flat.

    References:
      Fraley and Raftery (2007), section 3; Gelman et al. (2013), section 3.6.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])  # on a line, and one row alone
      >>> prior = gmm.NormalInverseWishart(jnp.zeros(2), 0.01, 4.0, jnp.eye(2))
      >>> fit = gmm.fit(jax.random.key(0), x, 2, problem=gmm.GaussianMixture(prior=prior)).check()
      >>> bool(jnp.isfinite(fit.params.covariances).all())
      True
    """

    mean: ArrayLike
    shrinkage: ArrayLike
    degrees: ArrayLike
    scale: ArrayLike
    concentration: ArrayLike = 1.0


def fraley_raftery(data: Data | ArrayLike, k: int, *, family: type[Covariance] = Full) -> NormalInverseWishart:
    r"""The mild prior that depends on the data: it keeps components from collapsing, and else hardly shows.

    $$\mu = \bar x, \qquad \kappa = 0.01, \qquad \nu = D + 2, \qquad \Lambda = K^{-2/D} S$$

    with the sample covariance $S$ for the families with full matrices. Where features are independent,
    $\Lambda = K^{-2/D} \tfrac{\operatorname{tr} S}{D} I$; for spherical families its trace is
    $K^{-2/D} \tfrac{\operatorname{tr} S}{D}$.

    Args:
      data: `Data`, or an array of shape (N, D), at least two rows of positive weight.
      k: the number of components.
      family: the covariance family that the prior is for.

    Returns:
      A `NormalInverseWishart`. Where the rows lie in a subspace (N <= D, collinear or constant columns), S is
      singular and so is a full $\Lambda$: choose another family, or a `regularization` besides.

    Raises:
      ValueError: for bad data, or a `k` below 1.

    References:
      Fraley and Raftery (2007), section 3.2.

    Example:
      >>> import jax
      >>> from jaxmix import gmm
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> problem = gmm.GaussianMixture(prior=gmm.fraley_raftery(x, 3))
      >>> gmm.fit(jax.random.key(1), x, 3, problem=problem).params.means.shape
      (3, 2)
    """
    data = door.as_data(data)
    k = door.check_int(k, "k", least=1)
    num_features = data.x.shape[1]
    centred = data.x - data.origin[None]
    scatter = linalg.dot((data.weights[:, None] * centred).T, centred)
    covariance = scatter / (jnp.sum(data.weights) - 1) / k ** (2 / num_features)
    # How many numbers the prior of one covariance has tells which form of Lambda the family takes.
    identity = jnp.eye(num_features, dtype=covariance.dtype)
    variance = jnp.trace(covariance) / num_features
    numbers = family.num_free_parameters(1, num_features)
    if num_features == 1 or numbers > num_features:
        scale = covariance
    elif numbers == num_features:
        scale = variance * identity
    else:
        scale = variance / num_features * identity
    return NormalInverseWishart(data.origin, 0.01, num_features + 2.0, scale)


def observe(prior: NormalInverseWishart, moments: Moments, params: GMM) -> tuple[Moments, Array]:
    """The moments with the prior's pseudo-rows, and what the second ones are divided by, of shape (K,).

    The scale is the scatter of D rows about zero, and the prior on a mean is `shrinkage` rows at `mean`: so a family's
    own `second_moments` takes the prior in, in its own form.
    """
    values = _values(prior, params)
    on, share, rows = is_on(params), _share(params), _pseudo_rows(values.scale)
    shrinkage = jnp.where(on, values.shrinkage, 0)
    covariance = params.covariance
    by_scale = covariance.second_moments(
        jnp.broadcast_to(jnp.where(on, share, 0)[None], (rows.shape[0], on.shape[0])),
        jnp.zeros_like(params.means),
        rows,
    )
    by_mean = covariance.second_moments(shrinkage[None], params.means, values.mean[None])
    pseudo = Moments(
        counts=shrinkage,
        first=shrinkage[:, None] * (values.mean[None] - params.means),
        second=jax.tree.map(jnp.add, by_scale, by_mean),
    )
    degrees = jnp.where(on, moments.counts + _degrees(values, params), 0)
    return jax.tree.map(jnp.add, moments, pseudo), degrees


def pseudo_counts(prior: NormalInverseWishart, counts: Array, params: GMM) -> Array:
    """What the weights are proportional to, of shape (K,); positive where a component is on."""
    values = _values(prior, params)
    known = (values.concentration >= 1) & (values.shrinkage >= 0) & (values.degrees >= 0)
    # A component that has lost its rows keeps a weight that changes nothing: the penalty cannot jump.
    floored = jnp.maximum(counts + values.concentration - 1, jnp.finfo(counts.dtype).tiny)
    return jnp.where(known, jnp.where(is_on(params), floored, 0), jnp.nan)


def penalty(prior: NormalInverseWishart, params: GMM) -> Array:
    r"""Minus the log density of the prior at the parameters, up to a constant that depends on the prior alone.

    $$\sum_k \left(\tfrac{c + 1}{2} \log |C_k| + \tfrac12 \operatorname{tr} \Lambda C_k^{-1}
      + \tfrac\kappa2 (m_k - \mu)^T C_k^{-1} (m_k - \mu)\right) - (\alpha - 1) \sum_k \log \pi_k$$

    with $c = \nu + D + 1$ for full matrices. Components that are switched off are left out.

    Args:
      prior: the prior.
      params: a mixture.

    Returns:
      Array of shape ().

    References:
      Fraley and Raftery (2007), section 3.
    """
    values = _values(prior, params)
    on, num_features = is_on(params), params.means.shape[1]
    covariance, rows = params.covariance, _pseudo_rows(values.scale)
    # Determinants and Mahalanobis distances by the family's own density about zero.
    origin = jnp.zeros_like(params.means)
    at_zero = covariance.log_density(origin, jnp.zeros_like(params.means[:1]))[0]
    half_log_determinants = -at_zero - 0.5 * num_features * LOG_TWO_PI
    half_traces = jnp.sum(at_zero[None] - covariance.log_density(origin, rows), axis=0)
    half_squares = at_zero - covariance.log_density(values.mean[None] - params.means, jnp.zeros_like(origin[:1]))[0]
    each = (
        _degrees(values, params) * half_log_determinants
        + _share(params) * half_traces
        + values.shrinkage * half_squares
    )
    by_weights = (values.concentration - 1) * jnp.sum(jnp.where(on, params.log_weights, 0))
    return jnp.sum(jnp.where(on, each, 0)) - by_weights


def check(prior: NormalInverseWishart) -> None:
    """Raises ValueError for concrete values that make no prior."""
    least = {"shrinkage": 0.0, "degrees": 0.0, "concentration": 1.0}
    for name, bound in least.items():
        value = getattr(prior, name)
        if door.is_concrete(jnp.asarray(value)) and not jnp.all(jnp.asarray(value) >= bound):
            raise ValueError(f"`prior.{name}` must be at least {bound:g}, got {value}.")


class _Values(NamedTuple):
    """A prior's fields, in the dtype of the parameters."""

    mean: Array
    shrinkage: Array
    degrees: Array
    scale: Array
    concentration: Array


def is_on(params: GMM) -> Array:
    """Which components are not switched off, of shape (K,)."""
    return ~jnp.isneginf(params.log_weights)


def _values(prior: NormalInverseWishart, params: GMM) -> _Values:
    num_features, dtype = params.means.shape[1], params.means.dtype
    fields = (prior.mean, prior.shrinkage, prior.degrees, prior.scale, prior.concentration)
    values = _Values(*(jnp.asarray(value, dtype) for value in fields))
    shapes = (values.mean.shape, values.scale.shape)
    if shapes != ((num_features,), (num_features, num_features)):
        raise ValueError(
            f"A prior for D = {num_features} features needs `mean` of shape ({num_features},) and `scale` of shape "
            f"({num_features}, {num_features}), got {shapes[0]} and {shapes[1]}."
        )
    return values


def _share(params: GMM) -> Array:
    return jnp.asarray(params.covariance.share(jnp.sum(is_on(params))), params.means.dtype)


def _degrees(values: _Values, params: GMM) -> Array:
    """What the prior adds to a component's count where covariances are divided by it, of shape ()."""
    own = params.covariance.prior_degrees(values.degrees, params.means.shape[1])
    return _share(params) * own + (values.shrinkage > 0)


def _pseudo_rows(scale: Array) -> Array:
    """D rows whose scatter about zero is the scale, which may be singular."""
    eigenvalues, vectors = jnp.linalg.eigh((scale + scale.T) / 2)
    return jnp.sqrt(jnp.maximum(eigenvalues, 0))[:, None] * vectors.T
