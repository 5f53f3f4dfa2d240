"""Pooling: the functions of pooling.py, in one pass over memory.

An element of y goes over the elements of its window, an element of dx over the windows that it is
in, with channels side by side in vectors. Of each axis a *table* says with which element or window
that begins, how many there are, and which place in the window the first one has. MaxPool keeps
for each element of y the place of its maximum. Elements side by side whose terms lie side by side,
too, are one *run*, as wide as all their channels. Every element of y and dx is one chain over the
places in rising order, as in the formula, so threads change no bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..arrays import mask_steps
from ..engine import jit, pool, program
from ..engine.cached import KeptBySize, cached_property
from ..engine.jit import Address, Code, Constants, address, call, data, item
from ..engine.loops import for_range
from ..engine.matmul import contiguous
from ..engine.memory import AHEAD, ALIGNMENT, LINE, empty, past_caches
from ..engine.sweep import Masks, Sweep, Values
from ..engine.threads import count as count_threads
from ..windows import Ints, Pads, Windows

NDArray = npt.NDArray[Any]
R = TypeVar("R")
_i64 = ir.IntType(64)

SERIAL: Final = 32_768
"""Up to so many elements of x a call stays on one core."""
SERIAL_PLANNED: Final = 16_384
"""The same in a program, where each thread may find in its caches what it wrote."""
RANK: Final = 3
"""The most axes between batch and channels."""
AT_ONCE: Final = 8
"""How many terms of a global mean a pass over all channels adds."""
MANY: Final = 4
"""From so many sequences a thread on, none of them is cut."""
SHAPES: Final = 256
"""For how many shapes tables are kept, ..."""
LONG: Final = 2**12
FEW: Final = 8
"""... and for how many with an axis so long: a table has a row an element."""

RUN: Final = 5
"""What a run is: its first term or window, the count, the first place; its first element, its
elements."""
NOWHERE: Final = -1
"""The place that no element of a window has."""
_START: Final = {"max_pool": -np.inf, "greatest_pool": -np.inf, "relu_max_pool": 0.0}
"""What maxima are at least."""


# Vector code. It does the elements along the last axis, whose runs it has. Its arguments are two
# arrays to read, two to write, the counts of the terms on the other axes, the place of the first
# one, the runs and their table, and the sizes: the channels, a divisor, and by axis the steps from
# term to term, in elements of what is read, and from place to place.

_ARGUMENTS: Final = "*a *b *c *d n0 n1 place count *table *sizes"


class _Terms:
    """The terms of an element, in a function under construction."""

    def __init__(self, name: str, dtype: Any, vectors: Ints, strip: Callable[..., None]) -> None:
        """Emit `strip(self, column, masks)` for so many vectors of every element."""
        self.sweep = s = Sweep(name, dtype, _ARGUMENTS)
        self.write = s.streams if name.endswith("_past") else s.stores
        self.once = name.endswith("_once")
        b = s.builder
        *arrays, n0, n1, place, count, table, sizes = s.given
        width, self.divisor, *steps = self._integers(sizes, 2 + 2 * RANK)
        self.steps, self.places = steps[:RANK], steps[RANK:]
        self.integers = ir.VectorType(ir.IntType(8 * s.size), s.lanes)
        with for_range(b, count) as run:
            row = b.gep(table, [b.mul(run.index, _i64(RUN))], source_etype=_i64)
            first, n2, tap, to, length = self._integers(row, RUN)
            self.counts, self.place = [n0, n1, n2], b.add(place, tap)
            moved = [b.mul(index, width) for index in (first, first, to, to)]
            self.a, self.b, self.c, self.d = map(partial(s.at, b), arrays, moved)
            self.sweep_run(b.mul(length, width), vectors, partial(strip, self))

    def sweep_run(self, width: ir.Value, vectors: Ints, strip: Callable[..., None]) -> None:
        """Emit the strips of a run."""
        self.sweep.across(width, vectors, strip)

    def _integers(self, at: ir.Value, count: int) -> Values:
        b = self.sweep.builder
        places = [b.gep(at, [_i64(i)], source_etype=_i64) for i in range(count)]
        return [b.load(place, typ=_i64, align=8) for place in places]

    def loads(self, pointer: ir.Value, masks: Masks) -> Values:
        """Return the vectors of a term; ask ahead for those of the next ones, to be read once."""
        s, b = self.sweep, self.sweep.builder
        if self.once and len(masks) > 1:
            for line in range(AHEAD, AHEAD + len(masks) * s.lanes * s.size, LINE):
                s.prefetch(b, s.at(b, pointer, line // s.size), once=True)
        return s.loads(pointer, masks)

    def over(
        self, starts: Values, carried: Values, body: Callable[[Values, ir.Value, Values], Values]
    ) -> Values:
        """Go over the terms: `body(pointers, place, carried)` returns what to carry on."""
        return self._axis(0, starts, [self.place, *carried], body)[1:]

    def _axis(self, axis: int, starts: Values, carried: Values, body: Any) -> Values:
        b = self.sweep.builder

        def turn(at: Values, carried: Values) -> Values:
            place, *values = carried
            if axis + 1 < RANK:
                found = self._axis(axis + 1, at, carried, body)[1:]
            else:
                found = body(at, place, values)
            return [b.add(place, self.places[axis]), *found]

        strides = [self.steps[axis]] * len(starts)
        return self.sweep.down(self.counts[axis], starts, strides, carried, turn)

    def spread(self, place: ir.Value) -> ir.Value:
        """Return a place in every lane."""
        s = self.sweep
        narrow = place if s.size == 8 else s.builder.trunc(place, ir.IntType(32))
        return s.spread(s.builder, narrow, self.integers)


class _FewTerms(_Terms):
    """A pass over all of a run for every `AT_ONCE` terms on the first axis.

    Down all terms of one strip after the other, memory would be read a few lines of a page at once.
    What no cache holds is read best in order: there a pass is over one term.

    Attributes
    ----------
    terms : value
        How many there are on the first axis in all passes.
    first, last : value
        Whether this is the first pass, and whether it is the last one.
    """

    def loads(self, pointer: ir.Value, masks: Masks) -> Values:
        """Return the vectors of a term; the CPU sees by itself what is read in order."""
        return self.sweep.loads(pointer, masks)

    def sweep_run(self, width: ir.Value, vectors: Ints, strip: Callable[..., None]) -> None:
        """Emit the passes."""
        s, b, (terms, *others), a = self.sweep, self.sweep.builder, self.counts, self.a
        self.terms = terms
        some, at_once = b.icmp_signed(">", terms, _i64(0)), 1 if self.once else AT_ONCE
        passes = b.select(some, b.sdiv(b.add(terms, _i64(at_once - 1)), _i64(at_once)), _i64(1))
        with for_range(b, passes) as turn:
            done = b.mul(turn.index, _i64(at_once))
            left = b.sub(terms, done)
            self.first = b.icmp_signed("==", turn.index, _i64(0))
            self.last = b.icmp_signed("<=", left, _i64(at_once))
            self.counts = [b.select(self.last, left, _i64(at_once)), *others]
            self.a = s.at(b, a, b.mul(done, self.steps[0]))
            super().sweep_run(width, vectors, strip)


def _emit_max(name: str, dtype: Any) -> str:
    """Write the maxima of a in c, and their places in d.

    After a ReLU they are 0 at least, and have no place where they are 0.
    """

    def strip(t: _Terms, j: ir.Value, masks: Masks) -> None:
        s, b = t.sweep, t.sweep.builder

        def term(at: Values, place: ir.Value, carried: Values) -> Values:
            best, where, here = carried[: len(masks)], carried[len(masks) :], t.spread(place)
            values = s.loads(at[0], masks)
            better = [_beyond(b, v, m) for v, m in zip(values, best, strict=True)]
            return [
                *map(b.select, better, values, best),
                *(b.select(m, here, w) for m, w in zip(better, where, strict=True)),
            ]

        start, place = _START[name], _i64(NOWHERE) if name == "relu_max_pool" else t.place
        first = [s.vector(start)] * len(masks) + [t.spread(place)] * len(masks)
        found = t.over([s.at(b, t.a, j)], first, term)
        s.stores(found[: len(masks)], s.at(b, t.c, j), masks)
        places = [b.bitcast(v, s.vector) for v in found[len(masks) :]]
        s.stores(places, s.at(b, t.d, j), masks)

    return _Terms(name, dtype, (4, 2, 1), strip).sweep.end()


def _beyond(b: ir.IRBuilder, value: ir.Value, best: ir.Value) -> ir.Value:
    """Return where a value takes the place of the best so far: if it is more, or the first NaN."""
    return b.and_(b.fcmp_unordered(">", value, best), b.fcmp_ordered("ord", best, best))


def _emit_greatest(name: str, dtype: Any) -> str:
    """Write the maxima of a in c.

    A first pass does not see NaN, which takes half the operations; but then the sum of all is NaN,
    and the strip is done anew.
    """

    def strip(t: _Terms, j: ir.Value, masks: Masks) -> None:
        s, b = t.sweep, t.sweep.builder
        start = [s.vector(-np.inf)] * len(masks)

        def quick(at: Values, place: ir.Value, carried: Values) -> Values:
            values, best, sums = t.loads(at[0], masks), carried[:-2], carried[-2:]
            for v in values:
                sums = [sums[1], b.fadd(sums[0], v)]
            pairs = zip(values, best, strict=True)
            return [*(b.select(b.fcmp_ordered(">", v, m), v, m) for v, m in pairs), *sums]

        def exact(at: Values, place: ir.Value, carried: Values) -> Values:
            pairs = zip(s.loads(at[0], masks), carried, strict=True)
            return [b.select(_beyond(b, v, m), v, m) for v, m in pairs]

        *found, sum0, sum1 = t.over([s.at(b, t.a, j)], [*start, *[s.vector(0.0)] * 2], quick)
        s.stores(found, s.at(b, t.c, j), masks)
        of_all = b.fadd(sum0, sum1)
        lanes = ir.IntType(s.lanes)
        missed = b.bitcast(b.fcmp_unordered("uno", of_all, of_all), lanes)
        with b.if_then(b.icmp_unsigned("!=", missed, lanes(0)), likely=False):
            s.stores(t.over([s.at(b, t.a, j)], start, exact), s.at(b, t.c, j), masks)

    return _Terms(name, dtype, (8, 4, 2, 1), strip).sweep.end()


def _emit_sum(name: str, dtype: Any) -> str:
    """Write the sums of a, over the divisor, in c."""

    def strip(t: _Terms, j: ir.Value, masks: Masks) -> None:
        s, b, divisor = t.sweep, t.sweep.builder, t.sweep.number(t.divisor)
        t.write([b.fdiv(v, divisor) for v in _sums(t, j, masks)], s.at(b, t.c, j), masks)

    return _Terms(name, dtype, (8, 4, 2, 1), strip).sweep.end()


def _emit_mean(name: str, dtype: Any) -> str:
    """Write the means of a in c, 0 where there are no terms."""

    def strip(t: _Terms, j: ir.Value, masks: Masks) -> None:
        s, b = t.sweep, t.sweep.builder
        n0, n1, n2 = t.counts
        terms = b.mul(b.mul(n0, n1), n2)
        divisor = s.number(b.select(b.icmp_signed(">", terms, _i64(0)), terms, _i64(1)))
        means = [b.fdiv(v, divisor) for v in _sums(t, j, masks)]
        s.stores(means, s.at(b, t.c, j), masks)

    return _Terms(name, dtype, (8, 4, 2, 1), strip).sweep.end()


def _emit_global_mean(name: str, dtype: Any) -> str:
    """Write the means of a in c, whose terms are all on the first axis."""

    def strip(t: _FewTerms, j: ir.Value, masks: Masks) -> None:
        s, b, c = t.sweep, t.sweep.builder, t.sweep.at(t.sweep.builder, t.c, j)
        zero = s.vector(0.0)
        before = [b.select(t.first, zero, v) for v in s.loads(c, masks)]
        found = _sums(t, j, masks, before)
        with b.if_else(t.last) as (then, otherwise):
            with then:
                some = b.icmp_signed(">", t.terms, _i64(0))
                divisor = s.number(b.select(some, t.terms, _i64(1)))
                s.stores([b.fdiv(v, divisor) for v in found], c, masks)
            with otherwise:
                s.stores(found, c, masks)

    return _FewTerms(name, dtype, (8, 4, 1), strip).sweep.end()


def _sums(t: _Terms, j: ir.Value, masks: Masks, before: Values | None = None) -> Values:
    s, b = t.sweep, t.sweep.builder

    def term(at: Values, place: ir.Value, carried: Values) -> Values:
        return list(map(b.fadd, carried, t.loads(at[0], masks)))

    return t.over([s.at(b, t.a, j)], before or [s.vector(0.0)] * len(masks), term)


def _emit_chosen(name: str, dtype: Any) -> str:
    """Write in c the sums of those of a whose places are in b."""

    def strip(t: _Terms, j: ir.Value, masks: Masks) -> None:
        s, b = t.sweep, t.sweep.builder
        zero = s.vector(0.0)

        def term(at: Values, place: ir.Value, carried: Values) -> Values:
            here = t.spread(place)
            chosen = [
                b.select(b.icmp_signed("==", b.bitcast(p, t.integers), here), v, zero)
                for v, p in zip(s.loads(at[0], masks), s.loads(at[1], masks), strict=True)
            ]
            return list(map(b.fadd, carried, chosen))

        found = t.over([s.at(b, t.a, j), s.at(b, t.b, j)], [zero] * len(masks), term)
        t.write(found, s.at(b, t.c, j), masks)

    return _Terms(name, dtype, (4, 2, 1), strip).sweep.end()


def _twin(
    name: str, a: Address, other: Address, c: Address, d: Address,
    n0: int, n1: int, place: int, count: int, table: Address, sizes: Address,
) -> None:  # fmt: skip
    size: int = a.dtype.itemsize
    width, divisor, *steps = sizes.row(0, 2 + 2 * RANK).tolist()
    for run in range(count):
        first, n2, tap, to, length = table.row(RUN * run, RUN).tolist()
        at, to = first * width * size, to * width * size
        _run_twin(
            name,
            a + at,
            other + at,
            c + to,
            d + to,
            (n0, n1, n2),
            place + tap,
            length * width,
            divisor,
            steps,
        )


def _run_twin(
    name: str, a: Address, other: Address, c: Address, d: Address,
    counts: Ints, place: int, width: int, divisor: int, steps: list[int],
) -> None:  # fmt: skip
    best = np.full(width, _START.get(name, 0), a.dtype)
    where = np.full(width, NOWHERE if name == "relu_max_pool" else place)
    total = np.zeros(width, a.dtype)
    for i in np.ndindex(counts):
        first, here = np.dot(i, steps[:RANK]), place + np.dot(i, steps[RANK:])
        values = a.row(first, width)
        better = ((values > best) | np.isnan(values)) & ~np.isnan(best)
        best, where = np.where(better, values, best), np.where(better, here, where)
        if name == "chosen_pool":
            values = np.where(other.row(first, width).view(_places(a.dtype)) == here, values, 0)
        if name not in _START:
            total = total + values
    if name in _START:
        total = best
    if name in ("max_pool", "relu_max_pool"):
        d.row(0, width).view(_places(a.dtype))[...] = where
    elif name == "mean_pool":
        total = total / max(math.prod(counts), 1)
    elif name == "sum_pool":
        total = total / divisor
    c.row(0, width)[...] = total


def _places(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.int32 if dtype.itemsize == 4 else np.int64)


maximum: Final = Code("max_pool", partial(_emit_max, "max_pool"), partial(_twin, "max_pool"))
"""The maxima of windows and their places."""
greatest, greatest_once = (
    Code(name, partial(_emit_greatest, name), partial(_twin, "greatest_pool"))
    for name in ("greatest_pool", "greatest_pool_once")
)
"""The maxima of windows alone; and the same of what is read past the caches."""
rectified: Final = Code(
    "relu_max_pool", partial(_emit_max, "relu_max_pool"), partial(_twin, "relu_max_pool")
)
"""The maxima after a ReLU and their places: none where the maximum is 0, for no gradient passes."""
mean, mean_once = (
    Code(name, partial(_emit_mean, name), partial(_twin, "mean_pool"))
    for name in ("mean_pool", "mean_pool_once")
)
"""The means of windows; and the same of what is read past the caches."""
global_mean, global_mean_once = (
    Code(name, partial(_emit_global_mean, name), partial(_twin, "mean_pool"))
    for name in ("global_mean", "global_mean_once")
)
"""The means over all of one axis; and the same of what is read past the caches."""
ONCE: Final = {greatest: greatest_once, mean: mean_once, global_mean: global_mean_once}
"""The code that reads past the caches, by that which does not."""
sums, sums_past = (
    Code(name, partial(_emit_sum, name), partial(_twin, "sum_pool"))
    for name in ("sum_pool", "sum_pool_past")
)
"""The sum of the gradients of all windows that an element is in; and the same written past the
caches."""
chosen, chosen_past = (
    Code(name, partial(_emit_chosen, name), partial(_twin, "chosen_pool"))
    for name in ("chosen_pool", "chosen_pool_past")
)
"""The sum of the gradients of the windows whose maximum it is; and the same written past the
caches."""


@jit.kernel
def _pool(g: int, at: int) -> None:
    """Do part g of all rows of what is written."""
    fixed, a, b, c, d = jit.constants(at, 5)
    (
        parts, size, code, n, width, e, e0, e1, k0, k1, samples, rows, t0, r1, t1, r2, runs, t2,
        sizes,
    ) = jit.constants(fixed, 19)  # fmt: skip
    a, b, c, d = data(a), data(b), data(c), data(d)
    total = n * rows
    for u in range(total * g // parts, total * (g + 1) // parts):
        sample = u // rows
        row = 3 * (sample % samples * rows + u % rows)
        for j in range(r1):
            first = (sample * e + item(t0, row) * e0 + item(t1, 3 * j) * e1) * size
            to = (u * r1 + j) * r2 * width * size
            place = item(t0, row + 2) * k0 + item(t1, 3 * j + 2) * k1
            call(code, (
                a + first, b + first, c + to, d + to, item(t0, row + 1), item(t1, 3 * j + 1),
                place, runs, t2, sizes,
            ))  # fmt: skip


# Tables


class Tables(NamedTuple):
    """Where windows lie on x.

    Attributes
    ----------
    forward, back : tuple of three integer arrays, shape ([M,] rows, 3)
        The tables of y and of dx by axis, that of the first one with an axis for the samples: one
        for all, or one for each. Columns: first element or window, count, first place.
    window, stride : tuple of int
    outputs : tuple of int
    """

    forward: tuple[NDArray, NDArray, NDArray]
    back: tuple[NDArray, NDArray, NDArray]
    window: Ints
    stride: Ints
    outputs: Ints


def _tables(sizes: Ints, windows: Windows, lengths: NDArray | None, fits: NDArray | None) -> Tables:
    """Return the tables of x (N, *sizes, C), on whose sequences of `lengths` `fits` windows are."""
    tables = _usual(sizes, windows)
    if lengths is None:
        return tables
    (K, *_), (s, *_), ((before, _), *_) = windows.size, windows.stride, windows.pads
    forward, back = _axis_tables(sizes[0], tables.outputs[0], K, s, before, lengths, fits)
    return tables._replace(forward=(forward, *tables.forward[1:]), back=(back, *tables.back[1:]))


def _kept(function: Callable[..., R]) -> KeptBySize[R]:
    """Keep results of a function of a shape, which hold on to tables."""
    return KeptBySize(function, SHAPES, FEW, lambda shape: max(shape) >= LONG)


def _three(axes: Sequence[int], missing: int = 1) -> Ints:
    """Return a number for each of three axes; sequences have the first, images the first and last.

    Lengths go with the first axis, and along the last one the work is cut least.
    """
    first, *rest = axes
    return first, *(missing,) * (RANK - len(axes)), *rest


@_kept
def _usual(sizes: Ints, windows: Windows) -> Tables:
    window, stride = _three(windows.size), _three(windows.stride)
    befores = _three([before for before, _ in windows.pads], 0)
    outputs = _three(windows.outputs(sizes))
    axes = zip(_three(sizes), outputs, window, stride, befores, strict=True)
    pairs = [
        _axis_tables(size, count, K, s, before, np.array([size]), np.array([count]))
        for size, count, K, s, before in axes
    ]
    forward, back = ((tables[0], tables[1][0], tables[2][0]) for tables in zip(*pairs, strict=True))
    return Tables(forward, back, window, stride, outputs)


def _axis_tables(
    size: int, count: int, window: int, stride: int, before: int, lengths: Any, fits: Any
) -> tuple[NDArray, NDArray]:
    """Return the tables of an axis: windows over elements, and elements over windows."""
    lengths, fits = lengths[:, None], fits[:, None]
    p, q = np.arange(count)[None, :], np.arange(size)[None, :]
    begin = p * stride - before
    low, high = np.maximum(-begin, 0), np.minimum(window, lengths - begin)
    terms = np.where(p < fits, np.maximum(high - low, 0), 0)
    forward = np.stack(np.broadcast_arrays(begin + low, terms, low), axis=-1)
    last = np.minimum((q + before) // stride, fits - 1)
    earliest = np.maximum(-(-(q + before - window + 1) // stride), 0)
    terms = np.where(q < lengths, np.maximum(last - earliest + 1, 0), 0)
    back = np.stack(np.broadcast_arrays(last, terms, q + before - last * stride), axis=-1)
    return forward.astype(np.int64), back.astype(np.int64)


def _bind(
    code: Code, tables: tuple[NDArray, NDArray, NDArray], source: Ints, sign: int,
    window: Ints, steps: Ints, read: Ints, written: Ints, dtype: np.dtype[Any], parts: int,
    divisor: int = 1,
) -> "_Bound":  # fmt: skip
    """Return what runs code over all rows of two arrays to write, from two to read (N, *source, C).

    `read` and `written` are the shapes of the arrays of each kind.
    """
    n, width = read[0], read[-1]
    strides = (source[1] * source[2] * width, source[2] * width, width)
    places = (window[1] * window[2], window[2], 1)
    sizes = np.array([
        width, divisor, *(sign * e for e in strides),
        *(k * s for k, s in zip(places, steps, strict=True)),
    ])  # fmt: skip
    first, middle, last = map(contiguous, tables)
    runs = _runs(last)
    fixed = Constants(
        parts, dtype.itemsize, code(dtype), n, width, source[0] * strides[0], *strides[:2],
        *places[:2], *first.shape[:2], address(first), len(middle), address(middle), len(last),
        len(runs), address(runs), address(sizes),
    )  # fmt: skip

    return _Bound(parts, fixed, (first, middle, runs, sizes), 0 in written)


def _runs(table: NDArray) -> NDArray:
    """Return the runs of a table, shape (runs, RUN)."""
    goes_on = (np.diff(table, axis=0) == (1, 0, 0)).all(axis=1)
    begin = np.flatnonzero(np.concatenate(([True], ~goes_on)))[: len(table)]
    lengths = np.diff(begin, append=len(table))
    return np.column_stack((table[begin], begin, lengths)).astype(np.int64)


@dataclass(frozen=True)
class _Bound:
    """What does all rows of arrays of given shapes; `fixed` has the addresses of what is kept."""

    parts: int
    fixed: Constants
    kept: Any
    nothing: bool

    def __call__(self, a: NDArray, b: NDArray, c: NDArray, d: NDArray) -> None:
        """Read a and b, write c and d."""
        if not self.nothing:
            self._run(a, b, c, d)

    @cached_property
    def _run(self) -> pool.Run:
        return pool.in_order(self._ready(*map(pool.late, range(4))))

    def _ready(self, *places: Any) -> pool.Ready:
        return pool.Ready(_pool, self.parts, (self.fixed.at, *places), (self.fixed, self.kept))

    def ready(self, a: int, c: int, scratch: NDArray) -> pool.Ready | None:
        """Return it for what `held` says of an array to read and one to write."""
        return None if self.nothing else self._ready(a, a, c, c)


def _parts(*shapes: Ints, alone: int = SERIAL) -> int:
    return 1 if max(map(math.prod, shapes)) <= alone else count_threads()


# The functions


class Cache(NamedTuple):
    """What the backward functions need.

    Attributes
    ----------
    shape : tuple of int
        That of x.
    tables : Tables
    windows : Windows or None
        Where there are no lengths: what goes before for these is kept.
    places : array or None
        Those of maxima.
    """

    shape: Ints
    tables: Tables
    windows: Windows | None
    places: NDArray | None


def _forward(
    code: Code, x: NDArray, lengths: NDArray | None, fits: NDArray | None = None, *,
    pool_size: Ints, stride: Ints, padding: Pads,
) -> tuple[NDArray, Cache]:  # fmt: skip
    """Return y and the cache; `fits` windows are on each sequence, by default all that can be."""
    x = contiguous(x)
    windows, tables, shape, run = _usual_forward(
        x.shape, code, x.dtype, pool_size, stride, padding, _parts(x.shape)
    )
    if lengths is not None:
        fits = windows.output_lengths(lengths) if fits is None else fits
        tables = _tables(x.shape[1:-1], windows, lengths, fits)
        shape, run = _bind_forward(code, x.shape, x.dtype, windows, tables, _parts(x.shape))
    y = empty(shape, x.dtype)
    places = empty(shape, _places(x.dtype)) if code in (maximum, rectified) else None
    run(x, x, y, y if places is None else places)
    if code is not mean:  # a maximum of nothing is -inf
        y = mask_steps(y, fits)
    return y, Cache(x.shape, tables, windows if lengths is None else None, places)


def _bind_forward(
    code: Code, x: Ints, dtype: np.dtype[Any], windows: Windows, tables: Tables, parts: int
) -> tuple[Ints, _Bound]:
    """Return the shape of y, and what writes y and the places of maxima, of x of that shape."""
    sizes = x[1:-1]
    y = (x[0], *windows.outputs(sizes), x[-1])
    sides = tables.forward, _three(sizes), 1, tables.window, (1,) * RANK
    if past_caches(1, math.prod(x) * dtype.itemsize):
        code = ONCE.get(code, code)
    return y, _bind(code, *sides, x, y, dtype, parts)


@_kept
def _usual_forward(
    x: Ints, code: Code, dtype: np.dtype[Any], pool_size: Ints, stride: Ints, padding: Pads,
    parts: int,
) -> tuple[Windows, Tables, Ints, _Bound]:  # fmt: skip
    """Return the windows, how they lie, and the same where there are no lengths."""
    windows = Windows(pool_size, stride, (1,) * len(pool_size), padding)
    return windows, *_bind_usual(code, x, dtype, windows, parts)


def _bind_usual(
    code: Code, x: Ints, dtype: np.dtype[Any], windows: Windows, parts: int
) -> tuple[Tables, Ints, _Bound]:
    """Return how windows lie, and what `_bind_forward` does, where there are no lengths."""
    y = (x[0], *windows.outputs(x[1:-1]), x[-1])
    if code is not global_mean:
        windows, x = _as_images(parts, windows, x)
    tables = _usual(x[1:-1], windows)
    return tables, y, _bind_forward(code, x, dtype, windows, tables, parts)[1]


def _as_images(parts: int, windows: Windows, *shapes: Ints) -> Any:
    """Return windows, and shapes of arrays, of many sequences as those of images of one row.

    A row is done at once, and not cut.
    """
    w = windows
    if len(w.size) > 1 or shapes[0][0] < MANY * parts:
        return w, *shapes
    w = Windows((1, *w.size), (1, *w.stride), (1, *w.dilation), ((0, 0), *w.pads))
    return w, *((n, 1, *others) for n, *others in shapes)


def _backward(dy: NDArray, cache: Cache, divisor: int = 1) -> NDArray:
    shape, tables, windows, places = cache
    dx, parts = empty(shape, dy.dtype), _parts(shape, dy.shape)
    code = sums if places is None else chosen
    if windows is None:
        run = _bind_backward(code, tables, dy.shape, shape, dy.dtype, parts, divisor)
    else:
        run = _usual_backward(shape, code, windows, dy.shape, dy.dtype, parts, divisor)
    run(dy, dy if places is None else places, dx, dx)
    return dx


def _bind_backward(
    code: Code, tables: Tables, dy: Ints, dx: Ints, dtype: np.dtype[Any], parts: int, divisor: int
) -> _Bound:
    sides = tables.back, tables.outputs, -1, tables.window, tables.stride
    aligned = dx[-1] * dtype.itemsize % ALIGNMENT == 0
    if aligned and past_caches(2, math.prod(dx) * dtype.itemsize):
        code = sums_past if code is sums else chosen_past
    return _bind(code, *sides, dy, dx, dtype, parts, divisor)


@_kept
def _usual_backward(
    dx: Ints, code: Code, windows: Windows, dy: Ints, dtype: np.dtype[Any], parts: int, divisor: int
) -> _Bound:
    windows, dy, dx = _as_images(parts, windows, dy, dx)
    return _bind_backward(code, _usual(dx[1:-1], windows), dy, dx, dtype, parts, divisor)


@lru_cache(SHAPES)
def _divisor(sizes: Ints, windows: Windows) -> int | None:
    """Return the elements of every window, if all have as many and no element is in several.

    Then a sum over them has one term at most, which may as well be divided afterwards.
    """
    tables = _usual(sizes, windows)
    counts = [np.unique(table[..., 1]) for table in tables.forward]
    apart = all(table[..., 1].max() <= 1 for table in tables.back)
    if not apart or any(len(found) != 1 for found in counts):
        return None
    return max(1, math.prod(int(found[0]) for found in counts))


def max_pool(
    x: NDArray, lengths: NDArray | None = None, *, relu: bool = False, keep: bool = True,
    **sizes: Any,
) -> tuple[NDArray, Cache]:  # fmt: skip
    """Return y and the cache of `max_pool_backward`; sizes are those of `_forward`.

    With `relu`, y is that of a ReLU before it, and dx that before the ReLU. Unless the cache is to
    be kept, y alone is right.
    """
    return _forward(rectified if relu else maximum if keep else greatest, x, lengths, **sizes)


def max_pool_backward(dy: NDArray, cache: Cache) -> NDArray:
    """Return dx."""
    return _backward(contiguous(dy), cache)


def avg_pool(x: NDArray, lengths: NDArray | None = None, **sizes: Any) -> tuple[NDArray, Cache]:
    """Return y and the cache of `avg_pool_backward`; sizes are those of `_forward`."""
    return _forward(mean, x, lengths, **sizes)


def avg_pool_backward(dy: NDArray, cache: Cache) -> NDArray:
    """Return dx."""
    if cache.windows is not None and 0 not in cache.shape:
        divisor = _divisor(cache.shape[1:-1], cache.windows)
        if divisor is not None:
            return _backward(contiguous(dy), cache, divisor)
    t0, t1, t2 = cache.tables.forward
    counts = t0[:, :, None, None, 1] * t1[:, None, 1] * t2[:, 1]
    counts = np.maximum(counts, 1).reshape(len(t0), *dy.shape[1:-1], 1).astype(dy.dtype)
    return _backward(contiguous(dy / counts), cache)


def global_max(x: NDArray, lengths: NDArray | None = None) -> tuple[NDArray, Any]:
    """Return y, shape (N, C), and the cache of `global_max_backward`."""
    return _global(maximum, x, lengths)


def global_max_backward(dy: NDArray, cache: Any) -> NDArray:
    """Return dx."""
    return _global_backward(max_pool_backward, dy, cache)


def global_avg(x: NDArray, lengths: NDArray | None = None) -> tuple[NDArray, Any]:
    """Return y, shape (N, C), and the cache of `global_avg_backward`."""
    return _global(global_mean, x, lengths)


def global_avg_backward(dy: NDArray, cache: Any) -> NDArray:
    """Return dx."""
    return _global_backward(avg_pool_backward, dy, cache)


def _global(code: Code, x: NDArray, lengths: NDArray | None) -> tuple[NDArray, Any]:
    """Return y of the one window over all of x, and a cache: None where x holds nothing."""
    if x.size == 0:
        return np.zeros((x.shape[0], x.shape[-1]), x.dtype), (x.shape, None)
    steps = x.reshape(x.shape[0], -1, x.shape[-1])
    fits = None if lengths is None else np.minimum(lengths, 1)
    size = steps.shape[1:2]
    y, cache = _forward(code, steps, lengths, fits, pool_size=size, stride=(1,), padding=((0, 0),))
    return y[:, 0, :], (x.shape, cache)


def _global_backward(
    backward: Callable[[NDArray, Cache], NDArray], dy: NDArray, cache: Any
) -> NDArray:
    shape, cache = cache
    if cache is None:
        return np.zeros(shape, dy.dtype)
    return backward(dy[:, None, :], cache).reshape(shape)


class Planner:
    """The functions of this module as steps of a plan: of the number of an array, not of an array.

    They return the number of y, and no cache. There are no lengths.
    """

    def __init__(self, plan: program.Plan) -> None:
        self.plan = plan

    def max_pool(self, x: int, lengths: None, **sizes: Any) -> tuple[int, None]:
        """Plan the maxima of windows."""
        return self._windowed(greatest, x, **sizes), None

    def avg_pool(self, x: int, lengths: None, **sizes: Any) -> tuple[int, None]:
        """Plan the means of windows."""
        return self._windowed(mean, x, **sizes), None

    def global_max(self, x: int, lengths: None) -> tuple[int, None]:
        """Plan the maxima over all of a sample."""
        return self._global(greatest, x), None

    def global_avg(self, x: int, lengths: None) -> tuple[int, None]:
        """Plan the means over all of a sample."""
        return self._global(global_mean, x), None

    def _windowed(self, code: Code, x: int, *, pool_size: Ints, stride: Ints, padding: Pads) -> int:
        return self._add(code, x, Windows(pool_size, stride, (1,) * len(pool_size), padding))

    def _global(self, code: Code, x: int) -> int:
        n, *sizes, c = self.plan.shapes[x]
        steps = self.plan.view(x, (n, math.prod(sizes), c))
        y = self._add(code, steps, Windows((math.prod(sizes),), (1,), (1,), ((0, 0),)))
        return self.plan.view(y, (n, c))

    def _add(self, code: Code, x: int, windows: Windows) -> int:
        shape = self.plan.shapes[x]
        parts = _parts(shape, alone=SERIAL_PLANNED)
        _, y, run = _bind_usual(code, shape, self.plan.dtype, windows, parts)
        return self.plan.add(y, lambda x, y: run(x, x, y, y), x, ready=run.ready)
