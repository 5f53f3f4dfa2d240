"""What an affine map does to the points of a grid."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

POINTS = np.array(list(product(range(-2, 3), range(-2, 3))), float)


def data() -> dict[str, Any]:
    """Return the points of the grid."""
    return {"points": POINTS.tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return settings, and where the library puts the points."""
    found = []
    values = (-1.5, -0.6, 0.0, 0.7, 1.0)
    rng = np.random.default_rng(0)
    for w in [*product((-1.0, 0.0, 1.0), repeat=4), *rng.choice(values, (60, 4)).tolist()]:
        b = rng.choice(values, 2)
        y, _ = lm.linear.formula.forward(POINTS, np.reshape(w, (2, 2)), b)
        state = dict(zip(("w11", "w12", "w21", "w22"), w, strict=True))
        found.append((state | {"b1": b[0], "b2": b[1]}, {"points": y.tolist()}))
    return found
