"""LSTM: a recurrent network whose gates decide what its cell keeps."""

from . import formula
from .layer import LSTM

__all__ = ["LSTM", "formula"]
