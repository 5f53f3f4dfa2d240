import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract


def rnn(**options):
    return lambda dtype: lm.RNN(3, 4, dtype=dtype, rng=1, **options)


class TestLayer(LayerContract):
    cases = [
        LayerCase("tanh", rnn(), (4, 5, 3)),
        LayerCase("relu", rnn(activation="relu"), (4, 5, 3)),
        LayerCase("sigmoid", rnn(activation="sigmoid"), (4, 5, 3)),
        LayerCase("no bias", rnn(bias=False), (4, 5, 3)),
        LayerCase("one of each", lambda d: lm.RNN(1, 1, dtype=d, rng=1), (1, 1, 1)),
        LayerCase("three layers", rnn(layers=3), (4, 5, 3)),
        LayerCase("bidirectional", rnn(bidirectional=True), (4, 5, 3)),
        LayerCase("sum of directions", rnn(bidirectional=True, merge="sum"), (4, 5, 3)),
        LayerCase("recurrent dropout", rnn(recurrent_dropout=0.4), (4, 5, 3)),
        LayerCase("lengths", rnn(), (4, 6, 3), (3, 0, 6, 1)),
        LayerCase("relu, lengths", rnn(activation="relu"), (4, 6, 3), (3, 0, 6, 1)),
        LayerCase(
            "everything",
            rnn(
                layers=3,
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


ARRAYS = {"x": (4, 5, 3), "weight_x": (3, 2), "weight_h": (2, 2)}


class TestFormula(FormulaContract):
    module = lm.rnn.formula
    cases = [
        FormulaCase("tanh", ARRAYS | {"bias": (2,)}),
        FormulaCase("relu", ARRAYS | {"bias": (2,)}, options={"activation": "relu"}),
        FormulaCase("sigmoid", ARRAYS | {"bias": (2,)}, options={"activation": "sigmoid"}),
        FormulaCase("no bias", ARRAYS),
        FormulaCase("mask", ARRAYS | {"bias": (2,), "mask": (4, 2)}, (2, 0, 5, 1)),
        FormulaCase("lengths", ARRAYS | {"bias": (2,)}, (2, 0, 5, 1)),
        FormulaCase("relu, lengths", ARRAYS, (2, 0, 5, 1), {"activation": "relu"}),
    ]


def test_relu_shows_a_nan():
    layer = lm.RNN(1, 2, activation="relu", rng=0)
    x = np.array([[[1.0], [np.nan], [1.0]]], np.float32)
    assert np.isnan(layer(x)).tolist() == [[[False, False], [True, True], [True, True]]]


def test_refuses_an_activation():
    with pytest.raises(
        ValueError, match=r"RNN.*: activation must be one of 'tanh', 'sigmoid', .*; got 'sin'"
    ):
        lm.RNN(1, 1, activation="sin")
