"""GRU: two gates decide how much of the state to forget and to renew."""

from . import formula
from .layer import GRU

__all__ = ["GRU", "formula"]
