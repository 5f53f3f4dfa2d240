import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract, assert_close, random


def gru(**options):
    return lambda dtype: lm.GRU(3, 4, dtype=dtype, rng=1, init="torch", **options)


EVERYTHING = {
    "layers": 3, "bidirectional": True, "merge": "sum", "dropout": 0.4, "recurrent_dropout": 0.3,
}  # fmt: skip


class TestLayer(LayerContract):
    cases = [
        LayerCase("one layer", gru(), (4, 5, 3)),
        LayerCase("no bias", gru(bias=False), (4, 5, 3)),
        LayerCase("one of each", lambda d: lm.GRU(1, 1, dtype=d, rng=1), (1, 1, 1)),
        LayerCase("both directions", gru(bidirectional=True), (4, 5, 3)),
        LayerCase("lengths", gru(), (4, 6, 3), (3, 0, 6, 1)),
        LayerCase("everything", gru(**EVERYTHING), (4, 6, 3), (3, 0, 6, 1)),
    ]


class TestLayerBefore(LayerContract):
    same_bits = False
    cases = [
        LayerCase("one layer", gru(reset="before"), (4, 5, 3)),
        LayerCase("everything", gru(reset="before", **EVERYTHING), (4, 6, 3), (3, 0, 6, 1)),
    ]


ARRAYS = {"x": (4, 5, 3), "weight_x": (3, 6), "weight_h": (2, 6), "bias": (6,)}
AFTER = ARRAYS | {"bias_h": (2,)}
BEFORE = {"reset": "before"}


class TestFormula(FormulaContract):
    module = lm.gru.formula
    cases = [
        FormulaCase("after", AFTER),
        FormulaCase("before", ARRAYS, options=BEFORE),
        FormulaCase("after, lengths, mask", AFTER | {"mask": (4, 2)}, (2, 0, 5, 1)),
        FormulaCase("before, lengths, mask", ARRAYS | {"mask": (4, 2)}, (2, 0, 5, 1), BEFORE),
        FormulaCase("no bias", {name: ARRAYS[name] for name in ("x", "weight_x", "weight_h")}),
    ]


def test_before_by_hand():
    x, h = random("x", (4, 3)), random("h", (4, 2))
    layer = lm.GRU(3, 2, reset="before", dtype=float, rng=0)
    assert layer.bias_h is None
    layer.bias = random("b", (6,))
    W, U, b = layer.weight_x, layer.weight_h, layer.bias
    r, z = (1 / (1 + np.exp(-(x @ W + h @ U + b)[:, k : k + 2])) for k in (0, 2))
    n = np.tanh(x @ W[:, 4:] + (r * h) @ U[:, 4:] + b[4:])
    _, ((end,),) = layer.step(x, ((h,),))
    assert_close(end, (1 - z) * n + z * h, float)


def test_conventions_differ_only_in_where_the_reset_gate_acts():
    x = random("x", (4, 5, 3))
    after, before = (lm.GRU(3, 2, reset=r, dtype=float, rng=0) for r in ("after", "before"))
    assert not np.allclose(after(x), before(x))
    for layer in (after, before):  # with r = 1 it acts nowhere
        layer.bias = np.array([100, 100, 0, 0, 0, 0])
    assert_close(after(x), before(x), float)


def test_refuses_a_reset():
    with pytest.raises(ValueError, match="reset must be one of 'after', 'before'; got 'both'"):
        lm.GRU(1, 1, reset="both")
