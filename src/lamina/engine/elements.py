"""Functions of elements: code that goes over arrays side by side, shared out to threads.

Such code has the arguments `*a *b *c *d count *numbers`: up to four arrays, of which it reads some
and writes others, and the numbers that are the same for all elements. Each element is by itself,
so neither threads nor the width of vectors change a bit.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from . import jit, pool
from .jit import Code, call, data, held
from .memory import AHEAD, ALIGNMENT, past_caches, pointer
from .pointwise import Functions
from .threads import count as count_threads

NDArray = npt.NDArray[Any]
_i64 = ir.IntType(64)

SERIAL: Final = 16_384
"""Up to so many elements a call stays on one core."""
KEPT: Final = 256
"""For how many sizes what a call needs is kept."""
MOST: Final = 4
"""So many arrays there may be."""
WIDEST: Final = 64
"""In vectors of so many bytes functions are light that take many operations, too."""

Rule = Callable[..., tuple[ir.Value, ...]]

Twin = Callable[..., tuple[NDArray, ...]]


class Each(Code):
    """Code that writes functions of the elements of some arrays to those behind them.

    Parameters
    ----------
    name : str
    rule : callable
        `rule(functions, builder, *vectors, number)` returns the vector that is written, alone in
        a tuple. `number(i)` is the i-th of the numbers, in every lane.
    twin : callable
        `twin(*arrays, *numbers)` returns the same of NumPy's arrays.
    arrays : int
        How many arrays are read.
    light : bool
        Whether it is memory that takes the time, not the operations, for vectors of any width.

    Attributes
    ----------
    past : tuple of Code
        Code that writes past the caches, in vectors that are aligned: memory need not be read
        before it is written then. The second one is for arrays each of which overflows the caches,
        and reads past them, too.
    """

    def __init__(
        self, name: str, rule: Rule, twin: Twin, arrays: int = 1, light: bool = True
    ) -> None:
        name, of_arrays = f"each_{name}", partial(_twin, twin, arrays)
        self.arrays, self.light = arrays, light
        super().__init__(name, partial(_emit, name, rule, arrays, False, False), of_arrays)
        names = (f"{name}_past", False), (f"{name}_once", True)
        codes = (Code(n, partial(_emit, n, rule, arrays, True, o), of_arrays) for n, o in names)
        self.past = tuple(codes)

    def writes_past(self, size: int) -> bool:
        """Tell whether to write past the caches what of each array is so many bytes."""
        light = self.light or jit.vector_bytes() == WIDEST
        return light and past_caches(self.arrays + 1, size)


def _emit(name: str, rule: Rule, arrays: int, past: bool, once: bool, dtype: Any) -> str:
    e = Functions(dtype)
    b, (*places, count, at) = e.function(name, "p" * MOST + "ip")
    vectors = b.sdiv(b.add(count, _i64(e.lanes - 1)), _i64(e.lanes))
    last = b.sub(count, b.mul(b.sub(vectors, _i64(1)), _i64(e.lanes)))

    def number(i: int) -> ir.Value:
        return e.spread(b, b.load(e.at(b, at, i), typ=e.scalar, align=e.align), e.vector)

    def one(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        sources = [e.at(b, place, element) for place in places[:arrays]]
        if once and mask is None:
            for source in sources:
                e.prefetch(b, e.at(b, source, AHEAD // e.align), once=True)
        read = [e.load(b, source, mask) for source in sources]
        for place, found in zip(places[arrays:], rule(e, b, *read, number), strict=False):
            target = e.at(b, place, element)
            if past and mask is None:
                e.stream(b, found, target)
            else:
                e.store(b, found, target, mask)

    e.sweep(b, vectors, last, one, together=4)
    b.ret_void()
    return str(e.module)


def _twin(function: Twin, arrays: int, *given: Any) -> None:
    *places, count, numbers = given
    read = [place.row(0, count) for place in places[:arrays]]
    with np.errstate(all="ignore"):
        found = function(*read, *numbers.flat)
    for place, value in zip(places[arrays:], found, strict=False):
        place.row(0, count)[...] = value


@jit.kernel
def _some(g: int, at: int) -> None:
    parts, size, n, numbers, code, a, b, c, d = jit.constants(at, 9)
    a, b, c, d, numbers = data(a), data(b), data(c), data(d), data(numbers)
    i0, i1 = n * g // parts // 64 * 64, n if g == parts - 1 else n * (g + 1) // parts // 64 * 64
    done = i0 * size
    call(code, (a + done, b + done, c + done, d + done, i1 - i0, numbers))


def _add(e: Any, b: Any, x: Any, y: Any, number: Any) -> Any:
    return (b.fadd(x, y),)


ADD: Final = Each("add", _add, lambda a, b: (a + b,), 2)


def run(code: Each, arrays: Sequence[NDArray], numbers: Sequence[float] = ()) -> None:
    """Run code over arrays of one size and dtype, all contiguous.

    Parameters
    ----------
    code : Each
    arrays : sequence of array
        Up to four.
    numbers : sequence of float
    """
    bind(code, arrays[0].size, arrays[0].dtype, numbers)(*arrays)


def bind(code: Each, n: int, dtype: np.dtype[Any], numbers: Sequence[float] = ()) -> "Bound":
    """Return `run` as a function of arrays of that size and dtype."""
    return _bound(code, n, dtype, tuple(numbers), 1 if n <= SERIAL else count_threads())


class Bound:
    """`run` of given code, size, dtype and numbers."""

    def __init__(
        self, code: Each, n: int, dtype: np.dtype[Any], numbers: tuple[float, ...], parts: int
    ) -> None:
        self.code, self.n, self.dtype, self.parts = code, n, dtype, parts
        self.numbers = np.array(numbers, dtype)
        late = [pool.late(i) for i in range(code.arrays + 1)]
        self.usual = self.past = pool.in_order(self._ready(code, *late))
        self.streams = False
        size = n * dtype.itemsize
        if code.writes_past(size):
            self.streams = True
            self.past = pool.in_order(self._ready(code.past[past_caches(1, size)], *late))

    def __call__(self, *arrays: NDArray) -> None:
        """Run."""
        if self.streams and pointer(arrays[-1]) % ALIGNMENT == 0:
            self.past(*arrays)
        elif self.n:
            self.usual(*arrays)

    def ready(self, *places: Any) -> pool.Ready | None:
        """Return it for what `held` says of the arrays; the scratch behind them is not used.

        None where it depends on the arrays how to write them.
        """
        if self.n == 0 or self.streams:
            return None
        return self._ready(self.code, *places[:-1])

    def _ready(self, code: Code, *places: Any) -> pool.Ready:
        fixed = self.parts, self.dtype.itemsize, self.n, held(self.numbers), code(self.dtype)
        places += places[:1] * (MOST - len(places))
        return pool.Ready(_some, self.parts, (*fixed, *places), self.numbers)


_bound = lru_cache(KEPT)(Bound)
