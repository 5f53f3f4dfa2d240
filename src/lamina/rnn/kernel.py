"""RNN: the functions of formula.py, as steps of time on the engine's tile."""

from typing import Any, Final

import numpy.typing as npt

from ..engine import passes
from ..engine.passes import Bound, Cache, Cell, FixedCell, Planned
from . import cell

NDArray = npt.NDArray[Any]
State = tuple[NDArray]

CELLS: Final = {name: Cell(cell.forward[name], cell.backward[name], False) for name in cell.forward}
"""By activation."""
REVERSES: Final = True
"""Whether `run` and `infer` take ``reverse=``: then nobody has to turn x, y and their gradients."""


def step(
    x_t: NDArray,
    state: State,
    weights: tuple[NDArray, NDArray, NDArray | None],
    activation: str = "tanh",
) -> passes.State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b)."""
    return passes.step(CELLS[activation], x_t, state, weights)


def infer(
    x: NDArray,
    state: State,
    *weights: NDArray | None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    activation: str = "tanh",
    reverse: bool = False,
    y: NDArray | None = None,
) -> tuple[NDArray, passes.State, None]:
    """Return what `run` does, but for a cache."""
    return passes.infer(CELLS[activation], x, state, weights, lengths, mask, reverse, y)


def fixed(*weights: NDArray | None, activation: str = "tanh") -> FixedCell:
    """Return how to compute with weights that will not change, packed once."""
    return passes.fixed(CELLS[activation], weights)


def live(*weights: NDArray | None, activation: str = "tanh") -> Planned | None:
    """Return how to plan y with weights whose values may change; None where there is no plan."""
    return passes.live(CELLS[activation], weights)


def bind(n: int, T: int, *weights: NDArray | None, activation: str = "tanh") -> Bound | None:
    """Return `forward` for x of N sequences of T steps, as `passes.bind` says."""
    return passes.bind(CELLS[activation], n, T, weights)


def run(
    x: NDArray,
    state: State,
    weight_x: NDArray,
    weight_h: NDArray,
    bias: NDArray | None = None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    activation: str = "tanh",
    reverse: bool = False,
    y: NDArray | None = None,
) -> tuple[NDArray, passes.State, Cache]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    In reverse, a sequence begins at its last step, and the state is that after its first. Two
    directions may share y, as `passes.run` says.
    """
    weights = weight_x, weight_h, bias
    return passes.run(CELLS[activation], x, state, weights, lengths, mask, reverse, y)


def trace(cache: Cache) -> dict[str, NDArray]:
    """Return what a run went through by step: h, shape (N, T, H), 0 in padding."""
    return {"h": passes.shown(cache).copy()}


def forward(
    x: NDArray,
    weight_x: NDArray,
    weight_h: NDArray,
    bias: NDArray | None = None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    activation: str = "tanh",
) -> tuple[NDArray, Cache]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    return passes.forward(CELLS[activation], x, (weight_x, weight_h, bias), lengths, mask)


padded: Final = passes.padded
run_backward: Final = passes.run_backward
backward: Final = passes.backward
"""The gradients (5) to (12)."""
