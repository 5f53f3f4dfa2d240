"""Dropout: units set to 0 at random, so that none can rely on another."""

from . import formula
from .layer import Dropout

__all__ = ["Dropout", "formula"]
