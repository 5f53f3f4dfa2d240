"""One step of an LSTM of one unit, all weights 1."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

GATES = ("bi", "bf", "bg", "bo")


def data() -> dict[str, Any]:
    """Return nothing: the state says all."""
    return {}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return gates and states for settings of x, h, c and the biases."""
    formula = lm.lstm.formula
    rng = np.random.default_rng(0)
    found = []
    for x, h, c in product((-2.0, 0.0, 1.0, 2.0), (-1.0, 0.5, 1.0), (-2.0, 1.0, 2.0)):
        bias = rng.choice((-6.0, -1.0, 0.0, 0.5, 6.0), 4)
        ones = np.ones((1, 4))
        state = np.array([[h]]), np.array([[c]])
        gates = formula.gates(np.array([[x]]), state, (ones, ones, bias, None))
        h_t, c_t = formula.update(state, gates)
        given = {"x": x, "h": h, "c": c, **dict(zip(GATES, bias.tolist(), strict=True))}
        expected = dict(zip("ifgo", (float(g[0, 0]) for g in gates), strict=True))
        found.append((given, expected | {"c_t": float(c_t[0, 0]), "h_t": float(h_t[0, 0])}))
    return found
