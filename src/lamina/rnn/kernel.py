"""RNN: the functions of formula.py, as steps of time on the engine's tile."""

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..engine import recurrent
from ..engine.matmul import are_contiguous, contiguous
from ..engine.memory import empty
from ..engine.outer import outer
from ..engine.steps import Kept, Steps, Weights, steps_of
from . import cell

NDArray = npt.NDArray[Any]
State: TypeAlias = tuple[NDArray]

Infer: TypeAlias = Callable[..., tuple[NDArray, State, None]]
Step: TypeAlias = Callable[[NDArray, State], tuple[NDArray, State]]


Planned: TypeAlias = Callable[..., int]
"""`planned(plan, x, reverse)` plans y, and returns its number."""

REVERSES: Final = True
"""Whether `run` and `infer` take ``reverse=``: then nobody has to turn x, y and their gradients."""


class Cache(NamedTuple):
    """What `run_backward` needs: arrays of the real steps, in the order of `steps`; y as it is."""

    steps: Steps
    x: NDArray
    y: NDArray
    mask: NDArray | None
    kept: Kept
    weights: Weights
    activation: str


def step(
    x_t: NDArray,
    state: State,
    weights: tuple[NDArray, NDArray, NDArray | None],
    mask: NDArray | None = None,
    activation: str = "tanh",
) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b)."""
    given = _contiguous(*weights)
    return _run(x_t[:, None, :], state, given, activation, mask=mask, keep=False)[1]


def infer(
    x: NDArray,
    state: State,
    *weights: NDArray | None,
    lengths: NDArray | None = None,
    mask: NDArray | None = None,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[NDArray, State, None]:
    """Return what `run` does, but for a cache."""
    return _run(x, state, _contiguous(*weights), activation, lengths, mask, reverse, keep=False)


def prepare(*given: NDArray | None, activation: str = "tanh") -> tuple[Infer, Step, Planned | None]:
    """Return how to compute with weights that will not change, and are packed once.

    There are `infer`, `step` and, if there is one, a plan. `step` is given x_t and the state, which
    lie row by row, and returns y_t, which is not the state's h, and the next.
    """
    weights = _contiguous(*given)._replace(panels={})

    stepper = functools.cache(
        functools.partial(recurrent.stepper, cell.forward[activation], weights)
    )

    def step(x_t: NDArray, state: State) -> tuple[NDArray, State]:
        if len(x_t) > recurrent.FEWEST:
            after = _run(x_t[:, None], state, weights, activation, keep=False)[1]
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
        return _run(x, state, weights, activation, lengths, mask, reverse, keep=False)

    return infer, step, _planned(weights, activation)


def live(*given: NDArray | None, activation: str = "tanh") -> Planned | None:
    """Return how to plan y with weights whose values may change; None where there is no plan."""
    if not are_contiguous(*given):
        return None
    return _planned(Weights(*given), activation)  # type: ignore[arg-type]


def bind(
    n: int, T: int, *given: NDArray | None, activation: str = "tanh"
) -> Callable[[NDArray], tuple[NDArray, Cache]] | None:
    """Return `forward` for x of N sequences of T steps, with weights whose values may change.

    None where it would not take less time.
    """
    weights: Weights = Weights(*given)  # type: ignore[arg-type]

    def cache(steps: Steps, rows: NDArray, y: NDArray, kept: Kept) -> Cache:
        return Cache(steps, rows, y, None, kept, weights, activation)

    return recurrent.bound(cell.forward[activation], False, weights, n, T, cache)


def _planned(weights: Weights, activation: str) -> Planned:
    return functools.partial(recurrent.planned, cell.forward[activation], False, weights)


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
) -> tuple[NDArray, State, Cache]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    In reverse, a sequence begins at its last step, and the state is that after its first.
    """
    weights = _contiguous(weight_x, weight_h, bias)
    return _run(x, state, weights, activation, lengths, mask, reverse, keep=True)


def _contiguous(*weights: NDArray | None) -> Weights:
    return Weights(*(None if a is None else contiguous(a) for a in weights))  # type: ignore[arg-type]


def _run(
    x: NDArray, state: State, weights: Weights, activation: str, lengths: NDArray | None = None,
    mask: NDArray | None = None, reverse: bool = False, *, keep: bool,
) -> tuple[NDArray, State, Any]:  # fmt: skip
    H = len(weights.h)
    steps = steps_of(x, lengths, reverse)
    rows = steps.pack(contiguous(x))
    h = steps.by_rank(state[0])
    mask = None if mask is None else steps.by_rank(mask)
    packed = empty((steps.rows, H), x.dtype)
    kept = Kept(empty((steps.rows, H), x.dtype)) if keep else None
    code = cell.forward[activation]
    recurrent.forward(code, steps, rows, weights, h, None, None, mask, packed, packed, kept)
    y, after = steps.unpack(packed), steps.unranked(steps.ends(packed, h))
    cache = None if kept is None else Cache(steps, rows, y, mask, kept, weights, activation)
    return y, (after,), cache


def run_backward(
    dy: NDArray, dstate: State, cache: Cache, trace: dict[str, NDArray] | None = None
) -> tuple[NDArray, State, dict[str, NDArray]]:
    """Return dx, the gradient of the state before the first step, and those of the weights."""
    steps, x, y, mask, kept, weights, activation = cache
    M, H = steps.rows, len(weights.h)
    y, dy, dh = steps.pack(y), steps.pack(contiguous(dy)), steps.ranked(dstate[0])
    da = empty((M, H), x.dtype)
    code = cell.backward[activation]
    recurrent.backward(code, steps, weights, dh, None, mask, y, dy, kept, da, dy)
    if trace is not None:
        trace["da"] = steps.unpack(da).copy()

    dx = recurrent.inputs(da, weights.x)  # (9)
    grads = dict(
        zip(("weight_x", "weight_h", "bias"), outer(x, kept.h, da), strict=True)
    )  # (10) to
    if weights.bias is None:  # (12)
        del grads["bias"]
    return steps.unpack(dx), (steps.unranked(dh),), grads


def trace(cache: Cache) -> dict[str, NDArray]:
    """Return what a run went through by step: h, shape (N, T, H), 0 in padding."""
    return {"h": cache.y.copy()}


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
    start = np.zeros((len(x), len(weight_h)), x.dtype)
    y, _, cache = run(x, (start,), weight_x, weight_h, bias, lengths, mask, activation)
    return y, cache


def backward(dy: NDArray, cache: Cache) -> tuple[NDArray, dict[str, NDArray]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    end = np.zeros((dy.shape[0], dy.shape[2]), dy.dtype)
    dx, _, grads = run_backward(dy, (end,), cache)
    return dx, grads
