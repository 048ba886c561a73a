"""Conjugate priors on the parameters of a Gaussian mixture: MAP instead of maximum likelihood."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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

    A component that loses its rows goes to the mode of the prior and stays on, with a weight too small to change the
    loss, and rows may come back to it. One that is switched off (log weight -inf) stays off and as it is, and has no
    prior: the fit is that of the others.

    All fields are traced: vmap over the strength of a prior. Values that make no prior (a negative shrinkage, a scale
    that is not positive semi-definite, a concentration below 1, for which the M-step has no maximum) are refused by
    `gmm.fit`; what it cannot look at ends in `Status.NONFINITE`.

    Attributes:
      mean: array of shape (D,), $\mu$.
      shrinkage: of shape (), $\kappa \ge 0$, in rows; 0 for a flat prior on the means.
      degrees: of shape (), $\nu \ge 0$, in rows.
      scale: array of shape (D, D), $\Lambda$, symmetric and positive semi-definite, in squared units of x times rows.
      concentration: of shape (), $\alpha \ge 1$; 1 is flat.

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


def fraley_raftery(data: Data | ArrayLike, k: ArrayLike, *, family: type[Covariance] = Full) -> NormalInverseWishart:
    r"""The mild prior that depends on the data: it keeps components from collapsing, and else hardly shows.

    $$\mu = \bar x, \qquad \kappa = 0.01, \qquad \nu = D + 2, \qquad \Lambda = K^{-2/D} S$$

    with the sample covariance $S$ for the families with full matrices. Where features are independent,
    $\Lambda = K^{-2/D} \tfrac{\operatorname{tr} S}{D} I$; for spherical families its trace is
    $K^{-2/D} \tfrac{\operatorname{tr} S}{D}$.

    Args:
      data: `Data`, or an array of shape (N, D). Weights count rows, and their sum must exceed 1.
      k: the number of components, which may be traced: so K is swept with its prior.
      family: the covariance family that the prior is for.

    Returns:
      A `NormalInverseWishart`. Where the rows lie in a subspace (N <= D, collinear or constant columns), S is
      singular and so is a full $\Lambda$: choose another family, or a `regularization` besides.

    Raises:
      ValueError: for bad data, weights that sum to 1 or less, or a `k` below 1 or above N.

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
    k = door.as_count(k, "k", most=data.x.shape[0])
    num_features = data.x.shape[1]
    freedom = jnp.sum(data.weights) - 1
    least = math.sqrt(jnp.finfo(freedom.dtype).eps)  # shares that sum to 1 do so to rounding
    if door.is_concrete(freedom) and freedom <= least:
        raise ValueError(
            f"The weights of `data` must sum to more than 1, got {freedom + 1}: a sample covariance divides by their "
            "sum less 1. Give them as counts of rows, or the prior by hand."
        )
    centred = data.x - data.origin[None]
    # A constant column has no variance, not that of its mean's rounding.
    rounding = 4 * jnp.finfo(data.x.dtype).eps * jnp.abs(data.origin)
    centred = jnp.where(jnp.abs(centred) <= rounding[None], 0, centred)
    scatter = linalg.dot((data.weights[:, None] * centred).T, centred)
    covariance = scatter / jnp.where(freedom > least, freedom, jnp.nan) / k.astype(scatter.dtype) ** (2 / num_features)
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


def observe(prior: NormalInverseWishart, moments: Moments, params: GMM) -> tuple[Array, Moments, Array]:
    """The rows' moments with the prior's pseudo-rows, by a family's own `moments`, in its own form.

    The scale is the scatter of D rows about zero. The prior of a mean is `shrinkage` rows at `mean`, which lie about a
    component's own rows with the weight of both, harmonically: no difference of large squares is ever taken.

    Args:
      prior: the prior.
      moments: sums about the means of `params`.
      params: the mixture of the E-step.

    Returns:
      How far each mean moves, of shape (K, D); the moments to maximise; and what the second ones are divided by, (K,).
    """
    values, on = _values(prior, params), params.is_on
    counts, shrinkage = moments.counts, jnp.where(on, values.shrinkage, 0)
    both = counts + shrinkage
    to_mean = values.mean[None] - params.means
    shift = linalg.safe_divide(moments.first + shrinkage[:, None] * to_mean, both[:, None])
    by_scale = jnp.broadcast_to(jnp.where(on, _share(params), 0)[None], (values.rows.shape[0], on.shape[0]))
    by_mean = jnp.diag(linalg.safe_divide(shrinkage, both) * counts)
    _, pseudo = params.covariance.moments(
        jnp.concatenate([by_scale, by_mean]),
        jnp.zeros_like(params.means),
        jnp.concatenate([values.rows, to_mean - moments.shift]),
    )
    degrees = jnp.where(on, counts + _degrees(values, params), 0)
    return shift, moments._replace(second=jax.tree.map(jnp.add, moments.second, pseudo)), degrees


def pseudo_counts(prior: NormalInverseWishart, counts: Array, params: GMM) -> Array:
    """What the weights are proportional to, of shape (K,); positive where a component is on."""
    concentration = _values(prior, params).concentration
    # A component that has lost its rows keeps a weight that changes nothing: the penalty cannot jump.
    floored = jnp.maximum(counts + concentration - 1, jnp.finfo(counts.dtype).tiny)
    return jnp.where(params.is_on, floored, 0)


@jax.jit
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
    on, num_features = params.is_on, params.means.shape[1]
    covariance = params.covariance
    # Determinants and Mahalanobis distances by the family's own density about zero.
    origin = jnp.zeros_like(params.means)
    about_zero = covariance.log_density(origin)
    at_zero = about_zero(jnp.zeros_like(params.means[:1]))[0]
    half_log_determinants = -at_zero - 0.5 * num_features * LOG_TWO_PI
    half_traces = jnp.sum(at_zero[None] - about_zero(values.rows), axis=0)
    half_squares = at_zero - covariance.log_density(values.mean[None] - params.means)(jnp.zeros_like(origin[:1]))[0]
    each = (
        _degrees(values, params) * half_log_determinants
        + _share(params) * half_traces
        + values.shrinkage * half_squares
    )
    by_weights = (values.concentration - 1) * jnp.sum(jnp.where(on, params.log_weights, 0))
    return jnp.sum(jnp.where(on, each, 0)) - by_weights


def check(prior: NormalInverseWishart) -> None:
    """Refuses concrete values that make no prior.

    Raises:
      ValueError: naming the field.
    """
    for name in ("shrinkage", "degrees", "concentration"):
        door.check_nonnegative(getattr(prior, name), f"prior.{name}")
    if door.is_concrete(prior.concentration) and float(np.asarray(prior.concentration)) < 1:
        raise ValueError(
            f"`prior.concentration` must be at least 1, got {prior.concentration}: below 1 the posterior is unbounded "
            "where a weight is zero. Use 1 for a flat prior on the weights."
        )
    if door.is_concrete(prior.mean, prior.scale):
        # Under jit even operations on concrete arrays are staged, unless evaluated here.
        with jax.ensure_compile_time_eval():
            mean, scale = door.as_floating(prior.mean, "prior.mean"), door.as_floating(prior.scale, "prior.scale")
            if scale.ndim != 2 or scale.shape[0] != scale.shape[1]:
                raise ValueError(f"`prior.scale` must have shape (D, D), got {scale.shape}.")
            if not bool(jnp.isfinite(mean).all()):
                raise ValueError("`prior.mean` must be finite.")
            if not bool(jnp.isfinite(_pseudo_rows(scale)).all()):
                raise ValueError(
                    "`prior.scale` must be finite, symmetric and positive semi-definite, as a sum of squares and "
                    "products is."
                )


class _Values(NamedTuple):
    """A prior's fields in the dtype of the parameters, NaN where they make no prior; the scale as rows."""

    mean: Array
    shrinkage: Array
    degrees: Array
    rows: Array
    concentration: Array


def _values(prior: NormalInverseWishart, params: GMM) -> _Values:
    num_features, dtype = params.means.shape[1], params.means.dtype
    fields = (prior.mean, prior.shrinkage, prior.degrees, prior.scale, prior.concentration)
    mean, shrinkage, degrees, scale, concentration = (jnp.asarray(value, dtype) for value in fields)
    shapes = [mean.shape, shrinkage.shape, degrees.shape, scale.shape, concentration.shape]
    if shapes != [(num_features,), (), (), (num_features, num_features), ()]:
        raise ValueError(
            f"A prior for D = {num_features} features needs `mean` of shape ({num_features},), `scale` of shape "
            f"({num_features}, {num_features}), and single numbers, got shapes {shapes} of mean, shrinkage, degrees, "
            "scale and concentration. To sweep one, use jax.vmap."
        )
    known = (concentration >= 1) & (shrinkage >= 0) & (degrees >= 0)
    return _Values(mean, shrinkage, degrees, _pseudo_rows(scale), jnp.where(known, concentration, jnp.nan))


def _share(params: GMM) -> Array:
    dtype = params.means.dtype
    return jnp.asarray(params.covariance.share(jnp.sum(params.is_on, dtype=dtype)), dtype)


def _degrees(values: _Values, params: GMM) -> Array:
    """What the prior adds to a component's count where covariances are divided by it, of shape ()."""
    own = params.covariance.prior_degrees(values.degrees, params.means.shape[1])
    return _share(params) * own + (values.shrinkage > 0).astype(own.dtype)


def _pseudo_rows(scale: Array) -> Array:
    """D rows whose scatter about zero is the scale; NaN where it is not symmetric and positive semi-definite."""
    # In units of each feature, so that small ones are not lost beside large ones.
    squares = jnp.abs(jnp.diagonal(scale))
    widths = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    unit = scale / (widths[:, None] * widths[None])
    epsilon = float(jnp.finfo(unit.dtype).eps)
    # What is rounding is taken for none: a singular scale keeps nothing from collapsing, and the fit says so.
    rows, left = linalg.pivoted_cholesky(unit, 4 * len(widths) * epsilon)
    rounding = math.sqrt(epsilon)
    known = (jnp.abs(left) <= rounding).all() & (jnp.abs(unit - unit.T) <= rounding).all()
    return jnp.where(known, rows * widths[None], jnp.nan)
