"""BatchNorm: every channel at mean 0 and deviation 1 over the batch, then scaled and shifted."""

from . import formula
from .layer import BatchNorm

__all__ = ["BatchNorm", "formula"]
