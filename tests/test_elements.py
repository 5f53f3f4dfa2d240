"""The kernels that go element by element against their formulas; their bits against themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
from contract import EPS, assert_same
from elements import KINDS, LAYOUTS, BatchNorm, Dropout
from lamina.batchnorm import kernel as batchnorm_kernel
from lamina.dropout import kernel as dropout_kernel
from lamina.dropout.formula import Draw
from lamina.engine import elements as each
from lamina.engine import memory, threads
from lamina.engine.memory import aligned
from lamina.parts import activations_kernel, pooling_kernel, rows_kernel, sums_kernel

DTYPES = ["float32", "float64"]
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


@by_dtype
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129, 300])
def test_batchnorm_of_any_channels(channels, dtype):
    for rows in (1, 2, 3, 31, 63, 64, 65, 129, 300):
        BatchNorm((rows, channels), dtype).check()
        BatchNorm((rows, channels), dtype, given=True, affine=False).check()


@by_dtype
def test_batchnorm_of_many_rows(dtype):
    for channels in (1, 3, 64, 80):
        BatchNorm((5000, channels), dtype).check()
    BatchNorm((9, 30, 5, 70), dtype, lengths=(3, 0, 30, 1, 5, 9, 30, 2, 2)).check()
    BatchNorm((9, 30, 3), dtype, lengths=(3, 0, 30, 1, 5, 9, 30, 2, 2)).check()


@by_dtype
def test_the_variance_where_the_first_value_is_far_from_the_others(dtype):
    """Squares about that one alone would be a hundred times what is left of them."""
    x = np.random.default_rng(0).standard_normal((128, 64)).astype(dtype)
    x[0] = 1000
    _, cache = batchnorm_kernel.forward(x)
    exact = x.astype(np.longdouble).var(axis=0)
    assert np.max(np.abs(cache.var - exact) / exact) <= 10 * EPS[np.dtype(dtype)]


@by_dtype
def test_batchnorm_of_nothing(dtype):
    for given_ in (False, True):
        BatchNorm((0, 3), dtype, given=given_).check()
        BatchNorm((2, 4, 3), dtype, lengths=(0, 0), given=given_).check()


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32), st.booleans())
def test_any_problem(kind, seed, rearranged):
    rng = np.random.default_rng(seed)
    KINDS[kind](rng).check(seed, tuple(rng.permutation(LAYOUTS)) if rearranged else ("plain",))


def results(problem, arrays):
    y, cache = batchnorm_kernel.forward(**arrays)
    dx, grads = batchnorm_kernel.backward(arrays["x"], cache)
    return {"y": y, "dx": dx, "mean": cache.mean, "var": cache.var, **grads}


BITS = [
    BatchNorm((700, 70), dtype, given=given_) for dtype in DTYPES for given_ in (False, True)
] + [BatchNorm((1000, 3)), BatchNorm((3, 50, 4, 33), lengths=(3, 0, 50)), BatchNorm((150, 600))]


@pytest.mark.parametrize("problem", BITS, ids=str)
def test_same_bits_of_batchnorm_on_any_number_of_threads(problem, monkeypatch):
    arrays = problem.arrays()
    problems.cut(1, monkeypatch.setattr)
    expected = results(problem, arrays)
    for parts in (2, 2, 3, 5, 16):
        problems.cut(parts, monkeypatch.setattr)
        for name, a in results(problem, arrays).items():
            assert_same(a, expected[name], f"{name} in {parts} parts")


@pytest.mark.parametrize("shape", [(7, 1000), (3, 20000), (2, 3, 4, 300)])
def test_dropout_on_any_number_of_threads(shape, monkeypatch):
    """The formula's bits, so each other's."""
    for parts in (1, 2, 3, 16):
        problems.cut(parts, monkeypatch.setattr)
        Dropout(shape).check()
        Dropout(shape, shared_axes=(1,)).check()


@pytest.mark.parametrize("units", [*range(1, 40), 63, 64, 65, 95, 96, 97, 8191, 8192, 8193])
def test_dropout_of_any_units(units):
    for dtype in DTYPES:
        Dropout((2, units), 0.3, dtype, named=True).check()


def test_same_bits_of_batchnorm_with_one_thread_and_with_two():
    problem = BatchNorm((4000, 64))
    arrays = problem.arrays()
    with threads.threads(1):
        expected = results(problem, arrays)
    with threads.threads(2):
        for name, a in results(problem, arrays).items():
            assert_same(a, expected[name], name)


@by_dtype
def test_a_padded_batch_is_its_real_steps_to_the_bit(dtype):
    problem = BatchNorm((4, 9, 2, 5), dtype, lengths=(3, 0, 9, 1))
    arrays = problem.arrays()
    real = np.concatenate([x[:n] for x, n in zip(arrays["x"], problem.lengths, strict=True)])
    whole = results(problem, arrays)
    alone = results(problem, {**arrays, "x": real, "lengths": None})
    first = 0
    for name in ("mean", "var", "gamma", "beta"):
        assert_same(whole[name], alone[name], name)
    for n, length in enumerate(problem.lengths):
        assert_same(whole["y"][n, :length], alone["y"][first : first + length])
        assert_same(whole["dx"][n, :length], alone["dx"][first : first + length])
        first += length


@by_dtype
def test_nan_stays_in_its_channel(dtype):
    for channels in (3, 70):
        arrays = BatchNorm((90, channels), dtype).arrays()
        spoilt = arrays | {"x": arrays["x"].copy()}
        spoilt["x"][50, 1] = np.nan
        found, expected = results(None, spoilt), results(None, arrays)
        for name in ("y", "dx", "mean", "var"):
            others = np.arange(channels) != 1
            assert np.isnan(found[name][..., 1]).all(), name
            if name != "dx":  # which is given the spoilt x for dy
                assert_same(found[name][..., others], expected[name][..., others], name)


@pytest.mark.parametrize("n", [2**16, 2**16 + 1, 70_001])
@by_dtype
def test_what_is_written_past_the_caches_has_the_same_bits(n, dtype, monkeypatch):
    """And so has what lies where such writes cannot go."""
    rng = np.random.default_rng(n)
    given = rng.standard_normal((2, n)).astype(dtype)
    codes = [
        *activations_kernel.codes.values(),
        *sums_kernel.CODES,
        dropout_kernel.relu_drop_backward,
    ]
    for code in codes:
        results = {}
        for level_3 in (2**62, given[0].nbytes, 0):
            monkeypatch.setattr(memory, "LEVEL_3", level_3)
            each._bound.cache_clear()
            for at in (0, 1):
                block = aligned(n + 1, given.dtype)
                y = results[level_3, at] = block[at : at + n]
                each.run(code, (*given[: code.arrays], y), (0.5,))
        each._bound.cache_clear()
        for result in results.values():
            assert_same(result, results[2**62, 0], code.name)


@by_dtype
@pytest.mark.parametrize("shape", [(4500, 64), (4500, 65), (70_001, 3)])
def test_batchnorm_past_the_caches_has_the_same_bits(shape, dtype, monkeypatch):
    arrays = BatchNorm(shape, dtype).arrays()
    expected = results(None, arrays)
    monkeypatch.setattr(memory, "LEVEL_3", 0)
    problems.cut(2, monkeypatch.setattr)
    for name, a in results(None, arrays).items():
        assert_same(a, expected[name], name)


@by_dtype
@pytest.mark.parametrize("units", [2064, 2065])
@pytest.mark.parametrize(
    ("mode", "relu"), [("inverted", False), ("inverted", True), ("alpha", False)]
)
def test_dropout_past_the_caches_has_the_same_bits(units, mode, relu, dtype, monkeypatch):
    x, dy = np.random.default_rng(units).standard_normal((2, 33, units)).astype(dtype)
    keep = Draw(x.shape, 0.5, np.array([1, 2], np.uint64), 3)
    results = []
    for level_3 in (2**62, 0):
        monkeypatch.setattr(memory, "LEVEL_3", level_3)
        dropout_kernel._bound.cache_clear()
        y, cache = dropout_kernel.forward(x, keep, mode=mode, relu=relu)
        results.append((y, dropout_kernel.backward(dy, cache)[0]))
    dropout_kernel._bound.cache_clear()
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


@by_dtype
@pytest.mark.parametrize(("stride", "channels"), [(2, 16), (3, 16), (2, 17)])
@pytest.mark.parametrize(
    ("kind", "options"), [("max_pool", {}), ("max_pool", {"keep": False}), ("avg_pool", {})]
)
def test_pooling_past_the_caches_has_the_same_bits(
    kind, options, stride, channels, dtype, monkeypatch
):
    """And so has what lies where such writes cannot go, be it by a channel."""
    rng = np.random.default_rng(stride)
    x = rng.standard_normal((4, 41, 40, channels)).astype(dtype)
    sizes = {"pool_size": (3, 3), "stride": (stride,) * 2, "padding": ((0, 0),) * 2}
    results = []
    for level_3 in (2**62, 0):
        monkeypatch.setattr(memory, "LEVEL_3", level_3)
        pooling_kernel._usual_forward.cache_clear()
        pooling_kernel._usual_backward.cache_clear()
        y, cache = getattr(pooling_kernel, kind)(x, **options, **sizes)
        results.append([y])
        if options.get("keep", True):
            results[-1].append(getattr(pooling_kernel, f"{kind}_backward")(y * y, cache))
    pooling_kernel._usual_forward.cache_clear()
    pooling_kernel._usual_backward.cache_clear()
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


@by_dtype
def test_rows_have_the_same_bits_in_any_company(dtype, monkeypatch):
    """Alone, side by side, the last ones, whose ends have a mask; on any number of threads."""
    for width in (1, 3, 10, 16, 17, 31, 100):
        rng = np.random.default_rng(width)
        x, dy = rng.standard_normal((2, 23, width)).astype(dtype) * 9
        classes = rng.integers(0, width, 23)

        def found(rows, x=x, dy=dy, classes=classes):
            y, cache = rows_kernel.softmax(x[rows])
            dx = rows_kernel.softmax_backward(dy[rows], cache)
            return y, dx, *rows_kernel.cross_entropy_of_classes(x[rows], classes[rows], 3.0)

        problems.cut(1, monkeypatch.setattr)
        alone = [np.concatenate(one) for one in zip(*(found([i]) for i in range(23)), strict=True)]
        for parts in (1, 2, 5):
            problems.cut(parts, monkeypatch.setattr)
            for result, expected in zip(found(slice(None)), alone, strict=True):
                assert_same(result, expected, f"{width} in {parts} parts")


@by_dtype
def test_softmax_of_what_is_not_finite(dtype):
    x = np.zeros((5, 21), dtype)
    x[1, 3], x[2, 20], x[3], x[4, :20] = np.nan, -np.inf, -np.inf, -200
    y = rows_kernel.softmax(x)[0]
    assert np.isnan(y[[1, 3]]).all()
    np.testing.assert_array_equal(y[0], y[0, 0])
    np.testing.assert_array_equal(y[2], [*y[2, :20], 0])
    np.testing.assert_allclose(y[4, :20], np.exp(x[4, 0]), rtol=1e-2)
    assert y[4, 20] == 1
