r"""The losses of losses.py whose target has y's shape, in one pass over memory.

Beside ∂L/∂y it writes the sums of the terms: of each block of elements `COLUMNS` sums in float64,
which NumPy adds. So threads and the width of vectors change no bit. The logarithm of (4) is, with
u = exp(−|y|) and s = u/(2 + u), which is at most 1/3,

    log(1 + u) = 2 artanh(s) = 2 s + s³ w(s²)                                   (1)

where w is the polynomial that equals (2 artanh(s) − 2 s)/s³ at the Chebyshev nodes of s².
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..engine import jit, pool
from ..engine.jit import Address, Code, call, data
from ..engine.matmul import contiguous
from ..engine.memory import empty
from ..engine.pointwise import Functions
from ..engine.sweep import DOUBLE, Masks, Sweep, Values
from ..engine.threads import count as count_threads
from . import losses as formula
from .rows_kernel import cross_entropy_of_classes

__all__ = ["binary_cross_entropy", "cross_entropy_of_classes", "huber", "squared_error"]

NDArray = npt.NDArray[Any]
_i64 = ir.IntType(64)

SERIAL: Final = 16_384
"""Up to so many elements a call stays on one core."""
BLOCK: Final = 4096
"""Elements whose terms are added in `COLUMNS` sums."""
KEPT: Final = 256
"""For how many sizes it is kept what a call needs."""
COLUMNS: Final = 16
"""How many sums go side by side, whatever the width of a vector."""

_LOG: Final = {
    32: (0.2322433, 0.21706575, 0.28592357, 0.39999706, 0.6666667),
    64: (
        0.1563057780092285, 0.07492143795550767, 0.10845178394880015, 0.11734279061303197,
        0.13335178631449257, 0.1538454396486055, 0.18181819897962714, 0.2222222219823677,
        0.285714285716001, 0.39999999999999525, 0.6666666666666666,
    ),
}  # fmt: skip
"""The coefficients of w, from the highest power down, by the bits of the format."""


# Vector code. Of y, the target and the numbers it returns ∂l/∂y and what is summed.


def _squared_error(e: Any, b: Any, y: Any, target: Any, numbers: Any) -> tuple[Any, ...]:
    r = b.fsub(y, target)
    return b.fmul(e.number(2), r), b.fmul(r, r)


def _huber(e: Any, b: Any, y: Any, target: Any, numbers: Any) -> tuple[Any, ...]:
    (delta,) = numbers
    r, least = b.fsub(y, target), b.fneg(delta)
    c = e.at_least(b, r, least)
    c = b.select(b.fcmp_ordered(">", c, delta), delta, c)
    return c, b.fmul(c, b.fsub(r, b.fmul(c, e.number(0.5))))


def _binary_cross_entropy(e: Any, b: Any, y: Any, target: Any, numbers: Any) -> tuple[Any, ...]:
    (weight,) = numbers
    zero, one = e.number(0), e.number(1)
    size = e.below(b, e.magnitude(b, y), -e.format.least)
    u = b.fmul(e.shifted_exp(b, b.fneg(size)), e.number(2.0**-e.shift))
    s = b.fdiv(u, b.fadd(u, e.number(2)))
    square = b.fmul(s, s)
    cube = b.fmul(b.fmul(s, square), e.polynomial(b, _LOG[e.format.bits], square))
    rest = b.fadd(b.fadd(s, s), cube)  # (1)
    positive, negative = b.fmul(weight, target), b.fsub(one, target)
    above = e.at_least(b, y, zero)
    below = b.select(b.fcmp_ordered(">", y, zero), zero, b.fneg(y))
    of_minus, of_plus = b.fadd(below, rest), b.fadd(above, rest)
    loss = b.fadd(b.fmul(positive, of_minus), b.fmul(negative, of_plus))
    larger = b.fdiv(one, b.fadd(one, u))
    smaller = b.fmul(u, larger)
    left = b.fcmp_ordered("<", y, zero)
    rising, falling = b.select(left, smaller, larger), b.select(left, larger, smaller)
    gradient = b.fsub(b.fmul(negative, rising), b.fmul(positive, falling))
    inside = b.and_(b.fcmp_ordered(">=", target, zero), b.fcmp_ordered("<=", target, one))
    return gradient, loss, b.select(inside, zero, one)


def _emit(name: str, rule: Callable[..., Any], sums: int, count: int, dtype: Any) -> str:
    """Write ∂L/∂y and the sums of a block. The numbers are K R, then those of the loss."""
    s = Sweep(name, dtype, "*y *target *dy count *numbers *sums")
    e = Functions(dtype)
    e.module = s.module
    b, vectors = s.builder, COLUMNS // s.lanes
    y, target, dy, length, numbers, into = s.given
    total, *own = (
        s.spread(b, b.load(s.at(b, numbers, i), typ=s.scalar, align=s.size), s.vector)
        for i in range(1 + count)
    )

    def row(places: Values, masks: Masks, carried: Values) -> Values:
        read = zip(s.loads(places[0], masks), s.loads(places[1], masks), masks, strict=True)
        gradients, added = [], []
        for at, goal, mask in read:
            gradient, *terms = rule(e, b, at, goal, own)
            gradients.append(b.fdiv(gradient, total))
            kept = (t if mask is None else b.select(mask, t, s.vector(0.0)) for t in terms)
            added.append([s.widen(t) for t in kept])
        s.stores(gradients, places[2], masks)
        parts = [part for k in range(sums) for by_sum in added for part in by_sum[k]]
        return list(map(b.fadd, carried, parts))

    whole = b.sdiv(length, _i64(COLUMNS))
    zeros = [s.double.vector(0.0)] * (sums * vectors * s.parts)
    places, strides = [y, target, dy], [_i64(COLUMNS)] * 3
    found = s.down(whole, places, strides, zeros, lambda at, c: row(at, [None] * vectors, c))
    first = b.mul(whole, _i64(COLUMNS))
    left = b.sub(length, first)
    masks: Masks = [s.first_lanes(b, b.sub(left, _i64(v * s.lanes))) for v in range(vectors)]
    found = row([s.at(b, p, first) for p in places], masks, found)
    for i in range(0, len(found), s.parts):
        s.wide_stores(found[i : i + s.parts], s.double.at(b, into, i * s.double.lanes), None)
    return s.end()


def _twin(
    function: Callable[..., tuple[NDArray, NDArray]], sums: int,
    y: Address, target: Address, dy: Address, count: int, numbers: Address, into: Address,
) -> None:  # fmt: skip
    total, *own = numbers.flat
    goal = target.row(0, count)
    terms, gradient = function(y.row(0, count), goal, *own)
    dy.row(0, count)[...] = gradient / total
    found = into.row(0, sums * COLUMNS)
    found[...] = 0
    found[0] = terms.sum(dtype=np.float64)
    if sums > 1:
        found[COLUMNS] = np.sum(~((goal >= 0) & (goal <= 1)))


def _code(name: str, rule: Callable[..., Any], sums: int, count: int) -> Code:
    return Code(
        f"{name}_loss",
        partial(_emit, f"{name}_loss", rule, sums, count),
        partial(_twin, getattr(formula, name), sums),
    )


_SQUARED_ERROR: Final = _code("squared_error", _squared_error, 1, 0)
_HUBER: Final = _code("huber", _huber, 1, 1)
_BINARY_CROSS_ENTROPY: Final = _code("binary_cross_entropy", _binary_cross_entropy, 2, 1)


@jit.kernel
def _some(g: int, at: int) -> None:
    """Do part g of the blocks."""
    parts, size, width, code, n, y, target, dy, numbers, sums = jit.constants(at, 10)
    y, target, dy, numbers, sums = data(y), data(target), data(dy), data(numbers), data(sums)
    blocks = (n + BLOCK - 1) // BLOCK
    for i in range(blocks * g // parts, blocks * (g + 1) // parts):
        done = i * BLOCK * size
        call(code, (
            y + done, target + done, dy + done, min(BLOCK, n - i * BLOCK), numbers,
            sums + i * width,
        ))  # fmt: skip


def _run(
    code: Code, y: NDArray, target: NDArray, total: float, own: Sequence[float], sums: int = 1
) -> tuple[NDArray, NDArray]:
    """Return the sums over all elements, and ∂L/∂y."""
    y, target = contiguous(y), contiguous(target)
    dy, n = empty(y.shape, y.dtype), y.size
    found = np.empty((-(-n // BLOCK), sums, COLUMNS), DOUBLE)
    _bound(code, n, y.dtype, count_threads(), sums)(
        y, target, dy, np.array((total, *own), y.dtype), found
    )
    of_all: NDArray = found.sum(axis=(0, 2))
    return of_all, dy


@lru_cache(KEPT)
def _bound(code: Code, n: int, dtype: np.dtype[Any], threads: int, sums: int) -> pool.Run:
    """Return a function of y, target, dy, the numbers and the sums."""
    parts, size = 1 if n <= SERIAL else threads, sums * COLUMNS * DOUBLE.itemsize
    task = parts, dtype.itemsize, size, code(dtype), n, *map(pool.late, range(5))
    return pool.in_order(pool.Ready(_some, parts, task, None))


# The functions: L and ∂L/∂y, where K R is the total


def squared_error(y: NDArray, target: NDArray, total: float) -> tuple[float, NDArray]:
    """Return L and ∂L/∂y."""
    (value,), dy = _run(_SQUARED_ERROR, y, target, total, ())
    return float(value) / total, dy


def huber(y: NDArray, target: NDArray, total: float, delta: float) -> tuple[float, NDArray]:
    """Return L and ∂L/∂y."""
    (value,), dy = _run(_HUBER, y, target, total, (delta,))
    return float(value) / total, dy


def binary_cross_entropy(
    y: NDArray, target: NDArray, total: float, weight: float
) -> tuple[float | None, NDArray]:
    """Return L and ∂L/∂y; no L where a target lies outside [0, 1]."""
    (value, outside), dy = _run(_BINARY_CROSS_ENTROPY, y, target, total, (weight,), 2)
    return None if outside else float(value) / total, dy
