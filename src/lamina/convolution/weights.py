"""The gradient of a convolution's weights where windows meet few values of x, in place.

    dW[t, (k, c), o] = Σ_n Σ_q X̃[n, q s + t d + k, c] dY[n, q, o]                               (1)

t goes over rows of taps, k over the taps of a row, which lie side by side in X̃, as their channels
do; where dilation parts them, each is a row of its own. So for one row of taps this is the product
of a matrix that lies in X̃ as it is, transposed, with dY, and rows of Y are the segments of its sum.

The positions go by *blocks* that stay in level 1: columns of a row of Y, some rows, or some planes.
The rows of X̃ that a block meets are copied with their padding, a small part of what is read of dY.

With one channel a row of taps is few rows of the product, too few for a tile. There each row of X̃
is copied once for each of its taps, shifted by their distance, one copy behind the other. What two
taps meet that follow each other, in a row or from one row to the next, is equally far apart then,
and all taps of a plane are rows of one product. Few tiles read such a block: it is larger, and
stays in level 2.

Few weights make few tiles: blocks go by *chunks*, a fixed number of them whatever the threads, each
with a sum of its own, and these are added in their order.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import elements, jit, pool
from ..engine.jit import Arguments, Task, address, call, int64
from ..engine.matmul import SERIAL, machine_of, pack_panel
from ..engine.memory import LINE
from ..windows import Ints
from . import gathered
from .blocks import bounds, copy_rows, count, cut
from .bound import LISTS, PANELS, WORK, Part
from .direct import APART, edges_of, equal, zeros_of
from .gathered import Product, product

NDArray = npt.NDArray[Any]

NEAR: Final = 24 * 1024
"""Bytes of dY for a block: what a tile reads of it stays in level 1."""
HELD: Final = 128 * 1024
"""The most bytes of X̃ for a block: it stays in level 2."""
CHUNKS: Final = 16
"""Into how many sums dW is cut at the most: a fixed number, whatever the threads."""
BLOCKS: Final = 2
"""How many blocks each of these sums has at the least."""
SUM: Final = 2**18
"""Bytes of a sum at the most: it stays in level 2."""
FEW: Final = 7
"""Fewer rows, of one channel, are too few for a tile: multiply-adds would wait for each other."""
FAR: Final = 192 * 1024
"""Bytes of dY for a block where all taps of a plane are rows of one product: level 2 holds it."""
MANY: Final = 32
"""From so many channels on x is gathered, for a product whose tiles all threads share, unless there
are enough chunks for them to share."""
SEVERAL: Final = 8
"""So many chunks are enough."""


@jit.kernel
def _blocks(g: int, shape: Task, windows: Task, edges: NDArray, at: Task, lists: NDArray) -> None:
    """Sum up the chunks of part g."""
    (
        parts, chunks, size, lane, tile, copy, planes, lines, columns, all_planes, out_h, out_w,
        kd, kh, kw, rows, row, across, step_h, tap_h, tap_w, slots, pitch, copies, held, widest,
        packs, outputs,
    ) = shape  # fmt: skip
    x, dy, dw, zeros, scratch, lists_at = at
    units = count(planes, lines, columns, all_planes, out_h, out_w)
    list_x = lists_at + g * 2 * lists.shape[2] * 8
    list_y = list_x + lists.shape[2] * 8
    mine = scratch + g * held * size
    packed = mine + planes * kd * slots * pitch * size
    one = int64(1)  # not a literal: `pack_panel` is compiled once
    for chunk in range(chunks * g // parts, chunks * (g + 1) // parts):
        u0, u1 = units * chunk // chunks, units * (chunk + 1) // chunks
        sums = dw + chunk * kd * kh * kw * rows * outputs * size
        for u in range(u0, u1):
            p0, p1, h0, h1, w0, w1 = bounds(u, planes, lines, columns, all_planes, out_h, out_w)
            for k in range(copies):
                copy_rows(
                    windows, p0, p1, h0, h1, w0, w1, k * tap_w, x, zeros, mine + k * row * size
                )
            segments, terms = (p1 - p0) * (h1 - h0), w1 - w0
            block = dy + ((p0 * out_h + h0) * out_w + w0) * outputs * size
            for p in range(len(edges) - 1):
                vectors, o = edges[p + 1] - edges[p], edges[p] * lane
                last = min(lane, outputs - (edges[p + 1] - 1) * lane)
                panel, ldb = block + o * size, outputs
                if packs:
                    pack_panel(
                        segments * terms, (vectors - 1) * lane + last, size, lane, copy, copy,
                        zeros, panel, outputs, one, packed, widest * lane,
                    )  # fmt: skip
                    panel, ldb = packed, widest * lane
                for s in range(segments):
                    h, plane = s % (h1 - h0), s // (h1 - h0)
                    lists[g, 0, s] = (plane * kd * slots + h * step_h) * pitch
                    lists[g, 1, s] = s * terms * ldb
                following = block + (segments * terms * outputs + o) * size
                asks = 0
                if u + 2 < units:  # for dY of the next block, unless dY may end within reach
                    asks = 2 * ((vectors * lane * size + LINE - 1) // LINE)
                for t in range(kd * kh * kw):
                    ahead, step = zeros, 0
                    if t < asks:  # large tiles ask for every other row
                        ahead = following + t % 2 * outputs * size + t // 2 * LINE
                        step = outputs
                    into = sums + (t * rows * outputs + o) * size
                    begin, lds = into, outputs
                    if u == u0:
                        begin, lds = zeros, 0
                    line = t // kw
                    first = (line // kh * slots + line % kh * tap_h) * pitch + t % kw * tap_w
                    call(tile, (
                        rows, vectors, mine + first * size, list_x, row, across,
                        panel, list_y, ldb, segments, terms, begin, lds, into, outputs, last, 0,
                        ahead, step,
                    ))  # fmt: skip


@jit.kernel
def _add(g: int, shape: Task, at: Task) -> None:
    """Add part g of the chunks' sums in their order: the first one takes them up."""
    parts, chunks, total, size, add, goes_on, no_numbers = shape
    sums, dw = at
    first = total * g // parts
    count = total * (g + 1) // parts - first
    sums, dw = sums + first * size, dw + first * size
    for chunk in range(1, chunks):
        into = sums
        if chunk + 1 == chunks and not goes_on:
            into = dw
        call(add, (sums, sums + chunk * total * size, into, into, count, no_numbers))
    if goes_on:
        call(add, (dw, sums, dw, dw, count, no_numbers))


@dataclass(frozen=True, eq=False)
class Chunks:
    """A plan of dW by chunks; nothing in it changes."""

    kernel: Any
    chunks: int
    parts: int
    fixed: Arguments
    scratch: int
    segments: int
    zeros: NDArray


def weights(
    x: Ints, dy: Ints, dw: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
) -> Product | Chunks:  # fmt: skip
    """Plan dW.

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
    moves = groups, stride, dilation, before, dtype, threads
    kd, kh, kw, c, o = dw
    planes, (_, _, high, wide, _) = dy[0] * dy[1], dy
    if groups > 1:
        return product(x, dy, dw, *moves)
    machine = machine_of(dtype)
    size, lane, heights = machine.size, machine.lane, machine.heights
    # Taps that lie apart are rows of taps of their own.
    taps_w, rows, reach = 1, kw * c, kw
    if dilation[2] > 1:
        taps_w, rows, reach = kw, c, (kw - 1) * dilation[2] + 1
    copies, near = 1, NEAR
    copied = c == stride[2] == 1 and rows < min(FEW, kh * kw)
    if copied:
        taps_w, rows, reach, copies, near = 1, kh * kw, 1, kw, FAR
    edges = edges_of(rows, o, NEAR // 64, 0, lane, heights)
    widest, line = edges[1], LINE // size
    # Blocks, and so the order of sums, are the same for vectors of any width.
    across_y = equal(-(-o // line), 4)[1] * LINE
    positions = max(1, min(near // across_y, HELD // (c * size)))
    if copied:
        positions = min(positions, max(1, HELD // (kd * kh * kw * LINE)) * line)
        if dilation[1] > 1:
            positions = min(positions, wide)  # one row of Y: no rows of X̃ lie between those of taps
    elif dilation[2] > 1:
        positions = min(positions, HELD // (kd * kh * c * size) - reach)
        if 2 * positions < reach:  # too much of what is copied would be copied again
            return product(x, dy, dw, *moves)
    together, lines, columns = cut(planes, high, wide, positions)
    # With one row of Y a block needs no rows of X̃ between those of its taps.
    every = dilation[1] if lines == 1 else 1
    slots = ((lines - 1) * stride[1] + (kh - 1) * dilation[1]) // every + 1
    pitch = ((columns - 1) * stride[2] + reach) * c
    row, across = 1, stride[2] * c
    if copied:
        row = -(-columns // lane) * lane
        pitch = copies * row
    together = max(1, min(together, HELD // (kd * slots * pitch * size)))
    units = count(together, lines, columns, planes, high, wide)
    weights = kd * kh * kw * c * o
    chunks = CHUNKS
    while chunks > 1 and chunks > units // BLOCKS:
        chunks //= 2
    large = kd * slots * pitch * size > HELD or weights * size > SUM
    if large or (c >= MANY and chunks < SEVERAL):
        return product(x, dy, dw, *moves)
    parts = min(threads, chunks) if math.prod(dy) * kd * kh * kw * c > SERIAL else 1
    packs = len(edges) > 2
    held = together * kd * slots * pitch + APART
    if packs:
        held += together * lines * columns * widest * lane
    shape = (
        parts, chunks, size, lane, *machine.codes[:2], together, lines, columns, planes, high, wide,
        kd, 1 if copied else kh, taps_w, rows, row, across, stride[1], dilation[1] // every,
        dilation[2] * c, slots, pitch, copies, held, widest, int(packs), o,
    )  # fmt: skip
    windows = (
        size, lane, machine.codes[1], dy[1], *x[1:], kd, kh, reach, *stride, *dilation[:2], *before,
        every, slots, pitch,
    )  # fmt: skip
    return Chunks(
        _blocks, chunks, parts, Arguments(shape, windows, np.array(edges)), parts * held,
        together * lines, zeros_of(max(pitch, 8 * lane), dtype),
    )  # fmt: skip


def part(plan: Product | Chunks, x: int, dy: int, dw: int, size: int, add: bool = False) -> Part:
    """Return what writes dW, of so many elements, as planned, or adds it to what dw holds.

    x, dy and dw are which of the arrays that come later they are.
    """
    if isinstance(plan, Product):
        return gathered.part(plan, x, dy, dw, add)
    late, several = pool.late_data, plan.chunks > 1 or add
    at = (
        late(x), late(dy), late(PANELS if several else dw), address(plan.zeros), late(WORK),
        late(LISTS),
    )  # fmt: skip
    lists = pool.late_array(LISTS, (plan.parts, 2, plan.segments), np.int64)
    calls = [pool.ready(plan.kernel, plan.parts, plan.fixed, at, lists)]
    if several:
        calls.append(added(plan.chunks, size, plan.parts, plan.zeros, dw, add))
    panels = plan.chunks * size if several else 0
    return Part(calls, plan, plan.scratch, math.prod(lists.shape), panels)


def added(
    chunks: int, size: int, threads: int, zeros: NDArray, dw: int, add: bool = False
) -> pool.Ready:
    """Return what adds dW of all chunks, which lie in the panels, or adds them to dw.

    They are of so many elements, of the dtype of zeros. dw is which of the arrays that come later.
    """
    parts = threads if chunks * size > elements.SERIAL else 1
    dtype, late = zeros.dtype, pool.late_data
    shape = (
        parts, chunks, size, dtype.itemsize, elements.ADD(dtype), int(add), address(zeros[:0]),
    )  # fmt: skip
    return pool.ready(_add, parts, Arguments(shape), (late(PANELS), late(dw)))
