"""Cheap starts: many short runs on few rows, of which the best go on to more rows."""

from numbers import Integral, Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import sampling
from jaxmix.data import Data
from jaxmix.pytree import choice, static

LEAST_ROWS = 1024
"""A smaller sample takes no less time, and tells less."""

ROWS_FOR_EACH = 32
"""Rows of the first sample for each component: enough to find clusters, which all rows then fit."""

ROWS_FOR_NUMBERS = 2
"""And for each number of a component: with fewer, a component fits the noise of its rows."""


SAMPLED = 2**31
"""What is folded into the key of a fit for its samples: beyond the number of any restart."""


class Round(NamedTuple):
    """One round of a search.

    Attributes:
      num_fits: the fits that run.
      num_rows: the rows that they run on.
    """

    num_fits: int
    num_rows: int


@choice
class Subsample:
    r"""Where the restarts of `fit` run: first on few rows, the best of them on more, the best of these on all.

    This is successive halving, by `factor` instead of two. For R restarts, `factor` R short runs on a first sample
    choose R, short runs of these on `factor` times as many rows choose R / `factor`, at least one, and these run on all
    rows to the usual stop. Where the second sample would be more than one row in `factor`, it is left out. The samples
    are nested: each is drawn from the next.

    A sample holds one row out of each of as many strata, rows that follow each other, and the row weighs as much as all
    of its stratum would. So a sum over the sample has the sum over all rows as its mean:

    $$E \sum_{n \in S} W_n f(x_n) = \sum_n w_n f(x_n)$$

    A seeding sees the first sample in place of the rows, and makes the starts of all short runs.

    Attributes:
      rows: rows of the first sample, static. None for what suits the problem: 32 for each component, or twice as many
        as a component has numbers, and at least 1024. At least K. Where all rows are not
        `factor` times as many, `fit` does without samples.
      factor: how many fits, and rows, one is chosen from, static, at least 2.
      max_steps: the most steps of a short run, static.
      share: a short run ends where a step lowers the loss by less than this share of what all its steps have, static.

    Raises:
      ValueError: when it is used, for a number out of range.

    References:
      Jamieson and Talwalkar (2016), algorithm 1: successive halving. Biernacki, Celeux and Govaert (2003), section 2.2:
      short runs of EM. Cochran (1977), section 5.3: stratified samples.

    Example:
      >>> import jax
      >>> from jaxmix import Subsample, kmeans
      >>> x = jax.random.normal(jax.random.key(0), (40_000, 2))
      >>> fit = kmeans.fit(jax.random.key(1), x, 3, subsample=Subsample(rows=2000))
      >>> fit.params.shape
      (3, 2)
    """

    rows: int | None = static(default=None)
    factor: int = static(default=8)
    max_steps: int = static(default=30)
    share: float = static(default=0.01)

    def validate(self) -> None:
        """Rejects numbers out of range."""
        counts = {"factor": (self.factor, 2), "max_steps": (self.max_steps, 1)}
        if self.rows is not None:
            counts["rows"] = (self.rows, 1)
        for name, (value, least) in counts.items():
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"`{name}` of `Subsample` must be an integer of at least {least}, got {value!r}.")
        if not isinstance(self.share, Real) or not 0 <= self.share < 1:
            raise ValueError(f"`share` of `Subsample` must be a number of at least 0 and below 1, got {self.share!r}.")

    def rounds(self, num_rows: int, k: int, numbers: int, restarts: int) -> tuple[Round, ...]:
        """The rounds, of which the last is on all rows.

        Args:
          num_rows: N.
          k: the number of components.
          numbers: how many numbers the parameters have.
          restarts: R.

        Returns:
          One round, where the rows are too few for a sample; or two, or three.

        Example:
          >>> Subsample().rounds(200_000, 32, 512, 8)
          (Round(num_fits=64, num_rows=1024), Round(num_fits=8, num_rows=8192), Round(num_fits=1, num_rows=200000))
          >>> Subsample().rounds(2000, 3, 6, 8)
          (Round(num_fits=8, num_rows=2000),)
        """
        rows = self.rows or max(LEAST_ROWS, ROWS_FOR_EACH * k, ROWS_FOR_NUMBERS * numbers)
        if rows * self.factor > num_rows:
            return (Round(restarts, num_rows),)
        first, last = Round(self.factor * restarts, rows), Round(max(1, restarts // self.factor), num_rows)
        if rows * self.factor**2 > num_rows:
            return first, last
        return first, Round(restarts, rows * self.factor), last


def nested(key: Array, data: Data, rounds: tuple[Round, ...], *, weighted: bool) -> list[Data]:
    """The rows of all rounds, each a sample of those of the next.

    Args:
      key: the key of the fit.
      data: all rows.
      rounds: the last one on all rows.
      weighted: whether any weight may be zero.
    """
    found = [data]
    sizes = [each.num_rows for each in rounds[-2::-1]]
    if not sizes:
        return found
    for size, own in zip(sizes, jax.random.split(jax.random.fold_in(key, SAMPLED), len(sizes)), strict=True):
        found.insert(0, sampling.stratified(own, found[0], size, weighted=weighted))
    return found


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
