"""Fits that outlive their process: what a solver carries is written to a file every so many steps."""

import dataclasses
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import jax

from jaxmix import io, validation
from jaxmix.arrays import described
from jaxmix.solve.segments import Report


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """How a fit runs in segments: between them it writes its state to a file, tells its progress, and may stop in time.

    Given to `solve.run` or `solve.run_many`. The same call goes on from the file where it is there, and ends with the
    bits of a fit that was never stopped. The file is written beside its place and then renamed, so that a process that
    is killed leaves a whole one. It stays when the fit has ended, and the same call then returns the fit. Starts run
    one after another. Of several processes the first writes, and all read, so that the file must be on a disk that all
    have; and the clock of the first decides.

    Attributes:
      path: of the file; None where nothing is saved.
      every: steps of a segment, which is one call of a compiled program. The file holds what the solver carries, not
        the rows.
      max_seconds: after so many seconds no further segment begins, and the fits that have not ended get the status
        `MAX_SECONDS`; None for no limit. The next call goes on with them.
      progress: a function that is called with a `solve.Report` after each segment; None for none.

    Raises:
      ValueError: when it is made, for a number out of range; by the fit, for a file of another fit.
      ModuleNotFoundError: where there is a path, without the package `safetensors`.

    Example:
      >>> import os, tempfile
      >>> import jax.numpy as jnp
      >>> from jaxmix import Checkpoint, kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> path = os.path.join(tempfile.mkdtemp(), "fit.safetensors")
      >>> fit = solve.run(kmeans.KMeans(), solve.EM(), x[:2], x, checkpoint=Checkpoint(path, every=1))
      >>> fit.loss.item(), os.path.exists(path)
      (1.0, True)
    """

    path: str | os.PathLike[str] | None = None
    every: int = 10
    max_seconds: float | None = None
    progress: Callable[[Report], None] | None = None

    def __post_init__(self) -> None:
        validation.check_int(self.every, "every", least=1)
        if self.path is not None and not isinstance(self.path, (str, os.PathLike)):
            raise ValueError(f"`path` must be a path or None, got {described(self.path)}.")
        if self.max_seconds is not None and (not isinstance(self.max_seconds, Real) or not self.max_seconds >= 0):
            raise ValueError(f"`max_seconds` must be at least 0, or None, got {self.max_seconds!r}.")

    def load(self, fingerprint: str) -> Any:
        """The state that the file holds; None where there is no file.

        Raises:
          ValueError: for the file of a fit with another fingerprint.
        """
        if self.path is None or not Path(self.path).exists():
            return None
        held = io.load(self.path)
        if not isinstance(held, dict) or held.get("fingerprint") != fingerprint:
            raise ValueError(
                f"{self.path} is of another fit: to go on, rows, starts, problem, solver and tolerances must be the "
                "same. Remove it, or give another path."
            )
        return held["state"]

    def store(self, fingerprint: str, state: Any) -> None:
        """Writes a state, whole or not at all."""
        # Of several processes all have the same state.
        if self.path is not None and jax.process_index() == 0:
            io.save(self.path, {"fingerprint": fingerprint, "state": state})
