"""The updates of optimizers.py in one pass over all parameters, emitted as LLVM vector IR.

An update reads the parameter p, its gradient g and the slots, and writes p and the slots; what p
was it writes to where it may be wanted again, and of p it adds up 0 p, which tells whether all is
finite. First

    g = scale g + decay p,    p = shrink p                                      (1)

with the factor of clipping, the L2 penalty and the decay beside the gradient; then

    SGD           p -= lr g                                                     (2)
    with momentum v = μ v + g                 p -= lr (a g + b v)               (3)
    Adam          m = β₁ m + (1 - β₁) g       s = β₂ s + (1 - β₂) g²            (4)
                  p -= rate m / (√(s correction) + ε)                           (5)
    RMSprop       s = α s + (1 - α) g²        p -= lr g / (√s + ε)              (6)

Each element is by itself, so threads change no bit.

Arrays that overflow the caches are asked for ahead and used once: they leave in the caches what is
wanted again, the gradients that were looked at before.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..engine import denormals, jit, pool
from ..engine.jit import Address, Code, Task, address, call, data, held
from ..engine.matmul import contiguous
from ..engine.memory import AHEAD, LINE, past_caches
from ..engine.mode import flush
from ..engine.sweep import DOUBLE, Masks, Sweep, Values
from ..engine.threads import count as count_threads
from ..engine.tile import lanes

NDArray = npt.NDArray[Any]
_i64 = ir.IntType(64)

SERIAL: Final = 32_768
"""Up to so many elements an update stays on one core."""
COLUMNS: Final = 32
"""How many sums of squares go side by side, whatever the width of a vector."""
PIECE: Final = 16_384
"""Elements that a thread takes at once, and whose squares are added in `COLUMNS` sums."""
TOGETHER: Final = 2
"""How many vectors of a parameter are updated side by side."""
NUMBERS: Final = {"sgd": 1, "momentum": 4, "adam": 7, "rmsprop": 4}
"""How many numbers the rules take."""


class Arithmetic:
    """The arithmetic of a vector: a rule is written once, for vectors and for NumPy's arrays."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.b = sweep, sweep.builder

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Return x y + z."""
        return self.sweep.multiply_add(self.b, x, y, z)

    def times(self, x: Any, y: Any) -> Any:
        """Return x y."""
        return self.b.fmul(x, y)

    def over(self, x: Any, y: Any) -> Any:
        """Return x / y."""
        return self.b.fdiv(x, y)

    def root(self, x: Any) -> Any:
        """Return √x."""
        call = self.sweep.intrinsic(f"llvm.sqrt.{self.sweep.suffix}", x.type, [x.type])
        return self.b.call(call, [x])

    def plus(self, x: Any, y: Any) -> Any:
        """Return x + y."""
        return self.b.fadd(x, y)

    def minus(self, x: Any) -> Any:
        """Return -x."""
        return self.b.fneg(x)


class Plain:
    """The same of NumPy's arrays."""

    fma = staticmethod(lambda x, y, z: x * y + z)
    times = staticmethod(lambda x, y: x * y)
    over = staticmethod(lambda x, y: x / y)
    root = staticmethod(np.sqrt)
    plus = staticmethod(lambda x, y: x + y)
    minus = staticmethod(lambda x: -x)


Rule = Callable[[Any, Any, Any, Sequence[Any], Sequence[Any]], tuple[Any, ...]]


def _sgd(w: Any, p: Any, g: Any, slots: Sequence[Any], n: Sequence[Any]) -> tuple[Any, ...]:
    (lr,) = n
    return (w.fma(w.minus(lr), g, p),)  # (2)


def _momentum(w: Any, p: Any, g: Any, slots: Sequence[Any], n: Sequence[Any]) -> tuple[Any, ...]:
    (v,), (lr, mu, a, b) = slots, n
    v = w.fma(mu, v, g)
    return w.fma(w.minus(lr), w.fma(a, g, w.times(b, v)), p), v  # (3)


def _adam(w: Any, p: Any, g: Any, slots: Sequence[Any], n: Sequence[Any]) -> tuple[Any, ...]:
    (m, s), (beta1, rest1, beta2, rest2, rate, correction, eps) = slots, n
    m = w.fma(beta1, m, w.times(rest1, g))
    s = w.fma(beta2, s, w.times(w.times(rest2, g), g))  # (4)
    root = w.plus(w.root(w.times(s, correction)), eps)
    return w.fma(w.minus(rate), w.over(m, root), p), m, s  # (5)


def _rmsprop(w: Any, p: Any, g: Any, slots: Sequence[Any], n: Sequence[Any]) -> tuple[Any, ...]:
    (s,), (lr, alpha, rest, eps) = slots, n
    s = w.fma(alpha, s, w.times(w.times(rest, g), g))
    return w.fma(w.minus(lr), w.over(g, w.plus(w.root(s), eps)), p), s  # (6)


def _emit(name: str, rule: Rule, slots: int, count: int, past: bool, dtype: Any) -> str:
    s = Sweep(name, dtype, "*p *before *g *slot0 *slot1 count *numbers *zeros")
    b, w = s.builder, Arithmetic(s)
    p, before, g, slot0, slot1, length, numbers, zeros = s.given
    held, zero = [p, *(slot0, slot1)[:slots]], s.vector(0.0)
    s.stores([zero] * TOGETHER, zeros, [None] * TOGETHER)
    scale, decay, shrink, *rest = (
        s.spread(b, b.load(s.at(b, numbers, i), typ=s.scalar, align=s.size), s.vector)
        for i in range(3 + count)
    )

    def strip(j: ir.Value, masks: Masks) -> None:
        places = [s.at(b, a, j) for a in held]
        if past and len(masks) == TOGETHER:
            for place in (*places, s.at(b, g, j)):
                for line in range(0, TOGETHER * s.lanes * s.size, LINE):
                    s.prefetch(b, s.at(b, place, (AHEAD + line) // s.size), once=True)
        loaded = [s.loads(place, masks) for place in places]
        s.stores(loaded[0], s.at(b, before, j), masks)
        gradients = s.loads(s.at(b, g, j), masks)
        found: list[Values] = [[] for _ in held]
        for v, gradient in enumerate(gradients):
            value, *own = (a[v] for a in loaded)
            gradient = w.fma(decay, value, w.times(scale, gradient))
            results = rule(w, w.times(shrink, value), gradient, own, rest)  # (1)
            for into, result in zip(found, results, strict=True):
                into.append(result)
        for values, place in zip(found, places, strict=True):
            s.stores(values, place, masks)
        everywhere: Masks = [None] * len(masks)
        sums = zip(found[0], s.loads(zeros, everywhere), strict=True)
        s.stores([w.fma(value, zero, total) for value, total in sums], zeros, everywhere)

    s.across(length, (TOGETHER, 1), strip)
    return s.end()


def _twin(
    rule: Rule, slots: int, numbers_of: int,
    p: Address, before: Address, g: Address, slot0: Address, slot1: Address, count: int,
    numbers: Address, zeros: Address,
) -> None:  # fmt: skip
    scale, decay, shrink, *rest = numbers.row(0, 3 + numbers_of)
    before.row(0, count)[...] = p.row(0, count)
    value, own = p.row(0, count), [a.row(0, count) for a in (slot0, slot1)[:slots]]
    gradient = decay * value + scale * g.row(0, count)
    results = rule(Plain(), shrink * value, gradient, own, rest)
    for array, result in zip([value, *own], results, strict=True):
        array[...] = result
    sums = zeros.row(0, TOGETHER * lanes(p.dtype))
    sums[...] = np.sum(0 * value)


def _code(name: str, rule: Rule, slots: int) -> tuple[Code, Code]:
    """Return the code of a rule, and that of arrays that go past the caches."""
    count = NUMBERS[name]
    twin, names = partial(_twin, rule, slots, count), (name, f"{name}_past")
    usual, past = (Code(n, partial(_emit, n, rule, slots, count, n != name), twin) for n in names)
    return usual, past


RULES: Final = {
    "sgd": _code("sgd", _sgd, 0),
    "momentum": _code("momentum", _momentum, 1),
    "adam": _code("adam", _adam, 2),
    "rmsprop": _code("rmsprop", _rmsprop, 1),
}
"""The numbers are those of the equations, in their order: lr; lr, μ, a, b; β₁, 1 - β₁, β₂, 1 - β₂,
rate, correction, ε; lr, α, 1 - α, ε."""


def _emit_sums(s: Sweep, zeros: Values, add: Callable[[Values, Values], Values]) -> str:
    """Write `COLUMNS` float64 sums: `add(values, sums)` adds to them a row of as many columns."""
    b = s.builder
    g, count, sums = s.given
    vectors = COLUMNS // s.lanes
    rows = b.sdiv(count, _i64(COLUMNS))

    def whole(at: Values, carried: Values) -> Values:
        return add(s.loads(at[0], [None] * vectors), carried)

    found = s.down(rows, [g], [_i64(COLUMNS)], zeros, whole)
    first = b.mul(rows, _i64(COLUMNS))
    left = b.sub(count, first)
    masks: Masks = [s.first_lanes(b, b.sub(left, _i64(v * s.lanes))) for v in range(vectors)]
    found = add(s.loads(s.at(b, g, first), masks), found)
    if found[0].type != s.double.vector:
        found = [part for value in found for part in s.widen(value)]
    for v, part in enumerate(found):
        s.double.store(b, part, s.double.at(b, sums, v * s.double.lanes), None)
    return s.end()


def _emit_squares(dtype: Any) -> str:
    s = Sweep("squares", dtype, "*g count *sums")

    def add(values: Values, sums: Values) -> Values:
        wide = [part for value in values for part in s.widen(value)]
        return [
            s.double.multiply_add(s.builder, v, v, total)
            for v, total in zip(wide, sums, strict=True)
        ]

    return _emit_sums(s, [s.double.vector(0.0)] * (COLUMNS // s.double.lanes), add)


def _emit_zeros(dtype: Any) -> str:
    s = Sweep("zeros", dtype, "*g count *sums")
    zero = s.vector(0.0)

    def add(values: Values, sums: Values) -> Values:
        return [
            s.multiply_add(s.builder, v, zero, total) for v, total in zip(values, sums, strict=True)
        ]

    return _emit_sums(s, [zero] * (COLUMNS // s.lanes), add)


def _sums_twin(term: Callable[[NDArray], NDArray], g: Address, count: int, sums: Address) -> None:
    values = np.zeros(-(-count // COLUMNS) * COLUMNS)
    values[:count] = g.row(0, count)
    sums.row(0, COLUMNS)[...] = term(values).reshape(-1, COLUMNS).sum(axis=0)


squares: Final = Code("squares", _emit_squares, partial(_sums_twin, np.square))
"""Sums of squares, column by column."""
zeros: Final = Code("zeros", _emit_zeros, partial(_sums_twin, partial(np.multiply, 0.0)))
"""Sums of 0 g, column by column: 0, but NaN where a value is NaN or infinite."""


# All parameters in one launch, for many are small. A table has a row for each piece of a parameter:
# the elements before it, its own and their place in bytes, which gradient is its, then p, where to
# write what it was, the slots, the numbers and the sums of 0 p.


@jit.kernel
def _update(g: int, table: NDArray, task: Task, gradients: NDArray) -> None:
    """Do the pieces of part g."""
    parts, total, code, set_mode, flush, modes = task
    call(set_mode, (flush, 0, modes + g * 8))
    for i in range(len(table)):
        done, count, at, k = table[i, 0], table[i, 1], table[i, 2], table[i, 3]
        if done * parts // total == g:
            call(code, (
                data(table[i, 4]) + at, data(table[i, 5]) + at, data(gradients[k]) + at,
                data(table[i, 6]) + at, data(table[i, 7]) + at, count, table[i, 8], table[i, 9],
            ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


@jit.kernel
def _sum(g: int, table: NDArray, task: Task, gradients: NDArray) -> None:
    """Write the sums of the pieces of part g, the last one first.

    Of what is read last, which is what the update reads first, caches still hold much then.
    """
    parts, total, code, sums = task
    for i in range(len(table) - 1, -1, -1):
        done, count, at, k = table[i, 0], table[i, 1], table[i, 2], table[i, 3]
        if done * parts // total == g:
            call(code, (data(gradients[k]) + at, count, sums + i * COLUMNS * 8))


class Updates:
    """The updates of parameters of one dtype, with all that stays from one to the next.

    Every array is contiguous and of that dtype.

    Parameters
    ----------
    rule : str
        One of `RULES`.
    params, before : sequence of array
        The parameters, and where to write what each was: to itself where nobody wants to know.
    slots : sequence of sequences of array
        Those of each parameter.
    kinds : sequence of int
        Which of the numbers are each parameter's.
    """

    def __init__(
        self,
        rule: str,
        params: Sequence[NDArray],
        before: Sequence[NDArray],
        slots: Sequence[Sequence[NDArray]],
        kinds: Sequence[int],
    ) -> None:
        self.dtype, self.held = params[0].dtype, (params, before, slots)
        self.total = 0
        self.numbers = np.empty((max(kinds) + 1, 3 + NUMBERS[rule]), self.dtype)
        pieces = sum(-(-p.size // PIECE) for p in params)
        self.finite = np.empty((pieces, TOGETHER * lanes(self.dtype)), self.dtype)
        rows: list[Any] = []
        for k, (p, was, own, kind) in enumerate(zip(params, before, slots, kinds, strict=True)):
            places = (*map(held, (p, was, *own)), held(p), held(p))[:4]
            for first in range(0, p.size, PIECE):
                count, at = min(PIECE, p.size - first), first * self.dtype.itemsize
                given = address(self.numbers[kind]), address(self.finite[len(rows)])
                rows.append((self.total, count, at, k, *places, *given))
                self.total += count
        past = past_caches(2 + len(slots[0]), self.total * self.dtype.itemsize)
        self.code = RULES[rule][past](self.dtype)
        self.table = jit.Arguments(jit.table(rows))
        self.gradients = jit.table([held(p) for p in params])  # until there are some
        self.sums = np.empty((len(rows), COLUMNS), DOUBLE)
        self.modes = np.empty(len(rows), np.int64)  # of threads, to be restored
        self.runs: dict[Any, pool.Run] = {}

    def read(self, gradients: Sequence[NDArray]) -> list[NDArray]:
        """Return gradients, of the parameters' dtype, as kernels read them."""
        return [contiguous(g) for g in gradients]

    def squares(self, gradients: Sequence[NDArray]) -> float:
        """Return Σ g² in float64; NaN or infinite where a gradient holds such, or it overflows."""
        with np.errstate(over="ignore"):
            return self._sum(squares, gradients)

    def zeros(self, gradients: Sequence[NDArray]) -> float:
        """Return Σ 0 g: 0, but NaN where a gradient holds NaN or infinity; sooner than squares."""
        return self._sum(zeros, gradients)

    def _sum(self, code: Code, gradients: Sequence[NDArray]) -> float:
        self._launch(_sum, gradients, code(self.dtype), address(self.sums))
        return float(np.add.reduce(self.sums, axis=None))

    def update(self, gradients: Sequence[NDArray], numbers: Sequence[Sequence[float]]) -> bool:
        """Write the new values of parameters and slots; return whether the former are finite.

        The numbers are, for each kind, scale, decay and shrink of (1), then those of the rule.
        """
        self.numbers[...] = numbers
        mode = flush(self.dtype), denormals.flushing(), address(self.modes)
        self._launch(_update, gradients, self.code, *mode)
        return not self.total or math.isfinite(np.add.reduce(self.finite, axis=None))

    def _launch(self, kernel: Any, gradients: Sequence[NDArray], *task: Any) -> None:
        if not self.total:
            return
        parts = 1 if self.total <= SERIAL else min(count_threads(), len(self.sums))
        run = self.runs.get((task, parts))
        if run is None:
            ready = pool.ready(
                kernel, parts, self.table, (parts, self.total, *task), self.gradients
            )
            run = self.runs[task, parts] = pool.in_order(ready)
        self.gradients[:] = [held(g) for g in gradients]
        run()
