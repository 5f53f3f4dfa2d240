"""Softmax along rows, and the cross-entropy of classes with it, emitted as LLVM vector IR.

With m the largest element of a row, e_c = exp(x_c - m) and s = Σ_c e_c. A sum along a row has
`CHAINS` chains, whatever the width of a vector, which are added in a fixed tree. So a row has the
same bits in any batch, on any number of threads and for any width of vectors.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..engine import jit, pool
from ..engine.jit import Address, Code, call, data
from ..engine.loops import for_range
from ..engine.matmul import contiguous
from ..engine.memory import empty
from ..engine.pointwise import Functions
from ..engine.sweep import Masks, Sweep, Values
from ..engine.threads import count as count_threads

NDArray = npt.NDArray[Any]
_i64, _i32 = ir.IntType(64), ir.IntType(32)

CHAINS: Final = 16
"""Elements of a row that go side by side: as many as the widest vector has."""
ROWS: Final = 2
"""Rows that go side by side: their vectors, each a chain of operations, keep the processor busy."""
SERIAL: Final = 16_384
"""Up to so many elements a call stays on one core."""
KEPT: Final = 256
"""For how many sizes it is kept what a call needs."""


# Vector code. Its arguments are three arrays of rows, the class, the term and the sum of each row,
# what all gradients are over, the rows and their width.

Body: TypeAlias = Callable[[int, Values, Masks, Values], Values]


class _Rows(Sweep):
    """A function that goes over rows, some of them side by side.

    What is left of a row behind its whole blocks is read and written as a block, too, and what of
    it belongs to the following rows is written back as it was. Only where it would go beyond the
    last row there is a mask, for a store with one takes many CPUs a while.
    """

    def __init__(
        self, name: str, dtype: Any, rows: Callable[["_Rows", list["_Row"]], None]
    ) -> None:
        """Emit `rows(self, some rows)`."""
        super().__init__(name, dtype, "*a *b *c *classes *terms *sums *total rows width")
        self.functions = Functions(dtype)
        self.functions.module = self.module
        b = self.builder
        *self.arrays, total, count, self.width = self.given
        self.whole = b.sdiv(b.sub(self.width, _i64(1)), _i64(CHAINS))
        left = b.sub(self.width, b.mul(self.whole, _i64(CHAINS)))
        self.vectors = CHAINS // self.lanes
        self.there: Masks = [
            self.first_lanes(b, b.sub(left, _i64(v * self.lanes))) for v in range(self.vectors)
        ]
        # A row's last block may have elements of so many following rows.
        behind = b.sub(_i64(CHAINS), left)
        following = b.sdiv(b.add(behind, b.sub(self.width, _i64(1))), self.width)
        most = b.sub(count, following)
        self.total = b.load(total, typ=self.scalar, align=self.size)
        done: ir.Value = _i64(0)
        within = b.select(b.icmp_signed(">", most, done), most, done)
        for together, masks in ((ROWS, [None] * self.vectors), (1, self.there)):
            self.together, self.access = together, masks
            turns = b.sdiv(b.sub(within, done), _i64(together))
            with for_range(b, turns) as turn:
                first = b.add(done, b.mul(turn.index, _i64(together)))
                rows(self, [self._row(b.add(first, _i64(i))) for i in range(together)])
            done, within = b.add(done, b.mul(turns, _i64(together))), count

    def _row(self, i: ir.Value) -> "_Row":
        b, (*arrays, classes, terms, sums) = self.builder, self.arrays
        first = b.mul(i, self.width)
        x, y, z = (self.at(b, place, first) for place in arrays)
        term, sum_ = (self.at(b, place, i) for place in (terms, sums))
        return _Row(x, y, z, b.gep(classes, [i], source_etype=_i64), term, sum_)

    def along(
        self,
        rows: list[Values],
        start: float,
        body: Body,
        last: Body,
    ) -> list[Values]:
        """Go along rows: `body(which, its pointers, masks, carried)` returns what to carry on.

        `start` is what is carried at first, in a vector for each that goes side by side. At the end
        of a row it is `last` in the place of `body`.
        """
        b, arrays, vectors = self.builder, len(rows[0]), self.vectors
        strides = [_i64(CHAINS)] * (arrays * len(rows))

        def each(body: Body, at: Values, masks: Masks, carried: Values) -> Values:
            def word(i: int, _: ir.IRBuilder) -> Values:
                own = carried[i * vectors : (i + 1) * vectors]
                return body(i, at[i * arrays : (i + 1) * arrays], masks, own)

            words = [partial(word, i) for i in range(len(rows))]
            return [v for values in self.functions.together(b, words) for v in values]

        places = [place for row in rows for place in row]
        first = [self.vector(start)] * (vectors * len(rows))
        found = self.down(
            self.whole, places, strides, first,
            lambda at, carried: each(body, at, [None] * vectors, carried),
        )  # fmt: skip
        moved = [self.at(b, p, b.mul(self.whole, _i64(CHAINS))) for p in places]
        found = each(last, moved, self.access, found)
        return [found[i * vectors : (i + 1) * vectors] for i in range(len(rows))]

    def kept(self, values: Values, other: float) -> Values:
        """Return the vectors at the end of a row with another number where there is no element."""
        b, rest = self.builder, self.vector(other)
        return [b.select(m, v, rest) for v, m in zip(values, self.there, strict=True)]

    def joined(self, values: Values, join: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
        """Join all chains, the first half with the second and so on; return the one left."""
        b = self.builder
        while len(values) > 1:
            half = len(values) // 2
            values = list(map(join, values[:half], values[half:]))
        (value,), n = values, self.lanes
        while n > 1:
            n //= 2
            order = [i + n if i < n else i for i in range(self.lanes)]
            numbers = ir.Constant(ir.VectorType(_i32, self.lanes), order)
            value = join(value, b.shuffle_vector(value, value, numbers))
        return b.extract_element(value, _i32(0))

    def sums(self, rows: list[Values], terms: Callable[[Values, Masks], Values]) -> Values:
        """Return the sum of each row of `terms(pointers, masks)`."""
        b = self.builder

        def add(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            return list(map(b.fadd, carried, terms(at, masks)))

        def last(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            return list(map(b.fadd, carried, self.kept(terms(at, masks), 0)))

        return [self.joined(found, b.fadd) for found in self.along(rows, 0, add, last)]

    def exponentials(self, rows: list["_Row"]) -> list["_Exponentials"]:
        """Write 2^shift times the exponentials of rows of a in b, but for the last block of each.

        So they are normal numbers, as small as they may be.
        """
        b = self.builder

        def larger(x: ir.Value, y: ir.Value) -> ir.Value:
            return b.select(b.fcmp_ordered(">", x, y), x, y)  # NaN comes back in e

        def largest(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            return list(map(larger, self.loads(at[0], masks), carried))

        def last_largest(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            return list(map(larger, self.kept(self.loads(at[0], masks), -np.inf), carried))

        maxima = self.along([[row.a] for row in rows], -np.inf, largest, last_largest)
        ms = [self.joined(found, larger) for found in maxima]
        spread = [self.spread(b, m, self.vector) for m in ms]
        ends: list[Values] = []

        def values(i: int, at: Values, masks: Masks) -> Values:
            def word(v: ir.Value, b: ir.IRBuilder) -> ir.Value:
                return self.exp(b.fsub(v, spread[i]))

            words = [partial(word, v) for v in self.loads(at[0], masks)]
            return self.functions.together(b, words)

        def term(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            found = values(i, at, masks)
            self.stores(found, at[1], masks)
            return list(map(b.fadd, carried, found))

        def last_term(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            ends.append(values(i, at, masks))
            return list(map(b.fadd, carried, self.kept(ends[-1], 0)))

        found = self.along([[row.a, row.b] for row in rows], 0, term, last_term)
        totals = [self.joined(of_row, b.fadd) for of_row in found]
        return list(map(_Exponentials, ms, totals, ends))

    def exp(self, a: ir.Value) -> ir.Value:
        """Return 2^shift eᵃ of a <= 0 or NaN."""
        b, least = self.builder, self.vector(self.functions.format.least)
        return self.functions.shifted_exp(b, self.at_least(b, a, least))

    def change(
        self, places: Values, function: Callable[[Values], ir.Value], end: Values | None = None
    ) -> None:
        """Write a function of the first arrays of a row to the last one.

        `end` is the only array's last block, where that is not in memory.
        """
        b = self.builder

        def changed(at: Values, masks: Masks) -> Values:
            read = [self.loads(place, masks) for place in at]
            return [function(list(v)) for v in zip(*read, strict=True)]

        def block(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            self.stores(changed(at[:-1], masks), at[-1], masks)
            return carried

        def last(i: int, at: Values, masks: Masks, carried: Values) -> Values:
            found = changed(at[:-1], masks) if end is None else [function([v]) for v in end]
            if self.together > 1:
                behind = self.loads(at[-1], masks)
                found = list(map(b.select, self.there, found, behind))
            self.stores(found, self.hidden(b, at[-1]), masks)
            return carried

        self.along([places], 0, block, last)

    def scale(self, place: ir.Value, found: "_Exponentials", factor: ir.Value) -> None:
        """Multiply the exponentials of a row by a number."""
        b, spread = self.builder, self.spread(self.builder, factor, self.vector)
        self.change([place, place], lambda e: b.fmul(e[0], spread), found.end)


class _Row(NamedTuple):
    """Where a row is in a, b and c, and where its class, its term and its sum are."""

    a: ir.Value
    b: ir.Value
    c: ir.Value
    class_: ir.Value
    term: ir.Value
    sum: ir.Value


class _Exponentials(NamedTuple):
    """m and 2^shift s of a row, and its last block of exponentials."""

    m: ir.Value
    s: ir.Value
    end: Values


def _emit_softmax(dtype: Any) -> str:
    """Write the softmax of a in b."""

    def write(s: _Rows, rows: list[_Row]) -> None:
        b = s.builder
        for row, found in zip(rows, s.exponentials(rows), strict=True):
            s.scale(row.b, found, b.fdiv(s.scalar(1.0), found.s))

    return _Rows("softmax", dtype, write).end()


def _emit_softmax_backward(dtype: Any) -> str:
    """Write in c what a, the gradient of b, comes to."""

    def write(s: _Rows, rows: list[_Row]) -> None:
        b = s.builder

        def terms(at: Values, masks: Masks) -> Values:
            return list(map(b.fmul, s.loads(at[0], masks), s.loads(at[1], masks)))

        sums = s.sums([[row.a, row.b] for row in rows], terms)

        def change(dot: ir.Value, v: Values) -> ir.Value:
            return b.fmul(v[1], b.fsub(v[0], dot))

        for row, found in zip(rows, sums, strict=True):
            dot = s.spread(b, found, s.vector)
            s.change([row.a, row.b, row.c], partial(change, dot))

    return _Rows("softmax_backward", dtype, write).end()


def _emit_cross_entropy(dtype: Any) -> str:
    """Write the gradients of the logits a in b, over the total; of each row x_c - m, and s."""

    def write(s: _Rows, rows: list[_Row]) -> None:
        b = s.builder
        for row, found in zip(rows, s.exponentials(rows), strict=True):
            number = b.load(row.class_, typ=_i64, align=8)
            known = b.icmp_unsigned("<", number, s.width)
            number = b.select(known, number, _i64(0))
            x = b.load(s.at(b, row.a, number), typ=s.scalar, align=s.size)
            shifted = b.fsub(x, found.m)
            e = b.extract_element(s.exp(s.spread(b, shifted, s.vector)), _i32(0))
            factor = b.fdiv(b.fdiv(s.scalar(1.0), found.s), s.total)
            s.scale(row.b, found, factor)
            own = b.fdiv(b.fsub(b.fdiv(e, found.s), s.scalar(1.0)), s.total)
            b.store(own, s.at(b, row.b, number), align=s.size)
            term = b.select(known, shifted, s.scalar(np.nan))
            b.store(term, row.term, align=s.size)
            b.store(b.fmul(found.s, s.scalar(2.0**-s.functions.shift)), row.sum, align=s.size)

    return _Rows("class_cross_entropy", dtype, write).end()


def _exponentials(x: NDArray) -> NDArray:
    with np.errstate(invalid="ignore"):
        e: NDArray = np.exp(x - x.max(axis=1, keepdims=True))
    return e


def _softmax_twin(a: Address, b: Address, *given: Any) -> None:
    *_, rows, width = given
    e = _exponentials(a.row(0, rows * width).reshape(rows, width))
    b.row(0, rows * width).reshape(rows, width)[...] = e / e.sum(axis=1, keepdims=True)


def _softmax_backward_twin(a: Address, b: Address, c: Address, *given: Any) -> None:
    *_, rows, width = given
    dy, y, dx = (place.row(0, rows * width).reshape(rows, width) for place in (a, b, c))
    dx[...] = y * (dy - (dy * y).sum(axis=1, keepdims=True))


def _cross_entropy_twin(
    a: Address, b: Address, c: Address, classes: Address, terms: Address, sums: Address,
    total: Address, rows: int, width: int,
) -> None:  # fmt: skip
    x, dx = (place.row(0, rows * width).reshape(rows, width) for place in (a, b))
    e, each, number = _exponentials(x), np.arange(rows), classes.row(0, rows)
    known = (number >= 0) & (number < width)
    number = np.where(known, number, 0)
    sums.row(0, rows)[...] = e.sum(axis=1)
    dx[...] = e / e.sum(axis=1, keepdims=True)
    dx[each, number] -= 1
    dx /= total.row(0, 1)
    with np.errstate(invalid="ignore"):
        terms.row(0, rows)[...] = np.where(known, x[each, number] - x.max(axis=1), np.nan)


_softmax: Final = Code("softmax", _emit_softmax, _softmax_twin)
_backward: Final = Code("softmax_backward", _emit_softmax_backward, _softmax_backward_twin)
_cross_entropy: Final = Code("class_cross_entropy", _emit_cross_entropy, _cross_entropy_twin)


@jit.kernel
def _some(g: int, at: int) -> None:
    parts, size, code, rows, width, a, b, c, classes, terms, total = jit.constants(at, 11)
    a, b, c, classes = data(a), data(b), data(c), data(classes)
    terms, total = data(terms), data(total)
    i0, i1 = rows * g // parts, rows * (g + 1) // parts
    done = i0 * width * size
    own = i0 * size
    call(code, (
        a + done, b + done, c + done, classes + i0 * 8, terms + own, terms + rows * size + own,
        total, i1 - i0, width,
    ))  # fmt: skip


def _run(code: Code, a: NDArray, *others: NDArray) -> None:
    """Run code over rows.

    `others` are b, c, the classes, the terms of all rows with their sums behind, and the total, as
    many of them as the code uses.
    """
    if a.size:
        _bound(code, a.shape, a.dtype, count_threads(), 1 + len(others))(a, *others)


@lru_cache(KEPT)
def _bound(
    code: Code, shape: tuple[int, ...], dtype: np.dtype[Any], threads: int, arrays: int
) -> pool.Run:
    """Return `_run` as a function of so many arrays."""
    return pool.in_order(_ready(code, shape, dtype, threads, *map(pool.late, range(arrays))))


def _ready(
    code: Code, shape: tuple[int, ...], dtype: np.dtype[Any], threads: int, *places: Any
) -> pool.Ready:
    """Return `_run` for what `held` says of the arrays."""
    size, width = math.prod(shape), shape[-1]
    parts = 1 if size <= SERIAL else threads
    others = places[:1] * (6 - len(places))  # for those that are not given
    task = parts, dtype.itemsize, code(dtype), size // width, width, *places, *others
    return pool.Ready(_some, parts, task, None)


# The functions


def softmax(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return y, which is the cache of `softmax_backward` too."""
    x = contiguous(x)
    y = empty(x.shape, x.dtype)
    write_softmax(x, y)
    return y, y


def write_softmax(x: NDArray, y: NDArray) -> None:
    """Write y of contiguous x, in another place."""
    _run(_softmax, x, y)


def ready_softmax(
    shape: tuple[int, ...], dtype: np.dtype[Any], x: Any, y: Any, _: Any
) -> pool.Ready | None:
    """Return `write_softmax` for what `held` says of x and y."""
    if 0 in shape:
        return None
    return _ready(_softmax, shape, dtype, count_threads(), x, y)


def softmax_backward(dy: NDArray, y: NDArray) -> NDArray:
    """Return dx."""
    dx = empty(y.shape, y.dtype)
    _run(_backward, contiguous(dy), y, dx)
    return dx


def cross_entropy_of_classes(y: NDArray, classes: NDArray, total: float) -> tuple[NDArray, NDArray]:
    """Return l, shape (...), and ∂l/∂y over the total, shape (..., C).

    l is NaN of a class out of range, and ∂l/∂y then has no meaning.
    """
    y, classes = contiguous(y), contiguous(classes.astype(np.int64, copy=False))
    dy, terms = empty(y.shape, y.dtype), empty((2, *classes.shape), y.dtype)
    _run(_cross_entropy, y, dy, dy, classes, terms, np.array([total], y.dtype))
    found: NDArray = np.log(terms[1])
    found -= terms[0]
    return found, dy
