import gc
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest

import lamina as lm
from lamina.convolution import direct, winograd
from lamina.engine import columns, matmul, memory, recurrent

F4 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_waits():
    memory._waiting.clear()
    yield
    memory._waiting.clear()


def address(a):
    return a.__array_interface__["data"][0]


def test_is_an_ordinary_array():
    a = memory.empty((300, 1000), F4)
    assert (a.shape, a.dtype, a.strides) == ((300, 1000), F4, (4000, 4))
    assert a.flags.c_contiguous
    assert a.flags.writeable
    assert address(a) % memory.ALIGNMENT == 0
    a[...] = 1
    assert a.sum() == 300_000


@pytest.mark.parametrize("size", [memory.LEAST, 10**6 + 1, 7 * 10**6, 2**24 - 1])
def test_there_is_room_for_every_byte(size):
    a = memory.empty(size, np.dtype(np.uint8))
    block = a.base.base
    assert block.ctypes.data <= address(a)
    assert address(a) + size <= block.ctypes.data + block.nbytes
    assert block.nbytes <= 1.125 * size + 2**13


def test_memory_is_used_again_when_the_last_view_dies():
    a = memory.empty((1000, 300), F4)
    first = address(a)
    view = a[10:, ::2].T
    del a
    gc.collect()
    other = memory.empty((1000, 300), F4)
    assert address(other) != first
    del view
    gc.collect()
    assert address(memory.empty((1000, 301), F4)) == first


def test_what_waits_serves_half_its_size_and_the_least_that_is_enough_goes_first():
    first, second = memory.empty((1000, 400), F4), memory.empty((1000, 300), F4)
    places = [address(a) for a in (first, second)]
    del first, second
    gc.collect()
    smallest = memory.empty((1000, 100), F4)
    assert address(smallest) not in places
    a, b = (memory.empty((1000, 250), F4) for _ in range(2))
    assert [address(b), address(a)] == places
    assert not any(memory._waiting.values())


def test_what_somebody_makes_of_a_lease_gives_no_block_back():
    a = memory.empty((1000, 300), F4)
    copy, view = a.base.copy(), a.base[:100]
    del copy, view
    assert not memory._waiting
    del a
    ((block,),) = memory._waiting.values()
    assert type(block) is memory._Block


def test_small_arrays_are_numpys():
    assert memory.empty(100, F4).base is None
    assert memory.empty((0, 10**9), F4).size == 0


def test_what_waits_is_bounded():
    for size in range(10, 60):
        memory.empty(size * 2**20, np.dtype(np.uint8))
        kept = sum(size * len(blocks) for size, blocks in memory._waiting.items())
        assert kept <= memory.MOST


def test_what_waits_is_let_go_where_memory_is_short(monkeypatch):
    class Block(memory._Block):
        def __new__(cls, *arguments):
            if any(memory._waiting.values()):
                raise MemoryError
            return super().__new__(memory._Block, *arguments)

    memory.empty(2**20, F4)
    gc.collect()
    (size,) = memory._waiting
    made = memory._made
    monkeypatch.setattr(memory, "_Block", Block)
    assert memory.empty(2**21, F4).size == 2**21
    assert not memory._waiting[size]
    ((larger, _),) = ((n, blocks) for n, blocks in memory._waiting.items() if blocks)
    assert memory._made == made - size + larger


def test_memory_that_there_is_not_counts_for_nothing():
    made = memory._made
    with pytest.raises(MemoryError):
        memory.empty(10**15, np.dtype(np.uint8))
    assert memory._made == made


def test_no_more_is_let_go_than_must_be(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 10 * (2**20 + memory.ALIGNMENT))
    arrays = [memory.empty(2**20, np.dtype(np.uint8)) for _ in range(12)]
    del arrays
    gc.collect()
    assert sum(size * len(blocks) for size, blocks in memory._waiting.items()) == memory.MOST
    memory.empty(20 * 2**20, np.dtype(np.uint8))
    gc.collect()
    assert not any(memory._waiting.values())


def test_what_another_thread_takes_meanwhile_is_not_let_go(monkeypatch):
    class Taken(list):
        def __len__(self):
            return 1  # there was one a moment ago

    monkeypatch.setattr(memory, "MOST", 0)
    monkeypatch.setitem(memory._waiting, 2**20, Taken())
    made = memory._made
    memory._let_go(memory.MOST)
    assert memory._made == made


def test_a_step_of_training_takes_no_more_than_the_one_before_left():
    def block():
        body = lm.Sequential(lm.Conv2d(16, 16, 3, padding=1), lm.BatchNorm(16), lm.ReLU())
        return lm.Sequential(lm.Residual(body), lm.ReLU(), lm.Dropout(0.1, rng=0))

    model = lm.Sequential(
        lm.Conv2d(3, 16, 3, padding=1),
        lm.ReLU(),
        block(),
        block(),
        lm.Flatten(),
        lm.Linear(16 * 24 * 24, 64),
        rng=0,
    )
    x = np.random.default_rng(0).standard_normal((20, 24, 24, 3), np.float32)
    target, loss, optimizer = np.arange(20), lm.CrossEntropy(), lm.SGD(1e-3, momentum=0.9)

    def step():
        y, cache = model.forward(x, training=True)
        optimizer.step(model.params, model.gradients(loss(y, target)[1], cache))

    for _ in range(3):
        step()
    gc.collect()
    tracemalloc.start()
    try:
        step()
        assert tracemalloc.get_traced_memory()[1] < 2**19
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "branches",
    [
        lambda layer: (layer, None),
        lambda layer: (lm.Identity(), layer),
        lambda layer: (lm.BatchNorm(64), None),
        lambda layer: (lm.Sequential(lm.Sequential(layer)), None),
    ],
)
def test_a_sum_of_gradients_takes_the_place_of_one(branches):
    model = lm.Residual(*branches(lm.Linear(64, 64, rng=0)))
    y, cache = model.forward(np.ones((2000, 64), np.float32), training=True)
    memory._waiting.clear()
    dx, _ = model.backward(y, cache)
    gc.collect()
    assert not memory._waiting.get(dx.base.base.nbytes)


def test_no_block_is_given_out_twice():
    wrong = []

    def work(number):
        for _ in range(200):
            a = memory.empty(2**17, F4)
            a[:] = number
            if (a != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_thread_keeps_one_workspace_of_a_dtype_and_no_large_one():
    small = memory.workspace(100, F4)
    assert small.dtype == F4
    assert small.size >= 100
    assert address(small) % memory.ALIGNMENT == 0
    assert memory.workspace(50, F4) is small
    assert memory.workspace(100, np.dtype(np.float64)) is not small
    larger = memory.workspace(200, F4)
    assert larger.size >= 200
    memory.workspace(memory.WORKSPACE, F4)
    assert memory.workspace(150, F4) is larger
    others = []
    thread = threading.Thread(target=lambda: others.append(memory.workspace(10, F4)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], larger)


SHAPES = """
    import os
    import numpy as np
    import lamina as lm

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    layers = [
        (lm.Linear(48, 40, rng=0), 2),
        (lm.Conv1d(8, 8, 3, padding="causal", dilation=2, rng=0), 3),
        (lm.Conv2d(4, 12, 3, padding="same", rng=0), 4),
        (lm.Conv2d(8, 8, 3, groups=8, stride=2, rng=0), 4),
    ]
    fixed = [layer.for_inference() for layer, _ in layers]
    for i in range(1300):
        layer, axes = layers[i % 4]
        channels = layer.params["weight"].shape[-2] * getattr(layer, "groups", 1)
        x = np.zeros((1 + i % 7, *(5 + (i * k) % 61 for k in range(3, axes + 1)), channels), "f4")
        x = x[:, None] if axes == 2 and i % 8 else x
        x = np.repeat(x, 1 + i // 4 if axes == 2 else 1, axis=0)
        y, cache = layer.forward(x, training=True)
        layer.backward(y, cache)
        fixed[i % 4](x)
        if i == 300:
            before = resident()
    print((resident() - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_memory_stays_flat_over_a_thousand_shapes():
    script = textwrap.dedent(SHAPES)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 16


@pytest.mark.parametrize(
    ("layer", "axis"),
    [
        (lm.MaxPool1d(3), 1),
        (lm.GlobalMaxPool(), 1),
        (lm.AvgPool1d(3, stride=1), 1),
        (lm.Dropout(0.5, rng=0), 0),
    ],
)
def test_what_grows_with_a_signal_or_a_batch_is_kept_for_few(layer, axis):
    def step(size):
        x = np.zeros((1, size, 1), np.float32)
        y, cache = layer.forward(np.moveaxis(x, 1, axis), training=True)
        layer.backward(y, cache)

    tracemalloc.start()
    try:
        for size in range(5000, 5020):
            step(size)
        before = tracemalloc.get_traced_memory()[0]
        for size in range(5020, 5060):
            step(size)
        assert tracemalloc.get_traced_memory()[0] - before < 2**20
    finally:
        tracemalloc.stop()


def test_packed_weights_last():
    matrix, taps = np.ones((512, 512), F4), np.ones((1, 3, 3, 64, 128), F4)
    for panels in (
        matmul.pack(matrix, 512, 1, 512, 512).panels,
        direct.pack(taps).panels,
        winograd.pack(taps).panels,
        recurrent._packed([matrix], 2, {}),
        recurrent._fixed_panels([matrix], 2),
        columns._known({}, "h", matrix, 4, 2, 2),
    ):
        assert address(panels) % memory.ALIGNMENT == 0
        assert not panels.flags.writeable
        while panels.base is not None:
            panels = panels.base
        assert type(panels) is np.ndarray  # its memory goes with it
