"""The threads that share the parts of a kernel.

Whoever is free takes the next part: the caller too, and all of them where nobody else comes in
time, so that no call waits for a thread that has not begun; on a busy machine a call takes at worst
the time of one thread. Which thread computes a part changes nothing of the result. A worker looks
for work for about 0.3 ms, then sleeps until a call wakes it.
"""

import atexit
import os
import struct
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import jit
from .jit import DISABLED, item
from .memory import HEADER, pointer

LOOKS: Final = 10_000
"""How often a worker looks for work before it sleeps."""
LAST_LOOKS: Final = 100
"""The same when it has said that it will."""
LINES: Final = 128
"""Bytes that no two threads should write by turns: two lines of a cache, as they are fetched."""

NEXT, DONE, TASK = 0, 16, 32
"""The words of what threads share, on lines of their own: the next part, how many are done, and
what the parts are: the kernel, where its arguments are, the number of the first part."""
WORDS: Final = 48
INDEX: Final = 16
"""Bits of a part's index within its job. In NEXT, their number lies above it in as many bits, and
the number of the job in the rest: what a thread takes is one of this job, or it takes nothing."""
BELOW: Final = (1 << INDEX) - 1

ALONE: Final = 0
"""In the place of what threads share: there are no others."""

X, Y = -1, -2
"""In the place of an argument that comes later."""
ROW: Final = 16
"""The words of a call that is ready: how many there are from it on that run as one, the kernel, how
many parts, the arguments."""

_PART: Final = types.int64, types.int64
"""The arguments of a kernel that `share` runs: the number of a part, and where its own are."""
_BYTES: Final = bytes.__basicsize__ - 1
"""Bytes of such an object before what it holds, to which CPython adds a zero."""
_i64: Final = ir.IntType(64)


# What threads say to each other


def _word(builder: Any, shared: Any, word: Any) -> Any:
    first = builder.inttoptr(shared, ir.PointerType())
    return builder.gep(first, [word], source_etype=_i64)


def _atomic(operation: str) -> Any:
    """Return a function of the shared memory, a word of it and a value: what the word was.

    What a thread wrote before such an operation is seen by all that read its result.
    """

    def typed(typing_context: Any, shared: Any, word: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *place, value = arguments
            return builder.atomic_rmw(operation, _word(builder, *place), value, "acq_rel")

        return types.int64(types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


_write, _add = _atomic("xchg"), _atomic("add")


def _loaded(typing_context: Any, shared: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_word(builder, *arguments), "acquire", 8, typ=_i64)

    return types.int64(types.int64, types.int64), codegen


_read: Final[Any] = intrinsic(_loaded)
"""`_read(shared, word)`: a word; what its writer wrote before is seen, too."""


def _resting(typing_context: Any) -> Any:
    """Tell the CPU that this thread only waits."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, hint = "", []
        if llvm.get_process_triple().startswith(("x86_64", "i686")):
            name = "llvm.x86.sse2.pause"
        elif llvm.get_process_triple().startswith(("aarch64", "arm64")):
            name, hint = "llvm.aarch64.hint", [ir.IntType(32)(1)]
        if name:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in hint])
            insert: Any = cgutils.get_or_insert_function
            builder.call(insert(builder.module, kind, name), hint)
        return context.get_dummy_value()

    return types.void(), codegen


_rest: Final[Any] = intrinsic(_resting)


@intrinsic
def _enter(typing_context: Any, entry: Any, part: Any, at: Any) -> Any:
    """Call the kernel at the address `entry`, as Numba calls it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        convention, (entry, *given) = context.call_conv, arguments
        kind = convention.get_function_type(types.none, _PART)
        function = builder.inttoptr(entry, kind.as_pointer())
        convention.call_function(builder, function, types.none, _PART, given)
        return context.get_dummy_value()

    return types.void(types.int64, *_PART), codegen


def _enter_twin(entry: Callable[[int, Any], None], part: int, at: tuple[Any, ...]) -> None:
    entry(part, at)


enter: Final[Any] = _enter_twin if DISABLED else _enter


@intrinsic
def _job(typing_context: Any, kernel: Any, arguments: Any) -> Any:
    """Lay the arguments down, and emit the function that hands them to the kernel."""
    given = (types.int64, *arguments.types)
    inner = kernel.get_call_type(typing_context, given, {})

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        convention, packed = context.call_conv, values[1]
        memory: Any = cgutils.alloca_once_value
        place = builder.ptrtoint(memory(builder, packed), _i64)
        run = context.get_function(kernel, inner)
        context.add_linking_libs(getattr(run, "libs", ()))
        kind = convention.get_function_type(types.none, _PART)
        entry = ir.Function(builder.module, kind, builder.module.get_unique_name("job"))
        entry.linkage = "internal"
        b = ir.IRBuilder(entry.append_basic_block("entry"))
        part, at = convention.get_arguments(entry)
        unpack: Any = cgutils.unpack_tuple
        run(b, [part, *unpack(b, b.load(b.inttoptr(at, ir.PointerType()), typ=packed.type))])
        convention.return_value(b, context.get_dummy_value())
        return context.make_tuple(
            builder, signature.return_type, [builder.ptrtoint(entry, _i64), place]
        )

    pair: Any = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]
    return pair(kernel, arguments), codegen


def _job_twin(kernel: Callable[..., None], arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    return (lambda part, at: kernel(part, *at)), arguments


job: Final[Any] = _job_twin if DISABLED else _job
"""`job(kernel, arguments)`, in a driver: what `offer` takes to run ``kernel(part, *arguments)``."""


# What they do


@jit.kernel
def _in_turn(count: int, entry: int, at: int) -> None:
    """Compute all parts."""
    for part in range(count):
        enter(entry, part, at)


@jit.kernel
def _take(shared: int) -> None:
    """Compute parts until none is left to take."""
    while True:
        taken = _add(shared, NEXT, 1)
        index = taken & BELOW
        if index >= (taken >> INDEX) & BELOW:
            return
        enter(item(shared, TASK), item(shared, TASK + 2) + index, item(shared, TASK + 1))
        _add(shared, DONE, 1)


@jit.kernel
def offer(shared: int, count: int, entry: int, at: int, phases: int = 1) -> None:
    """Offer the parts of each phase as a job, take some, and wait until all are done.

    Where nothing is shared, compute all. A driver calls it as ``offer(shared, count, *job)``.
    """
    if shared == ALONE:
        _in_turn(phases * count, entry, at)
        return
    _write(shared, TASK, entry)
    _write(shared, TASK + 1, at)
    for phase in range(phases):
        _write(shared, TASK + 2, phase * count)
        _write(shared, DONE, 0)
        job = (_read(shared, NEXT) >> 2 * INDEX) + 1
        _write(shared, NEXT, (job << 2 * INDEX) + (count << INDEX))
        _take(shared)
        while _read(shared, DONE) < count:
            _rest()


@jit.kernel
def _serve(shared: int, looks: int) -> None:
    """Take parts of the job that is there and of those that come, until so many looks find none."""
    job = -1
    seen = 0
    while seen < looks:
        now = _read(shared, NEXT) >> 2 * INDEX
        if now == job:
            seen += 1
            _rest()
        else:
            job, seen = now, 0
            _take(shared)


def _filling(typing_context: Any, row: Any, x: Any, y: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        row, x, y = values
        once: Any = cgutils.alloca_once
        memory = once(builder, _i64, size=ROW - 3)
        for i in range(ROW - 3):
            word = builder.load(_word(builder, row, _i64(3 + i)), typ=_i64)
            for stands, value in ((X, x), (Y, y)):
                word = builder.select(builder.icmp_signed("==", word, _i64(stands)), value, word)
            builder.store(word, builder.gep(memory, [_i64(i)], source_etype=_i64))
        return builder.ptrtoint(memory, _i64)

    return types.int64(types.int64, types.int64, types.int64), codegen


_filled: Final[Any] = intrinsic(_filling)
"""`_filled(row, x, y)`: where the arguments of a call are, x and y in the place of X and Y."""


@jit.kernel
def _shared(shared: int, most: int, table: int, x: int, y: int) -> None:
    """Run calls that are ready, for the ids of X and Y; none has more parts than `most`."""
    for i in range(item(table, 0)):
        row = table + i * ROW * 8
        at = _filled(row, x + HEADER, y + HEADER)
        if item(row, 2) == 1:
            enter(item(row, 1), 0, at)
        else:
            offer(shared, item(row, 2), item(row, 1), at)


@jit.kernel
def _alone(table: int, x: int, y: int) -> None:
    """Run calls that are ready and have one part each."""
    for i in range(item(table, 0)):
        row = table + i * ROW * 8
        enter(item(row, 1), 0, _filled(row, x + HEADER, y + HEADER))


class Pool:
    """Threads that wait for work. One caller uses them at a time."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.workers: list[threading.Thread] = []
        self.asleep: list[threading.Lock] = []
        self.closed = False
        self.words = np.zeros(WORDS + LINES // 8, np.int64)
        self.shared = -(-pointer(self.words) // LINES) * LINES

    def acquire(self, count: int) -> int:
        """Return what so many threads share, until `release`; ALONE if it is in use, or closed."""
        if DISABLED or self.closed or not self.free.acquire(blocking=False):
            return ALONE
        try:
            if len(self.workers) < count - 1:
                self._hire(count - 1)
            self._wake()
        except BaseException:
            self.free.release()
            raise
        return self.shared

    def release(self, shared: int) -> None:
        """Let others use the pool."""
        if shared != ALONE:
            self.free.release()

    def close(self) -> None:
        """Let all workers end: none may run code that the process takes down."""
        self.closed = True
        for worker in self.workers:
            while worker.is_alive():
                self._wake()
                worker.join(0.01)

    def _hire(self, count: int) -> None:
        _serve(self.shared, 0)  # compiled here, not by all of them
        while len(self.workers) < count:
            worker = threading.Thread(target=self._work, name="lamina", daemon=True)
            worker.start()
            self.workers.append(worker)

    def _wake(self) -> None:
        while self.asleep:
            self.asleep.pop().release()

    def _work(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while not self.closed:
            _serve(self.shared, LOOKS)
            self.asleep.append(gate)
            _serve(self.shared, LAST_LOOKS)  # a call may have begun before it saw that
            gate.acquire()


_pool = Pool()


def share(kernel: Any, count: int, *arguments: Any, phases: int = 1) -> None:
    """Run `kernel(part, at)` for so many parts, which threads share, phase after phase.

    The parts of a phase begin when those of the one before have ended; part g of phase p has the
    number p · count + g. The kernel takes its arguments, integers, by ``constants(at, how many)``.
    It raises nothing.

    Calls from several threads of Python's own may come at once: those that find the pool in use
    compute their parts alone.
    """
    packed: Any = arguments if DISABLED else _packer(len(arguments))(*arguments)
    at = packed if DISABLED else id(packed) + _BYTES
    if count == phases == 1:
        kernel(0, at)
    elif count == 1:
        for phase in range(phases):
            kernel(phase, at)
    else:
        _run(offer, count, _entry(kernel), at, phases)


class Ready(NamedTuple):
    """A call of `share`, in one phase, with all at hand.

    Of its arguments, X and Y stand for what `held` will say of two arrays that come later; the
    others are not negative. `keep` is what they point to.
    """

    kernel: Any
    parts: int
    arguments: tuple[int, ...]
    keep: Any


def in_order(calls: list[Ready]) -> tuple[list[Callable[[int, int], Any]], Any]:
    """Return calls that are ready as functions to call one after the other, and what to keep.

    Each takes the ids of the arrays X and Y. Any number of threads may call one at once.
    """
    table = np.zeros((len(calls), ROW), np.int64)
    # Workers may fall asleep in what is not shared: what is shared wakes them and comes first.
    firsts = [i for i, ready in enumerate(calls) if i == 0 or ready.parts > 1]
    runs: list[Callable[[int, int], Any]] = []
    for first, end in zip(firsts, [*firsts[1:], len(calls)], strict=True):
        for i in range(first, end):
            kernel, parts, arguments, _ = calls[i]
            table[i, : 3 + len(arguments)] = end - first, _entry(kernel), parts, *arguments
        at, parts = pointer(table[first:]), calls[first].parts
        runs.append(partial(_alone, at) if parts == 1 else partial(_run, _shared, parts, at))
    return runs, (table, calls)


def launch(
    serial: Callable[..., None], parallel: Callable[..., None], count: int, *arguments: Any
) -> None:
    """Run ``serial(0, ...)`` for one part, the driver ``parallel(shared, count, ...)`` for more.

    The driver offers jobs, whose arguments are of any types, arrays and tuples among them.
    """
    if count == 1:
        serial(0, *arguments)
    else:
        _run(parallel, count, *arguments)


def _run(driver: Callable[..., None], count: int, *arguments: Any) -> None:
    pool = _pool
    shared = pool.acquire(count)
    try:
        driver(shared, count, *arguments)
    finally:
        pool.release(shared)


@cache
def _entry(kernel: Any) -> Any:
    """Return where the machine code of a kernel begins, compiled now if it was not before."""
    if DISABLED:
        return kernel
    kernel.compile(_PART)
    compiled = kernel.overloads[_PART]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


@cache
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"{count}q").pack


def _after_fork() -> None:
    global _pool
    _pool = Pool()  # the parent's threads did not come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _pool.close())
