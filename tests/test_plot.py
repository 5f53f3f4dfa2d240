import sys

import numpy as np
import pytest

import lamina as lm
from contract import random

pytest.importorskip("matplotlib")


def written(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=40)
    return (tmp_path / "figure.png").stat().st_size > 1000


def lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def test_history(tmp_path):
    history = lm.History(
        loss=[3.0, 2.0, 1.0], val_loss=[3.0, 2.5, 2.75], metric=[0.1, 0.5, 0.9], best_epoch=2
    )
    figure = lm.plot.history(history)
    loss, metric = figure.axes
    assert list(lines(loss)["training"]) == history.loss
    assert list(lines(loss)["validation"]) == history.val_loss
    assert list(loss.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert list(lines(metric)["training"]) == history.metric
    assert "validation" not in lines(metric)
    assert written(figure, tmp_path)
    with pytest.raises(ValueError, match=r"plot.history: the history has no epochs"):
        lm.plot.history(lm.History())
    with pytest.raises(TypeError, match=r"plot.history: history must be a History, .* got list"):
        lm.plot.history(history.loss)


@pytest.mark.parametrize("kind", [lm.RNN, lm.LSTM, lm.GRU])
def test_gates(kind, tmp_path):
    layer = kind(3, 4, bidirectional=True, rng=0)
    x = random("x", (2, 7, 3)).astype(np.float32)
    _, _, cache = layer.run(x, lengths=np.array([7, 5]), trace=True)
    layer.run_backward(np.ones((2, 7, 8), np.float32), None, cache)  # adds what is no row
    for trace in cache.trace:
        figure = lm.plot.gates(trace, sample=1)
        drawn = {axes.get_ylabel(): axes for axes in figure.axes if axes.get_ylabel()}
        assert set(drawn) == set(trace) - {"da", "norm"}
        np.testing.assert_array_equal(drawn["h"].images[0].get_array(), trace["h"][1].T)
    assert written(figure, tmp_path)
    with pytest.raises(TypeError, match=r"plot.gates: trace must be a dict .* cache.trace\[0\]"):
        lm.plot.gates(cache.trace)
    with pytest.raises(ValueError, match=r"plot.gates: trace has no array of shape \(N, T, H\)"):
        lm.plot.gates({})
    with pytest.raises(ValueError, match=r"sample must be at most 1, as the batch has 2 .* got 2"):
        lm.plot.gates(cache.trace[0], sample=2)
    with pytest.raises(ValueError, match=r"plot.gates: sample must be at least -2, got -3"):
        lm.plot.gates(cache.trace[0], sample=-3)
    with pytest.raises(TypeError, match=r"plot.gates: sample must be an integer, got 0\.5"):
        lm.plot.gates(cache.trace[0], sample=0.5)


@pytest.mark.parametrize(("activation", "low"), [("sigmoid", 0), ("tanh", -1)])
def test_gates_of_either_sign(activation, low):
    layer = lm.LSTM(1, 1, activations=(activation, "tanh", "tanh"), rng=0)
    layer.weight_x[...] = 9
    x = np.array([[[1], [-1]]], np.float32)
    *_, cache = layer.run(x, trace=True)
    ranges = {
        axes.get_ylabel(): axes.images[0].get_clim()
        for axes in lm.plot.gates(cache.trace[0]).axes
        if axes.images
    }
    for gate in "ifo":
        np.testing.assert_allclose(ranges[gate], (low, 1), atol=1e-3)


def test_filters(tmp_path):
    layer = lm.Conv2d(2, 3, (2, 4), rng=0)
    figure = lm.plot.filters(layer)
    sheet = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    assert sheet.shape == (5, 14)
    np.testing.assert_array_equal(sheet[3:5, 10:14], layer.weight[:, :, 1, 2])
    assert np.isnan(sheet[2]).all()
    assert np.isnan(sheet[:, 4]).all()
    assert written(figure, tmp_path)
    assert written(lm.plot.filters(lm.Conv1d(3, 2, 5, rng=0)), tmp_path)
    with pytest.raises(TypeError, match=r"a Conv1d or a Conv2d, got Linear\(2, 3\)"):
        lm.plot.filters(lm.Linear(2, 3))


def test_gradient_flow(tmp_path):
    model = lm.Sequential(*[lm.Linear(3, 3) for _ in range(11)], rng=0)
    y, cache = model.forward(random("x", (4, 3)).astype(np.float32), training=True)
    _, grads = model.backward(y, cache)
    figure = lm.plot.gradient_flow(grads)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"{i}.{key}" for i in range(11) for key in ("bias", "weight")]
    sizes = [bar.get_width() for bar in figure.axes[0].patches]
    expected = [np.sqrt(np.mean(np.float64(grads[name]) ** 2)) for name in names]
    np.testing.assert_allclose(sizes, expected)
    assert written(figure, tmp_path)

    figure = lm.plot.gradient_flow({"0.weight": grads["0.weight"]}, model.params)
    share = figure.axes[0].patches[0].get_width()
    weight = np.sqrt(np.mean(np.float64(model.params["0.weight"]) ** 2))
    assert share == pytest.approx(expected[1] / weight)

    assert written(lm.plot.gradient_flow({"bias": np.zeros(3)}), tmp_path)
    with pytest.raises(ValueError, match="there are no gradients"):
        lm.plot.gradient_flow({})
    with pytest.raises(ValueError, match=r"params has no '0.weight'"):
        lm.plot.gradient_flow({"0.weight": np.ones(2)}, {})
    with pytest.raises(TypeError, match=r"grads must be a dict of arrays .*backward.*; got tuple"):
        lm.plot.gradient_flow(model.backward(y, cache))
    with pytest.raises(TypeError, match=r"params must be a dict of arrays .*; got Sequential"):
        lm.plot.gradient_flow(grads, model)


def test_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"lamina.plot draws with matplotlib: pip install"):
        lm.plot.history(lm.History(loss=[1.0]))
