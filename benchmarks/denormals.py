"""States that fade away into denormal numbers: what they cost, and what `flush_denormals` saves."""

import contextlib
import statistics
from collections.abc import Callable
from typing import Final

import numpy as np

import lamina as lm

from .peers.runner import NDArray, clock

TITLES: Final = {
    "normal": "normal numbers",
    "denormal": "denormal numbers",
    "flushed": "denormal numbers, within `flush_denormals()`",
}
"""What `measure` times, by its names."""
SMALL: Final = 1e-40
"""A denormal number of float32: the least normal one is 1.2e-38."""
BATCH, STEPS, FEATURES = 32, 50, 128


def measure(seconds: float = 0.15, rounds: int = 3) -> dict[str, float]:
    """Return the seconds of an RNN with ReLU, forward and backward, by what its arrays hold."""
    passes = {"normal": passes_of(1.0), "denormal": passes_of(SMALL)}
    times: dict[str, list[float]] = {name: [] for name in TITLES}
    for _ in range(rounds):
        for name, found in times.items():
            flush = lm.flush_denormals() if name == "flushed" else contextlib.nullcontext()
            with flush:
                run = passes["normal" if name == "normal" else "denormal"]
                found.append(clock(run, seconds)["median"])
    return {name: statistics.median(found) for name, found in times.items()}


def passes_of(size: float) -> Callable[[], tuple[NDArray, NDArray]]:
    """Return a pass and its way back in which every number that is not 0 is about `size`."""
    layer = lm.RNN(FEATURES, FEATURES, activation="relu", bias=False, rng=0)
    layer.weight_h = np.eye(FEATURES) / 2  # the state halves at each step, and takes in x
    layer.weight_x = np.eye(FEATURES) / 2
    rng = np.random.default_rng(0)
    shape = BATCH, STEPS, FEATURES
    x, dy = (np.float32(size) * rng.random(shape, dtype=np.float32) for _ in range(2))

    def both() -> tuple[NDArray, NDArray]:
        y, cache = layer.forward(x, training=True)
        dx, _ = layer.backward(dy, cache)
        return y, dx

    return both
