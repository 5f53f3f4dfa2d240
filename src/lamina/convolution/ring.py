"""The last inputs of sequences, as a ring: what a causal convolution keeps from step to step.

Of the last B inputs, that of step t is in place t mod B, which that of step t + B takes over. The
places are cut to blocks of about √B, each an array (N, steps, C). A step copies the block that it
writes to and shares the others with the state before, which stays as it is: nobody's state changes,
and a step costs much the same however far back the past reaches.

A state is a tuple of the blocks and of the position: the place that is written to next.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import arguments
from ..arguments import say

NDArray = npt.NDArray[Any]
State: TypeAlias = tuple[NDArray, ...]

WHOLE: Final = 8
"""A ring of so many places or fewer is one block."""


class Ring:
    """The form of a layer's states.

    Parameters
    ----------
    owner : layer
        Speaks in errors.
    size, channels : int
        B and C.
    dtype : dtype
    """

    def __init__(self, owner: object, size: int, channels: int, dtype: Any) -> None:
        self.owner, self.size, self.channels, self.dtype = owner, size, channels, dtype
        self.width = max(1, size if size <= WHOLE else math.isqrt(size - 1) + 1)
        firsts = range(0, size, self.width)
        self.steps = [min(self.width, size - first) for first in firsts]  # of each block

    def zeros(self, n: int) -> State:
        """Return the state of `n` sequences before their first step."""
        blocks = [np.zeros((n, steps, self.channels), self.dtype) for steps in self.steps]
        return *blocks, np.array(0)

    def roll(self, past: NDArray, position: int) -> State:
        """Return the state with a past, shape (N, B, C), whose oldest input is at `position`."""
        ring = np.roll(past, position, axis=1)
        firsts = range(0, self.size, self.width)
        blocks = [ring[:, first : first + self.width].copy() for first in firsts]
        return *blocks, np.array(position)

    def unroll(self, state: Any, n: int, name: str = "state") -> tuple[NDArray, int]:
        """Return the past of a state of `n` sequences, oldest first, and the position."""
        position = self._position(state, n, name)
        none = np.zeros((n, 0, self.channels), self.dtype)
        blocks = [self._block(state, i, n, name) for i in range(len(self.steps))]
        return np.roll(np.concatenate([none, *blocks], axis=1), -position, axis=1), position

    def step(self, state: Any, x_t: NDArray, delays: Sequence[int]) -> tuple[list[NDArray], State]:
        """Return the inputs so many steps before x_t, shape (N, C), and the state after it."""
        n = len(x_t)
        position = self._position(state, n, "state")
        before = []
        for delay in delays:
            block, place = divmod((position - delay) % self.size, self.width)
            before.append(self._block(state, block, n, "state")[:, place])
        if self.size == 0:
            return before, state
        block, place = divmod(position, self.width)
        after = list(state)
        after[block] = written = self._block(state, block, n, "state").copy()
        written[:, place] = x_t
        after[-1] = np.array((position + 1) % self.size)
        return before, tuple(after)

    # Checks: of the blocks, a step reads those that it needs

    def _position(self, state: Any, n: int, name: str) -> int:
        count = len(self.steps) + 1
        if not isinstance(state, tuple) or len(state) != count:
            found = f"{len(state)} entries" if isinstance(state, tuple) else type(state).__name__
            raise ValueError(
                f"{say(self.owner)}: {name} must be a tuple of {count} arrays, as "
                f"initial_state({n}) gives; got {found}"
            )
        position = np.asarray(state[-1])
        if position.dtype.kind not in "iu" or position.shape != ():
            raise TypeError(
                f"{say(self.owner)}: the last entry of {name} is a position, an integer array of "
                f"shape (), got dtype {position.dtype} and shape {position.shape}"
            )
        if not 0 <= position < max(self.size, 1):
            raise ValueError(
                f"{say(self.owner)}: the last entry of {name} is a position in 0 ... "
                f"{self.size - 1}, got {position}"
            )
        return int(position)

    def _block(self, state: Any, i: int, n: int, name: str) -> NDArray:
        name = f"{name}[{i}]"
        found = arguments.array(self.owner, name, state[i], self.dtype)
        expected = n, self.steps[i], self.channels
        if found.shape != expected:
            raise ValueError(
                f"{say(self.owner)}: {name} has shape {found.shape}, expected {expected}, as "
                f"initial_state({n}) gives"
            )
        return found
