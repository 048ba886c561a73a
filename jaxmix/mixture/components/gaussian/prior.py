"""Conjugate priors on the parameters of a Gaussian mixture: MAP instead of maximum likelihood."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import arrays, linalg, validation
from jaxmix import frame as frames
from jaxmix.contracts import check_choice
from jaxmix.frame import Frame
from jaxmix.mixture.components.gaussian.base import LOG_TWO_PI, Moments
from jaxmix.pytree import choice
from jaxmix.typing import ArrayLike


@choice
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

    All fields are traced: vmap over the strength of a prior. `gmm.fit` rejects invalid values (a negative shrinkage, a
    scale that is not positive semi-definite, a concentration below 1, for which the M-step has no maximum). Where they
    are traced, the fit ends in `Status.NONFINITE`.

    Attributes:
      mean: array of shape (D,), $\mu$.
      shrinkage: of shape (), $\kappa \ge 0$, in rows; 0 for a flat prior on the means.
      degrees_of_freedom: of shape (), $\nu$, in rows. Not below -(D + 1), and below 0 only for an improper prior, such
        as `weak_prior`: with the powers of the density it must make a number of rows that is not negative.
      scale: array of shape (D, D), $\Lambda$, symmetric and positive semi-definite, in squared units of x times rows.
      concentration: of shape (), $\alpha \ge 1$; 1 is flat.

    References:
      Fraley and Raftery (2007), section 3; Gelman et al. (2013), section 3.6.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])  # on a line, and one row alone
      >>> prior = gmm.NormalInverseWishart(jnp.zeros(2), 0.01, 4.0, jnp.eye(2))
      >>> fit = gmm.fit(jax.random.key(0), x, 2, prior=prior).throw()
      >>> bool(jnp.isfinite(fit.params.covariances).all())
      True
    """

    mean: ArrayLike
    shrinkage: ArrayLike
    degrees_of_freedom: ArrayLike
    scale: ArrayLike
    concentration: ArrayLike = 1.0


def add_pseudo_counts(
    prior: NormalInverseWishart, counts: Array, moments: Moments, params: Any, is_on: Array
) -> tuple[Array, Moments, Array]:
    """The rows' moments with the prior's pseudo-rows, by a family's own `moments`, in its own form.

    The scale is the scatter of D rows about zero. The prior of a mean is `shrinkage` rows at `mean`, which lie about a
    component's own rows with the weight of both, harmonically: no difference of large squares is ever taken.

    Args:
      prior: the prior.
      counts: Array of shape (K,).
      moments: sums about the means of `params`.
      params: the `Normal` of the E-step.
      is_on: Array of shape (K,), bool.

    Returns:
      How far each mean moves, of shape (K, D); the moments to maximize; and the denominators of the second ones, (K,).
    """
    values = _values(prior, params)
    fraction = _fraction(params, is_on)
    shrinkage = jnp.where(is_on, values.shrinkage, 0)
    both = counts + shrinkage
    to_mean = values.mean[None] - params.means
    shift = linalg.safe_divide(moments.first + shrinkage[:, None] * to_mean, both[:, None])
    by_scale = jnp.broadcast_to(jnp.where(is_on, fraction, 0)[:, None], (is_on.shape[0], values.rows.shape[0]))
    by_mean = jnp.diag(linalg.safe_divide(shrinkage, both) * counts)
    _, pseudo = params.covariance.moments(
        jnp.concatenate([by_scale, by_mean], axis=1),
        jnp.zeros_like(params.means),
        jnp.concatenate([values.rows, to_mean - moments.shift(counts)]),
    )
    denominators = jnp.where(is_on, counts + _denominator(values, params, fraction), 0)
    return shift, moments._replace(second=jax.tree.map(jnp.add, moments.second, pseudo)), denominators


def pseudo_counts(prior: NormalInverseWishart, counts: Array, is_on: Array) -> Array:
    """The counts and those of the Dirichlet prior, of shape (K,); positive where a component is on."""
    # A component that has lost its rows keeps a weight that changes nothing: the penalty cannot jump.
    floored = jnp.maximum(counts + _concentration(prior, counts.dtype) - 1, jnp.finfo(counts.dtype).tiny)
    return jnp.where(is_on, floored, 0)


def moved(prior: NormalInverseWishart, frame: Frame) -> NormalInverseWishart:
    """The prior of rows that `frame.apply` has moved: its mean moves, and its scale is in squared units of the rows."""
    check_shapes(prior, frame.origin.shape[0])
    mean, scale = frame.apply(jnp.asarray(prior.mean)), prior.scale
    if frame.scale is not None:
        scale = frames.times(frames.times(jnp.asarray(scale), frame.scale).T, frame.scale).T
    return NormalInverseWishart(mean, prior.shrinkage, prior.degrees_of_freedom, scale, prior.concentration)


def num_rows(prior: NormalInverseWishart, params: Any, is_on: Array) -> Array:
    """How many rows the prior is to a component's covariance, of shape (): the power of $|C_k|^{-1/2}$ in it."""
    return _denominator(_values(prior, params), params, _fraction(params, is_on))


@jax.jit
def penalty(prior: NormalInverseWishart, params: Any, log_weights: Array) -> Array:
    r"""Minus the log density of the prior at the parameters, up to a constant that depends on the prior alone.

    $$\sum_k \left(\tfrac{c + 1}{2} \log |C_k| + \tfrac12 \operatorname{tr} \Lambda C_k^{-1}
      + \tfrac\kappa2 (m_k - \mu)^T C_k^{-1} (m_k - \mu)\right) - (\alpha - 1) \sum_k \log \pi_k$$

    with $c = \nu + D + 1$ for full matrices. Components that are switched off are left out.

    Args:
      prior: the prior.
      params: a `Normal`.
      log_weights: Array of shape (K,).

    Returns:
      Array of shape ().

    References:
      Fraley and Raftery (2007), section 3.
    """
    values = _values(prior, params)
    is_on, num_features = ~jnp.isneginf(log_weights), params.means.shape[1]
    covariance, fraction = params.covariance, _fraction(params, is_on)
    # Determinants and Mahalanobis distances by the family's own density about zero.
    origin, one = jnp.zeros_like(params.means), jnp.zeros_like(params.means[:1])
    about_zero = covariance.prepare(origin)
    at_zero = covariance.log_density(about_zero, one)[:, 0]
    half_log_determinants = -at_zero - 0.5 * num_features * LOG_TWO_PI
    half_traces = jnp.sum(at_zero[:, None] - covariance.log_density(about_zero, values.rows), axis=1)
    about_mean = covariance.prepare(values.mean[None] - params.means)
    half_squares = at_zero - covariance.log_density(about_mean, one)[:, 0]
    each = (
        _denominator(values, params, fraction) * half_log_determinants
        + fraction * half_traces
        + values.shrinkage * half_squares
    )
    by_weights = (values.concentration - 1) * jnp.sum(jnp.where(is_on, log_weights, 0))
    return jnp.sum(jnp.where(is_on, each, 0)) - by_weights


def check(prior: NormalInverseWishart, family: Any) -> None:
    """Rejects concrete values that are not a prior.

    Raises:
      ValueError: naming the field.
    """
    check_choice(prior, "prior", NormalInverseWishart, "gmm.weak_prior(x)")
    for name in ("shrinkage", "concentration"):
        arrays.check_nonnegative(getattr(prior, name), f"prior.{name}")
    num_features = np.shape(prior.mean)[0] if np.ndim(prior.mean) else 0
    arrays.check_least(prior.degrees_of_freedom, "prior.degrees_of_freedom", -(num_features + 1))
    if validation.is_concrete(prior.degrees_of_freedom):
        with jax.ensure_compile_time_eval():
            rows = float(family.prior_degrees(jnp.asarray(prior.degrees_of_freedom, float), num_features))
        if rows < 0:
            raise ValueError(
                f"`prior` makes {rows:g} rows for {family.__name__}, less than 0. Make it for this family, such as "
                f"gmm.weak_prior(x, covariance=gmm.{family.__name__})."
            )
    if validation.is_concrete(prior.concentration) and float(np.asarray(prior.concentration)) < 1:
        raise ValueError(
            f"`prior.concentration` must be at least 1, got {prior.concentration}: below 1 the posterior is unbounded "
            "where a weight is zero. Use 1 for a flat prior on the weights."
        )
    if validation.is_concrete(prior.mean, prior.scale):
        # Under jit even operations on concrete arrays are staged, unless evaluated here.
        with jax.ensure_compile_time_eval():
            mean, scale = (
                validation.as_floating(prior.mean, "prior.mean"),
                validation.as_floating(prior.scale, "prior.scale"),
            )
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
    degrees_of_freedom: Array
    rows: Array
    concentration: Array


def _values(prior: NormalInverseWishart, params: Any) -> _Values:
    num_features, dtype = params.means.shape[1], params.means.dtype
    check_shapes(prior, num_features)
    fields = (prior.mean, prior.shrinkage, prior.degrees_of_freedom, prior.scale)
    mean, shrinkage, degrees, scale = (jnp.asarray(value, dtype) for value in fields)
    return _Values(mean, shrinkage, degrees, _pseudo_rows(scale), _concentration(prior, dtype))


def check_shapes(prior: NormalInverseWishart, num_features: int) -> None:
    """Rejects a prior for another number of features.

    Raises:
      ValueError: with the shapes.
    """
    fields = (prior.mean, prior.shrinkage, prior.degrees_of_freedom, prior.scale, prior.concentration)
    shapes = [jnp.asarray(value).shape for value in fields]
    if shapes != [(num_features,), (), (), (num_features, num_features), ()]:
        raise ValueError(
            f"A prior for D = {num_features} features needs `mean` of shape ({num_features},), `scale` of shape "
            f"({num_features}, {num_features}), and single numbers, got shapes {shapes} of mean, shrinkage, "
            "degrees_of_freedom, scale and concentration. To sweep one, use jax.vmap."
        )


def _concentration(prior: NormalInverseWishart, dtype: Any) -> Array:
    """The concentration, NaN where single numbers of the prior are out of range."""
    concentration, shrinkage = (jnp.asarray(value, dtype) for value in (prior.concentration, prior.shrinkage))
    known = (concentration >= 1) & (shrinkage >= 0)
    return jnp.where(known, concentration, jnp.nan)


def _fraction(params: Any, is_on: Array) -> Array:
    """The fraction of a covariance that belongs to one component, of shape ()."""
    dtype = params.means.dtype
    return jnp.asarray(params.covariance.component_fraction(jnp.sum(is_on, dtype=dtype)), dtype)


def _denominator(values: _Values, params: Any, fraction: Array) -> Array:
    """What the prior adds to a component's count where covariances are divided by it, of shape ()."""
    own = params.covariance.prior_degrees(values.degrees_of_freedom, params.means.shape[1])
    own = jnp.where(own >= 0, own, jnp.nan)
    return fraction * own + (values.shrinkage > 0).astype(own.dtype)


def _pseudo_rows(scale: Array) -> Array:
    """D rows whose scatter about zero is the scale; NaN where it is not symmetric and positive semi-definite."""
    # In units of each feature, so that small ones are not lost beside large ones.
    squares = jnp.abs(jnp.diagonal(scale))
    widths = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    unit = scale / (widths[:, None] * widths[None])
    epsilon = float(jnp.finfo(unit.dtype).eps)
    # Pivots of the size of rounding are taken for zero: a singular scale prevents no collapse, and the fit says so.
    rows, left = linalg.pivoted_cholesky(unit, 4 * len(widths) * epsilon)
    rounding = math.sqrt(epsilon)
    known = (jnp.abs(left) <= rounding).all() & (jnp.abs(unit - unit.T) <= rounding).all()
    return jnp.where(known, rows * widths[None], jnp.nan)
