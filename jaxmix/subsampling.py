"""Cheap starts: short runs on a sample of the rows, of which the best are finished on all."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, sampling
from jaxmix.data import Data
from jaxmix.pytree import choice, static
from jaxmix.sharding import Sharded

LEAST_ROWS = 4096
"""A smaller sample takes no less time, and tells less."""

ROWS_FOR_EACH = 128
"""Rows of a sample for each component: enough to find clusters, which all rows then fit."""

ROWS_FOR_NUMBERS = 8
"""And for each number of a component: with fewer, a component fits the noise of its rows."""

SWAPS_FOR_EACH = 4
"""Exchanges tried for each center."""

LEAST_RATIO = 4
"""Where a sample has more than one row of so many, all restarts on all rows take hardly longer."""

FEW_RATIO = 16
"""Up to so many rows for one of the sample, two runs are finished: it takes little time, and a sample may mistake which
of two is better."""

SAMPLED = 2**31
"""What is folded into the key of a fit for its sample: beyond the number of any restart."""


class Plan(NamedTuple):
    """The short runs of a fit.

    Attributes:
      num_rows: the rows of the sample.
      num_finished: the runs that go on to all rows.
      num_swaps: the exchanges that are tried for each seeding.
    """

    num_rows: int
    num_finished: int
    num_swaps: int


@choice
class Subsample:
    r"""Where the restarts of `fit` run: on a sample of the rows, and the best of them on all.

    Each restart is a seeding on the sample, some exchanges of a center for a row, and a short run of the solver. The
    `finished` best of these runs go on to all rows, to the usual stop. So a fit takes about as long as one restart, or
    two.

    A sample holds one row out of each of as many strata, rows that follow each other, and its weight stands for the
    whole stratum. So a sum over the sample has the sum over all rows as its mean:

    $$E \sum_{n \in S} W_n f(x_n) = \sum_n w_n f(x_n)$$

    For K-means the strata have equal shares, not of the rows, but of half of all weight and half of the cost of one
    center: a row far away, which may be worth a center, is then not missed.

    An exchange puts a row, drawn as k-means++ draws, in the place of the center whose removal costs least, and is
    taken where J falls. It helps where two centers share one cluster and two clusters share one center, which no step
    of K-means or of EM changes.

    Attributes:
      rows: rows of the sample, static. None for what suits the problem: 128 for each component, or eight times as many
        as the parameters have numbers, and at least 4096. At least K. Where all rows are not four times as many, `fit`
        does without a sample.
      finished: how many of the restarts run on all rows, static. None for two where all rows are at most 16 times as
        many as those of the sample, and one elsewhere.
      swaps: exchanges tried for each restart, static; 0 for none. None for four for each center.
      max_steps: the most steps of a short run, static.
      share: a short run ends where a step lowers the loss by less than this share of what all its steps have, static.

    Raises:
      ValueError: when it is used, for a number out of range.

    References:
      Biernacki, Celeux and Govaert (2003), section 2.2: short runs of EM. Cochran (1977), section 5.3: stratified
      samples. Bachem, Lucic and Krause (2018), algorithm 1: the shares of K-means. Lattanzi and Sohler (2019),
      algorithm 2: the exchanges.

    Example:
      >>> import jax
      >>> from jaxmix import Subsample, kmeans
      >>> x = jax.random.normal(jax.random.key(0), (40_000, 2))
      >>> fit = kmeans.fit(jax.random.key(1), x, 3, subsample=Subsample(rows=2000))
      >>> fit.params.shape
      (3, 2)
    """

    rows: int | None = static(default=None)
    finished: int | None = static(default=None)
    swaps: int | None = static(default=None)
    max_steps: int = static(default=30)
    share: float = static(default=0.01)

    def validate(self) -> None:
        """Rejects numbers out of range."""
        for name, least in (("rows", 1), ("finished", 1), ("swaps", 0), ("max_steps", 1)):
            value = getattr(self, name)
            if value is None and name != "max_steps":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"`{name}` of `Subsample` must be an integer of at least {least}, got {value!r}.")
        if not isinstance(self.share, Real) or not 0 <= self.share < 1:
            raise ValueError(f"`share` of `Subsample` must be a number of at least 0 and below 1, got {self.share!r}.")

    def plan(self, num_rows: int, k: int, numbers: int, restarts: int) -> Plan | None:
        """The short runs, or None where the rows are too few for a sample.

        Args:
          num_rows: N.
          k: the number of components.
          numbers: how many numbers the parameters have.
          restarts: R.

        Returns:
          A `Plan`, or None.

        Example:
          >>> Subsample().plan(200_000, 64, 512, 8)
          Plan(num_rows=8192, num_finished=1, num_swaps=256)
          >>> Subsample().plan(2000, 3, 6, 8) is None
          True
        """
        if self._rows(k, numbers) * LEAST_RATIO > num_rows:
            return None
        return self.of_stream(num_rows, k, numbers, restarts)

    def of_stream(self, num_rows: int, k: int, numbers: int, restarts: int) -> Plan:
        """`plan` of rows that are not in memory: however few they are, a sample is."""
        rows = self._rows(k, numbers)
        swaps: Any = SWAPS_FOR_EACH * k if self.swaps is None else self.swaps
        finished: Any = (2 if num_rows <= FEW_RATIO * rows else 1) if self.finished is None else self.finished
        return Plan(rows, min(finished, restarts), swaps)

    def _rows(self, k: int, numbers: int) -> int:
        return self.rows or max(LEAST_ROWS, ROWS_FOR_EACH * k, ROWS_FOR_NUMBERS * numbers)


def seen(
    key: Array, data: Data, plan: Plan | None, k: int, reduce: Any, *, weighted: bool, moved: Array | None
) -> Data:
    """The rows that a seeding sees: the sample of the short runs, or all; of rows on several devices always a sample.

    Args:
      key: the key of the fit.
      data: all rows, or this device's own.
      plan: of the short runs.
      k: the number of components.
      reduce: sums over rows.
      weighted: whether any weight may be zero.
      moved: Array of shape (N, D), or longer, the rows in the frame of the fit, where their distances make its loss:
        rows of a large cost are then sampled more often, and weigh less. None for a loss of another kind.
    """
    parts, axis = (reduce.num_parts, reduce.axis) if isinstance(reduce, Sharded) else (1, None)
    if plan is None and parts * reduce.num_slots == 1:
        return data
    num_rows = min(parts * data.x.shape[0], max(LEAST_ROWS, ROWS_FOR_EACH * k)) if plan is None else plan.num_rows
    key, axis, slots = jax.random.fold_in(key, SAMPLED), axis if parts > 1 else None, reduce.num_slots
    if moved is None or plan is None:
        return sampling.stratified(key, data, num_rows, weighted=weighted, axis=axis)
    shares = _shares(moved[: data.x.shape[0]], data.weights, reduce)
    return sampling.proportional(key, data, shares, num_rows, axis=axis, slots=slots)


def _shares(x: Array, weights: Array, reduce: Any) -> Array:
    """What each row is of all weight, and of the cost of one center.

    References:
      Bachem, Lucic and Krause (2018), algorithm 1: lightweight coresets.
    """

    def of_share(weights: Array, x: Array) -> tuple[Array, Array]:
        return jnp.sum(weights), linalg.dot(weights[None], x)[0]

    weight, total = reduce.sums(of_share, weights, x)
    costs = weights * jnp.sum(jnp.square(x - (total / weight)[None]), axis=1)
    cost = reduce.sums(jnp.sum, costs)
    return weights / weight + linalg.safe_divide(costs, cost)


def best(losses: Array, held_up: Array | None, num_kept: int) -> Array:
    """Which fits are kept: those with the lowest losses, first those without components that are held up.

    A component on a few rows of a sample has a high likelihood there, and none on all rows.

    Args:
      losses: Array of shape (R,); those that are not finite come last.
      held_up: Array of shape (R, K), bool; or None.
      num_kept: an int of at most R.

    Returns:
      int32 Array of shape (num_kept,), the best one first.

    Example:
      >>> best(jnp.array([2.0, jnp.nan, 1.0]), None, 2).tolist()
      [2, 0]
    """
    finite = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    later = jnp.zeros_like(losses, dtype=bool) if held_up is None else jnp.any(held_up, axis=1)
    order = jnp.lexsort((finite, later | jnp.isinf(finite), jnp.isinf(finite)))
    return order[:num_kept].astype(jnp.int32)
