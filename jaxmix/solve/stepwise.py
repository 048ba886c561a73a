"""Stepwise EM: running statistics, an M-step after every mini-batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxmix import arrays, validation
from jaxmix.arrays import is_merged
from jaxmix.pytree import choice, static
from jaxmix.solver import Objective, Progress, Solver, Status
from jaxmix.typing import Params, Stats


class StepwiseState(NamedTuple):
    """What stepwise EM carries.

    Attributes:
      params: the parameters.
      stats: the running statistics, about these parameters.
      num_batches: Array of shape (), int32, the batches seen.
      last_losses: Array of shape (patience + 1,), the exact losses at the starts of the last epochs, newest first.
      passes: Array of shape (), passes over the data so far.
      key: the key of the next epoch's order.
    """

    params: Params
    stats: Stats
    num_batches: Array
    last_losses: Array
    passes: Array
    key: Array


@choice
class Stepwise(Solver):
    r"""Stepwise (online) EM; on `kmeans.KMeans` it is mini-batch K-means.

    $$s \leftarrow (1 - \gamma_t)\, s + \gamma_t\, \hat s_t(\theta_t), \qquad \theta_{t+1} = M(s),
      \qquad \gamma_t = (t + 2)^{-\alpha}$$

    where $\hat s_t$ estimates the statistics of all rows from the $t$-th mini-batch. The running statistics start from
    one E-step over all rows. With $\alpha = 1$ they are the plain average of all that was seen: on K-means, the
    per-center rates of Sculley (2010). A smaller $\alpha$ forgets faster.

    A step of the loop is one epoch: the rows in a fresh random order, in batches of equal size; a last batch that
    would be short is filled up from the front of the order. An epoch costs one pass, and one more for the exact loss
    at its start. The loss may rise on the way, and that is not reported. Since the rates fall, a small change is no
    sign of an optimum by itself: the fit has converged when the loss changed by less than the tolerance over each of
    `patience` epochs in a row; at tolerance 0 it ends when the steps do.

    Statistics of different batches are taken at different parameters. They are blended about the current ones, so the
    problem must define `recenter`.

    Attributes:
      batch_size: rows a mini-batch, static.
      key: the PRNG key of the order of the rows; all starts of `run_many` see the same order.
      decay: $\alpha$, in (0.5, 1] for convergence, traced.
      patience: epochs, static.

    Raises:
      ValueError: when it runs, for a `batch_size` or `patience` below 1, a negative `decay`, a key that is not a typed
        PRNG key, or a problem that does not define `recenter`.

    References:
      Cappé and Moulines (2009), equations 10 and 11; Liang and Klein (2009), section 3, for the rates.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = solve.run(kmeans.KMeans(), Stepwise(2, jax.random.key(0)), x[1:3], x, max_steps=100)
      >>> round(fit.loss.item(), 1)
      1.0
    """

    batch_size: int = static()
    key: Array
    decay: ArrayLike = 0.7
    patience: int = static(default=3)

    def validate(self) -> None:
        """Rejects counts that are not positive, rates that grow, and what is not a key."""
        validation.check_int(self.batch_size, "batch_size", least=1)
        validation.check_int(self.patience, "patience", least=1)
        validation.check_key(self.key)
        arrays.check_least(self.decay, "decay", 0)

    def init(self, objective: Objective, params: Params) -> StepwiseState:
        """The start; its statistics are taken in the first step."""
        stats, loss = jax.eval_shape(Objective.stats, objective, params)
        _check_recenter(objective, stats, params)
        return StepwiseState(
            params=params,
            stats=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), stats),
            num_batches=jnp.array(0, jnp.int32),
            last_losses=jnp.full(self.patience + 1, jnp.inf, loss.dtype),
            passes=jnp.zeros((), objective.dtype),
            key=self.key,
        )

    def step(self, objective: Objective, state: StepwiseState) -> tuple[StepwiseState, Array]:
        """One epoch."""
        order_key, next_key = jax.random.split(state.key)
        batches = objective.epoch(order_key, self.batch_size)
        exact, loss = objective.stats(state.params)
        running = jax.tree.map(lambda a, b: jnp.where(state.num_batches == 0, a, b), exact, state.stats)

        def body(carry: tuple[Params, Stats, Array], indices: Array) -> tuple[tuple[Params, Stats, Array], None]:
            params, stats, num_batches = carry
            rate = (num_batches + 2).astype(objective.dtype) ** -jnp.asarray(self.decay, objective.dtype)
            seen = blend(stats, objective.take(indices).stats(params)[0], rate)
            moved = objective.m_step(seen, params)
            return (moved, objective.recenter(seen, params, moved), num_batches + 1), None

        (params, stats, num_batches), _ = jax.lax.scan(body, (state.params, running, state.num_batches), batches)
        after = StepwiseState(
            params=params,
            stats=stats,
            num_batches=num_batches,
            last_losses=jnp.concatenate([loss[None], state.last_losses[:-1]]),
            passes=state.passes + batches.size / objective.num_rows + 1,
            key=next_key,
        )
        return after, loss

    def params(self, objective: Objective, state: StepwiseState) -> Params:
        """The parameters, which the state holds as they are."""
        return state.params

    def status(self, state: StepwiseState, progress: Progress) -> Array:
        """Converged when the loss has hardly changed over `patience` epochs in a row."""
        after, before = state.last_losses[:-1], state.last_losses[1:]
        known = jnp.isfinite(before)
        quiet = known & (jnp.abs(after - jnp.where(known, before, 0)) < progress.tolerance)
        return jnp.where(jnp.all(quiet), Status.CONVERGED, Status.RUNNING)

    def passes(self, state: StepwiseState, num_steps: Array) -> Array:
        """One for each epoch's batches, and one for its exact loss."""
        return state.passes


def blend(old: Stats, new: Stats, rate: Array) -> Stats:
    """`(1 - rate) old + rate new`; a node that merges by itself, such as a row that stands out, is the newer one."""

    def both(a: Any, b: Any) -> Any:
        return b if is_merged(b) else ((1 - rate) * a + rate * b).astype(a.dtype)

    return jax.tree.map(both, old, new, is_leaf=is_merged)


def _check_recenter(objective: Objective, stats: Stats, params: Params) -> None:
    """Rejects a problem, or one with a part, that does not say what its statistics are about."""
    try:
        jax.eval_shape(Objective.recenter, objective, stats, params, params)
    except NotImplementedError as error:
        raise ValueError(
            "`Stepwise` blends statistics that were taken at different parameters, and "
            f"{type(objective.problem).__name__} cannot move them to the current ones: {error} Where statistics do not "
            "depend on a reference point, `recenter` returns `stats` as they are."
        ) from error
