"""The contract of a model: what one block of rows contributes, and what the parameters become."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.data import Data, Rows
from jaxmix.frame import Frame
from jaxmix.reduction import Footprint
from jaxmix.typing import Params, Stats


class Problem:
    r"""A model. `e_step` and `m_step` are all that it must define; every solver then fits it.

    Subclass it, and decorate the subclass with `jaxmix.pytree.choice`. All methods are pure functions of pytrees. The
    objective is a sum over rows plus a penalty,

    $$\ell(\theta) = \sum_n w_n \ell_n(\theta) + p(\theta)$$

    Attributes:
      squared_units: whether the parameters scale as the rows do, and the loss as their squares. Fits are then computed
        in a unit whose squares neither underflow nor overflow.

    Example:
      >>> from typing import NamedTuple
      >>> import jax.numpy as jnp
      >>> from jaxmix import Problem, solve
      >>> from jaxmix.pytree import choice
      >>> class Stats(NamedTuple):
      ...     loss: jnp.ndarray
      ...     total: jnp.ndarray
      ...     count: jnp.ndarray
      >>> @choice
      ... class Mean(Problem):
      ...     def e_step(self, prepared, rows):
      ...         squares = jnp.sum(jnp.square(rows.x - prepared[None]), axis=1)
      ...         return Stats(jnp.sum(rows.weigh(squares)), rows.weigh(rows.x.T).sum(axis=1), rows.ones().sum())
      ...
      ...     def m_step(self, stats, params):
      ...         return stats.total / stats.count
      >>> solve.run(Mean(), solve.EM(), jnp.zeros(1), jnp.array([[1.0], [3.0]])).params.tolist()
      [2.0]
    """

    squared_units: ClassVar[bool] = False

    def e_step(self, prepared: Any, rows: Rows) -> Stats:
        """The statistics of one block of rows: a pytree that adds up over blocks, with a field `loss`.

        Args:
          prepared: what `prepare` returned for the parameters.
          rows: one block.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `e_step(prepared, rows)`.")

    def m_step(self, stats: Stats, params: Params) -> Params:
        """The next parameters, from the statistics of all rows and the parameters that these were taken at."""
        raise NotImplementedError(f"{type(self).__name__} must define `m_step(stats, params)`.")

    def prepare(self, params: Params) -> Any:
        """What depends on the parameters alone, such as inverse factors: once for all blocks. The default: `params`."""
        return params

    def loss(self, prepared: Any, rows: Rows) -> Array:
        """The loss of one block, differentiable in `prepared`. The default: that of `e_step`."""
        return self.e_step(prepared, rows).loss

    def penalty(self, params: Params) -> Array | float:
        """What is added to the loss once, such as minus a log prior. The default: 0."""
        return 0.0

    def unconstrain(self, params: Params) -> Params:
        """The parameters as a pytree whose leaves may take any real value, for gradients. The default: `params`."""
        return params

    def constrain(self, free: Params) -> Params:
        """The inverse of `unconstrain`."""
        return free

    def calibrate(self, data: Data) -> "Problem":
        """The problem with what it takes from all rows as the caller has them, such as their scale.

        The default: itself. It is called once for each fit, outside of the compiled program.
        """
        return self

    def unit(self) -> Array | None:
        """Powers of two by which rows are multiplied for a fit, of shape () or (D,), so that squares are within range.

        The default: None, for 1. It is asked of a calibrated problem that can be moved.
        """
        return None

    def loss_shift(self, params: Params, frame: Frame, total: Array) -> Array | float:
        """By how much the loss of moved rows exceeds that of the rows as the caller has them. The default: 0.

        Args:
          params: in the frame.
          frame: where the rows are moved.
          total: of shape (), the sum of their weights.
        """
        return 0.0

    def seeding_scale(self) -> Array | None:
        """What seedings multiply the features by to measure distances, of shape (D,). The default: None, for 1.

        It is asked of a calibrated problem.
        """
        return None

    def bind(self, rows: Rows, reduce: Any) -> "Problem":
        """The problem for these rows, once for each sample of a fit and for all. The default: itself.

        Args:
          rows: all rows, or all of the sample, in the frame of the fit, as `reduce` takes them.
          reduce: sums over rows.
        """
        return self

    def is_movable(self, frame: Frame) -> bool:
        """Whether `moved` returns a model. The default: it is traced, once for each form of problem and frame."""
        if not defines(self, "moved"):
            return False
        leaves, structure = jax.tree.flatten((self, frame))
        return _is_movable(structure, tuple(jax.typeof(leaf) for leaf in leaves))

    def moved(self, params: Params | None, frame: Frame) -> "tuple[Problem, Params] | None":
        """Model and parameters for rows that `frame.apply` has moved; None (the default) where they cannot be moved.

        Where `params` is None the model is moved alone.
        """
        return None

    def start(self, centers: Array, active: Array, data: Data, reduce: Any) -> Params:
        """Parameters from seeded centers.

        Args:
          centers: Array of shape (K, D), finite, or NaN for a start that failed; 0 where switched off.
          active: Array of shape (K,), bool: which are switched on.
          data: the rows.
          reduce: sums over rows, which `reduce.cut` cuts.

        Returns:
          The parameters. The default: the centers, those that are switched off at infinity.
        """
        return jnp.where(active[:, None], centers, jnp.inf)

    def as_starts(self, init: Any, k: int, num_features: int, dtype: Any) -> Params:
        """Validated parameters to start from, with a leading axis of starts, of an `init` that is no array of centers.

        The default rejects it: such a problem starts from centers.
        """
        raise ValueError(f"`init` must be a function or centers for {type(self).__name__}, got {type(init).__name__}.")

    def repair(self, params: Params, rows: Rows, reduce: Any) -> tuple[Params, Array]:
        """The parameters at the end of a fit, with faults mended, such as empty clusters, and the loss there.

        The default: `params`, and their loss with the penalty.
        """
        return params, reduce(self.loss, self.prepare(params), rows) + self.penalty(params)

    def held_up(self, params: Params) -> Array | None:
        """Which components something beside their rows alone keeps from becoming singular, of shape (K,), bool.

        The default: None, for a problem without such components. It is called at the end of a fit, and of each short
        run on a sample.
        """
        return None

    def loss_rounding(self, params: Params) -> Array | float:
        """How far rounding of the parameters may move the loss, per unit of weight. The default: 0.

        A rise of the loss within it, or within the rounding of the sum, does not end a fit with `LOSS_ROSE`.
        """
        return 0.0

    def em_step(self, params: Params, rows: Rows, reduce: Any) -> tuple[Params, Array]:
        """One step of EM, and the loss, penalty included, at the parameters that it started from.

        The default: `e_step`, summed over all rows, then `m_step`. Define it where a step has a faster form.
        """
        stats = reduce(self.e_step, self.prepare(params), rows)
        return self.m_step(stats, params), stats.loss + self.penalty(params)

    def recenter(self, stats: Stats, params: Params, new: Params) -> Stats:
        """Statistics that were taken about `params`, about other parameters: for solvers that blend statistics.

        Statistics that do not depend on the parameters are returned as they are. Solvers that blend statistics reject
        a problem that does not define this.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `recenter(stats, params, new)`.")

    def footprint(self, k: int, num_features: int) -> Footprint:
        """What a block of rows holds with K components. The default: a number for each row and component."""
        return Footprint(k)

    def validate(self) -> None:
        """Raises ValueError for invalid settings; called before anything is traced. The default: none."""

    def validate_params(self, params: Params, num_features: int) -> None:
        """Raises ValueError for parameters of another type, or of another width than the rows. The default: none.

        Args:
          params: the start of a fit, or several with a leading axis on every leaf.
          num_features: D of the rows.
        """


@functools.lru_cache(maxsize=256)
def _is_movable(structure: Any, leaves: tuple[Any, ...]) -> bool:
    def moved(leaves: tuple[Any, ...]) -> Any:
        problem, frame = jax.tree.unflatten(structure, leaves)
        return problem.moved(None, frame)

    return jax.eval_shape(moved, leaves) is not None


def defines(problem: Problem, name: str) -> bool:
    """Whether the class of a problem defines a method, rather than inherit the default.

    Args:
      problem: a `Problem`.
      name: of a method.

    Example:
      >>> from jaxmix import kmeans
      >>> defines(kmeans.KMeans(), "recenter"), defines(Problem(), "recenter")
      (True, False)
    """
    return getattr(type(problem), name) is not getattr(Problem, name)
