"""The gradient of the weights of a convolution with many outputs: a product of gathered matrices.

    dW[t, c, o] = Σ_n Σ_q X̃[n, q s + t d, c] dY[n, q, o]                                        (1)

The terms are the positions (n, q), the rows taps and channels (t, c). The positions go by *blocks*:
some rows of Y, or parts of long ones. Of a block, dY is packed to panels, and the rows of X̃ for
some tiles are gathered, position by position, with the zeros of padding between. Both stay in level
2. Rows that lie side by side in X (the channels of a pixel, and without dilation the pixels of a
row of taps) are gathered as one.

The sum goes on from block to block through dW itself. Threads share the tiles of dW, and each goes
through all positions: the sum of an element has one order, whatever the threads.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Arguments, Task, address, call, int64
from ..engine.matmul import SERIAL, grid, machine_of, pack_panel
from ..engine.memory import LEVEL_2, LINE
from ..engine.tile import panel_vectors
from ..windows import Ints
from .bound import WORK, Part
from .direct import equal, zeros_of

NDArray = npt.NDArray[Any]

WIDEST: Final = 3
"""The most vectors of a panel, if one of matmul.py has no more: what is gathered is read once for
each panel, so that few are better."""
POSITIONS: Final = 256
"""The most positions of a block."""
GATHERED: Final = LEVEL_2 // 4
"""About how many bytes of X̃ are gathered at a time."""
RESIDENT: Final = LEVEL_2 * 3 // 4
"""Bytes of dY that a thread keeps in level 2."""


@jit.kernel
def _gather(
    windows: Task, x: int, zeros: int, group: int, r0: int, r1: int,
    line0: int, line1: int, a: int, b: int, into: int,
) -> None:  # fmt: skip
    """Gather the rows r0 ... r1 of X̃, for columns a ... b of some lines of Y: (positions, ldt)."""
    (
        size, lane, copy, ldt, n, out_d, out_h, deep, high, wide, c, taps_h, taps_w,
        s_d, s_h, s_w, d_d, d_h, d_w, b_d, b_h, b_w, rows, run,
    ) = windows  # fmt: skip
    positions, step, length = b - a, s_w * c, wide * c
    r = r0
    while r < r1:  # piece by piece of what lies side by side in X
        piece, e = r // run, r % run
        count = min(run - e, r1 - r)
        k_w = piece % taps_w
        k_h, k_d = piece // taps_w % taps_h, piece // taps_w // taps_h
        base = (a * s_w + k_w * d_w - b_w) * c + group * rows + e
        low = min(max(-(base // step), 0), positions)
        top = min(max((length - count - base) // step + 1, low), positions)
        vectors = (count + lane - 1) // lane
        last = count - (vectors - 1) * lane
        target = into + (r - r0) * size
        # Whole vectors, where they fit in, are faster; what they spoil is gathered next.
        roomy = r - r0 + vectors * lane <= ldt
        filled = lane if roomy else last
        q_h, q_d, sample = line0 % out_h, line0 // out_h % out_d, line0 // out_h // out_d
        for _ in range(line0, line1):
            z, y = q_d * s_d + k_d * d_d - b_d, q_h * s_h + k_h * d_h - b_h
            if z < 0 or z >= deep or y < 0 or y >= high:
                call(copy, (zeros, 0, positions, vectors, filled, target, ldt))
            else:
                at_line = ((sample * deep + z) * high + y) * length
                line = x + at_line * size
                if low > 0:
                    call(copy, (zeros, 0, low, vectors, filled, target, ldt))
                if top > low:
                    end = at_line + base + (top - 1) * step + vectors * lane
                    whole = last
                    if roomy and end <= n * deep * high * length:
                        whole = lane
                    call(copy, (
                        line + (base + low * step) * size, step, top - low, vectors, whole,
                        target + low * ldt * size, ldt,
                    ))  # fmt: skip
                if top < positions:
                    call(copy, (
                        zeros, 0, positions - top, vectors, filled, target + top * ldt * size, ldt
                    ))  # fmt: skip
                for q in range(positions):  # windows that lie in part on the line
                    if low <= q < top:
                        continue
                    place = base + q * step
                    e0, e1 = max(0, -place), min(count, length - place)
                    if e0 < e1:
                        many = (e1 - e0 + lane - 1) // lane
                        call(copy, (
                            line + (place + e0) * size, 0, 1, many, e1 - e0 - (many - 1) * lane,
                            target + (q * ldt + e0) * size, 0,
                        ))  # fmt: skip
            target += positions * ldt * size
            q_h += 1
            if q_h == out_h:
                q_h, q_d = 0, q_d + 1
                if q_d == out_d:
                    q_d, sample = 0, sample + 1
        r += count


@jit.kernel
def _pack_panels(
    matrix: Task, edges: NDArray, p0: int, p1: int, positions: int, dy: int, zeros: int, into: int
) -> None:
    """Pack the panels p0 ... p1 of a group's outputs, for some positions of dY."""
    size, lane, _, copy, _, _, _, outputs, total = matrix
    one = int64(1)  # not a literal: `pack_panel` is compiled once
    for p in range(p0, p1):
        vectors = edges[p + 1] - edges[p]
        last = min(lane, outputs - (edges[p + 1] - 1) * lane)
        pack_panel(
            positions, (vectors - 1) * lane + last, size, lane, copy, copy, zeros,
            dy + edges[p] * lane * size, total, one,
            into + (edges[p] - edges[p0]) * lane * positions * size, vectors * lane,
        )  # fmt: skip


@jit.kernel
def _rows_of_dw(
    matrix: Task, i0: int, i1: int, vectors: int, last: int, positions: int, gathered: int,
    panel: int, start: int, dw: int, zeros: int, origin: int, below: int, following: int, nth: int,
) -> None:  # fmt: skip
    """Compute the tiles i0 ... i1 of a panel's columns of dW, one below the other.

    They ask for what is far away: dW `below`, or a line from the nth on of the positions of dY that
    are `following`, if there are some. Sums go on from what dW holds if `start` is 0.
    """
    size, lane, tile, _, tiles, ldt, all_rows, _, total = matrix
    line, r0 = LINE // size, all_rows * i0 // tiles
    for i in range(i0, i1):
        m = all_rows * i // tiles
        h = all_rows * (i + 1) // tiles - m
        into = dw + m * total * size
        begin, lds = into, total
        if start != 0:
            begin, lds = start, 0
        ahead, step = zeros, 0
        if below and i + 1 < i1:
            ahead, step = into + h * total * size, (h * total + positions - 1) // positions
        elif following != 0 and (nth + i - i0) * line < total:
            ahead, step = following + (nth + i - i0) * line * positions * size, line
        call(tile, (
            h, vectors, gathered + (m - r0) * size, origin, 1, ldt, panel, origin, vectors * lane,
            1, positions, begin, lds, into, total, last, 0, ahead, step,
        ))  # fmt: skip


@jit.kernel
def _tiles(g: int, shape: Task, matrix: Task, windows: Task, edges: NDArray, at: Task) -> None:
    """Compute part g of the tiles of dW."""
    parts, cols, stack, block, chunks, span, held, lines, out_w, groups = shape
    size, lane, _, _, tiles, ldt, all_rows, outputs, total = matrix
    x, dy, dw, zeros, origin, scratch, fresh = at
    u0, u1 = groups * tiles * (g // cols) // parts, groups * tiles * (g // cols + 1) // parts
    c0 = (len(edges) - 1) * (g % cols) // cols
    c1 = (len(edges) - 1) * (g % cols + 1) // cols
    gathered = scratch + g * held * size
    packed = gathered + block * ((out_w + chunks - 1) // chunks) * ldt * size
    for p0 in range(c0, c1, span):
        p1 = min(c1, p0 + span)
        all_panels = groups == 1 and p1 - p0 + 1 == len(edges)
        for line0 in range(0, lines, block):
            line1 = min(line0 + block, lines)
            for chunk in range(chunks):
                a, b = out_w * chunk // chunks, out_w * (chunk + 1) // chunks
                positions, end = (line1 - line0) * (b - a), (line1 - 1) * out_w + b
                start = zeros
                if fresh == 0 or line0 > 0 or chunk > 0:
                    start = 0
                of_group, u = -1, u0
                while u < u1:
                    group, i0 = u // tiles, u % tiles
                    i1 = min(i0 + stack, tiles, i0 + u1 - u)
                    u += i1 - i0
                    j = group * outputs
                    if group != of_group:
                        of_group = group
                        first = dy + ((line0 * out_w + a) * total + j) * size
                        _pack_panels(matrix, edges, p0, p1, positions, first, zeros, packed)
                    r0, r1 = all_rows * i0 // tiles, all_rows * i1 // tiles
                    _gather(windows, x, zeros, group, r0, r1, line0, line1, a, b, gathered)
                    for p in range(p0, p1):
                        last = min(lane, outputs - (edges[p + 1] - 1) * lane)
                        following = dy + end * total * size
                        if p == p0 or u < u1 or end >= lines * out_w:
                            following = 0
                        _rows_of_dw(
                            matrix, i0, i1, edges[p + 1] - edges[p], last, positions, gathered,
                            packed + (edges[p] - edges[p0]) * lane * positions * size, start,
                            dw + (j + edges[p] * lane) * size, zeros, origin,
                            all_panels and p == p0, following, (p - p0 - 1) * (i1 - i0),
                        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Product:
    """The plan of (1); nothing in it changes."""

    fixed: Arguments
    parts: int
    scratch: int
    zeros: NDArray


def product(
    x: Ints, dy: Ints, dw: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
) -> Product:  # fmt: skip
    """Plan dW.

    Parameters
    ----------
    x, dy, dw : tuple of int
        Shapes: N, D, H, W, C; N, QD, QH, QW, O; KD, KH, KW, C / groups, O.
    groups : int
    stride, dilation, before : tuple of three int
        `before` is what pads x with zeros at the start of each axis.
    dtype : dtype
    threads : int
        How many there are for large work.
    """
    machine = machine_of(dtype)
    size, lane, heights = machine.size, machine.lane, machine.heights
    kd, kh, kw, rows, total = dw
    outputs, all_rows, wide = total // groups, kd * kh * kw * rows, dy[3]
    run, taps_w = rows, kw
    if groups == 1 and dilation[2] == 1:
        run, taps_w = kw * rows, 1
    chunks = -(-wide // POSITIONS)
    lines = math.prod(dy[:3])
    block = -(-lines // -(-lines // max(1, POSITIONS // wide)))  # of equal size
    positions = block * -(-wide // chunks)
    edges = equal(-(-outputs // lane), max(WIDEST, panel_vectors()))
    widest = edges[1]
    height = int(heights[widest])
    tiles = -(-all_rows // height)
    stack = min(max(1, GATHERED // (positions * height * size)), tiles)
    ldt = -(-stack * height // lane) * lane + lane
    span = max(1, RESIDENT // (positions * widest * lane * size))
    threads = threads if math.prod(dy) * all_rows > SERIAL else 1
    # Of equal cuts that by rows: nothing is gathered twice.
    cols, parts = grid(len(edges) - 1, groups * tiles, threads)
    held = positions * (ldt + min(span, len(edges) - 1) * widest * lane)
    shape = parts, cols, stack, block, chunks, span, held, lines, wide, groups
    matrix = size, lane, *machine.codes[:2], tiles, ldt, all_rows, outputs, total
    windows = (
        size, lane, machine.codes[1], ldt, x[0], *dy[1:3], *x[1:], kh, taps_w, *stride, *dilation,
        *before, rows, run,
    )  # fmt: skip
    fixed = Arguments(shape, matrix, windows, np.array(edges))
    return Product(
        fixed, parts * cols, parts * cols * held, zeros_of(max(ldt, widest * lane), dtype)
    )


def part(plan: Product, x: int, dy: int, dw: int, add: bool) -> Part:
    """Return what writes dW, as planned, or adds it to what dw holds.

    Each number is which of the arrays that come later it is.
    """
    at = (
        pool.late_data(x), pool.late_data(dy), pool.late_data(dw), address(plan.zeros),
        machine_of(plan.zeros.dtype).origin_at, pool.late_data(WORK), int(not add),
    )  # fmt: skip
    return Part([pool.ready(_tiles, plan.parts, plan.fixed, at)], plan, plan.scratch)
