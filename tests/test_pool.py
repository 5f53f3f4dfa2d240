"""The threads that share a kernel's parts."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lamina.engine import jit, packing, pool
from lamina.engine.pool import Pool


@jit.kernel
def reverse(part, at):
    """Copy element g from the end of line p to place g of the next one."""
    count, copy, lines = jit.constants(at, 3)
    p, g = part // count, part % count
    line = jit.data(lines) + p * count * 8
    jit.call(copy, (line + (count - 1 - g) * 8, 1, 1, 1, 1, line + (count + g) * 8, 1))


def reversed_often(count, phases):
    """Return whether so many phases of so many parts give what they should."""
    lines = np.zeros((phases + 1, count))
    lines[0] = range(count)
    pool.share(reverse, count, count, packing.copy(lines.dtype), jit.held(lines), phases=phases)
    expected = np.stack([lines[0, :: (-1) ** p] for p in range(phases + 1)])
    return np.array_equal(lines, expected)


@jit.kernel
def weighted(part, weights, column, start, table, found):
    """Write to place `part` the weighted sum of a column of a plane of the table."""
    total = start
    for i in range(table.shape[1]):
        total += weights[i] * table[part, i, column]
    found[part] = total


@pytest.fixture
def own(monkeypatch):
    """Give a pool for one test."""
    own = Pool()
    monkeypatch.setattr(pool, "_pool", own)
    yield own
    own.close()


@pytest.mark.parametrize("phases", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_shared_phase_after_phase(own, count, phases):
    assert reversed_often(count, phases)
    assert len(own.workers) == count - 1


@pytest.mark.parametrize("count", [1, 3])
def test_arguments_of_any_kind(own, count):
    table, found = np.arange(24).reshape(3, 4, 2), np.full(3, -1)
    weights = np.array([2, 3, 5])
    pool.launch(weighted, count, jit.Arguments((2, 3, 5, 7), 1), 100, table, found)
    expected = 100 + (table[:, :, 1] * [2, 3, 5, 7]).sum(axis=1)
    assert found.tolist() == [*expected[:count], *[-1] * (3 - count)]
    with pytest.raises(ValueError, match="C-contiguous"):
        jit.run(weighted, 0, weights[::-1], 0, 0, table, found)


@pytest.mark.parametrize("counts", [(1,), (3,), (1, 2), (1, 1, 1, 1, 2, 1), (2,) * 6])
def test_calls_that_are_ready(own, counts):
    code, late, size = packing.copy(np.dtype(np.float64)), pool.late, 4
    calls = [
        pool.Ready(reverse, count, (count, code, late(i)), None, phases=size // count)
        for i, count in enumerate(counts)
    ]
    arrays = [np.zeros((size // count + 1, count)) for count in counts]
    for array in arrays:
        array[0] = range(1, 1 + array.shape[1])
    assert pool.in_order(*calls)(*arrays) is None
    for array in arrays:
        assert (array == [array[0, :: (-1) ** p] for p in range(len(array))]).all()


@jit.kernel
def moved(part, fixed, at, found):
    """Add to a number of an array one of another, which lies behind the first."""
    source, target = at
    found[part, 1] = jit.item(jit.data(target), part) + jit.item(source, fixed[part])


@pytest.mark.parametrize("once", [False, True])
def test_arrays_that_come_later(own, once):
    """As arrays, as where they are held, and as where their data is, and so many bytes on."""
    size, late = 8, pool.late_array(2, (3, 2), np.int64)
    at = pool.late_data(0) + 2 * size, pool.late(1)
    ready = pool.ready(moved, 3, jit.Arguments((4, 0, 2)), at, late)
    run = (pool.once if once else pool.in_order)(ready)
    for first in (0, 100):
        found = np.full(7, -1)
        run(first + np.arange(7), np.array([10, 20, 30]), found)
        assert found.tolist() == [-1, first + 16, -1, first + 22, -1, first + 34, -1]


def test_many_jobs_one_after_the_other(own):
    for i in range(300):
        assert reversed_often(2 + i % 3, 1 + i % 4)
    assert len(own.workers) == 3


@pytest.mark.parametrize("bits", [31, 32])
def test_numbers_of_jobs_begin_anew(own, bits):
    """In the middle of a call, too: a server makes so many in days."""
    first = (own.shared - own.words.ctypes.data) // own.words.itemsize
    own.words[first + pool.NEXT] = np.uint64((1 << bits) - 7 << 2 * pool.INDEX).astype(np.int64)
    for _ in range(4):
        assert reversed_often(3, 5)


def sleepers(own, count):
    """Return how many workers sleep, as soon as they are so many."""
    deadline = time.monotonic() + 20
    while len(set(own.asleep)) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    return len(set(own.asleep))


def test_workers_sleep_and_wake(own):
    for _ in range(3):
        assert reversed_often(3, 2)
        assert sleepers(own, 2) == 2


def test_a_caller_does_not_wait_for_workers(own, monkeypatch):
    """It computes all parts where no other thread comes."""
    monkeypatch.setattr(Pool, "_hire", lambda self, count: None)
    assert reversed_often(5, 3)
    assert not own.workers


def test_callers_at_once(own):
    start, right = threading.Barrier(6), []

    def many():
        start.wait()
        right.append(all(reversed_often(2, 3) for _ in range(100)))

    callers = [threading.Thread(target=many) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 6
    assert len(own.workers) == 1


def test_a_caller_that_finds_it_in_use_computes_alone(own):
    with own.free:
        assert reversed_often(4, 2)
    assert not own.workers


def test_a_closed_pool_has_no_threads(own):
    assert reversed_often(4, 2)
    own.close()
    assert not any(worker.is_alive() for worker in own.workers)
    assert reversed_often(4, 2)  # alone
    assert own.free.acquire(blocking=False)


def test_an_interrupt_at_any_moment_leaves_the_pool_to_others(own):
    """A signal's handler runs where a function of Python begins, and where one of C has ended."""
    left = 0

    def interrupt(_, event, __):
        nonlocal left
        left -= event in ("call", "c_return")
        if left < 0:
            sys.setprofile(None)
            raise KeyboardInterrupt

    assert reversed_often(3, 2)
    for moment in range(1000):
        assert sleepers(own, 2) == 2
        left = moment
        try:
            sys.setprofile(interrupt)
            reversed_often(3, 2)
            sys.setprofile(None)
        except KeyboardInterrupt:
            pass
        assert not own.free.locked()
        assert reversed_often(3, 2)
        if left >= 0:
            break
    assert 9 < moment < 999


def test_threads_that_cannot_start_leave_the_pool_to_others(own, monkeypatch):
    def refuse(self, count):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as m:
        m.setattr(Pool, "_hire", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            reversed_often(3, 2)
    assert not own.free.locked()
    assert reversed_often(3, 2)


def test_a_caller_computes_alone_where_threads_cannot_start(own, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", refuse)
        assert reversed_often(3, 2)
    assert not own.workers
    assert reversed_often(3, 2)
    assert len(own.workers) == 2


FORKS = "ignore:This process:DeprecationWarning"  # Python 3.12 and later do not like forks


def run(script):
    done = subprocess.run(
        [sys.executable, "-W", FORKS, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_has_threads_of_its_own():
    run("""
        import os
        from lamina.engine import pool
        from tests.test_pool import reversed_often

        assert reversed_often(3, 2)
        for held in (False, True):  # True: as if another thread was within a call
            if held:
                pool._pool.free.acquire()
            child = os.fork()
            if child == 0:
                right = reversed_often(3, 2) and len(pool._pool.workers) == 2
                os._exit(0 if right else 1)
            assert os.waitpid(child, 0)[1] == 0
        pool._pool.free.release()
        """)


def test_a_process_ends_while_workers_look_for_work():
    run("""
        from tests.test_pool import reversed_often

        assert reversed_often(3, 2)
        """)


def test_a_worker_leaves_the_cpu_of_the_call_that_woke_it(monkeypatch):
    moves = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: moves.append(cpus), raising=False)
    monkeypatch.setattr(pool, "_cpu", lambda: 1)
    own = Pool()
    own._move()
    own.cpu = 0
    own._move()
    assert not moves
    own.cpu = 1
    own._move()
    assert moves == [{0, 2}, {0, 1, 2}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
    own._move()
    assert len(moves) == 2
