"""Neural-network layers for NumPy: readable formulas, exact gradients, the speed of the CPU."""

from . import initializers, linear
from .checking import CheckError, check
from .containers import Concat, Residual, Sequential
from .layer import Layer
from .linear import Linear

__version__ = "0.1.0"

__all__ = [
    "CheckError",
    "Concat",
    "Layer",
    "Linear",
    "Residual",
    "Sequential",
    "check",
    "initializers",
    "linear",
]
