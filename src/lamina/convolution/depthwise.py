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
columns are runs of one. Nothing is padded or copied, and each result is written once. Tiles read
columns far apart, which no hardware foresees: they ask for the rows behind those they meet.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Arguments, Task, address, call
from ..engine.matmul import SERIAL, plan_of
from ..engine.memory import LINE
from ..engine.taps import abreast, most_rows, most_taps, serves, split, tallest, taps, taps_gradient
from ..engine.threads import count as count_threads
from ..engine.tile import lanes
from ..windows import Ints, Windows, pad
from .direct import PLANS

NDArray = npt.NDArray[Any]

NEAR: Final = 256 * 1024
"""Bytes of the rows that a row of windows meets, which level 2 holds, where windows let it."""


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
    size: int, k: int, stride: int, dilation: int, pads: tuple[int, int], mode: str, back: bool
) -> _Axis:
    """Return the runs of an axis of x of that size: of places of y or, for `back`, of x."""
    windows = Windows((k,), (stride,), (dilation,), (pads,))
    (outputs,) = windows.outputs((size,))
    # The middle of a long axis is all alike: leave out a part of it, so many windows.
    left_out = max(0, (size - 4 * (windows.spans[0] + max(pads) + stride)) // stride)
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

    Strips of rows of one block of channels come before those of the next. Return the strip's first
    vector and the end, its first run and the end, the row of the result, how many rows are listed,
    and how many strips of the block come behind.
    """
    n, sources_d, sources_h, line, taps_h, taps_w, tap, out_d, out_h, blocks, vectors = shape
    count = len(strips) - 1
    units = n * out_d * count * out_h  # of a block of channels
    block, unit = u // units, u % units
    q_h, strip, image = unit % out_h, unit // out_h % count, unit // out_h // count
    q_d, sample = image % out_d, image // out_d
    run_d, run_h = places_d[q_d, 0], places_h[q_h, 0]
    s = 0
    for i in range(runs_d[run_d, 3], runs_d[run_d, 4]):
        plane = sample * sources_d + pairs_d[i, 1] + places_d[q_d, 1]
        for j in range(runs_h[run_h, 3], runs_h[run_h, 4]):
            segments[0, s] = (plane * sources_h + pairs_h[j, 1] + places_h[q_h, 1]) * line
            segments[1, s] = (pairs_d[i, 0] * taps_h + pairs_h[j, 0]) * taps_w * tap
            s += 1
    return (
        vectors * block // blocks, vectors * (block + 1) // blocks, strips[strip],
        strips[strip + 1], image * out_h + q_h, s, units - 1 - unit,
    )  # fmt: skip


@jit.kernel
def _rows(
    g: int, codes: NDArray,
    runs_d: NDArray, pairs_d: NDArray, places_d: NDArray,
    runs_h: NDArray, pairs_h: NDArray, places_h: NDArray,
    strips: NDArray, runs_w: NDArray, pairs_w: NDArray,
    shape: Task, task: Task, segments: NDArray,
) -> None:  # fmt: skip
    """Compute part g of the strips of rows."""
    (
        parts, size, lane, most, abreast, wide, channels, x, size_x, lines, apart_x, w, tap, line,
        start, start_step, y, out_w, outputs, units, move, lists, relu,
    ) = task  # fmt: skip
    line_x, longest = shape[3], segments.shape[2]
    list_x = lists + (g * 4 + 2) * longest * 8
    list_w = list_x + longest * 8
    for u in range(units * g // parts, units * (g + 1) // parts):
        v0, v1, r0, r1, row, rows, _ = _strip(
            u, strips, shape, runs_d, pairs_d, places_d, runs_h, pairs_h, places_h, segments[g]
        )
        last = min(lane, outputs - (v1 - 1) * lane)
        fresh = ((v1 - v0) // abreast + (v1 - v0) % abreast) * lines * apart_x  # of each place
        for r in range(r0, r1):
            first, apart, count, pair0, pair1 = (
                runs_w[r, 0], runs_w[r, 1], runs_w[r, 2], runs_w[r, 3], runs_w[r, 4]
            )  # fmt: skip
            terms, tap_step, step, moved = runs_w[r, 5], runs_w[r, 6], runs_w[r, 7], runs_w[r, 8]
            s = 0
            for i in range(rows):
                for e in range(pair0, pair1, terms):
                    segments[g, 2, s] = segments[g, 0, i] + (pairs_w[e, 1] + moved) * channels
                    segments[g, 3, s] = segments[g, 1, i] + pairs_w[e, 0] * tap
                    s += 1
            # The rows of X behind those that are met, which the next row of the result may meet.
            behind = segments[g, 2, max(0, s - 1)] + line_x + v0 * wide
            asked = lines if s > 0 and behind + count * fresh <= size_x else 0
            place = row * out_w + first
            tiles = (count + most - 1) // most  # their heights equalised
            height, higher = count // tiles, count % tiles
            for part in range(2):
                many = higher if part == 0 else tiles - higher
                skipped = 0 if part == 0 else higher * (height + 1)
                if many == 0:
                    continue
                call(codes[r], (
                    height + (1 - part), many,
                    x + (skipped * move * channels + v0 * wide) * size, list_x,
                    move * channels, step * channels,
                    w + v0 * lane * size, list_w, tap_step * tap, line,
                    s, terms, start + v0 * start_step * size, start_step,
                    y + ((place + skipped * apart) * outputs + v0 * lane) * size, apart * outputs,
                    v1 - v0, last, relu, x + (behind + skipped * fresh) * size, asked, apart_x,
                ))  # fmt: skip


def _strips(axis: _Axis, places: int, most: int) -> tuple[NDArray, NDArray]:
    """Cut the runs of an axis to strips of so many places at the most.

    Returns
    -------
    strips : array, shape (S + 1,)
        The first run of each strip, and the end of them.
    runs : array, shape (all, 9)
        As of the axis, and how far the sources of the first place are from those of the pairs.
    """
    count = -(-places // most)
    strips, runs = [0], []
    for i in range(count):
        p0, p1 = places * i // count, places * (i + 1) // count
        for first, apart, number, *rest in axis.runs.tolist():
            j0, j1 = max(0, -((first - p0) // apart)), min(number, -((first - p1) // apart))
            if j0 < j1:
                runs.append((first + j0 * apart, apart, j1 - j0, *rest, j0 * axis.move))
        strips.append(len(runs))
    return np.array(strips), np.array(runs)


@dataclass(frozen=True)
class _Plan:
    """What the shapes of a sum (2) or (3) say about it."""

    fixed: Arguments
    sources: Ints
    places: Ints
    move: int
    longest: int
    """The most segments of a tile."""
    strips: int
    """Of a row."""
    blocks: int
    """Of channels."""


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
    deep, rows, columns = (_axis(*axis, mode, back) for axis in described)
    volume, made = fill + sizes, fill + windows.outputs(sizes)
    sources, places = (made, volume) if back else (volume, made)

    met = [int(np.diff(axis.runs[:, 3:5]).max(initial=1)) for axis in (deep, rows, columns)]
    lines = met[0] * met[1]
    size, lane = dtype.itemsize, lanes(dtype)
    reach = 8 * columns.move + met[2]
    vectors = -(-groups * outputs // lane)
    blocks = min(vectors, -(-lines * reach * groups * inputs * size // NEAR))
    column = lines * -(-vectors // blocks) * lane * inputs // outputs * size
    strips, runs = _strips(columns, places[2], max(8, (NEAR // column - met[2]) // columns.move))
    codes = []
    for _, _, count, _, _, terms, _, step, _ in runs:
        slides = count > 1 and step == columns.move
        codes.append(taps(inputs, outputs, *split(int(terms), inputs, slides))(dtype))
    fixed = Arguments(
        np.array(codes), deep.runs, deep.pairs, deep.places, rows.runs, rows.pairs, rows.places,
        strips, runs, columns.pairs,
    )  # fmt: skip
    return _Plan(fixed, sources, places, columns.move, math.prod(met), len(strips) - 1, blocks)


def _given(
    plan: _Plan, x: NDArray, inputs: int, y: NDArray, outputs: int, kernel: Ints
) -> tuple[Task, Task, Task]:
    """Return what `_strip` is told; how the sources x lie; how their places y do, and go by."""
    c, o, lane = x.shape[-1], y.shape[-1], lanes(x.dtype)
    many = abreast(inputs, outputs)
    shape = (
        len(x), *plan.sources[:2], plan.sources[2] * c, *kernel[1:], inputs * o, *plan.places[:2],
        plan.blocks, -(-o // lane),
    )  # fmt: skip
    # For each place and vectors abreast there are so many sources that others do not ask for.
    own = many * lane * x.size // y.size if plan.places[1] > 1 else 0
    line = LINE // x.itemsize
    sources = (
        many, lane * inputs // outputs, c, address(x), x.size, -(-own // line),
        min(line, own),
    )  # fmt: skip
    out_d, out_h, out_w = plan.places
    places = address(y), out_w, o, plan.blocks * len(x) * out_d * out_h * plan.strips, plan.move
    return shape, sources, places


def _correlate(
    plan: _Plan, x: NDArray, inputs: int, weight: NDArray, outputs: int, bias: NDArray | None,
    y: NDArray, kernel: Ints, relu: bool,
) -> None:  # fmt: skip
    """Write y, given x and weights (*K, inputs of a group, channels of y)."""
    machine = plan_of(x.dtype)
    size, lane, o = machine.size, machine.lane, y.shape[-1]
    parts = count_threads() if y.size * weight.size // o > SERIAL else 1
    segments = np.empty((parts, 4, plan.longest), np.int64)
    start, start_step = (machine.zeros_at, 0) if bias is None else (address(bias), lane)
    shape, sources, places = _given(plan, x, inputs, y, outputs, kernel)
    task = (
        parts, size, lane, tallest(inputs, outputs), *sources, address(weight), inputs * o, o,
        start, start_step, *places, address(segments), int(relu),
    )  # fmt: skip
    pool.launch(_rows, parts, plan.fixed, shape, task, segments)


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
    strips: NDArray, runs_w: NDArray, pairs_w: NDArray,
    shape: Task, task: Task, segments: NDArray,
) -> None:  # fmt: skip
    """Add the chunks of part g: each of some strips of rows, to a dW of its own."""
    (
        parts, size, lane, most, abreast, wide, channels, x, size_x, lines, apart_x, dw, tap, line,
        chunks, dw_size, y, out_w, outputs, units, move, lists, inputs, code,
    ) = task  # fmt: skip
    line_x, longest = shape[3], segments.shape[2]
    list_x = lists + (g * 4 + 2) * longest * 8
    list_w = list_x + longest * 8
    for chunk in range(chunks * g // parts, chunks * (g + 1) // parts):
        for u in range(units * chunk // chunks, units * (chunk + 1) // chunks):
            v0, v1, r0, r1, row, rows, left = _strip(
                u, strips, shape, runs_d, pairs_d, places_d, runs_h, pairs_h, places_h, segments[g]
            )
            last = min(lane, outputs - (v1 - 1) * lane)
            fresh = ((v1 - v0) // abreast + (v1 - v0) % abreast) * lines * apart_x
            for r in range(r0, r1):
                first, apart, count, pair0, pair1 = (
                    runs_w[r, 0], runs_w[r, 1], runs_w[r, 2], runs_w[r, 3], runs_w[r, 4]
                )  # fmt: skip
                terms, tap_step, step, moved = (
                    runs_w[r, 5], runs_w[r, 6], runs_w[r, 7], runs_w[r, 8]
                )  # fmt: skip
                pieces = (terms + most - 1) // most
                place = row * out_w + first
                for e in range(pair0, pair1, terms):
                    for piece in range(pieces):
                        k0, k1 = terms * piece // pieces, terms * (piece + 1) // pieces
                        together = most_rows(k1 - k0, inputs, abreast)
                        for i0 in range(0, rows, together):
                            i1 = min(rows, i0 + together)
                            for i in range(i0, i1):
                                column = pairs_w[e, 1] + moved + k0 * step
                                element = pairs_w[e, 0] + k0 * tap_step
                                segments[g, 2, i - i0] = segments[g, 0, i] + column * channels
                                segments[g, 3, i - i0] = segments[g, 1, i] + element * tap
                            # The rows of X and Y behind these, once for all pieces of a row.
                            behind = segments[g, 2, i1 - i0 - 1] + line_x + v0 * wide
                            asked = 0
                            if i1 == rows and piece == 0 and left > 0:
                                asked = lines if behind + count * fresh <= size_x else 0
                            call(code, (
                                16 * (i1 - i0) + k1 - k0, x + v0 * wide * size, list_x,
                                move * channels, step * channels,
                                y + (place * outputs + v0 * lane) * size, apart * outputs, count,
                                dw + (chunk * dw_size + v0 * lane) * size, list_w,
                                tap_step * tap, line, v1 - v0, last,
                                out_w * outputs if asked > 0 else 0, x + behind * size, asked,
                                apart_x,
                            ))  # fmt: skip


def weight_gradient(
    x: NDArray, dy: NDArray, weight: Ints, windows: Windows, mode: str, groups: int
) -> NDArray:
    """Return dW, of the shape `weight`: sums over chunks of a fixed size, added in their order."""
    c, o = weight[-2], weight[-1] // groups
    plan = _plan(x.shape[1:-1], windows, mode, groups, c, o, x.dtype, False)
    size, lane, channels = x.itemsize, lanes(x.dtype), weight[-1]
    rows = len(x) * dy[0].size // (channels * dy.shape[-2])
    chunks = max(1, min(CHUNKS, rows // 8))
    parts = min(count_threads(), chunks) if dy.size * math.prod(weight[:-1]) > SERIAL else 1
    dweights = np.zeros((chunks, *weight), x.dtype)
    segments = np.empty((parts, 4, max(plan.longest, 3)), np.int64)
    shape, sources, places = _given(plan, x, c, dy, o, _three(windows.size))
    task = (
        parts, size, lane, most_taps(c), *sources, address(dweights), c * channels, channels,
        chunks, math.prod(weight), *places, address(segments), c, taps_gradient(c, o)(x.dtype),
    )  # fmt: skip
    pool.launch(_weights, parts, plan.fixed, shape, task, segments)
    total: NDArray = dweights[0] if chunks == 1 else dweights.sum(axis=0)
    return total


def _three(kernel: Ints) -> Ints:
    return (1,) * (3 - len(kernel)) + kernel
