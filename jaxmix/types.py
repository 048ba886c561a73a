"""The nouns of the library: `Data`, `Fit`, `Status`, and the two contracts, `Problem` and `Solver`."""

import enum
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array, typing

ArrayLike = typing.ArrayLike | Sequence[Any]
"""What the door reads as an array: JAX and NumPy arrays, numbers, and nested lists of them."""

Params = Any
"""A pytree of arrays: what is fitted."""
Stats = Any
"""A pytree of sums over rows, with a scalar field `loss`; a node with a `merge` method merges by that."""
State = Any
"""A pytree of arrays: what a solver carries from step to step."""


class Data(NamedTuple):
    """Rows to fit, with a weight each, and a point amid them.

    Build it with `jaxmix.as_data`, which validates; the tuple itself never does (it would do so again under `vmap`).

    Attributes:
      x: Array of shape (N, D), the rows as they came: no copy is made to centre them.
      weights: Array of shape (N,), non-negative. Weight 0 is a row that is not there, 2 is a row twice.
      origin: Array of shape (D,), the weighted mean of the rows: a point to take sums about, so that float32
        holds far from zero. It belongs to the data, so it is the same for all chunks of one data set.

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[0.0], [4.0]], weights=[1.0, 3.0])
      >>> data.x.shape, data.weights.tolist(), data.origin.tolist()
      ((2, 1), [1.0, 3.0], [3.0])
    """

    x: Array
    weights: Array
    origin: Array


class Largest(NamedTuple):
    """A row that stands out: a statistic that is not a sum.

    Attributes:
      value: Array of shape (), what is compared; -inf where no row qualifies.
      row: Array of shape (D,), the row that attained it.

    Example:
      >>> import jax.numpy as jnp
      >>> Largest(jnp.array(1.0), jnp.array([5.0])).merge(Largest(jnp.array(4.0), jnp.array([7.0]))).row.tolist()
      [7.0]
    """

    value: Array
    row: Array

    def merge(self, other: "Largest") -> "Largest":
        """The larger of two; of equals the left one, so that the first row wins."""
        larger = other.value > self.value
        return Largest(jnp.where(larger, other.value, self.value), jnp.where(larger, other.row, self.row))


class Status(enum.IntEnum):
    """How a fit ended: integers in the arrays, words on the host.

    Example:
      >>> Status(1).name, Status(1).sentence
      ('MAX_STEPS', 'The steps ran out first. Raise `max_steps`, or loosen `rtol` or `atol`.')
    """

    RUNNING = -1
    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
    LOSS_ROSE = 3

    @property
    def sentence(self) -> str:
        """What happened and what to do about it, in words."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.RUNNING: "The fit has not ended; `run` never returns this.",
    Status.CONVERGED: "The solver's stopping rule was met.",
    Status.MAX_STEPS: "The steps ran out first. Raise `max_steps`, or loosen `rtol` or `atol`.",
    Status.NONFINITE: (
        "The loss became NaN or infinite. Look for a covariance that became singular (see `regularization` and "
        "`prior`), for NaN or infinity in the data, the weights or the start, for weights that are negative or all "
        "zero, or for a learning rate that is too large."
    ),
    Status.LOSS_ROSE: (
        "The loss rose beyond rounding under a solver whose loss never rises. The problem's M-step does not "
        "minimise the bound that its E-step makes, its `loss` disagrees with its `e_step`, or rounding is coarser "
        "than expected: in float32, far from the origin, center the data or use float64."
    ),
}


class FitError(RuntimeError):
    """Raised by `Fit.check` for a fit that did not end as it should."""


class Fit(NamedTuple):
    """What a run returns; with leading axes (restarts, sweeps) where it was vmapped.

    The loss is that of the parameters returned, evaluated afresh: with K-means,
    `fit.loss` is `objective(fit.params, x)` to rounding.

    Attributes:
      params: pytree, the fitted parameters.
      loss: Array of shape (), the objective at `params`: a sum over rows, lower is better.
      status: Array of shape (), int32, a `Status`.
      num_steps: Array of shape (), int32, the steps taken.
      num_passes: Array of shape (), the passes over the data that those steps cost (see `Solver.num_passes`),
        without the closing evaluation of the loss.
      trace: Array of shape (max_steps + 1,): entry t is the loss after t steps, so `trace[0]` is that of the
        start and `trace[num_steps]` is `loss`. The entries after that repeat `loss`, also where it is not finite.

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

    def check(self, allow: Collection[Status] = (Status.CONVERGED,)) -> "Fit":
        """Returns the fit itself if every status is allowed; for the host, not under `jit`.

        Args:
          allow: the statuses to let pass.

        Raises:
          FitError: in words, if any fit ended otherwise.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from jaxmix import kmeans
          >>> fit = kmeans.fit(jax.random.key(0), jnp.arange(6.0)[:, None], 2).check()
        """
        statuses = np.atleast_1d(np.asarray(self.status)).ravel()
        bad = [Status(s) for s in np.unique(statuses) if Status(s) not in allow]
        if bad:
            lines = [f"{(statuses == s).sum()} x {s.name}: {s.sentence}" for s in bad]
            wrong = int(np.isin(statuses, bad).sum())
            raise FitError(f"{wrong} of {statuses.size} fits did not end as asked. " + " ".join(lines))
        return self


class Progress(NamedTuple):
    """What the loop saw, for a solver to judge (see `Solver.status`).

    Attributes:
      previous: Array of shape (), the loss one step earlier; +inf at the first step.
      loss: Array of shape (), the loss at the parameters that the step started from.
      tolerance: Array of shape (), atol * sum(weights) + rtol * abs(loss).
      slack: Array of shape (), how much a loss may rise by rounding alone.
    """

    previous: Array
    loss: Array
    tolerance: Array
    slack: Array


@runtime_checkable
class Problem(Protocol):
    """What a model gives. Five functions; every solver then serves it.

    A problem may also define `penalty(params) -> ()`, which is added to the loss once, whatever the number of
    rows or chunks: minus a log prior, say. Without it the penalty is zero. And one whose statistics are taken about its
    parameters defines `recentre(stats, params, about)`, the same sums about others: what solvers need that keep
    statistics while the parameters move. Without it statistics are taken to be about nothing.

    A problem whose parameters have the units of the rows, and whose loss has the square of them, sets
    `squared_units = True`: its fits are then computed in a unit whose squares neither underflow nor overflow.

    A problem and a solver may define `check()`, which raises a ValueError for settings that cannot be meant: it is
    called before anything is traced, while they can be looked at.
    """

    def e_step(self, params: Params, data: Data) -> Stats:
        """Statistics that are additive over rows, with a field `loss`: the rows' loss at these `params`."""
        ...

    def m_step(self, stats: Stats, params: Params) -> Params:
        """The next parameters. Sees the old ones: an empty component keeps, or moves, its own."""
        ...

    def loss(self, params: Params, data: Data) -> Array:
        """A sum over rows, lower is better: J, or minus the log-likelihood. Differentiable."""
        ...

    def unconstrain(self, params: Params) -> Params:
        """The same pytree with every leaf free in R: the coordinates that gradients move in."""
        ...

    def constrain(self, free: Params) -> Params:
        """The inverse of `unconstrain`."""
        ...


@runtime_checkable
class Solver(Protocol):
    """What an algorithm gives. The loop (`solve.run`) is the library's; a solver is one step of it."""

    def init(self, problem: Problem, params: Params, data: Data) -> State:
        """The state before the first step."""
        ...

    def step(self, problem: Problem, state: State, data: Data) -> tuple[State, Array]:
        """The next state, and the loss at the parameters that the step STARTED from."""
        ...

    def params(self, problem: Problem, state: State) -> Params:
        """The parameters that a state stands for."""
        ...

    def status(self, state: State, progress: Progress) -> Array:
        """`Status.RUNNING`, `CONVERGED` or `LOSS_ROSE`, judged after a step."""
        ...

    def num_passes(self, state: State, num_steps: Array) -> Array:
        """Passes over the data behind `num_steps` steps.

        The unit is one evaluation of the objective over all rows; reverse-mode differentiation costs about
        three such (Griewank and Walther 2008, section 3.3: between two and four evaluations).
        """
        ...


Seeding = Callable[[Array, Data, int], Array]
"""(key, data, k) -> centers of shape (K, D)."""


def check(choice: Problem | Solver) -> None:
    """Calls the `check` of a problem or solver that has one.

    Args:
      choice: a problem or a solver.

    Raises:
      ValueError: what that check raises.

    Example:
      >>> from jaxmix import solve
      >>> check(solve.EM())
    """
    function = getattr(choice, "check", None)
    if function is not None:
        function()


def penalty(problem: Problem, params: Params) -> Array | float:
    """The part of the objective that is counted once and not per row; zero where a problem defines none.

    Args:
      problem: a `Problem`.
      params: its parameters.

    Returns:
      Array of shape (), or 0.0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> penalty(kmeans.KMeans(), jnp.zeros((1, 1)))
      0.0
    """
    function = getattr(problem, "penalty", None)
    return 0.0 if function is None else function(params)


def in_squared_units(problem: Problem) -> bool:
    """Whether a problem says that its parameters scale as the rows do, and its loss as their squares.

    Args:
      problem: a `Problem`.

    Returns:
      A bool; False where the problem says nothing.

    Example:
      >>> from jaxmix import gmm, kmeans
      >>> in_squared_units(kmeans.KMeans()), in_squared_units(gmm.GaussianMixture())
      (True, False)
    """
    return getattr(problem, "squared_units", False)


def recentre(problem: Problem, stats: Stats, params: Params, about: Params) -> Stats:
    """Statistics taken about `params`, now about others; as they are where a problem defines no `recentre`.

    Args:
      problem: a `Problem`.
      stats: what its `e_step` returned.
      params: the parameters that `e_step` was given.
      about: other parameters.

    Returns:
      Statistics of the same structure.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, kmeans
      >>> stats = kmeans.e_step(jnp.array([[0.0]]), as_data([[1.0], [2.0]]))
      >>> recentre(kmeans.KMeans(), stats, jnp.array([[0.0]]), jnp.array([[1.5]])).sums.tolist()
      [[0.0]]
    """
    function = getattr(problem, "recentre", None)
    return stats if function is None else function(stats, params, about)
