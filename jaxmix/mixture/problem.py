"""Mixtures of any component as a `Problem`: EM, and every other solver, fits them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.contracts import check_choice
from jaxmix.data import Data, Rows
from jaxmix.frame import Frame
from jaxmix.mixture import initial, validation
from jaxmix.mixture.assignment import Assignment, Soft
from jaxmix.mixture.component import Component, check_component, joint, total
from jaxmix.mixture.model import Mixture, Stats, check_mixture
from jaxmix.problem import Problem
from jaxmix.pytree import choice
from jaxmix.reduction import Footprint
from jaxmix.validation import check_width


class Prepared(NamedTuple):
    """What depends on the parameters alone.

    Attributes:
      log_weights: Array of shape (K,).
      components: what the component prepared.
    """

    log_weights: Array
    components: Any


@choice
class MixtureModel(Problem):
    r"""Maximize $\sum_n w_n \log \sum_k \pi_k p(x_n \mid \theta_k)$ over a `Mixture`.

    The loss is minus the log-likelihood, or minus the evidence of another `assignment`. The free coordinates are log
    weights, up to a constant, and the component's own. A component that loses its rows is switched off, unless it has
    a prior.

    Attributes:
      component: a `Component`, such as `Gaussian(Tied)` or `Poisson()`.
      assignment: `Soft()` for EM, `Hard()` for classification EM, `Tempered(beta)` for annealing.

    Raises:
      ValueError: when it is used, for fields of other types, or settings of theirs that are not valid.

    References:
      Dempster, Laird and Rubin (1977), section 4.3.

    Example:
      >>> import jax, jaxmix, jax.numpy as jnp
      >>> from jaxmix import mixture
      >>> x = jnp.array([[0.0], [1.0], [20.0], [22.0]])
      >>> fit = jaxmix.fit(mixture.MixtureModel(mixture.Poisson()), jax.random.key(0), x, 2, atol=1e-6)
      >>> sorted(fit.params.components.rates.ravel().round(2).tolist())
      [0.5, 21.0]
    """

    component: Component
    assignment: Assignment = Soft()

    def validate(self) -> None:
        """Rejects fields of other types, and settings of theirs that are not valid."""
        check_component(self.component)
        check_choice(self.assignment, "assignment", Assignment, "Soft()", ("__call__",))

    def validate_params(self, params: Any, num_features: int) -> None:
        """Rejects all but a mixture of the model's components, as wide as the rows."""
        check_mixture(params, "params")
        validation.check_form(params, self.component, "params")
        check_width(num_features, jax.tree.leaves(params.components)[0].shape[-1])

    def prepare(self, params: Mixture) -> Prepared:
        """What the component prepares, and the log weights."""
        return Prepared(params.log_weights, self.component.prepare(params.components))

    def e_step(self, prepared: Prepared, rows: Rows) -> Stats:
        """Shares the rows of one block among the components, and sums what the M-step needs."""
        return _e_step(self, prepared, rows)

    def m_step(self, stats: Stats, params: Mixture) -> Mixture:
        """Weights in proportion to the counts, and the component's own maximization."""
        counts, is_on = stats.counts, params.is_on
        # So few that their sums are denormal, or their squares would be: none.
        counts = jnp.where(counts <= _least_share(counts.dtype) * jnp.sum(counts), 0, counts)
        weights = self.component.pseudo_counts(counts, is_on)
        log_weights = jnp.where(weights == 0, -jnp.inf, jnp.log(jnp.where(weights == 0, 1, weights)))
        components = self.component.maximize(counts, stats.moments, params.components, is_on)
        return Mixture(log_weights - jnp.log(jnp.sum(weights)), components)

    def loss(self, prepared: Prepared, rows: Rows) -> Array:
        """Minus the evidence of one block."""
        log_joint = joint(self.component, prepared.components, prepared.log_weights, rows)
        return -total(rows.weigh(self.assignment(log_joint)[0]))

    def penalty(self, params: Mixture) -> Array | float:
        """Minus the log prior, up to a constant; 0 without one."""
        return self.component.penalty(params.components, params.log_weights)

    def unconstrain(self, params: Mixture) -> Mixture:
        """Log weights are free already, up to the constant that `constrain` takes out."""
        return params._replace(components=self.component.unconstrain(params.components))

    def constrain(self, free: Mixture) -> Mixture:
        """Weights that sum to one, and the component's own constraints."""
        return Mixture(jax.nn.log_softmax(free.log_weights), self.component.constrain(free.components))

    def calibrate(self, data: Data) -> "MixtureModel":
        """With the component calibrated on these rows."""
        return MixtureModel(self.component.calibrate(data), self.assignment)

    def unit(self) -> Array | None:
        """That of the component."""
        return self.component.unit()

    def loss_shift(self, params: Mixture, frame: Frame, total: Array) -> Array | float:
        """That of the component."""
        return self.component.loss_shift(params.components, params.is_on, frame, total)

    def seeding_scale(self) -> Array | None:
        """That of the component."""
        return self.component.seeding_scale()

    def bind(self, rows: Rows, reduce: Any) -> "MixtureModel":
        """With the component for these rows."""
        return MixtureModel(self.component.bind(rows, reduce), self.assignment)

    def moved(self, params: Mixture | None, frame: Frame) -> "tuple[MixtureModel, Mixture | None] | None":
        """Component and parameters move as the rows do; None where the component cannot be moved."""
        found = self.component.moved(None if params is None else params.components, frame)
        if found is None:
            return None
        model = MixtureModel(found[0], self.assignment)
        return model, None if params is None else params._replace(components=found[1])

    def start(self, centers: Array, active: Array, data: Data, reduce: Any) -> Mixture:
        """One M-step from the rows' nearest centers."""
        return initial.from_centers(self, centers, active, data, reduce)

    def as_starts(self, init: Any, k: int, num_features: int, dtype: Any) -> Mixture:
        """Mixtures to start from, validated, with a leading axis R. One that holds NaN ends its own fit alone."""
        return validation.as_starts(init, k, num_features, dtype, self.component)

    def held_up(self, params: Mixture) -> Array | None:
        """What the component says of those that are on."""
        found = self.component.held_up(params.components)
        return None if found is None else found & params.is_on

    def loss_rounding(self, params: Mixture) -> Array | float:
        """That of the components, for each row of theirs."""
        found = self.component.loss_rounding(params.components)
        return 0.0 if found is None else jnp.sum(jnp.exp(params.log_weights) * jnp.where(params.is_on, found, 0))

    def recenter(self, stats: Stats, params: Mixture, new: Mixture) -> Stats:
        """The statistics of the same rows and responsibilities about other parameters; the loss is left as it was."""
        moments = self.component.recenter(stats.counts, stats.moments, params.components, new.components)
        return stats._replace(moments=moments)

    def footprint(self, k: int, num_features: int) -> Footprint:
        """That of the component."""
        return self.component.footprint(k, num_features)


@jax.custom_jvp
def _e_step(model: MixtureModel, prepared: Prepared, rows: Rows) -> Stats:
    fast = model.component.e_step
    return Stats(*fast(prepared.components, prepared.log_weights, rows, model.assignment))


def _plain_e_step(model: MixtureModel, prepared: Prepared, rows: Rows) -> Stats:
    plain = Component.e_step
    return Stats(*plain(model.component, prepared.components, prepared.log_weights, rows, model.assignment))


@_e_step.defjvp
def _e_step_jvp(primals: tuple, tangents: tuple) -> tuple[Stats, Stats]:
    # A faster form may sum terms that cancel, of which derivatives lose more.
    return jax.jvp(_plain_e_step, primals, tangents)


def _least_share(dtype: Any) -> float:
    """The share of all weight below which a component has no rows."""
    return float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps ** 2)
