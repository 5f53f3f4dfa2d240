"""GRU: the functions of formula.py, reset gate after, as steps of time on the engine's tile.

Of the candidate's sum the reset gate acts on one part alone, so that the parts are summed apart:
the engine is given four blocks of columns, a 0 standing where x or h has no part in one,

    W_x (I, 4H): Wʳ, Wᶻ, Wⁿ, 0        W_h (H, 4H): Wʳ, Wᶻ, 0, Wⁿ        b (4H): bʳ, bᶻ, bⁿ, b_h

An infinity in x or h times such a 0 is NaN, where the formula may have a number.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import passes
from ..engine.memory import empty
from ..engine.passes import Cache, Cell, FixedCell
from . import cell

NDArray = npt.NDArray[Any]
State = tuple[NDArray]
Grads = dict[str, NDArray]

CELL: Final = Cell(cell.forward, cell.backward, True)
REVERSES: Final = True
"""Whether `run` and `infer` take ``reverse=``: then nobody has to turn x, y and their gradients."""


def _widened(
    weight_x: NDArray, weight_h: NDArray, bias: NDArray | None, bias_h: NDArray | None
) -> passes.Given:
    """Return the weights in four blocks of columns."""
    (inputs, columns), H = weight_x.shape, len(weight_h)
    wide_x, wide_h = (empty((k, columns + H), weight_x.dtype) for k in (inputs, H))
    wide_x[:, :columns], wide_x[:, columns:] = weight_x, 0
    wide_h[:, : 2 * H], wide_h[:, 3 * H :] = weight_h[:, : 2 * H], weight_h[:, 2 * H :]
    wide_h[:, 2 * H : 3 * H] = 0
    if bias is None and bias_h is None:
        return wide_x, wide_h, None
    parts = np.zeros(columns + H, weight_x.dtype)
    if bias is not None:
        parts[:columns] = bias
    if bias_h is not None:
        parts[columns:] = bias_h
    return wide_x, wide_h, parts


def step(
    x_t: NDArray, state: State, weights: tuple[NDArray, NDArray, NDArray | None, NDArray | None]
) -> passes.State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b, b_h)."""
    return infer(x_t[:, None], state, *weights)[1]


def infer(
    x: NDArray,
    state: State,
    *weights: Any,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    reverse: bool = False,
    y: NDArray | None = None,
) -> tuple[NDArray, passes.State, None]:
    """Return what `run` does, but for a cache."""
    start, given = (*state, *state), _widened(*weights)
    y, (h, _), _ = passes.infer(CELL, x, start, given, lengths, mask, reverse, y)
    return y, (h,), None


def fixed(*weights: Any) -> FixedCell:
    """Return how to compute with weights that will not change, packed once."""
    found = passes.fixed(CELL, _widened(*weights))

    def infer(
        x: NDArray, state: passes.State, **options: Any
    ) -> tuple[NDArray, passes.State, None]:
        y, (h, _), _ = found.infer(x, (*state, *state), **options)
        return y, (h,), None

    def step(x_t: NDArray, state: passes.State) -> tuple[NDArray, passes.State]:
        y_t, (h, _) = found.step(x_t, (*state, *state))
        return y_t, (h,)

    return FixedCell(infer, step, found.plan)


def run(
    x: NDArray,
    state: State,
    weight_x: NDArray,
    weight_h: NDArray,
    bias: NDArray | None = None,
    bias_h: NDArray | None = None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    reverse: bool = False,
    y: NDArray | None = None,
) -> tuple[NDArray, passes.State, Cache]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    In reverse, a sequence begins at its last step, and the state is that after its first. Two
    directions may share y, as `passes.run` says.
    """
    given = _widened(weight_x, weight_h, bias, bias_h)
    y, (h, _), cache = passes.run(CELL, x, (*state, *state), given, lengths, mask, reverse, y)
    return y, (h,), cache


def run_backward(
    dy: NDArray,
    dstate: State | None,
    cache: Cache,
    trace: Grads | None = None,
    of_x: bool = True,
) -> tuple[NDArray | None, passes.State, Grads]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step; None stands for 0. Unless `of_x`,
    there is no dx.
    """
    end = None if dstate is None else (np.zeros_like(dstate[0]), *dstate)
    dx, (du, dh), wide = passes.run_backward(dy, end, cache, trace, of_x)
    H = du.shape[1]
    if trace is not None:
        trace["da"] = trace["da"][..., : 3 * H]
    grads = {
        "weight_x": wide["weight_x"][:, : 3 * H].copy(),
        "weight_h": np.hstack((wide["weight_h"][:, : 2 * H], wide["weight_h"][:, 3 * H :])),
    }
    if "bias" in wide:
        bias, bias_h = np.split(wide["bias"], [3 * H])
        grads |= {"bias": bias.copy(), "bias_h": bias_h.copy()}
    return dx, (du + dh,), grads


def trace(cache: Cache) -> dict[str, NDArray]:
    """Return what a run went through by step: r, z, n and h, each 0 in padding."""
    assert cache.kept.gates is not None
    gates = np.split(cache.kept.gates, 4, axis=1)[:3]
    found = {name: cache.steps.unpack(a).copy() for name, a in zip("rzn", gates, strict=True)}
    return found | {"h": passes.shown(cache).copy()}


def forward(
    x: NDArray,
    weight_x: NDArray,
    weight_h: NDArray,
    bias: NDArray | None = None,
    bias_h: NDArray | None = None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
) -> tuple[NDArray, Cache]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    given = _widened(weight_x, weight_h, bias, bias_h)
    return passes.forward(CELL, x, given, lengths, mask)


def backward(dy: NDArray, cache: Cache) -> tuple[NDArray | None, Grads]:
    """Return dx and the gradients (20) to (24), where the last state serves nothing else."""
    dx, _, grads = run_backward(dy, None, cache)
    return dx, grads


padded: Final = passes.padded
