"""The contract of an algorithm, the objective that it is handed, and what a fit returns."""

import warnings
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import arrays
from jaxmix.data import Rows
from jaxmix.problem import Problem
from jaxmix.pytree import choice, static
from jaxmix.status import FitError, Status, as_statuses
from jaxmix.typing import Params, State, Stats

_HELD_UP = (
    "{} of {} components are held up: only the noise that the fit assumes keeps them from becoming singular, and their "
    "likelihood depends on it. They lie on few or equal rows, or on a constant or collinear feature. Drop such "
    "features, lower K, choose a family with fewer parameters, or give `prior=gmm.weak_prior(x)`."
)


class Fit(NamedTuple):
    """What a run returns; with leading axes (restarts, sweeps) where it was vmapped.

    The loss is that of the parameters returned, evaluated afresh: with K-means,
    `fit.loss` is `objective(fit.params, x)` to rounding.

    Attributes:
      params: pytree, the fitted parameters.
      loss: Array of shape (), the objective at `params`: a sum over rows, lower is better.
      status: Array of shape (), int32, a `Status`.
      num_steps: Array of shape (), int32, the steps taken.
      num_passes: Array of shape (), the passes over the data that those steps cost (see `Solver.passes`), and its own
        steps on samples before them, in proportion to their rows; without other restarts, and without the closing
        evaluation of the loss.
      trace: Array of shape (max_steps + 1,): entry t is the loss after t steps, so `trace[0]` is that of the
        start and `trace[num_steps]` is `loss`. The entries after that repeat `loss`, also where it is not finite.
      held_up: Array of shape (K,), bool: the components that the noise of the rows alone keeps from becoming singular,
        such as one on equal rows (see "When components collapse"); None for models without such components.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import Status, kmeans
      >>> fit = kmeans.fit(jax.random.key(0), jnp.arange(6.0)[:, None], 2)
      >>> fit.params.shape, fit.loss.item(), Status(fit.status.item()).name
      ((2, 1), 4.0, 'CONVERGED')
      >>> bool(fit.trace[fit.num_steps] == fit.loss)
      True
    """

    params: Params
    loss: Array
    status: Array
    num_steps: Array
    num_passes: Array
    trace: Array
    held_up: Array | None = None

    def throw(self, allow: Status | Collection[Status] = (Status.CONVERGED,)) -> "Fit":
        """Returns the fit itself if every status is allowed; for the host, not under `jit`.

        Components that are held up (see `Fit.held_up`) are a `UserWarning`.

        Args:
          allow: the statuses to let pass, one or several; `CONVERGED` always passes.

        Raises:
          FitError: in words, if any fit ended otherwise.
          ValueError: if `allow` holds anything but members of `Status`, or the fit is traced.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from jaxmix import kmeans
          >>> fit = kmeans.fit(jax.random.key(0), jnp.arange(6.0)[:, None], 2).throw()
        """
        passing = {Status.CONVERGED, *as_statuses(allow)}
        arrays.check_on_host("throw", self.status)
        statuses = np.atleast_1d(np.asarray(self.status)).ravel()
        bad = [Status(s) for s in np.unique(statuses) if Status(s) not in passing]
        if bad:
            lines = [f"{(statuses == s).sum()} x {s.name}: {s.sentence}" for s in bad]
            wrong = int(np.isin(statuses, bad).sum())
            raise FitError(f"{wrong} of {statuses.size} fits did not end as asked. " + " ".join(lines))
        if self.held_up is not None and np.any(self.held_up):
            warnings.warn(_HELD_UP.format(int(np.sum(self.held_up)), np.size(self.held_up)), stacklevel=2)
        return self


class Progress(NamedTuple):
    """What the loop saw, for a solver to judge (see `Solver.status`).

    Attributes:
      previous: Array of shape (), the loss one step earlier; +inf at the first step.
      loss: Array of shape (), the loss at the parameters that the step started from.
      tolerance: Array of shape (), atol * sum(weights) + rtol * abs(loss); in short runs on samples a share of the
        decrease so far besides.
      slack: Array of shape (), how much a loss may rise by rounding alone.
    """

    previous: Array
    loss: Array
    tolerance: Array
    slack: Array


@choice
class Objective:
    r"""A problem on its rows: all that a solver sees of them.

    $$\ell(\theta) = \sum_n w_n \ell_n(\theta) + p(\theta)$$

    The penalty is in it, once, and nothing here tells where the rows are. Free parameters are unconstrained, and
    finite; their `anchor` is a start in the same coordinates, with its infinite entries and leaves that do not float.

    Attributes:
      problem: the `Problem`.
      rows: its rows, as `reduce` takes them.
      total: Array of shape (), the sum of the weights.
      reduce: sums over rows, such as `Blocks()`.
      num_rows: N, or the rows of this device where they are spread over several, static.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> objective = solve.make_objective(kmeans.KMeans(), jnp.zeros((1, 1)), jnp.array([[1.0], [2.0]]))
      >>> objective.value(jnp.zeros((1, 1))).item(), objective.total.item()
      (5.0, 2.0)
    """

    problem: Problem
    rows: Rows
    total: Array
    reduce: Any
    num_rows: int = static()

    @property
    def dtype(self) -> Any:
        """The dtype of the rows."""
        return self.rows.x.dtype

    @partial(jax.jit, inline=True)
    def stats(self, params: Params) -> tuple[Stats, Array]:
        """The statistics of all rows, and the loss at `params`."""
        stats = self.reduce(self.problem.e_step, self.problem.prepare(params), self.rows)
        return stats, stats.loss + self.penalty(params)

    def m_step(self, stats: Stats, params: Params) -> Params:
        """The problem's M-step."""
        return self.problem.m_step(stats, params)

    @partial(jax.jit, inline=True)
    def em_step(self, params: Params) -> tuple[Params, Array]:
        """One step of EM, and the loss at the parameters that it started from."""
        return self.problem.em_step(params, self.rows, self.reduce)

    def recenter(self, stats: Stats, params: Params, new: Params) -> Stats:
        """The problem's statistics about other parameters."""
        return self.problem.recenter(stats, params, new)

    def penalty(self, params: Params) -> Array | float:
        """The part of the loss that is counted once."""
        return self.problem.penalty(params)

    @partial(jax.jit, inline=True)
    def value(self, params: Params) -> Array:
        """The loss at `params`."""
        return self.reduce(self.problem.loss, self.problem.prepare(params), self.rows) + self.penalty(params)

    def unconstrain(self, params: Params) -> Params:
        """The anchor of a start: unconstrained parameters, which may hold infinite entries."""
        return self.problem.unconstrain(params)

    def free(self, anchor: Params) -> Params:
        """The free parameters of an anchor: 0 for what is not finite, and None for leaves that are not floating."""

        def leaf(value: Array) -> Array | None:
            return jnp.where(jnp.isfinite(value), value, 0) if _is_float(value) else None

        return jax.tree.map(leaf, anchor)

    def params(self, free: Params, anchor: Params) -> Params:
        """The parameters of free ones."""

        def leaf(held: Array, value: Array | None) -> Array:
            return held if value is None else jnp.where(jnp.isfinite(held), value, held)

        return self.problem.constrain(jax.tree.map(leaf, anchor, free))

    @partial(jax.jit, inline=True)
    def value_and_grad(self, free: Params, anchor: Params) -> tuple[Array, Params]:
        """The loss and its gradient in free parameters.

        A block gives the cotangents of `prepare`'s floating leaves, which add over blocks as any other statistics;
        `prepare` itself is differentiated once.
        """

        def prepared_parts(free: Params) -> tuple[list[Array], _Others]:
            leaves, structure = jax.tree.flatten(self.problem.prepare(self.params(free, anchor)))
            others = _Others([None if _is_float(leaf) else leaf for leaf in leaves], structure)
            return [leaf for leaf in leaves if _is_float(leaf)], others

        floats, pullback, others = jax.vjp(prepared_parts, free, has_aux=True)

        def of_block(prepared: tuple[list[Array], _Others], rows: Rows) -> _ValueAndGrad:
            floats, others = prepared
            loss = jax.value_and_grad(lambda floats: self.problem.loss(others.join(floats), rows))
            return _ValueAndGrad(*loss(floats))

        rows_part = self.reduce(of_block, (floats, others), self.rows)

        def penalty_of(free: Params) -> Array:
            return jnp.asarray(self.penalty(self.params(free, anchor)), rows_part.value.dtype)

        penalty, extra = jax.value_and_grad(penalty_of)(free)
        grad = jax.tree.map(jnp.add, pullback(rows_part.grad)[0], extra)
        return rows_part.value + penalty, grad

    def mean_value(self, free: Params, anchor: Params) -> Array:
        """The loss per unit of weight in free parameters; its derivative in either mode is that of `value_and_grad`."""
        return _mean_value(free, anchor, self)

    def mean_value_and_grad(self, free: Params, anchor: Params) -> tuple[Array, Params]:
        """`value_and_grad` per unit of weight."""
        value, grad = self.value_and_grad(free, anchor)
        return value / self.total, jax.tree.map(lambda leaf: leaf / self.total, grad)

    def epoch(self, key: Array, batch_size: int) -> Array:
        """The rows of one epoch's batches in a random order, of shape (B, size).

        A short last batch is filled from the front of the order; rows that only fill a block are never drawn. Where
        rows are spread over devices, each draws its share of a batch from its own.
        """
        return self.reduce.epoch(key, self.num_rows, batch_size)

    def take(self, indices: Array) -> "Objective":
        """The objective on these rows alone, whose weights make it an unbiased estimate of the whole."""
        rows, reduce = self.reduce.take(self.rows, indices, self.num_rows)
        return Objective(self.problem.bind(rows, reduce), rows, self.total, reduce, indices.shape[0])


class _ValueAndGrad(NamedTuple):
    value: Array
    grad: list[Array]


@choice
class _Others:
    """The leaves of a tree that are not floating, and its structure."""

    leaves: list
    structure: Any = static()

    def join(self, floats: list[Array]) -> Any:
        left = iter(floats)
        return jax.tree.unflatten(self.structure, [next(left) if leaf is None else leaf for leaf in self.leaves])


@jax.custom_jvp
def _mean_value(free: Params, anchor: Params, objective: Objective) -> Array:
    return objective.value(objective.params(free, anchor)) / objective.total


@_mean_value.defjvp
def _mean_value_jvp(primals: tuple[Params, Params, Objective], tangents: tuple) -> tuple[Array, Array]:
    free, anchor, objective = primals
    value, grad = objective.mean_value_and_grad(free, anchor)
    return value, jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum(a * b), grad, tangents[0]))


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


class Solver:
    """An algorithm: `init` and `step` are all that it must define. The loop (`solve.run`) is the library's.

    Subclass it, and decorate the subclass with `jaxmix.pytree.choice`. All methods are pure functions of pytrees.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import Solver, kmeans, solve
      >>> from jaxmix.pytree import choice
      >>> @choice
      ... class Halfway(Solver):
      ...     def init(self, objective, params):
      ...         return params
      ...
      ...     def step(self, objective, state):
      ...         new, loss = objective.em_step(state)
      ...         return 0.5 * (state + new), loss
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), Halfway(), x[:2], x, rtol=1e-6).params.round(1).ravel().tolist()
      [0.5, 9.5]
    """

    def init(self, objective: Objective, params: Params) -> State:
        """The state before the first step."""
        raise NotImplementedError(f"{type(self).__name__} must define `init(objective, params)`.")

    def step(self, objective: Objective, state: State) -> tuple[State, Array]:
        """The next state, and the loss, penalty included, at the parameters that the step STARTED from."""
        raise NotImplementedError(f"{type(self).__name__} must define `step(objective, state)`.")

    def params(self, objective: Objective, state: State) -> Params:
        """The parameters that a state stands for. The default: the state itself."""
        return state

    def status(self, state: State, progress: Progress) -> Array:
        """`Status.RUNNING`, `CONVERGED` or `LOSS_ROSE`, after a step. The default: converged on a small change."""
        small = jnp.abs(progress.previous - progress.loss) < progress.tolerance
        return jnp.where(small, Status.CONVERGED, Status.RUNNING)

    def passes(self, state: State, num_steps: Array) -> Array:
        """Passes over the data behind `num_steps` steps. The default: one a step.

        The unit is one evaluation of the objective over all rows; reverse-mode differentiation costs about
        three such (Griewank and Walther 2008, section 3.3: between two and four evaluations).
        """
        return num_steps

    def validate(self) -> None:
        """Raises ValueError for invalid settings; called before anything is traced. The default: none."""
