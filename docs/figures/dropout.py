"""Dropout of 32 units; the figure draws Lamina's own masks."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

X = np.abs(np.random.default_rng(1).normal(1.0, 0.6, (4, 8))).round(2)
LAYER = lm.Dropout(0.5, rng=0)


def data() -> dict[str, Any]:
    """Return x and the key of the masks."""
    return {"x": X.tolist(), "key": LAYER.key.tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return y of passes in training and at inference, and means over several masks."""
    found = []
    for rate, mode, phase in product(
        (0.0, 0.05, 0.3, 0.5, 0.95), ("inverted", "classic"), ("training", "inference")
    ):
        layer = lm.Dropout(rate, mode=mode, rng=0)
        with lm.formulas():
            calls = [layer.forward(X, training=True)[0] for _ in range(30)]
            at_inference = layer(X)
        for call, masks in ((0, 1), (3, 10), (29, 30)):
            y = calls[call] if phase == "training" else at_inference
            mean = np.mean(calls[:masks], axis=0)
            state = {"rate": rate, "mode": mode, "phase": phase, "call": call, "masks": masks}
            found.append((state, {"y": y.tolist(), "mean": mean.tolist()}))
    return found
