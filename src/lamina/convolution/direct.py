"""The direct correlation that a convolution's y and dx come to, on the engine's tile.

    Y[n, q, o] = start[o] + Σ_t Σ_c X̃[n, q s + t d, c] B[t, c, o]                               (1)

q runs over the positions of the result and t over the taps, each on three axes: depth, rows and
columns. X̃ is what windows meet: a *map* of each axis says which position of X stands at a position
of X̃, or -1 for zero. Y is written with strides of its own, so that the phases of dx interleave.

Nothing is laid out for the product as a whole (no im2col). In a channels-last image the values that
one row of taps meets lie side by side, so each row of taps is one segment of the tile. Rows of X̃
that are zero are passed over. Columns go by *strips*: where the map of a strip is a run of X, X is
read in place; else the rows that some rows of Y meet are first copied, padded, to a scratch block
of the thread, in its level-2 cache.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from ..engine import jit
from ..engine.jit import Task, address, call
from ..engine.matmul import SERIAL, grid, plan_of
from ..engine.memory import empty
from ..engine.threads import count as count_threads
from ..engine.tile import lanewise

NDArray = npt.NDArray[Any]

SCRATCH: Final = 192 * 1024
"""Bytes of a thread's scratch block, as long as a row of windows needs no more."""
BLOCK: Final = 16
"""The most rows of Y that are computed together, so that a panel of B is used by all of them."""


@jit.kernel
def _pack(g: int, task: Task, taps: NDArray) -> None:
    """Pack part g of B: units of a group, panel and tap, each (rows, columns of the panel)."""
    (
        parts, size, lane, widest, copy, transpose, weight, rows, columns, w_tap, w_group, w_line,
        transposed, panels, groups, vectors,
    ) = task  # fmt: skip
    count = (vectors + widest - 1) // widest
    ldb = widest * lane
    units = groups * count * taps.size
    for u in range(units * g // parts, units * (g + 1) // parts):
        t, p, group = u % taps.size, u // taps.size % count, u // taps.size // count
        p0, p1 = vectors * p // count, vectors * (p + 1) // count
        into = panels + ((group * count + p) * taps.size + t) * rows * ldb * size
        source = weight + (taps[t] * w_tap + group * w_group) * size
        if transposed:
            width = min(columns, p1 * lane) - p0 * lane
            call(transpose, (source + p0 * lane * w_line * size, w_line, rows, width, into, ldb))
        else:
            last = min(lane, columns - (p1 - 1) * lane)
            call(copy, (source + p0 * lane * size, w_line, rows, p1 - p0, last, into, ldb))


@jit.parallel
def _packs(count: int, task: Task, taps: NDArray) -> None:
    for g in numba.prange(count):
        _pack(numba.int64(g), task, taps)


@jit.kernel
def _rows(
    g: int, task: Task, heights: NDArray, map_d: NDArray, map_h: NDArray,
    strips: NDArray, runs: NDArray, segments: NDArray,
) -> None:  # fmt: skip
    """Compute part g of Y: some rows of some strips, some panels."""
    (
        parts, cols, size, lane, widest, tile, copy, block, n, high, wide, c, reach,
        x, a_col, shift, pitch, scratch, scratch_size, zeros, origin, segments_at,
        out_d, out_h, taps_d, taps_h, taps_w, s_d, s_h, s_w, d_d, d_h, d_w, length,
        b, b_panel, b_group, b_vector, ldb,
        y, y_n, y_d, y_h, y_w, groups, outputs, vectors, start, start_col, relu,
    ) = task  # fmt: skip
    count = (vectors + widest - 1) // widest
    c0, c1 = count * (g % cols) // cols, count * (g % cols + 1) // cols
    units = n * out_d * len(strips) * out_h
    u = units * (g // cols) // parts
    u1 = units * (g // cols + 1) // parts
    mine = scratch + g * scratch_size * size
    most = segments.shape[2]
    lists = segments_at + g * block * 2 * most * 8
    while u < u1:
        h0 = u % out_h
        h1 = min(out_h, h0 + block, h0 + u1 - u)
        strip = u // out_h % len(strips)
        q_d, sample = u // out_h // len(strips) % out_d, u // out_h // len(strips) // out_d
        u += h1 - h0
        w0, w1, first, run0, run1 = strips[strip]
        image = x + sample * reach * size
        base = image + first * c * size
        deep = (h1 - h0 - 1) * s_h + (taps_h - 1) * d_h + 1  # rows of X̃ that the block meets
        if first < 0:
            base = mine
            for t in range(taps_d):
                z = map_d[q_d * s_d + t * d_d]
                for r in range(deep):
                    line = map_h[h0 * s_h + r]
                    if z < 0 or line < 0:
                        continue
                    source = image + (z * high + line) * wide * c * size
                    into = mine + (t * deep + r) * pitch * size
                    for i in range(run0, run1):
                        at = source + runs[i, 1] * c * size
                        if runs[i, 1] < 0:
                            at = zeros
                        terms = runs[i, 2] * c
                        whole = (terms + lane - 1) // lane
                        last = terms - (whole - 1) * lane
                        call(copy, (at, 0, 1, whole, last, into + runs[i, 0] * c * size, 0))
        # The segments of each row: rows of taps that meet X, or single taps where these lie apart.
        for q in range(h0, h1):
            s = 0
            for t in range(taps_d):
                z = map_d[q_d * s_d + t * d_d]
                for r in range(taps_h):
                    line = map_h[q * s_h + r * d_h]
                    if z < 0 or line < 0:
                        continue
                    at = (z * high + line) * wide * c
                    if first < 0:
                        at = (t * deep + (q - h0) * s_h + r * d_h) * pitch
                    for k in range(taps_w):
                        segments[g, 2 * (q - h0), s] = at + k * d_w * c
                        segments[g, 2 * (q - h0) + 1, s] = (
                            ((t * taps_h + r) * taps_w + k) * length * ldb
                        )
                        s += 1
            segments[g, 2 * (q - h0), most - 1] = s
        for group in range(groups):
            for p in range(c0, c1):
                p0, p1 = vectors * p // count, vectors * (p + 1) // count
                last = min(lane, outputs - (p1 - 1) * lane)
                j = group * outputs + p0 * lane
                for q in range(h0, h1):
                    panel = b + (group * b_group + p * b_panel + p0 * b_vector) * size
                    many = segments[g, 2 * (q - h0), most - 1]
                    list_a = lists + 2 * (q - h0) * most * 8
                    list_b, terms, across, line_b = list_a + most * 8, length, s_w * c, ldb
                    nothing = many == 0  # but padding: one term, zero times zero
                    if nothing:
                        list_a, list_b, panel = origin, origin, zeros
                        many, terms, across, line_b = 1, 1, 0, 0
                    height = heights[p1 - p0]
                    tiles = (w1 - w0 + height - 1) // height
                    row = y + (sample * y_n + q_d * y_d + q * y_h + j) * size
                    for i in range(tiles):
                        w = w0 + (w1 - w0) * i // tiles
                        h = w0 + (w1 - w0) * (i + 1) // tiles - w
                        part = base + ((w - w0) * s_w * c + group * length + p0 * shift) * size
                        if nothing:
                            part = zeros
                        call(tile, (
                            h, p1 - p0, part, list_a, across, a_col, panel, list_b, line_b,
                            many, terms, start + j * start_col * size, 0,
                            row + w * y_w * size, y_w, last, relu, part + h * across * size, h,
                        ))  # fmt: skip


@jit.parallel
def _rows_of_all(
    count: int, task: Task, heights: NDArray, map_d: NDArray, map_h: NDArray,
    strips: NDArray, runs: NDArray, segments: NDArray,
) -> None:  # fmt: skip
    for g in numba.prange(count):
        _rows(numba.int64(g), task, heights, map_d, map_h, strips, runs, segments)


def _strips(
    columns: NDArray, count: int, stride: int, reach: int, most: int
) -> tuple[NDArray, NDArray]:
    """Cut `count` columns of Y to strips; say for each whether X is read in place.

    Parameters
    ----------
    columns : array
        The map of the columns of X̃.
    count, stride, reach : int
        Windows, their stride, and the columns that one reaches over.
    most : int
        The most columns of X̃ for a strip that is copied.

    Returns
    -------
    strips : array, shape (S, 5)
        From and to which column of Y; the first column of X, or -1 for a strip that is copied; from
        and to which of its runs.
    runs : array, shape (R, 3)
        Place in the strip, first column of X or -1 for zeros, number of columns.
    """
    if (np.diff(columns) == 1).all() and columns[0] >= 0:
        return np.array([[0, count, columns[0], 0, 0]]), np.zeros((1, 3), np.int64)
    width = max((most - reach) // stride + 1, min(count, 28))
    parts = -(-count // width)
    strips: list[tuple[int, ...]] = []
    runs: list[tuple[int, ...]] = []
    for i in range(parts):
        w0, w1 = count * i // parts, count * (i + 1) // parts
        part = columns[w0 * stride : (w1 - 1) * stride + reach]
        zero = part < 0
        jumps = (zero[1:] != zero[:-1]) | (~zero[1:] & (np.diff(part) != 1))
        cuts = [0, *(np.flatnonzero(jumps) + 1), len(part)]
        first = int(part[0]) if len(cuts) == 2 and part[0] >= 0 else -1
        new = [(a, max(part[a], -1), b - a) for a, b in itertools.pairwise(cuts)]
        strips.append((w0, w1, first, len(runs), len(runs) + len(new)))
        runs += new
    return np.array(strips), np.array(runs)


def _widest(width: int, vectors: int, depth: int, size: int, lane: int, heights: NDArray) -> int:
    """Return how many vectors wide the tiles are to be: of 4 and 2, what takes fewer cycles."""
    if 4 * lane * size * depth > 256 * 1024:  # then 4 read B faster than level 2 gives it
        return 2

    def cycles(v: int) -> float:
        tiles = -(-width // int(heights[v]))
        tall = width / tiles
        return -(-vectors // v) * tiles * max(tall * v / 2, (tall + v) / 2, 4.0)

    return min((4, 2), key=cycles)


@dataclass(frozen=True)
class Taps:
    """The taps of one axis, and what they meet.

    Attributes
    ----------
    chosen : tuple of int
        Which of the kernel's elements they are, in the order of the sum.
    dilation, stride, count : int
        How far taps lie apart in X̃, and windows; the number of windows.
    map : array, shape ((count - 1) stride + (taps - 1) dilation + 1,)
        The position of X at each of X̃, or -1 for zero.
    """

    chosen: tuple[int, ...]
    dilation: int
    stride: int
    count: int
    map: NDArray

    @property
    def reach(self) -> int:
        """The positions of X̃ from the first tap to the last."""
        return (len(self.chosen) - 1) * self.dilation + 1


def correlate(
    x: NDArray, weight: NDArray, groups: int, transposed: bool, axes: list[Taps],
    y: NDArray, y_first: int, y_strides: tuple[int, int, int], bias: NDArray | None, relu: bool,
) -> None:  # fmt: skip
    """Write the correlation (1) of x into y.

    Parameters
    ----------
    x : array, shape (N, D, H, W, C)
    weight : array, shape (KD, KH, KW, C / groups, O); transposed: (KD, KH, KW, O / groups, C)
    groups : int
        1, a divisor of C, or C itself with as many outputs: then the tiles are lanewise.
    transposed : bool
        Whether the sum goes over the last axis of weight instead of the one before.
    axes : list of Taps
        For depth, rows and columns.
    y : array
        C-contiguous; N samples of equal size.
    y_first : int
        The element of a sample of y with which the result begins.
    y_strides : tuple of int
        How many elements of y apart results are along depth, rows and columns.
    bias : array, optional
    relu : bool
    """
    plan = plan_of(x.dtype)
    size, lane, heights = plan.size, plan.lane, plan.heights
    tile, copy, transpose = plan.codes
    deep, rows, columns = axes
    n, _, high, wide, c = x.shape
    kernel, (rows_w, last_w) = weight.shape[:3], weight.shape[3:]
    depthwise = groups == c == last_w and rows_w == 1
    if depthwise:
        tile, groups, transposed = lanewise(x.dtype), 1, False
    terms, outputs, w_line, w_group = rows_w, last_w // groups, last_w, last_w // groups
    if transposed:
        terms, outputs = outputs, rows_w
    vectors = -(-outputs // lane)
    chosen = np.array(
        [
            (i * kernel[1] + j) * kernel[2] + k
            for i in deep.chosen for j in rows.chosen for k in columns.chosen
        ]
    )  # fmt: skip
    widest = _widest(columns.count, vectors, len(chosen) * terms, size, lane, heights)
    count = -(-vectors // widest)
    work = n * deep.count * rows.count * columns.count * outputs * groups * len(chosen) * terms
    threads = count_threads() if work > SERIAL else 1

    # B
    pixels = n * deep.count * rows.count * columns.count
    in_order = chosen[0] == 0 and (np.diff(chosen) == 1).all()
    packed = transposed or groups > 1 or not in_order or (count > 1 and pixels > 64)
    if packed:
        ldb = widest * lane
        panels = empty(groups * count * len(chosen) * terms * ldb, x.dtype)
        task = (
            threads, size, lane, widest, copy, transpose, address(weight), terms, outputs,
            rows_w * last_w, w_group, w_line, int(transposed), address(panels), groups, vectors,
        )  # fmt: skip
        jit.launch(_pack, _packs, threads, task, chosen)
        b, b_panel = panels, len(chosen) * terms * ldb
        b_group, b_vector = count * b_panel, 0
    else:
        b, ldb, b_panel, b_group, b_vector = weight, last_w, 0, 0, lane

    # X
    merged = groups == 1 and (columns.dilation == 1 or depthwise)
    taps_w, length = (1, len(columns.chosen) * terms) if merged else (len(columns.chosen), terms)
    a_col, shift = (columns.dilation * c, lane) if depthwise else (1, 0)
    planes = len(deep.chosen)
    per_column = planes * rows.reach * c * size
    strips, runs = _strips(
        columns.map, columns.count, columns.stride, columns.reach, SCRATCH // per_column
    )
    padded = (strips[:, 2] < 0).any()
    pitch, block, scratch_size, longest = 0, BLOCK, 0, 8 * lane
    if padded:
        longest = max(longest, int(runs[:, 2].max()) * c)
        widths = strips[:, 1] - strips[:, 0]
        pitch = int((widths.max() - 1) * columns.stride + columns.reach) * c
        fit = SCRATCH // (planes * pitch * size)
        block = max(1, min(BLOCK, (fit - rows.reach) // rows.stride + 1))
        scratch_size = planes * ((block - 1) * rows.stride + rows.reach) * pitch
    units = n * deep.count * len(strips) * rows.count
    parts, cols = grid(units, count, threads)
    scratch = empty(parts * cols * scratch_size, x.dtype)
    zeros = np.zeros(longest, x.dtype)
    most = planes * len(rows.chosen) * taps_w + 1
    segments = np.empty((parts * cols, 2 * block, most), np.int64)
    start, start_col = (zeros, 0) if bias is None else (bias, 1)
    all_rows = (
        parts, cols, size, lane, widest, tile, copy, block, n, high, wide, c, x[0].size,
        address(x), a_col, shift, pitch, address(scratch), scratch_size, address(zeros),
        plan.origin_at, address(segments), deep.count, rows.count, planes, len(rows.chosen), taps_w,
        deep.stride, rows.stride, columns.stride, deep.dilation, rows.dilation, columns.dilation,
        length, address(b), b_panel, b_group, b_vector, ldb,
        address(y) + y_first * size, y[0].size, *y_strides, groups, outputs, vectors,
        address(start), start_col, int(relu),
    )  # fmt: skip
    arrays = heights, deep.map, rows.map, strips, runs, segments
    jit.launch(_rows, _rows_of_all, parts * cols, all_rows, *arrays)
