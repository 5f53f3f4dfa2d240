"""Linear on the worked example's weights, forward and backward."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

WEIGHT = np.array([[1.0, -1.0, 0.5], [0.0, 2.0, 0.5]])
BIAS = np.array([0.0, 1.0, -1.0])
CHOICES = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]


def compute(x: list[float], dy: list[float]) -> dict[str, Any]:
    """Return what the library makes of x and dy."""
    y, cache = lm.linear.formula.forward(np.array([x]), WEIGHT, BIAS)
    dx, grads = lm.linear.formula.backward(np.array([dy]), cache)
    return {
        "y": y[0].tolist(),
        "dx": dx[0].tolist(),
        "dW": grads["weight"].tolist(),
        "db": grads["bias"].tolist(),
    }


def data() -> dict[str, Any]:
    """Return the weights, and x and dy of the first state."""
    return {"weight": WEIGHT.tolist(), "bias": BIAS.tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return settings, and what the library gives for each."""
    found = []
    for x1, x2 in product(CHOICES, CHOICES):
        for d in ([1, 1, 1], [0, 1, 0], [1, -1, 2]):
            state = {"x1": x1, "x2": x2, "d1": d[0], "d2": d[1], "d3": d[2]}
            found.append((state, compute([x1, x2], [float(v) for v in d])))
    return found
