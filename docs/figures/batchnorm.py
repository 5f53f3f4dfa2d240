"""Batches before and after BatchNorm, and the running values that follow them."""

from typing import Any

import numpy as np

import lamina as lm

BATCHES, MOST = 50, 64
Z = np.random.default_rng(5).standard_normal((BATCHES, MOST)).round(3)


def data() -> dict[str, Any]:
    """Return the noise that batches are made of: x = mean + spread z."""
    return {"z": Z.tolist()}


def compute(state: dict[str, Any]) -> dict[str, Any]:
    """Train on the batches before the one in sight, then show that one."""
    layer = lm.BatchNorm(1, momentum=state["momentum"], dtype=np.float64)
    layer.gamma, layer.beta = [state["gamma"]], [state["beta"]]
    x = state["mean"] + state["spread"] * Z[:, : int(state["size"]), None]
    with lm.formulas():
        for k in range(int(state["step"])):
            layer.forward(x[k], training=True)
        running = layer.running_mean[0], layer.running_var[0]
        now = x[int(state["step"])]
        y = layer(now)
        if state["mode"] == "training":
            y, _ = layer.forward(now, training=True)
    mean, var, _, _ = lm.batchnorm.formula.statistics(now)
    return {"mean": mean[0], "var": var[0], "running": [*running], "y": y[:, 0].tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return settings at both ends of every control and between, in both modes."""
    rng = np.random.default_rng(0)
    ranges = {
        "mean": (-3, 0, 2, 5), "spread": (0.2, 1.5, 3), "gamma": (0.2, 1, 2), "beta": (-3, 0, 3),
        "size": (2, 8, 64), "step": (0, 1, 7, BATCHES - 1), "momentum": (0.5, 0.9, 0.99),
    }  # fmt: skip
    found = []
    for n in range(60):
        state: dict[str, Any] = {k: float(rng.choice(v)) for k, v in ranges.items()}
        state["mode"] = ("training", "inference")[n % 2]
        found.append((state, compute(state)))
    return found
