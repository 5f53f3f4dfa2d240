r"""Convolutions in groups of few channels, and depthwise ones: lanes are channels of many groups.

On an axis, element k of window q meets position i of x where

    i = map(q s + k d)                                                          (1)

and `map` says what stands at a position of padded x: all that stride, dilation, padding and its
mode come to. Along the three axes together, with c and o going through a group's channels,

    y[q, o] = b[o] + Σ_{k, i met} Σ_c x[i, c] W[k, c, o]                        (2)
    dx[i, c] = Σ_{k, q met} Σ_o dy[q, o] W[k, c, o]                             (3)

are the same sum: for each place of the result over the pairs of a tap and a source that it meets.
Neighbours for which only the source moves on make up a *run*, and tiles of the engine take a run of
columns together: the windows that meet no padding, for dx those of a phase of the stride. Other
columns are runs of one. Nothing is padded, and each result is written once. Tiles read columns far
apart, which no hardware foresees: they ask for the rows behind those they meet. Only where columns
share sets of level 1, which would lose what is read again for another row of the result or of taps,
are the rows of X copied, once each, to a ring of slots.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Arguments, Task, address, call
from ..engine.matmul import SERIAL, machine_of
from ..engine.memory import ALIAS, LINE, past_caches, pointer
from ..engine.taps import (
    MOST,
    abreast,
    most_rows,
    most_taps,
    rows_together,
    split,
    sums_abreast,
    tallest,
    taps,
    taps_gradient,
)
from ..engine.tile import lanes
from ..windows import Ints, Windows, pad
from .bound import LISTS, PANELS, WORK, Part
from .case import Case
from .direct import APART, PLANS, zeros_of
from .weights import CHUNKS, added

NDArray = npt.NDArray[Any]

FAR: Final = 2048
"""Columns of X that lie a multiple of so many bytes apart share two sets of level 1."""
NEAR: Final = 256 * 1024
"""Bytes of the rows that a row of windows meets, which level 2 holds, where windows let it."""
_LISTS: Final = 7
"""The lists of integers of a part: three of the rows that a strip meets, three of the segments of a
tile, ..."""
_HELD: Final = _LISTS - 1
"""... and which row of X each slot holds."""


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
    size: int, k: int, stride: int, dilation: int, pads: tuple[int, int], mode: str, back: bool
) -> _Axis:
    """Return the runs of an axis of x of that size: of places of y or, for `back`, of x."""
    windows = Windows((k,), (stride,), (dilation,), (pads,))
    (outputs,) = windows.outputs((size,))
    # The middle of a long axis is all alike: leave out a part of it, so many windows.
    left_out = max(0, (size - 4 * (windows.spans[0] + max(map(abs, pads)) + stride)) // stride)
    short, short_outputs = size - left_out * stride, outputs - left_out
    at = stride * np.arange(short_outputs)[:, None] + dilation * np.arange(k) - pads[0]
    if mode != "zeros":
        at = pad(np.arange(short)[None, :, None], (pads,), mode)[0, :, 0][at + pads[0]]
    window, tap = np.nonzero((at >= 0) & (at < short))
    position = at[window, tap]
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
def _strip(
    u: int, strips: NDArray, shape: Task,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray, segments: NDArray,
) -> Task:  # fmt: skip
    """List the rows of X that strip u meets, and their taps.

    Strips of rows of one block of channels come before those of the next. A strip is one of a row
    of the result, or of two: what both meet is listed once, between what one of them meets. Return
    the strip's first vector and the end, its first run and the end, the row of the result, how many
    rows there are, how many rows of X the upper one meets alone, both, and the lower one alone, and
    how many strips of the block come behind.
    """
    (
        n, sources_d, sources_h, line, taps_h, taps_w, tap, out_d, out_h, blocks, vectors, most,
    ) = shape  # fmt: skip
    count, high = len(strips) - 1, (out_h + most - 1) // most
    units = n * out_d * count * high  # of a block of channels
    block, unit = u // units, u % units
    q_h, strip, image = unit % high * most, unit // high % count, unit // high // count
    q_d, sample = image % out_d, image // out_d
    run_d, rows = places_d[q_d, 0], min(most, out_h - q_h)
    upper, both, s = 0, 0, 0
    for r in range(rows):
        run_h = places_h[q_h + r, 0]
        for i in range(runs_d[run_d, 3], runs_d[run_d, 4]):
            plane = sample * sources_d + pairs_d[i, 1] + places_d[q_d, 1]
            for j in range(runs_h[run_h, 3], runs_h[run_h, 4]):
                source = plane * sources_h + pairs_h[j, 1] + places_h[q_h + r, 1]
                segments[0, s] = source * line
                segments[1 + r, s] = (pairs_d[i, 0] * taps_h + pairs_h[j, 0]) * taps_w * tap
                s += 1
        if r == 0:
            upper = s
    if rows == 2:
        both, same = min(upper, s - upper) + 1, False
        while not same:
            both, same = both - 1, True
            for i in range(both):
                same = same and segments[0, upper - both + i] == segments[0, upper + i]
        for i in range(upper, s):
            segments[0, i - both], segments[2, i - both] = segments[0, i], segments[2, i]
    return (
        vectors * block // blocks, vectors * (block + 1) // blocks, strips[strip],
        strips[strip + 1], image * out_h + q_h, rows, upper - both, both, s - upper - both,
        units - 1 - unit,
    )  # fmt: skip


@jit.kernel
def _ring_of(
    g: int, x: int, channels: int, line_x: int, size: int, ring: Task, scratch: int, held: NDArray
) -> tuple[int, int, int]:
    """Return the slots of part g, how far columns of X are apart there and where they begin."""
    _, slots, _, _, pitch = ring
    if slots == 0:
        return slots, channels, x
    for slot in range(slots):
        held[slot] = -1
    return slots, pitch, scratch + g * (slots * (line_x // channels) * pitch + APART) * size


@jit.kernel
def _copied(
    x: int, rows: int, channels: int, line_x: int, size: int, ring: Task, begin: int,
    segments: NDArray, held: NDArray,
) -> None:  # fmt: skip
    """Copy the listed rows of X to slots, where they are not `held` yet, and list these instead."""
    copy, slots, vectors, last, pitch = ring
    columns = line_x // channels
    for i in range(rows):
        source = segments[0, i] // line_x
        slot = source % slots
        into = slot * columns * pitch
        if held[slot] != source:
            held[slot] = source
            call(copy, (
                x + source * line_x * size, channels, columns, vectors, last, begin + into * size,
                pitch,
            ))  # fmt: skip
        segments[0, i] = into


@jit.kernel
def _rows(
    g: int, codes: NDArray,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray,
    strips: NDArray, runs_w: NDArray, pairs_w: NDArray,
    shape: Task, ring: Task, task: Task, at: Task, segments: NDArray,
) -> None:  # fmt: skip
    """Compute part g of the strips of rows."""
    (
        parts, size, lane, most, tap, line, start_step, relu, abreast, wide, channels, size_x,
        lines, apart_x, out_w, outputs, units, move,
    ) = task  # fmt: skip
    x, w, start, y, lists, scratch = at
    line_x, longest, held = shape[3], segments.shape[2], segments[g, _HELD]
    list_x = lists + (g * _LISTS + 3) * longest * 8
    slots, pixel, base = _ring_of(g, x, channels, line_x, size, ring, scratch, held)
    for u in range(units * g // parts, units * (g + 1) // parts):
        v0, v1, r0, r1, row, rows, upper, both, lower, _ = _strip(
            u, strips, shape, runs_d, pairs_d, places_d, runs_h, pairs_h, places_h, segments[g]
        )
        # The rows of X behind those that are met, which the next row of the result may meet.
        end = segments[g, 0, max(0, upper + both + lower - 1)] + line_x
        if slots > 0:
            met = upper + both + lower
            _copied(x, met, channels, line_x, size, ring, base, segments[g], held)
        last = min(lane, outputs - (v1 - 1) * lane)
        many = (v1 - v0) // abreast + (v1 - v0) % abreast
        fresh = many * rows * lines * apart_x  # of each place
        for r in range(r0, r1):
            first, apart, count, pair0, pair1 = (
                runs_w[r, 0], runs_w[r, 1], runs_w[r, 2], runs_w[r, 3], runs_w[r, 4]
            )  # fmt: skip
            terms, tap_step, step, moved, edges = (
                runs_w[r, 5], runs_w[r, 6], runs_w[r, 7], runs_w[r, 8], runs_w[r, 9]
            )  # fmt: skip
            s = 0
            for i in range(upper + both + lower):
                for e in range(pair0, pair1, terms):
                    element = pairs_w[e, 0] * tap
                    segments[g, 3, s] = segments[g, 0, i] + (pairs_w[e, 1] + moved) * pixel
                    segments[g, 4, s] = segments[g, 1, i] + element
                    segments[g, 5, s] = segments[g, 2, i] + element
                    s += 1
            pieces = (pair1 - pair0) // terms
            behind, asked = 0, 0
            if s > 0 and slots == 0:
                behind = end + (pairs_w[pair0, 1] + moved) * channels + v0 * wide
                asked = rows * lines if behind + count * fresh <= size_x else 0
            place = row * out_w + first
            tiles = (count + most - 1) // most  # their heights equalised
            height, higher = count // tiles, count % tiles
            for part in range(2):
                many = higher if part == 0 else tiles - higher
                skipped = 0 if part == 0 else higher * (height + 1)
                if many == 0:
                    continue
                ends = edges
                if part == 1 and higher > 0:
                    ends = edges & 2
                elif part == 0:
                    ends = edges & 1
                call(codes[r, rows - 1], (
                    height + (1 - part), many,
                    base + (skipped * move * pixel + v0 * wide) * size, list_x,
                    move * pixel, step * pixel,
                    w + v0 * lane * size, list_x + longest * 8, list_x + 2 * longest * 8,
                    tap_step * tap, line,
                    upper * pieces, both * pieces, lower * pieces, terms,
                    start + v0 * start_step * size, start_step,
                    y + ((place + skipped * apart) * outputs + v0 * lane) * size, apart * outputs,
                    out_w * outputs, v1 - v0, last, relu, ends,
                    x + (behind + skipped * fresh) * size, asked, apart_x,
                ))  # fmt: skip


def _strips(axis: _Axis, places: int, most: int, together: int) -> tuple[NDArray, NDArray]:
    """Cut the runs of an axis to strips of so many places at the most.

    Returns
    -------
    strips : array, shape (S + 1,)
        The first run of each strip, and the end of them.
    runs : array, shape (all, 10)
        As of the axis; how far the sources of the first place are from those of the pairs; 1 where
        the first place does not meet the first tap, 2 where the last does not meet the last.
    """
    count = -(-places // most)
    strips: list[int] = [0]
    runs: list[list[int]] = []
    for i in range(count):
        p0, p1 = places * i // count, places * (i + 1) // count
        found: list[list[int]] = []
        for first, apart, number, *rest in axis.runs.tolist():
            j0, j1 = max(0, -((first - p0) // apart)), min(number, -((first - p1) // apart))
            if j0 < j1:
                found.append([first + j0 * apart, apart, j1 - j0, *rest, j0 * axis.move, 0])
        runs += _merged(axis, found, together)
        strips.append(len(runs))
    return np.array(strips), np.array(runs)


def _merged(axis: _Axis, runs: list[list[int]], most: int) -> list[list[int]]:
    """Make a place one of the run beside it where it meets the same but for the outermost tap.

    That is where padding is as wide as a tap, with so many taps of a row at the most.
    """
    merged: list[list[int]] = []
    for run in runs:
        if merged:
            before = merged[-1]
            moved = np.array([0, axis.move * before[2]])
            adjoin = before[1] == run[1] and before[0] + before[2] * before[1] == run[0]
            here, there = (axis.pairs[r[3] : r[4]] + np.array([0, r[8]]) for r in (before, run))
            last = run[2] == 1 and np.array_equal(here[:-1] + moved, there)
            first = before[2] == 1 and np.array_equal(here + moved, there[1:])
            if adjoin and last and _is_whole(before, axis.move, most):
                before[2], before[9] = before[2] + 1, before[9] | 2
                continue
            if adjoin and first and _is_whole(run, axis.move, most):
                run[0], run[2], run[8] = before[0], run[2] + 1, run[8] - axis.move
                run[9], merged[-1] = 1, run
                continue
        merged.append(run)
    return merged


def _is_whole(run: list[int], move: int, most: int) -> bool:
    """Tell whether all taps of a run go together."""
    terms, step = run[5], run[7]
    return 1 < terms == run[4] - run[3] <= most and _apart_by(move, step) > 0


def _apart_by(move: int, step: int) -> int:
    """Return how many taps places lie apart, if they share the sources of these: 1, 2; else 0."""
    return 1 if move == step else 2 if move == 2 * step else 0


@dataclass(frozen=True)
class _Plan:
    """What the shapes of a sum (2) or (3) say about it."""

    tables: tuple[NDArray, ...]
    """Codes of tiles, and what `_Axis` and `_strips` found: what kernels take first."""
    sources: Ints
    places: Ints
    move: int
    longest: int
    """The most segments of a tile."""
    strips: int
    """Of a row."""
    blocks: int
    """Of channels."""
    most: int
    """How many rows go together."""
    slots: int
    """How many rows of X are copied at a time, 0 where they are read in place."""


def _code(
    run: list[int], move: int, inputs: int, outputs: int, rows: int, past: bool,
    dtype: np.dtype[Any],
) -> Any:  # fmt: skip
    _, _, count, _, _, terms, _, step, *_ = run
    by = 1 if count == 1 else _apart_by(move, step)
    return taps(inputs, outputs, *split(terms, inputs, by), max(by, 1), rows, past)(dtype)


@lru_cache(PLANS)
def _plan(
    sizes: Ints, windows: Windows, mode: str, groups: int, inputs: int, outputs: int,
    dtype: np.dtype[Any], back: bool, alone: bool, past: bool,
) -> _Plan:  # fmt: skip
    size, lane, apart = dtype.itemsize, lanes(dtype), windows.stride[-1]
    # The places that a tile writes of dx may share a set of level 1, which holds those of one row.
    crowded = back and apart > 1 and apart * groups * outputs * size % ALIAS == 0
    most = 1 if alone or crowded else rows_together(inputs, outputs)
    together = most_taps(inputs) if alone else split(MOST, inputs, 1)[0]
    fill = (1,) * (3 - len(sizes))
    described = zip(
        fill + sizes, fill + windows.size, fill + windows.stride, fill + windows.dilation,
        ((0, 0),) * len(fill) + windows.pads, strict=True,
    )  # fmt: skip
    deep, rows, columns = (_axis(*axis, mode, back) for axis in described)
    volume, made = fill + sizes, fill + windows.outputs(sizes)
    sources, places = (made, volume) if back else (volume, made)

    met = [int(np.diff(axis.runs[:, 3:5]).max(initial=1)) for axis in (deep, rows, columns)]
    lines = met[0] * met[1]
    reach = 8 * columns.move + met[2]
    vectors = -(-groups * outputs // lane)
    blocks = min(vectors, -(-lines * reach * groups * inputs * size // NEAR))
    column = lines * -(-vectors // blocks) * lane * inputs // outputs * size
    widest = max(8, (NEAR // column - met[2]) // columns.move)
    strips, runs = _strips(columns, places[2], widest, together)
    codes = [[0]] if alone else [
        [_code(run, columns.move, inputs, outputs, 1 + r, past, dtype) for r in range(most)]
        for run in runs.tolist()
    ]  # fmt: skip
    found = (
        np.array(codes), deep.runs, deep.pairs, deep.places, rows.runs, rows.pairs, rows.places,
        strips, runs, columns.pairs,
    )  # fmt: skip
    distance = groups * inputs * size
    span, stride = (fill + windows.spans)[1], (fill + windows.stride)[1]
    slots = span + (most - 1) * stride
    held = slots * sources[2] * (distance + LINE)
    # dW goes through the rows again for each row of taps, and with stride 1 for each column.
    far = FAR // 2 if alone and stride == 1 else FAR
    again = alone or most > 1
    split_up = mode != "zeros" or met[0] > 1 or len(strips) > 2 or blocks > 1
    if not again or split_up or distance % far or held > NEAR:
        slots = 0
    return _Plan(
        found, sources, places, columns.move, most * math.prod(met), len(strips) - 1, blocks, most,
        slots,
    )  # fmt: skip


def _given(
    plan: _Plan, many: int, x: Ints, inputs: int, y: Ints, outputs: int, weight: Ints,
    dtype: np.dtype[Any],
) -> tuple[Task, Task, Task]:  # fmt: skip
    """Return what `_strip` and `_copied` are told; how sources x and their places y lie and go."""
    machine, c, o = machine_of(dtype), x[-1], y[-1]
    lane, size_x, vectors = machine.lane, math.prod(x), -(-c // machine.lane)
    line = LINE // machine.size
    shape = (
        x[0], *plan.sources[:2], plan.sources[2] * c, *weight[1:3], inputs * o, *plan.places[:2],
        plan.blocks, -(-o // lane), plan.most,
    )  # fmt: skip
    ring = machine.codes[1], plan.slots, vectors, c - (vectors - 1) * lane, vectors * lane + line
    # For each place and vectors abreast there are so many sources that others do not ask for.
    own = many * lane * size_x // math.prod(y) if plan.places[1] > 1 else 0
    out_d, out_h, out_w = plan.places
    units = plan.blocks * x[0] * out_d * -(-out_h // plan.most) * plan.strips
    lie = (
        many, lane * inputs // outputs, c, size_x, -(-own // line), min(line, own),
        out_w, o, units, plan.move,
    )  # fmt: skip
    return shape, ring, lie


def _lists(plan: _Plan, parts: int, least: int = 1) -> Ints:
    """Return the shape of the lists of segments and, behind them, of what rows slots hold."""
    return parts, _LISTS, max(plan.longest, plan.slots, least)


def _scratch(plan: _Plan, parts: int, ring: Task) -> int:
    """Return how many elements the slots take."""
    *_, pitch = ring
    return parts * (plan.slots * plan.sources[2] * pitch + APART) if plan.slots else 0


def goes_past(inputs: int, outputs: int, y: NDArray) -> bool:
    """Tell whether tiles should write y past the caches: whole lines, which it is too large for."""
    whole = abreast(inputs, outputs) * lanes(y.dtype) * y.itemsize == LINE
    aligned = pointer(y) % LINE == y.shape[-1] * y.itemsize % LINE == 0
    return whole and aligned and past_caches(2, y.nbytes)


def part(
    case: Case, arrays: tuple[int, int, int, int | None], relu: bool, past: bool, back: bool
) -> Part:
    """Return what writes y, or for `back` dx: x is dy then, and y is dx.

    Parameters
    ----------
    case : Case
    arrays : tuple of int
        Which of the arrays that come later x, the weight, y and a bias are, if there is one; for
        `back` the weight is `turned`.
    relu : bool
        Whether there is a ReLU on top.
    past : bool
        Whether y `goes_past` the caches.
    back : bool
    """
    windows, dtype, x, y = case.windows, case.dtype, case.x, case.y
    c, o = case.weight[-2], case.weight[-1] // case.groups
    if back:
        c, o, x, y = o, c, y, x
    how = windows, case.padding_mode, case.groups
    plan = _plan(case.x[1:-1], *how, c, o, dtype, back, False, past)
    machine, outputs, (at_x, at_weight, at_y, bias) = machine_of(dtype), y[-1], arrays
    parts = case.threads if math.prod(y) * math.prod(windows.size) * c > SERIAL else 1
    shape, ring, lie = _given(plan, abreast(c, o), x, c, y, o, case.volumes[1], dtype)
    task = (
        parts, machine.size, machine.lane, tallest(c, o, plan.most, plan.move), c * outputs,
        outputs, 0 if bias is None else machine.lane, int(relu), *lie,
    )  # fmt: skip
    late, lists = pool.late_data, _lists(plan, parts)
    start = machine.zeros_at if bias is None else late(bias)
    at = late(at_x), late(at_weight), start, late(at_y), late(LISTS), late(WORK)
    fixed = Arguments(*plan.tables, shape, ring, task)
    run = pool.ready(_rows, parts, fixed, at, pool.late_array(LISTS, lists, np.int64))
    return Part([run], plan, _scratch(plan, parts, ring), math.prod(lists))


def turned(weight: NDArray, groups: int) -> NDArray:
    """Return the weight with the two sides of each group exchanged, which dx is computed with."""
    c, o = weight.shape[-2], weight.shape[-1] // groups
    if c == o == 1:
        return weight
    weight = np.moveaxis(weight.reshape(-1, c, groups, o), 3, 1)
    return np.ascontiguousarray(weight.reshape(-1, o, c, groups).swapaxes(2, 3))


# The sums for dW


@jit.kernel
def _weights(
    g: int, codes: NDArray,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray,
    strips: NDArray, runs_w: NDArray, pairs_w: NDArray,
    shape: Task, ring: Task, task: Task, at: Task, segments: NDArray,
) -> None:  # fmt: skip
    """Compute the chunks of part g: each of some strips of rows, for a dW of its own."""
    (
        parts, size, lane, most, tap, line, chunks, dw_size, inputs, sums, code, abreast, wide,
        channels, size_x, lines, apart_x, out_w, outputs, units, move,
    ) = task  # fmt: skip
    x, y, dw, lists, scratch, zeros = at
    line_x, longest, held = shape[3], segments.shape[2], segments[g, _HELD]
    list_x = lists + (g * _LISTS + 3) * longest * 8
    list_w = list_x + longest * 8
    slots, pixel, base = _ring_of(g, x, channels, line_x, size, ring, scratch, held)
    for chunk in range(chunks * g // parts, chunks * (g + 1) // parts):
        vectors = (outputs + lane - 1) // lane
        call(ring[0], (
            zeros, 0, dw_size // outputs, vectors, outputs - (vectors - 1) * lane,
            dw + chunk * dw_size * size, outputs,
        ))  # fmt: skip
        for u in range(units * chunk // chunks, units * (chunk + 1) // chunks):
            v0, v1, r0, r1, row, _, rows, _, _, left = _strip(
                u, strips, shape, runs_d, pairs_d, places_d, runs_h, pairs_h, places_h, segments[g]
            )
            if slots > 0:
                _copied(x, rows, channels, line_x, size, ring, base, segments[g], held)
            last = min(lane, outputs - (v1 - 1) * lane)
            fresh = ((v1 - v0) // abreast + (v1 - v0) % abreast) * lines * apart_x
            for r in range(r0, r1):
                first, apart, count, pair0, pair1 = (
                    runs_w[r, 0], runs_w[r, 1], runs_w[r, 2], runs_w[r, 3], runs_w[r, 4]
                )  # fmt: skip
                terms, tap_step, step, moved, edges = (
                    runs_w[r, 5], runs_w[r, 6], runs_w[r, 7], runs_w[r, 8], runs_w[r, 9]
                )  # fmt: skip
                pieces = (terms + most - 1) // most
                place = row * out_w + first
                for e in range(pair0, pair1, terms):
                    for piece in range(pieces):
                        k0, k1 = terms * piece // pieces, terms * (piece + 1) // pieces
                        together = most_rows(k1 - k0, inputs, sums)
                        for i0 in range(0, rows, together):
                            i1 = min(rows, i0 + together)
                            for i in range(i0, i1):
                                column = pairs_w[e, 1] + moved + k0 * step
                                element = pairs_w[e, 0] + k0 * tap_step
                                segments[g, 3, i - i0] = segments[g, 0, i] + column * pixel
                                segments[g, 4, i - i0] = segments[g, 1, i] + element * tap
                            # The rows of X behind these, once for all pieces of a row; that of Y
                            # each time, for to ask for what is read at once would delay it.
                            behind = segments[g, 3, i1 - i0 - 1] + line_x + v0 * wide
                            asked = 0
                            if slots == 0 and i1 == rows and piece == 0 and left > 0:
                                asked = lines if behind + count * fresh <= size_x else 0
                            call(code, (
                                16 * (i1 - i0) + k1 - k0, base + v0 * wide * size, list_x,
                                move * pixel, step * pixel,
                                y + (place * outputs + v0 * lane) * size, apart * outputs, count,
                                edges, dw + (chunk * dw_size + v0 * lane) * size, list_w,
                                tap_step * tap, line, v1 - v0, last,
                                out_w * outputs, x + behind * size, asked, apart_x,
                            ))  # fmt: skip


def part_of_dw(case: Case, x: int, dy: int, dw: int) -> Part:
    """Return what writes dW: sums over chunks of a fixed size, added in their order.

    x, dy and dw are which of the arrays that come later they are.
    """
    windows, dtype, weight, y = case.windows, case.dtype, case.weight, case.y
    c, o = weight[-2], weight[-1] // case.groups
    how = windows, case.padding_mode, case.groups
    plan = _plan(case.x[1:-1], *how, c, o, dtype, False, True, False)
    machine, channels, rows = machine_of(dtype), weight[-1], math.prod(y[:-2])
    chunks = max(1, min(CHUNKS, rows // 16 * 2))  # even, for two threads
    parts = min(case.threads, chunks) if math.prod(y) * math.prod(weight[:-1]) > SERIAL else 1
    code = taps_gradient(c, o, _apart_by(windows.stride[-1], windows.dilation[-1]))
    many, most = sums_abreast(c, o)
    shape, ring, lie = _given(plan, many, case.x, c, y, o, case.volumes[1], dtype)
    size = math.prod(weight)
    task = (
        parts, machine.size, machine.lane, most_taps(c), c * channels, channels, chunks, size, c,
        most, code(dtype), *lie,
    )  # fmt: skip
    late, lists, several = pool.late_data, _lists(plan, parts, 3), chunks > 1
    zeros = zeros_of(-(-channels // machine.lane) * machine.lane, dtype)
    sums = late(PANELS if several else dw)
    at = late(x), late(dy), sums, late(LISTS), late(WORK), address(zeros)
    fixed = Arguments(*plan.tables, shape, ring, task)
    calls = [pool.ready(_weights, parts, fixed, at, pool.late_array(LISTS, lists, np.int64))]
    if several:
        calls.append(added(chunks, size, parts, zeros, dw))
    panels = chunks * size if several else 0
    keep = plan, zeros
    return Part(calls, keep, _scratch(plan, parts, ring), math.prod(lists), panels)
