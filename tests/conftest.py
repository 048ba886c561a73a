"""Every test runs in float64 with warnings as errors; float32 is asked for where it is meant."""

import os
from pathlib import Path

import quick

# Before JAX starts its backend. Compiling is most of the suite: it is done quickly here, and by `make test-all` as
# users do. Eight CPU devices, most of which few tests use.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", quick.flags())
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Workers share what was compiled, and so does the next run. The limit of size makes JAX
# lock its cache; without, a worker may read what another has half written.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).resolve().parents[1] / ".pytest_cache/programs"))
jax.config.update("jax_compilation_cache_max_size", 2**30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile(
    "suite",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.register_profile("long", parent=hypothesis.settings.get_profile("suite"), max_examples=3000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

MOST_MAPS = 30_000
"""Regions of memory a worker may map: a compiled fit takes 100 to 400, and Linux aborts a process at 65530."""


@pytest.fixture(autouse=True)
def _few_programs():
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
