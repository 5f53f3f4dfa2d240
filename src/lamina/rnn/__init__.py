"""RNN: the simple recurrent network of Elman, with tanh or relu."""

from . import formula
from .layer import RNN

__all__ = ["RNN", "formula"]
