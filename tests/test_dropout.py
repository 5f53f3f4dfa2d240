import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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
    random,
)
from lamina.dropout import formula
from lamina.dropout import layer as module


def build(rate=0.4, **options):
    return lambda dtype: lm.Dropout(rate, rng=1, **options)


class TestLayer(LayerContract):
    cases = [
        LayerCase("two axes", build(), (4, 5)),
        LayerCase("one axis", build(), (6,)),
        LayerCase("images", build(), (3, 2, 3, 5)),
        LayerCase("sequences", build(), (3, 4, 5)),
        LayerCase("classic", build(mode="classic"), (4, 5)),
        LayerCase("inference", build(), (4, 5), training=False),
        LayerCase("classic inference", build(mode="classic"), (4, 3, 5), training=False),
        LayerCase("classic, lengths", build(mode="classic"), (3, 4, 5), (3, 0, 4), training=False),
        LayerCase("always", build(always=True), (3, 4, 5), training=False),
        LayerCase("alpha", build(mode="alpha"), (4, 5)),
        LayerCase("alpha inference", build(mode="alpha"), (4, 5), training=False),
        LayerCase("alpha, lengths", build(mode="alpha"), (3, 4, 5), (3, 0, 4)),
        LayerCase("alpha, shared", build(mode="alpha", shared_axes=(1,)), (3, 4, 5), (3, 0, 4)),
        LayerCase("rate 0", build(0), (4, 5)),
        LayerCase("rate 1", build(1), (4, 5)),
        LayerCase("lengths", build(), (3, 4, 5), (3, 0, 4)),
        LayerCase("shared steps", build(shared_axes=(1,)), (3, 4, 5), (3, 0, 4)),
        LayerCase("shared features", build(shared_axes=(-1,)), (3, 4, 5), (3, 0, 4)),
        LayerCase("shared pixels", build(shared_axes=(1, 2)), (3, 4, 4, 5)),
        LayerCase("shared batch", build(shared_axes=(0,)), (3, 4, 5), (3, 0, 4)),
        LayerCase("all shared", build(shared_axes=(0, 1)), (3, 4)),
    ]


class TestFormula(FormulaContract):
    module = formula
    keep = random("keep", (3, 4, 5)) > 0
    cases = [
        FormulaCase("inverted", {"x": (3, 4, 5), "keep": keep}, options={"rate": 0.3}),
        FormulaCase("classic", {"x": (3, 4, 5), "keep": keep}, options={"mode": "classic"}),
        FormulaCase("alpha", {"x": (3, 4, 5), "keep": keep}, (3, 0, 4), {"mode": "alpha"}),
        FormulaCase("inference", {"x": (3, 4, 5)}, options={"rate": 0.3}),
        FormulaCase("classic inference", {"x": (3, 4, 5)}, (3, 0, 4), {"mode": "classic"}),
        FormulaCase("shared", {"x": (3, 4, 5), "keep": keep[:, :1]}, options={"rate": 0.3}),
        FormulaCase("lengths", {"x": (3, 4, 5), "keep": keep}, (3, 0, 4)),
        FormulaCase("rate 1", {"x": (3, 4, 5), "keep": keep & False}, options={"rate": 1.0}),
    ]


# The stream


def scalar_philox(counter, key, rounds=10):
    """Philox4x32 in Python integers, from the paper: a second opinion."""
    L0, R0, L1, R1 = counter[1], counter[0], counter[3], counter[2]
    for r in range(rounds):
        k0 = (key[0] + r * 0x9E3779B9) % 2**32
        k1 = (key[1] + r * 0xBB67AE85) % 2**32
        high0, low0 = divmod(R0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(R1 * 0xCD9E8D57, 2**32)
        R0, L0, R1, L1 = high1 ^ k0 ^ L0, low1, high0 ^ k1 ^ L1, low0
    return R0, L0, R1, L1


ONES, PI = 2**32 - 1, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
KNOWN = [  # kat_vectors of Random123
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def philox(counters, key):
    words = formula.philox(tuple(np.asarray(counters, np.uint64).T), key)
    return np.stack(words, axis=-1)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_of_philox(counter, key, words):
    assert philox([counter], key).tolist() == [list(words)]
    assert scalar_philox(counter, key) == words


def test_philox_against_python_integers():
    rng = np.random.default_rng(0)
    for _ in range(20):
        key = tuple(int(k) for k in rng.integers(2**32, size=2))
        counters = rng.integers(2**32, size=(25, 4))
        expected = [scalar_philox([int(c) for c in counter], key) for counter in counters]
        assert_same(philox(counters, key), np.array(expected, np.uint64))


def specified(shape, rate, key, call, ids):
    """The mask as the docstring of Dropout specifies it, unit by unit; no axes shared."""
    keep = np.empty((shape[0], int(np.prod(shape[1:]))), bool)
    for n, sample in enumerate(ids):
        for unit in range(keep.shape[1]):
            counter = unit // 4, sample % 2**32, sample // 2**32, call % 2**32
            keep[n, unit] = scalar_philox(counter, key)[unit % 4] >= round(rate * 2**32)
    return keep.reshape(shape)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_the_mask_is_as_specified(rate):
    layer = lm.Dropout(rate, rng=3)
    layer.calls = 2**32 + 5
    key, ids = [int(k) for k in layer.key], [7, 0, 2**32 + 1, 2**63 + 2**40]
    x = np.ones((4, 3, 5))
    for call in (2**32 + 5, 2**32 + 6):
        _, cache = layer.forward(x, training=True, sample_ids=np.array(ids, np.uint64))
        assert_same(layer.mask(cache), specified(x.shape, rate, key, call, ids))
    _, cache = layer.forward(x, training=True)
    assert_same(layer.mask(cache), specified(x.shape, rate, key, 2**32 + 7, range(4)))


def test_the_threshold_to_the_bit():
    layer = lm.Dropout(rng=3)
    draw = scalar_philox((0, 0, 0, 0), [int(k) for k in layer.key])[0]
    for above, kept in [(0, True), (0.25, True), (0.75, False), (1, False)]:
        mask = formula.keep_mask((1, 1), (draw + above) / 2**32, layer.key, 0)
        assert bool(mask) is kept, above


def test_version_1_of_the_stream_is_what_it_was():
    layer = lm.Dropout(0.3)
    layer.key = np.array([0x01234567, 0x89ABCDEF], np.uint32)
    layer.calls = 2
    _, cache = layer.forward(np.ones((4, 2, 5)), training=True, sample_ids=[0, 1, 2**32, 9])
    rows = layer.mask(cache).reshape(4, 10).astype(int)
    assert ["".join(map(str, row)) for row in rows] == [
        "1111010010",
        "1111101000",
        "1111111110",
        "0010001111",
    ]


@pytest.mark.peers
def test_the_mask_in_strict_array_api():
    xp = pytest.importorskip("array_api_strict")
    other, home = xp.Device("device1"), xp.Device("CPU_DEVICE")
    key, ids = np.array([1, 2], np.uint32), np.array([4, 0, 2**33])
    there = xp.asarray(key, device=other)
    for given in (ids, None):
        given_there = None if given is None else xp.asarray(given, device=other)
        strict = formula.keep_mask((3, 7), 0.4, there, 5, (), given_there)
        assert strict.device == other
        expected = formula.keep_mask((3, 7), 0.4, key, 5, (), given)
        assert_same(np.asarray(strict.to_device(home)), expected)


def draw(rate=0.3, shape=(200, 500), seed=0, **options):
    layer = lm.Dropout(rate, rng=seed)
    return layer.mask(layer.forward(np.ones(shape), training=True, **options)[1])


def correlation(a, b):
    """In units of its standard deviation under independence."""
    return np.corrcoef(a.ravel(), b.ravel())[0, 1] * np.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.9])
def test_statistics_of_the_stream(rate):
    keep = draw(rate)
    sigma = np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(np.mean(~keep) - rate) < 5 * sigma
    layer = lm.Dropout(rate, rng=0)
    first, second = (
        layer.mask(layer.forward(np.ones(keep.shape), training=True)[1]) for _ in range(2)
    )
    assert_same(first, keep)
    others = {
        "next unit": (keep[:, 1:], keep[:, :-1]),
        "next word": (keep[:, 4:], keep[:, :-4]),
        "next sample": (keep[1:], keep[:-1]),
        "next call": (first, second),
        "another seed": (keep, draw(rate, seed=1)),
        "transposed": (keep[:, :200], keep[:, :200].T),
    }
    for name, (a, b) in others.items():
        assert abs(correlation(a, b)) < 5, name


def test_seeds():
    assert_same(draw(seed=5), draw(seed=5))
    assert_same(lm.Dropout(rng=5).key, lm.Dropout(rng=np.random.default_rng(5)).key)
    assert np.any(lm.Dropout().key != lm.Dropout().key)
    layer = lm.Dropout(rng=5)
    layer.forward(np.ones((2, 2)), training=True)
    layer.initialize(6)
    assert layer.calls == 0
    assert_same(layer.key, lm.Dropout(rng=6).key)
    assert (layer.key.dtype, layer.key.shape) == (np.uint32, (2,))
    assert (layer.calls.dtype, layer.calls.shape) == (np.int64, ())


def test_a_sample_is_dropped_alike_in_any_batch():
    whole = draw(shape=(8, 3, 5))
    ids = np.array([6, 1, 4])
    assert_same(draw(shape=(3, 3, 5), sample_ids=ids), whole[ids])
    assert_same(draw(shape=(8, 3, 5), sample_ids=list(range(8))), whole)
    model = lm.Sequential(lm.Linear(5, 5, rng=0), lm.Dropout(rng=0))
    x = random("x", (8, 5), np.float32)
    again = copy.deepcopy(model)
    y, _ = model.forward(x, training=True)
    y_some, _ = again.forward(x[ids], training=True, sample_ids=ids)
    assert_close(y_some, y[ids], np.float32)
    model(x[ids], sample_ids=ids)  # at inference they make no difference


def test_the_mask_of_a_step_does_not_depend_on_the_length_of_the_batch():
    assert_same(draw(shape=(3, 4, 5)), draw(shape=(3, 9, 5))[:, :4])


@pytest.mark.parametrize("mode", ["inverted", "classic", "alpha"])
@pytest.mark.parametrize("shared_axes", [(), (1,), (2,)])
def test_a_padded_batch_is_each_sequence_alone(mode, shared_axes):
    x, lengths, ids = random("x", (4, 6, 3)), [2, 0, 6, 5], np.array([9, 3, 5, 0])
    layer = lm.Dropout(0.4, mode=mode, shared_axes=shared_axes, rng=2)
    y, cache = copy.deepcopy(layer).forward(x, lengths=lengths, training=True, sample_ids=ids)
    dx, _ = layer.backward(np.ones_like(y), cache)
    for n, length in enumerate(lengths):
        alone, cache = copy.deepcopy(layer).forward(
            x[n : n + 1, :length], training=True, sample_ids=ids[n : n + 1]
        )
        assert_same(alone[0], y[n, :length])
        assert_same(layer.backward(np.ones_like(alone), cache)[0][0], dx[n, :length])
        assert not y[n, length:].any()
        assert not dx[n, length:].any()


# The layer


def test_shared_axes():
    shape = (6, 4, 3, 5)
    for axes in [(1,), (1, 2), (3,), (0,), (0, 3), (-1,), (-2, 1), (1, -3), (0, 1, 2, 3)]:
        layer = lm.Dropout(0.5, shared_axes=axes, rng=0)
        y, cache = layer.forward(np.ones(shape), training=True)
        mask = layer.mask(cache)
        same = {axis % 4 for axis in axes}
        assert mask.shape == tuple(1 if a in same else n for a, n in enumerate(shape))
        assert_same(y, np.broadcast_to(mask, shape) * 2.0)
        if len(same) < 4:
            assert 0 < mask.mean() < 1
    # Units are counted over the axes that are not shared, so the shared ones leave no trace.
    assert_same(draw(shape=(6, 5))[:, None, None], shared_mask((1, 2), shape))
    assert_same(draw(shape=(1, 3, 5))[:, None], shared_mask((0, 1), shape))


def shared_mask(axes, shape, **options):
    layer = lm.Dropout(0.3, shared_axes=axes, rng=0)
    return layer.mask(layer.forward(np.ones(shape), training=True, **options)[1])


def test_a_shared_batch_takes_no_notice_of_sample_ids():
    assert_same(shared_mask((0,), (3, 9), sample_ids=[4, 5, 6]), shared_mask((0,), (3, 9)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_modes(dtype):
    x, rate = random("x", (50, 40), dtype), 0.2
    inverted, classic = lm.Dropout(rate, rng=0), lm.Dropout(rate, mode="classic", rng=0)
    y, cache = inverted.forward(x, training=True)
    keep = inverted.mask(cache)
    assert_same(y, np.where(keep, x * (1 / (1 - rate)), 0).astype(dtype))
    assert_same(inverted(x), x)
    y, _ = classic.forward(x, training=True)
    assert_same(y, np.where(keep, x, 0))
    assert_same(classic(x), (x * 0.8).astype(dtype))
    assert inverted.mask(inverted.forward(x)[1]) is None


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_inference_gives_the_mean_of_training(mode):
    layer, x = lm.Dropout(0.2, mode=mode, rng=0), np.ones((500, 400))
    y, _ = layer.forward(x, training=True)
    np.testing.assert_allclose(y.mean(), layer(x).mean(), rtol=5 * np.sqrt(0.25 / x.size))


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_alpha_keeps_what_selu_brings(rate):
    x = lm.SELU()(random("x", (500, 400)))
    layer = lm.Dropout(rate, mode="alpha", rng=0)
    y, cache = layer.forward(x, training=True)
    assert abs(y.mean() - x.mean()) < 5 / np.sqrt(x.size)
    assert abs(y.var() - x.var()) < 5 * np.sqrt(np.var((y - y.mean()) ** 2) / x.size)
    keep, (s, t, _) = layer.mask(cache), formula.constants(rate, "alpha", True)
    assert_same(keep, draw(rate, x.shape))  # of the same stream
    assert len(np.unique(y[~keep])) == 1
    np.testing.assert_allclose(y[~keep], s * (1 - rate) * lm.SELU()(np.array(-1e3)), rtol=1e-14)
    np.testing.assert_allclose(y[keep], s * x[keep] + t, rtol=0, atol=1e-14)
    assert layer(x) is x


@pytest.mark.peers
@pytest.mark.parametrize("shared_axes", [(), (1, 2)])
def test_pytorch_has_the_constants_of_alpha(shared_axes):
    torch = pytest.importorskip("torch")
    x = np.ones((8, 6, 6, 8))
    layer = lm.Dropout(0.3, mode="alpha", shared_axes=shared_axes, rng=0)
    y, _ = layer.forward(x, training=True)
    theirs = torch.nn.FeatureAlphaDropout(0.3) if shared_axes else torch.nn.AlphaDropout(0.3)
    expected = theirs(torch.tensor(x).movedim(-1, 1)).numpy()
    np.testing.assert_allclose(np.unique(y), np.unique(expected), rtol=1e-6)


@pytest.mark.parametrize("mode", ["inverted", "classic", "alpha"])
def test_the_ends_of_the_rate(mode):
    x = np.array([[1.0, np.inf, np.nan, -2.0]])
    nothing, all_ = lm.Dropout(0, mode=mode, rng=0), lm.Dropout(1, mode=mode, rng=0)
    assert_same(nothing.forward(x, training=True)[0], x)
    assert_same(nothing(x), x)
    y, cache = all_.forward(x, training=True)
    assert_same(y, np.zeros((1, 4)))
    assert_same(all_.backward(x, cache)[0], np.zeros((1, 4)))
    finite = np.array([[1.0, -2.0]])
    assert_same(all_(finite), np.zeros((1, 2)) if mode == "classic" else finite)


def test_dropped_units_are_gone_whatever_they_are():
    bad = np.array([np.nan, np.inf, -np.inf, np.finfo(np.float32).max], np.float32)
    x = np.tile(bad, (20, 5))
    layer = lm.Dropout(0.5, mode="classic", rng=0)
    y, cache = layer.forward(x, training=True)
    keep = layer.mask(cache)
    assert_same(y, np.where(keep, x, np.float32(0)))
    assert_same(layer.backward(x, cache)[0], y)


def test_a_mask_from_outside():
    layer, x = lm.Dropout(0.5, rng=0), random("x", (4, 3, 5))
    y, cache = layer.forward(x, training=True)
    mask = layer.mask(cache)
    again, cache = layer.forward(x, training=True, mask=mask)
    assert_same(again, y)
    assert layer.calls == 1
    assert_same(layer.mask(cache), mask)
    column = np.array([True, False, True, True, False])
    y, cache = layer.forward(x, training=True, mask=column)
    assert_same(y, np.where(column, 2 * x, 0))
    assert_same(layer.backward(np.ones_like(y), cache)[0], np.where(column, 2 * np.ones_like(x), 0))
    assert_same(layer.forward(x, mask=column, training=True)[0], y)
    always = lm.Dropout(0.5, always=True, rng=0)
    assert_same(always(x, mask=column), y)
    assert always.calls == 0


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((4, 5)), TypeError, "mask must be boolean, true where .*, got dtype float64"),
        (
            np.ma.masked_array(np.ones((4, 5), bool)),
            TypeError,
            "mask is a masked array, whose mask",
        ),
        (np.ones((2, 5), bool), ValueError, r"mask has shape \(2, 5\), .* that of x, \(4, 5\)"),
        (np.ones((1, 4, 5), bool), ValueError, r"mask has shape \(1, 4, 5\), which does not"),
        (np.ones((4, 0), bool), ValueError, r"mask has shape \(4, 0\), which does not"),
    ],
)
def test_refuses_masks(mask, error, message):
    layer = lm.Dropout(0.5, rng=0)
    with pytest.raises(error, match=message):
        layer.forward(np.ones((4, 5)), training=True, mask=mask)
    assert layer.calls == 0


def test_refuses_a_mask_where_it_has_no_meaning():
    x, mask = np.ones((4, 5)), np.ones((4, 5), bool)
    with pytest.raises(ValueError, match=r"mask= is for a pass that drops.* training=True"):
        lm.Dropout(0.5)(x, mask=mask)
    with pytest.raises(ValueError, match="mask keeps units, but at rate 1 none is kept"):
        lm.Dropout(1).forward(x, training=True, mask=mask)
    y, _ = lm.Dropout(1, mode="classic").forward(x, training=True, mask=mask)
    assert_same(y, x)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 2], ValueError, r"sample_ids has shape \(2,\), expected \(3,\), one id a sample of x"),
        ([1.0, 2.0, 3.0], TypeError, "sample_ids must be integers, got dtype float64"),
        ([True, False, True], TypeError, "sample_ids must be integers, got dtype bool"),
        ([0, -1, 2], ValueError, "sample_ids must be at least 0, got -1"),
    ],
)
def test_refuses_sample_ids(ids, error, message):
    layer = lm.Dropout(0.5, rng=0)
    with pytest.raises(error, match=message):
        layer.forward(np.ones((3, 5)), training=True, sample_ids=ids)
    assert layer.calls == 0


def test_sample_ids_of_an_empty_batch():
    y, _ = lm.Dropout(0.5).forward(np.ones((0, 5)), training=True, sample_ids=[])
    assert y.shape == (0, 5)


def test_calls_count_the_passes_that_drew_a_mask():
    x = np.ones((2, 8))
    layer = lm.Dropout(0.5, rng=0)
    calls = layer.calls
    layer(x)
    assert layer.calls == 0
    one, two = (layer.forward(x, training=True)[0] for _ in range(2))
    assert np.any(one != two)
    assert layer.calls == 2
    assert layer.calls is calls  # written in place
    always = lm.Dropout(0.5, always=True, rng=0)
    assert_same(always(x), one)
    assert_same(always(x), two)
    assert always.calls == 2


def test_always_from_many_threads():
    layer, x = lm.Dropout(0.5, always=True, rng=0), np.ones((1, 64))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change places in the midst of everything
    try:
        with ThreadPoolExecutor(8) as pool:
            ys = list(pool.map(lambda _: layer(x), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert layer.calls == 400
    assert len({y.tobytes() for y in ys}) == 400


def test_steps():
    x_t = random("x", (3, 5))
    assert_same(lm.Dropout(0.2, shared_axes=(1, 2)).step(x_t, ())[0], x_t)
    assert_same(lm.Dropout(0.2, mode="classic").step(x_t, ())[0], x_t * 0.8)
    always = lm.Dropout(0.2, always=True)
    assert not always.stepwise
    for refuses in (lambda: always.step(x_t, ()), lambda: always.initial_state(3)):
        with pytest.raises(
            TypeError,
            match=r"Dropout\(rate=0.2, always=True\): cannot go step by step, since the mask of "
            "a step depends on its place in the sequence; use the whole sequence",
        ):
            refuses()
    assert always.calls == 0


def test_has_no_parameters_and_no_dtype():
    layer = lm.Dropout(0.5)
    assert layer.params == {}
    assert layer.dtype is None
    assert_same(layer.astype(np.float64).key, layer.key)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": -0.1}, ValueError, r"Dropout\(rate=-0.1\): rate must lie in \[0, 1\], got -0.1"),
        ({"rate": 1.5}, ValueError, r"rate must lie in \[0, 1\], got 1.5"),
        ({"rate": float("nan")}, ValueError, "rate must be finite, got nan"),
        ({"rate": "half"}, TypeError, "rate must be a number, got 'half'"),
        ({"mode": "beta"}, ValueError, "mode must be one of 'inverted', .*'alpha'; got 'beta'"),
        ({"always": None}, ValueError, "always must be one of True, False; got None"),
        ({"shared_axes": 1}, TypeError, r"shared_axes must be a tuple of axes, as \(1,\), got 1"),
        ({"shared_axes": (1.5,)}, TypeError, "an axis of shared_axes must be an integer, got 1.5"),
        ({"rng": "seed"}, TypeError, "rng: an int seed must be an integer, got 'seed'"),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=message):
        lm.Dropout(**options)


def test_refuses_inputs():
    layer = lm.Dropout(0.5)
    with pytest.raises(TypeError, match="x has dtype int64, expected float32 or float64; cast it"):
        layer(np.ones((2, 3), int))
    y, cache = layer.forward(np.ones((2, 3)), training=True)
    with pytest.raises(ValueError, match=r"dy has shape \(1, 3\), expected \(2, 3\)"):
        layer.backward(y[1:], cache)
    with pytest.raises(ValueError, match=r"x has no axes, expected \(N, ...\), batch first"):
        layer.forward(np.array(1.0), training=True)
    with pytest.raises(ValueError, match=r"lengths must lie in 0 ... 3"):
        layer(np.ones((2, 3, 4)), lengths=[4, 0])
    for axis in (2, -3):
        shared = lm.Dropout(0.5, shared_axes=(0, axis))
        with pytest.raises(
            ValueError,
            match=rf"shared axis {axis} is not an axis of x \(shape \(2, 3\)\), "
            "whose axes are -2 ... 1",
        ):
            shared.forward(np.ones((2, 3)), training=True)
        assert shared.calls == 0


def test_a_pass_may_come_between_the_steps_of_another():
    """As a signal's handler does: it waits for nothing that its own thread holds."""
    dropout, x = lm.Dropout(0.5, rng=0), np.ones((2, 3), np.float32)
    with module._counting:
        dropout.forward(x, training=True)
    assert dropout.calls == 1


FORK = """
import os, threading, time
import numpy as np, lamina as lm
from lamina.dropout import layer

held, done = threading.Event(), threading.Event()

def hold():
    with layer._counting:
        held.set()
        done.wait()

dropout, x = lm.Dropout(0.5, rng=0), np.ones((2, 3), np.float32)
holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    dropout.forward(x, training=True)
    os._exit(0)
end = time.monotonic() + 30
found, status = 0, None
while not found and time.monotonic() < end:
    found, status = os.waitpid(child, os.WNOHANG)
    time.sleep(0.01)
if not found:
    os.kill(child, 9)
done.set()
assert status == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_leaves_no_pass_waiting():
    subprocess.run([sys.executable, "-c", FORK], check=True)
