"""RNN: the simple recurrent network of Elman, with tanh, relu or sigmoid."""

from . import formula
from .layer import RNN

__all__ = ["RNN", "formula"]
