"""Which programs a call compiles, by the events of JAX."""

from collections.abc import Callable
from typing import Any

import jax

_COMPILED: list[str] = []


def _listen(event: str, duration_secs: float, **kwargs: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(str(kwargs.get("fun_name", event)))


# Events come from every thread, and also for programs that the cache on disk has.
jax.monitoring.register_event_duration_secs_listener(_listen)


def compiled(call: Callable[[], Any]) -> list[str]:
    """The names of the programs that a call compiles."""
    _COMPILED.clear()
    jax.block_until_ready(call())
    return list(_COMPILED)
