import gc
import itertools
import re
import types

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
from lamina.arrays import namespace
from lamina.convolution import direct, formula, phases, streaming, winograd
from lamina.convolution import kernel as kernels
from lamina.engine.tile import lanes
from problems import forget
from test_windows import NUMPY_MODES


def conv(rank, *args, **options):
    """A builder for LayerCase, with a bias that is not zero."""

    def build(dtype):
        layer = (lm.Conv1d, lm.Conv2d, lm.Conv3d)[rank - 1](*args, **options, dtype=dtype, rng=1)
        if layer.bias is not None:
            layer.bias = random("bias", layer.bias.shape)
        return layer

    return build


CAUSAL = {"padding": "causal", "dilation": 2}


class TestLayer(LayerContract):
    cases = [
        LayerCase("1d", conv(1, 3, 4, 3), (2, 7, 3)),
        LayerCase("1d stride", conv(1, 3, 4, 3, stride=2, padding=((2, 1),)), (2, 8, 3)),
        LayerCase("1d causal", conv(1, 4, 6, 3, **CAUSAL, groups=2), (2, 7, 4)),
        LayerCase("1d causal of one", conv(1, 3, 2, 1, padding="causal"), (2, 5, 3)),
        LayerCase("1d lengths", conv(1, 3, 4, 3), (4, 8, 3), (3, 0, 8, 5)),
        LayerCase("1d lengths causal", conv(1, 3, 4, 3, **CAUSAL), (4, 8, 3), (3, 0, 8, 1)),
        LayerCase("1d lengths same", conv(1, 3, 4, 4, padding="same"), (4, 8, 3), (3, 0, 8, 1)),
        LayerCase(
            "1d lengths stride padding",
            conv(1, 3, 4, 3, stride=2, dilation=2, padding=((3, 4),)),
            (5, 8, 3),
            (3, 0, 8, 1, 6),
        ),
        LayerCase("2d", conv(2, 3, 4, 3), (2, 5, 6, 3)),
        LayerCase("2d one of each", conv(2, 1, 1, 1), (1, 1, 1, 1)),
        LayerCase("2d no bias", conv(2, 3, 4, (2, 1), bias=False), (2, 5, 6, 3)),
        LayerCase("2d same", conv(2, 3, 4, 3, stride=(2, 3), padding="same"), (2, 5, 6, 3)),
        LayerCase("2d same lower", conv(2, 3, 4, 4, padding="same_lower"), (2, 5, 6, 3)),
        LayerCase("2d depthwise", conv(2, 3, 6, 3, groups=3, padding=1), (2, 5, 6, 3)),
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
                groups=2,
                padding_mode="reflect",
            ),
            (2, 5, 6, 4),
        ),
        LayerCase(
            "2d replicate", conv(2, 2, 3, 2, padding=2, padding_mode="replicate"), (2, 3, 4, 2)
        ),
        LayerCase(
            "2d circular", conv(2, 2, 3, 2, padding=2, padding_mode="circular"), (2, 3, 4, 2)
        ),
        LayerCase("2d 3x3 of many", conv(2, 17, 18, 3, padding=((1, 2), 1)), (2, 5, 4, 17)),
        LayerCase("3d 3x3 of many", conv(3, 16, 16, (2, 3, 3), padding=1), (1, 2, 3, 4, 16)),
        LayerCase(
            "3d", conv(3, 2, 4, 2, stride=(1, 2, 1), groups=2, padding="same"), (2, 3, 4, 2, 2)
        ),
    ]


class TestFormula(FormulaContract):
    module = formula
    cases = [
        FormulaCase("1d no bias", {"x": (2, 5, 3), "weight": (2, 3, 4)}),
        FormulaCase(
            "1d lengths",
            {"x": (4, 7, 4), "weight": (3, 2, 6), "bias": (6,)},
            (3, 0, 7, 1),
            {"stride": 2, "padding": ((2, 1),), "groups": 2},
        ),
        FormulaCase(
            "2d reflect",
            {"x": (2, 5, 6, 4), "weight": (1, 3, 2, 6), "bias": (6,)},
            options={
                "stride": (3, 2),
                "dilation": (2, 1),
                "padding": ((1, 2), (2, 0)),
                "padding_mode": "reflect",
                "groups": 2,
            },
        ),
        *(
            FormulaCase(
                f"2d {mode}",
                {"x": (2, 3, 4, 2), "weight": (2, 1, 2, 3), "bias": (3,)},
                options={"padding": 2, "padding_mode": mode},
            )
            for mode in ("replicate", "circular")
        ),
        FormulaCase(
            "3d",
            {"x": (2, 3, 4, 5, 2), "weight": (2, 1, 2, 2, 2), "bias": (2,)},
            options={"stride": (1, 2, 2), "padding": 1},
        ),
    ]


def run_flat(x, state, weight, bias=None, lengths=None, **options):
    """`streaming.run` with y and the state after it as the one output of a formula."""
    xp = namespace(x)
    y, after, cache = streaming.run(x, state, weight, bias, lengths, **options)
    both = [xp.reshape(a, (a.shape[0], -1)) for a in (y, after)]
    return xp.concat(both, axis=1), (y.shape, after.shape, cache)


def run_flat_backward(dboth, cache):
    xp = namespace(dboth)
    shape, state_shape, cache = cache
    cut = shape[1] * shape[2]
    dy, dstate = xp.reshape(dboth[:, :cut], shape), xp.reshape(dboth[:, cut:], state_shape)
    dx, dbefore, grads = streaming.run_backward(dy, dstate, cache)
    return dx, {"state": dbefore, **grads}


class TestStreamingFormula(FormulaContract):
    module = types.SimpleNamespace(forward=run_flat, backward=run_flat_backward)
    cases = [
        FormulaCase("run", {"x": (2, 5, 3), "state": (2, 1, 3), "weight": (2, 3, 4), "bias": (4,)}),
        FormulaCase(
            "lengths",
            {"x": (4, 5, 4), "state": (4, 2, 4), "weight": (2, 2, 6)},
            (3, 0, 5, 1),
            {"dilation": 2, "groups": 2},
        ),
    ]


# Against a definition in loops


def by_loops(x, weight, bias, stride, dilation, pads, mode, groups, dy):
    """y, dx, dweight and dbias, from one multiplication and addition at a time."""
    kernel, (c, o) = weight.shape[:-2], weight.shape[-2:]
    value = {"constant_values": -1} if mode == "zeros" else {}
    places = np.arange(np.prod(x.shape[1:-1])).reshape(x.shape[1:-1])
    places = np.pad(places, pads, NUMPY_MODES[mode], **value)  # which element; -1: none
    flat = x.reshape(len(x), -1, x.shape[-1])
    y, dx, dweight = np.zeros(dy.shape), np.zeros(flat.shape), np.zeros(weight.shape)
    for p in np.ndindex(dy.shape[1:-1]):
        for k in np.ndindex(kernel):
            q = places[tuple(np.array(p) * stride + np.array(k) * dilation)]
            if q < 0:
                continue
            for j, i in itertools.product(range(o), range(c)):
                channel = j // (o // groups) * c + i
                y[(slice(None), *p, j)] += flat[:, q, channel] * weight[(*k, i, j)]
                dx[:, q, channel] += dy[(slice(None), *p, j)] * weight[(*k, i, j)]
                dweight[(*k, i, j)] += np.sum(dy[(slice(None), *p, j)] * flat[:, q, channel])
    dbias = dy.sum(axis=tuple(range(dy.ndim - 1)))
    return {"y": y + bias, "dx": dx.reshape(x.shape), "weight": dweight, "bias": dbias}


@st.composite
def problems(draw):
    """A convolution of any rank and options that is small and fits its input."""
    rank = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(list(NUMPY_MODES)))
    sizes, kernel, stride, dilation, pads = [], [], [], [], []
    for _ in range(rank):
        k, d = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        pair = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        needed = max((k - 1) * d + 1 - sum(pair), 1)
        if mode != "zeros":
            needed = max(needed, max(pair) + 1)
        sizes.append(needed + draw(st.integers(0, 2)))
        kernel.append(k)
        stride.append(draw(st.integers(1, 3)))
        dilation.append(d)
        pads.append(pair)
    groups, c, o = (draw(st.integers(1, 2)) for _ in range(3))
    options = {
        "stride": tuple(stride),
        "dilation": tuple(dilation),
        "padding": tuple(pads),
        "padding_mode": mode,
        "groups": groups,
    }
    return (2, *sizes, groups * c), (groups * c, groups * o, tuple(kernel)), options


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(problems())
def test_any_convolution_is_its_definition(problem):
    shape, sizes, options = problem
    layer, x = conv(len(shape) - 2, *sizes, **options)(np.float64), random("x", shape)
    out = passes(layer, x, {})
    expected = by_loops(
        x,
        layer.weight,
        layer.bias,
        options["stride"],
        options["dilation"],
        options["padding"],
        options["padding_mode"],
        options["groups"],
        random("dy", layer.output_shape(shape)),
    )
    for name, a in out.items():
        assert_close(a, expected[name], np.float64, what=name)


# Against the peers


@pytest.mark.peers
@pytest.mark.parametrize("mode", list(NUMPY_MODES))
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("stride", "dilation", "groups", "pad"),
    [(1, 1, 1, 0), (2, 1, 1, (1, 2)), (1, 2, 2, (2, 2)), (3, 2, 4, (2, 1))],
)
def test_torch(rank, stride, dilation, groups, pad, mode):
    torch = pytest.importorskip("torch")
    pads = ((pad, pad) if pad == 0 else pad,) * rank
    layer = conv(
        rank,
        4,
        8,
        (3, 2, 3)[:rank],
        stride=stride,
        dilation=dilation,
        groups=groups,
        padding=pads,
        padding_mode=mode,
    )(np.float64)
    x = random("x", (2, *(6, 7, 5)[:rank], 4))
    out = passes(layer, x, {})

    arrays = {"dx": x, "weight": layer.weight, "bias": layer.bias}
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}
    flat = [n for pair in reversed(pads) for n in pair]
    padded = torch.nn.functional.pad(
        leaves["dx"].movedim(-1, 1), flat, "constant" if mode == "zeros" else mode
    )
    y = getattr(torch.nn.functional, f"conv{rank}d")(
        padded,
        leaves["weight"].movedim((-1, -2), (0, 1)),
        leaves["bias"],
        stride=stride,
        dilation=dilation,
        groups=groups,
    ).movedim(1, -1)
    assert_close(y.detach(), out["y"], np.float64)
    y.backward(torch.tensor(random("dy", y.shape)))
    for name, leaf in leaves.items():
        assert_close(leaf.grad, out[name], np.float64, what=name)


@pytest.mark.peers
@pytest.mark.parametrize("padding", ["valid", "same", "same_lower"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_jax_and_its_rule_of_same(padding, stride, dilation):
    jax = pytest.importorskip("jax")
    for kernel in ((2, 3), (3, 2)):
        layer = conv(
            2, 2, 4, kernel, stride=stride, dilation=dilation, padding=padding, groups=2, bias=False
        )(np.float64)
        x = random("x", (2, 6, 7, 2))
        with jax.enable_x64(True):
            y = jax.lax.conv_general_dilated(
                x,
                layer.weight,
                (stride, stride),
                padding.upper(),
                rhs_dilation=(dilation, dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=2,
            )
        assert_close(y, layer(x), np.float64)


# Worked examples


def test_the_worked_example():
    image = [
        [260.745, 261.332, 112.27, 262.351],
        [260.302, 208.802, 139.05, 230.709],
        [261.775, 93.73, 166.118, 122.847],
        [259.56, 232.038, 262.351, 228.937],
    ]
    layer = lm.Conv2d(1, 1, 2, dtype=np.float64, rng=0)
    layer.weight = np.reshape([[1, 0], [0, 1]], (2, 2, 1, 1))
    y = layer(np.reshape(image, (1, 4, 4, 1)))
    np.testing.assert_allclose(y[0, 0, :, 0], [469.547, 400.382, 342.979], rtol=1e-14)


def test_a_kernel_of_one_is_a_linear_layer():
    x = random("x", (2, 3, 4, 5))
    layer = conv(2, 5, 6, 1)(np.float64)
    linear = lm.Linear(5, 6, dtype=np.float64)
    linear.assign({"weight": layer.weight[0, 0], "bias": layer.bias})
    assert_close(layer(x), linear(x), np.float64)


# Sequences


def test_sequences_that_are_too_short_give_nothing():
    layer = conv(1, 2, 3, 3)(np.float64)
    x = random("x", (3, 5, 2))
    y, cache = layer.forward(x, lengths=[2, 5, 0])
    assert_same(layer.output_lengths([2, 5, 0]), np.array([0, 3, 0]))
    assert not y[[0, 2]].any()
    dx, _ = layer.backward(np.ones_like(y), cache)
    assert not dx[[0, 2]].any()
    y = layer(x[:, :2], lengths=[2, 1, 0])
    assert y.shape == (3, 0, 3)


def test_an_empty_sequence_has_no_outputs_in_its_padding():
    layer = conv(1, 2, 3, 3, padding=2)(np.float64)
    assert_same(layer.output_lengths([0, 1]), np.array([0, 3]))
    assert not layer(random("x", (2, 4, 2)), lengths=[0, 1])[0].any()
    y, cache = layer.forward(np.zeros((2, 0, 2)))
    assert y.shape == layer.output_shape((2, 0, 2)) == (2, 0, 3)
    dx, grads = layer.backward(y, cache)
    assert dx.shape == (2, 0, 2)
    assert not grads["weight"].any()


@pytest.mark.parametrize("c", [2, 16])
def test_an_image_without_pixels_has_no_outputs_in_its_padding(c):
    layer = lm.Conv2d(c, c, 3, padding=2, rng=0)
    for shape in ((2, 0, 5, c), (2, 5, 0, c), (2, 0, 0, c)):
        y, cache = layer.forward(np.zeros(shape, np.float32), training=True)
        assert y.shape == layer.output_shape(shape)
        assert y.size == 0
        dx, grads = layer.backward(y, cache)
        assert dx.shape == shape
        assert not any(g.any() for g in grads.values())


def test_lengths_of_any_integer_dtype():
    layer = conv(1, 2, 3, 3)(np.float64)
    lengths = np.array([2, 5], np.uint8)
    assert_same(layer.output_lengths(lengths), np.array([0, 3]))


def test_lengths_travel_through_a_model():
    model = lm.Sequential(
        lm.Conv1d(2, 4, 3, stride=2, padding=1, dtype=np.float64),
        lm.MaxPool1d(2),
        lm.Conv1d(4, 3, 3, padding="same", dtype=np.float64),
        lm.GlobalAvgPool(),
        rng=0,
    )
    x = random("x", (3, 12, 2))
    y = model(x, lengths=[12, 0, 7])
    assert_close(y[:1], model(x[:1]), np.float64)
    assert_close(y[2:], model(x[2:, :7]), np.float64)
    assert_same(y[1], np.zeros(3))


# Steps


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_two_windows_are_one_run(cut):
    layer = conv(1, 4, 6, 3, **CAUSAL, groups=2)(np.float64)
    x, state = random("x", (2, 9, 4)), (random("state", (2, 4, 4)), np.array(3))
    y, end, cache = layer.run(x, state)
    dy, dend = random("dy", y.shape), (random("dend", end[0].shape), end[1])
    dx, dstate, grads = layer.run_backward(dy, dend, cache)

    y0, middle, cache0 = layer.run(x[:, :cut], state)
    y1, end1, cache1 = layer.run(x[:, cut:], middle)
    assert_close(np.concatenate([y0, y1], axis=1), y, np.float64)
    assert_same(end1[0], end[0])
    dx1, dmiddle, grads1 = layer.run_backward(dy[:, cut:], dend, cache1)
    dx0, dstate0, grads0 = layer.run_backward(dy[:, :cut], dmiddle, cache0)
    assert_close(np.concatenate([dx0, dx1], axis=1), dx, np.float64)
    assert_close(dstate0[0], dstate[0], np.float64)
    for name in grads:
        assert_close(grads0[name] + grads1[name], grads[name], np.float64, what=name)


def test_two_windows_with_lengths():
    layer = conv(1, 3, 4, 3, padding="causal")(np.float64)
    x, lengths = random("x", (4, 8, 3)), np.array([8, 3, 0, 6])
    x[1, 3:] = x[2] = x[3, 6:] = np.nan
    whole, end, _ = layer.run(x, lengths=lengths)
    y0, state, _ = layer.run(x[:, :5], lengths=np.minimum(lengths, 5))
    y1, state, _ = layer.run(x[:, 5:], state, lengths=np.maximum(lengths - 5, 0))
    assert_close(np.concatenate([y0, y1], axis=1), whole, np.float64)
    assert_same(state[0], end[0])
    for n, length in enumerate(lengths):
        _, alone, _ = layer.run(x[n : n + 1, :length])
        assert_same(past(layer, end)[n : n + 1], past(layer, alone))


def test_run_from_zero_is_forward():
    layer = conv(1, 3, 4, 3, padding="causal")(np.float64)
    x, lengths = random("x", (3, 6, 3)), [6, 0, 2]
    y, cache = layer.forward(x, lengths=lengths)
    y_run, state, cache_run = layer.run(x, lengths=lengths)
    assert_close(y_run, y, np.float64)
    dx, grads = layer.backward(np.ones_like(y), cache)
    dx_run, dstate, grads_run = layer.run_backward(np.ones_like(y), None, cache_run)
    assert_close(dx_run, dx, np.float64)
    assert dstate[0].shape == state[0].shape == (3, 2, 3)
    for name in grads:
        assert_close(grads_run[name], grads[name], np.float64, what=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "options"),
    [
        (3, 4, 3, {"dilation": 2}),
        (1, 1, 2, {}),
        (17, 33, 4, {"bias": False}),
        (5, 65, 1, {}),
        (6, 9, 3, {"groups": 3, "dilation": 3}),
        (20, 20, 3, {"groups": 20}),
        (2, 3, 3, {"dilation": 40}),
        (2, 3, 9, {"dilation": 7}),
    ],
)
def test_steps_have_the_bits_of_run(channels, outputs, kernel, options, dtype):
    layer = lm.Conv1d(channels, outputs, kernel, padding="causal", dtype=dtype, rng=0, **options)
    layer.initialize(1)
    steps = 3 * layer._ring.size // 2 + 4
    x = random("x", (3, steps, channels), dtype)
    y, end, _ = layer.run(x)
    state = layer.initial_state(3)
    for t in range(steps):
        y_t, state = layer.step(x[:, t], state)
        assert_same(y_t, y[:, t], f"step {t}")
    for a, b in zip(state, end, strict=True):
        assert_same(a, b)
    y_more, _, _ = layer.run(x[:, :5], state)
    y_all, _, _ = layer.run(np.concatenate([x, x[:, :5]], axis=1))
    assert_same(y_more, y_all[:, steps:])


@pytest.mark.parametrize("dilation", [1, 4, 30])
def test_no_state_changes(dilation):
    layer = lm.Conv1d(2, 3, 3, padding="causal", dilation=dilation, dtype=np.float64, rng=0)
    x = random("x", (2, 100, 2))
    states, ys = [layer.initial_state(2)], []
    for t in range(100):
        y_t, state = layer.step(x[:, t], states[-1])
        states.append(state)
        ys.append(y_t)
    kept = [[a.copy() for a in state] for state in states]
    for t in (70, 3, 99, 50, 50):  # go on from old states, with another input and with the same
        layer.step(-x[:, t], states[t])
        y_t, after = layer.step(x[:, t], states[t])
        assert_same(y_t, ys[t])
        for a, b in zip(after, states[t + 1], strict=True):
            assert_same(a, b)
    for state, copies in zip(states, kept, strict=True):
        for a, b in zip(state, copies, strict=True):
            assert_same(a, b)


def test_a_state_shares_what_a_step_does_not_replace():
    layer = lm.Conv1d(2, 3, 3, padding="causal", dilation=512)
    state = layer.initial_state(1)
    assert sum(a.nbytes for a in state[:-1]) == 1024 * 2 * 4
    _, after = layer.step(np.ones((1, 2), np.float32), state)
    new = [a for a, b in zip(after[:-1], state[:-1], strict=True) if a is not b]
    assert len(new) == 1
    assert new[0].shape == (1, 32, 2)


def past(layer, state):
    """The inputs that a state holds, oldest first."""
    *blocks, position = state
    return np.roll(np.concatenate(blocks, axis=1), -position, axis=1)


def test_a_model_of_causal_convolutions_steps():
    model = lm.Sequential(
        lm.Conv1d(2, 3, 3, padding="causal"), lm.ReLU(), lm.Conv1d(3, 2, 2, **CAUSAL), rng=0
    )
    x = random("x", (2, 6, 2), np.float32)
    y, state = model(x), model.initial_state(2)
    for t in range(6):
        y_t, state = model.step(x[:, t], state)
        assert_close(y_t, y[:, t], np.float32)


def test_a_state_is_not_a_view_of_x():
    layer = conv(1, 2, 3, 3, padding="causal")(np.float64)
    x = random("x", (1, 4, 2))
    _, state, _ = layer.run(x)
    _, after = layer.step(x[:, 0], state)
    before = [a.copy() for a in (*state, *after)]
    x[:] = 0
    for a, b in zip((*state, *after), before, strict=True):
        assert_same(a, b)


# Sizes


def test_fans_and_flops():
    layer = lm.Conv2d(4, 6, (3, 5), groups=2, init="torch", rng=0)
    assert layer.weight.shape == (3, 5, 2, 6)
    bound = 1 / np.sqrt(3 * 5 * 2)
    assert 0.9 * bound < np.abs(layer.weight).max() <= bound
    assert 0 < np.abs(layer.bias).max() <= bound
    glorot = lm.Conv2d(4, 6, (3, 5), groups=2, rng=0)
    bound = np.sqrt(6 / (3 * 5 * 2 + 3 * 5 * 3))
    assert 0.9 * bound < np.abs(glorot.weight).max() <= bound
    # (8 - 2) x (8 - 4) outputs of 6 channels, each 30 products, 30 sums with the bias
    assert layer.flops((2, 8, 8, 4)) == 2 * 6 * 4 * 6 * (2 * 30 + 1)
    assert lm.Conv2d(4, 6, (3, 5), bias=False).flops((1, 3, 5, 4)) == 6 * 2 * 60


def test_config_builds_it_again():
    layer = lm.Conv2d(4, 6, 3, padding=((1, 2), 3), groups=2, padding_mode="reflect", rng=0)
    assert repr(layer) == ("Conv2d(4, 6, 3, padding=((1, 2), 3), groups=2, padding_mode='reflect')")
    assert repr(lm.Conv2d(**layer.config())) == repr(layer)
    listed = lm.Conv2d(4, 6, [3, 3], padding=[[1, 2], 3], groups=2, padding_mode="reflect", rng=0)
    x = random("x", (1, 5, 5, 4), np.float32)
    assert_same(listed(x), layer(x))


# Errors


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 3, 3), {}, ValueError, r"Conv2d\(0, 3, 3\): in_channels must be at least 1, got 0"),
        ((3, 3, (3, 3, 3)), {}, ValueError, "kernel_size must be an integer or 2 of them"),
        ((3, 3, 0), {}, ValueError, "kernel_size must be at least 1, got 0"),
        ((3, 3, 3), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ((3, 3, 3), {"dilation": (1, 0)}, ValueError, "dilation must be at least 1, got 0"),
        ((3, 4, 3), {"groups": 2}, ValueError, "groups must divide in_channels; 3 is no multiple"),
        ((4, 3, 3), {"groups": 2}, ValueError, "groups must divide out_channels; 3 is no multiple"),
        ((3, 3, 3), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ((3, 3, 3), {"padding": ((0, 1), (0, -1))}, ValueError, "padding must be at least 0"),
        ((3, 3, 3), {"padding": 1.5}, TypeError, "padding must be an integer, got 1.5"),
        (
            (3, 3, 3),
            {"padding": "full"},
            ValueError,
            r"padding must be one of 'valid', 'same', 'same_lower', an integer, or a tuple of 2 "
            r"entries, one an axis, each an integer or \(before, after\); got 'full'",
        ),
        ((3, 3, 3), {"padding": "causal"}, ValueError, "padding must be one of .* got 'causal'"),
        ((3, 3, 3), {"padding": (1, 1, 1)}, ValueError, "padding must be one of .* 2 entries"),
        ((3, 3, 3), {"padding": ((1, 1, 1), 0)}, ValueError, "padding must be an integer or 2"),
        ((3, 3, 3), {"padding_mode": "mirror"}, ValueError, "padding_mode must be one of 'zeros'"),
        ((3, 3, 3), {"bias": None}, ValueError, "bias must be one of True, False; got None"),
        ((3, 3, 3), {"init": "glorot"}, ValueError, "init must be one of"),
        ((3, 3, 3), {"dtype": np.float16}, TypeError, "dtype must be float32 or float64"),
    ],
)
def test_refuses_options(arguments, options, error, message):
    with pytest.raises(error, match=message):
        lm.Conv2d(*arguments, **options)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            lm.Conv2d(3, 4, 3),
            (2, 5, 5, 4),
            r"x has 4 features .*\(shape \(2, 5, 5, 4\)\), expected 3",
        ),
        (lm.Conv2d(3, 4, 3), (2, 5, 3), r"x has 3 axes \(shape \(2, 5, 3\)\), expected 4"),
        (
            lm.Conv2d(3, 4, 3, dilation=2, padding=((0, 0), (0, 1))),
            (2, 5, 3, 3),
            "the window spans 5 elements, x has 3 on axis 2, 4 with padding; use a smaller window",
        ),
        (
            lm.Conv2d(3, 4, 3, padding=3, padding_mode="reflect"),
            (2, 4, 3, 3),
            r"padding \(3, 3\) on axis 2 repeats more than x has there: 3 elements give at most 2",
        ),
        (
            lm.Conv2d(3, 4, 3, padding=4, padding_mode="circular"),
            (2, 4, 3, 3),
            '3 elements give at most 3 by padding_mode="circular"; use less padding',
        ),
        (
            lm.Conv1d(3, 4, 3, padding=1, padding_mode="replicate"),
            (2, 0, 3),
            "0 elements give at most 0",
        ),
    ],
)
def test_refuses_inputs(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=message):
        layer.output_shape(shape)


def test_refuses_dtypes_and_gradients():
    layer = lm.Conv2d(3, 4, 3, rng=0)
    with pytest.raises(TypeError, match="x has dtype float64, expected float32"):
        layer(np.zeros((1, 5, 5, 3)))
    y, cache = layer.forward(np.zeros((1, 5, 5, 3), np.float32))
    with pytest.raises(ValueError, match=r"dy has shape \(1, 3, 2, 4\), expected \(1, 3, 3, 4\)"):
        layer.backward(y[:, :, 1:], cache)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lm.Conv2d(3, 4, 3), (2, 5, 5, 3), "takes no lengths=; x has 2 axes between batch and"),
        (
            lm.Conv1d(3, 4, 3, padding="same", stride=2),
            (2, 5, 3),
            'takes no lengths=; with padding="same" and a stride above 1, the padding depends on',
        ),
        (
            lm.Conv1d(3, 4, 3, padding=1, padding_mode="circular"),
            (2, 5, 3),
            'takes no lengths=; circular padding depends .* use padding_mode="zeros"',
        ),
    ],
)
def test_refuses_lengths(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, np.float32), lengths=[1, 2])
    with pytest.raises(ValueError, match=message):
        layer.output_lengths(np.array([1, 2]))


@pytest.mark.parametrize(
    "options",
    [{"padding": "same"}, {"padding": "causal", "stride": 2}, CAUSAL | {"padding_mode": "reflect"}],
)
def test_refuses_steps(options):
    layer = lm.Conv1d(3, 4, 3, **options)
    assert not layer.stepwise
    for call in (
        lambda: layer.initial_state(2),
        lambda: layer.run(np.zeros((2, 5, 3), np.float32)),
        lambda: layer.step(np.zeros((2, 3), np.float32), ()),
    ):
        with pytest.raises(
            TypeError, match='goes step by step with padding="causal", stride=1 and'
        ):
            call()


@pytest.mark.parametrize("dilation", [1, 5])
def test_refuses_states(dilation):
    layer = lm.Conv1d(3, 4, 3, padding="causal", dilation=dilation, rng=0)
    assert layer.stepwise
    x = np.zeros((2, 5, 3), np.float32)
    good = layer.initial_state(2)
    y, _, cache = layer.run(x)
    shape = re.escape(str(good[0].shape))
    for state, error, message in (
        (x[:, :2], ValueError, f"must be a tuple of {len(good)} arrays, .*; got ndarray"),
        ((x,), ValueError, f"must be a tuple of {len(good)} arrays, .*; got 1 entries"),
        ((x, *good[1:]), ValueError, rf"\[0\] has shape \(2, 5, 3\), expected {shape}"),
        (layer.initial_state(1), ValueError, rf"\[0\] has shape \(1, .*, expected {shape}"),
        ((good[0].astype(float), *good[1:]), TypeError, r"\[0\] has dtype float64, expected"),
        ((*good[:-1], np.array(-1)), ValueError, r"is a position in 0 \.\.\. \d+, got -1"),
        ((*good[:-1], np.array(2 * dilation)), ValueError, r"is a position in 0 \.\.\. \d+, got"),
        ((*good[:-1], np.array(0.0)), TypeError, "a position, an integer .* got dtype float64"),
        ((*good[:-1], np.array([0])), TypeError, r"a position, .* shape \(1,\)"),
    ):
        with pytest.raises(error, match=f"Conv1d.*: .*state.*{message}"):
            layer.run(x, state)
        with pytest.raises(error, match=f"Conv1d.*: .*dstate.*{message}"):
            layer.run_backward(y, state, cache)
        with pytest.raises(error, match=f"Conv1d.*: .*state.*{message}"):
            layer.step(x[:, 0], state)
    with pytest.raises(ValueError, match=r"x has 3 axes .* expected 2"):
        layer.step(x, good)


@pytest.mark.parametrize("padding", [0, 1])
def test_weights_larger_than_the_caches_are_used_by_parts(monkeypatch, padding):
    x = np.random.default_rng(0).standard_normal((5, 9, 9, 24), np.float32)
    layer = lm.Conv2d(24, 72, 3, stride=2, padding=padding, rng=1)
    expected = layer(x)
    forget()
    monkeypatch.setattr(direct, "PACKED", 1)  # a panel at a time
    monkeypatch.setattr(direct, "KEPT", 1)
    monkeypatch.setattr(direct, "BLOCK", 1)
    assert_same(layer(x), expected)
    assert_same(layer.for_inference()(x), expected)
    fixed = kernels.fixed(layer.weight, layer.bias, stride=2)
    assert_same(fixed(x, None, ((padding, padding),) * 2), expected)
    forget()


def test_large_plans_are_few():
    layer = lm.ConvTranspose2d(2, 16, 9, stride=9, rng=0)
    for n in range(1, 8):
        layer(np.zeros((1, n, 1, 2), np.float32))
    plans = [a for a in gc.get_objects() if type(a) is phases.Gradient]
    large = [plan for plan in plans if len(plan.correlations) == 81]
    assert len(large) == phases.FEW


def of_winograd(shape, outputs, taps=(3, 3), **options):
    """x, weight, bias and dy of a convolution by Winograd's products, in double precision."""
    kernel = (2,) * (len(shape) - 4) + taps
    x, weight, bias = (
        random(name, a) for name, a in
        (("x", shape), ("weight", (*kernel, shape[-1], outputs)), ("bias", (outputs,)))
    )  # fmt: skip
    return x, weight, bias, random("dy", formula.forward(x, weight, **options)[0].shape)


def results(module, x, weight, bias, dy, **options):
    y, cache = module.forward(x, weight, bias, **options)
    dx, grads = module.backward(dy, cache)
    return {"y": y, "dx": dx, **grads}


@pytest.mark.parametrize(
    ("shape", "outputs", "taps", "dilation"),
    [
        ((3, 14, 13, 16), 40, (3, 3), 1),
        ((2, 9, 10, 130), 33, (3, 3), 1),
        ((1, 3, 7, 6, 20), 150, (3, 3), 1),
        ((1, 4, 9, 11, 20), 17, (3, 3), (1, 2, 2)),
        ((2, 9, 12, 33), 20, (5, 5), 1),
        ((2, 9, 10, 40), 24, (5, 3), (1, 2)),
    ],
)
def test_products_by_winograd_err_less_than_the_sums_they_stand_for(
    shape, outputs, taps, dilation, monkeypatch
):
    options = {"padding": 1, "dilation": dilation}
    arrays = of_winograd(shape, outputs, taps, **options)
    expected = results(formula, *arrays, **options)
    arrays = [a.astype(np.float32) for a in arrays]
    found = results(kernels, *arrays, **options)
    monkeypatch.setattr(winograd, "fits", lambda *_: False)
    kernels.case_of.cache_clear()
    direct_sums = results(kernels, *arrays, **options)
    kernels.case_of.cache_clear()
    for name in ("y", "dx"):
        errors = [np.linalg.norm(a[name] - expected[name]) for a in (found, direct_sums)]
        assert 0 < errors[0] < errors[1], name
    for name, a in expected.items():
        assert_close(found[name], a, np.float32, what=name)


@pytest.mark.parametrize(
    ("taps", "dilation"), [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((5, 3), (1, 2))]
)
def test_products_by_winograd_are_the_same_however_they_are_cut(taps, dilation, monkeypatch):
    options = {"padding": ((0, 2), (1, 0)), "dilation": dilation}
    arrays = of_winograd((3, 14, 13, 33), 70, taps, **options)
    arrays = [a.astype(np.float32) for a in arrays]
    whole = results(kernels, *arrays, **options)
    fixed = kernels.fixed(*arrays[1:3], dilation=dilation)
    forget()
    for name in ("PACKED", "TILES", "NEAR", "STREAM", "STRIP"):
        monkeypatch.setattr(winograd, name, 1)
    parts = results(kernels, *arrays, **options)
    forget()
    assert_same(parts["y"], whole["y"])
    assert_same(parts["dx"], whole["dx"])
    assert_same(fixed(arrays[0], None, options["padding"]), whole["y"])
    assert_close(parts["weight"], whole["weight"], np.float32)


def test_products_by_winograd_let_what_is_not_finite_reach_its_tile_alone():
    x, weight, *_ = of_winograd((2, 9, 9, 16), 16)
    x[1, 4, 4, 3] = np.inf
    y = kernels.forward(x, weight)[0]
    reached = ~np.isfinite(y).all(axis=-1)
    assert reached[1, 2:5, 2:5].all()
    assert reached.sum() == reached[1, 2:6, 2:6].sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_of_what_stood_in_memory_is_left_in_packed_weights(dtype, monkeypatch):
    # It may be denormal, and some CPUs take a hundred times as long to multiply it.
    for module in (direct, winograd):
        take = module.lasting

        def spoilt(shape, dtype, take=take):
            found = take(shape, dtype)
            found[...] = np.nan
            return found

        monkeypatch.setattr(module, "lasting", spoilt)
    weight = random("weight", (1, 3, 3, 16, 2 * lanes(np.dtype(dtype)) - 1), dtype)
    for pack in (direct.pack, winograd.pack):
        assert np.isfinite(pack(weight).panels).all()


def test_packed_weights_keep_nothing_that_was_worked_in():
    lane = lanes(np.dtype(np.float32))
    panels = winograd.pack(np.ones((1, 3, 3, 64, lane - 1), np.float32)).panels
    assert panels.size == 16 * 64 * lane
    assert panels.base.nbytes <= panels.nbytes + 64


def test_a_stride_beyond_the_end_of_x():
    layer = lm.Conv1d(4, 3, 3, stride=10**5, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32)
    y, cache = layer.forward(x, training=True)
    dx, grads = layer.backward(y, cache)
    with lm.formulas():
        expected, cache = layer.forward(x, training=True)
        expected_dx, expected_grads = layer.backward(y, cache)
    assert_close(y, expected, np.float32)
    assert_close(dx, expected_dx, np.float32)
    assert_close(grads["weight"], expected_grads["weight"], np.float32)
