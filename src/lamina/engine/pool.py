"""The threads that share the parts of a kernel.

Whoever is free takes the next part: the caller too, and all of them where nobody else comes in
time, so that no call waits for a thread that has not begun: on a busy machine a call takes the time
of one thread, and waits for a part that the system let another begin and then halted. Which thread
computes a part changes nothing of the result. A worker looks for work for about 1 ms, longer than
Python takes from one call of a network to the next, then sleeps until a call wakes it: maybe on the
core of the caller, where it has to wait for that.
"""

import atexit
import contextlib
import ctypes
import itertools
import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from . import jit
from .jit import (
    BYTES,
    DISABLED,
    Arguments,
    Entry,
    Late,
    address,
    call,
    held,
    item,
    packer,
    words,
)
from .memory import pointer

NDArray = npt.NDArray[Any]

LOOKS: Final = 40_000
"""How often a worker looks for work before it sleeps."""
LAST_LOOKS: Final = 100
"""The same when it has said that it will."""
LINES: Final = 128
"""Bytes that no two threads should write by turns: two lines of a cache, as they are fetched."""

NEXT, DONE, TASK = 0, 16, 32
"""The words of what threads share, on lines of their own: the next part, how many are done, and
what the parts are: the kernel, where its arguments are, the number of the job of phase 0."""
WORDS: Final = 48
INDEX: Final = 16
"""Bits of a part's index within its job. In NEXT, their number lies above it in as many bits, and
the number of the job in the rest: what a thread takes is one of this job, or it takes nothing."""
BELOW: Final = (1 << INDEX) - 1
JOBS: Final = (1 << 64 - 2 * INDEX) - 1
"""Numbers of jobs begin anew beyond that."""

ALONE: Final = 0
"""In the place of what threads share: there are no others."""

TOGETHER: Final = 4
"""The most calls that are shared in a run of calls that are ready; so many that are not, one after
the other, end it, too."""
MOST: Final = 20
"""The most arguments of a call that is ready."""
ROW: Final = 3 + MOST
"""The words of such a call: the kernel, how many parts and phases, the arguments."""
OFFSET: Final = 48
"""Bits of how many bytes an argument lies behind where the data of an array begins, ..."""
LATEST: Final = -1 << 62
"""... which is one that comes later: their number stands above it, and all is this much less."""

_libc: Final = ctypes.PyDLL(None) if hasattr(os, "sched_setaffinity") else None
_cpu: Final[Callable[[], int]] = getattr(_libc, "sched_getcpu", lambda: -1)
"""`_cpu()`: the CPU this thread runs on; below 0 where a system does not tell, or moves none."""


# What threads say to each other


def _nobody(*_: Any) -> None:
    raise RuntimeError("threads share nothing where the JIT is disabled")


_write: Final = jit.operation("exchange", _nobody)
_add: Final = jit.operation("add", _nobody)
"""`_add(shared, word, value)`, as `_write`: what a word of the shared memory was.

What a thread wrote before such an operation is seen by all that read its result."""
_read: Final = jit.operation("read", _nobody)
"""`_read(shared, word)`: a word; what its writer wrote before is seen, too."""
_rest: Final = jit.operation("rest", _nobody)
"""`_rest()` tells the CPU that this thread only waits."""
_filled: Final = jit.operation("filled", _nobody)
"""`_filled(row, late)`: where the arguments of a call are, with the arrays that came later."""


# What they do


@jit.kernel
def _take(shared: int) -> None:
    """Compute parts until none is left to take."""
    while True:
        taken = _add(shared, NEXT, 1)
        index, count = taken & BELOW, (taken >> INDEX) & BELOW
        if index >= count:
            return
        phase = ((taken >> 2 * INDEX) - item(shared, TASK + 2)) & JOBS
        call(item(shared, TASK), (phase * count + index, item(shared, TASK + 1)))
        _add(shared, DONE, 1)


@jit.kernel
def _offer(shared: int, count: int, code: int, at: int, phases: int) -> None:
    """Offer the parts of each phase as a job, take some, and wait until all are done.

    Where nothing is shared, compute all.
    """
    if shared == ALONE:
        for part in range(phases * count):
            call(code, (part, at))
        return
    job = (_read(shared, NEXT) >> 2 * INDEX) + 1
    _write(shared, TASK, code)
    _write(shared, TASK + 1, at)
    _write(shared, TASK + 2, job)
    _write(shared, DONE, 0)
    for phase in range(phases):
        # The first part is the caller's, so that it finds in its caches what it left there.
        _write(shared, NEXT, (job + phase << 2 * INDEX) + (count << INDEX) + 1)
        call(code, (phase * count, at))
        _add(shared, DONE, 1)
        _take(shared)
        while _read(shared, DONE) < (phase + 1) * count:
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


@jit.kernel
def _run_ready(shared: int, table: int, late: int) -> None:
    """Run calls that are ready: behind its code, the table says how many, then each of them."""
    for i in range(item(table, 1)):
        row = table + (2 + i * ROW) * 8
        code, parts, phases, at = item(row, 0), item(row, 1), item(row, 2), _filled(row, late)
        if parts * phases == 1:
            call(code, (0, at))
        else:
            _offer(shared, parts, code, at, phases)


class Pool:
    """Threads that wait for work. One caller uses them at a time, who holds `free`."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.workers: list[threading.Thread] = []
        self.asleep: list[threading.Lock] = []
        self.closed = False
        self.cpu = -1  # that of the call which woke workers last
        self.words = np.zeros(WORDS + LINES // 8, np.int64)
        self.shared = -(-pointer(self.words) // LINES) * LINES

    def gather(self, count: int) -> int:
        """Let so many threads come, if they can; return what they share. Who calls holds `free`."""
        if len(self.workers) < count - 1:
            self._hire(count - 1)
        self._wake()
        return self.shared

    def close(self) -> None:
        """Let all workers end: none may run code that the process takes down."""
        self.closed = True
        for worker in self.workers:
            while worker.is_alive():
                with self.free:
                    self._wake()
                worker.join(0.01)

    def _hire(self, count: int) -> None:
        _serve.entry()  # compiled here, not by all of them
        self.cpu = _cpu()
        while len(self.workers) < count:
            worker = threading.Thread(target=self._work, name="lamina", daemon=True)
            self.workers.append(worker)  # before a signal may interrupt this
            try:
                worker.start()
            except RuntimeError:  # a limit on threads, or Python's end: those there are suffice
                self.workers.pop()
                return

    def _wake(self) -> None:
        """Wake all workers. Who calls holds `free`: nobody else takes gates off the list."""
        if self.asleep:
            self.cpu = _cpu()
        while self.asleep:
            gate = self.asleep[0]
            if gate.locked():
                gate.release()
            del self.asleep[0]  # a signal may come before: to wake it once more does no harm

    def _work(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        serve = _serve.entry().run
        while not self.closed:
            self._move()
            serve(self.shared, LOOKS)
            self.asleep.append(gate)
            serve(self.shared, LAST_LOOKS)  # a call may have begun before it saw that
            gate.acquire()

    def _move(self) -> None:
        """Leave the CPU of the call that woke this thread: they would take turns on it.

        A busy system wakes a thread where its waker runs, and may leave it there for long.
        """
        if self.cpu < 0 or self.cpu != _cpu():
            return
        with contextlib.suppress(OSError):  # a process may be forbidden to
            allowed = os.sched_getaffinity(0)
            if others := allowed - {self.cpu}:
                os.sched_setaffinity(0, others)
                os.sched_setaffinity(0, allowed)


_pool = Pool()


def share(kernel: Any, count: int, *arguments: Any, phases: int = 1) -> None:
    """Run `kernel(part, at)` for so many parts, which threads share, phase after phase.

    The parts of a phase begin when those of the one before have ended; part g of phase p has the
    number p · count + g. The kernel takes its arguments, integers, by ``constants(at, how many)``.

    Calls from several threads of Python's own may come at once: those that find the pool in use
    compute their parts alone.
    """
    if DISABLED:
        _in_turn(kernel, count * phases, arguments)
    else:
        _run(kernel.entry(), count, packer(len(arguments))(*arguments), phases)


def launch(kernel: Any, count: int, fixed: Arguments, *arguments: Any) -> None:
    """Run `kernel(part, *fixed.arguments, *arguments)`, all of any kinds, as `share` does."""
    if DISABLED:
        _in_turn(kernel, count, *fixed.arguments, *arguments)
    else:
        kinds, found = words((fixed, *arguments))
        _run(kernel.entry(kinds), count, packer(len(found))(*found), 1)


def late(i: int) -> int:
    """Return what stands for the i-th of the arrays that come later."""
    return ~i


def late_data(i: int) -> int:
    """Return what stands for the `address` of the i-th of them; bytes may be added to it."""
    return LATEST + (i << OFFSET)


def late_array(i: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Late:
    """Return what stands for as much of the i-th of them as an array of that form has."""
    return Late(late(i), shape, np.dtype(dtype))


class Ready(NamedTuple):
    """A call of `share`, or of `launch`, with all at hand but arrays that come later.

    An argument below 0 is `late` or `late_data`: it stands for what `held` or `address` will say of
    one of them. `keep` is what the others point to, `kinds` what `words` says of them.
    """

    kernel: Any
    parts: int
    arguments: Sequence[Any]
    keep: Any
    kinds: tuple[Any, ...] | int = 2
    phases: int = 1


def ready(kernel: Any, count: int, fixed: Arguments, *arguments: Any) -> Ready:
    """Return a call of `launch` with all at hand."""
    kinds, found = words((fixed, *arguments))
    return Ready(kernel, count, found, (fixed, arguments), kinds)


Run: TypeAlias = Callable[..., Any]
"""`run(*arrays)`: with the arrays that came later, all C-contiguous."""


def in_order(*calls: Ready) -> Run:
    """Return calls that are ready as one function, which does one after the other.

    Any number of threads may call it at once.
    """
    # Workers may fall asleep where they are not needed, or find no core: each run wakes them.
    runs: list[Run] = []
    some: list[Ready] = []
    shared = alone = 0
    for ready in calls:
        if ready.parts == 1:
            alone += 1
        else:
            if shared == TOGETHER or alone >= TOGETHER:
                runs.append(_as_one(some))
                some, shared = [], 0
            shared, alone = shared + 1, 0
        some.append(ready)
    runs.append(_as_one(some))
    return runs[0] if len(runs) == 1 else partial(_one_by_one, runs)


def _as_one(calls: Sequence[Ready]) -> Run:
    if DISABLED:
        return once(*calls)
    table = [_run_ready.entry(3).at, len(calls)]
    for kernel, parts, arguments, _, kinds, phases in calls:
        nothing = itertools.repeat(0, MOST - len(arguments))
        table += kernel.entry(kinds).at, parts, phases, *arguments, *nothing
    assert len(table) == 2 + len(calls) * ROW
    run = jit.with_table(np.array(table, np.int64), calls)
    most = max(ready.parts for ready in calls)
    return partial(run, ALONE) if most == 1 else partial(_with_others, run, most)


def _one_by_one(runs: Sequence[Run], *arrays: NDArray) -> None:
    for run in runs:
        run(*arrays)


def once(*calls: Ready) -> Run:
    """Return what `in_order` does, for a function that is called once: it is made sooner."""
    return partial(_one_by_one, [partial(_filled_in, ready) for ready in calls])


def _filled_in(ready: Ready, *arrays: NDArray) -> None:
    if isinstance(ready.kinds, tuple):
        fixed, arguments = ready.keep
        found = [_come(a, arrays) for a in arguments]
        launch(ready.kernel, ready.parts, fixed, *found)
    else:
        found = [a if isinstance(a, tuple) else _come(a, arrays) for a in ready.arguments]
        share(ready.kernel, ready.parts, *found, phases=ready.phases)


def _come(a: Any, arrays: Sequence[NDArray]) -> Any:
    """Return an argument with the arrays that came later."""
    if isinstance(a, Late):
        return arrays[~a.held].reshape(-1)[: math.prod(a.shape)].reshape(a.shape)
    if isinstance(a, tuple):
        return tuple(_come(one, arrays) for one in a)
    if not isinstance(a, int) or a >= 0:
        return a
    if a >= LATEST // 2:
        return held(arrays[~a])
    i, offset = divmod(a - LATEST, 1 << OFFSET)
    return address(arrays[i]) + offset


def _in_turn(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    for part in range(count):
        kernel(part, *arguments)


def _run(entry: Entry, count: int, packed: bytes, phases: int) -> None:
    at = id(packed) + BYTES
    if count == phases == 1:
        entry.run(0, at)
    elif count == 1:
        _offer.entry(5).run(ALONE, 1, entry.at, at, phases)
    else:
        _with_others(_offer.entry(5).run, count, count, entry.at, at, phases)


def _with_others(run: Callable[..., Any], most: int, *arguments: Any) -> None:
    """Run what so many threads share at most."""
    pool = _pool
    if pool.closed or pool.free.locked():
        run(ALONE, *arguments)
    else:
        with pool.free:  # no signal comes between taking it and the block that gives it back
            run(pool.gather(most), *arguments)


def _after_fork() -> None:
    global _pool
    _pool = Pool()  # the parent's threads did not come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _pool.close())
