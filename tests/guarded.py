"""Run kernels on arrays that lie flush against pages that nobody may touch.

`python guarded.py problems SEED LINEARS CONVOLUTIONS TRANSPOSED` checks so many random problems.
It prints each before its turn, for a stray access ends the process. `python guarded.py strays`
makes such accesses on purpose, each in a fork, and prints the signals that ended them. `python
guarded.py elements KIND SEED COUNT` checks problems of elements.py. `python guarded.py tiles BYTES`
runs tiles, of vectors of so many bytes, where nothing stands behind the last row of B.

Guarded are not only the arguments of kernels but all the memory they take: results, scratch,
panels, lists. It begins as NaN, or as integers that lead far away, and is unmapped when it dies.
"""

import ctypes
import itertools
import math
import mmap
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import elements
import problems
from lamina.convolution import depthwise
from lamina.engine import jit, matmul, memory, pool, tile
from lamina.linear import kernel

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


at_end = itertools.cycle((True, False))
"""Where the next arrays go: each to one end of its memory."""


def empty(shape: Any, dtype: Any = np.float64) -> np.ndarray:
    """Return an array that ends where a protected page begins, or begins where one ends."""
    dtype, shape = np.dtype(dtype), tuple(map(int, np.atleast_1d(shape)))
    size = math.prod(shape) * dtype.itemsize
    pages = max(1, -(-size // mmap.PAGESIZE))
    pages_of = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages_of))
    for page in (0, pages + 1):
        if LIBC.mprotect(start + page * mmap.PAGESIZE, mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages + 1) * mmap.PAGESIZE - size if next(at_end) else mmap.PAGESIZE
    array = np.ndarray(shape, dtype, pages_of, offset)
    array[...] = np.nan if dtype.kind == "f" else 1 << 5 * dtype.itemsize
    return array


def aligned(shape: Any, dtype: Any) -> np.ndarray:
    """Return such an array, in memory of whole lines of the cache."""
    dtype, count = np.dtype(dtype), math.prod(np.atleast_1d(shape))
    a_line = memory.LINE // dtype.itemsize
    return empty(-(-count // a_line) * a_line, dtype)[:count].reshape(shape)


def is_guarded(a: Any) -> bool:
    """Return whether an array, or what it is a view of, lies in guarded memory."""
    while isinstance(a, np.ndarray):
        a = a.base
    return isinstance(a, mmap.mmap)


def copy(a: np.ndarray) -> np.ndarray:
    other = empty(a.shape, a.dtype)
    other[...] = a
    return other


class GuardedNumPy:
    """NumPy, but for the functions by which kernels take memory."""

    empty = staticmethod(empty)
    array = staticmethod(lambda a, *dtype, **order: copy(np.array(a, *dtype, **order)))
    zeros = staticmethod(lambda shape, dtype: copy(np.zeros(shape, dtype)))
    ones = staticmethod(lambda shape, dtype: copy(np.ones(shape, dtype)))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def guard() -> None:
    """Let kernels take guarded memory alone."""
    for module in problems.modules():
        if hasattr(module, "np"):
            module.np = GuardedNumPy()
        if hasattr(module, "empty"):
            module.empty = empty
        if hasattr(module, "workspace"):
            module.workspace = empty
        if hasattr(module, "aligned"):
            module.aligned = aligned
        if hasattr(module, "ALIGNMENT") and not hasattr(module, "aligned"):
            module.ALIGNMENT = 1  # no room for it at the end of an array
        if hasattr(module, "WORKSPACE"):
            module.WORKSPACE = -1  # each is as large as it has to be
        if hasattr(module, "contiguous"):
            module.contiguous = copy  # even what is contiguous: so arguments are guarded
    for name in ("launch", "ready"):
        setattr(pool, name, partial(guarded_call, getattr(pool, name)))


def guarded_call(
    call: Callable[..., Any], kernel: Any, count: int, fixed: jit.Arguments, *arguments: Any
) -> Any:
    """Make a call of `pool` with guarded arguments."""

    # What is guarded must stay where it is, for the kernels may know its address, too.
    def held(given: tuple[Any, ...]) -> list[Any]:
        return [copy(a) if isinstance(a, np.ndarray) and not is_guarded(a) else a for a in given]

    return call(kernel, count, jit.Arguments(*held(fixed.arguments)), *held(arguments))


def run(seed: int, *counts: int) -> None:
    """Check random problems, in one part and in several."""
    guard()
    fma = "with" if jit.has_fma() else "without"
    print(f"vectors of {jit.vector_bytes()} bytes, {fma} FMA", flush=True)
    rng = np.random.default_rng(seed)
    for make, count in zip(problems.MAKES, counts, strict=True):
        for i in range(count):
            problem, parts = make(rng), int(rng.integers(1, 4))
            print(f"{i}, in {parts} parts: {problem}", flush=True)
            matmul.past_caches = lambda *_, past=i % 2 == 1: past
            depthwise.past_caches = matmul.past_caches
            problems.cut(parts)
            problems.check(problem, i)


def run_elements(kind: str, seed: int, count: int) -> None:
    """Check random problems of elements.py."""
    guard()
    print(f"vectors of {jit.vector_bytes()} bytes", flush=True)
    elements.sweep(kind, seed, count, lambda line: print(line, flush=True))


def outcome(function: Callable[[], Any]) -> str:
    """Return what becomes of a fork that calls a function."""
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return signal.Signals(-code).name if code < 0 else str(code)


def strays() -> None:
    """Go too far, on purpose, with a tile in each of its arrays and with the kernels of Linear."""
    global at_end
    width = 2 * tile.lanes(np.float32)
    shapes = {"a": (3, 3), "b": (3, width), "start": (3, width), "c": (3, width)}
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 19)
    code, origin = kind(tile.tile(np.dtype(np.float32))), np.zeros(1, np.int64).ctypes.data
    for place, step in (("before", -1), ("after", 1)):
        at_end = itertools.repeat(place == "after")
        arrays = {name: empty(shape, np.float32) for name, shape in shapes.items()}
        for name in ("nothing", *shapes):
            a, b, start, c = (
                array.ctypes.data + (array.itemsize * step if name == n else 0)
                for n, array in arrays.items()
            )
            arguments = (
                3, 2, a, origin, 3, 1, b, origin, width, 1, 3, start, width, c, width, width // 2,
                0, 0, 0,
            )  # fmt: skip
            print(f"tile: {place} {name}:", outcome(lambda: code(*arguments)))  # noqa: B023

    guard()
    weight = np.ones((8, 8), np.float32)
    x, wide = np.ones((4, 8), np.float32), np.ones((4, 16), np.float32)
    _, cache = kernel.forward(x, weight)
    print("linear: after nothing:", outcome(lambda: kernel.backward(x, cache)))
    print("linear: after dy:", outcome(lambda: kernel.backward(x[:, 1:], cache)))
    print("linear: after y:", outcome(lambda: kernel.forward(wide, weight)))


def tiles(width: int) -> None:
    """Run tiles of vectors of so many bytes on a B that ends with its last row."""
    jit.vector_bytes, jit.vector_registers = lambda: width, lambda: 16 if width < 64 else 32
    tile.WIDTHS = (1, 2)
    kind, origin = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 19), np.zeros(1, np.int64)
    global at_end
    at_end = itertools.repeat(True)
    dtype, n = np.dtype(np.float32), width // 4
    code = kind(jit.native("", lambda: tile._emit(dtype), "tile"))
    for columns, k in itertools.product(range(1, 2 * n + 1), (1, 2, 5, 2 * n + 1)):
        vectors, (c, start) = -(-columns // n), np.zeros((2, columns), dtype)
        for ldb in (0, *range(columns, columns + n + 1)):
            a, b = np.ones(k, dtype), empty((k - 1) * ldb + columns, dtype)
            b[...] = 1
            code(
                1, vectors, a.ctypes.data, origin.ctypes.data, k, 1, b.ctypes.data,
                origin.ctypes.data, ldb, 1, k, start.ctypes.data, 0, c.ctypes.data, columns,
                columns - (vectors - 1) * n, 0, 0, 0,
            )  # fmt: skip
            assert (c == k).all()


if __name__ == "__main__":
    if sys.argv[1] == "elements":
        run_elements(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        which = {"problems": run, "strays": strays, "tiles": tiles}
        which[sys.argv[1]](*map(int, sys.argv[2:]))
