"""What this machine can do at most, measured by loops of machine code that do nothing else.

- Peak: independent chains of multiply-adds on registers alone, on one thread and on all.
- Bandwidth, on all threads, of working sets from level-1 caches to memory: reading, by sums of
  vectors; scaling in place, where an element counts as read and as written.

Each figure is the best of several runs. A bandwidth is at least that of any larger working set.
"""

import ctypes
import hashlib
import statistics
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from lamina.engine import jit
from lamina.engine.tile import Emitter

NDArray = npt.NDArray[Any]
Limits: TypeAlias = dict[str, Any]

SIZES: Final = tuple(2**i for i in range(15, 29))
"""The working sets, 32 KiB to 256 MiB, of all threads together."""
UNROLLED: Final = 8
"""Vectors that one turn of a loop over memory reads, and sums in as many chains."""
_i64, _pointer = ir.IntType(64), ir.PointerType()


def measure(threads: int, seconds: float = 0.2) -> Limits:
    """Return the limits: flop/s by dtype and threads, byte/s by working set.

    `seconds` is what each figure may take.
    """
    peak = {
        dtype: {str(n): _peak(dtype, n, seconds) for n in sorted({1, threads})}
        for dtype in ("float32", "float64")
    }
    read, scale = ([_bandwidth(do, n, threads, seconds) for n in SIZES] for do in ("read", "scale"))
    return {
        "threads": threads,
        "peak": peak,
        "sizes": list(SIZES),
        "read": _not_below_larger(read),
        "scale": _not_below_larger(scale),
    }


def greater(first: Limits, second: Limits) -> Limits:
    """Return the greater figures of two measurements: a shared host gives less for a while."""
    peak = {
        dtype: {n: max(rate, second["peak"][dtype][n]) for n, rate in rates.items()}
        for dtype, rates in first["peak"].items()
    }
    rates = {do: list(map(max, first[do], second[do])) for do in ("read", "scale")}
    return {**first, "peak": peak, **rates}


def wait_for_cores(found: Limits, seconds: float = 1.0) -> None:
    """Wait until all threads reach nine tenths of the peak at once, for so long at the most.

    A shared host takes a core away for seconds: what is measured then says nothing.
    """
    threads, dtype, window = found["threads"], "float32", 2e-3
    rate = found["peak"][dtype][str(threads)]
    run, end = _multiply_adds(dtype, threads), time.perf_counter() + seconds
    turns = max(1, int(window * rate / _flops(dtype, threads)))
    while statistics.median(run(turns) for _ in range(5)) * 0.9 > window:
        if time.perf_counter() > end:
            return
        time.sleep(0.1)


def _not_below_larger(bandwidths: list[float]) -> list[float]:
    return [max(bandwidths[i:]) for i in range(len(bandwidths))]


def _peak(dtype: str, threads: int, seconds: float) -> float:
    """Return the flop/s of multiply-adds on registers."""
    turns, best = _best(_multiply_adds(dtype, threads), seconds)
    return _flops(dtype, threads) * turns / best


def _multiply_adds(dtype: str, threads: int) -> Callable[[int], float]:
    """Return a function that runs multiply-adds for some turns and gives the seconds they took."""
    fma = loop("fma", dtype)
    starts = [np.full((chains() + 2) * _lanes(dtype), 0.5, dtype) for _ in range(threads)]
    for i, array in enumerate(starts):
        array += np.linspace(0, 0.1 + i, array.size, dtype=dtype) / 10  # no two chains alike
    return lambda turns: _together([_task(fma, array, 1, turns) for array in starts])


def _flops(dtype: str, threads: int) -> int:
    """Return the operations of a turn of `_multiply_adds`."""
    return threads * 2 * chains() * _lanes(dtype)


def _bandwidth(do: str, size: int, threads: int, seconds: float) -> float:
    """Return the byte/s of reading or scaling a working set of about `size` bytes."""
    run, step = loop(do, "float32"), UNROLLED * _lanes("float32")
    blocks = max(1, size // 4 // threads // step)
    arrays = [np.ones(blocks * step, np.float32) for _ in range(threads)]

    def together(turns: int) -> float:
        return _together([_task(run, array, blocks, turns) for array in arrays])

    turns, best = _best(together, seconds)
    moved = sum(array.nbytes for array in arrays) * (2 if do == "scale" else 1)
    return moved * turns / best


def _task(run: Callable[..., None], array: NDArray, blocks: int, turns: int) -> Callable[[], None]:
    sink = np.zeros(16, array.dtype)
    return lambda: run(array.ctypes.data, blocks, turns, sink.ctypes.data)


def _best(together: Callable[[int], float], seconds: float) -> tuple[int, float]:
    """Return how many turns take about an eighth of `seconds`, and the best time that they took."""
    turns = 1
    while (taken := together(turns)) < seconds / 16:
        turns = max(2 * turns, int(turns * seconds / 8 / max(taken, 1e-6) / 2))
    turns = max(1, int(turns * seconds / 8 / taken))
    return turns, min(together(turns) for _ in range(8))


def _together(tasks: list[Callable[[], None]]) -> float:
    """Run each task on a thread of its own, at the same time; return the seconds they took."""
    barrier = threading.Barrier(len(tasks))
    spans = []

    def run(task: Callable[[], None]) -> None:
        barrier.wait()
        start = time.perf_counter()
        task()
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


# The loops


def chains() -> int:
    """Return how many multiply-adds are under way at once: two units of a latency of 4 need 8."""
    return min(24, jit.vector_registers() - 4)


def _lanes(dtype: str) -> int:
    return jit.vector_bytes() // np.dtype(dtype).itemsize


@cache
def loop(name: str, dtype: str) -> Callable[..., None]:
    """Return machine code that ctypes calls without the GIL, (data, blocks, turns, sink).

    Its results go to `sink`, one element: the sum of lane 0 of all chains, where there are chains.
    """
    text = str(_module(name, dtype))
    address = jit.native(
        f"limits-{hashlib.sha256(text.encode()).hexdigest()[:16]}", lambda: text, name
    )
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(address)


def _module(name: str, dtype: str) -> ir.Module:
    emit = Emitter(dtype)
    kind = ir.FunctionType(ir.VoidType(), [_i64] * 4)
    function = ir.Function(emit.module, kind, name)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    data, blocks, turns, sink = function.args
    data, sink = b.inttoptr(data, _pointer), b.inttoptr(sink, _pointer)
    {"fma": _fma, "read": _read, "scale": _scale}[name](emit, b, data, blocks, turns, sink)
    b.ret_void()
    return emit.module


def _fma(
    emit: Emitter,
    b: ir.IRBuilder,
    data: ir.Value,
    blocks: ir.Value,
    turns: ir.Value,
    sink: ir.Value,
) -> None:
    """Go on from x to x f + g on each chain; starts, f and g are the vectors of `data`."""
    *starts, f, g = _vectors(emit, b, data, chains() + 2)
    sums = _loop(
        b, turns, starts, lambda _, values: [emit.multiply_add(b, x, f, g) for x in values]
    )
    _keep(emit, b, sums, sink)


def _read(
    emit: Emitter,
    b: ir.IRBuilder,
    data: ir.Value,
    blocks: ir.Value,
    turns: ir.Value,
    sink: ir.Value,
) -> None:
    def block(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        place = emit.at(b, data, b.mul(i, _i64(UNROLLED * emit.lanes)))
        return [b.fadd(x, y) for x, y in zip(sums, _vectors(emit, b, place, UNROLLED), strict=True)]

    zeros = [emit.vector(0.0)] * UNROLLED
    sums = _loop(b, turns, zeros, lambda _, values: _loop(b, blocks, values, block))
    _keep(emit, b, sums, sink)


def _scale(
    emit: Emitter,
    b: ir.IRBuilder,
    data: ir.Value,
    blocks: ir.Value,
    turns: ir.Value,
    sink: ir.Value,
) -> None:
    """Multiply by -1, in place."""

    def block(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        place = emit.at(b, data, b.mul(i, _i64(UNROLLED * emit.lanes)))
        for v, x in enumerate(_vectors(emit, b, place, UNROLLED)):
            scaled = b.fmul(x, emit.vector(-1.0))
            emit.store(b, scaled, emit.at(b, place, v * emit.lanes), None)
        return []

    _loop(b, turns, [], lambda _, values: _loop(b, blocks, values, block))


def _vectors(emit: Emitter, b: ir.IRBuilder, place: ir.Value, count: int) -> list[ir.Value]:
    return [emit.load(b, emit.at(b, place, v * emit.lanes), None) for v in range(count)]


def _keep(emit: Emitter, b: ir.IRBuilder, sums: list[ir.Value], sink: ir.Value) -> None:
    """Store something that depends on all of `sums`."""
    total = sums[0]
    for x in sums[1:]:
        total = b.fadd(total, x)
    b.store(b.extract_element(total, ir.IntType(32)(0)), sink)


def _loop(
    b: ir.IRBuilder,
    count: ir.Value,
    values: list[ir.Value],
    body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """Emit body(0, values), body(1, what it returned) and so on, `count` times; once at least."""
    before, start = b.block, b.append_basic_block("loop")
    b.branch(start)
    b.position_at_end(start)
    i, phis = b.phi(_i64), [b.phi(value.type) for value in values]
    results = body(i, phis)
    following = b.add(i, _i64(1))
    firsts, lasts = [_i64(0), *values], [following, *results]
    for phi, first, last in zip([i, *phis], firsts, lasts, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, b.block)
    end = b.append_basic_block("end")
    b.cbranch(b.icmp_signed("<", following, count), start, end)
    b.position_at_end(end)
    return results
