"""GRU: a recurrent network with two gates and one state."""

from . import formula
from .layer import GRU

__all__ = ["GRU", "formula"]
