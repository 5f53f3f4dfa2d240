"""Plans of a convolution as calls of its arrays: all that a pass does is one, made once.

A *part* is what a plan does: calls that are ready but for arrays that come later. The first three
of these are memory to work in, which all parts of a pass share; those of the pass come behind.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..engine import pool
from ..engine.memory import aligned, workspace

NDArray = npt.NDArray[Any]

WORK, LISTS, PANELS, ARRAYS = range(4)
"""Which of the arrays are memory: what threads work in, integers, and what a call leaves for the
next one; and the first of the others."""
_INTEGERS: Final = np.dtype(np.int64)


class Part(NamedTuple):
    """Calls, and how many elements they need of each memory. `keep` is what they point to."""

    calls: Sequence[pool.Ready]
    keep: Any
    work: int = 0
    lists: int = 0
    panels: int = 0


class Bound:
    """Parts, one after the other, as a function of the arrays of a pass, all C-contiguous.

    Any number of threads may call it.
    """

    def __init__(self, dtype: np.dtype[Any], *parts: Part) -> None:
        self.dtype, self.keep = dtype, parts
        self.work = max(part.work for part in parts)
        self.lists = max(part.lists for part in parts)
        self.panels = max(part.panels for part in parts)
        self.run = pool.in_order(*(call for part in parts for call in part.calls))

    def __call__(self, *arrays: NDArray) -> None:
        """Run."""
        work, lists = workspace(self.work, self.dtype), np.empty(self.lists, _INTEGERS)
        panels = aligned(self.panels, self.dtype) if self.panels else work
        self.run(work, lists, panels, *arrays)
