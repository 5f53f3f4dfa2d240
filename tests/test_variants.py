"""The variants of RNN and LSTM: options that have a formula of their own and no kernel."""

from types import SimpleNamespace

import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract, assert_close, random
from lamina import cells
from lamina.arrays import zeros
from lamina.lstm import variants as lstm_variants
from lamina.rnn import variants as rnn_variants


@pytest.mark.parametrize("name", cells.ACTIVATIONS)
def test_slopes(name):
    a, h = np.array([-7.3, -2.6, -1.2, -0.4, 0.3, 0.9, 1.7, 2.7, 6.1]), 1e-6
    function, slope = cells.ACTIVATIONS[name], cells.SLOPES[name]
    y = function(a)
    np.testing.assert_allclose(
        slope(a, y), (function(a + h) - function(a - h)) / (2 * h), atol=1e-9
    )
    far = function(np.array([-1e30, 1e30], np.float32))
    assert far.dtype == np.float32
    assert not np.isnan(far).any()


LIMITS = {  # y at -inf and inf, and the slope there
    "tanh": (-1, 1, 0, 0),
    "sigmoid": (0, 1, 0, 0),
    "relu": (0, np.inf, 0, 1),
    "leaky_relu": (-np.inf, np.inf, 0.01, 1),
    "elu": (-1, np.inf, 0, 1),
    "softplus": (0, np.inf, 0, 1),
    "softsign": (-1, 1, 0, 0),
    "hard_sigmoid": (0, 1, 0, 0),
    "hard_tanh": (-1, 1, 0, 0),
    "identity": (-np.inf, np.inf, 1, 1),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", cells.ACTIVATIONS)
def test_far_out_activations_have_their_limits(name, dtype):
    function, slope = cells.ACTIVATIONS[name], cells.SLOPES[name]
    least, most, *slopes = LIMITS[name]
    a = np.array([-np.inf, np.inf], dtype)
    y = function(a)
    np.testing.assert_array_equal(y, [least, most])
    np.testing.assert_allclose(slope(a, y), slopes, rtol=1e-6)
    a = np.finfo(dtype).max * np.array([-1, 1], dtype)
    y = function(a)
    lines = np.isinf([least, most])  # where y is a line of that slope
    np.testing.assert_allclose(y, np.where(lines, slopes * a, [least, most]), rtol=1e-6)
    np.testing.assert_allclose(slope(a, y), slopes, rtol=1e-6, atol=np.finfo(dtype).tiny)


def from_zero(variants, states):
    """A module's run and run_backward as forward and backward, for the contract."""

    def forward(x, weight_x, weight_h, **rest):
        P, H = weight_h.shape[0], weight_h.shape[1] // (1 if states == 1 else 4)
        if rest.get("coupled"):
            H = weight_h.shape[1] // 3
        start = zeros((x.shape[0], P), like=x), zeros((x.shape[0], H), like=x)
        y, _, cache = variants.run(x, start[:states], weight_x, weight_h, **rest)
        return y, (cache, start[:states])

    def backward(dy, cache):
        cache, end = cache
        dx, _, grads = variants.run_backward(dy, end, cache)
        return dx, grads

    return SimpleNamespace(forward=forward, backward=backward)


class TestRNNFormula(FormulaContract):
    module = from_zero(rnn_variants, 1)
    arrays = {"x": (4, 5, 3), "weight_x": (3, 2), "weight_h": (2, 2), "bias": (2,)}
    cases = [
        FormulaCase("clipped softsign", arrays, options={"activation": "softsign", "clip": 0.6}),
        FormulaCase("elu", arrays, options={"activation": "elu"}),
        FormulaCase(
            "normalised",
            {"x": (4, 5, 3), "weight_x": (3, 5), "weight_h": (5, 5), "gamma": (5,), "mask": (4, 5)},
            (2, 0, 5, 1),
        ),
    ]


class TestLSTMFormula(FormulaContract):
    module = from_zero(lstm_variants, 2)
    arrays = {"x": (4, 5, 3), "weight_x": (3, 8), "weight_h": (2, 8), "bias": (8,)}
    coupled = {"x": (4, 5, 3), "weight_x": (3, 6), "weight_h": (3, 6)}
    cases = [
        FormulaCase("peepholes", arrays | {"peephole": (6,)}),
        FormulaCase("clips", arrays | {"peephole": (6,)}, options={"clip": 0.8, "cell_clip": 0.3}),
        FormulaCase(
            "coupled, projection, lengths",
            coupled | {"weight_p": (2, 3), "peephole": (4,), "mask": (4, 3)},
            (2, 0, 5, 1),
            {"coupled": True},
        ),
        FormulaCase(
            "activations", arrays, options={"activations": ("hard_sigmoid", "elu", "softsign")}
        ),
        FormulaCase(
            "normalised",
            {
                "x": (4, 5, 3),
                "weight_x": (3, 20),
                "weight_h": (5, 20),
                "gamma_x": (20,),
                "gamma_h": (20,),
                "gamma_c": (5,),
                "beta_c": (5,),
            },
            (2, 0, 5, 1),
        ),
    ]


def rnn(**options):
    return lambda dtype: lm.RNN(3, 4, dtype=dtype, rng=1, init="torch", **options)


def lstm(**options):
    return lambda dtype: lm.LSTM(3, 4, dtype=dtype, rng=1, init="torch", **options)


class TestLayer(LayerContract):
    same_bits = False
    cases = [
        LayerCase("RNN, softsign", rnn(activation="softsign"), (4, 5, 3)),
        LayerCase(
            "RNN, everything",
            rnn(clip=0.5, layer_norm=True, layers=2, bidirectional=True, recurrent_dropout=0.3),
            (4, 6, 3),
            (3, 0, 6, 1),
        ),
        LayerCase("LSTM, peepholes", lstm(peepholes=True, clip=0.8, cell_clip=0.2), (4, 5, 3)),
        LayerCase(
            "LSTM, everything",
            lstm(
                projection=2,
                peepholes=True,
                coupled=True,
                clip=3,
                cell_clip=3,
                activations=["hard_sigmoid", "tanh", "identity"],
                layers=2,
                bidirectional=True,
                recurrent_dropout=0.3,
            ),
            (4, 6, 3),
            (3, 0, 6, 1),
        ),
        # Large weights: where sums are near 0, normalisation bends too much for differences.
        LayerCase(
            "LSTM, normalised",
            lambda dtype: lm.LSTM(
                3, 4, coupled=True, layer_norm=True, layers=2, init="normal", dtype=dtype, rng=1
            ),
            (4, 6, 3),
            (3, 0, 6, 1),
        ),
    ]


@pytest.mark.parametrize("lengths", [None, (2, 0, 5, 1)])
def test_without_options_a_variant_is_the_classic_cell(lengths):
    x, h, c = random("x", (4, 5, 3)), random("h", (4, 2)), random("c", (4, 2))
    lengths = None if lengths is None else np.array(lengths)
    for variants, classic, kind, state in [
        (rnn_variants, lm.rnn.formula, lm.RNN, (h,)),
        (lstm_variants, lm.lstm.formula, lm.LSTM, (h, c)),
    ]:
        layer = kind(3, 2, dtype=float, rng=0)
        weights = layer.weight_x, layer.weight_h, layer.bias
        y, end, cache = variants.run(x, state, *weights, lengths=lengths)
        y_, end_, cache_ = classic.run(x, state, *weights, lengths=lengths)
        dy = random("dy", y.shape)
        dx, dstate, grads = variants.run_backward(dy, state, cache)
        dx_, dstate_, grads_ = classic.run_backward(dy, state, cache_)
        for a, b in zip((y, *end, dx, *dstate), (y_, *end_, dx_, *dstate_), strict=True):
            assert_close(a, b, float)
        for name, g in grads_.items():
            assert_close(grads[name], g, float, what=name)
        for name, a in classic.trace(cache_).items():
            assert_close(variants.trace(cache)[name], a, float, what=name)


def test_first_weights():
    layer = lm.LSTM(3, 2, peepholes=True, layer_norm=True, coupled=True, rng=0)
    assert layer.bias.tolist() == [-1, -1, 0, 0, 0, 0]  # f = 1 - i starts open
    assert layer.peephole.tolist() == [0] * 4
    assert layer.gamma_x.tolist() == layer.gamma_h.tolist() == [1] * 6
    assert layer.gamma_c.tolist() == [1, 1]
    assert layer.beta_c.tolist() == [0, 0]
    assert lm.RNN(3, 2, layer_norm=True).gamma.tolist() == [1, 1]
    assert lm.RNN(3, 2).gamma is None


def test_trace():
    layer = lm.LSTM(3, 2, peepholes=True, coupled=True, cell_clip=0.1, dtype=float, rng=0)
    y, cache = layer.forward(random("x", (4, 5, 3)), trace=True)
    dx, _ = layer.backward(np.ones_like(y), cache)
    (seen,) = cache.trace
    assert list(seen) == [*"ifgoch", "da", "norm"]
    assert_close(seen["f"], 1 - seen["i"], float)
    assert np.abs(seen["c"]).max() == 0.1
    assert_close(seen["h"], y, float)
    assert_close(seen["da"] @ layer.weight_x.T, dx, float)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clip": 0}, ValueError, "clip must be more than 0, got 0"),
        ({"cell_clip": "1"}, TypeError, "cell_clip must be a number, got '1'"),
        ({"peepholes": 2}, ValueError, "peepholes must be one of True, False; got 2"),
        ({"activations": "tanh"}, ValueError, "activations must be three names, .* got 'tanh'"),
        (
            {"activations": ("sigmoid", "tanh", "sin")},
            ValueError,
            "an activation must be one of 'tanh', 'sigmoid', .*; got 'sin'",
        ),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=rf"LSTM\(1, 1.*: {message}"):
        lm.LSTM(1, 1, **options)


@pytest.mark.peers
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("clip", [None, 0.4])
def test_against_onnx_runtime(coupled, clip):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    layer = lm.LSTM(3, 2, peepholes=True, coupled=coupled, clip=clip, init="torch", rng=3)
    layer.peephole = random("p", layer.peephole.shape)
    x, lengths = random("x", (4, 5, 3), "f"), (2, 0, 5, 1)
    blocks, places = ("igo", "ioig") if coupled else ("ifgo", "iofg")  # ONNX: i, o, f, c

    def theirs(a, blocks=blocks, places=places):
        """Our columns in the order of ONNX, as rows; coupled, its f block is not used."""
        parts = dict(zip(blocks, np.split(a, len(blocks), axis=-1), strict=True))
        return np.concatenate([parts[gate] for gate in places], axis=-1).T[None]

    peepholes = ("io", "ioi") if coupled else ("ifo", "iof")
    arrays = {
        "x": x.transpose(1, 0, 2),
        "W": theirs(layer.weight_x),
        "R": theirs(layer.weight_h),
        "B": np.concatenate([theirs(layer.bias), np.zeros((1, 8), "f")], axis=1),
        "lengths": np.array(lengths, np.int32),
        "h": np.zeros((1, 4, 2), "f"),
        "c": np.zeros((1, 4, 2), "f"),
        "P": theirs(layer.peephole, *peepholes),
    }
    options = {"hidden_size": 2, "input_forget": int(coupled)} | ({"clip": clip} if clip else {})
    node = onnx.helper.make_node("LSTM", list(arrays), ["y"], **options)
    kinds = {"lengths": onnx.TensorProto.INT32}
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [
            onnx.helper.make_tensor_value_info(name, kinds.get(name, 1), a.shape)
            for name, a in arrays.items()
        ],
        [onnx.helper.make_tensor_value_info("y", 1, (5, 1, 4, 2))],
    )
    opsets = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, arrays)
    assert_close(layer(x, lengths=lengths), y[:, 0].transpose(1, 0, 2), np.float32)
