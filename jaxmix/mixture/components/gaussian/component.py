"""Gaussian components, of any covariance family, with or without a prior."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg, validation
from jaxmix.data import Rows
from jaxmix.frame import Frame
from jaxmix.kernels import far, quadratic
from jaxmix.mixture.assignment import Assignment
from jaxmix.mixture.component import Component
from jaxmix.mixture.components.gaussian import base, products
from jaxmix.mixture.components.gaussian import prior as priors
from jaxmix.mixture.components.gaussian.base import Moments
from jaxmix.mixture.components.gaussian.diagonal import Diagonal
from jaxmix.mixture.components.gaussian.full import Full
from jaxmix.mixture.components.gaussian.spherical import Spherical
from jaxmix.mixture.components.gaussian.tied import Tied
from jaxmix.mixture.components.gaussian.tied_diagonal import TiedDiagonal
from jaxmix.mixture.components.gaussian.tied_spherical import TiedSpherical
from jaxmix.pytree import choice, static
from jaxmix.reduction import Footprint

DEFAULT_REGULARIZATION = 1e-6

MATRICES, VARIANCES = (Full, Tied), (Diagonal, Spherical, TiedDiagonal, TiedSpherical)
"""The families that hold Cholesky factors, and those that hold standard deviations."""

LEAST_ROWS, MOST_ROWS, ROOM = 512, 1536, 2**15
"""Rows of a block on CPU, and components times rows: log densities and moments stay in the cache of one core."""

PRODUCTS_ROOM = 2**20
"""Products of features and log densities of such a block."""


class Normal(NamedTuple):
    """The parameters of Gaussian components.

    Attributes:
      means: Array of shape (K, D).
      covariance: a covariance family, such as `Full`: its type is the family.

    Example:
      >>> Normal(jnp.zeros((2, 3)), Full.identity(2, 3, float)).covariances.shape
      (2, 3, 3)
    """

    means: Array
    covariance: Any

    @property
    def covariances(self) -> Array:
        """The covariance matrices, dense, of shape (K, D, D); leading axes of the mixture, such as restarts, lead."""

        def dense(params: Normal) -> Array:
            return params.covariance.to_dense(*params.means.shape)

        for _ in range(self.means.ndim - 2):
            dense = jax.vmap(dense)
        return dense(self)

    @property
    def component(self) -> "Gaussian":
        """The component that they are parameters of."""
        return Gaussian(type(self.covariance))


class Prepared(NamedTuple):
    """What depends on the parameters alone.

    Attributes:
      means: Array of shape (K, D).
      family: what the covariance family prepared.
      quadratic: log densities as sums of products of features; None where these are not used.
    """

    means: Array
    family: Any
    quadratic: quadratic.Quadratic | None


@choice
class Gaussian(Component):
    r"""Normal distributions, $N(x \mid m_k, C_k)$, with parameters `Normal(means, covariance)`.

    Attributes:
      covariance: the covariance family, static: `Full`, `Tied`, `Diagonal`, `Spherical`, `TiedDiagonal`,
        `TiedSpherical`, or one of your own.
      prior: a `NormalInverseWishart`, such as `fraley_raftery(x, k)`, or None. Minus its log density is the penalty:
        the fit is MAP, and the penalized loss, which `Fit.loss` then is, never rises.
      regularization: added to the diagonals of the covariances at each M-step, as scikit-learn's `reg_covar`;
        traced, in squared units of x. It is not part of the loss, which may therefore rise a little. At 0 the loss
        never rises under EM, and a component that collapses onto a row ends its fit with `Status.NONFINITE`.
        None means 1e-6 without a prior, and 0 with one.
      origin: Array of shape (D,), the place of zero in the caller's coordinates, which `moved` sets; None for zero.
      by_products: whether products of features are summed where that is accurate, static; `bind` sets it for fits of
        many rows.

    References:
      Bishop (2006), section 9.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> gmm.Gaussian(gmm.Diagonal).initial(2, 3, float).covariance.scale.shape
      (2, 3)
    """

    covariance: Any = static(default=Full)
    prior: priors.NormalInverseWishart | None = None
    regularization: Any = None
    origin: Array | None = None
    by_products: bool = static(default=False)

    def validate(self) -> None:
        """Rejects a family, a regularization or a prior that is not valid."""
        if not (isinstance(self.covariance, type) and isinstance(self.covariance, base.Covariance)):
            raise ValueError(f"`covariance` must be a covariance family, such as gmm.Full, got {self.covariance!r}.")
        if self.regularization is not None:
            validation.check_least(self.regularization, "regularization", 0)
        if self.prior is not None:
            priors.check(self.prior)

    def prepare(self, params: Normal) -> Prepared:
        """Inverse factors, log-determinants, and on CPU the densities as sums of products."""
        family: Any = params.covariance
        terms = None
        if self.by_products and isinstance(family, base.HasQuadratic):
            # Derivatives are those of direct differences.
            terms = jax.lax.stop_gradient(family.as_quadratic(params.means))
            terms = terms if terms.num_products <= quadratic.MOST_PRODUCTS else None
        return Prepared(params.means, params.covariance.prepare(params.means), terms)

    def log_density(self, prepared: Prepared, rows: Rows) -> Array:
        """Log densities of rows, of shape (K, n), by direct differences."""
        return self.covariance.log_density(prepared.family, rows.x)

    def moments(self, shares: Array, rows: Rows, prepared: Prepared) -> Moments:
        """Sums about the means, by direct differences."""
        return Moments(*self.covariance.moments(shares, prepared.means, rows.x))

    def maximize(self, counts: Array, moments: Moments, params: Normal, is_on: Array) -> Normal:
        """The means and covariances of each component's rows, and of the prior's pseudo-rows."""
        chosen = self.regularization
        if chosen is None:
            chosen = DEFAULT_REGULARIZATION if self.prior is None else 0.0
        shift, denominators, alive = moments.shift(counts), counts, counts > 0
        if self.prior is not None:
            shift, moments, denominators = priors.add_pseudo_counts(self.prior, counts, moments, params, is_on)
            alive = is_on
        means = params.means + shift
        regularization = jnp.asarray(chosen, means.dtype)
        covariance = params.covariance.maximize(counts, moments, denominators, regularization)
        # Narrower than the rounding of its place: such a width is noise, and so would the likelihood be.
        places = means if self.origin is None else means + self.origin[None]
        widths = jnp.sqrt(jnp.diagonal(covariance.to_dense(*means.shape), axis1=1, axis2=2))
        lost = (widths <= 2 * jnp.finfo(means.dtype).eps * jnp.abs(places)) & alive[:, None]
        return Normal(jnp.where(lost, jnp.nan, means), covariance)

    def initial(self, k: int, num_features: int, dtype: Any) -> Normal:
        """Standard normal components."""
        return Normal(jnp.zeros((k, num_features), dtype), self.covariance.identity(k, num_features, dtype))

    def place(self, counts: Array, sums: Array, params: Normal) -> Normal:
        """At the means of the components' rows; those without rows at the mean of all."""
        overall = linalg.safe_divide(jnp.sum(sums, axis=0), jnp.sum(counts))
        own = linalg.safe_divide(sums, counts[:, None])
        return params._replace(means=jnp.where((counts == 0)[:, None], overall[None], own))

    def pseudo_counts(self, counts: Array, is_on: Array) -> Array:
        """With a prior, counts plus those of its Dirichlet distribution."""
        return counts if self.prior is None else priors.pseudo_counts(self.prior, counts, is_on)

    def penalty(self, params: Normal, log_weights: Array) -> Array | float:
        """Minus the log prior, up to a constant; 0 without one."""
        return 0.0 if self.prior is None else priors.penalty(self.prior, params, log_weights)

    def sample(self, key: Array, params: Normal, labels: Array) -> Array:
        """Means plus noise of the components' covariances."""
        noise = jax.random.normal(key, (labels.shape[0], params.means.shape[1]), params.means.dtype)
        return params.means[labels] + params.covariance.transform_noise(labels, noise)

    def unconstrain(self, params: Normal) -> Normal:
        """Means are free already; the covariances by the family."""
        return params._replace(covariance=params.covariance.unconstrain())

    def constrain(self, free: Normal) -> Normal:
        """The inverse of `unconstrain`."""
        return free._replace(covariance=free.covariance.constrain())

    def bind(self, rows: Rows, reduce: Any) -> "Gaussian":
        """By products of features where there are many rows, on CPU: elsewhere both ways take about the same time."""
        # A fact of the whole fit: the size of a block changes nothing.
        many = rows.x.size >= quadratic.LEAST_ROWS * rows.x.shape[-1] and jax.default_backend() == "cpu"
        return dataclasses.replace(self, by_products=many)

    def moved(self, params: Normal | None, frame: Frame) -> "tuple[Gaussian, Normal | None]":
        """Means move as the rows do, scales by the unit, and the prior and the regularization with them."""
        origin = frame.origin if self.origin is None else self.origin + frame.origin
        prior, regularization = self.prior, self.regularization
        if prior is not None:
            prior = priors.moved(prior, frame)
        if frame.scale is not None:
            origin = origin * frame.scale
            if regularization is None and prior is None:
                regularization = DEFAULT_REGULARIZATION
            if regularization is not None:
                regularization = regularization * frame.scale * frame.scale
        moved = Gaussian(self.covariance, prior, regularization, origin, self.by_products)
        if params is None:
            return moved, None
        scale, covariance = frame.scale, params.covariance
        if scale is not None:
            covariance = jax.tree.map(lambda leaf: leaf * scale, covariance)
        return moved, Normal(frame.apply(params.means), covariance)

    def recenter(self, counts: Array, moments: Moments, params: Normal, new: Normal) -> Moments:
        """Moments about other means, by the theorem of parallel axes."""
        shift = jnp.where(params.means == new.means, 0, params.means - new.means)
        # Only the part between mean and center changes: that of each component's rows gathered at their mean.
        gathered, zero = jnp.diag(counts), jnp.zeros_like(moments.first)

        def between(offsets: Array) -> Any:
            return self.covariance.moments(gathered, zero, offsets)[1]

        mean = moments.shift(counts)
        second = jax.tree.map(lambda s, a, b: s + a - b, moments.second, between(mean + shift), between(mean))
        return Moments(moments.first + counts[:, None] * shift, second)

    def num_free_parameters(self, params: Normal, num_components: Array | int) -> Array | int:
        """K D, and the family's own."""
        num_features = params.means.shape[1]
        return num_components * num_features + params.covariance.num_free_parameters(num_components, num_features)

    def footprint(self, k: int, num_features: int) -> Footprint:
        """The differences of rows and means; on CPU, what stays in the cache of one core."""
        num_products = 2 * num_features + 1
        if self.covariance is Full:
            num_products = (num_features + 1) * (num_features + 2) // 2
        rows = min(max(ROOM // k, LEAST_ROWS), PRODUCTS_ROOM // (num_products + 2 * k), MOST_ROWS)
        return Footprint(k * num_features, room=rows * k * num_features)

    def is_valid(self, params: Normal, numpy: Any) -> list[Any]:
        """Finite entries, and scales above 0."""
        if self.covariance not in MATRICES + VARIANCES:
            return super().is_valid(params, numpy)
        (scale,) = params.covariance
        positive = numpy.isfinite(scale) & (scale > 0)
        if self.covariance in MATRICES:
            off_diagonal = numpy.broadcast_to(~np.eye(scale.shape[-1], dtype=bool), scale.shape)
            positive = numpy.isfinite(scale) & ((scale > 0) | off_diagonal)
        return [numpy.isfinite(params.means), positive]

    def misread(self, params: Normal) -> tuple[list[Any], str] | None:
        """Covariances that stand in place of their factors: above the diagonal of a factor there is only rounding."""
        if self.covariance not in MATRICES:
            return None
        (scale,) = params.covariance
        rounding = 100 * np.finfo(scale.dtype).eps * np.abs(scale).max(axis=(-2, -1), keepdims=True)
        return [np.isfinite(params.means), np.abs(np.triu(scale, 1)) <= rounding], (
            "covariance.scale_tril` must be lower triangular: it holds Cholesky factors, not covariances. "
            "From covariances, use gmm.mixture(weights, means, covariances)."
        )

    def far_log_density(self, params: Normal, x: Array, is_on: Array) -> Array:
        """Differences of log densities, for rows whose squared distances overflow."""
        tril = factors(params)
        gaps, power = far.excess(x, params.means, is_on, linalg.inverse_tril(tril))
        exponents = -base.half_log_determinant(tril)[None] - 0.5 * jnp.ldexp(gaps, power)
        return jnp.where(is_on[None], exponents, -jnp.inf).T

    def e_step(
        self, prepared: Prepared, log_weights: Array, rows: Rows, assignment: Assignment
    ) -> tuple[Array, Array, Moments]:
        """By products of features where they lose little for every component, else by direct differences."""
        if prepared.quadratic is None:
            return Component.e_step(self, prepared, log_weights, rows, assignment)
        return products.e_step(self, prepared, log_weights, rows, assignment)

    def loss(self, prepared: Prepared, log_weights: Array, rows: Rows, assignment: Assignment) -> Array:
        """The loss of one block, as `e_step` takes it."""
        if prepared.quadratic is None:
            return Component.loss(self, prepared, log_weights, rows, assignment)
        return products.loss(self, prepared, log_weights, rows, assignment)


def factors(params: Normal) -> Array:
    """Lower Cholesky factors of the covariances of any family, of shape (K, D, D); no covariance is multiplied out."""
    k, num_features = params.means.shape
    if isinstance(params.covariance, MATRICES):
        return jnp.broadcast_to(params.covariance.scale_tril, (k, num_features, num_features))
    labels = jnp.repeat(jnp.arange(k, dtype=jnp.int32), num_features)
    unit = jnp.tile(jnp.eye(num_features, dtype=params.means.dtype), (k, 1))
    # A family makes the columns of a root of the unit vectors.
    columns = params.covariance.transform_noise(labels, unit).reshape(k, num_features, num_features)
    return linalg.lower_factor(jnp.swapaxes(columns, 1, 2))
