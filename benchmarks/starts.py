"""What a user waits for: the import, the first training, the compiler; one step of a stream."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

BARS: Final = {
    "import": 0.3,
    "trained": 1.5,
    "compiled": 15.0,
    "LSTM cold": 6.0,
    "LSTM again": 0.5,
    "RNN cold": 4.0,
    "RNN again": 0.5,
    "step": 8e-6,
}
"""Seconds, at the most."""
TITLES: Final = {
    "import": "`import lamina`, beyond the import of NumPy",
    "trained": "from `python` to a trained batch, all compiled before",
    "compiled": "what the demo takes longer where nothing is compiled yet",
    "LSTM cold": "from `import lamina` to a training step of an LSTM, nothing compiled yet",
    "LSTM again": "the same, all compiled before",
    "RNN cold": "from `import lamina` to a training step of an RNN, nothing compiled yet",
    "RNN again": "the same, all compiled before",
    "step": "`step` of one sample by an inference model, an LSTM of 128 features and units",
}

_IMPORT: Final = """
import time, numpy
start = time.perf_counter()
import lamina
print(time.perf_counter() - start)
"""
_TRAIN: Final = """
import numpy as np
import lamina as lm
model = lm.Sequential(
    lm.Conv2d(1, 16, 3), lm.BatchNorm(16), lm.ReLU(), lm.MaxPool2d(2), lm.Flatten(),
    lm.Linear(16 * 9, 10), rng=0,
)
x, y = np.zeros((32, 8, 8, 1), np.float32), np.zeros(32, int)
lm.fit(model, (x, y), loss=lm.CrossEntropy(), optimizer=lm.Adam(0.01), epochs=1)
"""
_RECURRENT: Final = """
import sys, time, numpy
start = time.perf_counter()
import lamina as lm
layer = getattr(lm, sys.argv[1])(128, 128, rng=0)
y, cache = layer.forward(numpy.zeros((32, 50, 128), numpy.float32), training=True)
layer.backward(numpy.ones_like(y), cache)
print(time.perf_counter() - start)
"""
_STEP: Final = """
import statistics, time, numpy
import lamina as lm
model = lm.LSTM(128, 128, rng=0).for_inference()
x, state, times = numpy.ones((1, 128), numpy.float32), model.initial_state(1), []
for _ in range(20):
    start = time.perf_counter()
    for _ in range(1000):
        y, state = model.step(x, state)
    times.append((time.perf_counter() - start) / 1000)
print(statistics.median(times))
"""


def measure() -> dict[str, float]:
    """Return the seconds of each, with a cache of compiled code that begins empty."""
    found = {}
    for layer in ("LSTM", "RNN"):
        with tempfile.TemporaryDirectory() as cache:
            cold, *again = (_seconds(cache, _RECURRENT, layer) for _ in range(6))
        found |= {f"{layer} cold": cold, f"{layer} again": statistics.median(again)}
    with tempfile.TemporaryDirectory() as cache:

        def run(*arguments: str) -> float:
            start = time.perf_counter()
            _output(cache, *arguments)
            return time.perf_counter() - start

        first, second = (run("-m", "lamina", "demo") for _ in range(2))
        run("-c", _TRAIN)
        return {
            "import": statistics.median(_seconds(cache, _IMPORT) for _ in range(5)),
            "trained": statistics.median(run("-c", _TRAIN) for _ in range(5)),
            "compiled": first - second,
            **found,
            "step": _seconds(cache, _STEP),
        }


def _output(cache: str, *arguments: str) -> str:
    """Return what Python prints, given a folder for compiled code."""
    environment = {**os.environ, "LAMINA_CACHE_DIR": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what a user has imported once is compiled
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=cache,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _seconds(cache: str, script: str, *arguments: str) -> float:
    return float(_output(cache, "-c", script, *arguments))


def said(seconds: float) -> str:
    """Return a time as it is read best."""
    return f"{seconds:.2f} s" if seconds >= 0.01 else f"{seconds * 1e6:.1f} µs"


def bar(name: str) -> str:
    """Return the bar of a time."""
    seconds = BARS[name]
    return f"{seconds:g} s" if seconds >= 0.01 else f"{seconds * 1e6:g} µs"


def misses(found: Mapping[str, Any]) -> Iterator[str]:
    """Say which bars are missed."""
    for name, seconds in found.items():
        if seconds > BARS[name]:
            yield f"{TITLES[name]}: {said(seconds)}, bar {bar(name)}"
