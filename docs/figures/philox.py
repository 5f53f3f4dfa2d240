"""How Dropout's kernel draws: a vector of counters, one a lane, and what comes of it."""

from typing import Any

import numpy as np

import lamina as lm
from lamina.dropout.formula import keep_mask, philox

LANES = 4
RNG = np.random.default_rng(3)
X, DY = (RNG.normal(0, 1, (3, 4 * LANES)).round(1) for _ in range(2))
LAYER = lm.Dropout(0.5, rng=0)


def data() -> dict[str, Any]:
    """Return x, dy and the key of the masks."""
    return {"x": X.tolist(), "dy": DY.tolist(), "key": LAYER.key.tolist(), "lanes": LANES}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the words that are drawn, and what both passes give."""
    found = []
    k0, k1 = LAYER.key.tolist()
    for rate, sample, call in ((0.5, 0, 0), (0.2, 1, 7), (0.0, 2, 3), (0.9, 2, 9)):
        counter = np.arange(LANES, dtype=np.uint64), *np.full((3, LANES), 0, np.uint64)
        counter = (
            counter[0],
            counter[1] + np.uint64(sample),
            counter[2],
            counter[3] + np.uint64(call),
        )
        words = np.stack(philox(counter, (k0, k1)), axis=1)
        keep = keep_mask(X.shape, rate, LAYER.key, call)
        y, cache = lm.dropout.formula.forward(X, keep, rate)
        dx, _ = lm.dropout.formula.backward(DY, cache)
        for phase, out in (("forward", y), ("backward", dx)):
            state = {"phase": phase, "rate": rate, "sample": sample, "call": call}
            found.append((state, {"words": words.tolist(), "out": out[sample].tolist()}))
    return found
