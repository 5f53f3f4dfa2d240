"""Softmax along rows, and the cross-entropy of classes with it, emitted as LLVM vector IR.

With m the largest element of a row, e_c = exp(x_c - m) and s = Σ_c e_c. A sum along a row has
`CHAINS` chains, whatever the width of a vector, which are added in a fixed tree. So a row has the
same bits in any batch, on any number of threads and for any width of vectors.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils

from ..engine import jit, pool
from ..engine.jit import Address, Code, address, call
from ..engine.matmul import contiguous
from ..engine.memory import empty
from ..engine.pointwise import Functions
from ..engine.sweep import Masks, Sweep, Values
from ..engine.threads import count as count_threads

NDArray = npt.NDArray[Any]
_i64, _i32 = ir.IntType(64), ir.IntType(32)

CHAINS: Final = 16
"""Elements of a row that go side by side: as many as the widest vector has."""
SERIAL: Final = 16_384
"""Up to so many elements a call stays on one core."""


# Vector code. Its arguments are three arrays of rows, the class, the term and the sum of each row,
# what all gradients are over, the rows and their width.


class _Rows(Sweep):
    """A function that goes over rows, one after the other."""

    def __init__(
        self, name: str, dtype: Any, row: Callable[["_Rows", Values, Values], None]
    ) -> None:
        """Emit `row(self, its place in a, b and c, where its class, term and sum are)`."""
        super().__init__(name, dtype, "*a *b *c *classes *terms *sums *total rows width")
        self.functions = Functions(dtype)
        self.functions.module = self.module
        b = self.builder
        *given, total, rows, self.width = self.given
        with cgutils.for_range(b, rows, intp=_i64) as loop:
            first = b.mul(loop.index, self.width)
            self.total = b.load(total, typ=self.scalar, align=self.size)
            whole = [self.at(b, place, first) for place in given[:3]]
            classes = b.gep(given[3], [loop.index], source_etype=_i64)
            row(self, whole, [classes, *(self.at(b, p, loop.index) for p in given[4:])])

    def along(
        self, places: Values, start: float, body: Callable[[Values, Masks, Values], Values]
    ) -> Values:
        """Go along a row: `body(pointers, masks, carried)` returns what to carry on.

        `start` is what is carried at first, in a vector for each that goes side by side.
        """
        b, vectors = self.builder, CHAINS // self.lanes
        whole = b.sdiv(self.width, _i64(CHAINS))
        strides = [_i64(CHAINS)] * len(places)

        def block(at: Values, carried: Values) -> Values:
            return body(at, [None] * vectors, carried)

        found = self.down(whole, places, strides, [self.vector(start)] * vectors, block)
        first = b.mul(whole, _i64(CHAINS))
        left = b.sub(self.width, first)
        masks: Masks = [
            self.first_lanes(b, b.sub(left, _i64(v * self.lanes))) for v in range(vectors)
        ]
        return body([self.at(b, p, first) for p in places], masks, found)

    def kept(self, values: Values, masks: Masks, other: float) -> Values:
        """Return vectors with another number where there is no element."""
        b, rest = self.builder, self.vector(other)
        return [
            v if m is None else b.select(m, v, rest) for v, m in zip(values, masks, strict=True)
        ]

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

    def exponentials(self, x: ir.Value, e: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Write the exponentials of a row; return m and s."""
        b = self.builder

        def larger(x: ir.Value, y: ir.Value) -> ir.Value:
            return b.select(b.fcmp_ordered(">", x, y), x, y)  # NaN comes back in e

        def largest(at: Values, masks: Masks, carried: Values) -> Values:
            return list(map(larger, self.kept(self.loads(at[0], masks), masks, -np.inf), carried))

        m = self.joined(self.along([x], -np.inf, largest), larger)
        of_all = self.spread(b, m, self.vector)

        def term(at: Values, masks: Masks, carried: Values) -> Values:
            values = [self.exp(b.fsub(v, of_all)) for v in self.loads(at[0], masks)]
            self.stores(values, at[1], masks)
            return list(map(b.fadd, carried, self.kept(values, masks, 0)))

        return m, self.joined(self.along([x, e], 0, term), b.fadd)

    def exp(self, a: ir.Value) -> ir.Value:
        """Return eᵃ of a <= 0 or NaN."""
        b, least = self.builder, self.vector(self.functions.format.least)
        within = b.select(b.fcmp_ordered("<", a, least), least, a)
        return self.functions.exp_of_negative(b, within)

    def change(self, places: Values, function: Callable[[Values], ir.Value]) -> None:
        """Write a function of the first arrays of a row to the last one."""

        def block(at: Values, masks: Masks, carried: Values) -> Values:
            read = [self.loads(place, masks) for place in at[:-1]]
            self.stores([function(list(v)) for v in zip(*read, strict=True)], at[-1], masks)
            return carried

        self.along(places, 0, block)


def _emit_softmax(dtype: Any) -> str:
    """Write the softmax of a in b."""

    def row(s: _Rows, places: Values, _: Values) -> None:
        b, (x, y, _unused) = s.builder, places
        total = s.spread(b, s.exponentials(x, y)[1], s.vector)
        s.change([y, y], lambda e: b.fdiv(e[0], total))

    return _Rows("softmax", dtype, row).end()


def _emit_softmax_backward(dtype: Any) -> str:
    """Write in c what a, the gradient of b, comes to."""

    def row(s: _Rows, places: Values, _: Values) -> None:
        b, (dy, y, dx) = s.builder, places

        def term(at: Values, masks: Masks, carried: Values) -> Values:
            products = map(b.fmul, s.loads(at[0], masks), s.loads(at[1], masks))
            return list(map(b.fadd, carried, products))

        dot = s.spread(b, s.joined(s.along([dy, y], 0, term), b.fadd), s.vector)
        s.change([dy, y, dx], lambda v: b.fmul(v[1], b.fsub(v[0], dot)))

    return _Rows("softmax_backward", dtype, row).end()


def _emit_cross_entropy(dtype: Any) -> str:
    """Write the gradients of the logits a in b, over the total; of each row x_c - m, and s."""

    def row(s: _Rows, places: Values, own: Values) -> None:
        b, (x, dx, _unused), (class_at, term, sum_at) = s.builder, places, own
        m, sum_of_all = s.exponentials(x, dx)
        number = b.load(class_at, typ=_i64, align=8)
        of_class, p = s.at(b, dx, number), s.at(b, x, number)
        share = b.fdiv(b.load(of_class, typ=s.scalar, align=s.size), sum_of_all)
        spread, mean = (s.spread(b, v, s.vector) for v in (sum_of_all, s.total))
        s.change([dx, dx], lambda e: b.fdiv(b.fdiv(e[0], spread), mean))
        b.store(b.fdiv(b.fsub(share, s.scalar(1.0)), s.total), of_class, align=s.size)
        shifted = b.fsub(b.load(p, typ=s.scalar, align=s.size), m)
        b.store(shifted, term, align=s.size)
        b.store(sum_of_all, sum_at, align=s.size)

    return _Rows("class_cross_entropy", dtype, row).end()


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
    sums.row(0, rows)[...] = e.sum(axis=1)
    dx[...] = e / e.sum(axis=1, keepdims=True)
    dx[each, number] -= 1
    dx /= total.row(0, 1)
    with np.errstate(invalid="ignore"):
        terms.row(0, rows)[...] = x[each, number] - x.max(axis=1)


_softmax: Final = Code("softmax", _emit_softmax, _softmax_twin)
_backward: Final = Code("softmax_backward", _emit_softmax_backward, _softmax_backward_twin)
_cross_entropy: Final = Code("class_cross_entropy", _emit_cross_entropy, _cross_entropy_twin)


@jit.kernel
def _some(g: int, at: int) -> None:
    parts, size, code, rows, width, a, b, c, classes, terms, sums, total = jit.constants(at, 12)
    i0, i1 = rows * g // parts, rows * (g + 1) // parts
    done = i0 * width * size
    own = i0 * size
    call(code, (
        a + done, b + done, c + done, classes + i0 * 8, terms + own, sums + own,
        total, i1 - i0, width,
    ))  # fmt: skip


def _run(code: Code, arrays: list[NDArray], own: list[NDArray]) -> None:
    """Run code over the rows of up to three arrays, with what each row has of its own."""
    a = arrays[0]
    if a.size == 0:
        return
    width = a.shape[-1]
    rows = a.size // width
    parts = 1 if a.size <= SERIAL else count_threads()
    places = [address(x) for x in arrays]
    places += places[:1] * (3 - len(places))
    places += [address(x) for x in own] if own else places[:1] * 4
    pool.share(_some, parts, parts, a.itemsize, code(a.dtype), rows, width, *places)


# The functions


def softmax(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return y, which is the cache of `softmax_backward` too."""
    x = contiguous(x)
    y = empty(x.shape, x.dtype)
    _run(_softmax, [x, y], [])
    return y, y


def softmax_backward(dy: NDArray, y: NDArray) -> NDArray:
    """Return dx."""
    dx = empty(y.shape, y.dtype)
    _run(_backward, [contiguous(dy), y, dx], [])
    return dx


def cross_entropy_of_classes(y: NDArray, classes: NDArray, total: float) -> tuple[NDArray, NDArray]:
    """Return l, shape (...), and ∂l/∂y over the total, shape (..., C), of classes in range."""
    y, classes = contiguous(y), contiguous(classes.astype(np.int64, copy=False))
    dy = empty(y.shape, y.dtype)
    terms, sums = (empty(y.shape[:-1], y.dtype) for _ in range(2))
    _run(_cross_entropy, [y, dy], [classes, terms, sums, np.array([total], y.dtype)])
    return np.log(sums) - terms, dy
