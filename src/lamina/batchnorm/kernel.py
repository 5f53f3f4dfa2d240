"""BatchNorm: the functions of formula.py, in as few passes over memory as there can be.

Forward reads x twice and writes y; backward reads x and dy twice and writes dx. Rows of x go by
blocks of a fixed number, whose statistics are taken about the mean of the block while it is in the
cache, and made one in a binary tree by index: never from E[x²] - E[x]². So neither threads nor the
width of vectors change a bit.

A ReLU that follows goes into the same passes: forward y, backward both.

Few channels would leave most of a vector empty; `fold` rows side by side, which x is by nature,
then count as one row of `fold` C columns, and what falls to a channel is made one at the end.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import call, data, held, item
from ..engine.matmul import are_contiguous, contiguous
from ..engine.memory import ALIGNMENT, empty, past_caches, workspace
from ..engine.packing import copy
from ..engine.sweep import DOUBLE
from ..engine.threads import count as count_threads
from ..engine.tile import lanes
from . import columns
from .formula import Running, Statistics, Sums

NDArray = npt.NDArray[Any]

ROWS: Final = 128
"""Rows of a block."""
COLUMNS: Final = 256
"""Columns of a block that a thread takes at once; they change no bit."""
WIDTH: Final = 64
"""Fewer channels are folded to a multiple of so many columns: whole vectors, several at once."""
LONG: Final = 32
"""That pays if so many rows are left; else they are folded to at most so many columns."""
SERIAL: Final = 32_768
"""Up to so many values a call stays on one core: a second one would cost more."""
WIDE: Final = 512
"""So many channels are made one by several threads; fewer are not worth it."""
BLOCK: Final = 4096
"""Values of a block of rows that is mapped with a strip's numbers in registers."""
RUN: Final = 16
"""Blocks that are mapped in their order; runs of them go from the last to the first."""
NUMBERS: Final = 8
"""Those of a channel that forward works with: mean, slope, intercept, rest, var, scale, and the
running mean and variance that come of them."""
LAYOUTS: Final = 256
"""For how many sizes layouts are kept."""


class Cache(NamedTuple):
    """What `backward` needs, and the statistics that y was computed with."""

    x: NDArray
    numbers: NDArray
    """Rows of mean, slope, intercept, rest (of the mean, which its dtype does not hold), var,
    scale, 1 / √(var + eps), and of the running values after this batch, if asked for."""
    wide: NDArray
    """The first three, `fold` times side by side."""
    gamma: NDArray | None
    beta: NDArray | None
    M: int | None
    lengths: NDArray | None
    relu: bool

    @property
    def mean(self) -> NDArray:
        """The mean of each channel."""
        found: NDArray = self.numbers[0]
        return found

    @property
    def var(self) -> NDArray:
        """The variance of each channel."""
        found: NDArray = self.numbers[4]
        return found

    @property
    def running(self) -> tuple[NDArray, NDArray]:
        """The running mean and variance after this batch, if they were asked for."""
        return self.numbers[6], self.numbers[7]


# What falls to a part. `full` rows of `width` = `fold` C columns, and a last row of `tail`, are cut
# into blocks of some rows; the tail is a block of its own.


@jit.kernel
def _blocks(rows: int, full: int, tail: int) -> int:
    return (full + rows - 1) // rows + (tail > 0)


@jit.kernel
def _block(i: int, rows: int, full: int, tail: int, width: int) -> tuple[int, int, int]:
    """Return the first row of block i, its rows and its columns."""
    first = min(i * rows, full)
    if first == full:
        return full, 1, tail
    return first, min(rows, full - first), width


@jit.kernel
def _units(group: int, blocks: int, tail: int, width: int) -> tuple[int, int]:
    """Return how many spans of columns there are, and how many units: spans of groups of blocks."""
    spans = (width + COLUMNS - 1) // COLUMNS
    return spans, _blocks(group, blocks, tail) * spans


@jit.kernel
def _unit(u: int, spans: int, group: int, blocks: int) -> tuple[int, int, int]:
    """Return the first column of unit u, and its blocks, from and to."""
    first = u // spans * group
    if first >= blocks:  # the tail
        return u % spans * COLUMNS, blocks, blocks + 1
    return u % spans * COLUMNS, first, min(first + group, blocks)


@jit.kernel
def _met_again(k: int, blocks: int) -> int:
    """Return which block is mapped as the k-th: the sums' last ones are in the caches still."""
    return max(blocks - (k // RUN + 1) * RUN, 0) + k % RUN


@jit.kernel
def _channels(g: int, parts: int, c: int) -> tuple[int, int]:
    """Return the channels whose blocks part g makes one, from and to."""
    if c < WIDE:
        return 0, c if g == 0 else 0
    return c * g // parts // 16 * 16, c if g == parts - 1 else c * (g + 1) // parts // 16 * 16


@jit.kernel
def _merge(
    merge: int, delta: int, q: int, stride: int, width: int, sets: int,
    each: int, total: int, longer: int,
) -> None:  # fmt: skip
    """Make sets one in a binary tree: of `each` values, `total` in all; 1 more in `longer` sets."""
    step = 1
    while step < sets:
        for i in range(0, sets - step, 2 * step):
            middle, end = i + step, min(sets, i + 2 * step)
            n_a = step * each + max(0, min(longer, middle) - i)
            n_b = min(total, end * each) - middle * each + max(0, min(longer, end) - middle)
            a, b = i * stride * 8, middle * stride * 8
            call(merge, (n_a, n_b, delta + a, q + a, delta + b, q + b, width))
        step *= 2


@jit.kernel
def _add(add: int, sums: int, stride: int, width: int, sets: int) -> None:
    """Make sums one in a binary tree."""
    step = 1
    while step < sets:
        for i in range(0, sets - step, 2 * step):
            call(add, (sums + i * stride * 8, sums + (i + step) * stride * 8, width))
        step *= 2


@jit.kernel
def _repeat(copy: int, lane: int, source: int, fold: int, c: int, into: int) -> None:
    """Write the numbers of all channels `fold` times side by side."""
    call(copy, (source, 0, fold, (c + lane - 1) // lane, (c - 1) % lane + 1, into, c))


@jit.kernel
def _forward(phase: int, g: int, at: int) -> None:
    """Do part g: 0 moments of blocks, 1 make them one, 2 the line of each channel, 3 y."""
    (
        _, _, fixed, follows, x, y, gamma, beta, numbers, wide, table,
        running_mean, running_var, next_mean, next_var, mean_shares, var_shares,
    ) = jit.constants(at, 17)  # fmt: skip
    (
        parts, size, lane, full, tail, fold, c, n, group,
        moments, merge, settle, line, apply, copy, follow,
    ) = jit.constants(fixed, 16)  # fmt: skip
    x, y, gamma, beta = data(x), data(y), data(gamma), data(beta)
    numbers, wide, table = data(numbers), data(wide), data(table)
    width, blocks = fold * c, _blocks(ROWS, full, 0)
    delta, q = table + 8, table + 8 + _blocks(ROWS, full, tail) * width * 8
    wide_mean, wide_slope, wide_intercept = wide, wide + width * size, wide + 2 * width * size
    pivots, step = x, c * size
    if fold > 1:
        pivots = wide + 3 * width * size
    mean, slope, intercept, rest = numbers, numbers + step, numbers + 2 * step, numbers + 3 * step
    var, scale = rest + step, rest + 2 * step
    c0, c1 = _channels(g, parts, c)
    at = c0 * size
    if phase == 0:
        spans, units = _units(group, blocks, tail, width)
        for u in range(units * g // parts, units * (g + 1) // parts):
            j, b0, b1 = _unit(u, spans, group, blocks)
            for block in range(b0, b1):
                i, rows, across = _block(block, ROWS, full, tail, width)
                if j < across:
                    into = (block * width + j) * 8
                    call(moments, (
                        x + (i * width + j) * size, width, rows, min(COLUMNS, across - j),
                        pivots + j * size, delta + into, q + into,
                    ))  # fmt: skip
            into, span = (b0 * width + j) * 8, min(COLUMNS, width - j)
            _merge(merge, delta + into, q + into, width, span, b1 - b0, ROWS, full - b0 * ROWS, 0)
    elif phase == 1 and c0 < c1:
        j, groups = c0 * fold * 8, _blocks(group, blocks, 0)
        _merge(
            merge, delta + j, q + j, group * width, (c1 - c0) * fold, groups, group * ROWS, full, 0
        )
        if tail:
            end = blocks * width * 8
            call(merge, (full, 1, delta, q, delta + end, q + end, tail))
        _merge(merge, delta, q, c, c, fold, full, full * fold, tail // c)
        call(settle, (
            n, pivots + at, delta + c0 * 8, q + c0 * 8, c1 - c0, mean + at, rest + at, var + at
        ))  # fmt: skip
    elif phase == 2 and c0 < c1:
        call(line, (
            table, rest + at, var + at, gamma + at, beta + at, c1 - c0,
            scale + at, slope + at, intercept + at,
        ))  # fmt: skip
        if fold > 1:
            _repeat(copy, lane, mean, fold, c, wide_mean)
            _repeat(copy, lane, slope, fold, c, wide_slope)
            _repeat(copy, lane, intercept, fold, c, wide_intercept)
        if follows:
            before, into, shares = data(running_mean) + at, data(next_mean) + at, data(mean_shares)
            call(follow, (before, mean + at, into, into, c1 - c0, shares))  # (5)
            before, into, shares = data(running_var) + at, data(next_var) + at, data(var_shares)
            call(follow, (before, var + at, into, into, c1 - c0, shares))  # (6)
    elif phase == 3:
        some = max(2, BLOCK // width)
        count = _blocks(some, full, tail)
        first, end = count * g // parts, count * (g + 1) // parts
        for k in range(end - first):
            u = first + _met_again(k, end - first)
            i, rows, across = _block(u, some, full, tail, width)
            at = i * width * size
            call(apply, (
                x + at, y + at, width, rows, across,
                wide_mean, wide_slope, wide_intercept,
            ))  # fmt: skip


@jit.kernel
def _forward_steps(part: int, at: int) -> None:
    arguments = jit.constants(at, 17)
    parts, steps = arguments[0], data(arguments[1])
    for i in range(2):
        _forward(item(steps, 2 * (part // parts) + i), part % parts, at)


@jit.kernel
def _backward(phase: int, g: int, at: int) -> None:
    """Do part g: 0 sums of blocks, 1 make them one, 2 the plane of each channel, 3 and 4 dx."""
    (
        _, _, fixed, zeros, x, dy, dx, gamma, known, known_wide, numbers, wide, table,
    ) = jit.constants(at, 13)  # fmt: skip
    (
        parts, size, lane, full, tail, fold, c, n, group,
        products, add, plane, gradient, apply, copy,
    ) = jit.constants(fixed, 15)  # fmt: skip
    x, dy, dx, gamma = data(x), data(dy), data(dx), data(gamma)
    known, known_wide = data(known), data(known_wide)
    numbers, wide, zeros, table = data(numbers), data(wide), data(zeros), data(table)
    width, blocks = fold * c, _blocks(ROWS, full, 0)
    dys, by_x = table, table + _blocks(ROWS, full, tail) * width * 8
    step = c * size
    rest, scale = known + 3 * step, known + 5 * step
    of_dy, of_x, constant = numbers, numbers + step, numbers + 2 * step
    dgamma, dbeta = numbers + 3 * step, numbers + 4 * step
    step *= fold
    wide_mean, wide_slope, wide_intercept = known_wide, known_wide + step, known_wide + 2 * step
    wide_of_dy, wide_of_x, wide_constant = wide, wide + step, wide + 2 * step
    c0, c1 = _channels(g, parts, c)
    if phase == 0:
        spans, units = _units(group, blocks, tail, width)
        for u in range(units * g // parts, units * (g + 1) // parts):
            j, b0, b1 = _unit(u, spans, group, blocks)
            for block in range(b0, b1):
                i, rows, across = _block(block, ROWS, full, tail, width)
                if j < across:
                    at, into = (i * width + j) * size, (block * width + j) * 8
                    call(products, (
                        x + at, dy + at, width, rows, min(COLUMNS, across - j),
                        wide_mean + j * size, wide_slope + j * size, wide_intercept + j * size,
                        dys + into, by_x + into,
                    ))  # fmt: skip
            into, span = (b0 * width + j) * 8, min(COLUMNS, width - j)
            _add(add, dys + into, width, span, b1 - b0)
            _add(add, by_x + into, width, span, b1 - b0)
    elif phase == 1 and c0 < c1:
        for sums in (dys, by_x):
            groups = _blocks(group, blocks, 0)
            _add(add, sums + c0 * fold * 8, group * width, (c1 - c0) * fold, groups)
            if tail:
                call(add, (sums, sums + blocks * width * 8, tail))
            _add(add, sums, c, c, fold)
    elif phase == 2 and c0 < c1:
        at = c0 * size
        call(plane, (
            n, dys + c0 * 8, by_x + c0 * 8, rest + at, scale + at, gamma + at, c1 - c0,
            dgamma + at, dbeta + at, of_dy + at, of_x + at, constant + at,
        ))  # fmt: skip
        if fold > 1:
            _repeat(copy, lane, of_dy, fold, c, wide_of_dy)
            _repeat(copy, lane, of_x, fold, c, wide_of_x)
            _repeat(copy, lane, constant, fold, c, wide_constant)
    elif phase >= 3:
        some = max(2, BLOCK // width)
        count = _blocks(some, full, tail)
        first, end = count * g // parts, count * (g + 1) // parts
        for k in range(end - first):
            u = first + _met_again(k, end - first)
            i, rows, across = _block(u, some, full, tail, width)
            at = i * width * size
            if phase == 3:
                call(gradient, (
                    x + at, dy + at, dx + at, width, rows, across,
                    wide_mean, wide_of_dy, wide_of_x, wide_constant, wide_slope, wide_intercept,
                ))  # fmt: skip
            else:
                call(apply, (
                    dy + at, dx + at, width, rows, across, zeros, wide_of_dy, zeros
                ))  # fmt: skip


@jit.kernel
def _backward_steps(part: int, at: int) -> None:
    arguments = jit.constants(at, 13)
    parts, steps = arguments[0], data(arguments[1])
    for i in range(2):
        _backward(item(steps, 2 * (part // parts) + i), part % parts, at)


NOTHING: Final = -1
Steps: TypeAlias = tuple[tuple[int, int], ...]
"""The phases of a pass; threads wait at the end of a row."""
OF_BATCH: Final = (0, NOTHING), (1, 2), (3, NOTHING)
"""Those of a forward pass with the statistics of x."""
GIVEN: Final = (2, NOTHING), (3, NOTHING)
"""Those of a pass with given statistics, or given sums."""
ONLY_STATISTICS: Final = (0, NOTHING), (1, NOTHING)
"""Those that statistics alone take."""
MOVED: Final = OF_BATCH
"""Those of a backward pass, of statistics that x moves."""
FIXED: Final = (0, NOTHING), (1, 2), (4, NOTHING)
"""Those of a backward pass, of statistics that are constants."""
ONLY_SUMS: Final = (0, NOTHING), (1, 2)
"""Those that the sums of a backward pass alone take."""


class Layout(NamedTuple):
    """How M rows of C channels lie side by side and are cut.

    Attributes
    ----------
    parts : int
        How many parts of the work threads share.
    full, tail : int
        How many whole rows of `fold` C columns there are, and the columns of the last one.
    fold : int
        How many rows of x count as one.
    group : int
        How many blocks of rows a part makes one by itself.
    table : int
        How many numbers all blocks of rows have for one kind of sum.
    """

    parts: int
    full: int
    tail: int
    fold: int
    group: int
    table: int

    def sizes(self, C: int, M: int, dtype: np.dtype[Any]) -> tuple[int, ...]:
        """Return the sizes at the beginning of a task; M counts the values of the statistics."""
        cut = self.parts, dtype.itemsize, lanes(dtype), self.full, self.tail, self.fold
        return (*cut, C, M, self.group)

    def writes_past(self, arrays: int, C: int, M: int, dtype: np.dtype[Any]) -> bool:
        """Tell whether a pass over so many arrays writes past the caches, which it does by rows."""
        row = self.fold * C * dtype.itemsize
        return row % ALIGNMENT == 0 and past_caches(arrays, M * C * dtype.itemsize)


@functools.lru_cache(LAYOUTS)
def layout(M: int, C: int, threads: int) -> Layout:
    """Return how rows and channels are cut for so many threads."""
    fold = 1
    if C < WIDTH:
        fold = WIDTH // math.gcd(C, WIDTH)
        fold = min(M, fold if LONG * fold <= M else WIDTH // C)
    parts = 1 if M * C <= SERIAL else threads
    full = M // fold
    blocks = -(-full // ROWS)
    # A part makes groups of blocks one, each a subtree of the tree over all.
    group = 1
    while 8 * group * parts <= blocks:
        group *= 2
    table = (blocks + (M % fold > 0)) * fold * C
    return Layout(parts, full, M % fold * C, fold, group, table)


class _Pass(NamedTuple):
    """What follows from sizes, dtype and options alone; `ones` and `zeros` nobody writes to."""

    cut: Layout
    run: pool.Run
    ones: NDArray
    zeros: NDArray


@functools.lru_cache(LAYOUTS)
def _pass(
    steps: Steps, M: int, C: int, dtype: np.dtype[Any], threads: int, relu: bool, follows: bool
) -> _Pass:
    """Return how forward passes go: with a ReLU, running values."""
    c, cut = columns, layout(M, C, threads)
    past = cut.writes_past(2, C, M, dtype)
    first = c.moments(dtype), c.merge(DOUBLE), c.settle(dtype), c.line(dtype)
    last = (c.apply_past if past else c.apply)[relu](dtype), copy(dtype), c.follow(dtype)
    fixed = jit.Constants(*cut.sizes(C, M, dtype), *first, *last)
    phases = np.array(steps)
    arguments = cut.parts, held(phases), fixed.at, follows, *map(pool.late, range(13))
    keep = phases, fixed
    ready = pool.Ready(_forward_steps, cut.parts, arguments, keep, phases=len(steps))
    return _Pass(cut, pool.in_order(ready), np.ones(C, dtype), np.zeros(C, dtype))


@functools.lru_cache(LAYOUTS)
def _pass_back(
    steps: Steps, M: int, C: int, n: int, dtype: np.dtype[Any], threads: int, relu: bool
) -> _Pass:
    """Return how backward passes go, of n values a channel: of a ReLU.

    n counts those of the whole batch, M those that are here.
    """
    c, cut = columns, layout(M, C, threads)
    past = cut.writes_past(3, C, M, dtype)
    gradient, apply = (c.gradient_past, c.apply_past) if past else (c.gradient, c.apply)
    sums = c.products[relu](dtype), c.add(DOUBLE), c.plane(dtype)
    last = gradient[relu](dtype), apply[False](dtype), copy(dtype)
    fixed = jit.Constants(*cut.sizes(C, n, dtype), *sums, *last)
    phases, zeros = np.array(steps), np.zeros(cut.fold * C, dtype)
    arguments = cut.parts, held(phases), fixed.at, held(zeros), *map(pool.late, range(9))
    keep = phases, fixed, zeros
    ready = pool.Ready(_backward_steps, cut.parts, arguments, keep, phases=len(steps))
    return _Pass(cut, pool.in_order(ready), np.ones(C, dtype), zeros)


def stats(x: NDArray, lengths: NDArray | None = None) -> Statistics:
    """Return the statistics of a batch, or of a part of one."""
    rows = contiguous(x) if lengths is None else _pack(x, lengths)
    C = rows.shape[-1]
    M, numbers = rows.size // C, np.zeros((NUMBERS, C), x.dtype)
    if M:
        _bound(ONLY_STATISTICS, M, C, x.dtype)(rows, rows, numbers)
    mean, rest, var = numbers[0], numbers[3], numbers[4]
    return Statistics(mean, rest, var * var.dtype.type(M), M)


def forward(
    x: NDArray,
    gamma: NDArray | None = None,
    beta: NDArray | None = None,
    mean: NDArray | None = None,
    var: NDArray | None = None,
    eps: float = 1e-5,
    lengths: NDArray | None = None,
    stats: Statistics | None = None,
    running: Running | None = None,
    relu: bool = False,
) -> tuple[NDArray, Cache]:
    """Return y, shape (..., C), and the cache of `backward`; with a ReLU on top if asked for.

    A ReLU is for statistics of x or `stats`, not for `mean` and `var`.
    """
    rows = contiguous(x) if lengths is None else _pack(x, lengths)
    C = x.shape[-1]
    M: int | None = rows.size // C
    steps: Steps = OF_BATCH
    numbers = np.zeros((NUMBERS, C), x.dtype)
    if stats is not None:
        steps, M = GIVEN, stats.count
        numbers[0], numbers[3], numbers[4] = stats.mean, stats.rest, stats.var
    elif mean is not None and var is not None:
        steps, M = GIVEN, None
        numbers[0], numbers[4] = mean, var
    y, wide = empty(rows.shape, x.dtype), numbers
    if rows.size:
        given = gamma, beta, eps, running, relu
        wide = _bound(steps, rows.size // C, C, x.dtype, *given)(rows, y, numbers)
    else:
        np.divide(1, np.sqrt(numbers[4] + eps), out=numbers[5])
    cache = Cache(rows, numbers, wide, gamma, beta, M, lengths, relu)
    return _unpack(y, lengths, x.shape), cache


def bind(
    shape: tuple[int, ...], dtype: np.dtype[Any], gamma: NDArray | None, beta: NDArray | None,
    eps: float, running: Running | None, relu: bool,
) -> Callable[[NDArray], tuple[NDArray, Cache]] | None:  # fmt: skip
    """Return `forward` of an x of that shape, with arrays whose values may change.

    It writes the next running values where these are. None where arrays lie apart or the running
    values are means over all batches.
    """
    apart = not are_contiguous(gamma, beta, *(() if running is None else running[:2]))
    if apart or (running is not None and running.momentum is None):
        return None
    C = shape[-1]
    M = math.prod(shape) // C
    run = _bound(OF_BATCH, M, C, dtype, gamma, beta, eps, running, relu, in_place=True)

    def forward(x: NDArray) -> tuple[NDArray, Cache]:
        x, y, numbers = contiguous(x), empty(shape, dtype), np.empty((NUMBERS, C), dtype)
        return y, Cache(x, numbers, run(x, y, numbers), gamma, beta, M, None, relu)

    return forward


def _bound(
    steps: Steps, M: int, C: int, dtype: np.dtype[Any], gamma: NDArray | None = None,
    beta: NDArray | None = None, eps: float = 1.0, running: Running | None = None,
    relu: bool = False, in_place: bool = False,
) -> Callable[[NDArray, NDArray, NDArray], NDArray]:  # fmt: skip
    """Return what goes through phases: of x, y and the numbers, it returns the `wide` of a cache.

    Without the last phases, y is not written. The next running values go to the numbers, or to
    where these are.
    """
    options = dtype, count_threads(), relu, running is not None
    cut, run, ones, zeros = _pass(steps, M, C, *options)
    gamma = ones if gamma is None else contiguous(gamma)
    beta = zeros if beta is None else contiguous(beta)
    before = shares = ones, ones
    if running is not None:
        before = contiguous(running.mean), contiguous(running.var)
        shares = _shares(running.kept, M / (M - 1) if running.unbiased else 1.0, dtype)

    def through(x: NDArray, y: NDArray, numbers: NDArray) -> NDArray:
        table, wide = workspace(2 * cut.table + 1, DOUBLE), numbers
        table[0] = eps
        if cut.fold > 1:
            wide = np.empty((4, cut.fold, C), dtype)
            wide[3] = x.reshape(-1)[:C]  # the pivots
        after = before if in_place else numbers[6:]
        run(x, y, gamma, beta, numbers, wide, table, *before, *after, *shares)
        return wide

    return through


@functools.lru_cache(LAYOUTS)
def _shares(kept: float, unbiased: float, dtype: np.dtype[Any]) -> tuple[NDArray, NDArray]:
    """Return the numbers by which running values follow a mean, and a variance."""
    return np.array([kept, 1 - kept, 1], dtype), np.array([kept, 1 - kept, unbiased], dtype)


def sums(dy: NDArray, cache: Cache) -> Sums:
    """Return the sums over a batch, or over a part of one, that `backward` needs of the whole."""
    rows = contiguous(dy) if cache.lengths is None else _pack(dy, cache.lengths)
    dgamma, dbeta = np.zeros((2, dy.shape[-1]), dy.dtype)
    if rows.size:
        dgamma, dbeta = _run_backward(ONLY_SUMS, rows, cache)
    return Sums(dbeta, dgamma)


def backward(
    dy: NDArray, cache: Cache, total: Sums | None = None
) -> tuple[NDArray, dict[str, NDArray]]:
    """Return dx, shape (..., C), and the gradients of gamma and beta."""
    lengths = cache.lengths
    rows = contiguous(dy) if lengths is None else _pack(dy, lengths)
    dx = empty(rows.shape, dy.dtype)
    if not rows.size:
        dgamma, dbeta = np.zeros((2, dy.shape[-1]), dy.dtype)
    elif total is None or cache.M is None:
        steps = FIXED if cache.M is None else MOVED
        dgamma, dbeta = _run_backward(steps, rows, cache, dx)
    else:
        dgamma, dbeta = _run_backward(ONLY_SUMS, rows, cache)
        _run_backward(GIVEN, rows, cache, dx, total)
    grads = {}
    if cache.gamma is not None:
        grads["gamma"] = dgamma
    if cache.beta is not None:
        grads["beta"] = dbeta
    return _unpack(dx, lengths, dy.shape), grads


def _run_backward(
    steps: Steps, rows: NDArray, cache: Cache, dx: NDArray | None = None,
    total: Sums | None = None,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Go through phases; without the last ones there is no dx. Return dgamma and dbeta."""
    dtype, C = rows.dtype, rows.shape[-1]
    numbers = np.empty((5, C), dtype)  # of_dy, of_x, constant, dgamma, dbeta
    # Of constants, no share of the sums goes back to x: any count but 0 serves.
    options = cache.M or 1, dtype, count_threads(), cache.relu
    cut, run, ones, _ = _pass_back(steps, rows.size // C, C, *options)
    gamma = ones if cache.gamma is None else contiguous(cache.gamma)
    table = workspace(2 * cut.table, DOUBLE)
    if total is not None:
        rest, scale = cache.numbers[3], cache.numbers[5]
        table[:C] = total.beta
        table[cut.table : cut.table + C] = total.gamma / scale.astype(DOUBLE) + rest * table[:C]
    wide = numbers if cut.fold == 1 else np.empty((3, cut.fold, C), dtype)
    dx = rows if dx is None else dx
    run(cache.x, rows, dx, gamma, cache.numbers, cache.wide, numbers, wide, table)
    return numbers[3], numbers[4]


def _pack(x: NDArray, lengths: NDArray) -> NDArray:
    """Return the real steps of all sequences, one after the other."""
    rows = empty((int(lengths.sum()), *x.shape[2:]), x.dtype)
    first = 0
    for sequence, length in zip(x, lengths.tolist(), strict=True):
        rows[first : first + length] = sequence[:length]
        first += length
    return rows


def _unpack(rows: NDArray, lengths: NDArray | None, shape: tuple[int, ...]) -> NDArray:
    """Return the steps where `_pack` took them from, and 0 in the padding."""
    if lengths is None:
        return rows
    x, first = empty(shape, rows.dtype), 0
    for sequence, length in zip(x, lengths.tolist(), strict=True):
        sequence[:length] = rows[first : first + length]
        sequence[length:] = 0
        first += length
    return x
