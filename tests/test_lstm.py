import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract, assert_same


def lstm(**options):
    return lambda dtype: lm.LSTM(3, 4, dtype=dtype, rng=1, **options)


class TestLayer(LayerContract):
    cases = [
        LayerCase("one layer", lstm(), (4, 5, 3)),
        LayerCase("no bias", lstm(bias=False), (4, 5, 3)),
        LayerCase("one of each", lambda d: lm.LSTM(1, 1, dtype=d, rng=1), (1, 1, 1)),
        LayerCase("three layers", lstm(layers=3), (4, 5, 3)),
        LayerCase("bidirectional", lstm(bidirectional=True), (4, 5, 3)),
        LayerCase("sum of directions", lstm(bidirectional=True, merge="sum"), (4, 5, 3)),
        LayerCase("recurrent dropout", lstm(recurrent_dropout=0.4), (4, 5, 3)),
        LayerCase("projection", lstm(projection=2), (4, 5, 3)),
        LayerCase("wide projection, no bias", lstm(projection=6, bias=False), (4, 5, 3)),
        LayerCase("lengths", lstm(), (4, 6, 3), (3, 0, 6, 1)),
        LayerCase(
            "everything",
            lstm(
                layers=3,
                projection=2,
                bidirectional=True,
                merge="mean",
                dropout=0.4,
                recurrent_dropout=0.3,
                init="torch",
            ),
            (4, 6, 3),
            (3, 0, 6, 1),
        ),
    ]


ARRAYS = {"x": (4, 5, 3), "weight_x": (3, 8), "weight_h": (2, 8)}
PROJECTED = ARRAYS | {"weight_h": (3, 8), "weight_p": (2, 3), "bias": (8,)}


class TestFormula(FormulaContract):
    module = lm.lstm.formula
    cases = [
        FormulaCase("plain", ARRAYS | {"bias": (8,)}),
        FormulaCase("no bias", ARRAYS),
        FormulaCase("lengths", ARRAYS | {"bias": (8,)}, (2, 0, 5, 1)),
        FormulaCase("projection", PROJECTED),
        FormulaCase("projection, mask, lengths", PROJECTED | {"mask": (4, 3)}, (2, 0, 5, 1)),
        FormulaCase("mask", ARRAYS | {"mask": (4, 2)}),
    ]


def test_forget_bias():
    layer = lm.LSTM(3, 2, layers=2, bidirectional=True, rng=0)
    for suffix in ("", "_reverse", "_1", "_1_reverse"):
        assert layer.params[f"bias{suffix}"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert lm.LSTM(3, 2, forget_bias=-0.5).bias.tolist() == [0, 0, -0.5, -0.5, 0, 0, 0, 0]
    one, other = (lm.LSTM(3, 2, init="torch", forget_bias=f, rng=0) for f in (0, 9))
    assert_same(one.bias, other.bias)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_gates_at_their_ends(size):
    layer = lm.LSTM(1, 1, rng=0)
    layer.weight_x = np.array([[1, -1, 1, 1]], np.float32)
    layer.weight_h = np.zeros((1, 4))
    y, ((_, c),), cache = layer.run(np.full((1, 2, 1), size, np.float32), training=True)
    np.testing.assert_allclose(c, 1)  # takes all in, keeps nothing
    np.testing.assert_allclose(y, np.tanh(1), rtol=1e-6)
    dx, _ = layer.backward(np.ones_like(y), cache)
    assert_same(dx, np.zeros_like(dx))


def test_refuses_a_forget_bias():
    with pytest.raises(TypeError, match=r"LSTM.*: forget_bias must be a number, got '1'"):
        lm.LSTM(1, 1, forget_bias="1")
