r"""Convolutions in groups of few channels, and depthwise ones: lanes are channels of many groups.

On an axis, element k of window q meets position i of x where

    i = map(q s + k d)                                                          (1)

and `map` says what stands at a position of padded x: all that stride, dilation, padding and its
mode come to. Along the three axes together, with c and o going through a group's channels,

    y[q, o] = b[o] + Σ_{k, i met} Σ_c x[i, c] W[k, c, o]                        (2)
    dx[i, c] = Σ_{k, q met} Σ_o dy[q, o] W[k, c, o]                             (3)

are the same sum: for each place of the result over the pairs of a tap and a source that it meets.
Neighbours for which only the source moves on make up a *run*, and tiles of the engine take a run of
columns together: all those of y, for dx those of a phase of the stride. To that end zeros around a
row count as columns of it; where padding repeats x, the columns that it touches are runs of one.
The rows that windows meet are kept at hand in a scratch block, and each result is written once.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Task, Words, address, call
from ..engine.matmul import SERIAL, plan_of
from ..engine.memory import aligned
from ..engine.taps import most_rows, most_taps, serves, split, tallest, taps, taps_gradient
from ..engine.threads import count as count_threads
from ..engine.tile import lanes
from ..windows import Ints, Windows, pad
from .direct import PLANS, zeros_of

NDArray = npt.NDArray[Any]

SCRATCH: Final = 160 * 1024
"""Bytes of the rows that a thread keeps at hand, in its level-2 cache, where windows let it."""


def fits(channels: int, outputs: int, groups: int, dtype: np.dtype[Any]) -> bool:
    """Return whether the groups are as small as this file serves."""
    return groups > 1 and serves(channels // groups, outputs // groups, dtype)


# What meets what


@dataclass(frozen=True)
class _Axis:
    """The runs of an axis.

    Attributes
    ----------
    runs : array, shape (R, 8)
        The first place and the distance to the next; their number; the first of the run's `pairs`
        and the end of them; how many go in one row, even distances apart, and these distances for
        tap and source.
    pairs : array, shape (all, 2)
        Tap and source at the first place of a run, by rising source.
    places : array, shape (P, 2)
        The run of each place, and how far its sources are from those of the run's first.
    move : int
        How far sources move from one place of a run to the next.
    """

    runs: NDArray
    pairs: NDArray
    places: NDArray
    move: int


def _axis(
    size: int, k: int, stride: int, dilation: int, pads: tuple[int, int], mode: str, back: bool,
    beyond: bool,
) -> _Axis:  # fmt: skip
    """Return the runs of an axis of x of that size: of places of y or, for `back`, of x.

    Sources may lie `beyond` the ends, where there are zeros; else these are passed over.
    """
    windows = Windows((k,), (stride,), (dilation,), (pads,))
    (outputs,) = windows.outputs((size,))
    # The middle of a long axis is all alike: leave out a part of it, so many windows.
    left_out = max(0, (size - 4 * (windows.spans[0] + max(pads) + stride)) // stride)
    short, short_outputs = size - left_out * stride, outputs - left_out
    more = windows.spans[0] // stride + 1 if beyond and back else 0
    met = np.arange(-more, short_outputs + more)
    at = stride * met[:, None] + dilation * np.arange(k) - pads[0]
    if mode != "zeros":
        at = pad(np.arange(short)[None, :, None], (pads,), mode)[0, :, 0][at + pads[0]]
    inside = (at >= 0) & (at < short)
    window, tap = np.nonzero(inside | (beyond and not back))
    position = at[window, tap]
    window -= more
    if back:
        place, places, source, sources = position, short, window, short_outputs
        apart, move = stride, 1
    else:
        place, places, source, sources = window, short_outputs, position, short
        apart, move = 1, stride
    order = np.lexsort((tap, source, place))
    pairs = np.stack([tap[order], source[order]], axis=1)
    ends = np.cumsum(np.bincount(place, minlength=places))
    begins = np.concatenate([[0], ends[:-1]])

    runs: list[list[int]] = []
    shift = np.array([0, move])
    for phase in range(min(apart, places)):
        before = None
        for p in range(phase, places, apart):
            here = pairs[begins[p] : ends[p]]
            if before is not None and np.array_equal(before + shift, here):
                runs[-1][2] += 1
            else:
                runs.append([p, apart, 1, begins[p], ends[p]])
            before = here
    pairs[pairs[:, 1] > sources // 2, 1] += left_out * move
    for run in runs:
        middle = places // 2
        if run[0] > middle:
            run[0] += left_out * apart
        elif run[0] + run[2] * apart > middle:
            run[2] += left_out
        steps = np.diff(pairs[run[3] : run[4]], axis=0)
        even = len(steps) > 0 and (steps == steps[0]).all()
        run += [len(steps) + 1, *steps[0]] if even else [1, 0, 0]
    table = np.zeros((size if back else outputs, 2), np.int64)
    for r, (first, step, count, *_) in enumerate(runs):
        table[first : first + count * step : step] = np.stack(
            [np.full(count, r), move * np.arange(count)], axis=1
        )
    return _Axis(np.array(runs), pairs, table, move)


# The sums (2) and (3)


@jit.kernel
def _slot(held: NDArray, row: int) -> int:
    """Return the slot that holds a row, -1 if none does."""
    for slot in range(len(held)):
        if held[slot, 0] == row:
            return slot
    return -1


@jit.kernel
def _oldest(held: NDArray) -> int:
    """Return the slot whose row was used least recently."""
    oldest = 0
    for slot in range(1, len(held)):
        if held[slot, 1] < held[oldest, 1]:
            oldest = slot
    return oldest


@jit.kernel
def _fetch(
    g: int, u: int, shape: Task,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray,
    strips: NDArray, copies: NDArray, held: NDArray, segments: NDArray,
) -> int:  # fmt: skip
    """Bring the rows that a strip of a row meets to the slots; return how many there are."""
    (
        size, lane, copy, blocks, n, sources_d, sources_h, sources_w, channels, wide, x, zeros,
        taps_h, taps_w, out_d, out_h, vectors, scratch, slot_size, pitch,
    ) = shape  # fmt: skip
    slots = held.shape[1]
    mine = scratch + g * slots * slot_size * size
    q_h, strip = u % out_h, u // out_h % len(strips)
    image = u // out_h // len(strips)  # of one plane of y, one sample, one block of channels
    q_d, sample, block = image % out_d, image // out_d % n, image // out_d // n
    v0, v1 = vectors * block // blocks, vectors * (block + 1) // blocks
    inputs = min(channels, v1 * wide) - v0 * wide
    whole = (inputs + lane - 1) // lane
    run_d, run_h = places_d[q_d, 0], places_h[q_h, 0]

    # Copy the rows that are not there yet in the place of those that were used least recently.
    for again in range(2):
        s = 0
        for i in range(runs_d[run_d, 3], runs_d[run_d, 4]):
            plane = (block * n + sample) * sources_d + pairs_d[i, 1] + places_d[q_d, 1]
            for j in range(runs_h[run_h, 3], runs_h[run_h, 4]):
                row = plane * sources_h + pairs_h[j, 1] + places_h[q_h, 1]
                slot = _slot(held[g], row * len(strips) + strip)
                if slot < 0 and again == 1:
                    slot = _oldest(held[g])
                    held[g, slot, 0] = row * len(strips) + strip
                    row -= block * n * sources_d * sources_h
                    for t in range(strips[strip, 2], strips[strip, 3]):
                        source, step = zeros, 0
                        if copies[t, 0] >= 0:
                            column = row * sources_w + copies[t, 0]
                            source, step = x + (column * channels + v0 * wide) * size, channels
                        call(copy, (
                            source, step, copies[t, 1], whole,
                            inputs - (whole - 1) * lane,
                            mine + (slot * slot_size + copies[t, 2] * pitch) * size, pitch,
                        ))  # fmt: skip
                if slot >= 0:
                    held[g, slot, 1] = u + 1
                segments[g, 0, s] = slot * slot_size
                segments[g, 1, s] = (pairs_d[i, 0] * taps_h + pairs_h[j, 0]) * taps_w
                s += 1
    return s


@jit.kernel
def _rows(
    g: int, codes: NDArray,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray,
    strips: NDArray, copies: NDArray, runs_w: NDArray, pairs_w: NDArray,
    shape: Task, task: Task, held: NDArray, segments: NDArray,
) -> None:  # fmt: skip
    """Compute part g of the strips of rows."""
    (
        parts, size, lane, most, blocks, n, w, tap, line, start, start_step,
        y, out_d, out_h, out_w, outputs, vectors, move, lists, longest, scratch, slot_size, pitch,
        relu,
    ) = task  # fmt: skip
    slots = held.shape[1]
    units = blocks * n * out_d * len(strips) * out_h
    list_x = lists + (g * 4 + 2) * longest * 8
    list_w = list_x + longest * 8
    mine = scratch + g * slots * slot_size * size
    for u in range(units * g // parts, units * (g + 1) // parts):
        q_h, strip = u % out_h, u // out_h % len(strips)
        image = u // out_h // len(strips)  # of one plane of y, one sample, one block of channels
        q_d, sample, block = image % out_d, image // out_d % n, image // out_d // n
        v0, v1 = vectors * block // blocks, vectors * (block + 1) // blocks
        last = min(lane, outputs - (v1 - 1) * lane)
        rows = _fetch(
            g, u, shape, runs_d, pairs_d, places_d, runs_h, pairs_h, places_h, strips, copies,
            held, segments,
        )  # fmt: skip
        for r in range(strips[strip, 0], strips[strip, 1]):
            first, apart, count = runs_w[r, 0], runs_w[r, 1], runs_w[r, 2]
            terms = runs_w[r, 5]
            s = 0
            for i in range(rows):
                for e in range(runs_w[r, 3], runs_w[r, 4], terms):
                    segments[g, 2, s] = segments[g, 0, i] + pairs_w[e, 1] * pitch
                    segments[g, 3, s] = (segments[g, 1, i] + pairs_w[e, 0]) * tap + v0 * lane
                    s += 1
            place = ((sample * out_d + q_d) * out_h + q_h) * out_w + first
            tiles = (count + most - 1) // most  # their heights equalised
            height, higher = count // tiles, count % tiles
            for part in range(2):
                many = higher if part == 0 else tiles - higher
                skipped = 0 if part == 0 else higher * (height + 1)
                if many == 0:
                    continue
                call(codes[r], (
                    height + (1 - part), many, mine + skipped * move * pitch * size, list_x,
                    move * pitch, runs_w[r, 7] * pitch, w, list_w, runs_w[r, 6] * tap, line,
                    s, terms, start + v0 * start_step * size, start_step,
                    y + ((place + skipped * apart) * outputs + v0 * lane) * size, apart * outputs,
                    v1 - v0, last, relu,
                ))  # fmt: skip


def _strips(
    axis: _Axis, places: int, sources: int, most: int
) -> tuple[NDArray, NDArray, NDArray, NDArray, int]:
    """Cut the runs of an axis to strips of so many places at the most.

    Returns
    -------
    strips : array, shape (S, 4)
        From and to which run; from and to which copy.
    copies : array, shape (all, 3)
        The first column of the source or -1 for zeros, their number, the first column in the slot.
    runs, pairs : array
        As of the axis; sources are columns in the slot.
    width : int
        The most columns of a strip.
    """
    count = -(-places // most)
    strips: list[Ints] = []
    copies: list[Ints] = []
    runs: list[Ints] = []
    pairs: list[NDArray] = []
    widest, done = 0, 0
    for i in range(count):
        p0, p1 = places * i // count, places * (i + 1) // count
        mine = []
        for first, apart, number, a, b, *even in axis.runs.tolist():
            j0, j1 = max(0, -((first - p0) // apart)), min(number, -((first - p1) // apart))
            if j0 < j1:
                moved = axis.pairs[a:b] + np.array([0, j0 * axis.move])
                mine.append((first + j0 * apart, apart, j1 - j0, even, moved))
        spans = sorted(
            (int(met[:, 1].min()), int(met[:, 1].max()) + (number - 1) * axis.move + 1)
            for _, _, number, _, met in mine if len(met)
        )  # fmt: skip
        joined: list[list[int]] = []
        for low, high in spans:
            if joined and low <= joined[-1][1]:
                joined[-1][1] = max(high, joined[-1][1])
            else:
                joined.append([low, high])
        lows = np.array([low for low, _ in joined], np.int64)
        into = np.cumsum([0] + [high - low for low, high in joined])
        new = [
            (a if 0 <= a < sources else -1, b - a, at + a - low)
            for (low, high), at in zip(joined, into, strict=False)
            for a, b in itertools.pairwise(
                (low, *(p for p in (0, sources) if low < p < high), high)
            )
        ]
        strips.append((len(runs), len(runs) + len(mine), len(copies), len(copies) + len(new)))
        copies += new
        widest = max(widest, int(into[-1]))
        for first, apart, number, even, met in mine:
            if len(met):
                part = np.searchsorted(lows, met[:, 1], side="right") - 1
                met[:, 1] += into[part] - lows[part]
            runs.append((first, apart, number, done, done + len(met), *even))
            pairs.append(met)
            done += len(met)
    return (
        np.array(strips), np.array(copies or [(0, 0, 0)]), np.array(runs),
        np.concatenate(pairs), widest,
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """What the shapes of a sum (2) or (3) say about it."""

    fixed: Words
    sources: Ints
    places: Ints
    move: int
    longest: int
    """The most segments of a tile."""
    blocks: int
    slots: int
    slot_size: int
    pitch: int
    zeros: NDArray


@lru_cache(PLANS)
def _plan(
    sizes: Ints, windows: Windows, mode: str, groups: int, inputs: int, outputs: int,
    dtype: np.dtype[Any], back: bool,
) -> _Plan:  # fmt: skip
    fill = (1,) * (3 - len(sizes))
    described = zip(
        fill + sizes, fill + windows.size, fill + windows.stride, fill + windows.dilation,
        ((0, 0),) * len(fill) + windows.pads, strict=True,
    )  # fmt: skip
    deep, rows, columns = (
        _axis(*axis, mode, back, beyond=mode == "zeros" and i == 2)
        for i, axis in enumerate(described)
    )
    volume, made = fill + sizes, fill + windows.outputs(sizes)
    sources, places = (made, volume) if back else (volume, made)

    met = [int(np.diff(axis.runs[:, 3:5]).max(initial=1)) for axis in (deep, rows, columns)]
    slots = met[0] * met[1]
    size, lane = dtype.itemsize, lanes(dtype)
    reach = 8 * columns.move + met[2]
    vectors = -(-groups * outputs // lane)
    wide = lane * inputs // outputs
    blocks = min(vectors, -(-slots * reach * groups * inputs * size // SCRATCH))
    line = 64 // size
    most_vectors = -(-vectors // blocks)
    pitch = (-(-most_vectors * wide // line) | 1) * line  # odd, so that sets of caches fill evenly
    most = max(8, (SCRATCH // (slots * pitch * size) - met[2]) // columns.move)
    strips, copies, runs, pairs, widest = _strips(columns, places[2], sources[2], most)
    codes = []
    for _, _, count, _, _, terms, _, step in runs:
        slides = count > 1 and step == columns.move
        codes.append(taps(inputs, outputs, *split(int(terms), inputs, slides))(dtype))
    fixed = Words(
        np.array(codes), deep.runs, deep.pairs, deep.places, rows.runs, rows.pairs, rows.places,
        strips, copies, runs, pairs,
    )  # fmt: skip
    return _Plan(
        fixed, sources, places, columns.move, math.prod(met), blocks, slots, widest * pitch, pitch,
        zeros_of(pitch, dtype),
    )  # fmt: skip


def _shape(
    plan: _Plan, x: NDArray, y: Ints, inputs: int, outputs: int, kernel: Ints, scratch: NDArray
) -> Task:
    """Return what `_fetch` is told, for y of that shape."""
    machine = plan_of(x.dtype)
    lane = machine.lane
    return (
        machine.size, lane, machine.codes[1], plan.blocks, len(x), *plan.sources, x.shape[-1],
        lane * inputs // outputs, address(x), address(plan.zeros), *kernel[1:], *plan.places[:2],
        -(-y[-1] // lane), address(scratch), plan.slot_size, plan.pitch,
    )  # fmt: skip


def _correlate(
    plan: _Plan, x: NDArray, inputs: int, weight: NDArray, outputs: int, bias: NDArray | None,
    y: NDArray, kernel: Ints, relu: bool,
) -> None:  # fmt: skip
    """Write y, given x and weights (*K, inputs of a group, channels of y)."""
    machine = plan_of(x.dtype)
    size, lane = machine.size, machine.lane
    work = y.size * weight.size // y.shape[-1]
    parts = count_threads() if work > SERIAL else 1
    held = np.full((parts, plan.slots, 2), -1)
    segments = np.empty((parts, 4, plan.longest), np.int64)
    scratch = aligned(parts * plan.slots * plan.slot_size, x.dtype)
    start, start_step = (machine.zeros_at, 0) if bias is None else (address(bias), lane)
    shape = _shape(plan, x, y.shape, inputs, outputs, kernel, scratch)
    task = (
        parts, size, lane, tallest(inputs), plan.blocks, len(y), address(weight),
        inputs * y.shape[-1], y.shape[-1], start, start_step, address(y), *plan.places,
        y.shape[-1], -(-y.shape[-1] // lane), plan.move, address(segments), plan.longest,
        address(scratch), plan.slot_size, plan.pitch, int(relu),
    )  # fmt: skip
    pool.launch(_rows, parts, plan.fixed, shape, task, held, segments)


def forward(
    x: NDArray, weight: NDArray, bias: NDArray | None, y: NDArray,
    windows: Windows, mode: str, groups: int, relu: bool,
) -> None:  # fmt: skip
    r"""Write y, shape (N, \*Q, O)."""
    c, o = weight.shape[-2], weight.shape[-1] // groups
    plan = _plan(x.shape[1:-1], windows, mode, groups, c, o, x.dtype, False)
    _correlate(plan, x, c, weight, o, bias, y, _three(windows.size), relu)


def input_gradient(
    dy: NDArray, weight: NDArray, dx: NDArray, windows: Windows, mode: str, groups: int
) -> None:
    r"""Write dx, shape (N, \*S, C)."""
    c, o = weight.shape[-2], weight.shape[-1] // groups
    if c > 1 or o > 1:  # exchange the two sides of each group
        weight = np.moveaxis(weight.reshape(-1, c, groups, o), 3, 1)
        weight = np.ascontiguousarray(weight.reshape(-1, o, c, groups).swapaxes(2, 3))
    plan = _plan(dx.shape[1:-1], windows, mode, groups, o, c, dy.dtype, True)
    _correlate(plan, dy, o, weight, c, None, dx, _three(windows.size), False)


# The sums for dW

CHUNKS: Final = 16
"""Into how many sums dW is cut at the most: a fixed number, whatever the threads."""


@jit.kernel
def _weights(
    g: int, codes: NDArray,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray,
    strips: NDArray, copies: NDArray, runs_w: NDArray, pairs_w: NDArray,
    shape: Task, task: Task, held: NDArray, segments: NDArray,
) -> None:  # fmt: skip
    """Add the chunks of part g: each of some strips of rows, to a dW of its own."""
    (
        parts, chunks, size, lane, inputs, code, most, blocks, n, dw, dw_size, tap, line,
        y, out_d, out_h, out_w, outputs, vectors, move, lists, longest, scratch, slot_size, pitch,
    ) = task  # fmt: skip
    units = blocks * n * out_d * len(strips) * out_h
    list_x = lists + (g * 4 + 2) * longest * 8
    list_w = list_x + longest * 8
    mine = scratch + g * held.shape[1] * slot_size * size
    for chunk in range(chunks * g // parts, chunks * (g + 1) // parts):
        for u in range(units * chunk // chunks, units * (chunk + 1) // chunks):
            q_h, strip = u % out_h, u // out_h % len(strips)
            image = u // out_h // len(strips)
            q_d, sample, block = image % out_d, image // out_d % n, image // out_d // n
            v0, v1 = vectors * block // blocks, vectors * (block + 1) // blocks
            last = min(lane, outputs - (v1 - 1) * lane)
            rows = _fetch(
                g, u, shape, runs_d, pairs_d, places_d, runs_h, pairs_h, places_h, strips, copies,
                held, segments,
            )  # fmt: skip
            for r in range(strips[strip, 0], strips[strip, 1]):
                first, apart, count = runs_w[r, 0], runs_w[r, 1], runs_w[r, 2]
                terms = runs_w[r, 5]
                pieces = (terms + most - 1) // most
                place = ((sample * out_d + q_d) * out_h + q_h) * out_w + first
                for e in range(runs_w[r, 3], runs_w[r, 4], terms):
                    for piece in range(pieces):
                        k0, k1 = terms * piece // pieces, terms * (piece + 1) // pieces
                        together = most_rows(k1 - k0, inputs)
                        for i0 in range(0, rows, together):
                            i1 = min(rows, i0 + together)
                            for i in range(i0, i1):
                                column = pairs_w[e, 1] + k0 * runs_w[r, 7]
                                element = pairs_w[e, 0] + k0 * runs_w[r, 6]
                                segments[g, 2, i - i0] = segments[g, 0, i] + column * pitch
                                segments[g, 3, i - i0] = (
                                    segments[g, 1, i] + element
                                ) * tap + v0 * lane
                            call(code, (
                                16 * (i1 - i0) + k1 - k0, mine, list_x, move * pitch,
                                runs_w[r, 7] * pitch, y + (place * outputs + v0 * lane) * size,
                                apart * outputs, count, dw + chunk * dw_size * size, list_w,
                                runs_w[r, 6] * tap, line, v1 - v0, last,
                            ))  # fmt: skip


def weight_gradient(
    x: NDArray, dy: NDArray, weight: Ints, windows: Windows, mode: str, groups: int
) -> NDArray:
    """Return dW, of the shape `weight`: sums over chunks of a fixed size, added in their order."""
    c, o = weight[-2], weight[-1] // groups
    plan = _plan(x.shape[1:-1], windows, mode, groups, c, o, x.dtype, False)
    machine = plan_of(x.dtype)
    size, lane = machine.size, machine.lane
    rows = len(x) * dy[0].size // (dy.shape[-1] * dy.shape[-2])
    chunks = max(1, min(CHUNKS, rows // 8))
    work = dy.size * math.prod(weight[:-1])
    parts = min(count_threads(), chunks) if work > SERIAL else 1
    dweights = np.zeros((chunks, *weight), x.dtype)
    held = np.full((parts, plan.slots, 2), -1)
    segments = np.empty((parts, 4, max(plan.longest, 3)), np.int64)
    scratch = aligned(parts * plan.slots * plan.slot_size, x.dtype)
    shape = _shape(plan, x, dy.shape, c, o, _three(windows.size), scratch)
    task = (
        parts, chunks, size, lane, c, taps_gradient(c, o)(x.dtype), most_taps(c), plan.blocks,
        len(x), address(dweights), math.prod(weight), c * weight[-1], weight[-1], address(dy),
        *plan.places, weight[-1], -(-weight[-1] // lane), plan.move, address(segments),
        segments.shape[2], address(scratch), plan.slot_size, plan.pitch,
    )  # fmt: skip
    pool.launch(_weights, parts, plan.fixed, shape, task, held, segments)
    total: NDArray = dweights[0] if chunks == 1 else dweights.sum(axis=0)
    return total


def _three(kernel: Ints) -> Ints:
    return (1,) * (3 - len(kernel)) + kernel
