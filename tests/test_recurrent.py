"""The kernels of RNN, LSTM and GRU against their formulas, and their bits."""

import itertools
import platform
import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same
from lamina.engine import columns, outer, pool, recurrent, threads
from lamina.engine.matmul import column_sums, matmul
from problems import LAYOUTS
from recurrences import WEIGHTS, Recurrence, recurrence

SITUATIONS = {
    "lstm": Recurrence("lstm", 13, 6, 5, 24),
    "lstm, float64": Recurrence("lstm", 5, 7, 9, 17, "float64"),
    "lstm, lengths": Recurrence("lstm", 9, 7, 6, 20, lengths=(3, 0, 7, 1, 7, 2, 5, 0, 6)),
    "lstm, projected": Recurrence("lstm", 6, 5, 4, 18, projection=7, masked=True, shared=True),
    "lstm, few": Recurrence("lstm", 2, 70, 12, 16),
    "lstm, one": Recurrence("lstm", 1, 9, 12, 20),
    "lstm, as many steps as go ahead": Recurrence("lstm", 6, 8, 70, 5),  # of x W_x
    "rnn": Recurrence("rnn", 13, 6, 5, 24),
    "rnn, relu": Recurrence("rnn", 4, 9, 7, 33, activation="relu", bias=False),
    "rnn, sigmoid": Recurrence("rnn", 9, 7, 6, 20, "float64", activation="sigmoid"),
    "rnn, lengths": Recurrence("rnn", 5, 8, 6, 20, lengths=(0, 8, 2, 3, 8), masked=True),
    "rnn, few": Recurrence("rnn", 1, 90, 12, 64),
    "rnn, a unit": Recurrence("rnn", 3, 5, 2, 1),
    "gru": Recurrence("gru", 13, 6, 5, 24),
    "gru, float64": Recurrence("gru", 5, 7, 9, 17, "float64", bias=False),
    "gru, lengths": Recurrence("gru", 5, 8, 6, 20, lengths=(0, 8, 2, 3, 8), masked=True),
    "gru, few": Recurrence("gru", 2, 70, 12, 16, masked=True, reverse=True, shared=True),
    "gru, one": Recurrence("gru", 1, 9, 12, 64),
    "lstm, in reverse": Recurrence(
        "lstm", 9, 7, 6, 20, lengths=(3, 0, 7, 1, 7, 2, 5, 0, 6), reverse=True
    ),
    "rnn, in reverse": Recurrence("rnn", 13, 6, 5, 24, reverse=True),
    "rnn, in reverse beside": Recurrence("rnn", 3, 9, 6, 64, reverse=True, shared=True),
    "lstm, beside": Recurrence("lstm", 5, 8, 6, 20, lengths=(0, 8, 2, 3, 8), shared=True),
}
every = pytest.mark.parametrize("problem", SITUATIONS.values(), ids=SITUATIONS)
OF_SAMPLES = ("y", "dx", "h after", "c after", "dh before", "dc before")
PLANS = (
    recurrent._chosen, recurrent._plan, recurrent._back, recurrent._plan_back,
    recurrent._plan_inputs, columns._plan, columns._plan_back,
)  # fmt: skip


@every
def test_against_the_formula(problem):
    problem.check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["lstm", "lstm, projected", "rnn, lengths", "gru, lengths"])
def test_layouts_of_memory(name, layout):
    SITUATIONS[name].check(0, (layout,))


def test_any_problem():
    rng = np.random.default_rng(0)
    for seed in range(80):
        recurrence(rng).check(seed)


@pytest.mark.parametrize("lengths", [None, (0, 0, 0)])
@pytest.mark.parametrize("layer", ["lstm", "rnn", "gru"])
def test_nothing_to_go_through(layer, lengths):
    Recurrence(layer, 3, 4 if lengths else 0, 5, 6, lengths=lengths).check()
    Recurrence(layer, 0, 4, 5, 6, lengths=() if lengths else None).check()


# The same bits


def choose(arrays, places):
    """The arrays of some sequences of a batch."""
    return {
        name: a[places] if name in ("x", "dy", "h", "c", "dh", "dc", "mask", "lengths") else a
        for name, a in arrays.items()
    }


@every
def test_same_bits_of_a_sequence_in_any_batch_at_any_place(problem):
    kernel, _ = problem.modules
    arrays = problem.arrays()
    whole = problem.passes(kernel, arrays)
    n = problem.n
    for places in ([0], [n - 1, 0], list(range(n))[::-1], list(range(n)) * 3):
        found = problem.passes(kernel, choose(arrays, places))
        for name in OF_SAMPLES:
            if name in found:
                assert_same(found[name], whole[name][places], f"{name} of {places}")


@pytest.mark.parametrize("name", ["lstm, lengths", "rnn, lengths", "gru, lengths"])
def test_same_bits_of_a_sequence_without_its_padding(name):
    problem = SITUATIONS[name]
    kernel, _ = problem.modules
    arrays = problem.arrays()
    whole = problem.passes(kernel, arrays)
    for k, length in enumerate(problem.lengths):
        alone = choose(arrays, [k])
        del alone["lengths"]
        alone |= {name: alone[name][:, :length] for name in ("x", "dy")}
        found = problem.passes(kernel, alone)
        for name in OF_SAMPLES:
            if name in found:
                expected = whole[name][[k]]
                cut = expected[:, :length] if name in ("y", "dx") else expected
                assert_same(found[name], cut, f"{name} of {length} steps")


@every
def test_same_bits_however_the_work_is_cut(problem, monkeypatch):
    kernel, _ = problem.modules
    arrays = problem.arrays()
    expected = problem.passes(kernel, arrays)

    def same(what):
        for plan in PLANS:
            plan.cache_clear()
        for name, a in problem.passes(kernel, arrays).items():
            assert_same(a, expected[name], f"{name}, {what}")

    monkeypatch.setattr(recurrent, "SERIAL", 0)
    monkeypatch.setattr(outer, "SERIAL", 0)
    for parts in (1, 2, 3):
        monkeypatch.setattr(threads, "count", lambda parts=parts: parts)
        same(f"{parts} parts")
    for name, value in (("LEAST", 0), ("ALONE", 0), ("WORTH", 0), ("SOME", 0), ("MOST", 1000)):
        monkeypatch.setattr(columns, name, value)
    for parts, many in itertools.product((2, 3), (0, 100)):
        monkeypatch.setattr(threads, "count", lambda parts=parts: parts)
        monkeypatch.setattr(columns, "MANY", many)
        same(f"columns in {parts} parts, one sequence in place under {many} steps")
    for name in ("LEAST", "ALONE"):
        monkeypatch.setattr(columns, name, 10**9)
    for together in (1, 7, 10**9):
        monkeypatch.setattr(recurrent, "TOGETHER", together)
        same(f"dx of {together} rows together")
    for few in (1, 100):
        monkeypatch.setattr(recurrent, "FEW", few)
        same(f"x ahead for fewer than {few} rows")
    monkeypatch.setattr(recurrent, "REUSED", 10**9)
    same("weights in place")
    for width in (1, 3):
        monkeypatch.setattr(recurrent, "widest", lambda *a, width=width: width)
        same(f"{width} vectors")
    for plan in PLANS:
        plan.cache_clear()


@every
def test_step_has_the_bits_of_run(problem):
    problem = replace(problem, masked=False, lengths=None, reverse=False)
    kernel, _ = problem.modules
    arrays = problem.arrays()
    whole = problem.passes(kernel, arrays)
    state = tuple(arrays[name] for name in ("h", "c") if name in arrays)
    weights = tuple(map(arrays.get, WEIGHTS[problem.layer]))
    for t in range(problem.steps):
        state = kernel.step(arrays["x"][:, t], state, weights, **problem.options)
        assert_same(state[0], whole["y"][:, t], f"step {t}")


# The gradients of the weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("k", "i", "h", "n"), [(1, 1, 1, 1), (7, 3, 17, 33), (200, 5, 9, 70), (500, 300, 200, 40)]
)
def test_outer_has_the_bits_of_products(k, i, h, n, dtype):
    rng = np.random.default_rng(0)
    x, before, d = (rng.standard_normal((k, size)).astype(dtype) for size in (i, h, n))
    c, work = np.empty((i + h + 1, n), dtype), np.full(10**6, np.nan, dtype)
    *found, bias = c[:i], c[i:-1], c[-1]
    expected = [np.empty((a.shape[1], n), dtype) for a in (x, before)]
    for a, into in zip((x, before), expected, strict=True):
        matmul(a, 1, a.shape[1], d, n, 1, a.shape[1], n, k, into)
    where = rng.permutation(3 * k)[:k]  # the rows of x among others
    among = np.full((3 * k, i), np.nan, dtype)
    among[where] = x
    for given, places in ((x, None), (among, where)):
        arrays, c[...] = (given, before, d, c, *found, bias, work), np.nan
        late = map(pool.late, range(len(arrays)))
        calls, room = outer.outer(c.dtype, k, i, h, n, *late, places)
        assert room <= work.size
        pool.in_order(*calls)(*arrays)
        assert np.isnan(work[room:]).all(), "wrote behind the room that it asked for"
        for a, b in zip((*found, bias), (*expected, column_sums(d)), strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_dx_of_rows_that_lie_apart(parts):
    rng, dtype = np.random.default_rng(0), np.dtype(np.float32)
    rows, inputs, columns = 200, 37, 40
    weight_x, da = (rng.standard_normal((n, columns)).astype(dtype) for n in (inputs, rows))
    where, dx = rng.permutation(3 * rows)[:rows], np.full((3 * rows, inputs), np.nan, dtype)
    calls, room = recurrent._inputs_of(
        dtype, rows, inputs, columns, parts, *map(pool.late, range(4)), where
    )
    work = np.full(room + 10**4, np.nan, dtype)
    pool.in_order(*calls)(weight_x, da, dx, work)
    assert np.isnan(work[room:]).all(), "wrote behind the room that it asked for"
    assert_close(dx[where], da @ weight_x.T, dtype)
    dx[where] = np.nan
    assert np.isnan(dx).all()


# Memory


@pytest.mark.parametrize(("layer", "most"), [("lstm", 6), ("gru", 6), ("rnn", 1)])
def test_a_cache_keeps_few_numbers_a_step_and_unit(layer, most):
    problem = Recurrence(layer, 4, 10, 8, 32)
    kernel, _ = problem.modules
    arrays = problem.arrays()
    names = [name for name in ("weight_x", "weight_h", "bias") if name in arrays]
    _, cache = kernel.forward(arrays["x"], **{name: arrays[name] for name in names})
    kept = sum(a.size for a in cache.kept if a is not None)
    assert kept <= most * problem.n * problem.steps * problem.hidden


@pytest.mark.parametrize("shared", [False, True], ids=["ranks", "columns"])
def test_a_plan_keeps_the_zeros_and_ones_that_it_reads(shared, monkeypatch):
    """However many others are asked for meanwhile: `zeros_and_ones` keeps the latest alone."""
    monkeypatch.setattr(columns, "is_better", lambda *_: shared)
    monkeypatch.setattr(threads, "count", lambda: 2)
    for plans in (*PLANS, recurrent.zeros_and_ones):
        plans.cache_clear()
    layer, x = lm.LSTM(3, 40, rng=0), np.ones((4, 3, 3), np.float32)

    def passes():
        y, cache = layer.forward(x, training=True)
        return y, layer.backward(y, cache)[0]

    expected = passes()
    read = [weakref.ref(a) for a in recurrent.zeros_and_ones(40, x.dtype)]
    for size in range(1000, 1300):
        recurrent.zeros_and_ones(size, x.dtype)
    assert all(a() is not None for a in read), "a plan points to memory that is free"
    for found, a in zip(passes(), expected, strict=True):
        assert_same(found, a)


@pytest.mark.parametrize("lengths", [None, [40, 3, 17, 25, 40]], ids=["full", "ragged"])
@pytest.mark.parametrize(("layer", "floats"), [(lm.RNN, 1), (lm.LSTM, 6)])
def test_a_pass_of_training_keeps_so_many_floats_a_step_and_unit_beside_x_and_y(
    layer, floats, lengths
):
    layer, x = layer(8, 64, rng=0), np.ones((5, 40, 8), np.float32)
    for _ in range(3):  # which leave what serves all passes
        layer.forward(x, lengths=lengths, training=True)
    tracemalloc.start()
    try:
        y, cache = layer.forward(x, lengths=lengths, training=True)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache is not None
    share = 1 if lengths is None else sum(lengths) / 200
    assert kept < (1 + share * floats) * y.nbytes + 10_000


# Inference


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layer", [lm.RNN, lm.LSTM])
def test_a_call_has_the_bits_of_a_pass_to_differentiate(layer, bidirectional):
    model = layer(5, 18, layers=2, bidirectional=bidirectional, rng=0)
    x = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float32)
    for lengths in (None, (6, 0, 3, 1)):
        y, _ = model.forward(x, lengths=lengths, training=True)
        assert_same(model(x, lengths=lengths), y)
        assert_same(model.for_inference()(x, lengths=lengths), y)


@pytest.mark.parametrize("shared", [False, True], ids=["ranks", "columns"])
@pytest.mark.parametrize("kind", [lm.RNN, lm.LSTM])
def test_an_inference_model_keeps_panels_for_each_width_and_cut(kind, shared, monkeypatch):
    """Both follow from the batch and the threads of a call."""
    monkeypatch.setattr(columns, "is_better", lambda *_: shared)
    monkeypatch.setattr(threads, "available", lambda: 3)
    for plan in PLANS:
        plan.cache_clear()
    layer, rng = kind(5, 160, rng=0), np.random.default_rng(0)
    fixed = layer.for_inference()
    for parts, n in itertools.product((1, 2, 3), (1, 3, 9, 17, 40)):
        x = rng.standard_normal((n, 4, 5)).astype(np.float32)
        with threads.threads(parts):
            assert_same(fixed(x), layer(x), f"{n} in {parts} parts")
    for plan in PLANS:
        plan.cache_clear()


@pytest.mark.parametrize("large", [2**22, 0])
@pytest.mark.parametrize("n", [1, 3, 9])
@pytest.mark.parametrize(
    "model",
    [
        lm.RNN(5, 18, rng=0, layers=2, activation="relu"),
        lm.LSTM(5, 18, rng=0, layers=2, bias=False),
        lm.LSTM(40, 33, rng=0, dtype=np.float64),
        lm.LSTM(5, 18, rng=0, projection=7),
    ],
    ids=["RNN", "LSTM", "LSTM, float64", "LSTM, projected"],
)
def test_steps_of_an_inference_model_have_the_bits_of_a_run(model, n, large, monkeypatch):
    monkeypatch.setattr(recurrent, "LARGE", large)
    monkeypatch.setattr(threads, "count", lambda: 2)
    x = np.random.default_rng(0).standard_normal((n, 6, model.in_features)).astype(model.dtype)
    y, end, _ = model.run(x)
    fixed = model.for_inference()
    state = fixed.initial_state(n)
    first = state
    for t in range(6):
        y_t, state = fixed.step(x[:, t], state)
        assert_same(y_t, y[:, t])
    for found, expected in zip(state, end, strict=True):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    assert not any(a.any() for entry in first for a in entry), "a state was written to"
    with pytest.raises(ValueError, match="state must be a tuple"):
        fixed.step(x[:, 0], state[:-1] if len(state) > 1 else ())
    with pytest.raises(ValueError, match="features"):
        fixed.step(x[:, 0, :-1], state)


@pytest.mark.parametrize("layer", [lm.RNN, lm.LSTM])
def test_a_thousand_streams_take_their_states_and_no_more(layer):
    fixed = layer(8, 16, rng=0).for_inference()
    x = np.random.default_rng(0).standard_normal((3, 1000, 8)).astype(np.float32)
    together = fixed.initial_state(1000)
    streams = [fixed.initial_state(1) for _ in range(1000)]

    def step(x_t):
        for k in range(1000):
            _, streams[k] = fixed.step(x_t[k : k + 1], streams[k])

    tracemalloc.start()
    try:
        step(x[0])
        before, _ = tracemalloc.get_traced_memory()
        for x_t in x[1:]:
            step(x_t)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000  # ten bytes a stream
    for x_t in x:
        _, together = fixed.step(x_t, together)
    for j, a in enumerate(together[0]):
        assert_same(np.concatenate([state[0][j] for state in streams]), a)


# Denormal numbers


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a mode of x86 alone")
@pytest.mark.parametrize("shared", [False, True], ids=["ranks", "columns"])
def test_denormal_numbers_are_zero_within_a_block_alone(shared, monkeypatch):
    monkeypatch.setattr(recurrent, "SERIAL", 0)
    for name, value in (("LEAST", 0 if shared else 10**9), ("SOME", 0), ("MOST", 1000)):
        monkeypatch.setattr(columns, name, value)
    monkeypatch.setattr(threads, "count", lambda: 2)
    layer = lm.RNN(1, 16, activation="relu", bias=False, rng=0)
    layer.weight_x = np.full((1, 16), 1e-40)
    layer.weight_h = np.eye(16)
    x, dy = np.ones((4, 3, 1), np.float32), np.full((4, 3, 16), 1e-40, np.float32)
    y, cache = layer.forward(x, training=True)
    _, before, _ = layer.run_backward(dy, None, cache)
    assert y.all()
    assert np.all(before)
    # pytest imports modules with doctests a second time; this is the one that kernels see.
    with recurrent.denormals.flush_denormals():
        assert not layer(x).any()
        _, before, _ = layer.run_backward(dy, None, cache)
        assert not np.any(before)
    assert np.all(np.full(4, 1e-40, np.float32) * np.float32(0.5) > 0), "not restored"
    assert_same(layer(x), y)  # in every thread


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a mode of x86 alone")
@pytest.mark.parametrize("n", [1, 4, 5])
@pytest.mark.parametrize("kind", [lm.RNN, lm.LSTM])
def test_denormal_numbers_are_zero_in_a_step_of_an_inference_model(kind, n):
    layer = kind(1, 16, bias=False, rng=0)
    layer.weight_x, layer.weight_h = layer.weight_x * 0 + 1e-40, layer.weight_h * 0
    fixed, x = layer.for_inference(), np.ones((n, 1), np.float32)
    start = fixed.initial_state(n)
    y, _ = fixed.step(x, start)
    assert y.all()
    with recurrent.denormals.flush_denormals():
        assert not fixed.step(x, start)[0].any()
    assert np.all(np.full(4, 1e-40, np.float32) * np.float32(0.5) > 0), "not restored"
    assert_same(fixed.step(x, start)[0], y)
