"""An RNN of one unit: its state over time, and the gradient on its way back."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

T = 30
INPUTS = {
    "a pulse, then silence": np.eye(1, T)[0],
    "always 1": np.ones(T),
    "noise": np.random.default_rng(2).normal(0, 1, T).round(2),
}


def data() -> dict[str, Any]:
    """Return the inputs."""
    return {"x": {name: x.tolist() for name, x in INPUTS.items()}}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return h and the derivative of the last h by each h before, for settings of the controls."""
    formula = lm.rnn.formula
    found = []
    for name, w_x, w_h, activation in product(
        INPUTS, (0.5, 1.0), (-1.2, 0.0, 0.5, 1.0, 1.5), ("tanh", "relu")
    ):
        x = INPUTS[name].reshape(1, T, 1)
        weights = np.array([[w_x]]), np.array([[w_h]])
        y, _, _ = formula.run(x, (np.zeros((1, 1)),), *weights, activation=activation)
        h = [0.0, *y[0, :, 0]]
        back = []
        for t in range(T):
            rest, _, cache = formula.run(
                x[:, t:], (np.array([[h[t]]]),), *weights, activation=activation
            )
            nothing = np.zeros_like(rest)
            _, (dh,), _ = formula.run_backward(nothing, (np.ones((1, 1)),), cache)
            back.append(dh[0, 0])
        state = {"input": name, "wx": w_x, "wh": w_h, "activation": activation}
        found.append((state, {"h": h, "back": [*back, 1.0]}))
    return found
