"""Gaussian components, of any covariance family, with or without a prior."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.arrays import check_variances, described
from jaxmix.data import Data, Rows
from jaxmix.frame import Frame
from jaxmix.kernels import far, quadratic
from jaxmix.mixture.assignment import Assignment
from jaxmix.mixture.component import Component
from jaxmix.mixture.components.gaussian import base, checks, products, units
from jaxmix.mixture.components.gaussian import noise as noises
from jaxmix.mixture.components.gaussian import prior as priors
from jaxmix.mixture.components.gaussian.base import Moments
from jaxmix.mixture.components.gaussian.diagonal import Diagonal
from jaxmix.mixture.components.gaussian.full import Full
from jaxmix.mixture.components.gaussian.spherical import Spherical
from jaxmix.mixture.components.gaussian.tied import Tied
from jaxmix.mixture.components.gaussian.tied_diagonal import TiedDiagonal
from jaxmix.mixture.components.gaussian.tied_spherical import TiedSpherical
from jaxmix.pytree import choice, static
from jaxmix.reduction import Blocks, Footprint, map_rows

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
      blur: Array of shape (K,), what the noise takes off log densities; None without noise.
      quadratic: log densities as sums of products of features; None where these are not used.
    """

    means: Array
    family: Any
    blur: Array | None
    quadratic: quadratic.Quadratic | None


@choice
class Gaussian(Component):
    r"""Normal distributions, $N(x \mid m_k, C_k)$, with parameters `Normal(means, covariance)`.

    Rows are known up to a small noise of variances R, diagonal and the same for all components. The expected log
    density of a row with such noise has one term more, and the M-step adds R to the covariances that it finds,

    $$\operatorname{E} \log N(x_n + e_n \mid m_k, C_k)
      = \log N(x_n \mid m_k, C_k) - \tfrac12 \operatorname{tr}(C_k^{-1} R), \qquad C_k = S_k + R$$

    so that no covariance becomes singular, the loss is bounded, and it never rises under EM.

    Attributes:
      covariance: the covariance family, static: `Full`, `Tied`, `Diagonal`, `Spherical`, `TiedDiagonal`,
        `TiedSpherical`, or one of your own.
      prior: a `NormalInverseWishart`, such as `fraley_raftery(x, k)`, or None. Minus its log density is the penalty:
        the fit is MAP, and the penalized loss, which `Fit.loss` then is, never rises.
      regularization: R, one number or an array of shape (D,), traced, in squared units of x. None: `gmm.noise_floor`
        of the rows. 0 is maximum likelihood: a component that collapses onto a row then ends its fit with
        `Status.NONFINITE`.
      spread: Array of shape (D,), the scale of each feature, of which R is made; `calibrate` sets it.
      deviation: Array of shape (D,), standard deviations, the units in which a seeding measures distances; also set so.
      scale: Array of shape (D,) or (), the powers of two that a fit multiplies rows by; also set so.
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
    spread: Array | None = None
    deviation: Array | None = None
    scale: Array | None = None
    origin: Array | None = None
    by_products: bool = static(default=False)

    def validate(self) -> None:
        """Rejects a family, a regularization or a prior that is not valid."""
        if not (isinstance(self.covariance, type) and isinstance(self.covariance, base.Covariance)):
            raise ValueError(
                f"`covariance` must be a covariance family, a class such as gmm.Full, got {described(self.covariance)}."
            )
        if self.regularization is not None:
            check_variances(self.regularization, "regularization")
        if self.prior is not None:
            priors.check(self.prior, self.covariance)

    def prepare(self, params: Normal) -> Prepared:
        """Inverse factors, log-determinants, and on CPU the densities as sums of products."""
        family: Any = params.covariance
        prepared, noise, terms = family.prepare(params.means), self.noise(params.means), None
        blur = None if noise is None else noises.half_traces(family, prepared, params.means, noise)
        if self.by_products and isinstance(family, base.HasQuadratic):
            # Derivatives are those of direct differences.
            terms = jax.lax.stop_gradient(family.as_quadratic(params.means))
            if blur is not None:
                terms = terms._replace(half_log_determinants=terms.half_log_determinants + jax.lax.stop_gradient(blur))
            terms = terms if terms.num_products <= quadratic.MOST_PRODUCTS else None
        return Prepared(params.means, prepared, blur, terms)

    def log_density(self, prepared: Prepared, rows: Rows) -> Array:
        """Log densities of rows, of shape (K, n), by direct differences, less what the noise takes off."""
        values = self.covariance.log_density(prepared.family, rows.x)
        return values if prepared.blur is None else values - prepared.blur[:, None]

    def moments(self, shares: Array, rows: Rows, prepared: Prepared) -> Moments:
        """Sums about the means, by direct differences."""
        return Moments(*self.covariance.moments(shares, prepared.means, rows.x))

    def maximize(self, counts: Array, moments: Moments, params: Normal, is_on: Array) -> Normal:
        """The means and covariances of each component's rows, and of the prior's pseudo-rows."""
        shift, denominators = moments.shift(counts), counts
        if self.prior is not None:
            shift, moments, denominators = priors.add_pseudo_counts(self.prior, counts, moments, params, is_on)
        means = params.means + shift
        rounding, noise = noises.rounding(means, self.origin), self.noise(means)
        noise = jnp.zeros_like(means) if noise is None else noise
        added = noises.second_moments(params.covariance, counts, noise)
        covariance = params.covariance.maximize(counts, moments, denominators, added)
        widths = jnp.sqrt(jnp.diagonal(covariance.to_dense(*means.shape), axis1=1, axis2=2))
        lost = (widths <= 4 * rounding) & (counts > 0)[:, None] & (noise == 0)
        return Normal(jnp.where(lost, jnp.nan, means), covariance)

    def noise(self, means: Array) -> Array | None:
        """R for each component, of shape (K, D), at the rounding of its mean or more; None where there is none yet."""
        known = self.regularization
        if known is None and self.spread is not None:
            known = noises.variances(self.spread)
        if known is None:
            return None
        noise = jnp.broadcast_to(jnp.asarray(known, means.dtype), means.shape)
        # A width below the rounding of its place is rounding, and so would the likelihood be.
        widened = jnp.maximum(noise, jnp.square(noises.rounding(means, self.origin)))
        return jnp.where(noise > 0, widened, jnp.where(noise == 0, 0, jnp.nan))

    def loss_rounding(self, params: Normal) -> Array | None:
        """By the pivots of the covariances: one that is little more than the rounding of a variance is not known."""
        if self.covariance not in MATRICES + VARIANCES:
            return None
        return noises.loss_rounding(params, self.origin, factors=self.covariance in MATRICES)

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
        shape = (labels.shape[0], params.means.shape[1])
        noise = jax.random.normal(key, shape, params.means.dtype)

        def of_block(params: Normal, block: tuple[Array, Array]) -> Array:
            return params.means[block[0]] + params.covariance.transform_noise(*block)

        # A matrix for each row of a block.
        size = Blocks().rows_per_block(max(shape[0], 1), shape[1], Footprint(shape[1] ** 2), noise.dtype.itemsize)
        return map_rows(of_block, params, (labels, noise), size)

    def unconstrain(self, params: Normal) -> Normal:
        """Means are free already; the covariances by the family."""
        return params._replace(covariance=params.covariance.unconstrain())

    def constrain(self, free: Normal) -> Normal:
        """The inverse of `unconstrain`."""
        return free._replace(covariance=free.covariance.constrain())

    def calibrate(self, data: Data) -> "Gaussian":
        """With the spread of the rows, of which the unit is made, and the noise where none is given."""
        checks.check_shape(self.regularization, data.x.shape[1:])
        spread, deviation = noises.scales(data)
        scale = units.unit_of(self.covariance, spread, self.regularization, self.prior)
        return dataclasses.replace(self, spread=spread, deviation=deviation, scale=scale)

    def unit(self) -> Array | None:
        """That of each feature, near its spread, or one for all."""
        return self.scale

    def loss_shift(self, params: Normal, is_on: Array, frame: Frame, total: Array) -> Array | float:
        """The log volume of the unit, for each row and each row of the prior."""
        return units.loss_shift(self.prior, params, is_on, frame, total)

    def seeding_scale(self) -> Array | None:
        """One over the standard deviations, or one power of two for all features."""
        return units.seeding_scale(self.covariance, self.deviation)

    def bind(self, rows: Rows, reduce: Any) -> "Gaussian":
        """By products of features where the whole fit has many rows, on CPU: elsewhere both ways take the same time."""
        many = reduce.num_counted(rows.x) >= quadratic.LEAST_ROWS and jax.default_backend() == "cpu"
        return dataclasses.replace(self, by_products=many)

    def moved(self, params: Normal | None, frame: Frame) -> "tuple[Gaussian, Normal | None]":
        """Means move as the rows do, scales by the unit, and the prior and the regularization with them."""
        origin = frame.origin if self.origin is None else self.origin + frame.origin
        prior = None if self.prior is None else priors.moved(self.prior, frame)
        scales, regularization = (self.spread, self.deviation, origin), self.regularization
        if frame.scale is not None:
            scales = jax.tree.map(lambda leaf: leaf * frame.scale, scales)
            if regularization is not None:
                regularization = jnp.asarray(regularization) * frame.scale * frame.scale
        spread, deviation, origin = scales
        scale = self.scale if frame.scale is None else None
        moved = Gaussian(self.covariance, prior, regularization, spread, deviation, scale, origin, self.by_products)
        if params is not None:
            params = Normal(frame.apply(params.means), units.rescaled(params.covariance, frame.scale))
        return moved, params

    def held_up(self, params: Normal) -> Array | None:
        """Those of which the variance in some direction is mostly noise."""
        prepared, noise = self.prepare(params), self.noise(params.means)
        if noise is None or self.covariance not in MATRICES + VARIANCES:
            return None if prepared.blur is None else prepared.blur > 0.25
        return noises.held_up(prepared.family, noise, factors=self.covariance in MATRICES)

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
        full = self.covariance is Full
        num_products = (num_features + 1) * (num_features + 2) // 2 if full else 2 * num_features + 1
        rows = min(max(ROOM // k, LEAST_ROWS), PRODUCTS_ROOM // (num_products + 2 * k), MOST_ROWS)
        return Footprint(k * num_features, room=rows * k * num_features)

    def is_valid(self, params: Normal, numpy: Any) -> list[Any]:
        """Finite entries, and scales above 0."""
        if self.covariance not in MATRICES + VARIANCES:
            return super().is_valid(params, numpy)
        return checks.is_valid(params, numpy, factors=self.covariance in MATRICES)

    def misread(self, params: Normal) -> tuple[list[Any], str] | None:
        """Covariances that stand in place of their factors: above the diagonal of a factor there is only rounding."""
        return checks.misread(params) if self.covariance in MATRICES else None

    def far_log_density(self, params: Normal, x: Array, is_on: Array) -> Array:
        """Differences of log densities, for rows whose squared distances overflow."""
        tril = factors(params)
        gaps, power = far.excess(x, params.means, is_on, linalg.inverse_tril(tril))
        exponents = -base.half_log_determinant(tril)[None] - 0.5 * jnp.ldexp(gaps, power)
        return jnp.where(is_on[None], exponents, -jnp.inf).T

    def log_joint(self, prepared: Prepared, log_weights: Array, rows: Rows) -> Array:
        """By products of features where they lose little for every component, else by direct differences."""
        if prepared.quadratic is None:
            return Component.log_joint(self, prepared, log_weights, rows)
        return products.log_joint(self, prepared, log_weights, rows)

    def e_step(
        self, prepared: Prepared, log_weights: Array, rows: Rows, assignment: Assignment
    ) -> tuple[Array, Array, Moments]:
        """The sums too by products of features, where `log_joint` is."""
        if prepared.quadratic is None:
            return Component.e_step(self, prepared, log_weights, rows, assignment)
        return products.e_step(self, prepared, log_weights, rows, assignment)


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
