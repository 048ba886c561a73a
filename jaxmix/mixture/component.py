"""The contract of a component: what a mixture is made of."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.contracts import check_choice
from jaxmix.data import Data, Rows
from jaxmix.frame import Frame
from jaxmix.mixture.assignment import Assignment
from jaxmix.reduction import Footprint


class Component:
    r"""A distribution of rows, K of which make a mixture.

    It must define `log_density`, `moments`, `maximize` and `initial`. Subclass it, and decorate the subclass with
    `jaxmix.pytree.choice`. All methods are pure functions of pytrees. Components come first in every array: log
    densities have shape (K, n). The leaves of the parameters have shape (K, ...), or another one where all components
    share a leaf; the last axis of the first leaf has D entries. Where the parameters are a `NamedTuple` with a property
    `component`, functions such as `mixture.log_prob` find the class by it; they are else told `component=`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import mixture, solve
      >>> from jaxmix.pytree import choice
      >>> @choice
      ... class Exponential(mixture.Component):
      ...     def prepare(self, params):
      ...         return params
      ...
      ...     def log_density(self, rates, rows):
      ...         return jnp.sum(jnp.log(rates), axis=1)[:, None] - rates @ rows.x.T
      ...
      ...     def moments(self, shares, rows, rates):
      ...         return shares @ rows.x
      ...
      ...     def maximize(self, counts, sums, rates, is_on):
      ...         return jnp.where(counts[:, None] > 0, counts[:, None] / sums, rates)
      ...
      ...     def initial(self, k, num_features, dtype):
      ...         return jnp.ones((k, num_features), dtype)
      >>> start = mixture.Mixture(jnp.log(jnp.array([0.5, 0.5])), jnp.array([[0.1], [2.0]]))
      >>> x = jnp.array([[0.5], [1.0], [1.5], [9.0]])
      >>> fit = solve.run(mixture.MixtureModel(Exponential()), solve.EM(), start, x, max_steps=5)
      >>> bool(fit.loss < fit.trace[0])
      True
    """

    def prepare(self, params: Any) -> Any:
        """What depends on the parameters alone, such as inverse factors: once for all blocks. The default: `params`."""
        return params

    def log_density(self, prepared: Any, rows: Rows) -> Array:
        """Log densities of one block of rows, of shape (K, n)."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_density(prepared, rows)`.")

    def moments(self, shares: Array, rows: Rows, prepared: Any) -> Any:
        """Sums over the rows of one block, beside the counts: a pytree that adds up over blocks.

        Args:
          shares: Array of shape (K, n), responsibilities times the rows' weights; 0 for what is no row.
          rows: one block.
          prepared: of the parameters at which the shares were taken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `moments(shares, rows, prepared)`.")

    def maximize(self, counts: Array, moments: Any, params: Any, is_on: Array) -> Any:
        """The parameters that maximize the expected log-likelihood, plus the log prior where there is one.

        Args:
          counts: Array of shape (K,), the sums of the shares. A component of count 0 keeps its parameters, or goes to
            the mode of a prior.
          moments: the sums of `moments` over all rows.
          params: the parameters at which the moments were taken.
          is_on: Array of shape (K,), bool, False for components that are switched off: they keep their parameters.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `maximize(counts, moments, params, is_on)`.")

    def initial(self, k: int, num_features: int, dtype: Any) -> Any:
        """Parameters of K equal components, from which a start is taken; they also say the shapes."""
        raise NotImplementedError(f"{type(self).__name__} must define `initial(k, num_features, dtype)`.")

    def place(self, counts: Array, sums: Array, params: Any) -> Any:
        """The initial parameters moved to where the rows are, so that a start can take its moments about that place.

        Define it where moments about a far place lose digits. The default: `params`.

        Args:
          counts: Array of shape (K,), the sums of the shares.
          sums: Array of shape (K, D), the rows, weighted by their shares.
          params: the initial parameters.
        """
        return params

    def pseudo_counts(self, counts: Array, is_on: Array) -> Array:
        """What the next weights are proportional to, of shape (K,); 0 switches off. The default: `counts`."""
        return counts

    def penalty(self, params: Any, log_weights: Array) -> Array | float:
        """Minus the log prior, without components whose log weight is -inf. The default: 0."""
        return 0.0

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        """One row from the component of each label, of shape (n, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define `sample(key, params, labels)`.")

    def unconstrain(self, params: Any) -> Any:
        """The parameters as a pytree whose leaves may take any real value, for gradients. The default: `params`."""
        return params

    def constrain(self, free: Any) -> Any:
        """The inverse of `unconstrain`."""
        return free

    def calibrate(self, data: Data) -> "Component":
        """The component with what it takes from all rows, as `Problem.calibrate` has it. The default: itself."""
        return self

    def unit(self) -> Array | None:
        """Powers of two by which rows are multiplied, as `Problem.unit` has it. The default: None, for 1."""
        return None

    def loss_shift(self, params: Any, is_on: Array, frame: Frame, total: Array) -> Array | float:
        """What moving the rows adds to the loss, as `Problem.loss_shift` has it. The default: 0.

        Args:
          params: in the frame.
          is_on: Array of shape (K,), bool.
          frame: where the rows are moved.
          total: of shape (), the sum of their weights.
        """
        return 0.0

    def seeding_scale(self) -> Array | None:
        """What features are multiplied by for distances, as `Problem.seeding_scale` has it. The default: None."""
        return None

    def bind(self, rows: Rows, reduce: Any) -> "Component":
        """The component for the rows of one fit, as `Problem.bind` has it. The default: itself.

        Functions such as `mixture.predict` bind it too, to their rows or to some of them at a time.
        """
        return self

    def moved(self, params: Any, frame: Frame) -> "tuple[Component, Any] | None":
        """Component and parameters for rows that `frame.apply` has moved; None (the default) where they cannot be."""
        return None

    def held_up(self, params: Any) -> Array | None:
        """Which components are degenerate, as `Problem.held_up` has it, of shape (K,). The default: None."""
        return None

    def loss_rounding(self, params: Any) -> Array | None:
        """How far rounding may move the log density of a row, of shape (K,), as `Problem.loss_rounding` has it."""
        return None

    def recenter(self, counts: Array, moments: Any, params: Any, new: Any) -> Any:
        """Moments that were taken about `params`, about other parameters: for solvers that blend statistics.

        Moments that do not depend on the parameters are returned as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `recenter(counts, moments, params, new)`.")

    def num_free_parameters(self, params: Any, num_components: Array | int) -> Array | int:
        """How many numbers this many components have, weights aside. The default: the sizes of the leaves."""
        k = jax.tree.leaves(params)[0].shape[0]
        return num_components * (sum(leaf.size for leaf in jax.tree.leaves(params)) // k)

    def footprint(self, k: int, num_features: int) -> Footprint:
        """What a block of rows holds. The default: a number for each row, component and feature."""
        return Footprint(k * num_features)

    def validate(self) -> None:
        """Raises ValueError for settings that are not valid; called before anything is traced. The default: none."""

    def is_valid(self, params: Any, numpy: Any) -> list[Any]:
        """Which entries of each leaf are finite and within their constraints, so that they can be unconstrained.

        Args:
          params: parameters, whose leaves may have leading axes.
          numpy: the module to compute by, `numpy` or `jax.numpy`.
        """
        free = self.unconstrain(jax.tree.map(jnp.asarray, params))
        return [numpy.isfinite(numpy.asarray(leaf)) for leaf in jax.tree.leaves(free)]

    def misread(self, params: Any) -> tuple[list[Any], str] | None:
        """Which entries of each leaf (NumPy) look like another parametrization, and the error to raise for them."""
        return None

    def far_log_density(self, params: Any, x: Array, is_on: Array) -> Array | None:
        """Log densities, of shape (K, n), less a number for each row, for rows whose densities are all zero.

        The default, None: such rows have no responsibilities.
        """
        return None

    def log_joint(self, prepared: Any, log_weights: Array, rows: Rows) -> Array:
        """Log joint densities of one block of rows and the components, of shape (K, n), for fits and predictions alike.

        Define it where all of them together have a faster form. It is differentiated through the default.
        """
        return log_weights[:, None] + self.log_density(prepared, rows)

    def e_step(self, prepared: Any, log_weights: Array, rows: Rows, assignment: Assignment) -> tuple[Array, Array, Any]:
        """Loss, counts and moments of one block. Define it where all of them together have a faster form.

        It is differentiated through the default.
        """
        evidence, shares = assignment(joint(self, prepared, log_weights, rows))
        shares = rows.weigh(shares)
        return -total(rows.weigh(evidence)), total(shares), self.moments(shares, rows, prepared)


@jax.custom_jvp
def joint(component: Component, prepared: Any, log_weights: Array, rows: Rows) -> Array:
    """`Component.log_joint`, of shape (K, n), with the derivatives of the default: all log densities come from here."""
    return component.log_joint(prepared, log_weights, rows)


@joint.defjvp
def _joint_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # A faster form may sum terms that cancel, of which derivatives lose more.
    return jax.jvp(Component.log_joint, primals, tangents)


def check_component(component: Any) -> None:
    """Rejects all but a valid instance of a component.

    Raises:
      ValueError: saying what it lacks.
    """
    required = ("log_density", "moments", "maximize", "initial")
    check_choice(component, "component", Component, "mixture.Poisson()", required)


def total(values: Array) -> Array:
    """Sums over the last axis, as products: XLA's CPU backend adds along it one number after another."""
    return linalg.dot(values, jnp.ones(values.shape[-1], values.dtype))
