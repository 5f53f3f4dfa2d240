import itertools
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
from lamina.parts import pooling

POOLS = {
    "max": (lm.MaxPool1d, lm.MaxPool2d, lm.MaxPool3d),
    "avg": (lm.AvgPool1d, lm.AvgPool2d, lm.AvgPool3d),
}
LENGTHS = (3, 0, 8, 6)


def both(name, rank, shape, lengths=None, **options):
    return [
        LayerCase(f"{kind} {name}", lambda d, pool=pools[rank - 1]: pool(**options), shape, lengths)
        for kind, pools in POOLS.items()
    ]


class TestLayer(LayerContract):
    cases = [
        *both("1d", 1, (2, 7, 3), pool_size=2),
        *both("1d causal", 1, (2, 7, 3), pool_size=3, stride=2, padding="causal"),
        *both("1d lengths", 1, (4, 8, 3), LENGTHS, pool_size=3, stride=2),
        *both("1d lengths same", 1, (4, 8, 3), LENGTHS, pool_size=2, stride=1, padding="same"),
        *both("1d lengths pad", 1, (4, 8, 3), LENGTHS, pool_size=3, padding=((1, 2),)),
        *both("2d", 2, (2, 4, 6, 3), pool_size=2),
        *both("2d same", 2, (2, 5, 6, 3), pool_size=(2, 3), stride=2, padding="same"),
        *both("2d pad", 2, (2, 5, 6, 3), pool_size=3, stride=(1, 4), padding=((2, 1), 0)),
        *both("2d one of each", 2, (1, 1, 1, 1), pool_size=1),
        *both("3d", 3, (2, 3, 4, 3, 2), pool_size=(1, 2, 3), padding=(0, 1, 1)),
        LayerCase("global max", lambda d: lm.GlobalMaxPool(), (2, 3, 4, 5)),
        LayerCase("global avg", lambda d: lm.GlobalAvgPool(), (2, 3, 4, 5)),
        LayerCase("global max lengths", lambda d: lm.GlobalMaxPool(), (4, 8, 3), LENGTHS),
        LayerCase("global avg lengths", lambda d: lm.GlobalAvgPool(), (4, 8, 3), LENGTHS),
        LayerCase("global avg long", lambda d: lm.GlobalAvgPool(), (4, 60, 1), (60, 13, 0, 33)),
    ]


def as_module(forward, backward):
    """A formula without parameters as the contract calls it."""
    return types.SimpleNamespace(
        forward=forward, backward=lambda dy, cache: (backward(dy, cache), {})
    )


WINDOWED = [
    FormulaCase(
        "2d",
        {"x": (2, 5, 4, 3)},
        options={"pool_size": (2, 3), "stride": (2, 1), "padding": ((1, 0), (1, 2))},
    ),
    FormulaCase(
        "lengths",
        {"x": (4, 8, 3)},
        LENGTHS,
        {"pool_size": (3,), "stride": (2,), "padding": ((1, 1),)},
    ),
]
GLOBAL = [
    FormulaCase("volume", {"x": (2, 3, 4, 2, 3)}),
    FormulaCase("lengths", {"x": (4, 8, 3)}, LENGTHS),
]


class TestMaxPoolFormula(FormulaContract):
    module = as_module(pooling.max_pool, pooling.max_pool_backward)
    cases = WINDOWED


class TestAvgPoolFormula(FormulaContract):
    module = as_module(pooling.avg_pool, pooling.avg_pool_backward)
    cases = WINDOWED


class TestGlobalMaxFormula(FormulaContract):
    module = as_module(pooling.global_max, pooling.global_max_backward)
    cases = GLOBAL


class TestGlobalAvgFormula(FormulaContract):
    module = as_module(pooling.global_avg, pooling.global_avg_backward)
    cases = GLOBAL


# Against a definition in loops


def by_loops(kind, x, size, stride, pads, outputs, dy):
    """y and dx, from one window at a time."""
    y, dx = np.zeros((len(x), *outputs, x.shape[-1])), np.zeros(x.shape)
    for n, c in itertools.product(range(len(x)), range(x.shape[-1])):
        for p in np.ndindex(outputs):
            starts = [q * s - before for q, s, (before, _) in zip(p, stride, pads, strict=True)]
            window = [
                (n, *place, c)
                for place in itertools.product(
                    *(range(a, a + k) for a, k in zip(starts, size, strict=True))
                )
                if all(0 <= q < end for q, end in zip(place, x.shape[1:-1], strict=True))
            ]
            values = np.array([x[place] for place in window])
            if kind == "max":
                y[(n, *p, c)] = np.max(values)
                dx[window[np.argmax(values)]] += dy[(n, *p, c)]
            else:
                y[(n, *p, c)] = np.mean(values)
                for place in window:
                    dx[place] += dy[(n, *p, c)] / len(window)
    return {"y": y, "dx": dx}


@st.composite
def problems(draw):
    """A pooling of any rank that is small and fits its input."""
    rank = draw(st.integers(1, 3))
    sizes, window, stride, pads = [], [], [], []
    for _ in range(rank):
        k = draw(st.integers(1, 3))
        pair = draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)))
        sizes.append(max(k - sum(pair), 1) + draw(st.integers(0, 3)))
        window.append(k)
        stride.append(draw(st.integers(1, 4)))
        pads.append(pair)
    return tuple(sizes), tuple(window), tuple(stride), tuple(pads)


@pytest.mark.parametrize("kind", list(POOLS))
@settings(derandomize=True, database=None, deadline=None, max_examples=40)
@given(problems())
def test_any_pooling_is_its_definition(kind, problem):
    sizes, window, stride, pads = problem
    layer = POOLS[kind][len(sizes) - 1](window, stride, pads)
    x = random("x", (2, *sizes, 2)).round(0)  # with many equal values
    out = passes(layer, x, {})
    y_shape = layer.output_shape(x.shape)
    expected = by_loops(kind, x, window, stride, pads, y_shape[1:-1], random("dy", y_shape))
    for name, a in out.items():
        assert_close(a, expected[name], np.float64, what=name)


# Against the peers


@pytest.mark.peers
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", list(POOLS))
@pytest.mark.parametrize(("size", "stride", "pad"), [(2, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_torch(kind, rank, size, stride, pad):
    torch = pytest.importorskip("torch")
    x = random("x", (2, *(6, 7, 5)[:rank], 3))
    out = passes(POOLS[kind][rank - 1](size, stride, pad), x, {})
    leaf = torch.tensor(x, requires_grad=True)
    function = getattr(torch.nn.functional, f"{kind}_pool{rank}d")
    options = {"count_include_pad": False} if kind == "avg" else {}
    y = function(leaf.movedim(-1, 1), size, stride, pad, **options).movedim(1, -1)
    assert_close(y.detach(), out["y"], np.float64)
    y.backward(torch.tensor(random("dy", y.shape)))
    assert_close(leaf.grad, out["dx"], np.float64)


@pytest.mark.peers
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_jax_and_its_rule_of_same(stride):
    jax = pytest.importorskip("jax")
    x = random("x", (2, 6, 7, 3))
    with jax.enable_x64(True):
        y = jax.lax.reduce_window(
            x, -np.inf, jax.lax.max, (1, 2, 3, 1), (1, stride, stride, 1), "SAME"
        )
    assert_close(lm.MaxPool2d((2, 3), stride, "same")(x), y, np.float64)


# Equal values, NaN, infinities


def gradient(layer, x, **options):
    y, cache = layer.forward(x, **options)
    return layer.backward(np.ones_like(y), cache)[0]


@pytest.mark.parametrize("layer", [lm.MaxPool1d(4), lm.GlobalMaxPool()])
@pytest.mark.parametrize(
    ("values", "y", "dx"),
    [
        ([1, 3, 3, 2], 3, [0, 1, 0, 0]),
        ([5, 5, 5, 5], 5, [1, 0, 0, 0]),
        ([1, np.nan, 9, np.nan], np.nan, [0, 1, 0, 0]),
        ([-np.inf] * 4, -np.inf, [1, 0, 0, 0]),
        ([-np.inf, 1, np.inf, np.inf], np.inf, [0, 0, 1, 0]),
        ([-0.0, 0.0, -1, -1], 0, [1, 0, 0, 0]),
    ],
)
def test_the_first_maximum_takes_the_gradient(layer, values, y, dx):
    x = np.array(values, float).reshape(1, 4, 1)
    np.testing.assert_array_equal(layer(x).ravel(), [y])
    assert_same(gradient(layer, x).ravel(), np.array(dx, float))


def test_padding_is_never_the_maximum():
    x = np.array([-np.inf, -3.0, -2, -1]).reshape(1, 4, 1)
    layer = lm.MaxPool1d(3, 2, padding=((2, 1),))
    np.testing.assert_array_equal(layer(x).ravel(), [-np.inf, -2, -1])
    assert_same(gradient(layer, x).ravel(), np.array([1.0, 0, 1, 1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lm.MaxPool2d(3, 1), (2, 9, 11, 17)),
        (lm.MaxPool2d(2), (2, 8, 8, 64)),
        (lm.MaxPool1d(2), (3, 10, 5)),
        (lm.GlobalMaxPool(), (2, 5, 5, 100)),
    ],
    ids=str,
)
def test_inference_knows_nan_and_infinity(layer, shape, dtype):
    x = random("x", shape, dtype)
    x.flat[::77], x.flat[3::31], x.flat[5::31] = np.nan, np.inf, -np.inf
    y, _ = layer.forward(x)
    assert np.isnan(y).any()
    assert not np.isnan(y).all()
    for found in (layer(x), lm.Sequential(layer).for_inference()(x)):
        assert_same(found, y)


def test_nan_and_infinity_stay_in_their_windows():
    x = np.array([1.0, np.nan, 3, 5, np.inf, 1]).reshape(1, 6, 1)
    np.testing.assert_array_equal(lm.AvgPool1d(2)(x).ravel(), [np.nan, 4, np.inf])
    np.testing.assert_array_equal(lm.MaxPool1d(2)(x).ravel(), [np.nan, 5, np.inf])
    np.testing.assert_array_equal(lm.GlobalAvgPool()(x).ravel(), [np.nan])


def test_padding_is_not_counted_in_the_mean():
    x = np.full((2, 5, 6, 1), 7.0)
    assert_same(lm.AvgPool2d(3, 2, padding=2)(x), np.full((2, 4, 4, 1), 7.0))
    y = lm.AvgPool1d(3, 1, padding=1)(np.full((2, 5, 1), 7.0), lengths=[5, 2])
    assert_same(y[:, :, 0], np.array([[7.0] * 5, [7, 7, 0, 0, 0]]))


# Sequences


@pytest.mark.parametrize("kind", list(POOLS))
def test_sequences_that_are_too_short_give_nothing(kind):
    layer, x = POOLS[kind][0](3, 1), random("x", (3, 5, 2))
    y = layer(x, lengths=[2, 5, 0])
    assert not y[[0, 2]].any()
    assert_same(layer.output_lengths([2, 5, 0]), np.array([0, 3, 0]))
    assert not gradient(layer, x, lengths=[2, 5, 0])[[0, 2]].any()
    assert layer(x[:, :2], lengths=[2, 1, 0]).shape == (3, 0, 2)


@pytest.mark.parametrize("layer", [lm.GlobalMaxPool(), lm.GlobalAvgPool()])
def test_of_nothing_the_output_is_zero(layer):
    for shape, options in [((2, 0, 3), {}), ((2, 0, 3), {"lengths": [0, 0]}), ((2, 4, 0, 3), {})]:
        x = np.zeros(shape, np.float32)
        assert_same(layer(x, **options), np.zeros((2, 3), np.float32))
        assert_same(gradient(layer, x, **options), x)
    assert layer.output_lengths(np.array([1])) is None


# Errors


@pytest.mark.parametrize("layer", [lm.MaxPool2d, lm.AvgPool2d])
def test_refuses_options(layer):
    name = layer.__name__
    with pytest.raises(ValueError, match=rf"{name}\(0\): pool_size must be at least 1, got 0"):
        layer(0)
    with pytest.raises(ValueError, match="pool_size must be an integer or 2 of them"):
        layer((1, 2, 3))
    with pytest.raises(TypeError, match=r"stride must be an integer, got 1\.5"):
        layer(2, 1.5)
    with pytest.raises(ValueError, match=r"padding must be one of 'valid', .* got 'causal'"):
        layer(2, padding="causal")
    with pytest.raises(
        ValueError,
        match=r"padding \(0, 2\) leaves windows of 2 without any element of x; it must be below 2",
    ):
        layer(2, padding=((0, 0), (0, 2)))


def test_refuses_inputs():
    layer = lm.MaxPool2d(3)
    with pytest.raises(ValueError, match=r"x has 3 axes \(shape \(2, 5, 3\)\), expected 4"):
        layer(np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match=r"x has 0 axes \(shape \(\)\), expected 4"):
        layer(np.zeros(()))
    with pytest.raises(ValueError, match="the window spans 3 elements, x has 2 on axis 2"):
        layer(np.zeros((2, 5, 2, 3)))
    with pytest.raises(TypeError, match="x has dtype int64, expected float32 or float64"):
        layer(np.zeros((2, 5, 5, 3), int))
    y, cache = layer.forward(np.zeros((2, 3, 3, 4)))
    with pytest.raises(ValueError, match=r"dy has shape \(2, 1, 1, 3\), expected \(2, 1, 1, 4\)"):
        layer.backward(y[..., 1:], cache)
    with pytest.raises(TypeError, match="dy has dtype float32, expected float64"):
        layer.backward(y.astype(np.float32), cache)
    for layer in (lm.GlobalMaxPool(), lm.GlobalAvgPool()):
        with pytest.raises(ValueError, match=r"x has shape \(2, 3\), expected \(N, ..., C\)"):
            layer(np.zeros((2, 3)))


def test_refuses_lengths():
    with pytest.raises(ValueError, match="takes no lengths=; x has 2 axes between batch and"):
        lm.MaxPool2d(2)(np.zeros((2, 4, 4, 3)), lengths=[1, 2])
    with pytest.raises(ValueError, match='takes no lengths=; with padding="same_lower" and a'):
        lm.AvgPool1d(2, padding="same_lower").output_lengths(np.array([1, 2]))
    with pytest.raises(ValueError, match=r"takes no lengths=; x has shape \(2, 4, 4, 3\), not"):
        lm.GlobalAvgPool()(np.zeros((2, 4, 4, 3)), lengths=[1, 2])


def test_pools_do_not_step():
    layer = lm.MaxPool1d(2, 1, "causal")
    with pytest.raises(TypeError, match="cannot go step by step"):
        layer.initial_state(2)


def test_flops():
    assert lm.AvgPool2d((2, 3)).flops((2, 4, 6, 5)) == 2 * 2 * 2 * 5 * 6
    assert lm.GlobalAvgPool().flops((2, 4, 6, 5)) == 2 * 4 * 6 * 5
    assert lm.MaxPool2d(2).flops((2, 4, 6, 5)) == 0
