"""What the cases of activations, pooling, losses and optimizers have in common."""

import math
from dataclasses import dataclass

import numpy as np

from .case import Case, Pass


@dataclass(frozen=True, kw_only=True)
class Part(Case):
    """A pass over arrays, with so little arithmetic that memory is the limit."""

    @property
    def terms(self) -> int:
        """An operation and its like; what a function takes is each library's own."""
        return 1

    def ratio_wanted(self, which: Pass) -> float:
        """Return the bar of a pass: time of the fastest library / Lamina's, at least."""
        return 1.2

    def ratio_beside(self, which: Pass, share: float) -> float:
        """Return the bar where the fastest library reaches a share of the limit."""
        return 1.0 if share >= 0.9 else self.ratio_wanted(which)

    def size(self, name: str) -> int:
        """Return the bytes of an array of the dtype."""
        return math.prod(self.shapes[name]) * np.dtype(self.dtype).itemsize
