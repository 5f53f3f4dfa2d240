"""The adding problem: what an RNN forgets and an LSTM keeps.

A sequence of T = 150 steps has two features: numbers drawn from [0, 1], and a mark, 1 at two steps
and 0 elsewhere, one in each half. The target is the sum of the two marked numbers. Whoever answers
1 always has a mean squared error of 1/6, the variance of the target; to do better, a network must
carry a number over some hundred steps.

An LSTM and an RNN with tanh are trained alike on batches that are drawn anew. Then `trace=True`
shows how much of the loss's gradient reaches each step.

S. Hochreiter, J. Schmidhuber, *Long Short-Term Memory* (1997), sec. 5.4. C. Tallec, Y. Ollivier,
*Can Recurrent Neural Networks Warp Time?* (2018), sec. 2: the biases that the LSTM starts from.
"""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import lamina as lm

T, BATCHES = 150, 1000
HIDDEN, BATCH = 64, 50
COLORS = {"LSTM": "#d9680f", "RNN": "#2173c4"}

loss = lm.MeanSquaredError()


def draw(n, steps, rng):
    numbers = rng.random((n, steps))
    first, second = rng.integers(0, steps // 2, n), rng.integers(steps // 2, steps, n)
    marks = np.zeros((n, steps))
    marks[np.arange(n), first] = marks[np.arange(n), second] = 1
    x = np.stack([numbers, marks], axis=2).astype(np.float32)
    return x, np.sum(numbers * marks, axis=1, keepdims=True).astype(np.float32)


def networks(steps):
    lstm, rnn = lm.LSTM(2, HIDDEN, rng=0), lm.RNN(2, HIDDEN, rng=0)
    # Cells that remember at first for 1 to T steps: what they keep and what they take in add to 1.
    keep = np.log(np.random.default_rng(2).uniform(1, steps - 1, HIDDEN))
    lstm.bias[:HIDDEN], lstm.bias[HIDDEN : 2 * HIDDEN] = -keep, keep
    return {
        name: lm.Sequential(recurrent, lm.LastStep(), lm.Linear(HIDDEN, 1, rng=1))
        for name, recurrent in (("LSTM", lstm), ("RNN", rnn))
    }


def reaching(model, x, y):
    """Return the norm of the loss's gradient by each step's a, the mean over the samples."""
    recurrent, last, linear = model
    h, cache = recurrent.forward(x, training=True, trace=True)
    end, end_cache = last.forward(h)
    answer, linear_cache = linear.forward(end)
    _, dy = loss(answer, y)
    dend, _ = linear.backward(dy, linear_cache)
    recurrent.backward(last.backward(dend, end_cache)[0], cache)
    return cache.trace[0]["norm"].mean(axis=0)


def train(model, steps, batches):
    """Train on batches drawn anew; return the loss of each."""
    rng = np.random.default_rng(0)
    optimizer = lm.Adam(lm.Cosine(5e-3, batches), clip_norm=1.0)
    errors = []
    for _ in range(batches):
        x, y = draw(BATCH, steps, rng)
        answer, cache = model.forward(x, training=True)
        error, dy = loss(answer, y)
        _, grads = model.backward(dy, cache)
        optimizer.step(model.params, grads)
        errors.append(error)
    return errors


def picture(errors, norms):
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in errors:
        smooth = np.convolve(errors[name], np.full(20, 1 / 20), "valid")
        style = {"label": name, "color": COLORS[name]}
        left.semilogy(np.arange(len(smooth)) * BATCH, smooth, **style)
        right.semilogy(np.arange(1, len(norms[name]) + 1), norms[name], **style)
    left.axhline(1 / 6, color="gray", linestyle=":", label="1/6")
    left.set(xlabel="sequences seen", ylabel="mean squared error", title="training")
    right.set(
        xlabel="step", ylabel="norm of the gradient by a", title="what reaches a step at first"
    )
    left.legend()
    right.legend()
    return figure


def main():
    x, y = draw(500, T, np.random.default_rng(1))
    errors, norms = {}, {}
    for name, model in networks(T).items():
        norms[name] = reaching(model, x, y)
        errors[name] = train(model, T, BATCHES)
        found = lm.evaluate(model, (x, y), loss=loss).loss
        ratio = norms[name][0] / norms[name][-1]
        print(
            f"{name:<7}mean squared error {found:.4f}, first step's gradient / last's {ratio:.1e}"
        )
    print(
        f"{'1':<7}mean squared error {np.mean((y - 1) ** 2):.4f}, for whoever always answers so; "
        "1/6 on average"
    )
    figure, file = picture(errors, norms), Path(__file__).parent.parent / "docs" / "adding.svg"
    with rc_context({"svg.hashsalt": file.stem}):  # the same file from the same figures
        figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
