"""Programs: whatever the steps, the memory that they share is laid out so that none spoils another.

Steps here are sums of arrays and a number, in NumPy.
"""

import gc
import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lamina as lm
from contract import assert_same
from lamina.engine import matmul, program
from lamina.engine.program import Plan, Program

F32 = np.dtype(np.float32)


def add(*arrays):
    """Write the sum of the sources and 1, all of which are read as flat as the shortest."""
    *sources, target = arrays
    total = np.ones(target.size, F32)
    for s in sources:
        total += np.resize(s.reshape(-1), target.size)
    target.reshape(-1)[...] = total


def planned(rng, count):
    """A random plan: shapes, sources and views as they come; with what computes it apart."""
    plan = Plan((3, 5), F32)
    for _ in range(count):
        shape = (int(rng.integers(1, 60)), 3)
        sources = rng.integers(0, len(plan.shapes), rng.integers(1, 4)).tolist()
        if rng.random() < 0.4:
            shape = plan.shapes[sources[0]]
        n = plan.add(shape, add, *sources, in_place=shape == plan.shapes[sources[0]])
        if rng.random() < 0.3:
            plan.view(n, shape[::-1])
    return plan, len(plan.shapes) - 1


def apart(plan, result, x):
    """The same with an array of its own for each number."""
    arrays = [x, *(None for _ in plan.shapes[1:])]
    targets = {step.target: step for step in plan.steps}
    for i, (shape, owner) in enumerate(zip(plan.shapes, plan.owners, strict=True)):
        if i in targets:
            arrays[i] = np.empty(shape, F32)
            add(*(arrays[s] for s in targets[i].sources), arrays[i])
        elif i:
            arrays[i] = arrays[owner].reshape(shape)
    return arrays[result]


@pytest.mark.parametrize("seed", range(60))
def test_steps_do_not_spoil_one_another(seed):
    rng = np.random.default_rng(seed)
    plan, result = planned(rng, int(rng.integers(1, 25)))
    run, seen = Program(plan, result), []
    for _ in range(3):
        x = rng.standard_normal((3, 5)).astype(F32)
        before = x.copy()
        seen.append((run(x), apart(plan, result, x)))
        assert_same(x, before)
    for found, expected in seen:  # at the end: no call writes to what another returned
        assert_same(found, expected)
    for (a, _), (b, _) in itertools.combinations(seen, 2):
        assert not np.shares_memory(a, b)


def test_memory_is_that_of_arrays_that_live_at_once():
    plan = Plan((4, 64), F32)
    x = 0
    for _ in range(10):
        x = plan.add((4, 64), add, x)
    assert Program(plan, x).size == 2 * 4 * 64 * 4
    for _ in range(10):
        x = plan.add((4, 64), add, x, in_place=True)
    assert Program(plan, x).size == 2 * 4 * 64 * 4
    plan = Plan((4, 64), F32)
    first = plan.add((4, 64), add, 0)
    second = plan.add((4, 64), add, first, in_place=True)
    assert Program(plan, plan.add((4, 64), add, second)).size == 4 * 64 * 4


def test_scratch_is_shared_and_begins_a_line():
    plan, given = Plan((4,), F32), []

    def bind(scratch):
        given.append(scratch)
        return add

    y = plan.add_bound((4,), bind, 100, plan.add_bound((4,), bind, 24, 0))
    Program(plan, y)(np.zeros(4, F32))
    assert given[0] is given[1]
    assert given[0].size == 100
    assert given[0].ctypes.data % 64 == 0


def test_no_steps():
    plan = Plan((4, 2), F32)
    x = np.arange(8, dtype=F32).reshape(4, 2)
    assert_same(Program(plan, 0)(x), x)
    assert_same(Program(plan, plan.view(0, (8,)))(x[:, ::-1]), x[:, ::-1].reshape(8))


def test_calls_at_once_have_memory_of_their_own():
    rng = np.random.default_rng(0)
    plan, result = planned(rng, 20)
    run = Program(plan, result)
    xs = [rng.standard_normal((3, 5)).astype(F32) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for x, y in zip(xs, pool.map(run, xs), strict=True):
            assert_same(y, apart(plan, result, x))
    assert 1 <= len(run.waiting) <= 8


def test_large_memory_is_not_kept(monkeypatch):
    plan, result = planned(np.random.default_rng(1), 9)
    run, x = Program(plan, result), np.ones((3, 5), F32)
    y = run(x)
    assert len(run.waiting) == 1
    monkeypatch.setattr(program, "KEPT", run.size - 1)
    run = Program(plan, result)
    assert_same(run(x), y)
    assert not run.waiting
    plan = Plan((3, 5), F32)
    run = Program(plan, plan.add((3, 5), add, 0, scratch=program.KEPT + 1))
    run(x)
    assert not run.waiting


@pytest.mark.parametrize(("calls", "kept"), [(2, 2), (3, 3), (9, 3), (40, 5)])
def test_memory_of_many_calls_at_once_is_let_go(calls, kept, monkeypatch):
    def add(x, y):
        nonlocal calls
        calls -= 1
        if calls > 0:
            run(x)  # while this call is not over
        np.add(x, 1, y)

    plan = Plan((2, 5), F32)
    first = plan.add((2, 5), add, 0, scratch=100)
    run = Program(plan, plan.add((2, 5), add, first))
    monkeypatch.setattr(program, "AT_ONCE", 3)
    monkeypatch.setattr(program, "KEPT", (kept if kept > 3 else 1) * (run.size + 100))
    run(np.zeros((2, 5), F32))
    assert len(run.waiting) == kept


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_steps_that_are_ready_find_x_and_y_of_each_call(rows, count):
    rng = np.random.default_rng(0)
    layers = [lm.Linear(90, 300, rng=1), lm.ReLU(), lm.Linear(300, 250, rng=2), lm.Tanh()]
    model = lm.Sequential(*layers, lm.Linear(250, 7, bias=False, rng=3))
    xs = [rng.standard_normal((rows, 90)).astype(np.float32) for _ in range(4)]
    xs.append(rng.standard_normal((90, rows)).astype(np.float32).T)
    with lm.threads(count):
        fixed = model.for_inference()
        first = [fixed(x) for x in xs]
        matmul.product.cache_clear()  # what a program needs of it, it keeps
        gc.collect()
        again = [fixed(x) for x in xs]
        for x, y, other in zip(xs, first, again, strict=True):
            assert_same(other, y)
            np.testing.assert_allclose(y, model(x), rtol=1e-5, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for y, other in zip(8 * first, pool.map(fixed, 8 * xs), strict=True):
            assert_same(other, y)


def test_the_scratch_of_a_single_step_lives_on(monkeypatch):
    """Empty as it is: a kernel looks up where it lies."""
    found, room = [], program._room

    def noted(programs):
        space, scratch = room(programs)
        found.append(weakref.ref(scratch))
        return space, scratch

    monkeypatch.setattr(program, "_room", noted)
    plan = Plan((2, 8), F32)
    run = Program(plan, plan.multiply(0, matmul.Given(np.eye(8, dtype=F32)), (2, 8)))
    assert_same(run(np.ones((2, 8), F32)), np.ones((2, 8), F32))
    assert {scratch().size for scratch in found} == {0}
