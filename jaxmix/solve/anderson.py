"""Anderson acceleration of EM: extrapolate from its last steps, and never let the loss rise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, validation
from jaxmix.pytree import choice, static
from jaxmix.solve import coordinates, termination
from jaxmix.solver import Objective, Progress, Solver
from jaxmix.typing import Params, Stats

# Henderson and Varadhan (2019), section 3: the damping loosens as 1 / (1 + 1.2^(25 - s)) with s steps taken.
DAMPING_BASE, DAMPING_DELAY = 1.2, 25.0


class AndersonState(NamedTuple):
    """What Anderson acceleration carries; P free coordinates, m remembered differences.

    Attributes:
      params: the parameters accepted last.
      stats: their statistics.
      loss: Array of shape (), the loss at these parameters.
      point: Array of shape (P,), the free coordinates that the last step started from.
      residual: Array of shape (P,), EM's step from there.
      point_changes: Array of shape (m, P), rows of zeros where nothing is remembered.
      residual_changes: Array of shape (m, P), likewise.
      num_remembered: Array of shape (), int32.
      num_taken: Array of shape (), extrapolations taken, less those refused: what loosens the damping.
      plain: Array of shape (), bool: the next step is EM's own.
      accepted: Array of shape (), bool: the last candidate was taken.
      was_plain: Array of shape (), bool: the last step was EM's own.
      judged: Array of shape (), bool: so was the one before it, whose change of the loss is then known.
      fixed: Array of shape (), bool: EM changes no bit of the parameters that the last step started from.
    """

    params: Params
    stats: Stats
    loss: Array
    point: Array
    residual: Array
    point_changes: Array
    residual_changes: Array
    num_remembered: Array
    num_taken: Array
    plain: Array
    accepted: Array
    was_plain: Array
    judged: Array
    fixed: Array


@choice
class Anderson(Solver):
    r"""Anderson acceleration of EM, damped, restarted, and with a loss that never rises.

    $$\theta_{t+1} = M(\theta_t) - \sum_j \gamma_j (\Delta\theta_j + \Delta f_j), \qquad
      \gamma = \arg\min_\gamma |f_t - \sum_j \gamma_j \Delta f_j|^2 + \lambda |\gamma|^2$$

    in unconstrained coordinates, where $M$ is one step of EM, $f = M(\theta) - \theta$, and the differences are those
    of the last steps. The damping $\lambda$ makes $|\gamma|^2$ the share $\delta = 1 / (1 + 1.2^{25 - s})$ of its
    undamped value, where $s$ counts the extrapolations taken; one refused takes `history` off it. After `history`
    differences the memory starts anew. An extrapolation that would raise the loss, or make it NaN, is not taken, and
    the next step is EM's own. One pass over the data a step, taken or not, as in `OverRelaxed`. It has converged when
    one of EM's own steps, which also start each memory, changed the loss by less than the tolerance: then EM had ended
    there too.

    Attributes:
      history: how many differences are remembered, static.

    Raises:
      ValueError: when it runs, for a `history` below 1.

    References:
      Henderson and Varadhan (2019), algorithm 3 (DAAREM), with the tolerance on monotonicity set to zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), Anderson(), x[:2], x, rtol=1e-6).loss.item()
      1.0
    """

    history: int = static(default=5)

    def validate(self) -> None:
        """Rejects a history that is no positive count."""
        validation.check_int(self.history, "history", least=1)

    def init(self, objective: Objective, params: Params) -> AndersonState:
        """The start, its statistics, and an empty memory."""
        stats, loss = objective.stats(params)
        point = coordinates.to_vector(objective, params)
        memory = jnp.zeros((self.history, point.size), point.dtype)
        yes = jnp.array(True)
        return AndersonState(
            params=params,
            stats=stats,
            loss=loss,
            point=point,
            residual=jnp.zeros_like(point),
            point_changes=memory,
            residual_changes=memory,
            num_remembered=jnp.array(0, jnp.int32),
            num_taken=jnp.zeros((), point.dtype),
            plain=yes,
            accepted=yes,
            was_plain=~yes,
            judged=~yes,
            fixed=~yes,
        )

    def step(self, objective: Objective, state: AndersonState) -> tuple[AndersonState, Array]:
        """One M-step, the extrapolation, and the E-step that judges it."""
        em = objective.m_step(state.stats, state.params)
        point, target = coordinates.to_vector(objective, state.params), coordinates.to_vector(objective, em)
        residual = coordinates.difference(target, point)
        # Before the first step there is nothing to differ from, and after a refusal the point has not moved.
        change = coordinates.difference(point, state.point)
        at_rest = ~jnp.any(change != 0)
        fresh = ~at_rest & state.accepted
        slot = jnp.where(fresh, state.num_remembered, self.history)
        point_changes = state.point_changes.at[slot].set(change, mode="drop")
        residual_changes = state.residual_changes.at[slot].set(residual - state.residual, mode="drop")
        num_remembered = state.num_remembered + fresh.astype(jnp.int32)
        share = 1 / (1 + DAMPING_BASE ** (DAMPING_DELAY - state.num_taken))
        gamma = damped_least_squares(residual_changes, residual, share)
        there = target - linalg.dot(gamma[None], point_changes + residual_changes)[0]
        # An extrapolation that leads nowhere would be repeated for ever.
        plain = state.plain | (num_remembered == 0) | at_rest
        candidate = termination.select(plain, em, coordinates.from_vector(objective, there, em))
        stats, loss = objective.stats(candidate)
        accepted = plain | (loss <= state.loss)
        current = (state.params, state.stats, state.loss)
        params, stats, loss = termination.select(accepted, (candidate, stats, loss), current)
        taken = jnp.where(plain, state.num_taken, state.num_taken + 1)
        refused = jnp.maximum(state.num_taken - self.history, -2 * DAMPING_DELAY)
        full = num_remembered == self.history
        after = AndersonState(
            params=params,
            stats=stats,
            loss=loss,
            point=point,
            residual=residual,
            point_changes=jnp.where(full, 0, point_changes),
            residual_changes=jnp.where(full, 0, residual_changes),
            num_remembered=jnp.where(full, 0, num_remembered),
            num_taken=jnp.where(accepted, taken, refused),
            plain=~accepted,
            accepted=accepted,
            was_plain=plain,
            judged=state.was_plain,
            fixed=termination.is_fixed_point(em, state.params),
        )
        return after, state.loss

    def params(self, objective: Objective, state: AndersonState) -> Params:
        """The parameters accepted last."""
        return state.params

    def status(self, state: AndersonState, progress: Progress) -> Array:
        """As EM's, on EM's own steps: what an extrapolation gains may be small anywhere."""
        return termination.monotone_status(progress, fixed=state.fixed, moved=state.judged)

    def passes(self, state: AndersonState, num_steps: Array) -> Array:
        """One a step, and one for the start."""
        return num_steps + 1


def damped_least_squares(columns: Array, target: Array, share: Array) -> Array:
    r"""Least squares whose solution is damped to a share of its squared length.

    $$\gamma_\lambda = (A^T A + \lambda I)^{-1} A^T b \quad \text{with} \quad |\gamma_\lambda|^2 = \delta |\gamma_0|^2$$

    Args:
      columns: Array of shape (m, P), the transpose of A; rows of zeros get coefficient 0.
      target: Array of shape (P,), b.
      share: Array of shape (), $\delta$ in (0, 1).

    Returns:
      Array of shape (m,).
    """
    eigenvalues, vectors = jnp.linalg.eigh(linalg.dot(columns, columns.T))
    projected = linalg.dot(vectors.T, linalg.dot(columns, target[:, None]))[:, 0]
    largest = eigenvalues[-1]
    kept = eigenvalues > largest * jnp.finfo(columns.dtype).eps * columns.shape[0]
    safe = jnp.where(kept, eigenvalues, 1)

    def solution(damping: Array) -> Array:
        return jnp.where(kept, projected / (safe + damping), 0)

    wanted = share * jnp.sum(jnp.square(solution(jnp.zeros_like(largest))))
    # The root lies between the shares of the smallest and of the largest eigenvalue: halved on a logarithmic scale.
    stretch = 1 / jnp.sqrt(share) - 1
    smallest = jnp.min(jnp.where(kept, eigenvalues, largest))
    some = largest > 0
    bracket = tuple(jnp.log(jnp.where(some, value * stretch, 1)) for value in (smallest, largest))

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        longer = jnp.sum(jnp.square(solution(jnp.exp(middle)))) > wanted
        return jnp.where(longer, middle, low), jnp.where(longer, high, middle)

    low, high = jax.lax.fori_loop(0, 30, halve, bracket)
    coefficients = linalg.dot(vectors, solution(jnp.exp((low + high) / 2))[:, None])[:, 0]
    return jnp.where(some, coefficients, 0)
