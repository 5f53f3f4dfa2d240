"""A convolution from three channels to two."""

from typing import Any

import numpy as np

import lamina as lm

RNG = np.random.default_rng(3)
X = RNG.integers(0, 4, (1, 4, 4, 3)).astype(float)
WEIGHT = RNG.integers(-1, 3, (2, 2, 3, 2)).astype(float)
BIAS = np.array([1.0, -2.0])


def data() -> dict[str, Any]:
    """Return x, the weights and what the library makes of them."""
    y, _ = lm.convolution.formula.forward(X, WEIGHT, BIAS)
    return {"x": X[0].tolist(), "W": WEIGHT.tolist(), "b": BIAS.tolist(), "y": y[0].tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every place and output channel; the figure adds up what its panels show."""
    y = data()["y"]
    return [
        ({"i": i, "j": j, "o": str(o)}, {"y": y[i][j][o]})
        for i in range(3)
        for j in range(3)
        for o in range(2)
    ]
