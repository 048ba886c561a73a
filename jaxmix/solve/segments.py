"""Fits in segments: between them the host saves what the solver carries, reports, and looks at the clock."""

import hashlib
import itertools
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import devices
from jaxmix.solver import Fit
from jaxmix.status import Status


class Report(NamedTuple):
    """How far fits in segments are.

    Attributes:
      index: the number of the start that runs, from 0.
      num_starts: how many there are.
      num_steps: the steps of this one.
      num_passes: its passes over the data.
      loss: its loss one step before, in the frame of the fit: it falls as `Fit.loss` does.
      statuses: the names of the statuses of those that have ended, and how many have each.
      seconds: since the call, without what was saved before it.
      rows_per_second: rows of the passes in the last segment, a second.
    """

    index: int
    num_starts: int
    num_steps: int
    num_passes: float
    loss: float
    statuses: dict[str, int]
    seconds: float
    rows_per_second: float


class Segments(Protocol):
    """What `run` asks of a `jaxmix.Checkpoint`."""

    @property
    def every(self) -> int:
        """Steps of a segment."""
        ...

    @property
    def max_seconds(self) -> float | None:
        """After so many no further segment begins."""
        ...

    @property
    def progress(self) -> Callable[[Report], None] | None:
        """What is called after each."""
        ...

    def load(self, fingerprint: str) -> Any:
        """The state that was stored under this fingerprint; None where there is none."""

    def store(self, fingerprint: str, state: Any) -> None:
        """Keeps a state."""


class Programs(NamedTuple):
    """The compiled parts of a fit from one start.

    Attributes:
      begin: from a start to what the loop carries, a `LoopState`.
      advance: from that, and a number of steps, to what it carries so many steps later, or at the end.
      end: from that to a `Fit`.
      ended: from that to the shapes of the `Fit`.
      is_running: from that to whether another step is due.
      passes: from that to the passes so far.
    """

    begin: Callable[[Any], Any]
    advance: Callable[[Any, Any], Any]
    end: Callable[[Any], Fit]
    ended: Callable[[Any], Fit]
    is_running: Callable[[Any], bool]
    passes: Callable[[Any], Array]


def run_segments(programs: Programs, starts: list[Any], num_rows: int, segments: Segments, fingerprint: str) -> Fit:
    """Fits from all starts, one after another, by segments.

    Args:
      programs: the compiled parts of a fit.
      starts: the starts.
      num_rows: N.
      segments: how long they are, and what happens between them.
      fingerprint: of all that the fits depend on.

    Returns:
      A `Fit` with a leading axis. Those that the seconds did not suffice for have the status `MAX_SECONDS`.
    """
    began = time.monotonic()
    stored = _loaded(segments, fingerprint)
    ended, carry = ([], None) if stored is None else _restored(stored, programs, starts[0])
    statuses: dict[str, int] = {}

    def is_late() -> bool:
        if segments.max_seconds is None:
            return False
        # By the clock of the first process: all must end at one step.
        return bool(devices.of_all_processes(np.array(time.monotonic() - began >= segments.max_seconds))[0])

    for index in range(len(ended), len(starts)):
        carry = programs.begin(starts[index]) if carry is None else carry
        while programs.is_running(carry) and not is_late():
            since, before = time.monotonic(), carry
            carry = jax.block_until_ready(programs.advance(carry, jnp.int32(segments.every)))
            segments.store(fingerprint, (_numbers(ended), _numbers(carry)))
            if segments.progress is not None:
                now, passes = time.monotonic(), float(programs.passes(carry))
                more = passes - float(programs.passes(before))
                for fit in ended[sum(statuses.values()) :]:
                    name = Status(int(fit.status)).name
                    statuses[name] = statuses.get(name, 0) + 1
                rate = more * num_rows / max(now - since, 1e-9)
                told = int(carry.num_steps), passes, float(carry.previous), dict(statuses), now - began, rate
                segments.progress(Report(index, len(starts), *told))
        ended.append(programs.end(carry))
        carry = None
        if not is_late():
            segments.store(fingerprint, (_numbers(ended), None))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ended)


def _loaded(segments: Segments, fingerprint: str) -> Any:
    stored = segments.load(fingerprint)
    digest = hashlib.blake2b(digest_size=16)
    for number in [] if stored is None else _numbers(stored):
        digest.update(np.ascontiguousarray(number).reshape(-1).view(np.uint8).data)
    every = devices.of_all_processes(np.frombuffer(digest.digest(), np.uint32))
    if (every != every[0]).any():
        raise ValueError("Processes have read different files: the path of a `Checkpoint` must be one file for all.")
    return stored


def fingerprint_of(*values: Any) -> str:
    """A digest of pytrees: equal where structures, dtypes, shapes and all bits are."""
    leaves, structure = jax.tree.flatten(values)
    # Functions are written with where they are in memory.
    words = re.sub(r" at 0x[0-9a-f]+", "", str(structure))
    digest = hashlib.blake2b(words.encode(), digest_size=16)
    for number in itertools.chain.from_iterable(map(_parts_here, leaves)):
        digest.update(f"{number.dtype}{number.shape}".encode())
        digest.update(np.ascontiguousarray(number).reshape(-1).view(np.uint8).data)
    # Each process has seen its own rows.
    every = devices.of_all_processes(np.frombuffer(digest.digest(), np.uint32))
    return digest.hexdigest() if len(every) == 1 else hashlib.blake2b(every.tobytes(), digest_size=16).hexdigest()


def _parts_here(leaf: Any) -> list[np.ndarray]:
    """An array that is not a key, in the parts that this process has."""
    if isinstance(leaf, Array) and not leaf.is_fully_addressable:
        return [np.asarray(shard.data) for shard in leaf.addressable_shards]
    return _numbers(leaf)


def _numbers(tree: Any) -> list[np.ndarray]:
    """The leaves of a pytree as NumPy arrays, those of PRNG keys too."""
    return [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _restored(stored: Any, programs: Programs, start: Any) -> tuple[list[Fit], Any]:
    """The fits that have ended, and what the next one carries, from stored numbers."""
    ended, running = stored
    like = programs.begin(start)
    fit = programs.ended(like)
    size = len(jax.tree.leaves(fit))
    fits = [_filled(fit, ended[first : first + size]) for first in range(0, len(ended), size)]
    return fits, None if running is None else _filled(like, running)


def _filled(like: Any, numbers: list[Any]) -> Any:
    leaves, structure = jax.tree.flatten(like)

    def leaf(old: Array, value: Any) -> Array:
        if _is_key(old):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(old))
        return jnp.asarray(value, old.dtype)

    return jax.tree.unflatten(structure, [leaf(*pair) for pair in zip(leaves, numbers, strict=True)])
