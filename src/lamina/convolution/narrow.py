"""The gradient of x where a convolution has few channels: the lanes of vectors are columns of dX.

Position i = a s + p of a row of dX, in the phase p of the stride, meets the taps k for which s
divides p + before - k d, each with the column of dY

    q = a + e,    e = (p + before - k d) / s                                                    (1)

so that with the weights W'[e, o, (p, c)] = W[k, c, o] of these, 0 where a phase has no such tap,

    dX[(p, c), a] = Σ_e Σ_o W'[e, o, (p, c)] dYᵀ[o, a + e]                                      (2)

is a product whose rows are phases and channels, for each row of taps that meets dY; a transposed
convolution begins it with a bias. Rows of dY are transposed to *slots* of a scratch block of the
thread, zeros around them, where they stay for the next rows of dX, and for the next planes where
there is room. The tile's results are transposed back into dX. Each element of dX is written once.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Arguments, Task, address, call
from ..engine.matmul import SERIAL, machine_of
from ..engine.memory import LEVEL_2, workspace
from ..windows import Ints
from .direct import cycles, edges_of, zeros_of

NDArray = npt.NDArray[Any]

COLUMNS: Final = 256
"""The most columns of dX, counted in one phase, that are computed together."""
WHOLE: Final = LEVEL_2 // 2
"""Bytes of whole planes of dY that stay transposed, for level 2 to hold them."""
LARGEST: Final = 2**20
"""Where a row of dX meets more bytes of dY, they are not transposed."""


@jit.kernel
def _transpose(
    size: int, lane: int, code: int, source: int, lds: int, rows: int, columns: int,
    target: int, ldt: int,
) -> None:  # fmt: skip
    """Transpose; blocks of whole vectors overlap rather than leave columns over."""
    whole = columns // lane * lane
    if whole == 0:
        call(code, (source, lds, rows, columns, target, ldt))
        return
    call(code, (source, lds, rows, whole, target, ldt))
    if whole < columns:
        j = columns - lane
        call(code, (source + j * lds * size, lds, rows, lane, target + j * size, ldt))


@jit.kernel
def _rows(
    g: int, shape: Task, windows: Task, heights: NDArray, edges: NDArray, at: Task, lists: NDArray
) -> None:
    """Compute part g of dX: rows, and chunks of their columns."""
    parts, size, lane, tile, copy, transpose, chunks, pitch, out, planes, slots, held = shape
    (
        n, deep, high, wide, c, q_deep, q_high, q_wide, o, kd, kh, reach, low,
        s_d, s_h, s_w, d_d, d_h, b_d, b_h,
    ) = windows  # fmt: skip
    dy, weight, dx, zeros, begin, lds, unmet, scratch, lists_at = at
    rows, columns = s_w * c, (wide + s_w - 1) // s_w
    units = n * chunks * deep * high
    lines = scratch + g * held * size
    result = lines + planes * slots * o * pitch * size
    most = lists.shape[2]
    list_a = lists_at + g * 3 * most * 8
    list_b = list_a + most * 8
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
            q_d = z + b_d - t * d_d
            if q_d < 0 or q_d % s_d or q_d // s_d >= q_deep:
                continue
            for k in range(kh):
                q = y + b_h - k * d_h
                if q < 0 or q % s_h or q // s_h >= q_high:
                    continue
                slot = q_d // s_d % planes * slots + q // s_h % slots
                line = (sample * q_deep + q_d // s_d) * q_high + q // s_h
                before, now = lists[g, 2, slot], line * chunks + chunk
                if before != now:
                    into = lines + slot * o * pitch * size
                    if (before < 0 or before % chunks != chunk) and (j0 > 0 or j1 < pitch):
                        call(copy, (zeros, 0, o, pitch // lane, lane, into, pitch))
                    if j0 < j1:
                        source = dy + (line * q_wide + a0 + low + j0) * o * size
                        _transpose(
                            size, lane, transpose, source, o, o, j1 - j0, into + j0 * size, pitch
                        )
                    lists[g, 2, slot] = now
                for e in range(reach):
                    lists[g, 0, s] = ((t * kh + k) * reach + e) * o * rows
                    lists[g, 1, s] = slot * o * pitch + e
                    s += 1
        into = dx + (((sample * deep + z) * high + y) * wide + a0 * s_w) * c * size
        count = min(a1 * s_w, wide) - a0 * s_w  # columns of dX
        if s == 0:
            whole = (count * c + lane - 1) // lane
            call(copy, (unmet, 0, 1, whole, count * c - (whole - 1) * lane, into, 0))
            continue
        for p in range(len(edges) - 1):
            v = edges[p + 1] - edges[p]
            height = heights[v]
            tiles = (rows + height - 1) // height
            for i in range(tiles):
                m = rows * i // tiles
                h = rows * (i + 1) // tiles - m
                call(tile, (
                    h, v, weight + m * size, list_a, 1, rows,
                    lines + edges[p] * lane * size, list_b, pitch, s, o,
                    begin + m * lds * size, lds,
                    result + (m * out + edges[p] * lane) * size, out, lane, 0, zeros, 0,
                ))  # fmt: skip
        full = count // s_w
        if rows == 1:
            whole = (full + lane - 1) // lane
            call(copy, (result, 0, 1, whole, full - (whole - 1) * lane, into, 0))
            continue
        call(transpose, (result, out, full, rows, into, rows))
        if full * s_w < count:
            left = (count - full * s_w) * c
            call(transpose, (
                result + full * size, out, 1, left, into + full * rows * size, rows
            ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Narrow:
    """The plan of dX; nothing in it changes."""

    spread: tuple[Ints, list[tuple[int, int, int]]]  # the shape of W', and (k, e, p) of its taps
    parts: int
    fixed: Arguments
    scratch: int
    lists: Ints
    zeros: NDArray
    widest: int
    """How many columns a tile has at the most."""


def narrow(
    dy: Ints, weight: Ints, dx: Ints, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
) -> Narrow | None:  # fmt: skip
    """Plan dX; None where channels as lanes are faster.

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
    machine = machine_of(dtype)
    size, lane, heights = machine.size, machine.lane, machine.heights
    (kd, kh, kw, c, o), (high, wide) = weight, dx[2:4]
    if c >= lane:
        return None
    s, rows, columns = stride[2], stride[2] * c, -(-wide // stride[2])
    places = [(k, p + before[2] - k * dilation[2]) for k in range(kw) for p in range(s)]
    meets = [(k, e // s, (e + k * dilation[2] - before[2]) % s) for k, e in places if e % s == 0]
    low = min(e for _, e, _ in meets)
    reach = max(e for _, e, _ in meets) - low + 1
    chunks = -(-columns // COLUMNS)
    longest = -(-columns // chunks)
    vectors = -(-longest // lane)
    edges = edges_of(rows, vectors * lane, kh * reach * o, size, lane, heights)
    pitch, out = -(-(vectors * lane + reach - 1) // lane) * lane, vectors * lane
    # A row of dX meets no more planes and rows of dY, so that no two of these share a slot.
    planes, slots = ((k - 1) * dilation[i] // stride[i] + 1 for i, k in enumerate((kd, kh)))
    row = o * pitch * size
    if planes * slots * row > LARGEST or not _faster(
        edges, columns, chunks, rows, kw, reach, kh, o, stride, size, lane, heights
    ):
        return None
    if kd > 1 and planes * dy[2] * row <= WHOLE:
        slots = max(slots, dy[2])
    units = dx[0] * dx[1] * high * chunks
    work = math.prod(dy) * math.prod(weight[:4])
    parts = min(threads, units) if work > SERIAL else 1
    held = planes * slots * o * pitch + rows * out
    shape = (
        parts, size, lane, *machine.codes, chunks, pitch, out, planes, slots, held,
    )  # fmt: skip
    windows = (
        *dx, *dy[1:], kd, kh, reach, low, *stride, *dilation[:2], *before[:2],
    )  # fmt: skip
    return Narrow(
        ((kd, kh, reach, o, s, c), [(k, e - low, p) for k, e, p in meets]), parts,
        Arguments(shape, windows, machine_of(dtype).heights, np.array(edges)), parts * held,
        (parts, 3, max(kd * kh * reach, planes * slots)),
        zeros_of(max(pitch, longest * rows + lane, 8 * lane), dtype),
        lane * max(end - first for first, end in itertools.pairwise(edges)),
    )  # fmt: skip


def _faster(
    edges: Ints, columns: int, chunks: int, rows: int, kw: int, reach: int, kh: int, o: int,
    stride: Ints, size: int, lane: int, heights: NDArray,
) -> bool:  # fmt: skip
    """Tell whether a row of dX takes fewer cycles with columns as lanes than with channels."""
    across = 0.0
    for first, end in itertools.pairwise(edges):
        tiles = -(-rows // int(heights[end - first]))
        across += tiles * cycles(rows / tiles, end - first, size, lane)
    transposed = columns * o / lane * 6 / (kh / stride[1])
    tiles = -(-columns // int(heights[1]))
    along = kw * o * tiles * cycles(columns / tiles, 1, size, lane)
    return chunks * across * reach * o + transposed < along


def write(
    plan: Narrow, dy: NDArray, weight: NDArray, dx: NDArray, bias: NDArray | None = None
) -> None:
    """Write dx, as planned, with a bias added if there is one."""
    shape, meets = plan.spread
    wide = np.zeros(shape, dy.dtype)
    for k, e, p in meets:
        wide[:, :, e, :, p] = weight[:, :, k].swapaxes(2, 3)
    scratch, lists = workspace(plan.scratch, dy.dtype), np.empty(plan.lists, np.int64)
    begin, lds, unmet = plan.zeros, 0, plan.zeros
    if bias is not None:  # for each row of a tile, and for columns of dX that meet nothing
        columns, phases, lds = dx.shape[-2], shape[4], plan.widest
        begin = np.repeat(np.tile(bias, phases), lds)
        unmet = np.tile(bias, columns)
    at = (
        address(dy), address(wide), address(dx), address(plan.zeros), address(begin), lds,
        address(unmet), address(scratch), address(lists),
    )  # fmt: skip
    pool.launch(_rows, plan.parts, plan.fixed, at, lists)
