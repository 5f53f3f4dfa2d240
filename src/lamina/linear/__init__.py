"""Linear: an affine map of the last axis."""

from . import formula
from .layer import Linear

__all__ = ["Linear", "formula"]
