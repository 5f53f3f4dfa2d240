import gc
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from lamina.engine import memory

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
    block = a.base.block
    assert block.ctypes.data <= address(a)
    assert address(a) + size <= block.ctypes.data + block.nbytes
    assert block.nbytes <= 1.25 * size + 2**13


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


def test_small_arrays_are_numpys():
    assert memory.empty(100, F4).base is None
    assert memory.empty((0, 10**9), F4).size == 0


def test_what_waits_is_bounded():
    for size in range(10, 60):
        memory.empty(size * 2**20, np.dtype(np.uint8))
        gc.collect()
        kept = sum(size * len(blocks) for size, blocks in memory._waiting.items())
        assert kept <= memory.MOST


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
