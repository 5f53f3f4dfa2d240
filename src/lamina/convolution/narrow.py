"""The gradient of x where a convolution has few channels: the lanes of vectors are terms of a sum.

Position i = a s + p of a row of dX, in the phase p of the stride, meets the taps k for which s
divides p + before - k d, each with the column of dY

    q = a + e,    e = (p + before - k d) / s                                                    (1)

so that with the weights W'[(p, c), e, o] = W[k, c, o] of these, 0 where a phase has no such tap,

    dX[a, (p, c)] = Σ_e Σ_o W'[(p, c), (e, o)] dY[a + e, o]                                     (2)

is a dot product of what lies side by side, for each row of taps that meets dY; a transposed
convolution adds a bias. Rows of dY are copied to *slots* of a scratch block of the thread, zeros
around them, where they stay for the next rows of dX, and for the next planes where there is room.
The phases and channels go by *blocks*, as wide as tiles of such products. Each element of dX is
written once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.dots import chains, dots, tallest
from ..engine.jit import Arguments, Task, address, call
from ..engine.matmul import SERIAL, machine_of
from ..engine.memory import LEVEL_2, LINE
from ..windows import Ints
from .bound import LISTS, PANELS, WORK, Part
from .direct import APART, cycles, zeros_of

NDArray = npt.NDArray[Any]

COLUMNS: Final = 256
"""The most columns of dX, counted in one phase, that are computed together."""
WHOLE: Final = LEVEL_2 // 2
"""Bytes of whole planes of dY that stay in slots, for level 2 to hold them."""
LARGEST: Final = 2**20
"""Where a row of dX meets more bytes of dY, they are not copied."""
HEIGHT: Final = 9
"""Rows of a tile of one vector, which would have channels as lanes."""


@jit.kernel
def _spread(g: int, shape: Task, phases: NDArray, places: NDArray, at: Task) -> None:
    """Write W', and with a bias what sums begin with: for columns of dX that meet nothing, too."""
    size, lane, copy, rows_of_taps, c, o, line, blocks, width, columns, repeats = shape
    weight, wide, zeros, bias, unmet, begin = at
    lines = blocks * width
    call(copy, (zeros, 0, rows_of_taps * lines, line // lane, lane, wide, line))
    vectors = (o + lane - 1) // lane
    last = o - (vectors - 1) * lane
    for t in range(rows_of_taps):
        for k in range(len(phases)):
            source = weight + (t * len(phases) + k) * c * o * size
            target = wide + ((t * lines + phases[k] * c) * line + places[k] * o) * size
            call(copy, (source, o, c, vectors, last, target, line))
    if bias == 0:
        return
    vectors = (c + lane - 1) // lane
    call(copy, (bias, 0, repeats, vectors, c - (vectors - 1) * lane, unmet, c))
    vectors = (width + lane - 1) // lane
    last = width - (vectors - 1) * lane
    for block in range(blocks):
        source, target = unmet + block * width * size, begin + block * columns * width * size
        call(copy, (source, 0, columns, vectors, last, target, width))


@jit.kernel
def _rows(g: int, shape: Task, windows: Task, at: Task, lists: NDArray) -> None:
    """Compute part g of dX: rows, and chunks of their columns."""
    (
        parts, size, lane, tile, copy, chunks, pitch, slot_size, planes, slots, held,
        blocks, width, height, vectors, last, line_w,
    ) = shape  # fmt: skip
    (
        n, deep, high, wide, c, q_deep, q_high, q_wide, o, kd, kh, low,
        s_d, s_h, s_w, d_d, d_h, b_d, b_h,
    ) = windows  # fmt: skip
    dy, weight, dx, zeros, begin, begin_block, unmet, scratch, lists_at = at
    rows, columns = s_w * c, (wide + s_w - 1) // s_w
    units = n * chunks * deep * high
    lines = scratch + g * held * size
    result = lines + planes * slots * slot_size * size
    most = lists.shape[2]
    list_x = lists_at + g * lists.shape[1] * most * 8
    list_w = list_x + most * 8
    for slot in range(planes * slots):  # which row of dY, and chunk, is in each
        lists[g, 2, slot] = -1
    for u in range(units * g // parts, units * (g + 1) // parts):
        y, z = u % high, u // high % deep
        chunk, sample = u // high // deep % chunks, u // high // deep // chunks
        a0, a1 = columns * chunk // chunks, columns * (chunk + 1) // chunks
        # The columns of dY that there are of those that the chunk meets.
        j0 = min(max(0, -(a0 + low)), pitch)
        j1 = max(j0, min(pitch, q_wide - a0 - low))
        s = 0
        for t in range(kd):
            plane = (z + b_d - t * d_d) // s_d
            if plane * s_d != z + b_d - t * d_d or plane < 0 or plane >= q_deep:
                continue
            first_slot = plane % planes * slots
            for k in range(kh):
                row = (y + b_h - k * d_h) // s_h
                if row * s_h != y + b_h - k * d_h or row < 0 or row >= q_high:
                    continue
                slot = first_slot + row % slots
                line = (sample * q_deep + plane) * q_high + row
                before, now = lists[g, 2, slot], line * chunks + chunk
                if before != now:
                    into = lines + slot * slot_size * size
                    if (before < 0 or before % chunks != chunk) and (j0 > 0 or j1 < pitch):
                        call(copy, (zeros, 0, 1, slot_size // lane, lane, into, 0))
                    if j0 < j1:
                        source = dy + (line * q_wide + a0 + low + j0) * o * size
                        whole = ((j1 - j0) * o + lane - 1) // lane
                        left = (j1 - j0) * o - (whole - 1) * lane
                        call(copy, (source, 0, 1, whole, left, into + j0 * o * size, 0))
                    lists[g, 2, slot] = now
                lists[g, 0, s] = slot * slot_size
                lists[g, 1, s] = (t * kh + k) * blocks * width * line_w
                s += 1
        into = dx + (((sample * deep + z) * high + y) * wide + a0 * s_w) * c * size
        count = (min(a1 * s_w, wide) - a0 * s_w) * c  # elements of dX
        if s == 0:
            whole = (count + lane - 1) // lane
            call(copy, (unmet, 0, 1, whole, count - (whole - 1) * lane, into, 0))
            continue
        tiles = (a1 - a0 + height - 1) // height
        for block in range(blocks):
            first, m = block * width, 0
            for i in range(tiles):
                end = (a1 - a0) * (i + 1) // tiles
                call(tile, (
                    end - m, lines + m * o * size, list_x, o,
                    weight + first * line_w * size, list_w, line_w, s, vectors, last,
                    begin + (block * begin_block + m * width) * size,
                    result + m * width * size,
                ))  # fmt: skip
                m = end
            if blocks == 1:
                whole = (count + lane - 1) // lane
                call(copy, (result, 0, 1, whole, count - (whole - 1) * lane, into, 0))
                continue
            # All columns that have the whole of the block, and one that may have a part of it.
            here = min(width, rows - first)
            full = min(a1 - a0, (count - first - here) // rows + 1)
            whole = (here + lane - 1) // lane
            call(copy, (
                result, width, full, whole, here - (whole - 1) * lane, into + first * size, rows
            ))  # fmt: skip
            left = count - full * rows - first
            if left > 0:
                whole = (left + lane - 1) // lane
                call(copy, (
                    result + full * width * size, 0, 1, whole, left - (whole - 1) * lane,
                    into + (full * rows + first) * size, 0,
                ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Narrow:
    """The plan of dX; nothing in it changes."""

    spread: Arguments
    """How `_spread` is told."""
    room: Ints
    """The elements of W', of what columns that meet nothing are with a bias, and of what sums begin
    with then."""
    apart: int
    """How far apart these are for two blocks."""
    parts: int
    fixed: Arguments
    scratch: int
    lists: Ints
    zeros: NDArray


def fits(weight: Ints, stride: Ints, dilation: Ints, before: Ints, dtype: np.dtype[Any]) -> bool:
    """Tell whether channels as lanes are slower.

    Sums have another order here. So neither lengths of x matter to it nor the CPU: it is told of
    one with the widest vectors.
    """
    size = dtype.itemsize
    lane = LINE // size
    *_, kw, c, o = weight
    if c >= lane or {*weight[:3], *stride} == {1}:
        return False
    _, _, _, reach = _meets(kw, stride, dilation, before)
    columns, rows = COLUMNS, stride[2] * c
    across, _ = _best(columns, rows, reach, weight, stride, lane, widest=True)
    along = kw * o * columns / HEIGHT * cycles(HEIGHT, 1, size, lane)
    planes, slots = _held(weight, stride, dilation)
    return planes * slots * (columns + reach) * o * size <= LARGEST and across <= along


def _held(weight: Ints, stride: Ints, dilation: Ints) -> Iterator[int]:
    """Return how many planes and rows of dY have slots: no two that a row of dX meets share one."""
    return ((weight[i] - 1) * dilation[i] // stride[i] + 1 for i in range(2))


def _meets(
    kw: int, stride: Ints, dilation: Ints, before: Ints
) -> tuple[NDArray, NDArray, int, int]:
    """Return p and e of each tap of a row, as of (1), the least e, and how many there are."""
    apart = np.arange(kw) * dilation[2] - before[2]
    phase = apart % stride[2]  # the only one that a tap meets
    e = (phase - apart) // stride[2]
    return phase, e, int(e.min()), int(np.ptp(e)) + 1


def narrow(
    dy: Ints, weight: Ints, dx: Ints, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
) -> Narrow:  # fmt: skip
    """Plan dX.

    Parameters
    ----------
    dy, weight, dx : tuple of int
        Shapes, of some elements: N, QD, QH, QW, O; KD, KH, KW, C, O; N, D, H, W, C.
    stride, dilation, before : tuple of three int
        `before` is what pads x with zeros at the start of each axis.
    dtype : dtype
    threads : int
        How many there are for large work.
    """
    machine, lane = machine_of(dtype), chains(dtype)
    size = machine.size
    (kd, kh, kw, c, o), (high, wide) = weight, dx[2:4]
    rows, columns = stride[2] * c, -(-wide // stride[2])
    phase, e, low, reach = _meets(kw, stride, dilation, before)
    chunks = -(-columns // COLUMNS)
    longest = -(-columns // chunks)
    pitch = longest + reach - 1
    vectors = -(-reach * o // lane)
    # A tile reads whole vectors.
    slot_size = -(-(pitch * o + lane) * size // LINE) * LINE // size
    planes, slots = _held(weight, stride, dilation)
    _, width = _best(longest, rows, reach, weight, stride, lane)
    if kd > 1 and planes * dy[2] * slot_size * size <= WHOLE:
        slots = max(slots, dy[2])
    units = dx[0] * dx[1] * high * chunks
    work = math.prod(dy) * math.prod(weight[:4])
    parts, blocks = min(threads, units) if work > SERIAL else 1, -(-rows // width)
    results = -(-(longest * width + lane) * size // LINE) * LINE // size
    held, most = planes * slots * slot_size + results + APART, max(kd * kh, planes * slots)
    shape = (
        parts, size, machine.lane, dots(width)(dtype), machine.codes[1], chunks, pitch, slot_size,
        planes, slots, held, blocks, width, tallest(width), vectors,
        reach * o - (vectors - 1) * lane, vectors * lane,
    )  # fmt: skip
    windows = (*dx, *dy[1:], kd, kh, low, *stride, *dilation[:2], *before[:2])
    line, begin = vectors * lane, longest + lane
    repeats = -(-max(wide * c, blocks * width) // c)
    spread = (
        size, machine.lane, machine.codes[1], kd * kh, c, o, line, blocks, width, begin, repeats
    )  # fmt: skip
    return Narrow(
        Arguments(spread, phase, e - low),
        (kd * kh * blocks * width * line, repeats * c, blocks * begin * width), begin * width,
        parts, Arguments(shape, windows), parts * held, (parts, 3 + -(-APART // most), most),
        zeros_of(max(slot_size, results, longest * rows), dtype),
    )  # fmt: skip


def _best(
    columns: int, rows: int, reach: int, weight: Ints, stride: Ints, lane: int,
    widest: bool = False,
) -> tuple[float, int]:  # fmt: skip
    """Return about how many cycles a row of dX takes for a row of dY, and the width of blocks.

    Beside multiply-adds sums are joined, and dY is copied, once for all rows that meet it. A vector
    that lies in two lines of the cache is loaded as two.
    """
    kd, kh, *_, o = weight
    met = max(1, kd * kh / stride[0] / stride[1])
    vectors, loads = -(-reach * o // lane), 2 if o % lane else 1
    found = []
    for width in range(1, rows + 1):
        height = tallest(width, widest)
        if not height:  # nor is there for wider ones, of which a large stride has many
            break
        tiles, blocks = -(-columns // height), -(-rows // width)
        sums = columns / tiles * width
        once = max(sums / 2, 0.55 * (loads * columns / tiles + width), 4.3) + 0.5
        found.append((tiles * blocks * (vectors * once + (2 * sums + 30) / met), width))
    across, width = min(found)
    return across + 2 * columns * o / lane / met, width


def part(plan: Narrow, dy: int, weight: int, dx: int, bias: int | None = None) -> Part:
    """Return what writes dx, as planned, with a bias added if there is one.

    Each number is which of the arrays that come later it is.
    """
    late, zeros = pool.late_data, address(plan.zeros)
    wide, size = late(PANELS), plan.zeros.itemsize
    start, apart, unmet, begin = 0, 0, zeros, zeros
    if bias is not None:
        start, apart = late(bias), plan.apart
        unmet = wide + plan.room[0] * size
        begin = unmet + plan.room[1] * size
    spread = late(weight), wide, zeros, start, unmet, begin
    at = (
        late(dy), wide, late(dx), zeros, begin, apart, unmet, late(WORK), late(LISTS),
    )  # fmt: skip
    lists = pool.late_array(LISTS, plan.lists, np.int64)
    calls = [
        pool.ready(_spread, 1, plan.spread, spread),
        pool.ready(_rows, plan.parts, plan.fixed, at, lists),
    ]
    panels = plan.room[0] if bias is None else sum(plan.room)
    return Part(calls, plan, plan.scratch, math.prod(plan.lists), panels)
