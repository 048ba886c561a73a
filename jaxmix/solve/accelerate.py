"""Accelerations of EM: extrapolate from its last steps, and never let the loss rise."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxmix import door, linalg
from jaxmix.solve import coordinates, monotone
from jaxmix.types import Data, Params, Problem, Progress, Stats, penalty

# Henderson and Varadhan (2019), section 3: the damping loosens as 1 / (1 + 1.2^(25 - s)) with s steps taken.
DAMPING_BASE, DAMPING_DELAY = 1.2, 25.0


class SquaremState(NamedTuple):
    """What SQUAREM carries.

    Attributes:
      params: the parameters.
      reach: Array of shape (), the longest extrapolation allowed.
      fixed: Array of shape (), bool: EM changes no bit of the parameters that the last step started from.
    """

    params: Params
    reach: Array
    fixed: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Squarem:
    r"""SQUAREM: two steps of EM, one squared extrapolation from them, and a step of EM from there.

    $$\theta' = \theta_0 + 2 a r + a^2 v, \qquad r = M(\theta_0) - \theta_0, \quad v = M(M(\theta_0)) - M(\theta_0) - r,
      \quad a = |r| / |v|$$

    in unconstrained coordinates, where $M$ is one step of EM; $a = 1$ is two steps of EM. The extrapolation is taken if
    its loss is at most that after the first step of EM, and else the second step of EM is, so that the loss never
    rises. Its length is capped: the cap grows fourfold when it was reached and the extrapolation taken, and falls
    when it was not. Three passes over the data a step, whatever is taken, under `vmap` too. It has converged as EM has.

    Attributes:
      growth: by what the cap on $a$ grows and falls; above 1, traced.
      largest: the cap's own cap, at least 1, traced.

    Raises:
      ValueError: when it runs, for a `growth` of 1 or below, or a `largest` below 1.

    References:
      Varadhan and Roland (2008), scheme S3 (equation 8 for the steplength) and table 1; the adaptive cap is that of the
      package SQUAREM (Du and Varadhan 2020).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), Squarem(), x[:2], x).loss.item()
      1.0
    """

    growth: ArrayLike = 4.0
    largest: ArrayLike = 1e4

    def check(self) -> None:
        """Refuses caps that cannot open."""
        door.check_least(self.growth, "growth", 1, strictly=True)
        door.check_least(self.largest, "largest", 1)

    def init(self, problem: Problem, params: Params, data: Data) -> SquaremState:
        """The start, with no extrapolation allowed yet."""
        return SquaremState(params, jnp.ones((), data.x.dtype), jnp.array(False))

    def step(self, problem: Problem, state: SquaremState, data: Data) -> tuple[SquaremState, Array]:
        """Two steps of EM, the extrapolation, and its own step of EM."""
        start = state.params
        stats = problem.e_step(start, data)
        first = problem.m_step(stats, start)
        first_stats = problem.e_step(first, data)
        second = problem.m_step(first_stats, first)
        u0, u1, u2 = (coordinates.to_vector(problem, params) for params in (start, first, second))
        r = coordinates.difference(u1, u0)
        v = coordinates.difference(coordinates.difference(u2, u1), r)
        wanted = linalg.safe_divide(jnp.linalg.norm(r), jnp.linalg.norm(v))
        length = jnp.clip(wanted, 1, state.reach)
        # From the second step on: at length 1 it is that step itself.
        extrapolated = coordinates.from_vector(problem, u2 + 2 * (length - 1) * r + (length**2 - 1) * v, second)
        stats_there = problem.e_step(extrapolated, data)
        limit = first_stats.loss + penalty(problem, first)
        taken = (length > 1) & (stats_there.loss + penalty(problem, extrapolated) <= limit)
        after = problem.m_step(stats_there, extrapolated)
        # The cap opens when it bound; a failure, with the length that failed, closes it.
        growth, largest = jnp.asarray(self.growth, length.dtype), jnp.asarray(self.largest, length.dtype)
        opened = jnp.where(wanted >= state.reach, jnp.minimum(state.reach * growth, largest), state.reach)
        reach = jnp.where(taken | (length == 1), opened, jnp.maximum(length / growth, 1))
        params = monotone.choose(taken, after, second)
        fixed = monotone.unchanged(first, start)
        return SquaremState(params, reach.astype(state.reach.dtype), fixed), stats.loss + penalty(problem, start)

    def params(self, problem: Problem, state: SquaremState) -> Params:
        """The parameters, which the state holds as they are."""
        return state.params

    def status(self, state: SquaremState, progress: Progress) -> Array:
        """As EM's."""
        return monotone.verdict(progress, fixed=state.fixed, moved=jnp.array(True))

    def num_passes(self, state: SquaremState, num_steps: Array) -> Array:
        """Three a step."""
        return 3 * num_steps


class AndersonState(NamedTuple):
    """What Anderson acceleration carries; P free coordinates, m remembered differences.

    Attributes:
      params: the parameters accepted last.
      stats: their statistics.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anderson:
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

    history: int = dataclasses.field(default=5, metadata={"static": True})

    def init(self, problem: Problem, params: Params, data: Data) -> AndersonState:
        """The start, its statistics, and an empty memory."""
        door.check_int(self.history, "history", least=1)
        point = coordinates.to_vector(problem, params)
        memory = jnp.zeros((self.history, point.size), point.dtype)
        yes = jnp.array(True)
        return AndersonState(
            params=params,
            stats=problem.e_step(params, data),
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

    def step(self, problem: Problem, state: AndersonState, data: Data) -> tuple[AndersonState, Array]:
        """One M-step, the extrapolation, and the E-step that judges it."""
        loss = state.stats.loss + penalty(problem, state.params)
        em = problem.m_step(state.stats, state.params)
        point, target = coordinates.to_vector(problem, state.params), coordinates.to_vector(problem, em)
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
        candidate = monotone.choose(plain, em, coordinates.from_vector(problem, there, em))
        stats = problem.e_step(candidate, data)
        accepted = plain | (stats.loss + penalty(problem, candidate) <= loss)
        params, stats = monotone.choose(accepted, (candidate, stats), (state.params, state.stats))
        taken = jnp.where(plain, state.num_taken, state.num_taken + 1)
        refused = jnp.maximum(state.num_taken - self.history, -2 * DAMPING_DELAY)
        full = num_remembered == self.history
        after = AndersonState(
            params=params,
            stats=stats,
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
            fixed=monotone.unchanged(em, state.params),
        )
        return after, loss

    def params(self, problem: Problem, state: AndersonState) -> Params:
        """The parameters accepted last."""
        return state.params

    def status(self, state: AndersonState, progress: Progress) -> Array:
        """As EM's, on EM's own steps: what an extrapolation gains may be small anywhere."""
        return monotone.verdict(progress, fixed=state.fixed, moved=state.judged)

    def num_passes(self, state: AndersonState, num_steps: Array) -> Array:
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
