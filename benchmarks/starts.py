"""What a user waits for before the first results: the import, the first training, the compiler."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

BARS: Final = {"import": 0.3, "trained": 1.5, "compiled": 15.0}
"""Seconds, at the most."""
TITLES: Final = {
    "import": "`import lamina`, beyond the import of NumPy",
    "trained": "from `python` to a trained batch, all compiled before",
    "compiled": "what the demo takes longer where nothing is compiled yet",
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


def measure() -> dict[str, float]:
    """Return the seconds of each, with a cache of compiled code that begins empty."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "LAMINA_CACHE_DIR": cache}

        def run(*arguments: str) -> tuple[float, str]:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *arguments],
                env=environment,
                cwd=cache,
                capture_output=True,
                text=True,
                check=True,
            )
            return time.perf_counter() - start, done.stdout

        first, again = (run("-m", "lamina", "demo")[0] for _ in range(2))
        run("-c", _TRAIN)
        return {
            "import": statistics.median(float(run("-c", _IMPORT)[1]) for _ in range(5)),
            "trained": statistics.median(run("-c", _TRAIN)[0] for _ in range(5)),
            "compiled": first - again,
        }


def misses(found: Mapping[str, Any]) -> Iterator[str]:
    """Say which bars are missed."""
    for name, seconds in found.items():
        if seconds > BARS[name]:
            yield f"{TITLES[name]}: {seconds:.2f} s, bar {BARS[name]:g} s"
