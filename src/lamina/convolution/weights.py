"""The gradient of a convolution's weights: of few outputs, in place, on the engine's tile.

    dW[t, c, o] += Σ_n Σ_q X[n, q s + t d - before, c] dY[n, q, o]                              (1)

For one tap t this is the product of a matrix of X, transposed, with dY. Its rows are channels, its
terms the positions q for which the tap meets X: a run of columns for each row of Y, which are the
segments of the tile. Nothing is padded or copied.

The positions go by blocks that stay in the level-2 cache: some rows of Y, or parts of long ones.
The sum goes on from block to block through dW itself. Threads share the tiles of dW, and each goes
through all positions: the sum of an element has one order, whatever the threads.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from ..engine import jit
from ..engine.jit import Task, address, call
from ..engine.matmul import SERIAL, plan_of
from ..engine.tile import lanes
from ..windows import Ints
from .gathered import WIDEST, Product, multiply, product

NDArray = npt.NDArray[Any]

TERMS: Final = 512
"""About how many positions a block has."""
FEW: Final = 8
"""So few channels make no tall tile: whole rows of taps are taken together, or wider tiles."""


@jit.kernel
def _tiles(
    g: int, shape: Task, at: Task, heights: NDArray, low: NDArray, high: NDArray, lists: NDArray
) -> None:
    """Compute part g of the tiles of dW."""
    (
        parts, size, lane, widest, tile, block, chunks, out_d, out_h, out_w, n,
        x_n, x_d, x_h, x_w, rows, taps, taps_h, taps_w,
        s_d, s_h, s_w, d_d, d_h, d_w, b_d, b_h, b_w, groups, outputs, vectors,
    ) = shape  # fmt: skip
    x, dy, dw, lists_at = at
    count = (vectors + widest - 1) // widest
    height = heights[min(widest, vectors)]
    tall = (rows + height - 1) // height
    tiles = groups * tall * count
    t0, t1 = taps * tiles * g // parts, taps * tiles * (g + 1) // parts
    ldb = groups * outputs
    lines = n * out_d * out_h
    list_x = lists_at + g * 2 * block * 8
    list_y = list_x + block * 8
    for chunk in range(chunks):
        for line0 in range(0, lines, block):
            listed, many, terms = -1, 0, 0
            for u in range(t0, t1):
                tap, group, i, p = (
                    u // tiles,
                    u // (tall * count) % groups,
                    u // count % tall,
                    u % count,
                )
                if tap != listed:  # which runs of columns does this tap meet in the block?
                    listed, many = tap, 0
                    k_d, k_h, k_w = tap // taps_w // taps_h, tap // taps_w % taps_h, tap % taps_w
                    w0 = max(low[2, k_w], out_w * chunk // chunks)
                    terms = min(high[2, k_w], out_w * (chunk + 1) // chunks) - w0
                    column = w0 * s_w + k_w * d_w - b_w
                    for line in range(line0, min(lines, line0 + block)):
                        q_h, q_d = line % out_h, line // out_h % out_d
                        if q_h < low[1, k_h] or q_h >= high[1, k_h]:
                            continue
                        if q_d < low[0, k_d] or q_d >= high[0, k_d]:
                            continue
                        lists[g, 0, many] = (
                            line // out_h // out_d * x_n + (q_d * s_d + k_d * d_d - b_d) * x_d
                            + (q_h * s_h + k_h * d_h - b_h) * x_h + column * x_w
                        )  # fmt: skip
                        lists[g, 1, many] = (line * out_w + w0) * ldb
                        many += 1
                if many == 0 or terms <= 0:
                    continue
                m = rows * i // tall
                h = rows * (i + 1) // tall - m
                p0, p1 = vectors * p // count, vectors * (p + 1) // count
                last = min(lane, outputs - (p1 - 1) * lane)
                j = group * outputs + p0 * lane
                part = x + (group * rows + m) * size
                into = dw + ((tap * rows + m) * ldb + j) * size
                across = s_w * x_w
                call(tile, (
                    h, p1 - p0, part, list_x, 1, across, dy + j * size, list_y, ldb,
                    many, terms, into, ldb, into, ldb, last, 0,
                    part + (lists[g, 0, 0] + block * s_h * x_h) * size, across,
                ))  # fmt: skip


@jit.parallel
def _tiles_of_all(
    count: int, shape: Task, at: Task, heights: NDArray, low: NDArray, high: NDArray, lists: NDArray
) -> None:
    for g in numba.prange(count):
        _tiles(numba.int64(g), shape, at, heights, low, high, lists)


@dataclass(frozen=True, eq=False)
class Sum:
    """The plan of (1) over the positions low <= q < high of each tap; nothing in it changes.

    `merged` tells that whole rows of taps are taken together.
    """

    merged: bool
    parts: int
    shape: Task
    heights: NDArray
    low: NDArray
    high: NDArray
    block: int


def sums(
    x: Ints, dy: Ints, dw: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
) -> Product | list[Sum]:  # fmt: skip
    """Plan dW: a product, or the sums that it consists of, one after the other.

    Parameters
    ----------
    x, dy, dw : tuple of int
        Shapes: N, D, H, W, C; N, QD, QH, QW, O; KD, KH, KW, C / groups, O.
    groups : int
        A divisor of C.
    stride, dilation, before : tuple of three int
        `before` is what pads x with zeros at the start of each axis.
    dtype : dtype
    threads : int
        How many there are for large work.
    """
    if not math.prod(dy):
        return []
    *kernel, c, o = dw
    moves = stride, dilation, before
    if o // groups > WIDEST * lanes(dtype):
        return product(x, dy, dw, groups, *moves, dtype, threads)
    # The positions q that each tap of each axis meets X with: low <= q < high.
    low, high = np.zeros((2, 3, max(kernel)), np.int64)
    for axis in range(3):
        place = np.arange(kernel[axis]) * dilation[axis] - before[axis]
        low[axis, : kernel[axis]] = np.maximum(0, -(place // stride[axis]))
        fits = (x[1 + axis] - 1 - place) // stride[axis] + 1
        high[axis, : kernel[axis]] = np.clip(fits, 0, dy[1 + axis])
    if c >= FEW or groups > 1 or dilation[2] > 1:
        return [_sum(x, dy, dw, groups, *moves, low, high, dtype, threads, False)]
    # Where a window lies within X its row of taps is one run: so many more rows for the tiles.
    found, taps = [], slice(0, kernel[2])
    inner = int(low[2, taps].max()), int(high[2, taps].min())
    if inner[0] < inner[1]:
        within, until = low.copy(), high.copy()
        within[2], until[2] = inner
        rows = *kernel[:2], 1, kernel[2] * c, o
        found.append(_sum(x, dy, rows, groups, *moves, within, until, dtype, threads, True))
    else:
        inner = 0, 0
    for edge in ((0, inner[0]), (inner[1], dy[3])):
        within, until = low.copy(), high.copy()
        within[2], until[2] = np.maximum(low[2], edge[0]), np.minimum(high[2], edge[1])
        if (within[2, taps] < until[2, taps]).any():
            found.append(_sum(x, dy, dw, groups, *moves, within, until, dtype, threads, False))
    return found


def _sum(
    x: Ints, dy: Ints, dw: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    low: NDArray, high: NDArray, dtype: np.dtype[Any], threads: int, merged: bool,
) -> Sum:  # fmt: skip
    plan = plan_of(dtype)
    size, lane, heights = plan.size, plan.lane, plan.heights
    kernel, (rows, total) = dw[:3], dw[3:]
    outs, outputs = dy[1:4], total // groups
    vectors = -(-outputs // lane)
    chunks = -(-outs[2] // TERMS)
    block = max(1, TERMS // -(-outs[2] // chunks))
    widest = 8 if rows == 1 else 4 if rows < FEW else 2
    taps = math.prod(kernel)
    work = math.prod(dy) * rows * taps
    units = taps * groups * -(-rows // int(heights[min(widest, vectors)])) * -(-vectors // widest)
    parts = min(threads, units) if work > SERIAL else 1
    apart = [math.prod(x[axis + 1 :]) for axis in range(4)]
    shape = (
        parts, size, lane, widest, plan.codes[0], block, chunks, *outs, x[0], *apart,
        rows, taps, *kernel[1:], *stride, *dilation, *before, groups, outputs, vectors,
    )  # fmt: skip
    return Sum(merged, parts, shape, heights, low, high, block)


def weight_gradient(
    plan: Product | list[Sum], x: NDArray, dy: NDArray, dw: NDArray, add: bool
) -> None:
    """Write dW, as planned, or add it to what dw holds."""
    if isinstance(plan, Product):
        multiply(plan, x, dy, dw, add)
        return
    if not add:
        dw[...] = 0
    for part in plan:
        lists = np.empty((part.parts, 2, part.block), np.int64)
        at = address(x), address(dy), address(dw), address(lists)
        jit.launch(
            _tiles, _tiles_of_all, part.parts, part.shape, at, part.heights, part.low, part.high,
            lists,
        )  # fmt: skip
