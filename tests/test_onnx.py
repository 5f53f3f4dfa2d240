"""Weights of ONNX give the same values here; docs/from/onnx.md shows how to take them along."""

import numpy as np
import pytest

import lamina as lm

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.peers

RNG = np.random.default_rng(0)
PROVIDERS = ["CPUExecutionProvider"]
T, N, F, H = 6, 3, 4, 8
LENGTHS = np.array([6, 3, 1], np.int32)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def run(kind, outputs, inputs, **options):
    """Return what ONNX Runtime makes of one node; an input that is None is left out."""
    given = {f"in{k}": a for k, a in enumerate(inputs) if a is not None}
    names = [f"in{k}" if a is not None else "" for k, a in enumerate(inputs)]
    names_out = [f"out{k}" for k in range(outputs)]
    of = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, names, names_out, **options)],
        "one node",
        [
            onnx.helper.make_tensor_value_info(name, of(a.dtype), a.shape)
            for name, a in given.items()
        ],
        [onnx.helper.make_tensor_value_info(name, of(np.dtype("f")), None) for name in names_out],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=PROVIDERS)
    return session.run(None, given)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def drawn(gates, directions=2):
    """Return W, R and B."""
    D, G = directions, gates * H
    return draw(D, G, F), draw(D, G, H), draw(D, 2 * G)


def test_weights_along():
    table, images, steps = draw(5, 4), draw(2, 4, 7, 9), draw(T, N, F)
    gemm_weight, gemm_bias = draw(3, 4), draw(3)
    conv_weight, conv_bias = draw(8, 2, 3, 2), draw(8)
    back_weight, back_bias = draw(4, 3, 3, 2), draw(6)
    scale, offset, mean, var = draw(4), draw(4), draw(4), np.abs(draw(4))
    W, R, B = drawn(4)
    gru_W, gru_R, gru_B = drawn(3)
    rnn_W, rnn_R, rnn_B = drawn(1)
    P = draw(2, 3 * H)
    initial_h, initial_c = draw(2, N, H), draw(2, N, H)

    linear, norm = lm.Linear(4, 3), lm.BatchNorm(4, eps=1e-3, momentum=0.9, unbiased=False)
    conv = lm.Conv2d(4, 8, (3, 2), stride=2, padding=((1, 2), (0, 1)), groups=2)
    transposed = lm.ConvTranspose2d(
        4, 6, (3, 2), stride=2, padding=((1, 2), (0, 1)), output_padding=(1, 0), groups=2
    )
    lstm = lm.LSTM(F, H, bidirectional=True, peepholes=True)
    coupled = lm.LSTM(F, H, bidirectional=True, peepholes=True, coupled=True, clip=2.0)
    gru, gru_before, rnn = (
        lm.GRU(F, H, bidirectional=True),
        lm.GRU(F, H, bidirectional=True, reset="before"),
        lm.RNN(F, H, bidirectional=True),
    )

    # Take weights along
    linear.weight, linear.bias = gemm_weight.T, gemm_bias  # of Gemm with transB=1
    conv.weight, conv.bias = conv_weight.transpose(2, 3, 1, 0), conv_bias
    transposed.weight, transposed.bias = back_weight.transpose(2, 3, 1, 0), back_bias
    norm.gamma, norm.beta, norm.running_mean, norm.running_var = scale, offset, mean, var

    def turned(a, there, here):
        """Return the blocks of an array, a gate each, in the order of this library."""
        blocks = dict(zip(there, np.split(a, len(there)), strict=True))
        return np.concatenate([blocks[gate] for gate in here])

    def take(layer, there, here, W, R, B, d, end):
        """Take a direction along, whose names end in `end` here."""
        b, b_h = (turned(part, there, here) for part in np.split(B[d], 2))
        if f"bias_h{end}" in layer.params:  # GRU with its reset gate after: n has two biases
            layer.params[f"bias_h{end}"][...] = b_h[2 * layer.hidden :]
            b_h[2 * layer.hidden :] = 0
        layer.params[f"weight_x{end}"][...] = turned(W[d], there, here).T
        layer.params[f"weight_h{end}"][...] = turned(R[d], there, here).T
        layer.params[f"bias{end}"][...] = b + b_h

    for d, end in enumerate(("", "_reverse")):
        take(lstm, "iofc", "ifco", W, R, B, d, end)  # their c is our g
        lstm.params[f"peephole{end}"][...] = turned(P[d], "iof", "ifo")
        take(coupled, "iofc", "ico", W, R, B, d, end)  # input_forget=1
        coupled.params[f"peephole{end}"][...] = turned(P[d], "iof", "io")
        take(gru, "zrh", "rzh", gru_W, gru_R, gru_B, d, end)  # linear_before_reset=1
        take(gru_before, "zrh", "rzh", gru_W, gru_R, gru_B, d, end)
        take(rnn, "h", "h", rnn_W, rnn_R, rnn_B, d, end)
    # What came of it

    close(linear(table), *run("Gemm", 1, [table, gemm_weight, gemm_bias], transB=1))
    last = images.transpose(0, 2, 3, 1)
    options = {"strides": [2, 2], "pads": [1, 0, 2, 1], "group": 2}
    (expected,) = run("Conv", 1, [images, conv_weight, conv_bias], **options)
    close(conv(last), expected.transpose(0, 2, 3, 1))
    given, options = [images, back_weight, back_bias], {**options, "output_padding": [1, 0]}
    (expected,) = run("ConvTranspose", 1, given, **options)
    close(transposed(last), expected.transpose(0, 2, 3, 1))
    given = [images, scale, offset, mean, var]
    (expected,) = run("BatchNormalization", 1, given, epsilon=1e-3)
    close(norm(last), expected.transpose(0, 2, 3, 1))

    both = {"hidden_size": H, "direction": "bidirectional"}
    first, cells = [LENGTHS, initial_h], [initial_c, P]
    for kind, layer, given, options in (
        ("LSTM", lstm, [W, R, B, *first, *cells], {}),
        ("LSTM", coupled, [W, R, B, *first, *cells], {"input_forget": 1, "clip": 2.0}),
        ("GRU", gru, [gru_W, gru_R, gru_B, *first], {"linear_before_reset": 1}),
        ("GRU", gru_before, [gru_W, gru_R, gru_B, *first], {}),
        ("RNN", rnn, [rnn_W, rnn_R, rnn_B, *first], {}),
    ):
        Y, *ends = run(kind, 2 + (kind == "LSTM"), [steps, *given], **both, **options)
        state = tuple(zip(*(initial_h, initial_c)[: len(ends)], strict=True))
        y, after, _ = layer.run(steps.transpose(1, 0, 2), state, lengths=LENGTHS)
        close(y.reshape(N, T, 2, H).transpose(1, 2, 0, 3), Y)
        for ours, theirs in zip(zip(*after, strict=True), ends, strict=True):
            close(np.stack(ours), theirs)


@pytest.mark.parametrize(("theirs", "ours"), [("SAME_UPPER", "same"), ("SAME_LOWER", "same_lower")])
def test_padding(theirs, ours):
    x, weight = draw(2, 3, 8, 7), draw(5, 3, 3, 4)
    last, options = x.transpose(0, 2, 3, 1), {"strides": [2, 1], "auto_pad": theirs}
    conv = lm.Conv2d(3, 5, (3, 4), stride=(2, 1), padding=ours, bias=False)
    conv.weight = weight.transpose(2, 3, 1, 0)
    (expected,) = run("Conv", 1, [x, weight], **options)
    close(conv(last), expected.transpose(0, 2, 3, 1))
    for kind, pool in (("MaxPool", lm.MaxPool2d), ("AveragePool", lm.AvgPool2d)):
        (expected,) = run(kind, 1, [x], kernel_shape=[3, 4], **options)
        layer = pool((3, 4), stride=(2, 1), padding=ours)
        close(layer(last), expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 3), (1, 2)])
def test_padding_of_transposed_convolutions(kernel, stride, auto_pad):
    """As Conv's, but where the stride is above the kernel."""
    x, weight = draw(2, 4, 5), draw(4, 3, kernel)
    options = {"strides": [stride], "auto_pad": auto_pad}
    (expected,) = run("ConvTranspose", 1, [x, weight], **options)
    padding = auto_pad.lower().removesuffix("_upper") if stride <= kernel else "valid"
    transposed = lm.ConvTranspose1d(4, 3, kernel, stride=stride, padding=padding, bias=False)
    transposed.weight = weight.transpose(2, 1, 0)
    close(transposed(x.transpose(0, 2, 1)), expected.transpose(0, 2, 1))


@pytest.mark.parametrize("size", [7, 8])
def test_ceil_mode(size):
    x = draw(2, 3, size, size + 1)
    for kind, pool in (("MaxPool", lm.MaxPool2d), ("AveragePool", lm.AvgPool2d)):
        options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]}
        (expected,) = run(kind, 1, [x], ceil_mode=1, **options)
        layer = pool(3, stride=2, padding=((1, 1), (0, 2)))
        close(layer(x.transpose(0, 2, 3, 1)), expected.transpose(0, 2, 3, 1))
