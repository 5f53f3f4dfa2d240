"""Passes of a recurrent layer over a batch: what the kernels of all share, but for the cell.

Here are sequences, states and gradients as layers have them; in recurrent.py they are rows.
"""

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from . import recurrent, threads
from .jit import Code
from .matmul import are_contiguous, contiguous
from .memory import empty
from .steps import Kept, Steps, Weights, steps_like, steps_of

NDArray = npt.NDArray[Any]
State: TypeAlias = tuple[NDArray, ...]
"""(h, c), or (h,)."""
Given: TypeAlias = tuple[NDArray | None, ...]
"""W_x, W_h, b and, if there is a projection, W_p."""

Bound: TypeAlias = Callable[[NDArray], tuple[NDArray, "Cache"]]
Planned: TypeAlias = Callable[..., int]
"""`planned(plan, x, reverse)` plans y, and returns its number."""

NAMES: Final = ("weight_x", "weight_h", "bias", "weight_p")
"""Those of gradients, in the order of `Weights`."""


class Cell(NamedTuple):
    """What is a layer's own: the code of its cell, and whether its state has c."""

    forward: Code
    backward: Code
    has_c: bool


class FixedCell(NamedTuple):
    """How to compute with weights that will not change: `infer`, and a plan if there is one.

    `step` is given x_t and the state, which lie row by row, and returns y_t, which is not the
    state's h, and the next.
    """

    infer: Callable[..., tuple[NDArray, State, None]]
    step: Callable[[NDArray, State], tuple[NDArray, State]]
    plan: Planned | None


class Cache(NamedTuple):
    """What `run_backward` needs: x and y as they are, and what is kept of the real steps alone.

    s is there with a projection.
    """

    cell: Cell
    steps: Steps
    x: NDArray
    s: NDArray | None
    y: NDArray
    mask: NDArray | None
    kept: Kept
    weights: Weights


def _contiguous(given: Given) -> Weights:
    return Weights(*(None if a is None else contiguous(a) for a in given))  # type: ignore[arg-type]


def _hidden(weights: Weights) -> int:
    """Return H."""
    return len(weights.h if weights.p is None else weights.p)


def run(
    cell: Cell, x: NDArray, state: State, given: Given, lengths: NDArray | None = None,
    mask: NDArray | None = None, reverse: bool = False, y: NDArray | None = None,
) -> tuple[NDArray, State, Cache]:  # fmt: skip
    """Return y, shape (N, T, P), the state after the last step, and the cache of `run_backward`.

    In reverse, a sequence begins at its last step, and the state is that after its first.

    Two directions may share y, shape (N, T, 2 P), as `padded` gives it: the one in reverse writes
    to the last columns. Then `run_backward` of each takes dy of both.
    """
    return _run(cell, x, state, _contiguous(given), lengths, mask, reverse, y, keep=True)


def infer(
    cell: Cell, x: NDArray, state: State, given: Given, lengths: NDArray | None = None,
    mask: NDArray | None = None, reverse: bool = False, y: NDArray | None = None,
) -> tuple[NDArray, State, None]:  # fmt: skip
    """Return what `run` does, but for a cache."""
    return _run(cell, x, state, _contiguous(given), lengths, mask, reverse, y, keep=False)


def padded(x: NDArray, lengths: NDArray | None, width: int) -> NDArray:
    """Return an array (N, T, width) for y of x, shape (N, T, I); its padding is 0."""
    return steps_of(x, lengths).padded(width, x.dtype)


def shown(cache: Cache) -> NDArray:
    """Return y of one direction."""
    return _own(cache.y, cache.steps, cache.weights)


def _own(y: NDArray, steps: Steps, weights: Weights) -> NDArray:
    outputs = len(weights.h)
    return y[..., -outputs:] if steps.reverse else y[..., :outputs]


def step(cell: Cell, x_t: NDArray, state: State, given: Given) -> State:
    """Return the state after one step: x_t has shape (N, I)."""
    return infer(cell, x_t[:, None], state, given)[1]


def forward(
    cell: Cell, x: NDArray, given: Given, lengths: NDArray | None = None,
    mask: NDArray | None = None,
) -> tuple[NDArray, Cache]:  # fmt: skip
    """Return y and the cache of `backward`: `run` from a state of 0."""
    weights = _contiguous(given)
    h, c = _zeros(cell, weights, len(x))
    start = (h,) if c is None else (h, c)
    y, _, cache = _run(cell, x, start, weights, lengths, mask, keep=True)
    return y, cache


def bind(cell: Cell, n: int, T: int, given: Given) -> Bound | None:
    """Return `forward` for x of N sequences of T steps, with weights whose values may change.

    None where kernels would read a copy of them.
    """
    if not are_contiguous(*given):
        return None
    weights, steps = Weights(*given), steps_like(n, T)  # type: ignore[arg-type]
    found = recurrent.choose(cell.forward, steps, weights, cell.has_c, False, True, 1)
    h, c = _zeros(cell, weights, n)

    def forward(x: NDArray) -> tuple[NDArray, Cache]:
        x, y = contiguous(x), steps.padded(len(weights.h), x.dtype)
        s, kept = _projected(weights, steps.rows), _kept(cell, weights, steps.rows)
        c_next = None if c is None else np.empty_like(c)
        recurrent.forward(found, weights, x, h, c, c_next, None, s, y, kept)
        return y, Cache(cell, steps, x, s, y, None, kept, weights)

    return forward


def _zeros(cell: Cell, weights: Weights, n: int) -> tuple[NDArray, NDArray | None]:
    """Return h and c of n sequences, 0; None where there is no c."""
    h, dtype = np.zeros((n, len(weights.h)), weights.h.dtype), weights.h.dtype
    return h, np.zeros((n, _hidden(weights)), dtype) if cell.has_c else None


def _projected(weights: Weights, rows: int) -> NDArray | None:
    """Return where s goes, if there is a projection."""
    return None if weights.p is None else empty((rows, len(weights.p)), weights.p.dtype)


def _kept(cell: Cell, weights: Weights, rows: int) -> Kept:
    """Return where goes what backward needs."""
    (P, columns), dtype = weights.h.shape, weights.h.dtype
    h = empty((rows, P), dtype)
    if not cell.has_c:
        return Kept(h)
    return Kept(h, empty((rows, _hidden(weights)), dtype), empty((rows, columns), dtype))


def _run(
    cell: Cell, x: NDArray, state: State, weights: Weights, lengths: NDArray | None = None,
    mask: NDArray | None = None, reverse: bool = False, y: NDArray | None = None, *, keep: bool,
) -> tuple[NDArray, State, Any]:  # fmt: skip
    steps = steps_of(x, lengths, reverse)
    x = contiguous(x)
    h, c, c_next = steps.by_rank(state[0]), None, None
    if cell.has_c:
        c, stays = steps.by_rank(state[1]), lengths is not None or not steps.steps
        # That of sequences without steps stays as it is.
        c_next = steps.ranked(state[1]) if stays else empty(c.shape, c.dtype)
    mask = None if mask is None else steps.by_rank(mask)
    outputs = len(weights.h)
    y = steps.padded(outputs, x.dtype) if y is None else y
    s, kept = _projected(weights, steps.rows), _kept(cell, weights, steps.rows) if keep else None
    if steps.rows:
        found = recurrent.choose(
            cell.forward, steps, weights, cell.has_c, mask is not None, keep, y.shape[-1] // outputs
        )
        recurrent.forward(found, weights, x, h, c, c_next, mask, s, y, kept)
    last = steps.ends(_own(y, steps, weights), state[0])
    after = (last,) if c_next is None else (last, steps.unranked(c_next))
    cache = None if kept is None else Cache(cell, steps, x, s, y, mask, kept, weights)
    return y, after, cache


def run_backward(
    dy: NDArray,
    dstate: State | None,
    cache: Cache,
    trace: dict[str, NDArray] | None = None,
    of_x: bool = True,
) -> tuple[NDArray | None, State, dict[str, NDArray]]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step; None stands for 0. Unless `of_x`,
    there is no dx.
    """
    cell, steps, x, s, y, mask, kept, weights = cache
    if dstate is None:
        dh, dc = _zeros(cell, weights, steps.n)
    else:
        dh, dc = steps.ranked(dstate[0]), steps.ranked(dstate[1]) if cell.has_c else None
    dx, found, da = recurrent.backward(
        cell.backward, steps, x, weights, dh, dc, mask, s, y, contiguous(dy), kept, of_x
    )
    if trace is not None:
        trace["da"] = steps.unpack(da)
    grads = {name: g for name, g in zip(NAMES, found[:4], strict=True) if g is not None}
    before = (dh,) if dc is None else (dh, dc)
    return dx, tuple(map(steps.unranked, before)), grads


def backward(dy: NDArray, cache: Cache) -> tuple[NDArray | None, dict[str, NDArray]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    dx, _, grads = run_backward(dy, None, cache)
    return dx, grads


def live(cell: Cell, given: Given) -> Planned | None:
    """Return how to plan y with weights whose values may change; None where there is no plan."""
    return _planned(cell, Weights(*given)) if are_contiguous(*given) else None  # type: ignore[arg-type]


def _planned(cell: Cell, weights: Weights) -> Planned | None:
    if weights.p is not None:
        return None
    return functools.partial(recurrent.planned, cell.forward, cell.has_c, weights)


def fixed(cell: Cell, given: Given) -> FixedCell:
    """Return how to compute with weights that will not change, and are packed once."""
    weights = _contiguous(given)._replace(panels={})
    stepper = functools.cache(functools.partial(recurrent.stepper, cell.forward, weights))
    most = recurrent.FEWEST if weights.p is None else 0
    large = weights.x.nbytes + weights.h.nbytes >= recurrent.LARGE

    def step(x_t: NDArray, state: State) -> tuple[NDArray, State]:
        if len(x_t) > most or (large and threads.count() > 1):
            after = _run(cell, x_t[:, None], state, weights, keep=False)[1]
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
        y: NDArray | None = None,
    ) -> tuple[NDArray, State, None]:
        return _run(cell, x, state, weights, lengths, mask, reverse, y, keep=False)

    return FixedCell(infer, step, _planned(cell, weights))
