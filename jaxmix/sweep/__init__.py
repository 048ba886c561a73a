"""Sweeps: a fit at every point of a grid, with named axes."""

from jaxmix.sweep.grid import Sweep, grid
from jaxmix.sweep.mixtures import mixtures

__all__ = ["Sweep", "grid", "mixtures"]
