"""The sum of the branches of a Residual, of one shape: y = a + b, and a ReLU of it."""

from ..arrays import Array
from .activations import relu


def add(a: Array, b: Array, into: Array | None = None) -> Array:
    """Return a + b; kernels may write it `into` one of the two."""
    return a + b


def add_relu(a: Array, b: Array) -> Array:
    """Return max(a + b, 0)."""
    return relu(a + b)[0]
