import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina as lm
from contract import (
    FormulaCase,
    FormulaContract,
    LayerCase,
    LayerContract,
    assert_close,
    assert_same,
    passes,
    random,
)
from lamina.convolution.transposed import formula

CLASSES = (lm.ConvTranspose1d, lm.ConvTranspose2d, lm.ConvTranspose3d)


def conv(rank, *args, **options):
    """A builder for LayerCase, with a bias that is not zero."""

    def build(dtype):
        layer = CLASSES[rank - 1](*args, **options, dtype=dtype, rng=1)
        if layer.bias is not None:
            layer.bias = random("bias", layer.bias.shape)
        return layer

    return build


class TestLayer(LayerContract):
    cases = [
        LayerCase("1d", conv(1, 3, 4, 3), (2, 7, 3)),
        LayerCase("1d stride", conv(1, 3, 4, 3, stride=2, padding=((2, 1),)), (2, 8, 3)),
        LayerCase("1d lengths", conv(1, 3, 4, 3, stride=2), (4, 8, 3), (3, 0, 8, 5)),
        LayerCase(
            "1d lengths same", conv(1, 3, 4, 5, stride=2, padding="same"), (4, 8, 3), (3, 0, 8, 1)
        ),
        LayerCase(
            "1d lengths everything",
            conv(1, 4, 6, 3, stride=3, dilation=2, padding=((2, 3),), output_padding=2, groups=2),
            (5, 8, 4),
            (3, 0, 8, 1, 6),
        ),
        LayerCase(
            "1d of nothing but padding",
            conv(1, 2, 3, 1, dilation=8, padding=4, output_padding=7),
            (2, 3, 2),
        ),
        LayerCase("2d", conv(2, 3, 4, 3), (2, 5, 6, 3)),
        LayerCase("2d one of each", conv(2, 1, 1, 1), (1, 1, 1, 1)),
        LayerCase("2d of one element", conv(2, 6, 4, (2, 3)), (2, 1, 1, 6)),
        LayerCase("2d 1x1", conv(2, 5, 4, 1), (2, 3, 4, 5)),
        LayerCase("2d no bias", conv(2, 3, 4, (2, 1), bias=False), (2, 5, 6, 3)),
        LayerCase("2d to one channel", conv(2, 8, 1, 4, stride=2, padding=1), (2, 5, 6, 8)),
        LayerCase("2d same", conv(2, 3, 4, 3, stride=(2, 3), padding="same"), (2, 5, 6, 3)),
        LayerCase(
            "2d same lower", conv(2, 3, 4, 4, stride=(1, 3), padding="same_lower"), (2, 5, 6, 3)
        ),
        LayerCase("2d gaps", conv(2, 3, 4, 2, stride=(3, 4), output_padding=1), (2, 3, 4, 3)),
        LayerCase(
            "2d more than the stride",
            conv(2, 3, 4, (3, 1), stride=(2, 1), dilation=(4, 3), padding=1, output_padding=(3, 2)),
            (2, 4, 3, 3),
        ),
        LayerCase(
            "2d depthwise, more than the stride",
            conv(2, 5, 5, (3, 1), dilation=(3, 5), padding=1, output_padding=(2, 4), groups=5),
            (2, 4, 40, 5),
        ),
        LayerCase(
            "1d lengths, more than the stride",
            conv(1, 3, 4, 2, stride=2, dilation=5, padding=2, output_padding=4),
            (4, 8, 3),
            (3, 0, 8, 1),
        ),
        LayerCase("2d depthwise", conv(2, 3, 6, 3, groups=3, padding=1, stride=2), (2, 5, 6, 3)),
        LayerCase(
            "2d everything",
            conv(
                2,
                4,
                6,
                (2, 3),
                stride=(2, 1),
                dilation=(1, 2),
                padding=((1, 2), 3),
                output_padding=(1, 0),
                groups=2,
            ),
            (2, 5, 6, 4),
        ),
        LayerCase("2d 3x3 of many", conv(2, 17, 18, 3, padding=((1, 2), 1)), (2, 5, 4, 17)),
        LayerCase("2d padding beyond the kernel", conv(2, 16, 16, 3, padding=4), (1, 8, 9, 16)),
        LayerCase(
            "3d", conv(3, 2, 4, 2, stride=(1, 2, 1), groups=2, padding="same"), (2, 3, 4, 2, 2)
        ),
    ]


class TestFormula(FormulaContract):
    module = formula
    cases = [
        FormulaCase("1d no bias", {"x": (2, 5, 3), "weight": (2, 4, 3)}),
        FormulaCase(
            "1d lengths",
            {"x": (4, 7, 6), "weight": (3, 2, 6), "bias": (4,)},
            (3, 0, 7, 1),
            {"stride": 2, "padding": ((2, 1),), "output_padding": 1, "groups": 2},
        ),
        FormulaCase(
            "2d",
            {"x": (2, 3, 4, 6), "weight": (1, 3, 2, 6), "bias": (4,)},
            options={
                "stride": (3, 2),
                "dilation": (2, 1),
                "padding": ((0, 0), (2, 0)),
                "output_padding": (2, 1),
                "groups": 2,
            },
        ),
        FormulaCase(
            "2d more than the stride",
            {"x": (2, 3, 2, 2), "weight": (2, 1, 3, 2), "bias": (3,)},
            options={"dilation": (3, 5), "padding": ((0, 1), (0, 0)), "output_padding": (2, 4)},
        ),
        FormulaCase(
            "3d",
            {"x": (2, 3, 2, 2, 2), "weight": (2, 1, 2, 2, 2), "bias": (2,)},
            options={"stride": (1, 2, 2), "padding": ((1, 1), (0, 0), (1, 0))},
        ),
    ]


# Against its definitions


def by_loops(x, layer, sizes):
    """Return y, from one multiplication and addition at a time."""
    c, o = x.shape[-1] // layer.groups, layer.out_channels // layer.groups
    before = [pair[0] for pair in layer.padding]
    y = np.zeros((len(x), *sizes, layer.out_channels)) + layer.bias
    for p, k in itertools.product(np.ndindex(x.shape[1:-1]), np.ndindex(layer.kernel_size)):
        q = np.multiply(p, layer.stride) + np.multiply(k, layer.dilation) - before
        if np.any(q < 0) or np.any(q >= sizes):
            continue
        for j, i in itertools.product(range(layer.out_channels), range(c)):
            channel = j // o * c + i
            product = x[(slice(None), *p, channel)] * layer.weight[(*k, j % o, channel)]
            y[(slice(None), *q, j)] += product
    return y


@st.composite
def problems(draw):
    """A transposed convolution of any rank and options, of which the padding leaves something."""
    rank = draw(st.integers(1, 3))
    sizes, found, kernel, stride, dilation, pads, more = [], [], [], [], [], [], []
    for _ in range(rank):
        k, d, s = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
        pair = draw(st.tuples(*[st.integers(0, 2)] * 2))
        extra = draw(st.integers(0, max(s, d) - 1))
        base = (k - 1) * d + 1 - sum(pair) + extra
        size = max(1, -(-(1 - base) // s) + 1) + draw(st.integers(0, 2))
        sizes.append(size), found.append((size - 1) * s + base)
        (
            kernel.append(k),
            stride.append(s),
            dilation.append(d),
            pads.append(pair),
            more.append(extra),
        )
    groups, c, o = (draw(st.integers(1, 2)) for _ in range(3))
    options = {
        "stride": tuple(stride),
        "dilation": tuple(dilation),
        "padding": tuple(pads),
        "output_padding": tuple(more),
        "groups": groups,
    }
    return (2, *sizes, groups * c), (groups * c, groups * o, tuple(kernel)), options, tuple(found)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(problems())
def test_any_is_its_definition(problem):
    shape, channels, options, sizes = problem
    layer, x = conv(len(shape) - 2, *channels, **options)(np.float64), random("x", shape)
    assert layer.output_shape(shape) == (2, *sizes, channels[1])
    assert_close(layer(x), by_loops(x, layer, sizes), np.float64)


def test_it_is_the_way_back_of_a_convolution():
    options = {"stride": (2, 3), "padding": ((1, 0), 1), "groups": 2, "bias": False}
    there = lm.Conv2d(4, 6, 3, **options, dtype=np.float64, rng=0)
    back = lm.ConvTranspose2d(6, 4, 3, **options, output_padding=(0, 2), dtype=np.float64)
    back.weight = there.weight
    x = random("x", (2, 6, 9, 4))
    y, cache = there.forward(x)
    dy = random("dy", y.shape)
    dx, grads = there.backward(dy, cache)
    z, back_cache = back.forward(dy)
    assert_same(z, dx)
    dz, back_grads = back.backward(x, back_cache)
    assert_close(dz, y, np.float64)
    assert_close(back_grads["weight"], grads["weight"], np.float64)


@pytest.mark.parametrize("padding", ["same", "same_lower"])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_same_is_the_way_back_of_same(kernel, stride, padding):
    options = {"stride": stride, "padding": padding, "bias": False, "dtype": np.float64}
    there, back = lm.Conv1d(2, 3, kernel, **options), lm.ConvTranspose1d(3, 2, kernel, **options)
    back.weight = there.weight
    for size in (1, 2, 4):
        x = random("x", (2, stride * size, 2))
        y, cache = there.forward(x)
        assert back.output_shape(y.shape) == x.shape
        assert_same(back(y), there.backward(y, cache)[0])


# Against the peers


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_torch(rank, seed, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng([seed, rank])
    groups = int(rng.integers(1, 4))
    c, o = (groups * int(n) for n in rng.integers(1, (7, 7)))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, 5, rank))) for _ in range(3))
    more = tuple(int(rng.integers(0, max(pair))) for pair in zip(stride, dilation, strict=True))
    padding = tuple(int(rng.integers(0, (k - 1) * d // 2 + 1))
                    for k, d in zip(kernel, dilation, strict=True))  # fmt: skip
    options = {
        "stride": stride, "padding": padding, "output_padding": more, "dilation": dilation,
        "groups": groups,
    }  # fmt: skip
    theirs = getattr(torch.nn, f"ConvTranspose{rank}d")(
        c, o, kernel, **options, dtype=getattr(torch, np.dtype(dtype).name)
    )
    layer = CLASSES[rank - 1](c, o, kernel, **options, dtype=dtype)
    layer.weight = theirs.weight.detach().numpy().transpose(*range(2, rank + 2), 1, 0)
    layer.bias = theirs.bias.detach().numpy()
    x = random("x", (2, *map(int, rng.integers(1, 6, rank)), c), dtype)
    out = passes(layer, x, {})

    torch_x = torch.tensor(x, requires_grad=True)
    y = theirs(torch_x.movedim(-1, 1)).movedim(1, -1)
    assert_close(y.detach(), out["y"], dtype)
    y.backward(torch.tensor(random("dy", tuple(y.shape), dtype)))
    dweight = theirs.weight.grad.movedim((1, 0), (-2, -1))
    for name, a in (("dx", torch_x.grad), ("weight", dweight), ("bias", theirs.bias.grad)):
        assert_close(a, out[name], dtype, what=name)


@pytest.mark.peers
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("kernel", "stride"), [((2, 3), 2), ((3, 5), 3), ((4, 4), (1, 2))])
def test_jax(kernel, stride, padding):
    jax = pytest.importorskip("jax")
    layer = conv(2, 4, 3, kernel, stride=stride, padding=padding, bias=False)(np.float64)
    x = random("x", (2, 4, 5, 4))
    with jax.enable_x64(True):
        y = jax.lax.conv_transpose(
            x,
            layer.weight,
            layer.stride,
            padding.upper(),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            transpose_kernel=True,
        )
    assert_close(y[:, : layer(x).shape[1]], layer(x), np.float64)


# What else there is


def test_formulas_compute_the_layer():
    layer = conv(2, 3, 4, 3, stride=2, padding=1)(np.float32)
    x = random("x", (2, 4, 5, 3), np.float32)
    with lm.formulas():
        out = passes(layer, x, {})
    for name, a in passes(layer, x, {}).items():
        assert_close(a, out[name], np.float32, what=name)


def test_an_encoder_and_its_decoder_train_and_infer(capsys):
    model = lm.Sequential(
        lm.Conv2d(1, 4, 3, stride=2, padding="same"),
        lm.ReLU(),
        lm.ConvTranspose2d(4, 6, 3, stride=2, padding="same"),
        lm.BatchNorm(6),
        lm.ReLU(),
        lm.ConvTranspose2d(6, 1, 1),
        rng=0,
    )
    x = random("x", (8, 6, 6, 1), np.float32)
    loss, optimizer = lm.MeanSquaredError(), lm.Adam(lr=0.02)
    values = []
    for _ in range(30):
        y, cache = model.forward(x, training=True)
        value, dy = loss(y, x)
        _, grads = model.backward(dy, cache)
        optimizer.step(model.params, grads)
        values.append(value)
    assert values[-1] < values[0] / 2
    assert_close(model.for_inference()(x), model(x), np.float32)
    wide = model.astype(np.float64)
    assert_close(wide(x.astype(np.float64)), model(x), np.float32)
    model.summary(x.shape)
    line = "2  ConvTranspose2d(4, 6, 3, stride=2, padding='same')  (8, 6, 6, 6)"
    assert line in capsys.readouterr().out


def test_lengths_travel_through_a_model():
    model = lm.Sequential(
        lm.Conv1d(2, 4, 3, stride=2, padding=1),
        lm.ConvTranspose1d(4, 3, 4, stride=2, padding=1),
        lm.GlobalAvgPool(),
        rng=0,
    ).astype(np.float64)
    x = random("x", (3, 12, 2))
    y = model(x, lengths=[12, 0, 7])
    assert_close(y[:1], model(x[:1]), np.float64)
    assert_close(y[2:], model(x[2:, :7]), np.float64)
    assert_same(y[1], np.zeros(3))


def test_sequences_that_are_too_short_give_nothing():
    layer = conv(1, 2, 3, 3, padding=2)(np.float64)
    assert_same(layer.output_lengths(np.array([5, 2, 0, 3], np.uint8)), np.array([3, 0, 0, 1]))
    y, cache = layer.forward(random("x", (3, 5, 2)), lengths=[5, 2, 0])
    assert not y[1:].any()
    dx, _ = layer.backward(np.ones_like(y), cache)
    assert not dx[1:].any()


@pytest.mark.parametrize("c", [2, 16])
def test_an_image_without_pixels_has_no_outputs(c):
    layer = lm.ConvTranspose2d(c, c, 3, output_padding=1, stride=2, rng=0)
    for shape in ((2, 0, 5, c), (2, 5, 0, c), (2, 0, 0, c)):
        y, cache = layer.forward(np.zeros(shape, np.float32))
        assert y.shape == layer.output_shape(shape)
        assert y.size == 0
        dx, grads = layer.backward(y, cache)
        assert dx.shape == shape
        assert not any(g.any() for g in grads.values())


def test_fans_and_flops():
    layer = lm.ConvTranspose2d(6, 4, (3, 5), stride=2, groups=2, init="torch", rng=0)
    assert layer.weight.shape == (3, 5, 2, 6)
    bound = 1 / np.sqrt(3 * 5 * 2)
    assert 0.9 * bound < np.abs(layer.weight).max() <= bound
    assert layer.bias.shape == (4,)
    assert 0 < np.abs(layer.bias).max() <= bound
    # each of 2 x 4 x 4 x 6 inputs reaches 15 places of 2 channels; 2 x 9 x 11 x 4 outputs
    assert layer.flops((2, 4, 4, 6)) == 2 * 192 * 30 + 792
    assert lm.ConvTranspose2d(6, 4, 2, bias=False).flops((1, 1, 1, 6)) == 2 * 6 * 16


def test_config_builds_it_again():
    layer = lm.ConvTranspose2d(
        4, 6, 3, stride=2, padding=((1, 2), 1), output_padding=(0, 1), groups=2, rng=0
    )
    assert repr(lm.ConvTranspose2d(**layer.config())) == repr(layer)
    assert "output_padding=(0, 1)" in repr(layer)


# Errors


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 3, 3), {}, ValueError, r"ConvTranspose2d\(0, 3, 3\): in_channels must be at least 1"),
        ((3, 3, (3, 3, 3)), {}, ValueError, "kernel_size must be an integer or 2 of them"),
        ((3, 3, 3), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ((3, 3, 3), {"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ((3, 4, 3), {"groups": 2}, ValueError, "groups must divide in_channels; 3 is no multiple"),
        ((4, 3, 3), {"groups": 2}, ValueError, "groups must divide out_channels; 3 is no multiple"),
        ((3, 3, 3), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ((3, 3, 3), {"padding": "causal"}, ValueError, "padding must be one of .* got 'causal'"),
        ((3, 3, 3), {"padding": (1, 1, 1)}, ValueError, "padding must be one of .* 2 entries"),
        ((3, 3, 3), {"output_padding": -1}, ValueError, "output_padding must be at least 0, got"),
        ((3, 3, 3), {"output_padding": 0.5}, TypeError, "output_padding must be an integer"),
        ((3, 3, 3), {"output_padding": (0,)}, ValueError, "output_padding must be an integer or 2"),
        (
            (3, 3, 3),
            {"output_padding": (1, 2), "stride": 2},
            ValueError,
            "output_padding must be less than the stride or the dilation, got 2 with a stride of 2 "
            "and a dilation of 1; larger outputs come from larger inputs",
        ),
        (
            (3, 3, 3),
            {"output_padding": 2, "dilation": 2},
            ValueError,
            "output_padding must be less than .*, got 2 with a stride of 1 and a dilation of 2",
        ),
        (
            (3, 3, 3),
            {"padding": "same", "output_padding": 1, "stride": 2},
            ValueError,
            'with padding="same" y is the stride times as large as x; leave output_padding out',
        ),
        ((3, 3, 3), {"bias": None}, ValueError, "bias must be one of True, False; got None"),
        ((3, 3, 3), {"init": "glorot"}, ValueError, "init must be one of"),
        ((3, 3, 3), {"dtype": np.float16}, TypeError, "dtype must be float32 or float64"),
        ((3, 3, 3), {"padding_mode": "zeros"}, TypeError, "unexpected keyword|padding_mode"),
    ],
)
def test_refuses_options(arguments, options, error, message):
    with pytest.raises(error, match=message):
        lm.ConvTranspose2d(*arguments, **options)


def test_refuses_padding_by_name_that_only_convolutions_of_one_axis_have():
    with pytest.raises(
        ValueError, match="padding must be one of 'valid', 'same', 'same_lower', an"
    ):
        lm.ConvTranspose1d(3, 3, 3, padding="causal")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 5, 4), r"x has 4 features .*\(shape \(2, 5, 5, 4\)\), expected 3"),
        ((2, 5, 3), r"x has 3 axes \(shape \(2, 5, 3\)\), expected 4"),
        (
            (2, 5, 2, 3),
            r"padding \(2, 2\) on axis 2 takes away all of the 4 elements that 2 of x give there; "
            "use less padding",
        ),
    ],
)
def test_refuses_inputs(shape, message):
    layer = lm.ConvTranspose2d(3, 4, 3, padding=2)
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=message):
        layer.output_shape(shape)


def test_refuses_dtypes_gradients_lengths_and_steps():
    layer = lm.ConvTranspose2d(3, 4, 3, rng=0)
    with pytest.raises(TypeError, match="x has dtype float64, expected float32"):
        layer(np.zeros((1, 5, 5, 3)))
    x = np.zeros((1, 5, 5, 3), np.float32)
    y, cache = layer.forward(x)
    with pytest.raises(ValueError, match=r"dy has shape \(1, 7, 6, 4\), expected \(1, 7, 7, 4\)"):
        layer.backward(y[:, :, 1:], cache)
    for call in (lambda: layer(x, lengths=[1]), lambda: layer.output_lengths(np.array([1]))):
        with pytest.raises(ValueError, match="takes no lengths=; x has 2 axes between batch and"):
            call()
    with pytest.raises(TypeError, match="cannot go step by step"):
        lm.ConvTranspose1d(3, 4, 3).initial_state(1)
    one = lm.ConvTranspose1d(3, 4, 3, padding=2)
    with pytest.raises(ValueError, match="takes away all of the 4 elements that 2 of x give"):
        one(np.zeros((1, 2, 3), np.float32), lengths=[2])
    one.params["bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"bias has become .* shape \(3,\) .*, expected \(4,\)"):
        one(np.zeros((1, 5, 3), np.float32))


def test_weights_of_pytorch_that_were_not_turned_are_told_how_to():
    layer = lm.ConvTranspose2d(6, 4, (3, 2), groups=2)
    with pytest.raises(ValueError, match=r"array.transpose\(2, 3, 1, 0\)"):
        layer.weight = np.zeros((6, 2, 3, 2), np.float32)
