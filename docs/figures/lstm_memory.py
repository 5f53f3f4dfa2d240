"""An LSTM of one unit, trained while the site is built to remember the first of twenty bits."""

from functools import cache
from itertools import product
from typing import Any

import numpy as np

import lamina as lm

T = 20
CLAMPS = {
    "none": None,
    "i = 1": (0, 1.0),
    "f = 0.8": (1, 0.8),
    "f = 0": (1, 0.0),
    "o = 0": (3, 0.0),
}


def sequences(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bits of -1 and 1, beside a mark at the first, and whether the first is 1."""
    bits = np.random.default_rng(seed).choice([-1.0, 1.0], (n, T)).astype(np.float32)
    marks = np.zeros_like(bits)
    marks[:, 0] = 1
    return np.stack([bits, marks], axis=2), (bits[:, :1] > 0).astype(np.float32)


@cache
def trained(kind: str) -> tuple[lm.Sequential, float]:
    """Return a network of one unit and its share of right answers on sequences it has not seen."""
    recurrent = lm.LSTM(2, 1, forget_bias=3) if kind == "lstm" else lm.RNN(2, 1)
    model = lm.Sequential(recurrent, lm.LastStep(), lm.Linear(1, 1), rng=1)
    lm.fit(
        model, sequences(512, 0), loss=lm.BinaryCrossEntropy(), optimizer=lm.Adam(0.1),
        epochs=40, batch_size=64, progress=False,
    )  # fmt: skip
    x, target = sequences(1000, 1)
    return model, float(((model(x) > 0) == (target > 0)).mean())


def weights(kind: str) -> dict[str, Any]:
    """Return the parameters of a network's recurrent layer, and its share of right answers."""
    model, right = trained(kind)
    return {k: a.astype(float).tolist() for k, a in model[0].params.items()} | {"right": right}


@cache
def data() -> dict[str, Any]:
    """Return both networks and some sequences."""
    x, _ = sequences(6, 2)
    return {"lstm": weights("lstm"), "rnn": weights("rnn"), "x": x.astype(float).tolist()}


def by_lstm(x: np.ndarray, clamp: tuple[int, float] | None) -> dict[str, Any]:
    """Go through a sequence step by step, a gate held; then back, from a gradient of 1 at h."""
    formula = lm.lstm.formula
    found = data()["lstm"]
    W = *(np.array(found[k]) for k in ("weight_x", "weight_h", "bias")), None
    states = [(np.zeros((1, 1)), np.zeros((1, 1)))]
    all_gates = []
    for x_t in x[:, None, :]:
        gates = list(formula.gates(x_t, states[-1], W))
        if clamp:
            gates[clamp[0]] = np.full((1, 1), clamp[1])
        states.append(formula.update(states[-1], tuple(gates)))
        all_gates.append(gates)
    dh, dc, back = np.ones((1, 1)), np.zeros((1, 1)), []
    for t in range(T, 0, -1):
        i, f, g, o = all_gates[t - 1]
        c = states[t][1]
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        back.append(float(abs(dc[0, 0])))
        da = [dc * g * i * (1 - i), dc * states[t - 1][1] * f * (1 - f), dc * i * (1 - g * g),
              dh * np.tanh(c) * o * (1 - o)]  # fmt: skip
        if clamp:  # what is held passes nothing on
            da[clamp[0]] = np.zeros((1, 1))
        dh, dc = np.concatenate(da, axis=1) @ W[1].T, dc * f
    return {
        "gates": [[float(g[0, 0]) for g in gates] for gates in all_gates],
        "h": [float(h[0, 0]) for h, _ in states], "c": [float(c[0, 0]) for _, c in states],
        "back": back[::-1],
    }  # fmt: skip


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every sequence with every gate held; without one, the library's own backward pass."""
    found = []
    xs = np.array(data()["x"])
    for n, (name, clamp) in product(range(len(xs)), CLAMPS.items()):
        expected = by_lstm(xs[n], clamp)
        if clamp is None:
            W = [np.array(data()["lstm"][k]) for k in ("weight_x", "weight_h", "bias")]
            for t in range(T):
                state = np.array([[expected["h"][t]]]), np.array([[expected["c"][t]]])
                y, _, cache_ = lm.lstm.formula.run(xs[None, n, t:], state, *W)
                end = np.ones((1, 1)), np.zeros((1, 1))
                _, (_, dc), _ = lm.lstm.formula.run_backward(np.zeros_like(y), end, cache_)
                # dc at the state before step t + 1 is what that step's f lets through.
                through = expected["back"][t] * expected["gates"][t][1]
                assert np.isclose(abs(dc[0, 0]), through, rtol=1e-9, atol=1e-300)
        W = [np.array(data()["rnn"][k]) for k in ("weight_x", "weight_h", "bias")]
        y, _, _ = lm.rnn.formula.run(xs[None, n], (np.zeros((1, 1)),), *W)
        h = y[0, :, 0]
        slopes = (1 - h**2) * W[1][0, 0]
        rnn = [float(abs(np.prod(slopes[t + 1 :]))) for t in range(T)]
        found.append(({"n": n + 1, "clamp": name}, expected | {"rnn": rnn}))
    return found
