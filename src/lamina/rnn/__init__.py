"""RNN: the next state is a function of the input and of the state before."""

from . import formula
from .layer import RNN

__all__ = ["RNN", "formula"]
