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

B goes by *panels*, as wide as a tile, and X by the rows of a tile. What a tile reads of X stays in
level 1 while the panels pass, as many of them as level 2 holds. Where a panel alone is too large
for it, or the rows of X̃ that a row of Y meets, the rows of taps go by *pieces*, and the sum goes on
from piece to piece through Y itself.

What depends on shapes alone is a *plan*, made once: a `Correlation`.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Arguments, Late, Task, address, call, data, int64
from ..engine.matmul import SERIAL, SERIAL_PLANNED, grid, machine_of, pack_panel
from ..engine.memory import ALIGNMENT, LEVEL_2, LEVEL_3, lasting
from ..windows import Ints
from .bound import LISTS, PANELS, WORK, Part

NDArray = npt.NDArray[Any]

PLANS: Final = 64
"""How many plans of a kind are kept, those used last."""
SCRATCH: Final = 128 * 1024
"""Bytes of a thread's scratch block, as long as one row of taps needs no more;"""
WIDER: Final = LEVEL_2 // 2
"""so many beside a B that level 2 does not hold: larger blocks read it less often."""
RESIDENT: Final = 256 * 1024
"""Bytes of B that a thread keeps in level 2 while rows of X pass."""
SHARED: Final = LEVEL_3 // 8
"""Bytes of B that all threads may read at the same time: level 3 gives each what it needs."""
EVEN: Final = 1.1
"""How far the largest of equal shares of rows may be above the mean."""
PACKED: Final = LEVEL_3 // 4
"""Bytes of B that are packed at a time: they are used before they leave the caches."""
KEPT: Final = 2**22
"""Bytes of a B packed beforehand that level 3 keeps; a larger one is used by parts, too."""
BLOCK: Final = 16
"""The most rows of Y that are computed together."""
NEAR: Final = 8 * 1024
"""Bytes of X that stay in level 1 while panels pass."""
IN_PLACE: Final = 16 * 1024
"""Bytes of a B that is read in place: level 1 holds it however it lies."""
NARROW: Final = 28
"""A strip has so many columns of Y at the least, if there are as many."""
WIDE: Final = 128
"""No strip is cut to fewer columns only for there to be work for all threads."""
FEW: Final = 16
"""So few positions do not pay for packing B."""
MANY: Final = 840
"""For so many columns panels are as wide as is fastest, of a B packed for any number."""
ZEROS: Final = 4096
"""Elements of padding that are copied at a time, if a column has no more."""
APART: Final = 1024
"""Elements between the memories of two threads: neither asks for lines that the other writes."""
LARGEST: Final = 2**21
"""Bytes of a thread's scratch block, as long as one row of one tap needs no more."""


@jit.kernel
def _pack(g: int, shape: Task, taps: NDArray, edges: NDArray, at: Task) -> None:
    """Pack part g of B: units of a group, panel and tap, each (rows, columns of the panel)."""
    (
        parts, size, lane, ldb, copy, transpose, rows, columns, w_tap, w_group, w_line,
        transposed, groups,
    ) = shape  # fmt: skip
    weight, panels, first, end, zeros = at
    count, one = end - first, int64(1)  # not a literal: `pack_panel` is compiled once
    units = groups * count * taps.size
    for u in range(units * g // parts, units * (g + 1) // parts):
        t, p, group = u % taps.size, u // taps.size % count, u // taps.size // count
        p0, p1 = edges[first + p], edges[first + p + 1]
        into = panels + ((group * count + p) * taps.size + t) * rows * ldb * size
        source = weight + (taps[t] * w_tap + group * w_group) * size
        row, col = (one, w_line) if transposed else (w_line, one)
        pack_panel(
            rows, min(columns, p1 * lane) - p0 * lane, size, lane, copy, transpose, zeros,
            source + p0 * lane * col * size, row, col, into, ldb,
        )  # fmt: skip


@jit.kernel
def _copy_rows(
    windows: Task, map_d: NDArray, map_h: NDArray, runs: NDArray, run0: int, run1: int,
    image: int, zeros: int, q_d: int, h0: int, slot0: int, slot1: int, deep: int, clean: int,
    into: int,
) -> None:  # fmt: skip
    """Copy some rows of X̃, which lie `deep` a plane, by the runs of a strip of columns.

    The first `clean` places have the zeros of its padding already.
    """
    size, lane, copy, high, wide, c, pitch, every, _, _, s_d, s_h, d_d, _, _, _ = windows
    for slot in range(slot0, slot1):
        z = map_d[q_d * s_d + slot // deep * d_d]
        line = map_h[h0 * s_h + slot % deep * every]
        source = image + (z * high + line) * wide * c * size
        target = into + (slot - slot0) * pitch * size
        for i in range(run0, run1):
            from_run = source + runs[i, 1] * c * size
            if runs[i, 1] < 0:
                if slot - slot0 < clean:
                    continue
                from_run = zeros
            elif z < 0 or line < 0:
                continue
            terms = runs[i, 2] * c
            vectors = (terms + lane - 1) // lane
            last = terms - (vectors - 1) * lane
            call(copy, (from_run, 0, 1, vectors, last, target + runs[i, 0] * c * size, 0))


@jit.kernel
def _list_segments(
    windows: Task, map_d: NDArray, map_h: NDArray, q_d: int, q: int, h0: int, tap0: int, tap1: int,
    slot0: int, deep: int, apart: int, of_a: NDArray, of_b: NDArray,
) -> int:  # fmt: skip
    """List the segments of row q of Y, which are so far apart in B; return how many they are.

    They are the rows of taps that meet X, or single taps where these lie apart. Those of A lie in X
    if slot0 is below 0, else in the rows that were copied for the rows of Y from h0 on.
    """
    _, _, _, high, wide, c, pitch, _, taps_h, taps_w, s_d, s_h, d_d, d_h, d_w, apart_h = windows
    count, t, r = 0, tap0 // taps_h, tap0 % taps_h - 1
    for tap in range(tap0, tap1):
        r += 1
        if r == taps_h:
            t, r = t + 1, 0
        z, line = map_d[q_d * s_d + t * d_d], map_h[q * s_h + r * d_h]
        if z < 0 or line < 0:
            continue
        part = (z * high + line) * wide * c
        if slot0 >= 0:
            part = (t * deep + (q - h0) * s_h + r * apart_h - slot0) * pitch
        for k in range(taps_w):
            of_a[count] = part + k * d_w * c
            of_b[count] = (tap * taps_w + k) * apart
            count += 1
    return count


@jit.kernel
def _row_of_y(
    product: Task, height: int, vectors: int, p0: int, p1: int, edges: NDArray, columns: int,
    x: int, newest: int, list_a: int, list_b: int, count: int, b: int, start: int, start_col: int,
    y: int, relu: int, zeros: int, origin: int,
) -> None:  # fmt: skip
    """Compute some columns of a row of Y, some panels of one width: tiles one beside the other.

    The last of their segments of A, the newest to the caches, lies far away if it is not below 0.
    """
    size, lane, tile, across, length, b_panel, b_vector, ldb, apart, outputs = product
    met = height * across * max(1, count) * size
    stack = height * max(1, NEAR // met)  # tiles that meet no more of X than stays near
    stacks = (columns + stack - 1) // stack
    for i in range(stacks):
        w = columns * i // stacks
        h = columns * (i + 1) // stacks - w
        part, row = x + w * across * size, y + w * apart * size
        ahead, step = part, 0
        if newest >= 0 and i + 1 < stacks:  # what the tiles beside meet first
            ahead += (newest + h * across) * size
            step = (height * across + count * length - 1) // (count * length)
        for p in range(p0, p1):
            j = edges[p] * lane
            last = min(lane, outputs - j - (vectors - 1) * lane)
            into = row + j * size
            begin, lds = into, apart
            if start != 0:
                begin, lds = start + j * start_col * size, 0
            if count == 0:  # but padding: one term, zero times zero
                call(tile, (
                    h, vectors, zeros, origin, 0, 0, zeros, origin, 0, 1, 1,
                    begin, lds, into, apart, last, relu, zeros, 0,
                ))  # fmt: skip
                continue
            panel = b + (p * b_panel + edges[p] * b_vector) * size
            call(tile, (
                h, vectors, part, list_a, across, 1, panel, list_b, ldb, count, length,
                begin, lds, into, apart, last, relu, ahead, step,
            ))  # fmt: skip
            ahead, step = part, 0


@jit.kernel
def _rows(
    g: int, shape: Task, windows: Task, product: Task, heights: NDArray, map_d: NDArray,
    map_h: NDArray, strips: NDArray, runs: NDArray, edges: NDArray, at: Task, segments: NDArray,
) -> None:  # fmt: skip
    """Compute part g of Y: some rows of some strips, some panels."""
    (
        parts, cols, block, piece, span, n, reach, copied, scratch_size, out_d, out_h, taps_d,
        y_first, y_n, y_d, y_h, groups,
    ) = shape  # fmt: skip
    size, _, _, _, _, c, _, every, taps_h, _, _, s_h, _, d_h, _, _ = windows
    _, _, _, _, length, b_panel, _, ldb, apart, outputs = product
    x, y, scratch, zeros, origin, segments_at, b, first, end, start, start_col, relu = at
    x, y = data(x), data(y) + y_first * size
    c0 = first + (end - first) * (g % cols) // cols
    c1 = first + (end - first) * (g % cols + 1) // cols
    units = n * out_d * len(strips) * out_h
    u = units * (g // cols) // parts
    u1 = units * (g // cols + 1) // parts
    mine = scratch + g * scratch_size * size
    most = segments.shape[2]
    lists = segments_at + g * segments.shape[1] * most * 8
    lines = taps_d * taps_h
    bordered, clean = -1, 0  # slots of the scratch block that have the zeros of which strip
    while u < u1:
        h0 = u % out_h
        h1 = min(out_h, h0 + block, h0 + u1 - u)
        strip = u // out_h % len(strips)
        q_d, sample = u // out_h // len(strips) % out_d, u // out_h // len(strips) // out_d
        u += h1 - h0
        w0, w1, column, run0, run1 = strips[strip]
        image = x + sample * reach * size
        base = image + column * c * size
        if column < 0:
            base = mine
            if strip != bordered:
                bordered, clean = strip, 0
        # Rows of X̃ that the block meets in a plane: all, or with every > 1 those of its one row.
        deep = ((h1 - h0 - 1) * s_h + (taps_h - 1) * d_h) // every + 1
        for a0 in range(0, lines, copied):
            a1, slot0 = min(a0 + copied, lines), int64(-1)
            if column < 0:
                slot0, slot1 = a0, a1
                if copied >= lines:
                    slot1 = taps_d * deep
                _copy_rows(
                    windows, map_d, map_h, runs, run0, run1, image, zeros, q_d, h0, slot0, slot1,
                    deep, clean, mine,
                )  # fmt: skip
                clean = max(clean, slot1 - slot0)
            for b0 in range(a0, a1, piece):
                b1 = min(b0 + piece, a1)
                for q in range(h0, h1):
                    i = 2 * (q - h0)
                    segments[g, i, most - 1] = _list_segments(
                        windows, map_d, map_h, q_d, q, h0, b0, b1, slot0, deep, length * ldb,
                        segments[g, i], segments[g, i + 1],
                    )  # fmt: skip
                for group in range(groups):
                    channel = group * outputs
                    begin, floor = start + channel * start_col * size, relu and b1 == lines
                    if b0 > 0:
                        begin = 0
                    panels = b + (group * (end - first) - first) * b_panel * size
                    p0 = c0
                    while p0 < c1:  # panels of one width that level 2 holds
                        vectors = edges[p0 + 1] - edges[p0]
                        p1 = p0 + 1
                        while p1 < min(c1, p0 + span) and edges[p1 + 1] - edges[p1] == vectors:
                            p1 += 1
                        for q in range(h0, h1):
                            i = 2 * (q - h0)
                            count, newest = segments[g, i, most - 1], int64(-1)
                            if column >= 0 and count > 0:
                                newest = segments[g, i, count - 1]
                            row = sample * y_n + q_d * y_d + q * y_h + w0 * apart + channel
                            _row_of_y(
                                product, heights[vectors], vectors, p0, p1, edges, w1 - w0,
                                base + group * length * size, newest, lists + i * most * 8,
                                lists + (i + 1) * most * 8, count, panels, begin, start_col,
                                y + row * size, floor, zeros, origin,
                            )  # fmt: skip
                        p0 = p1


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


def _strips(columns: Taps, c: int, most: int, least: int) -> tuple[NDArray, NDArray]:
    """Cut the columns of Y to strips; say for each whether X is read in place.

    Parameters
    ----------
    columns : Taps
    c : int
        The channels of X.
    most : int
        The most columns of X̃ for a strip that is copied.
    least : int
        How many strips there are to be at the least, where there is work for them.

    Returns
    -------
    strips : array, shape (S, 5)
        From and to which column of Y; the first column of X, or -1 for a strip that is copied; from
        and to which of its runs.
    runs : array, shape (R, 3)
        Place in the strip, first column of X or -1 for zeros, number of columns.
    """
    count, stride, reach = columns.count, columns.stride, columns.reach
    inside = (np.diff(columns.map) == 1).all() and columns.map[0] >= 0
    width = count if inside else max((most - reach) // stride + 1, min(count, NARROW))
    parts = max(-(-count // width), min(least, count // WIDE))
    strips: list[tuple[int, ...]] = []
    runs: list[tuple[int, ...]] = []
    for i in range(parts):
        w0, w1 = count * i // parts, count * (i + 1) // parts
        part = columns.map[w0 * stride : (w1 - 1) * stride + reach]
        zero = part < 0
        jumps = (zero[1:] != zero[:-1]) | (~zero[1:] & (np.diff(part) != 1))
        cuts = [0, *(np.flatnonzero(jumps) + 1), len(part)]
        first = int(part[0]) if len(cuts) == 2 and part[0] >= 0 else -1
        new = [
            (i, -1 if part[i] < 0 else part[i], min(b, i + step) - i)
            for a, b in itertools.pairwise(cuts)
            for step in (max(1, ZEROS // c) if part[a] < 0 else b - a,)
            for i in range(a, b, step)
        ]
        strips.append((w0, w1, first, len(runs), len(runs) + len(new)))
        runs += new
    return np.array(strips), np.array(runs)


def cycles(rows: float, vectors: int, size: int, lane: int) -> float:
    """Return about how many cycles a term of a tile takes.

    Two multiply-adds start in a cycle, each ends four later; two loads take a little more than one;
    level 2 gives some 24 bytes.
    """
    sums, loads = rows * vectors, rows + vectors
    lines = vectors * lane * size / 64
    return max(sums / 2, 0.55 * loads, 4.3, 2.7 * lines) + 0.2 * lines


@lru_cache(4)
def zeros_of(count: int, dtype: np.dtype[Any]) -> NDArray:
    """Return so many zeros, which nobody writes to."""
    return np.zeros(count, dtype)


def equal(vectors: int, widest: int) -> Ints:
    """Return where panels begin and end that are of one width, or some at the end one narrower."""
    count = -(-vectors // widest)
    width, more = divmod(vectors, count)
    return tuple(p * width + min(p, more) for p in range(count + 1))


def edges_of(
    columns: int, outputs: int, terms: int, size: int, lane: int, heights: NDArray
) -> Ints:
    """Return where the panels of B begin and end, in vectors: of all widths the fastest.

    `size` is that of an element of B, 0 where level 1 holds a panel.
    """
    vectors = -(-outputs // lane)

    def total(edges: Ints) -> float:
        found = 0.0
        for first, end in itertools.pairwise(edges):
            width = end - first
            height = int(heights[width])
            tiles = -(-columns // height)
            once = cycles(columns / tiles, width, size, lane)
            found += tiles * (once * terms + 40 + 2 * columns / tiles)
        return found

    return min((equal(vectors, widest) for widest in (4, 3, 2, 1)), key=total)


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights packed once, for inputs of any size; never written to.

    It is what a `Correlation` runs on that was planned with its `edges`; Winograd's have none.
    """

    edges: Ints
    panels: NDArray


@dataclass(frozen=True, eq=False)
class Correlation:
    """A plan of (1): all that follows from shapes, options and dtype. Nothing in it changes.

    winograd.py makes such plans, too, of kernels of its own.
    """

    kernel: Any
    packer: Any
    dtype: np.dtype[Any]
    packed: bool
    packs: Arguments  # what the packer is told,
    pack_parts: int  # in how many parts it is done,
    room: int  # and how many elements behind the panels it works in
    panel: int  # elements of a panel, of all groups
    spans: tuple[tuple[int, int], ...]  # panels that are used together: the first, and the end
    grid: tuple[int, int]
    fixed: Arguments  # what the kernel is told
    scratch: int
    lists: tuple[int, int, int]
    zeros: NDArray

    @property
    def lists_at(self) -> int:
        """Where in its scratch the lists of segments begin: behind the blocks of the threads."""
        return -(-self.scratch * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT

    @property
    def bytes(self) -> int:
        """The bytes of its scratch."""
        return self.lists_at + 8 * math.prod(self.lists)

    def cut(self, scratch: NDArray) -> tuple[NDArray, NDArray]:
        """Return so many bytes as the blocks of the threads and the lists of segments."""
        blocks = scratch[: self.scratch * self.dtype.itemsize].view(self.dtype)
        return blocks, scratch[self.lists_at : self.bytes].view(np.int64).reshape(self.lists)


def correlation(
    x: Ints, weight: Ints, groups: int, transposed: bool, axes: list[Taps],
    y: Ints, y_first: int, y_strides: Ints, dtype: np.dtype[Any], threads: int,
    edges: Ints | None = None,
) -> Correlation:  # fmt: skip
    """Plan the correlation of x.

    Parameters
    ----------
    x : tuple of int
        The shape of X: N, D, H, W, C.
    weight : tuple of int
        That of the weights: KD, KH, KW, C / groups, O; transposed: KD, KH, KW, O / groups, C.
    groups : int
        A divisor of C.
    transposed : bool
        Whether the sum goes over the last axis of weight instead of the one before.
    axes : list of Taps
        For depth, rows and columns.
    y : tuple of int
        The shape of Y's memory: N samples of equal size.
    y_first : int
        The element of a sample of Y with which the result begins.
    y_strides : tuple of int
        How many elements of Y apart results are along depth, rows and columns.
    dtype : dtype
    threads : int
        How many there are for large work.
    edges : tuple of int, optional
        Those of weights packed beforehand.
    """
    machine = machine_of(dtype)
    size, lane, heights = machine.size, machine.lane, machine.heights
    tile, copy, transpose = machine.codes
    deep, rows, columns = axes
    n, _, high, wide, c = x
    kernel, (rows_w, last_w) = weight[:3], weight[3:]
    terms, outputs, w_group = rows_w, last_w // groups, last_w // groups
    if transposed:
        terms, outputs = outputs, rows_w
    vectors = -(-outputs // lane)
    chosen = [
        (i * kernel[1] + j) * kernel[2] + k
        for i in deep.chosen for j in rows.chosen for k in columns.chosen
    ]  # fmt: skip
    depth = len(chosen) * terms
    pixels = n * deep.count * rows.count * columns.count
    alone = SERIAL if edges is None else SERIAL_PLANNED
    threads = threads if pixels * outputs * groups * depth > alone else 1

    # B
    in_order = not transposed and groups == 1 and chosen == list(range(math.prod(kernel)))
    many = vectors > 1 and pixels > FEW and depth * outputs * size > IN_PLACE
    packed = not in_order or many or edges is not None
    given, edges = edges, edges or edges_of(columns.count, outputs, depth, size, lane, heights)
    count, widest = len(edges) - 1, edges[1]
    ldb = widest * lane if packed else last_w
    b_panel, b_vector = (depth * ldb, 0) if packed else (0, lane)
    packing = (
        threads, size, lane, ldb, copy, transpose, terms, outputs, rows_w * last_w, w_group,
        last_w, int(transposed), groups,
    )  # fmt: skip

    # X
    merged = groups == 1 and columns.dilation == 1
    taps_w, length = (1, len(columns.chosen) * terms) if merged else (len(columns.chosen), terms)
    planes, taps_h = len(deep.chosen), len(rows.chosen)
    lines = planes * taps_h
    least = -(-4 * threads // (n * deep.count * rows.count))
    room = SCRATCH if depth * outputs * size <= RESIDENT else WIDER
    strips, runs = _strips(columns, c, room // (lines * c * size), least)
    block, every, copied, scratch, zeros = min(BLOCK, rows.count), 1, lines, 0, machine.zeros
    if (strips[:, 2] < 0).any():
        zeros = zeros_of(max(ZEROS, c), dtype)
        most = (strips[:, 1] - strips[:, 0]).max()
        pitch = int((most - 1) * columns.stride + columns.reach) * c
        fit = room // (planes * pitch * size)
        least = -(-NARROW // columns.count)  # short rows, or each panel would be read for so few
        if planes * ((least - 1) * rows.stride + rows.reach) * pitch * size > LARGEST:
            least = 1
        block = min(block, max(least, (fit - rows.reach) // rows.stride + 1))
        slots = planes * ((block - 1) * rows.stride + rows.reach)
        if block == 1:  # no row is copied that none of its taps meets
            every, copied = rows.dilation, max(1, min(lines, LARGEST // (pitch * size)))
            slots = copied
        scratch = slots * pitch + APART
    pitch = scratch and pitch
    piece = max(1, RESIDENT // (taps_w * length * widest * lane * size))
    span = max(1, RESIDENT // (min(piece, lines) * taps_w * length * widest * lane * size))
    units = n * deep.count * len(strips) * rows.count
    at_once, panel = count, groups * depth * ldb
    read_again = units > block * threads and count * panel * size > KEPT
    if packed and (given is None or read_again):
        at_once = min(count, max(1, PACKED // (panel * size)))
    parts, cols = grid(units, at_once, threads)
    if depth * outputs * size <= RESIDENT and -(-units // threads) * threads <= EVEN * units:
        parts, cols = threads, 1  # each thread finds in its caches what it wrote of X
    elif depth * outputs * size <= max(math.prod(x[1:]) * size, SHARED):
        cols, parts = grid(at_once, units, threads)  # of equal cuts that by rows, as above
    spans = tuple((first, min(first + at_once, count)) for first in range(0, count, at_once))
    longest = min(piece, copied) * taps_w + 1
    lists = parts * cols, 2 * block + -(-APART // longest), longest
    y_d, y_h, y_w = y_strides
    shape = (
        parts, cols, block, piece, span, n, math.prod(x[1:]), copied, scratch, deep.count,
        rows.count, planes, y_first, math.prod(y[1:]), y_d, y_h, groups,
    )  # fmt: skip
    windows = (
        size, lane, copy, high, wide, c, pitch, every, taps_h, taps_w, deep.stride, rows.stride,
        deep.dilation, rows.dilation, columns.dilation, rows.dilation // every,
    )  # fmt: skip
    product = (
        size, lane, tile, columns.stride * c, length, b_panel, b_vector, ldb, y_w, outputs,
    )  # fmt: skip
    cuts = np.array(edges)
    return Correlation(
        _rows, _pack, dtype, packed, Arguments(packing, np.array(chosen), cuts), threads, 0,
        panel, spans,
        (parts, cols),
        Arguments(shape, windows, product, heights, deep.map, rows.map, strips, runs, cuts),
        parts * cols * scratch, lists, zeros,
    )  # fmt: skip


def part(
    plan: Correlation, x: int, weight: int, y: int, bias: int | None = None, relu: bool = False,
    given: bool = False,
) -> Part:  # fmt: skip
    """Return the correlation of x, written into y, as planned.

    Parameters
    ----------
    plan : Correlation
    x, weight, y, bias : int
        Which of the arrays that come later they are, of the shapes that were planned.
    relu : bool
        Whether to write max(0, Y).
    given : bool
        Whether weight is the panels of `Packed`.
    """
    calls = _calls(
        plan, pool.late(x), pool.late_data(weight), pool.late(y),
        None if bias is None else pool.late_data(bias), relu, given,
        pool.late_data(WORK), pool.late_array(LISTS, plan.lists, np.int64),
    )  # fmt: skip
    panels = plan.spans[0][1] * plan.panel + plan.room if plan.packed and not given else 0
    return Part(calls, plan, plan.scratch, math.prod(plan.lists), panels)


def bind(
    plan: Correlation, weight: NDArray | Packed, bias: NDArray | None, relu: bool,
    x: int, y: int, scratch: NDArray,
) -> list[pool.Ready]:  # fmt: skip
    """Return the same with these weights, for what `held` says of x and y.

    It works in `plan.bytes` of scratch. Weights that are not packed beforehand are for a plan that
    reads them as they lie.
    """
    given = isinstance(weight, Packed)
    b = address(weight.panels if isinstance(weight, Packed) else weight)
    start = None if bias is None else address(bias)
    blocks, lists = plan.cut(scratch)
    return _calls(plan, x, b, y, start, relu, given, address(blocks), lists)


def _calls(
    plan: Correlation, x: int, weight: Any, y: int, bias: Any, relu: bool, given: bool,
    blocks: Any, lists: NDArray | Late,
) -> list[pool.Ready]:  # fmt: skip
    """Return the calls of the kernel, one for each of the spans.

    Panels that are not given are packed just before, to one memory, which stays in the caches.
    """
    start, start_col = (address(plan.zeros), 0) if bias is None else (bias, 1)
    lists_at = pool.late_data(LISTS) if isinstance(lists, Late) else address(lists)
    calls = []
    for first, end in plan.spans:
        b = weight
        if given:
            b = weight + first * plan.panel * plan.dtype.itemsize
        elif plan.packed:
            b = pool.late_data(PANELS)
            packing = weight, b, first, end, address(plan.zeros)
            calls.append(pool.ready(plan.packer, plan.pack_parts, plan.packs, packing))
        at = (
            x, y, blocks, address(plan.zeros), machine_of(plan.dtype).origin_at, lists_at, b,
            first, end, start, start_col, int(relu),
        )  # fmt: skip
        calls.append(pool.ready(plan.kernel, math.prod(plan.grid), plan.fixed, at, lists))
    return calls


def pack_panels(plan: Correlation, weight: NDArray, first: int, end: int, into: NDArray) -> None:
    """Pack the panels of B from `first` to `end`."""
    at = address(weight), address(into), first, end, address(plan.zeros)
    pool.launch(plan.packer, plan.pack_parts, plan.packs, at)


def edges_packed(terms: int, outputs: int, dtype: np.dtype[Any]) -> Ints:
    """Return the edges of weights packed for inputs of any size."""
    machine = machine_of(dtype)
    return edges_of(MANY, outputs, terms, machine.size, machine.lane, machine.heights)


def pack(weight: NDArray) -> Packed:
    """Return weights, shape (KD, KH, KW, C, O), packed for inputs of any size."""
    *kernel, c, o = weight.shape
    edges = edges_packed(math.prod(kernel) * c, o, weight.dtype)
    axes = [Taps(tuple(range(k)), 1, 1, 1, np.arange(k)) for k in kernel]
    packing = correlation(
        (1, *kernel, c), weight.shape, 1, False, axes, (1, 1, 1, 1, o), 0, (o, o, o),
        weight.dtype, 1, edges,
    )  # fmt: skip
    count = len(edges) - 1
    panels = lasting(count * packing.panel, weight.dtype)
    pack_panels(packing, weight, 0, count, panels)
    panels.flags.writeable = False
    return Packed(edges, panels)
