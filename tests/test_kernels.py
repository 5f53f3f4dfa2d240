"""The kernels of Linear and Convolution against their formulas; their bits against themselves."""

import itertools
import sys
import threading
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
from contract import assert_same
from lamina import kernels
from lamina.convolution import formula as convolution_formula
from lamina.convolution import kernel as convolution_kernel
from lamina.convolution import narrow
from lamina.engine import matmul, memory, pool, threads
from lamina.engine.few import few_rows_past
from lamina.linear import formula as linear_formula
from lamina.linear import kernel as linear_kernel
from lamina.windows import MODES
from problems import LAYERS, LAYOUTS, Problem, check, passes, random_dy

DTYPES = ["float32", "float64"]
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def linear(x, outputs, **fields):
    return Problem("linear", x, (x[-1], outputs), **fields)


def convolution(x, kernel, outputs, dtype="float32", bias=True, lengths=None, **options):
    channels = x[-1] // options.get("groups", 1)
    return Problem("convolution", x, (*kernel, channels, outputs), dtype, bias, lengths, options)


# Against the formulas


@by_dtype
@pytest.mark.parametrize(
    "shape", [(1,), (7,), (1, 1), (33, 5), (2, 3, 17), (2, 1, 3, 4), (61, 400)]
)
def test_linear(shape, dtype):
    for outputs, bias in itertools.product((1, 3, 16, 17, 70), (True, False)):
        check(linear(shape, outputs, dtype=dtype, bias=bias))


@by_dtype
@pytest.mark.parametrize("shape", [(0, 3), (0, 4, 3), (4, 0, 3)])
def test_linear_of_nothing(shape, dtype):
    check(linear(shape, 2, dtype=dtype))
    x, dy = np.zeros(shape, dtype), np.zeros((*shape[:-1], 2), dtype)
    _, cache = linear_kernel.forward(x, np.ones((3, 2), dtype), np.ones(2, dtype))
    _, grads = linear_kernel.backward(dy, cache)
    assert_same(grads["weight"], np.zeros((3, 2), dtype))
    assert_same(grads["bias"], np.zeros(2, dtype))


@by_dtype
@pytest.mark.parametrize("axes", [(5, 6), (5, 6, 2)])
def test_linear_with_lengths(axes, dtype):
    check(linear((*axes, 9), 4, dtype=dtype, lengths=(3, 0, 6, 1, 5)))


SITUATIONS = {
    "one of each": convolution((1, 1, 1, 1), (1, 1), 1),
    "one channel": convolution((2, 9, 8, 1), (3, 3), 32, padding=1),
    "one output": convolution((2, 9, 8, 5), (3, 3), 1, padding=1),
    "1x1": convolution((2, 5, 7, 33), (1, 1), 65),
    "1x1, many rows": convolution((3, 53, 54, 35), (1, 1), 57),
    "1x1 strided": convolution((2, 5, 7, 33), (1, 1), 18, stride=2),
    "1x1 padded": convolution((2, 5, 7, 3), (1, 1), 4, padding=2),
    "1x1 grouped": convolution((2, 5, 7, 6), (1, 1), 9, groups=3),
    "as large as its input": convolution((2, 5, 7, 3), (5, 7), 4),
    "many rows": convolution((1, 40, 3, 2), (3, 3), 3, padding=1),
    "many columns": convolution((1, 2, 700, 3), (2, 3), 3, padding=1),
    "strips": convolution((2, 3, 130, 90), (3, 5), 7, padding=2, dilation=(1, 2)),
    "strips of a stride": convolution((1, 5, 130, 90), (3, 5), 7, padding=2, stride=(2, 3)),
    "long rows, many outputs": convolution((2, 1300, 3), (5,), 40, padding=2),
    "a channel, many outputs": convolution((3, 9, 8, 1), (3, 3), 70, padding=((3, 0), (1, 4))),
    "wide": convolution((1, 6, 6, 70), (3, 3), 150, padding=1),
    "few channels": convolution((2, 12, 45, 1), (3, 5), 20, padding=2),
    "few channels, strided": convolution((2, 9, 61, 3), (3, 4), 20, padding=((1, 0), (5, 2)),
                                         stride=(3, 2)),
    "few channels, dilated": convolution((1, 11, 50, 2), (2, 3), 20, stride=2, dilation=(2, 3)),
    "few channels, 1d": convolution((2, 700, 2), (5,), 20, padding=2),
    "few channels, 3d": convolution((2, 4, 5, 40, 1), (3, 3, 3), 20, padding=1, stride=(2, 1, 1)),
    "few channels, many blocks": convolution((3, 30, 70, 2), (3, 3), 20, padding=1),
    "few channels, small images": convolution(
        (40, 5, 6, 2), (3, 2), 12, padding=1, dilation=(2, 1)
    ),
    "first layer": convolution((1, 23, 23, 3), (7, 7), 64, padding=3, stride=2),
    "stride beyond the kernel": convolution((2, 11, 13, 3), (2, 1), 5, stride=(4, 5)),
    "stride shares a divisor": convolution((1, 21, 5), (4,), 7, stride=6, dilation=4, padding=5),
    "dilated": convolution((2, 15, 17, 5), (3, 3), 6, dilation=(4, 3), padding=((4, 2), (1, 5))),
    "kernel inside padding": convolution((2, 3, 4, 5), (3, 2), 6, padding=((7, 5), (4, 8))),
    "kernel inside padding, strided": convolution((1, 2, 3), (2,), 4, padding=((9, 8),), stride=3),
    "larger than its input": convolution((2, 2, 3, 3), (5, 6), 4, padding=((2, 3), (3, 2))),
    "grouped": convolution((2, 7, 9, 6), (3, 2), 8, groups=2, padding=1),
    "many groups": convolution((2, 7, 9, 36), (3, 3), 24, groups=12, padding=1, stride=2),
    "one output a group": convolution((2, 7, 9, 6), (3, 3), 3, groups=3, padding=1),
    "one output a group, no padding": convolution((2, 7, 9, 6), (3, 3), 3, groups=3),
    "depthwise": convolution((2, 9, 11, 37), (3, 3), 37, groups=37, padding=1),
    "depthwise strided": convolution((2, 9, 11, 37), (3, 5), 37, groups=37, stride=(2, 3)),
    "depthwise dilated": convolution((2, 9, 11, 20), (3, 2), 20, groups=20, dilation=(2, 3)),
    "depthwise, all padding": convolution((2, 2, 2, 5), (2, 2), 5, groups=5, padding=3),
    "multiplier": convolution((2, 9, 11, 5), (3, 3), 15, groups=5, padding=1),
    "1d": convolution((3, 50, 4), (9,), 6, padding=((3, 1),), stride=2),
    "1d causal": convolution((3, 50, 4), (3,), 6, padding=((8, 0),), dilation=4),
    "1d lengths": convolution((4, 12, 3), (3,), 4, lengths=(3, 0, 12, 1)),
    "1d lengths, padded": convolution(
        (5, 12, 3), (3,), 4, lengths=(3, 0, 12, 1, 8), stride=2, dilation=2, padding=((3, 4),)
    ),
    "3d": convolution(
        (2, 4, 5, 6, 3), (2, 3, 2), 5, stride=(1, 2, 1), padding=1, dilation=(2, 1, 1)
    ),
    "3d depthwise": convolution((2, 4, 5, 6, 19), (3, 3, 3), 19, groups=19, padding=1),
    "no samples": convolution((0, 5, 6, 3), (3, 3), 4, padding=1),
    "no rows": convolution((2, 0, 6, 3), (3, 3), 4, padding=2),
    "no steps": convolution((2, 0, 3), (1,), 4),
}  # fmt: skip


@by_dtype
@pytest.mark.parametrize("name", SITUATIONS)
def test_convolution(name, dtype):
    problem = SITUATIONS[name]
    for bias in (True, False):
        check(Problem(**vars(problem) | {"dtype": dtype, "bias": bias}))


def test_no_more_zeros_are_read_than_there_are(monkeypatch):
    """Around rows of dY, whose taps reach further than a vector is wide."""
    asked = []

    def followed_by_nan(count, dtype):
        asked.append(count)
        return np.append(np.zeros(count, dtype), np.full(1000, np.nan, dtype))[:count]

    monkeypatch.setattr(narrow, "zeros_of", followed_by_nan)
    problems.forget()
    check(convolution((1, 3, 200, 1), (3, 33), 20, padding=((1, 1), (16, 16))))
    problems.forget()
    assert asked


@by_dtype
@pytest.mark.parametrize("name", SITUATIONS)
def test_transposed_convolution(name, dtype):
    problem = problems.turned(SITUATIONS[name])
    for bias in (True, False):
        check(Problem(**vars(problem) | {"dtype": dtype, "bias": bias}))


@by_dtype
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_modes(rank, mode, dtype):
    sizes, pads = (7, 5, 4)[-rank:], ((2, 1), (0, 3), (3, 3))[-rank:]
    for stride, dilation, groups in ((1, 1, 1), (2, 1, 2), (1, 2, 1), (3, 2, 4)):
        check(
            convolution(
                (2, *sizes, 4),
                (3, 2, 2)[-rank:],
                8,
                dtype,
                stride=stride,
                dilation=dilation,
                groups=groups,
                padding=pads,
                padding_mode=mode,
            )
        )


@by_dtype
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129])
def test_channels_around_the_edges_of_tiles(outputs, dtype):
    for channels in (1, 3, outputs):
        check(convolution((2, 3, 16, channels), (2, 3), outputs, dtype, padding=1))
    check(convolution((1, 3, 15, outputs), (2, 3), outputs, dtype, padding=1, groups=outputs))
    check(convolution((1, 2, 9, 2 * outputs), (1, 3), 2 * outputs, dtype, padding=1, groups=2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_memory(layout):
    for dtype in DTYPES:
        check(linear((3, 4, 18), 20, dtype=dtype), 0, (layout,))
        check(linear((4, 5, 18), 20, dtype=dtype, lengths=(3, 0, 5, 1)), 0, (layout,))
        for name in ("wide", "grouped", "depthwise", "1d lengths"):
            check(Problem(**vars(SITUATIONS[name]) | {"dtype": dtype}), 0, (layout,))


@settings(derandomize=True, database=None, deadline=None, max_examples=250)
@given(st.sampled_from(problems.MAKES), st.integers(0, 2**32), st.booleans())
def test_any_problem(make, seed, rearranged):
    rng = np.random.default_rng(seed)
    check(make(rng), seed, tuple(rng.permutation(LAYOUTS)) if rearranged else ("plain",))


@by_dtype
def test_nan_and_infinity_go_where_they_belong(dtype):
    """Those of weights alone may be met by zeros of padding that kernels pass over."""
    for problem in (linear((5, 9), 20, dtype=dtype), convolution((3, 6, 7, 70), (3, 3), 20, dtype)):
        kernel, formula = LAYERS[problem.layer]
        arrays, dy = problem.arrays(), random_dy(problem)
        for value in (np.nan, np.inf):
            for name in ("x", "bias", "dy"):
                spoilt = {n: a.copy() for n, a in (arrays | {"dy": dy}).items()}
                spoilt[name].flat[spoilt[name].size // 2] = value
                spoilt_dy = spoilt.pop("dy")
                found = passes(kernel, problem, spoilt, spoilt_dy)
                with np.errstate(invalid="ignore"):
                    expected = passes(formula, problem, spoilt, spoilt_dy)
                for n, a in found.items():
                    assert_same(np.isfinite(a), np.isfinite(expected[n]), f"{name}: {n}")


# The same bits

KEPT = {
    "linear": linear((7, 65), 100),
    "linear, wide": linear((20, 17), 300),
    "linear, three axes": linear((5, 3, 40), 33),
    "linear, lengths": linear((5, 6, 40), 33, lengths=(3, 0, 6, 1, 5)),
    **{
        name: SITUATIONS[name]
        for name in (
            "one channel", "few channels", "few channels, strided", "a channel, many outputs",
            "few channels, many blocks",
            "1x1", "strips of a stride", "wide", "stride beyond the kernel",
            "dilated", "kernel inside padding", "many groups", "one output a group", "depthwise",
            "multiplier", "1d causal", "1d lengths, padded", "3d",
        )
    },
    **{
        f"{name}, transposed": problems.turned(SITUATIONS[name])
        for name in (
            "few channels, strided", "1x1", "strips of a stride", "wide", "as large as its input",
            "stride beyond the kernel", "grouped", "depthwise strided", "1d lengths, padded", "3d",
        )
    },
    "circular": convolution((3, 7, 5, 4), (3, 3), 20, padding=2, padding_mode="circular"),
    "reflect": convolution((3, 9, 4), (3,), 20, padding=2, padding_mode="reflect", stride=2),
}  # fmt: skip


@pytest.fixture(params=[f"{name}, {dtype}" for name in KEPT for dtype in DTYPES])
def kept(request, monkeypatch):
    """A problem, its arrays and its results in one part."""
    name, _, dtype = request.param.rpartition(", ")
    problem = KEPT[name]
    fields = {"x": (5, *problem.x[1:]), "dtype": dtype}
    if problem.lengths is not None:
        fields["lengths"] = (3, 0, problem.x[1], 1, 5)
    problem = Problem(**vars(problem) | fields)
    kernel, arrays, dy = LAYERS[problem.layer][0], problem.arrays(), random_dy(problem)
    problems.cut(1, monkeypatch.setattr)
    expected = passes(kernel, problem, arrays, dy)
    return SimpleNamespace(problem=problem, kernel=kernel, arrays=arrays, dy=dy, expected=expected)


def test_same_bits_on_any_number_of_threads(kept, monkeypatch):
    for parts in (1, 2, 2, 3, 5, 16):
        problems.cut(parts, monkeypatch.setattr)
        found = passes(kept.kernel, kept.problem, kept.arrays, kept.dy)
        for name, a in found.items():
            assert_same(a, kept.expected[name], f"{name} in {parts} parts")


def test_same_bits_of_a_sample_in_any_batch_at_any_place(kept):
    for places in ([0], [4], [2, 2], [3, 0, 1], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4] * 5):
        arrays = {
            name: a[places] if name in ("x", "lengths") else a for name, a in kept.arrays.items()
        }
        found = passes(kept.kernel, kept.problem, arrays, kept.dy[places])
        for name in ("y", "dx"):
            assert_same(found[name], kept.expected[name][places], f"{name} of {places}")


@by_dtype
@pytest.mark.parametrize("name", ["linear, lengths", "1d lengths, padded", "1d causal"])
def test_same_bits_of_a_sequence_alone(name, dtype):
    problem = KEPT[name]
    n, steps = problem.x[:2]
    lengths = (steps, 3, 1, 7, 6)[:n]
    problem = Problem(**vars(problem) | {"dtype": dtype, "lengths": lengths})
    kernel, arrays, dy = LAYERS[problem.layer][0], problem.arrays(), random_dy(problem)
    whole = passes(kernel, problem, arrays, dy)
    for n, length in enumerate(lengths):
        alone = arrays | {"x": arrays["x"][n : n + 1, :length]}
        del alone["lengths"]
        y, cache = kernel.forward(**alone, **problem.options)
        dx, _ = kernel.backward(dy[n : n + 1, : y.shape[1]], cache)
        assert_same(y, whole["y"][n : n + 1, : y.shape[1]], f"y of {length} steps")
        assert_same(dx, whole["dx"][n : n + 1, :length], f"dx of {length} steps")


@by_dtype
def test_same_bits_with_one_thread_and_with_two(dtype):
    for problem in (
        linear((130, 200), 150, dtype=dtype),
        convolution((4, 14, 14, 16), (3, 3), 32, dtype, padding=1),
        convolution((4, 20, 20, 48), (5, 5), 48, dtype, padding=2, groups=48),
        convolution((1, 9000, 24), (1,), 80, dtype),
    ):
        kernel, arrays, dy = LAYERS[problem.layer][0], problem.arrays(), random_dy(problem)
        results = []
        for n in (1, 2, 2):
            with threads.threads(n):
                results.append(passes(kernel, problem, arrays, dy))
        for other in results[1:]:
            for name, a in other.items():
                assert_same(a, results[0][name], name)


@pytest.mark.parametrize(
    "problem",
    [
        convolution((4, 14, 14, 16), (3, 3), 32, padding=1),
        convolution((4, 20, 20, 48), (5, 5), 48, padding=2, groups=48),
        convolution((1, 9000, 24), (1,), 80),
        problems.turned(convolution((4, 14, 14, 16), (3, 3), 32, padding=1)),
    ],
    ids=["convolution", "depthwise", "product", "transposed"],
)
def test_the_way_back_keeps_to_the_threads_there_are_then(problem, monkeypatch):
    problems.forget()
    kernel = LAYERS[problem.layer][0]
    with threads.threads(2):
        _, cache = kernel.forward(**problem.arrays(), **problem.options)
    shared = []
    monkeypatch.setattr(pool, "_with_others", lambda *a: shared.append(a))
    with threads.threads(1):
        kernel.backward(random_dy(problem), cache)
    assert not shared


@by_dtype
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("outputs", [512, 517])
def test_same_bits_past_the_caches(samples, outputs, dtype, monkeypatch):
    problem = linear((samples, 300), outputs, dtype=dtype)
    arrays, dy = problem.arrays(), random_dy(problem)
    expected = passes(linear_kernel, problem, arrays, dy)
    monkeypatch.setattr(memory, "LEVEL_3", 0)
    used = []
    monkeypatch.setattr(matmul, "few_rows_past", lambda d: used.append(d) or few_rows_past(d))
    problems.cut(2, monkeypatch.setattr)
    for name, a in passes(linear_kernel, problem, arrays, dy).items():
        assert_same(a, expected[name], name)
    assert used


@by_dtype
@pytest.mark.parametrize("channels", [48, 49])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_has_the_same_bits_past_the_caches(stride, channels, dtype, monkeypatch):
    """And so has what lies where such writes cannot go."""
    problem = convolution(
        (2, 13, 14, channels), (3, 3), channels, stride=stride, padding=1, groups=channels,
        dtype=dtype,
    )  # fmt: skip
    arrays, dy = problem.arrays(), random_dy(problem)
    expected = passes(convolution_kernel, problem, arrays, dy)
    monkeypatch.setattr(memory, "LEVEL_3", 0)
    monkeypatch.setattr(memory, "LEAST", 0)
    problems.cut(2, monkeypatch.setattr)
    for name, a in passes(convolution_kernel, problem, arrays, dy).items():
        assert_same(a, expected[name], name)


# Memory


@pytest.mark.parametrize(
    "problem",
    [
        SITUATIONS["strips"],
        convolution((1, 64, 64, 64), (3, 3), 64, padding=1),
        convolution((1, 20000, 8), (9,), 8, padding=4),
        convolution((1, 40, 40, 256), (3, 3), 16, padding=1, dilation=6),
        convolution((1, 66, 66, 256), (3, 3), 16, padding=32, dilation=32),
        convolution((1, 3, 3, 3, 3000), (3, 3, 3), 16, padding=1),
        convolution((1, 2, 12, 12, 3000), (3, 3, 3), 64, padding=1),
        convolution((1, 3, 3, 1024), (3, 3), 1024, padding=1),
        convolution((1, 6, 20, 20, 32), (3, 3, 3), 32, padding=1),
        convolution((1, 64, 64, 32), (3, 3), 32, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_workspace_of_a_convolution(problem, monkeypatch):
    """At most 32 MB beside the results, or a tenth of x."""
    arrays, dy, most = problem.arrays(), random_dy(problem), 32 * 2**20
    most = max(most, arrays["x"].nbytes // 10)
    passes(convolution_kernel, problem, arrays, dy)  # to compile takes memory of its own
    memory._waiting.clear()  # what earlier calls left counts when it is taken anew
    monkeypatch.setattr(memory, "_own", type(memory._own)())
    tracemalloc.start()
    try:
        y, cache = convolution_kernel.forward(**arrays, **problem.options)
        assert tracemalloc.get_traced_memory()[1] <= most + y.nbytes
        tracemalloc.reset_peak()
        dx, grads = convolution_kernel.backward(dy, cache)
        results = (y, dx, *grads.values())
        assert tracemalloc.get_traced_memory()[1] <= most + sum(a.nbytes for a in results)
    finally:
        tracemalloc.stop()


def test_plans_are_bounded():
    """The memory that calls leave behind does not grow with the number of shapes."""

    def pass_over(widths):
        for width, height in itertools.product(widths, range(200, 600)):
            problem = convolution((1, height, width, 3), (3, 3), 5, padding=1, stride=(1, 2))
            passes(convolution_kernel, problem, problem.arrays(), random_dy(problem))

    tracemalloc.start()
    try:
        pass_over(range(4, 8))  # fills what is kept of some shapes
        before = tracemalloc.get_traced_memory()[0]
        pass_over(range(8, 10))
        assert tracemalloc.get_traced_memory()[0] <= before + 2**19
    finally:
        tracemalloc.stop()


# Which functions a layer calls


def test_formulas_for_a_block():
    linear, convolution = "lamina.linear.layer", "lamina.convolution.streaming"
    assert kernels.functions(linear) is linear_kernel
    assert kernels.functions(convolution) is convolution_kernel
    with kernels.formulas():
        assert kernels.functions(linear) is linear_formula
        with kernels.formulas():
            assert kernels.functions(convolution) is convolution_formula
        assert kernels.functions(linear) is linear_formula
    assert kernels.functions(linear) is linear_kernel
    with pytest.raises(KeyError), kernels.formulas():
        raise KeyError
    assert kernels.functions(linear) is linear_kernel


def test_one_block_within_itself():
    block = kernels.formulas()
    for _ in range(2):
        with block:
            with block:
                assert kernels.by_formulas()
            assert kernels.by_formulas()
        assert not kernels.by_formulas()


def test_one_block_in_two_threads():
    block, inside, leave = kernels.formulas(), threading.Event(), threading.Event()
    found = []

    def other():
        with block:
            inside.set()
            leave.wait()
        found.append(kernels.by_formulas())

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with block:
        leave.set()
        thread.join()
        found.append(kernels.by_formulas())
    assert [*found, kernels.by_formulas()] == [False, True, False]


def test_formulas_hold_for_their_own_thread():
    found = []

    def other():
        with kernels.formulas():
            found.append(kernels.functions("lamina.linear.layer"))
            ready.set()
            leave.wait()

    ready, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    found.append(kernels.functions("lamina.linear.layer"))
    leave.set()
    thread.join()
    assert found == [linear_formula, linear_kernel]


def test_formulas_where_numba_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(kernels, "present", kernels.present.__wrapped__)
    assert kernels.functions("lamina.linear.layer") is linear_formula
    assert kernels.functions("lamina.convolution.layer") is convolution_formula
