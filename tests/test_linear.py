import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract, assert_same


class TestLayer(LayerContract):
    cases = [
        LayerCase("two axes", lambda d: lm.Linear(5, 3, dtype=d, rng=1), (4, 5)),
        LayerCase("one axis more", lambda d: lm.Linear(5, 3, dtype=d, rng=1), (4, 2, 5)),
        LayerCase("four axes", lambda d: lm.Linear(5, 3, dtype=d, rng=1), (2, 3, 2, 5)),
        LayerCase("no bias", lambda d: lm.Linear(5, 3, bias=False, dtype=d, rng=1), (4, 5)),
        LayerCase("one of each", lambda d: lm.Linear(1, 1, dtype=d, rng=1), (1, 1)),
        LayerCase("lengths", lambda d: lm.Linear(5, 3, dtype=d, rng=1), (4, 6, 5), (3, 0, 6, 1)),
    ]


class TestFormula(FormulaContract):
    module = lm.linear.formula
    cases = [
        FormulaCase("two axes", {"x": (4, 5), "weight": (5, 3), "bias": (3,)}),
        FormulaCase("four axes", {"x": (2, 3, 2, 5), "weight": (5, 3), "bias": (3,)}),
        FormulaCase("no bias", {"x": (4, 5), "weight": (5, 3)}),
        FormulaCase("lengths", {"x": (3, 4, 5), "weight": (5, 3), "bias": (3,)}, (2, 0, 4)),
    ]


def test_a_vector_without_a_batch():
    layer, x = lm.Linear(3, 2, rng=0), np.ones(3, np.float32)
    assert layer.output_shape((3,)) == (2,)
    for _ in range(3):  # the last by a plan
        assert_same(layer(x), layer(x[None])[0])
    with pytest.raises(
        ValueError, match=r"4 features in its last axis \(shape \(4,\)\), expected 3"
    ):
        layer.output_shape((4,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3), ValueError, r"Linear\(0, 3\): in_features must be at least 1, got 0"),
        ((3, 2.5), TypeError, r"Linear\(3, 2.5\): out_features must be an integer, got 2.5"),
    ],
)
def test_refuses_sizes(arguments, error, message):
    with pytest.raises(error, match=message):
        lm.Linear(*arguments)


def test_refuses_options():
    with pytest.raises(ValueError, match=r"init must be one of 'glorot_uniform', .*; got 'glorot'"):
        lm.Linear(3, 2, init="glorot")
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got 'float16'"):
        lm.Linear(3, 2, dtype="float16")
    with pytest.raises(ValueError, match="bias must be one of True, False; got 'yes'"):
        lm.Linear(3, 2, bias="yes")


def test_refuses_inputs():
    layer = lm.Linear(256, 128, rng=0)
    with pytest.raises(
        ValueError,
        match=r"Linear\(256, 128\): x has 255 features in its last axis \(shape \(32, 255\)\), "
        r"expected 256",
    ):
        layer(np.zeros((32, 255), np.float32))
    with pytest.raises(ValueError, match=r"expected 256; they seem to come second: np.moveaxis"):
        layer(np.zeros((32, 256, 7), np.float32))
    with pytest.raises(
        TypeError,
        match=r"x has dtype float64, expected float32; cast it: x.astype\(np.float32\)"
        r".*layer.astype\(np.float64\)",
    ):
        layer(np.zeros((32, 256)))
    y, cache = layer.forward(np.zeros((4, 256), np.float32))
    with pytest.raises(ValueError, match=r"dy has shape \(4, 127\), expected \(4, 128\)"):
        layer.backward(y[:, 1:], cache)


def test_flops_are_of_a_shape_that_fits():
    assert lm.Linear(4, 3).flops((2, 5, 4)) == 2 * 5 * 3 * (2 * 4 + 1)
    assert lm.Linear(4, 3, bias=False).flops((4,)) == 2 * 3 * 4
    with pytest.raises(ValueError, match=r"Linear\(4, 3\): x has 5 features .*, expected 4"):
        lm.Linear(4, 3).flops((2, 5))


def test_refuses_lengths():
    layer, x = lm.Linear(2, 3, rng=0), np.zeros((4, 5, 2), np.float32)
    with pytest.raises(ValueError, match=r"lengths must lie in 0 ... 5, .* got -1 ... 6"):
        layer(x, lengths=[-1, 6, 0, 0])
    with pytest.raises(ValueError, match=r"lengths has shape \(3,\), expected \(4,\)"):
        layer(x, lengths=[1, 2, 3])
    with pytest.raises(TypeError, match=r"integers, got dtype float64; cast them: lengths\.astype"):
        layer(x, lengths=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(TypeError, match=r"integers, got dtype bool; a mask has them as mask\.sum"):
        layer(x, lengths=np.ones((4, 5), bool))
    with pytest.raises(ValueError, match=r"lengths go with x of shape \(N, T, ...\)"):
        layer(x[:, 0], lengths=[1, 2, 3, 4])
