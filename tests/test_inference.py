"""Inference models: what becomes one, what stays apart, and that nothing changes them."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same, random
from lamina import fusion
from lamina.engine.program import Microbatches, Program


def trained(model, shape, dtype=np.float32):
    """A model whose running statistics and parameters are not those of its birth."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        model.forward((2 * rng.standard_normal(shape) + 1).astype(dtype), training=True)
    for name, p in model.params.items():
        if name.endswith(("gamma", "beta", "bias")):
            p += rng.standard_normal(p.shape).astype(dtype)
    return model


def fused(fixed):
    """The names of the layers that are one, for each part that runs."""
    return [[type(layer).__name__ for layer in part.layers] for part in fixed._run.call.needed]


def same_calls(fixed, model, x, **options):
    """Hold an inference model against its model; to the bit by formulas."""
    dtype = model.dtype or x.dtype
    assert_close(fixed(x, **options), model(x, **options), dtype, terms=200)
    with lm.formulas():
        assert_same(fixed(x, **options), model(x, **options))


NETWORKS = {
    "MLP": (
        lambda **kw: lm.Sequential(
            lm.Linear(30, 64, bias=False, **kw),
            lm.BatchNorm(64, **kw),
            lm.ReLU(),
            lm.Dropout(0.5),
            lm.Linear(64, 17, **kw),
            lm.BatchNorm(17, gamma=False, **kw),
            lm.Linear(17, 5, **kw),
            rng=0,
        ),
        (50, 30),
    ),
    "images": (
        lambda **kw: lm.Sequential(
            lm.Conv2d(3, 16, 3, padding="same", bias=False, **kw),
            lm.BatchNorm(16, beta=False, **kw),
            lm.ReLU(),
            lm.Residual(
                lm.Sequential(
                    lm.Conv2d(16, 16, 3, padding="same", **kw),
                    lm.BatchNorm(16, **kw),
                    lm.ReLU(),
                    lm.Conv2d(16, 16, 1, **kw),
                    lm.BatchNorm(16, **kw),
                )
            ),
            lm.ReLU(),
            lm.Conv2d(16, 16, 3, groups=16, stride=2, padding="same", **kw),
            lm.BatchNorm(16, **kw),
            lm.ReLU(),
            lm.Conv2d(16, 12, 3, groups=4, padding="same", padding_mode="reflect", **kw),
            lm.BatchNorm(12, **kw),
            lm.GlobalAvgPool(),
            lm.Linear(12, 10, **kw),
            rng=0,
        ),
        (6, 9, 8, 3),
    ),
    "volumes": (
        lambda **kw: lm.Sequential(
            lm.Conv3d(2, 8, (1, 3, 2), **kw),
            lm.BatchNorm(8, **kw),
            lm.ReLU(),
            lm.MaxPool3d((1, 2, 2)),
            lm.ConvTranspose3d(8, 8, (1, 2, 2), stride=(1, 2, 2), **kw),
            lm.BatchNorm(8, **kw),
            lm.Flatten(),
            lm.Linear(3 * 4 * 4 * 8, 4, **kw),
            rng=0,
        ),
        (8, 3, 6, 6, 2),
    ),
    "decoder": (
        lambda **kw: lm.Sequential(
            lm.ConvTranspose2d(7, 32, (3, 2), bias=False, **kw),  # of one pixel: a product
            lm.BatchNorm(32, **kw),
            lm.ReLU(),
            lm.ConvTranspose2d(32, 24, 4, stride=2, padding=1, **kw),
            lm.BatchNorm(24, **kw),
            lm.ReLU(),
            lm.ConvTranspose2d(24, 20, 2, stride=3, padding=1, output_padding=2, **kw),  # gaps
            lm.BatchNorm(20, **kw),
            lm.ReLU(),
            lm.ConvTranspose2d(20, 16, 3, padding=1, **kw),
            lm.BatchNorm(16, **kw),
            lm.ReLU(),
            lm.ConvTranspose2d(16, 32, 3, stride=2, padding="same", groups=8, **kw),
            lm.BatchNorm(32, **kw),
            lm.ReLU(),
            lm.ConvTranspose2d(32, 40, 3, stride=(1, 2), groups=2, **kw),
            lm.BatchNorm(40, **kw),
            lm.ConvTranspose2d(40, 3, 4, stride=2, padding=1, **kw),
            lm.BatchNorm(3, **kw),
            lm.ReLU(),
            lm.Flatten(),
            lm.Linear(72 * 90 * 3, 20, **kw),
            rng=0,
        ),
        (5, 1, 1, 7),
    ),
    "signals": (
        lambda **kw: lm.Sequential(
            lm.Conv1d(5, 16, 3, padding="causal", dilation=2, **kw),
            lm.BatchNorm(16, **kw),
            lm.ReLU(),
            lm.Concat(
                lm.Sequential(lm.Conv1d(16, 8, 2, padding="causal", **kw), lm.BatchNorm(8, **kw)),
                lm.Linear(16, 8, **kw),
            ),
            lm.LSTM(16, 6, **kw),
            lm.Dropout(0.2),
            lm.Linear(6, 4, **kw),
            rng=0,
        ),
        (4, 12, 5),
    ),
}


def networks(dtype):
    for make, shape in NETWORKS.values():
        yield trained(make(dtype=dtype), shape, dtype), random("x", shape, dtype)


# What becomes one


def test_what_becomes_one():
    model, _ = next(networks(np.float32))
    assert fused(model.for_inference()) == [
        ["Linear", "BatchNorm", "ReLU", "Dropout"],
        ["Linear", "BatchNorm"],
        ["Linear"],
    ]
    model = lm.Sequential(
        lm.Dropout(0.1),
        lm.Sequential(lm.Conv1d(3, 4, 1), lm.Sequential(lm.Identity(), lm.BatchNorm(4))),
        lm.ReLU(),
        lm.ReLU(),
        lm.BatchNorm(4),
        lm.Dropout(0.1),
        lm.Dropout(0.1, always=True),
        lm.Dropout(0.1, mode="classic"),
        lm.Linear(4, 4),
        lm.Tanh(),
        lm.BatchNorm(4),
        lm.ReLU(),
        lm.ConvTranspose2d(4, 6, 3, groups=2),
        lm.BatchNorm(6),
        lm.ReLU(),
    )
    assert fused(model.for_inference()) == [
        ["Dropout"],
        ["Conv1d", "Identity", "BatchNorm", "ReLU"],
        ["ReLU"],
        ["BatchNorm"],
        ["Dropout"],
        ["Dropout"],
        ["Linear"],
        ["Tanh"],
        ["BatchNorm"],
        ["ReLU"],
        ["ConvTranspose2d", "BatchNorm", "ReLU"],
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, dtype):
    make, shape = NETWORKS[name]
    model, x = trained(make(dtype=dtype), shape, dtype), random("x", shape, dtype)
    fixed = model.for_inference()
    same_calls(fixed, model, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["MLP", "images", "decoder", "volumes"])
def test_same_bits_in_any_batch_on_any_threads(name, dtype):
    make, shape = NETWORKS[name]
    x = random("x", shape, dtype)
    fixed = trained(make(dtype=dtype), shape, dtype).for_inference()
    y = fixed(x)
    for n in range(len(x)):
        assert_same(fixed(x[n : n + 1]), y[n : n + 1])
    with lm.threads(1):
        assert_same(fixed(x), y)


@pytest.mark.parametrize("name", NETWORKS)
def test_is_as_exact_as_its_model(name):
    make, shape = NETWORKS[name]
    for seed in range(3):
        model = make(dtype=np.float32)
        model.initialize(seed)
        model, x = trained(model, shape), random(f"x {seed}", shape, np.float32)
        exact = model.astype(np.float64)(x.astype(np.float64))
        live = np.max(np.abs(model(x) - exact))
        assert np.max(np.abs(model.for_inference()(x) - exact)) <= 2 * live


@pytest.mark.parametrize("name", ["MLP", "images", "decoder", "volumes"])
def test_networks_run_by_programs(name):
    make, shape = NETWORKS[name]
    fixed = trained(make(dtype=np.float32), shape).for_inference()
    segments = fixed._run.call.segments
    assert len(segments) == 1
    xs = [random(f"x {n}", (n, *shape[1:]), np.float32) for n in (1, 5, 1, 5, 2)]
    ys = [fixed(x) for x in xs]
    for x, y in zip(xs, ys, strict=True):
        called = x
        for part in segments[0].parts:
            called = part.run.call(called)
        assert_same(y, called)
    assert segments[0].program.cache_info()[:2] == (2, 3)  # hits and misses
    assert segments[0].program(xs[0].shape, xs[0].dtype, 1) is not None


@pytest.mark.parametrize("batches", [1, 3, 99])
@pytest.mark.parametrize("name", ["images", "decoder", "volumes"])
def test_batches_go_by_microbatches(monkeypatch, name, batches):
    make, shape = NETWORKS[name]
    model = trained(make(dtype=np.float32), shape)
    x = random("x", (7, *shape[1:]), np.float32)
    expected = model.for_inference()(x)
    fixed = model.for_inference()
    between = fusion._whole(fixed._run.call.needed[:-1], x.shape, x.dtype).size
    monkeypatch.setattr(fusion, "CACHED", -(-between // batches))
    assert_same(fixed(x), expected)
    assert_same(fixed(x[::-1])[::-1], expected)
    program = fixed._plain.program(x.shape, x.dtype, None)
    counts = program.counts if isinstance(program, Microbatches) else [7]
    assert counts == {1: [7], 3: [2, 2, 3], 99: [1] * 7}[batches]
    for memories in program.waiting if isinstance(program, Microbatches) else ():
        assert len(memories) == len(set(counts))
        assert len({id(memory.scratch) for memory in memories.values()}) == 1


@pytest.mark.parametrize(
    ("count", "counts"),
    [(1, [4, 5, 5, 5]), (2, [4, 6, 4, 5]), (3, [3, 6, 6, 4]), (8, [4, 5, 5, 5])],
)
def test_a_microbatch_gives_all_threads_as_many_samples(monkeypatch, count, counts):
    make, shape = NETWORKS["images"]
    fixed, shape = make(dtype=np.float32).initialize(0).for_inference(), (19, *shape[1:])
    between = fusion._whole(fixed._run.call.needed[:-1], shape, np.dtype(np.float32)).size
    monkeypatch.setattr(fusion, "CACHED", -(-between // 4))
    monkeypatch.setattr(fusion.threads, "count", lambda: count)
    assert fixed._plain.program(shape, np.dtype(np.float32), None).counts == counts


def test_vectors_go_all_at_once(monkeypatch):
    monkeypatch.setattr(fusion, "CACHED", 1)
    make, shape = NETWORKS["MLP"]
    fixed = make(dtype=np.float32).for_inference()
    fixed(random("x", shape, np.float32))
    assert isinstance(fixed._plain.program(shape, np.dtype(np.float32), None), Program)
    flat = lm.Sequential(lm.Flatten(), *make(dtype=np.float32)).for_inference()
    x = random("x", (50, 5, 6), np.float32)
    flat(x)
    assert isinstance(flat._plain.program(x.shape, x.dtype, None), Program)


@pytest.mark.parametrize("around", [lm.Sequential, lm.Residual, lm.Concat])
def test_samples_share_the_steps_of_recurrent_layers(monkeypatch, around):
    monkeypatch.setattr(fusion, "CACHED", 1)
    fixed = lm.Sequential(lm.Linear(5, 4, rng=0), around(lm.LSTM(4, 4, rng=1))).for_inference()
    assert isinstance(fixed._plain.program((6, 5, 5), np.dtype(np.float32), None), Program)


def test_a_layer_of_ones_own_parts_programs():
    model = lm.Sequential(lm.Linear(6, 6), Scale(6), lm.Residual(lm.Linear(6, 6)), lm.ReLU())
    fixed = model.initialize(0).for_inference()
    counts = [len(segment.parts) for segment in fixed._run.call.segments]
    assert counts == [1, 1, 1]
    same_calls(fixed, model, random("x", (4, 6), np.float32))


@pytest.mark.parametrize("shortcut", [None, lm.Linear(6, 6, rng=1)])
def test_a_residual_takes_in_the_relu_after_it(shortcut):
    residual = lm.Residual(lm.Sequential(lm.Linear(6, 6, rng=0)), shortcut)
    model = lm.Sequential(residual, lm.ReLU(), residual)
    fixed = model.for_inference()
    assert fused(fixed) == [["Residual", "ReLU"], ["Residual"]]
    x = random("x", (9, 6), np.float32)
    x[0] = np.nan
    assert_same(fixed(x), model(x))


def test_without_a_batchnorm_the_bits_are_those_of_the_model():
    model = lm.Sequential(
        lm.Conv2d(3, 20, 3),
        lm.ReLU(),
        lm.ConvTranspose2d(20, 17, 3, stride=2),
        lm.ReLU(),
        lm.Conv2d(17, 7, 3),
        lm.ReLU(),
        lm.ConvTranspose2d(7, 3, 3, stride=2),
        lm.ReLU(),
        rng=0,
    )
    x = random("x", (2, 9, 8, 3), np.float32)
    assert_same(model.for_inference()(x), model(x))
    layer, x = lm.Linear(33, 65, rng=0), random("x", (2, 3, 33), np.float32)
    assert_same(layer.for_inference()(x), layer(x))


@pytest.mark.parametrize(
    "layer", [lm.Linear(2, 3), *(lm.ConvTranspose1d(2, o, 3, stride=2) for o in (1, 17))]
)
def test_relu_lets_nan_through(layer):
    model = lm.Sequential(layer, lm.ReLU(), rng=0)
    x = np.array([[[np.nan, 1]], [[1, 1]]], np.float32)
    y = model.for_inference()(x)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_a_layer_in_two_places_becomes_one_with_the_neighbours_of_each():
    shared = lm.Linear(6, 6, rng=0)
    norm = lm.BatchNorm(6)
    model = lm.Sequential(
        shared, norm, lm.ReLU(), shared, shared, norm, lm.Tanh(), lm.Residual(shared)
    )
    trained(model, (20, 6))
    x = random("x", (5, 6), np.float32)
    fixed = model.for_inference()
    same_calls(fixed, model, x)
    parts = fixed._run.call.parts
    assert parts[0].run is not parts[1].run
    relu = lm.ReLU()
    pair = lm.Sequential(shared, relu, shared, relu).for_inference()._run.call.parts
    assert pair[0].run is pair[1].run  # and its weights are packed once


@pytest.mark.parametrize(
    "model",
    [
        lm.Sequential(lm.Linear(6, 4), lm.BatchNorm(4, running=False)),
        lm.Sequential(lm.Linear(6, 4), lm.Tanh(), lm.BatchNorm(4)),
        lm.Sequential(lm.BatchNorm(6), lm.Linear(6, 4)),
    ],
)
def test_what_does_not_fold(model):
    trained(model, (9, 6))
    fixed = model.for_inference()
    assert ["Linear"] in fused(fixed)
    same_calls(fixed, model, random("x", (5, 6), np.float32))


@pytest.mark.parametrize("norm", [lm.BatchNorm(5), lm.BatchNorm(4, dtype=np.float64)])
def test_a_batchnorm_that_does_not_fit_is_refused_as_ever(norm):
    model, x = lm.Sequential(lm.Linear(6, 4), norm), np.ones((2, 6), np.float32)
    refusals = []
    for call in (model, model.for_inference()):
        with pytest.raises((ValueError, TypeError)) as refusal:
            call(x)
        refusals.append((str(refusal.value), refusal.value.__notes__))
    assert refusals[0] == refusals[1]


# Layers of one's own


class Scale(lm.Layer):
    """A layer that knows nothing of inference models."""

    def __init__(self, features):
        self.params["scale"] = np.full(features, 2, np.float32)

    def forward(self, x, *, training=False):
        return x * self.params["scale"], x

    def backward(self, dy, cache):
        return dy * self.params["scale"], {"scale": (dy * cache).sum(0)}


class Halved(lm.Linear):
    """A Linear that computes otherwise."""

    def forward(self, x, **options):
        y, cache = super().forward(x, **options)
        return y / 2, cache


class Head(lm.Linear):
    """A Linear with a constructor of its own."""

    def __init__(self, dtype=np.float32):
        super().__init__(6, 6, dtype=dtype, rng=0)


class Twice(lm.Sequential):
    """A container that computes otherwise."""

    def __call__(self, x, **options):
        return 2 * super().__call__(x, **options)


class Block(lm.Sequential):
    """A container of the usual kind, with a method more."""

    def __init__(self):
        super().__init__(Head(), lm.ReLU())

    def more(self):
        return None


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        (Scale(6), [["Scale"], ["BatchNorm"], ["ReLU"]]),
        (Halved(6, 6, rng=0), [["Halved"], ["BatchNorm"], ["ReLU"]]),
        (Twice(lm.Linear(6, 6, rng=0)), [["Twice"], ["BatchNorm"], ["ReLU"]]),
        (Head(), [["Head", "BatchNorm", "ReLU"]]),
        (Block(), [["Head", "ReLU"], ["BatchNorm"], ["ReLU"]]),
    ],
)
def test_layers_of_ones_own(layer, parts):
    model = lm.Sequential(layer, lm.BatchNorm(6), lm.ReLU())
    trained(model, (20, 6))
    fixed = model.for_inference()
    assert fused(fixed) == parts
    x = random("x", (4, 6), np.float32)
    same_calls(fixed, model, x)
    assert_same(layer.for_inference()(x), layer(x))


@pytest.mark.parametrize(
    ("kind", "arguments"), [(lm.BatchNorm, (6,)), (lm.Dropout, (0.5,)), (lm.Identity, ())]
)
def test_layers_of_ones_own_that_others_would_take_in(kind, arguments):
    class More(kind):
        def forward(self, x, **options):
            y, cache = super().forward(x, **options)
            return y + 1, cache

    model = lm.Sequential(lm.Linear(6, 6, rng=0), More(*arguments), lm.ReLU())
    same_calls(model.for_inference(), model, random("x", (4, 6), np.float32))


def test_options_of_ones_own():
    class Shifted(lm.Layer):
        def forward(self, x, *, by=0, training=False):
            return x + by, None

        def backward(self, dy, cache):
            return dy, {}

    assert Shifted().for_inference()(np.zeros(1), by=3) == 3


# Sequences


@pytest.mark.parametrize("lengths", [[12, 5, 0, 1], [3, 3, 3, 3]])
def test_lengths(lengths):
    model = trained(NETWORKS["signals"][0](dtype=np.float64), (4, 12, 5), np.float64)
    fixed, x = model.for_inference(), random("x", (4, 12, 5))
    for n, length in enumerate(lengths):
        x[n, length:] = np.nan
    same_calls(fixed, model, x, lengths=lengths)
    y = fixed(x, lengths=lengths)
    for n, length in enumerate(lengths):
        assert_same(y[n, length:], np.zeros_like(y[n, length:]))
        if length:
            assert_close(fixed(x[n : n + 1, :length])[0], y[n, :length], np.float64)


def test_lengths_that_grow():
    model = lm.Sequential(
        lm.ConvTranspose1d(5, 8, 3, stride=2, padding=1), lm.BatchNorm(8), lm.ReLU(), rng=0
    )
    trained(model, (4, 12, 5))
    fixed, x = model.for_inference(), random("x", (4, 12, 5), np.float32)
    assert len(fused(fixed)) == 1
    same_calls(fixed, model, x, lengths=[12, 5, 0, 1])
    same_calls(fixed, model, x)


def test_what_does_nothing_else_clears_the_padding():
    class Blind(lm.Layer):
        def forward(self, x, *, lengths=None, training=False):
            return x + 1, None

        def backward(self, dy, cache):
            return dy, {}

    model = lm.Sequential(Blind(), lm.Dropout(0.5))
    x = np.full((1, 3, 2), np.nan, np.float32)
    assert_same(model.for_inference()(x, lengths=[0]), np.zeros((1, 3, 2), np.float32))


def test_lengths_where_a_layer_takes_none():
    model = lm.Sequential(lm.Linear(3, 3), Scale(3))
    for call in (model, model.for_inference()):
        with pytest.raises(TypeError, match="takes no lengths") as refusal:
            call(np.ones((1, 2, 3), np.float32), lengths=[1])
        assert refusal.value.__notes__ == ["in layer 1 of Sequential"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_have_the_bits_of_a_call(dtype):
    model = lm.Sequential(
        lm.Sequential(lm.Conv1d(5, 16, 3, padding="causal", dilation=12), lm.Dropout()),
        lm.BatchNorm(16),
        lm.ReLU(),
        lm.Residual(lm.Sequential(lm.Conv1d(16, 16, 2, padding="causal"), lm.BatchNorm(16))),
        lm.Conv1d(16, 6, 3, padding="causal", groups=2),
        lm.ReLU(),
        lm.Linear(6, 4),
        rng=0,
    ).astype(dtype)
    trained(model, (4, 30, 5), dtype)
    fixed, x = model.for_inference(), random("x", (3, 40, 5), dtype)
    y = fixed(x)
    state, live = fixed.initial_state(3), model.initial_state(3)
    for t in range(40):
        y_t, state = fixed.step(x[:, t], state)
        assert_same(y_t, y[:, t], f"step {t}")
        _, live = model.step(x[:, t], live)
    y_t, _ = fixed.step(x[:, 0], live)  # a state of the model serves as well
    assert_close(y_t, model.step(x[:, 0], live)[0], dtype, terms=200)
    y_0, _ = fixed.step(x[:, 0], None)
    assert_same(y_0, y[:, 0])


def test_steps_that_the_model_refuses():
    model = lm.Sequential(lm.Linear(3, 3), lm.LSTM(3, 2, bidirectional=True))
    fixed = model.for_inference()
    assert not fixed.stepwise
    for each in (model, fixed):
        with pytest.raises(TypeError, match=r"LSTM.*step"):
            each.step(np.ones((1, 3), np.float32), None)
        with pytest.raises(ValueError, match="state must be a tuple of 2 entries"):
            each.step(np.ones((1, 3), np.float32), ())


# What it is made of stays


def test_later_changes_of_the_model_do_not_reach_it():
    for model, x in networks(np.float32):
        fixed = model.for_inference()
        before = fixed(x)
        for a in (*model.params.values(), *model.buffers.values()):
            a[...] = 0
        assert_same(fixed(x), before)


def test_nothing_changes_it():
    model, x = next(networks(np.float32))
    fixed = model.for_inference()
    y, cache = fixed.forward(x)
    assert_same(y, fixed(x))
    assert cache is None
    for name, a in {**fixed.params, **fixed.buffers}.items():
        if "calls" not in name:
            with pytest.raises(ValueError, match="read-only"):
                a[...] = 0
    for what, act in {
        "gradients": lambda: fixed.backward(y, cache),
        "a pass to differentiate": lambda: fixed.forward(x, training=True),
        "windows of a sequence": lambda: fixed.run(x),
        "new parameters": lambda: fixed.initialize(0),
        "assignment to params": lambda: setattr(fixed, "params", {}),
        "assignment to buffers": lambda: setattr(fixed, "buffers", {}),
        "assignment to note": lambda: setattr(fixed, "note", 1),
        "saving": lambda: lm.save(fixed, "nowhere.safetensors"),
    }.items():
        with pytest.raises(TypeError, match=f"Inference: is for calls and steps, not for {what}"):
            act()
    for act in (
        lambda: fixed.run_backward(y, None, None),
        lambda: fixed.assign({"0.weight": fixed.params["0.weight"]}),
        lambda: fixed(x, training=True),
        lambda: lm.fit(fixed, (x, y), loss=lm.MeanSquaredError(), optimizer=lm.SGD(0.1), epochs=1),
    ):
        with pytest.raises(TypeError, match="is for calls and steps, not for"):
            act()
    assert_same(fixed(x), y)


@pytest.mark.parametrize("layer", [lm.RNN(3, 4, rng=0), lm.LSTM(3, 4, peepholes=True, rng=0)])
def test_keeps_no_trace(layer):
    fixed, x = layer.for_inference(), random("x", (2, 5, 3), np.float32)
    assert_same(fixed(x, trace=False), fixed(x))
    for act in (fixed, fixed.forward):
        for way in (nullcontext, lm.formulas):
            with (
                way(),
                pytest.raises(TypeError, match="is for calls and steps, not for a trace of"),
            ):
                act(x, trace=True)
    with pytest.raises(TypeError, match="not for windows of a sequence"):
        fixed.run(x, trace=True)


def test_dropout_at_inference_goes_on():
    layer = lm.Dropout(0.5, always=True, rng=0)
    model = lm.Sequential(lm.Linear(4, 100, rng=0), layer)
    fixed, x = model.for_inference(), np.ones((2, 4), np.float32)
    for _ in range(2):
        assert_same(fixed(x), model(x))
    assert (fixed(x) != fixed(x)).any()
    assert layer.calls == 2
    ids = np.array([7, 8])
    assert_same(
        fixed.for_inference().astype(np.float32)(x, sample_ids=ids) == 0,
        copy.deepcopy(fixed)(x, sample_ids=ids) == 0,
    )


def test_many_threads_at_once():
    for model, x in networks(np.float32):
        fixed = model.for_inference()
        expected = fixed(x)
        with ThreadPoolExecutor(8) as pool:
            for y in pool.map(lambda _, fixed=fixed, x=x: fixed(x), range(40)):
                assert_same(y, expected)


def test_copies():
    for model, x in networks(np.float32):
        fixed = model.for_inference()
        assert fixed.for_inference() is fixed
        for other in (copy.deepcopy(fixed), pickle.loads(pickle.dumps(fixed))):
            assert_same(other(x), fixed(x))
            assert repr(other) == repr(fixed) == f"{model!r}.for_inference()"
            with pytest.raises(ValueError, match="read-only"):
                next(iter(other.params.values()))[...] = 0
        wide = fixed.astype(np.float64)
        assert wide.dtype == np.float64
        assert_close(wide(x.astype(np.float64)), fixed(x), np.float32)


def test_has_what_the_model_has():
    for model, x in networks(np.float32):
        fixed = model.for_inference()
        assert fixed.output_shape(x.shape) == model.output_shape(x.shape)
        assert fixed.flops(x.shape) == model.flops(x.shape)
        assert fixed.stepwise == model.stepwise
        assert [name for name, *_ in fixed.trace(x.shape)] == [
            name for name, *_ in model.trace(x.shape)
        ]
        for found, expected in ((fixed.params, model.params), (fixed.buffers, model.buffers)):
            assert list(found) == list(expected)
            for name, a in expected.items():
                assert_same(found[name], a)
        assert_same(lm.predict(fixed, x, batch_size=3), fixed(x))
        lm.evaluate(fixed, (x, fixed(x)), loss=lm.MeanSquaredError())
        inside = lm.Sequential(fixed, lm.Identity())
        assert_same(inside(x), fixed(x))
        assert_same(inside.for_inference()(x), fixed(x))


def test_errors_say_where():
    model = lm.Sequential(lm.ReLU(), lm.Sequential(lm.ReLU(), lm.Concat(lm.Linear(4, 2))))
    x = np.ones((2, 3), np.float32)
    for call in (model, model.for_inference()):
        with pytest.raises(ValueError, match=r"Linear\(4, 2\): x has 3 features") as refusal:
            call(x)
        assert refusal.value.__notes__ == [
            "in layer 0 of Concat",
            "in layer 1 of Sequential",
            "in layer 1 of Sequential",
        ]
        with pytest.raises(ValueError, match=r"Linear\(4, 2\): x has 3 features") as refusal:
            call.step(x, call.initial_state(2))
        assert refusal.value.__notes__[0] == "in layer 0 of Concat"


def test_without_numba(monkeypatch):
    monkeypatch.setattr(fusion.kernels, "present", lambda: False)
    model, x = next(networks(np.float32))
    fixed = model.for_inference()
    assert fixed._run.call is fixed._model
    assert_same(fixed(x), model(x))
