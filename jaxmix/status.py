"""How a fit ends: the status, its words, and the error of a fit that did not end as it should."""

import enum
from collections.abc import Collection, Iterable
from typing import Any


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
    MAX_SECONDS = 4

    @property
    def sentence(self) -> str:
        """What happened and what to do about it, in words."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.RUNNING: "The fit has not ended; `run` never returns this.",
    Status.CONVERGED: "The solver's stopping rule was met.",
    Status.MAX_STEPS: "The steps ran out first. Raise `max_steps`, or loosen `rtol` or `atol`.",
    Status.MAX_SECONDS: "The time ran out first. Raise `max_seconds`, or go on from the file of the `Checkpoint`.",
    Status.NONFINITE: (
        "The loss became NaN or infinite. Look for a covariance that became singular (see `regularization` and "
        "`prior`), for NaN or infinity in the data, the weights or the start, for weights that are negative or all "
        "zero, or for a learning rate that is too large. In float32 rounding may be the cause: try float64 "
        "(`jax.enable_x64`)."
    ),
    Status.LOSS_ROSE: (
        "The loss rose beyond rounding under a solver whose loss never rises. The problem's M-step does not "
        "minimize the bound that its E-step makes, its `loss` disagrees with its `e_step`, or rounding is coarser "
        "than expected: in float32, far from the origin, center the data or use float64."
    ),
}


class FitError(RuntimeError):
    """Raised by `Fit.throw` for a fit that did not end as it should."""


def as_statuses(allow: Any) -> Collection[Status]:
    """One status, or several, as a collection.

    Raises:
      ValueError: for names and numbers, with the line to write.

    Example:
      >>> as_statuses(Status.MAX_STEPS)
      (<Status.MAX_STEPS: 1>,)
    """
    given: list[Any] = list(allow) if isinstance(allow, Iterable) and not isinstance(allow, str) else [allow]
    for one in given:
        if not isinstance(one, Status):
            name = one if isinstance(one, str) and one in Status.__members__ else "MAX_STEPS"
            raise ValueError(f"`allow` must hold members of `Status`, got {one!r}. Write allow=[Status.{name}].")
    return tuple(given)
