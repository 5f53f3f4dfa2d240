"""The last inputs of sequences, as a ring: what a causal convolution keeps from step to step.

Of the last B inputs, that of step t is in place t mod B, which that of step t + B takes over. The
places are cut to blocks of about √B, each an array (N, steps, C). A step copies the block that it
writes to and shares the others with the state before, which stays as it is: nobody's state changes,
and a step costs much the same however far back the past reaches.

A state is a tuple of the blocks and of the position: the place that is written to next.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import arguments
from ..arguments import say

NDArray = npt.NDArray[Any]
State: TypeAlias = tuple[NDArray, ...]

WHOLE: Final = 8
"""A ring of so many places or fewer is one block."""


@lru_cache(256)
def _blocks(size: int) -> tuple[int, list[int]]:
    """Return how many places blocks have, and how many each has: the last one may have fewer."""
    width = max(1, size if size <= WHOLE else math.isqrt(size - 1) + 1)
    return width, [min(width, size - first) for first in range(0, size, width)]


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
        self.width, self.steps = _blocks(size)

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
        if self.size == 0:
            return [], state
        before = []
        for delay in delays:
            i, place = divmod((position - delay) % self.size, self.width)
            before.append(self._block(state, i, n, "state")[:, place])
        i, place = divmod(position, self.width)
        block = self._block(state, i, n, "state").copy()
        block[:, place] = x_t
        end = np.array((position + 1) % self.size)
        return before, (*state[:i], block, *state[i + 1 : -1], end)

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
        if position.dtype.kind not in "iu" or position.shape:
            raise TypeError(
                f"{say(self.owner)}: the last entry of {name} is a position, an integer array of "
                f"shape (), got dtype {position.dtype} and shape {position.shape}"
            )
        place = int(position)
        if not 0 <= place < max(self.size, 1):
            raise ValueError(
                f"{say(self.owner)}: the last entry of {name} is a position in 0 ... "
                f"{self.size - 1}, got {place}"
            )
        return place

    def _block(self, state: Any, i: int, n: int, name: str) -> NDArray:
        expected = n, self.steps[i], self.channels
        a = state[i]
        if type(a) is np.ndarray and a.dtype is self.dtype and a.shape == expected:
            return a
        name = f"{name}[{i}]"
        found = arguments.array(self.owner, name, a, self.dtype)
        if found.shape != expected:
            raise ValueError(
                f"{say(self.owner)}: {name} has shape {found.shape}, expected {expected}, as "
                f"initial_state({n}) gives"
            )
        return found
