import contextlib
import copy
import itertools

import numpy as np
import pytest

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
from lamina import kernels
from lamina.batchnorm import formula


def build(dtype, channels=5, **options):
    """A layer whose gamma, beta and running values are unequal."""
    layer = lm.BatchNorm(channels, dtype=dtype, **options)
    for name in layer.params:
        layer.assign({name: random(name, (channels,))})
    if options.get("running", True):
        layer.running_mean = random("mean", (channels,))
        layer.running_var = 0.5 + random("var", (channels,)) ** 2
    return layer


def batch(name, layer, shape, **options):
    """A batch whose statistics are used: its samples are one computation."""
    return LayerCase(name, layer, shape, together=True, **options)


class TestLayer(LayerContract):
    cases = [
        batch("two axes", build, (4, 5)),
        batch("sequences", build, (3, 4, 5)),
        batch("images", build, (2, 3, 2, 5)),
        batch("one channel", lambda d: build(d, 1), (4, 1)),
        batch("two values", build, (2, 5)),
        batch("long", build, (50, 7, 5)),
        batch("no gamma", lambda d: build(d, gamma=False), (4, 5)),
        batch("no beta", lambda d: build(d, beta=False), (4, 5)),
        batch("neither", lambda d: build(d, gamma=False, beta=False), (4, 5)),
        batch("cumulative", lambda d: build(d, momentum=None), (4, 5)),
        batch("no running values", lambda d: build(d, running=False), (3, 4, 5)),
        batch("no update", lambda d: build(d, update=False), (4, 5)),
        batch("lengths", build, (4, 6, 5), lengths=(3, 0, 6, 1)),
        batch("lengths of images", build, (3, 4, 2, 5), lengths=(3, 0, 4)),
        LayerCase("frozen", lambda d: build(d, frozen=True), (4, 5)),
        LayerCase("frozen, lengths", lambda d: build(d, frozen=True), (3, 4, 5), (3, 0, 4)),
        LayerCase("inference", build, (4, 3, 5), training=False),
        LayerCase("inference, lengths", build, (3, 4, 5), (3, 0, 4), training=False),
    ]


class TestFormula(FormulaContract):
    module = formula
    affine = {"gamma": (5,), "beta": (5,)}
    given = {"mean": (5,), "var": np.array([0.3, 1.0, 2.0, 0.7, 4.0])}
    cases = [
        FormulaCase("two axes", {"x": (4, 5), **affine}),
        FormulaCase("images", {"x": (2, 3, 2, 5), **affine}, options={"eps": 0.1}),
        FormulaCase("many", {"x": (50, 7, 5), **affine}),
        FormulaCase("no gamma", {"x": (4, 5), "beta": (5,)}),
        FormulaCase("no beta", {"x": (4, 5), "gamma": (5,)}),
        FormulaCase("neither", {"x": (4, 5)}),
        FormulaCase("lengths", {"x": (3, 4, 5), **affine}, (2, 0, 4)),
        FormulaCase("given statistics", {"x": (4, 5), **affine, **given}),
        FormulaCase("given statistics, lengths", {"x": (3, 4, 5), **affine, **given}, (2, 0, 4)),
    ]


def channels_first(a):
    return np.moveaxis(a, -1, 1)


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (3, 4, 2, 3)])
@pytest.mark.parametrize("momentum", [0.9, 0.5, None])
def test_pytorch_agrees(shape, momentum):
    torch = pytest.importorskip("torch")
    kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    theirs = kind(3, momentum=None if momentum is None else 1 - momentum, dtype=torch.float64)
    ours = lm.BatchNorm(3, momentum=momentum, dtype=np.float64)
    for name, parameter in (("gamma", theirs.weight), ("beta", theirs.bias)):
        ours.assign({name: random(name, (3,))})
        parameter.data = torch.tensor(random(name, (3,)))

    for training in (True, True, True, False):
        x, dy = random(f"x {ours.batches}", shape), random("dy", shape)
        y, cache = ours.forward(x, training=training)
        dx, grads = ours.backward(dy, cache)
        theirs.train(training)
        theirs.zero_grad()
        x_t = torch.tensor(channels_first(x), requires_grad=True)
        y_t = theirs(x_t)
        y_t.backward(torch.tensor(channels_first(dy)))
        assert_close(channels_first(y), y_t.detach(), np.float64)
        assert_close(channels_first(dx), x_t.grad, np.float64)
        assert_close(grads["gamma"], theirs.weight.grad, np.float64)
        assert_close(grads["beta"], theirs.bias.grad, np.float64)
        assert_close(ours.running_mean, theirs.running_mean, np.float64)
        assert_close(ours.running_var, theirs.running_var, np.float64)
        assert ours.batches == theirs.num_batches_tracked


def test_a_batch_is_normalised():
    x = 3 + 2 * random("x", (50, 4, 6))
    y, _ = lm.BatchNorm(6, dtype=np.float64).forward(x, training=True)
    np.testing.assert_allclose(y.mean(axis=(0, 1)), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=(0, 1)), 1, rtol=1e-4)


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_values(unbiased):
    layer = lm.BatchNorm(3, momentum=0.75, unbiased=unbiased, dtype=np.float64)
    x = random("x", (5, 2, 3))
    mean, var = layer.running_mean, layer.running_var
    layer.forward(x, training=True)
    np.testing.assert_allclose(mean, 0.25 * x.mean(axis=(0, 1)))
    np.testing.assert_allclose(var, 0.75 + 0.25 * x.var(axis=(0, 1), ddof=int(unbiased)))
    assert mean is layer.running_mean  # written in place
    assert var is layer.running_var
    assert (layer.batches, layer.batches.dtype, layer.batches.shape) == (1, np.int64, ())


def test_running_values_of_sequences_leave_padding_out():
    with pytest.warns(UserWarning, match="momentum"):
        layer = lm.BatchNorm(3, momentum=0, dtype=np.float64)
    x = random("x", (3, 4, 3))
    layer.forward(x, lengths=[2, 0, 4], training=True)
    real = np.concatenate([x[0, :2], x[2]])
    np.testing.assert_allclose(layer.running_mean, real.mean(axis=0))
    np.testing.assert_allclose(layer.running_var, real.var(axis=0, ddof=1))


def test_cumulative_values_are_the_mean_over_batches():
    layer = lm.BatchNorm(3, momentum=None, dtype=np.float64)
    xs = [random(f"x{i}", (4, 3)) for i in range(5)]
    for x in xs:
        layer.forward(x, training=True)
    np.testing.assert_allclose(layer.running_mean, np.mean([x.mean(axis=0) for x in xs], axis=0))
    np.testing.assert_allclose(
        layer.running_var, np.mean([x.var(axis=0, ddof=1) for x in xs], axis=0)
    )


@pytest.mark.parametrize(
    ("options", "training"), [({}, False), ({"frozen": True}, True), ({"update": False}, True)]
)
def test_running_values_that_stay(options, training):
    layer = build(np.float32, **options)
    before = copy.deepcopy(layer.buffers)
    layer.forward(random("x", (4, 5), np.float32), training=training)
    for name, a in layer.buffers.items():
        assert_same(a, before[name], name)


def test_which_statistics_are_used():
    x = random("x", (4, 5))
    of_batch = passes(build(np.float64), x, {"training": True})
    running = passes(build(np.float64), x, {"training": False})
    assert not np.allclose(of_batch["y"], running["y"])
    for options, training, expected in [
        ({"frozen": True}, True, running),
        ({"frozen": True}, False, running),
        ({"update": False}, True, of_batch),
        ({"update": False}, False, running),
        ({"running": False}, True, of_batch),
        ({"running": False}, False, of_batch),
    ]:
        for name, a in passes(build(np.float64, **options), x, {"training": training}).items():
            assert_same(a, expected[name], name)


def test_without_running_values():
    layer = build(np.float32, running=False)
    assert layer.buffers == {}
    assert layer.running_mean is None
    assert layer(np.ones((0, 5), np.float32)).shape == (0, 5)
    assert_same(layer(np.full((1, 5), 7, np.float32))[0], layer.beta)  # one value is its own mean
    empty = layer(np.full((2, 3, 5), np.nan, np.float32), lengths=[0, 0])
    assert_same(empty, np.zeros((2, 3, 5), np.float32))
    with pytest.raises(TypeError, match="cannot go step by step"):
        layer.step(np.ones((2, 5), np.float32), ())


def test_gradients_of_an_empty_batch_at_inference():
    layer = build(np.float32, running=False)
    y, cache = layer.forward(np.ones((0, 5), np.float32))
    dx, grads = layer.backward(y, cache)
    assert dx.shape == (0, 5)
    assert_same(grads["gamma"], np.zeros(5, np.float32))


def test_a_vector_without_a_batch_at_inference():
    layer, x = build(np.float64), random("x", (5,))
    y, cache = layer.forward(x)
    assert_same(y, layer(x[None])[0])
    dx, grads = layer.backward(np.ones(5), cache)
    assert dx.shape == grads["gamma"].shape == (5,)


@pytest.mark.parametrize("n", [2, 30, 100_000])
def test_accuracy_where_the_mean_is_large_beside_the_deviation(n):
    """Nothing is lost beyond the rounding of x itself, which is the data here."""
    rng = np.random.default_rng(n)
    x = (1e4 + 1e-2 * rng.standard_normal((n, 3))).astype(np.float32)
    exact = x.astype(np.float64)
    layer = lm.BatchNorm(3)
    y, cache = layer.forward(x, training=True)
    expected = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + layer.eps)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    mean, var, _, _ = formula.statistics(x)
    assert np.all(np.abs(mean - exact.mean(axis=0)) <= 0.51 * np.spacing(np.float32(1e4)))
    np.testing.assert_allclose(var, exact.var(axis=0), rtol=1e-6)
    dy = rng.standard_normal((n, 3))
    wide = lm.BatchNorm(3, dtype=np.float64)
    expected, _ = wide.backward(dy, wide.forward(exact, training=True)[1])
    dx, _ = layer.backward(dy.astype(np.float32), cache)
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("value", [0.1, 1e4 / 3, -1e30, 1e-30])
def test_a_constant_channel(value):
    x = np.full((1001, 2), value, np.float32)
    mean, var, _, _ = formula.statistics(x)
    assert np.all(var >= 0)
    np.testing.assert_allclose(mean, x[0], rtol=1e-6)
    y, _ = lm.BatchNorm(2).forward(x, training=True)
    assert np.all(np.isfinite(y))
    if abs(value) < 1e6:
        np.testing.assert_allclose(y, 0, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variance_is_never_negative(dtype):
    rng = np.random.default_rng(0)
    for scale in 10.0 ** np.arange(-8, 9):
        x = (rng.standard_normal((9, 40)) + scale * rng.standard_normal(40)).astype(dtype)
        assert np.all(formula.statistics(x)[1] >= 0)


def test_a_training_batch_of_one_value_a_channel():
    for shape, lengths, found in [
        ((1, 3), None, 1),
        ((3,), None, 1),
        ((1, 1, 1, 3), None, 1),
        ((0, 3), None, 0),
        ((2, 0, 3), None, 0),
        ((2, 4, 3), [1, 0], 1),
        ((2, 4, 3), [0, 0], 0),
    ]:
        for options in ({}, {"update": False}, {"running": False}):
            layer = lm.BatchNorm(3, **options)
            before = copy.deepcopy(layer.buffers)
            with pytest.raises(
                ValueError,
                match=r"a training batch needs 2 values a channel or more.* has "
                rf"{found}; take a larger batch.*frozen=True",
            ):
                layer.forward(np.ones(shape, np.float32), lengths=lengths, training=True)
            for name, a in layer.buffers.items():
                assert_same(a, before[name], name)
    frozen = build(np.float32, 3, frozen=True)
    assert np.all(np.isfinite(frozen.forward(np.ones((1, 3), np.float32), training=True)[0]))
    two_of_one_image = lm.BatchNorm(3).forward(np.ones((1, 2, 1, 3), np.float32), training=True)
    assert np.all(np.isfinite(two_of_one_image[0]))


def test_momentum_that_looks_like_pytorchs():
    with pytest.warns(
        UserWarning,
        match=r"BatchNorm\(3, momentum=0.1\): momentum is the share of the old running value .*"
        r"PyTorch's momentum is 1 - ours, so its 0.1 is momentum=0.9 here",
    ):
        lm.BatchNorm(3, momentum=0.1)
    lm.BatchNorm(3, momentum=0.5)  # a warning would be an error here


def test_initialize():
    layer = build(np.float32, init="normal")
    layer.forward(random("x", (4, 5), np.float32), training=True)
    layer.initialize(3)
    assert_same(layer.gamma, lm.BatchNorm(5, init="normal", rng=3).gamma)
    assert_same(layer.beta, np.zeros(5, np.float32))
    assert_same(layer.running_mean, np.zeros(5, np.float32))
    assert_same(layer.running_var, np.ones(5, np.float32))
    assert layer.batches == 0
    assert_same(lm.BatchNorm(5, init="torch").gamma, np.ones(5, np.float32))
    assert lm.BatchNorm(5, gamma=False).gamma is None
    assert list(lm.BatchNorm(5, beta=False).params) == ["gamma"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 0}, ValueError, r"BatchNorm\(0\): features must be at least 1, got 0"),
        ({"eps": 0}, ValueError, r"eps must lie in \[1.17549e-38, inf\], got 0"),
        ({"eps": "small"}, TypeError, "eps must be a number, got 'small'"),
        ({"momentum": 1.5}, ValueError, r"momentum must lie in \[0, 1\], got 1.5"),
        ({"momentum": "0.9"}, TypeError, "momentum must be a number, got '0.9'"),
        ({"gamma": None}, ValueError, "gamma must be one of True, False; got None"),
        ({"beta": "no"}, ValueError, "beta must be one of True, False; got 'no'"),
        ({"running": None}, ValueError, "running must be one of True, False; got None"),
        ({"unbiased": None}, ValueError, "unbiased must be one of True, False; got None"),
        ({"frozen": None}, ValueError, "frozen must be one of True, False; got None"),
        ({"update": None}, ValueError, "update must be one of True, False; got None"),
        ({"init": "one"}, ValueError, "init must be one of 'glorot_uniform', .*; got 'one'"),
        ({"dtype": int}, TypeError, "dtype must be float32 or float64, got <class 'int'>"),
        (
            {"frozen": True, "running": False},
            ValueError,
            "frozen=True uses running values, and running=False keeps none; leave one of them out",
        ),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=message):
        lm.BatchNorm(**{"features": 3, **options})


def test_refuses_inputs():
    layer = lm.BatchNorm(4)
    with pytest.raises(
        ValueError,
        match=r"BatchNorm\(4\): x has 3 features in its last axis \(shape \(2, 3\)\), expected 4",
    ):
        layer(np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match=r"x has dtype float64, expected float32; cast it"):
        layer(np.zeros((2, 4)))
    y, cache = layer.forward(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"dy has shape \(1, 4\), expected \(2, 4\)"):
        layer.backward(y[1:], cache)
    with pytest.raises(ValueError, match=r"lengths must lie in 0 ... 3"):
        layer(np.zeros((2, 3, 4), np.float32), lengths=[4, 0])


# A batch in parts


CUTS = [0, 7, 7, 40, 41, 90]


def in_parts(layer, x, dy):
    """y, dx and the sums of the gradients of the parts that CUTS makes of a batch."""
    xs, dys = ([a[i:j] for i, j in itertools.pairwise(CUTS)] for a in (x, dy))
    stats = formula.merge(layer.stats(part) for part in xs)
    passes = [layer.forward(part, stats=stats, training=True) for part in xs]
    sums = formula.merge(
        layer.sums(part, cache) for part, (_, cache) in zip(dys, passes, strict=True)
    )
    back = [
        layer.backward(part, cache, sums=sums) for part, (_, cache) in zip(dys, passes, strict=True)
    ]
    grads = {name: sum(grads[name] for _, grads in back) for name in layer.params}
    return {
        "y": np.concatenate([y for y, _ in passes]),
        "dx": np.concatenate([dx for dx, _ in back]),
        **grads,
    }, stats


@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [contextlib.nullcontext, kernels.formulas])
def test_a_batch_in_parts_is_the_whole(how, dtype, channels):
    x = (100 + random("x", (90, channels))).astype(dtype)
    dy = random("dy", x.shape, dtype)
    layer = build(dtype, channels)
    with how():
        whole = build(dtype, channels)
        y, cache = whole.forward(x, training=True)
        dx, grads = whole.backward(dy, cache)
        found, stats = in_parts(layer, x, dy)
    for name, expected in {"y": y, "dx": dx, **grads}.items():
        assert_close(found[name], expected, dtype, terms=100, what=name)
    assert stats.count == 90
    np.testing.assert_array_equal(layer.batches, 0)
    layer.follow(stats)
    assert_close(layer.running_mean, whole.running_mean, dtype, terms=10)
    assert_close(layer.running_var, whole.running_var, dtype, terms=10)
    assert layer.batches == 1


def test_parts_with_lengths():
    layer, x = build(np.float64), random("x", (4, 6, 5))
    lengths = np.array([3, 0, 6, 1])
    whole, parts = (
        layer.stats(x, lengths=lengths),
        formula.merge(layer.stats(x[n : n + 1], lengths=lengths[n : n + 1]) for n in range(4)),
    )
    assert whole.count == parts.count == 10
    assert_close(parts.var, whole.var, np.float64)
    y, _ = layer.forward(x, lengths=lengths, training=True)
    y_1, _ = layer.forward(x[:1], lengths=[3], stats=parts, training=True)
    assert_close(y_1, y[:1], np.float64)


def test_parts_make_one_by_index_alone():
    """Whoever adds them, in the order of a binary tree."""
    parts = [formula.stats(random(f"part {i}", (9, 4), np.float32)) for i in range(5)]
    a, b, c, d, e = parts
    by_hand = ((a + b) + (c + d)) + e
    found = formula.merge(parts)
    for name in ("mean", "rest", "squares"):
        assert_same(getattr(found, name), getattr(by_hand, name))


def test_statistics_of_parts_where_the_mean_is_large_beside_the_deviation():
    rng = np.random.default_rng(0)
    x = (1e4 + 1e-2 * rng.standard_normal((4000, 3))).astype(np.float32)
    exact = x.astype(np.float64)
    layer = lm.BatchNorm(3)
    with_nothing = formula.merge([layer.stats(x[:0]), layer.stats(x[:1]), layer.stats(x[1:])])
    assert np.all(with_nothing.squares >= 0)
    mean = with_nothing.mean.astype(np.float64) + with_nothing.rest
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=0, atol=1e-8)
    np.testing.assert_allclose(with_nothing.var, exact.var(axis=0), rtol=1e-6)


def test_flops_are_of_a_shape_that_fits():
    assert lm.BatchNorm(4).flops((2, 5, 4)) == 4 * 2 * 5 * 4
    assert lm.BatchNorm(4, gamma=False).flops((2, 4)) == 3 * 2 * 4
    with pytest.raises(ValueError, match=r"BatchNorm\(4\): x has 5 features .*, expected 4"):
        lm.BatchNorm(4).flops((2, 5))


def test_refuses_statistics():
    layer, x = build(np.float32), random("x", (4, 5), np.float32)
    stats = layer.stats(x)
    with pytest.raises(ValueError, match="stats are those of a training batch; pass training="):
        layer.forward(x, stats=stats)
    frozen = build(np.float32, frozen=True)
    with pytest.raises(ValueError, match="on a layer that is not frozen"):
        frozen.forward(x, stats=stats, training=True)
    with pytest.raises(ValueError, match="on a layer that is not frozen"):
        frozen.follow(stats)
    assert frozen.batches == 0
    wrong = r"stats.mean has shape \(3,\) and dtype float32, expected \(5,\) and float32, as this"
    with pytest.raises(ValueError, match=wrong):
        layer.follow(lm.BatchNorm(3).stats(x[:, :3]))
    short = formula.Statistics(stats.mean, stats.rest[:1], stats.squares, stats.count)
    with pytest.raises(ValueError, match=r"stats.rest has shape \(1,\)"):
        layer.follow(short)
    for few in (0, 1):
        found = layer.stats(x[:few])
        wrong = f"needs 2 values a channel or more, .*; the batch of these stats has {few}; take"
        with pytest.raises(ValueError, match=wrong):
            layer.forward(x[:1], stats=found, training=True)
        with pytest.raises(ValueError, match=wrong):
            layer.follow(found)
    assert layer.batches == 0
    with pytest.raises(TypeError, match="stats must be what the method `stats` gives, got tuple"):
        layer.forward(x, stats=(stats.mean, stats.var), training=True)
    y, cache = layer.forward(x, stats=stats, training=True)
    with pytest.raises(TypeError, match="sums must be what the method `sums` gives, got list"):
        layer.backward(y, cache, sums=[layer.sums(y, cache)])
    one = lm.BatchNorm(1)
    y_1, cache_1 = one.forward(x[:, :1], training=True)
    wrong = r"BatchNorm\(5.*\): sums.beta has shape \(1,\) and dtype float32, expected \(5,\) and f"
    with pytest.raises(ValueError, match=wrong):
        layer.backward(y, cache, sums=one.sums(y_1, cache_1))
    wide = formula.Sums(np.zeros(5, np.float32), np.zeros(5))
    with pytest.raises(ValueError, match=r"sums.gamma has shape .* and dtype float64, exp"):
        layer.backward(y, cache, sums=wide)


@pytest.mark.parametrize("how", [contextlib.nullcontext, kernels.formulas])
def test_sums_do_not_reach_through_running_values(how):
    layer, x = build(np.float64, frozen=True), random("x", (6, 5))
    with how():
        y, cache = layer.forward(x, training=True)
        sums = layer.sums(y, cache)
        expected, _ = layer.backward(y, cache)
        assert_same(layer.backward(y, cache, sums=sums)[0], expected)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "batches"])
def test_read_only_running_values_are_never_written(name):
    layer, x = lm.BatchNorm(4), random("x", (6, 4), np.float32)
    for _ in range(3):
        layer.forward(x, training=True)  # planned by now
    stats = layer.stats(x)
    before = copy.deepcopy(layer.buffers)
    layer.buffers[name].flags.writeable = False
    wrong = rf"BatchNorm\(4\): {name} is read-only, .*; put a copy in its place, layer.buffers\["
    for _ in range(3):
        with pytest.raises(ValueError, match=wrong):
            layer.forward(x, training=True)
    with pytest.raises(ValueError, match=wrong):
        layer.follow(stats)
    for key, a in before.items():
        assert_same(layer.buffers[key], a, key)
    layer(x)
    layer.buffers[name] = layer.buffers[name].copy()
    layer.forward(x, training=True)
    assert layer.batches == 4


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("cut", [(0, 10, 30, 40), (0, 10, 20, 30, 40)])
def test_recalibrate(unbiased, cut):
    cut = [slice(*ends) for ends in itertools.pairwise(cut)]
    options = {"unbiased": unbiased, "dtype": np.float64}
    model = lm.Sequential(
        lm.BatchNorm(5, **options),
        lm.Dropout(0.5, rng=0),
        lm.Sequential(lm.Linear(5, 3, dtype=np.float64, rng=0), lm.BatchNorm(3, **options)),
        lm.BatchNorm(3, frozen=True, dtype=np.float64),
    )
    x = 3 + random("x", (40, 5))
    before = copy.deepcopy(model.buffers)
    y = np.zeros(40)
    lm.recalibrate(model, [(x[at], y[at]) for at in cut])
    assert_close(model[0].running_mean, x.mean(axis=0), np.float64)
    assert_close(model[0].running_var, x.var(axis=0, ddof=int(unbiased)), np.float64)
    assert model[0].batches == model[2][1].batches == len(cut)
    assert not np.allclose(model[2][1].running_mean, 0)
    for name in ("1.calls", "3.running_mean", "3.running_var", "3.batches"):
        assert_same(model.buffers[name], before[name], name)
    in_parts = copy.deepcopy(model.buffers)
    lm.recalibrate(model, (x, y), batch_size=10)
    assert_close(model[0].running_var, in_parts["0.running_var"], np.float64)
    with pytest.raises(ValueError, match="recalibrate: the data has no batches"):
        lm.recalibrate(model, [])
    for data in ([x[at] for at in cut], x):  # targets are not missed
        lm.recalibrate(model, data, batch_size=10)
        assert_close(model[0].running_var, in_parts["0.running_var"], np.float64)
    with pytest.raises(TypeError, match=r"recalibrate: data must be \(x, y\)"):
        lm.recalibrate(model, 3)
    with pytest.raises(TypeError, match=r"recalibrate: .* got Split; give it one of its parts"):
        lm.recalibrate(model, lm.data.Split((x, y), (x, y)))
    with pytest.raises(TypeError, match=r"recalibrate: .* got dict"):
        lm.recalibrate(model, {"x": x})


def test_recalibrate_far_from_zero():
    """A batch's mean is rounded in float32; what that leaves out must not be lost."""
    layer = lm.BatchNorm(1)
    x = (1e6 + 0.25 * random("x", (8192, 1))).astype(np.float32)
    lm.recalibrate(layer, x, batch_size=16)
    assert_close(layer.running_var, x.astype(np.float64).var(axis=0, ddof=1), np.float32)


def test_recalibrate_writes_all_or_nothing():
    model = lm.Sequential(lm.BatchNorm(3, dtype=np.float64), lm.BatchNorm(3, dtype=np.float64))
    model[1].running_var.flags.writeable = False
    with pytest.raises(ValueError, match="running_var is read-only"):
        lm.recalibrate(model, 3 + random("x", (20, 3)))
    assert (model[0].running_mean == 0).all()
    assert model[0].batches == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_recalibrate_refuses_what_is_not_finite(bad):
    model = lm.Sequential(lm.BatchNorm(3), lm.Linear(3, 2, rng=0), lm.BatchNorm(2))
    x = random("x", (20, 3)).astype(np.float32)
    lm.recalibrate(model, x)
    before = copy.deepcopy(model.buffers)
    model[1].weight[0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"reaches layer 2, BatchNorm\(2\), has .* NaN"):
        lm.recalibrate(model, x, batch_size=5)
    x[7, 1] = bad
    with pytest.raises(FloatingPointError, match=r"reaches layer 0, BatchNorm\(3\), has"):
        lm.recalibrate(model, x, batch_size=5)
    with pytest.raises(FloatingPointError, match=r"reaches BatchNorm\(3\) has"):
        lm.recalibrate(model[0], x, batch_size=5)
    for name, a in before.items():
        assert_same(model.buffers[name], a, name)


def test_recalibrate_with_lengths():
    layer, x = lm.BatchNorm(5, dtype=np.float64), random("x", (4, 6, 5))
    y = np.array([0, 1, 2, 3])  # which would do for lengths
    lm.recalibrate(layer, [((x, [3, 0, 6, 1]), y), ((x, [0, 2, 0, 0]), y)])
    real = np.concatenate([x[0, :3], x[2], x[3, :1], x[1, :2]])
    assert_close(layer.running_mean, real.mean(axis=0), np.float64)
    assert_close(layer.running_var, real.var(axis=0, ddof=1), np.float64)
    lm.recalibrate(layer, (x, y))
    assert_close(layer.running_mean, x.mean(axis=(0, 1)), np.float64)


def test_buffers_go_back_where_a_later_layer_fails():
    """What the page says to do by hand; `fit` does as much."""
    model = lm.Sequential(lm.BatchNorm(3), lm.Dropout(0.5), lm.Linear(4, 2), rng=0)
    kept = {name: a.copy() for name, a in model.buffers.items()}
    with pytest.raises(ValueError, match="expected 4"):
        model.forward(np.full((5, 3), 2, np.float32), training=True)
    assert model[0].running_mean.all()
    assert model[0].batches == model[1].buffers["calls"] == 1
    model.assign(kept)
    assert all(np.array_equal(a, kept[name]) for name, a in model.buffers.items())
