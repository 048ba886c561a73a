"""What was measured on: processor, cores, versions, kernels, precision."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from threadpoolctl import threadpool_info

from jaxmix import linalg

PACKAGES = ("jax", "jaxlib", "numpy", "scikit-learn", "scikit-learn-intelex", "faiss-cpu", "ott-jax", "gmmx")
OLD_KERNELS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Some machines set these, which hold NumPy to kernels of older processors."""


def with_new_kernels() -> None:
    """Starts this process again without what holds NumPy to older kernels, so that peers are at their best."""
    if any(name in os.environ for name in OLD_KERNELS):
        environment = {name: value for name, value in os.environ.items() if name not in OLD_KERNELS}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def described() -> list[str]:
    """The machine, the versions, the kernels of NumPy, dtype and precision, as lines."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cpu = models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine()
    config: Any = jax.config
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    kernels = {f"{one['internal_api']} {one.get('architecture', '')}".strip() for one in threadpool_info()}
    return [
        f"{cpu}, {os.cpu_count()} cores, {platform.system()}; JAX on {jax.devices()[0].device_kind}",
        f"Python {platform.python_version()}, {', '.join(versions)}",
        f"kernels of the peers: {', '.join(sorted(kernels))}",
        f"float32; products of jaxmix at precision {linalg.PRECISION.name}, "
        f"JAX's default {config.jax_default_matmul_precision or 'of the platform'}",
    ]
