"""LSTM: gates decide what a cell takes in, keeps and shows."""

from . import formula
from .layer import LSTM

__all__ = ["LSTM", "formula"]
