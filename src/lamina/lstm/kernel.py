"""LSTM: the functions of formula.py, as steps of time on the engine's tile."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import passes
from ..engine.passes import Bound, Cache, Cell, FixedCell, Planned
from . import cell

NDArray = npt.NDArray[Any]
State = tuple[NDArray, NDArray]

CELL: Final = Cell(cell.forward, cell.backward, True)
REVERSES: Final = True
"""Whether `run` and `infer` take ``reverse=``: then nobody has to turn x, y and their gradients."""


def step(
    x_t: NDArray, state: State, weights: tuple[NDArray, NDArray, NDArray | None, NDArray | None]
) -> passes.State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b, W_p)."""
    return passes.step(CELL, x_t, state, weights)


def infer(
    x: NDArray,
    state: State,
    *weights: NDArray | None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    reverse: bool = False,
    y: NDArray | None = None,
) -> tuple[NDArray, passes.State, None]:
    """Return what `run` does, but for a cache."""
    return passes.infer(CELL, x, state, weights, lengths, mask, reverse, y)


def fixed(*weights: NDArray | None) -> FixedCell:
    """Return how to compute with weights that will not change, packed once."""
    return passes.fixed(CELL, weights)


def live(*weights: NDArray | None) -> Planned | None:
    """Return how to plan y with weights whose values may change; None where there is no plan."""
    return passes.live(CELL, weights)


def bind(n: int, T: int, *weights: NDArray | None) -> Bound | None:
    """Return `forward` for x of N sequences of T steps, as `passes.bind` says."""
    return passes.bind(CELL, n, T, weights)


def run(
    x: NDArray,
    state: State,
    weight_x: NDArray,
    weight_h: NDArray,
    bias: NDArray | None = None,
    weight_p: NDArray | None = None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    reverse: bool = False,
    y: NDArray | None = None,
) -> tuple[NDArray, passes.State, Cache]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    In reverse, a sequence begins at its last step, and the state is that after its first. Two
    directions may share y, as `passes.run` says.
    """
    weights = weight_x, weight_h, bias, weight_p
    return passes.run(CELL, x, state, weights, lengths, mask, reverse, y)


def trace(cache: Cache) -> dict[str, NDArray]:
    """Return what a run went through by step: i, f, g, o, c and h, each 0 in padding.

    c is not kept, and found from the gates anew: the cell rounds once less.
    """
    assert cache.kept.gates is not None
    i, f, g, o = np.split(cache.kept.gates, 4, axis=1)
    found = {"i": i, "f": f, "g": g, "o": o, "c": f * cache.kept.c + i * g}
    found = {name: cache.steps.unpack(a).copy() for name, a in found.items()}
    return found | {"h": passes.shown(cache).copy()}


def forward(
    x: NDArray,
    weight_x: NDArray,
    weight_h: NDArray,
    bias: NDArray | None = None,
    weight_p: NDArray | None = None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
) -> tuple[NDArray, Cache]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    return passes.forward(CELL, x, (weight_x, weight_h, bias, weight_p), lengths, mask)


padded: Final = passes.padded
run_backward: Final = passes.run_backward
backward: Final = passes.backward
"""The gradients (10) to (27)."""
