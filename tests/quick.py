"""Flags of XLA with which programs take a third of the time to compile, and longer to run."""

import importlib.util
import mmap
from pathlib import Path

FLAGS = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}


def flags() -> str:
    """Those of them that this XLA has: it ends a process that sets another."""
    package = importlib.util.find_spec("jaxlib")
    libraries = Path(str(package and package.origin)).parent.glob("*.so")
    found = {flag for library in libraries for flag in FLAGS if _holds(library, flag)}
    return " ".join(f"--{flag}={value}" for flag, value in FLAGS.items() if flag in found)


def _holds(library: Path, flag: str) -> bool:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        return binary.find(flag.encode()) >= 0
