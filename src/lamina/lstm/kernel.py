"""LSTM: the functions of formula.py, as steps of time on the engine's tile."""

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..engine import recurrent
from ..engine.matmul import are_contiguous, contiguous, matmul
from ..engine.memory import empty
from ..engine.outer import outer
from ..engine.steps import Kept, Steps, Weights, steps_of
from . import cell

NDArray = npt.NDArray[Any]
State: TypeAlias = tuple[NDArray, NDArray]

Infer: TypeAlias = Callable[..., tuple[NDArray, State, None]]
Step: TypeAlias = Callable[[NDArray, State], tuple[NDArray, State]]


Planned: TypeAlias = Callable[..., int]
"""`planned(plan, x, reverse)` plans y, and returns its number."""

REVERSES: Final = True
"""Whether `run` and `infer` take ``reverse=``: then nobody has to turn x, y and their gradients."""


class Cache(NamedTuple):
    """What `run_backward` needs: arrays of the real steps, in the order of `steps`.

    s is kept for a projection alone; y, as it is, is for `trace`.
    """

    steps: Steps
    x: NDArray
    s: NDArray | None
    y: NDArray
    mask: NDArray | None
    kept: Kept
    weights: Weights


def step(
    x_t: NDArray, state: State, weights: tuple[NDArray, NDArray, NDArray | None, NDArray | None]
) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b, W_p)."""
    return _run(x_t[:, None, :], state, _contiguous(*weights), keep=False)[1]


def infer(
    x: NDArray,
    state: State,
    *weights: NDArray | None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    reverse: bool = False,
) -> tuple[NDArray, State, None]:
    """Return what `run` does, but for a cache."""
    return _run(x, state, _contiguous(*weights), lengths, mask, reverse, keep=False)


def prepare(*given: NDArray | None) -> tuple[Infer, Step, Planned | None]:
    """Return how to compute with weights that will not change, and are packed once.

    There are `infer`, `step` and, if there is one, a plan. `step` is given x_t and the state, which
    lie row by row, and returns y_t, which is not the state's h, and the next.
    """
    weights = _contiguous(*given)._replace(panels={})

    stepper = functools.cache(functools.partial(recurrent.stepper, cell.forward, weights))
    most = recurrent.FEWEST if weights.p is None else 0

    def step(x_t: NDArray, state: State) -> tuple[NDArray, State]:
        if len(x_t) > most:
            after = _run(x_t[:, None], state, weights, keep=False)[1]
            return after[0].copy(), after
        found: tuple[NDArray, State] = stepper()(x_t, state)
        return found

    def infer(
        x: NDArray,
        state: State,
        *,
        lengths: NDArray | None = None,
        mask: NDArray | None = None,
        reverse: bool = False,
    ) -> tuple[NDArray, State, None]:
        return _run(x, state, weights, lengths, mask, reverse, keep=False)

    return infer, step, _planned(weights)


def live(*given: NDArray | None) -> Planned | None:
    """Return how to plan y with weights whose values may change; None where there is no plan."""
    return _planned(Weights(*given)) if are_contiguous(*given) else None  # type: ignore[arg-type]


def bind(
    n: int, T: int, *given: NDArray | None
) -> Callable[[NDArray], tuple[NDArray, Cache]] | None:
    """Return `forward` for x of N sequences of T steps, with weights whose values may change.

    None where it would not take less time.
    """
    weights: Weights = Weights(*given)  # type: ignore[arg-type]

    def cache(steps: Steps, rows: NDArray, y: NDArray, kept: Kept) -> Cache:
        return Cache(steps, rows, None, y, None, kept, weights)

    return recurrent.bound(cell.forward, True, weights, n, T, cache)


def _planned(weights: Weights) -> Planned | None:
    if weights.p is not None:
        return None
    return functools.partial(recurrent.planned, cell.forward, True, weights)


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
) -> tuple[NDArray, State, Cache]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    In reverse, a sequence begins at its last step, and the state is that after its first.
    """
    weights = _contiguous(weight_x, weight_h, bias, weight_p)
    return _run(x, state, weights, lengths, mask, reverse, keep=True)


def _contiguous(*weights: NDArray | None) -> Weights:
    return Weights(*(None if a is None else contiguous(a) for a in weights))  # type: ignore[arg-type]


def _run(
    x: NDArray, state: State, weights: Weights, lengths: NDArray | None = None,
    mask: NDArray | None = None, reverse: bool = False, *, keep: bool,
) -> tuple[NDArray, State, Any]:  # fmt: skip
    P, columns = weights.h.shape
    H = columns // 4
    steps = steps_of(x, lengths, reverse)
    rows = steps.pack(contiguous(x))
    h, c = map(steps.by_rank, state)
    # Of sequences without steps, c stays as it is.
    c_next = empty(c.shape, c.dtype) if lengths is None and steps.steps else steps.ranked(state[1])
    mask = None if mask is None else steps.by_rank(mask)
    s = packed = empty((steps.rows, H), x.dtype)
    if weights.p is not None:
        packed = empty((steps.rows, P), x.dtype)
    kept = None
    if keep:
        kept = Kept(*(empty((steps.rows, width), x.dtype) for width in (P, H, columns)))
    recurrent.forward(cell.forward, steps, rows, weights, h, c, c_next, mask, s, packed, kept)
    y, after = steps.unpack(packed), (steps.unranked(steps.ends(packed, h)), steps.unranked(c_next))
    shown = None if weights.p is None else s
    cache = None if kept is None else Cache(steps, rows, shown, y, mask, kept, weights)
    return y, after, cache


def run_backward(
    dy: NDArray, dstate: State, cache: Cache, trace: dict[str, NDArray] | None = None
) -> tuple[NDArray, State, dict[str, NDArray]]:
    """Return dx, the gradient of the state before the first step, and those of the weights."""
    steps, x, s, _, mask, kept, weights = cache
    (P, columns), M = weights.h.shape, steps.rows
    dy = steps.pack(contiguous(dy))
    dh, dc = (steps.ranked(a) for a in dstate)
    da = empty((M, columns), x.dtype)
    dhs = dy if weights.p is None else empty((M, P), x.dtype)
    unused = dy  # the cell has no use for y
    recurrent.backward(cell.backward, steps, weights, dh, dc, mask, unused, dy, kept, da, dhs)
    if trace is not None:
        trace["da"] = steps.unpack(da).copy()

    dx = recurrent.inputs(da, weights.x)  # (23)
    grads = dict(
        zip(("weight_x", "weight_h", "bias"), outer(x, kept.h, da), strict=True)
    )  # (24) to
    if weights.bias is None:  # (26)
        del grads["bias"]
    if s is not None:
        H = s.shape[1]
        grads["weight_p"] = empty((H, P), x.dtype)
        matmul(s, 1, H, dhs, P, 1, H, P, M, grads["weight_p"])  # (27)
    return steps.unpack(dx), (steps.unranked(dh), steps.unranked(dc)), grads


def trace(cache: Cache) -> dict[str, NDArray]:
    """Return what a run went through by step: i, f, g, o, c and h, each 0 in padding."""
    assert cache.kept.gates is not None
    i, f, g, o = np.split(cache.kept.gates, 4, axis=1)
    found = {"i": i, "f": f, "g": g, "o": o, "c": f * cache.kept.c + i * g}
    found = {name: cache.steps.unpack(a).copy() for name, a in found.items()}
    return found | {"h": cache.y.copy()}


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
    P, columns = weight_h.shape
    start = np.zeros((len(x), P), x.dtype), np.zeros((len(x), columns // 4), x.dtype)
    y, _, cache = run(x, start, weight_x, weight_h, bias, weight_p, lengths, mask)
    return y, cache


def backward(dy: NDArray, cache: Cache) -> tuple[NDArray, dict[str, NDArray]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    P, columns = cache.weights.h.shape
    end = np.zeros((len(dy), P), dy.dtype), np.zeros((len(dy), columns // 4), dy.dtype)
    dx, _, grads = run_backward(dy, end, cache)
    return dx, grads
