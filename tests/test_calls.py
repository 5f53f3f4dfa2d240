"""Calls that are planned once: what they give is what `forward` gives, whatever changes."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import lamina as lm


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planned(layer, x, times=3):
    """Return y of the last of some calls; the third is planned."""
    for _ in range(times):
        y = layer(x)
    return y


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("layer", [lm.Linear(5, 4, rng=0), lm.ReLU()])
def test_planned_at_the_second_call(layer):
    x = np.ones((2, 5), np.float32)
    for count in range(2):
        layer(x)
        assert [hasattr(known, "run") for known in layer._calls.known.values()] == [count == 1]


def test_not_planned_where_parameters_are_replaced_between_calls(monkeypatch):
    planned = []
    monkeypatch.setattr(lm.calls, "_planned", lambda kind, layer: planned.append(kind))
    layer, x = lm.Linear(5, 4, rng=0), np.ones((2, 5), np.float32)
    for _ in range(5):
        layer.params["weight"] = layer.params["weight"] / 2
        layer(x)
    assert not planned
    layer(x)
    assert len(planned) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 16), (16,), (2, 3, 16), (40, 16), (0, 16)])
def test_same_bits(shape, bias, dtype, rng):
    layer = lm.Linear(16, 70, bias=bias, dtype=dtype, rng=rng)
    x = rng.standard_normal(shape).astype(dtype)
    wanted = layer.forward(x)[0]
    assert same(planned(layer, x), wanted)
    with lm.threads(1):
        assert same(planned(layer, x), wanted)
    flipped = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    flipped.flags.writeable = False
    assert same(planned(layer, flipped), wanted)


@pytest.mark.parametrize("sizes", [(33, 65, 17), (128, 128, 10), (40, 100, 100), (40, 300, 400)])
def test_same_bits_with_copies_of_weights(sizes, rng):
    m, i, o = sizes
    layer, xs = lm.Linear(i, o, rng=rng), rng.standard_normal((2, m, i)).astype(np.float32)
    for x in xs:
        assert same(planned(layer, x), layer.forward(x)[0])
        layer.params["weight"][...] *= 2
        assert same(layer(x), layer.forward(x)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (129, 257), (0, 4)])
@pytest.mark.parametrize(
    "layer",
    [lm.ReLU(), lm.LeakyReLU(0.1), lm.Sigmoid(), lm.Tanh(), lm.GELU(), lm.GELU(True), lm.SELU()],
)
def test_activations(layer, shape, dtype, rng):
    x = np.asarray(rng.standard_normal(shape), dtype)
    assert same(planned(layer, x), layer.forward(x)[0])
    assert same(planned(layer, x.T), layer.forward(x.T)[0])
    (y, cache), (its_y, its_cache) = layer.forward(x.T), layer.forward(x.T, training=True)
    assert same(its_y, y)
    assert same(layer.backward(x.T, its_cache)[0], layer.backward(x.T, cache)[0])


@pytest.mark.parametrize("options", [{}, {"gamma": False, "running": False}, {"momentum": None}])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 70), (2, 1)])
def test_batchnorm_in_training(shape, relu, options, rng):
    """A pass that is planned does what it does for an x whose shape is new."""
    features = shape[-1]
    layer = lm.BatchNorm(features, **options)
    model = lm.Sequential(layer, lm.ReLU()) if relu else layer
    for turn in range(4):
        x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
        layer.params["beta"][...] = rng.standard_normal(features)
        if turn == 3:
            layer.params["beta"] = layer.beta + 1
        fresh = copy.deepcopy(model)
        (y, cache), (wanted, its_cache) = (m.forward(x, training=True) for m in (model, fresh))
        assert same(y, wanted)
        (dx, grads), (its_dx, its_grads) = model.backward(dy, cache), fresh.backward(dy, its_cache)
        assert same(dx, its_dx)
        assert all(same(g, its_grads[name]) for name, g in grads.items())
        for name, a in model.buffers.items():
            assert same(a, fresh.buffers[name])
    with pytest.raises(ValueError, match="2 values a channel"):
        model.forward(x[:1, ..., :1].reshape(1, 1) if features == 1 else x[:0], training=True)


CONVOLUTIONS = {
    "narrow": (lm.Conv2d(1, 32, 3, rng=0), (1, 28, 28, 1)),
    "sequences": (lm.Conv1d(9, 64, 5, padding="same", rng=0), (2, 30, 9)),
    "strides": (lm.Conv2d(3, 8, 3, stride=2, dilation=2, padding=1, rng=0), (2, 9, 11, 3)),
    "reflected": (lm.Conv2d(3, 8, 3, padding=1, padding_mode="reflect", rng=0), (2, 9, 11, 3)),
    "a product": (lm.Conv2d(4, 70, 1, rng=0), (3, 5, 5, 4)),
    "one window": (lm.Conv2d(4, 6, (5, 3), bias=False, rng=0), (3, 5, 3, 4)),
    "groups": (lm.Conv2d(32, 64, 3, groups=2, rng=0), (1, 6, 7, 32)),
    "depthwise": (lm.Conv2d(16, 16, 3, groups=16, rng=0), (1, 6, 7, 16)),
    "volumes": (lm.Conv3d(2, 3, 2, dtype=np.float64, rng=0), (1, 4, 5, 6, 2)),
    "large": (lm.Conv2d(64, 64, 3, padding="same", rng=0), (4, 28, 28, 64)),
    "no windows": (lm.Conv2d(3, 8, 3, rng=0), (2, 0, 5, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, rng):
    layer, shape = copy.deepcopy(CONVOLUTIONS[name])
    x = rng.standard_normal(shape).astype(layer.dtype)
    wanted, cache = layer.forward(x)
    assert same(planned(layer, x), wanted)
    assert same(planned(layer, x[..., ::-1].copy()[..., ::-1]), wanted)
    with lm.threads(1):
        assert same(planned(layer, x), wanted)
    dy = rng.standard_normal(wanted.shape).astype(layer.dtype)
    dx, grads = layer.backward(dy, cache)
    y, cache = layer.forward(x, training=True)
    assert same(y, wanted)
    its_dx, its_grads = layer.backward(dy, cache)
    assert same(its_dx, dx)
    assert all(same(its_grads[name], g) for name, g in grads.items())
    layer.params["weight"][...] *= 2
    assert same(layer(x), layer.forward(x)[0])
    layer.params["weight"] = layer.weight * 3
    assert same(planned(layer, x), layer.forward(x)[0])
    with pytest.raises(ValueError, match="expected"):
        layer(x[0])


RECURRENT = {
    "few steps": (lm.RNN(20, 32, rng=0), (1, 3, 20)),
    "one step": (lm.LSTM(16, 128, rng=0), (1, 1, 16)),
    "columns": (lm.RNN(16, 256, bias=False, rng=0), (1, 7, 16)),
    "ReLU": (lm.RNN(5, 40, activation="relu", dtype=np.float64, rng=0), (3, 9, 5)),
    "batch": (lm.LSTM(7, 33, rng=0), (9, 20, 7)),
    "both directions": (lm.LSTM(7, 12, bidirectional=True, layers=2, rng=0), (2, 5, 7)),
    "their sum": (lm.RNN(7, 12, bidirectional=True, merge="sum", rng=0), (2, 5, 7)),
    "their mean": (lm.RNN(7, 12, bidirectional=True, merge="mean", rng=0), (2, 5, 7)),
    "copies of weights": (lm.RNN(16, 256, rng=0), (2, 9, 16)),
    "large": (lm.RNN(128, 128, rng=0), (32, 50, 128)),
    "projection": (lm.LSTM(7, 12, projection=5, rng=0), (2, 5, 7)),
    "peepholes": (lm.LSTM(7, 12, peepholes=True, rng=0), (2, 5, 7)),
    "dropout": (lm.RNN(7, 12, layers=2, dropout=0.5, recurrent_dropout=0.5, rng=0), (2, 5, 7)),
    "no steps": (lm.LSTM(7, 12, rng=0), (2, 0, 7)),
    "a state within a vector": (lm.LSTM(3, 2, layers=2, bidirectional=True, rng=0), (1, 5, 3)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name, rng):
    layer, shape = copy.deepcopy(RECURRENT[name])
    x = rng.standard_normal(shape).astype(layer.dtype)
    wanted = layer.forward(x)[0]
    fixed = layer.for_inference()
    for model in (layer, fixed):
        assert same(planned(model, x), wanted)
        assert same(planned(model, x), wanted)  # a state that is left behind would show
        with lm.threads(1):
            assert same(planned(model, x), wanted)
        with lm.flush_denormals():
            assert same(planned(model, x), wanted)
        assert same(model(x, lengths=[shape[1]] * len(x)), wanted)
    dy = rng.standard_normal(wanted.shape).astype(layer.dtype)
    passes = [layer.forward(x, training=not layer.children()) for _ in range(4)]
    dx, grads = layer.backward(dy, passes[0][1])
    for y, cache in passes:
        its_dx, its_grads = layer.backward(dy, cache)
        assert same(y, wanted)
        assert same(its_dx, dx)
        assert its_grads.keys() == grads.keys()
        assert all(same(its_grads[name], g) for name, g in grads.items())
    for a in layer.params.values():
        a *= 2
    assert same(layer(x), layer.forward(x)[0])
    y, _ = layer.forward(x, training=not layer.children())
    assert same(y, layer.forward(x)[0])
    layer.params["weight_h"] = layer.weight_h * 3
    assert same(planned(layer, x), layer.forward(x)[0])
    assert same(fixed(x), wanted)
    with pytest.raises(ValueError, match="expected"):
        layer(x[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cls", [lm.RNN, lm.LSTM])
def test_small_states_are_planned(cls, dtype):
    """Also those that fill no vector."""
    for hidden in (1, 3, 8, 16):
        layer = cls(2, hidden, dtype=dtype, rng=0)
        planned(layer, np.ones((1, 4, 2), dtype))
        assert all(known.run is not None for known in layer._calls.known.values())


def test_softmax(rng):
    x = rng.standard_normal((7, 13)).astype(np.float32)
    softmax, (wanted, cache) = lm.Softmax(), lm.Softmax().forward(x)
    assert same(planned(softmax, x), wanted)
    y, its_cache = softmax.forward(x, training=True)
    assert same(y, wanted)
    assert same(softmax.backward(x, its_cache)[0], softmax.backward(x, cache)[0])
    with pytest.raises(ValueError, match="at least 1 class"):
        planned(lm.Softmax(), np.ones((), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layer", [lm.GlobalMaxPool(), lm.GlobalAvgPool(), lm.MaxPool2d(2), lm.AvgPool2d(2)]
)
def test_pools(layer, dtype, rng):
    x = rng.standard_normal((3, 6, 4, 17)).astype(dtype)
    x[1, 2, 3, 4] = np.nan
    assert same(planned(layer, x), layer.forward(x)[0])
    assert all(known.run is not None for known in layer._calls.known.values())
    x[1, 2, 3, 4] = 9
    assert same(planned(layer, x), layer.forward(x)[0])


def test_large_activations(rng):
    x = rng.standard_normal((2**21 + 3,)).astype(np.float32)
    assert same(planned(lm.ReLU(), x), lm.ReLU().forward(x)[0])


def test_parameters_may_change(rng):
    layer, x = lm.Linear(5, 4, rng=rng), rng.standard_normal((2, 5)).astype(np.float32)
    planned(layer, x)
    layer.weight = np.ones((5, 4))
    layer.params["bias"][...] = 1
    assert same(layer(x), layer.forward(x)[0])
    layer.params["weight"] = np.full((5, 4), 2, np.float32)
    assert same(planned(layer, x), layer.forward(x)[0])
    layer.params = {"weight": np.zeros((5, 4), np.float32), "bias": np.ones(4, np.float32)}
    assert same(planned(layer, x), np.ones((2, 4), np.float32))


def test_arrays_that_were_replaced_are_let_go(rng):
    layer, xs = lm.Linear(5, 4, rng=rng), [np.ones((n, 5), np.float32) for n in (2, 3)]
    for x in xs:
        planned(layer, x)
    before = weakref.ref(layer.weight)
    layer.params["weight"] = layer.weight.copy()
    layer(xs[0])
    gc.collect()
    assert before() is None


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lm.Linear(6, 9, rng=0), (4, 6)),
        (lm.Conv2d(3, 5, 3, stride=2, padding=1, rng=0), (2, 7, 8, 3)),
        (lm.Conv2d(16, 20, 3, padding=1, bias=False, rng=0), (2, 7, 8, 16)),
        (lm.Conv1d(4, 8, 3, groups=4, padding="causal", rng=0), (2, 9, 4)),
    ],
)
def test_a_pass_of_training(layer, shape, relu, rng):
    """By a plan it is that of the first call, also when values and arrays have changed."""
    model = lm.Sequential(layer, *[lm.ReLU()] * relu)
    x = rng.standard_normal(shape, np.float32)
    dy = rng.standard_normal(model.output_shape(shape), np.float32)
    for change in (lambda w: w, lambda w: np.multiply(w, 2, out=w), lambda w: w.copy() + 1):
        layer.weight = change(layer.weight)
        fresh = copy.deepcopy(model)
        y, cache = fresh.forward(x, training=True)
        dx, grads = fresh.backward(dy, cache)
        for _ in range(3):
            its_y, its_cache = model.forward(x, training=True)
            its_dx, its_grads = model.backward(dy, its_cache)
            assert same(its_y, y)
            assert same(its_dx, dx)
            assert all(same(its_grads[name], grads[name]) for name in grads)
        assert any(known.run for known in layer._calls.known.values())


@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_backward(bias, rng):
    layer, x = lm.Linear(5, 4, bias=bias, rng=rng), rng.standard_normal((2, 5)).astype(np.float32)
    dy = np.ones((2, 4), np.float32)
    passes = [layer.forward(x[:, ::-1].copy()[:, ::-1], training=True) for _ in range(3)]
    (y, cache), *others = passes
    dx, grads = layer.backward(dy, cache)
    for other, its_cache in others:
        assert same(other, y)
        its_dx, its_grads = layer.backward(dy, its_cache)
        assert same(its_dx, dx)
        assert its_grads.keys() == grads.keys()
        assert all(same(its_grads[name], grads[name]) for name in grads)


def test_arrays_that_do_not_fit(rng):
    layer, x = lm.Linear(5, 4, rng=rng), rng.standard_normal((2, 5)).astype(np.float32)
    planned(layer, x)
    with pytest.raises(ValueError, match="expected 5"):
        layer(np.ones((2, 4), np.float32))
    with pytest.raises(TypeError, match="float64"):
        layer(x.astype(np.float64))
    layer.params["weight"] = np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match="weight has become"):
        layer(x)


@pytest.mark.parametrize("layer", [lm.Linear(5, 4, rng=0), lm.Conv1d(5, 4, 3, rng=0)])
def test_parameters_that_do_not_lie_row_by_row(layer, rng):
    layer, x = copy.deepcopy(layer), rng.standard_normal((2, 6, 5)).astype(np.float32)
    wanted = planned(layer, x)
    layer.params["weight"] = np.asfortranarray(layer.weight)
    layer.params["bias"] = np.repeat(layer.bias, 2)[::2]
    assert same(planned(layer, x), wanted)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_arrays_resized_in_place(name, rng):
    layer, x = lm.Linear(5, 4, rng=rng), rng.standard_normal((2, 5)).astype(np.float32)
    layer.params[name] = layer.params[name].copy()  # with memory of its own
    planned(layer, x)
    layer.params[name].resize((1,), refcheck=False)
    with pytest.raises(ValueError, match=f"{name} has become"):
        layer(x)


def test_formulas(rng):
    layer, x = lm.Linear(50, 40, rng=rng), rng.standard_normal((20, 50)).astype(np.float32)
    planned(layer, x)
    with lm.formulas():
        assert same(planned(layer, x), x @ layer.weight + layer.bias)


def test_copies(rng):
    layer, x = lm.Linear(5, 4, rng=rng), rng.standard_normal((2, 5)).astype(np.float32)
    wanted = planned(layer, x)
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same(planned(other, x), wanted)
        other.params = {**layer.params, "weight": np.zeros((5, 4), np.float32)}
        assert same(planned(other, x), np.broadcast_to(layer.bias, (2, 4)))
        assert same(planned(layer, x), wanted)


def test_a_copy_has_options_of_its_own(rng):
    norm, x = lm.BatchNorm(4), rng.normal(5, 2, (8, 4)).astype(np.float32)
    probe = copy.copy(norm)
    probe.update = False
    for _ in range(3):
        probe.forward(x, training=True)
    assert (norm.config()["update"], probe.config()["update"]) == (True, False)
    norm.forward(x, training=True)
    assert int(norm.batches) == int(probe.batches) == 1
    assert (norm.running_mean > 0.1).all()
    assert same(norm.running_mean, probe.running_mean)
    probe.params["gamma"] = np.zeros(4, np.float32)
    assert (norm.gamma == 1).all()


def test_subclass(rng):
    class Twice(lm.Linear):
        def forward(self, x, *, lengths=None, training=False):
            y, cache = super().forward(x, lengths=lengths, training=training)
            return 2 * y, cache

    layer, x = Twice(5, 4, rng=rng), rng.standard_normal((2, 5)).astype(np.float32)
    assert same(planned(layer, x), layer.forward(x)[0])


def test_many_shapes(rng):
    layer = lm.Linear(3, 2, rng=rng)
    for _ in range(3):
        for n in range(1, 60):
            x = rng.standard_normal((n, 3)).astype(np.float32)
            assert same(planned(layer, x), layer.forward(x)[0])


@pytest.mark.parametrize("sizes", [(16, 16), (600, 500)])
def test_threads_of_its_own(sizes, rng):
    layer = lm.Linear(*sizes, rng=rng)
    xs = rng.standard_normal((4, 3, sizes[0])).astype(np.float32)
    wanted = [layer.forward(x)[0] for x in xs]
    found = [[] for _ in xs]

    def work(i):
        found[i] += [layer(xs[i]) for _ in range(200)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for wanted_y, ys in zip(wanted, found, strict=True):
        assert len(ys) == 200
        assert all(same(y, wanted_y) for y in ys)


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (lm.LeakyReLU(0.1), "slope", 0.5),
        (lm.Conv2d(4, 4, 3, rng=0), "kernel_size", (1, 1)),
        (lm.Conv2d(4, 4, 3, rng=0), "stride", (2, 2)),
        (lm.Conv2d(4, 4, 3, rng=0), "dilation", (2, 2)),
        (lm.MaxPool2d(2), "pool_size", (1, 1)),
        (lm.MaxPool2d(2), "stride", (1, 1)),
    ],
)
def test_an_option_that_is_planned_stays(layer, name, value, rng):
    x = rng.standard_normal((1, 8, 8, 4)).astype(np.float32)
    before = planned(layer, x)
    with pytest.raises(AttributeError, match=f"{name} is settled when the layer is built"):
        setattr(layer, name, value)
    assert same(planned(layer, x), before)


def test_an_option_of_a_training_pass_that_is_set_anew(rng):
    layer, x = lm.BatchNorm(4), rng.standard_normal((8, 4)).astype(np.float32)
    for _ in range(3):
        before = layer.forward(x, training=True)[0]
    layer.eps = 0.5
    for _ in range(3):
        y = layer.forward(x, training=True)[0]
    assert not same(y, before)
    assert same(y, lm.BatchNorm(4, eps=0.5).forward(x, training=True)[0])


WRONG = [
    (lm.Linear(5, 4, rng=0), (2, 6)),
    (lm.Conv1d(3, 4, 3, rng=0), (2, 5, 4)),
    (lm.Conv2d(3, 4, 3, rng=0), (2, 2, 5, 3)),
    (lm.Conv2d(3, 4, 3, rng=0), (2, 5, 3)),
    (lm.MaxPool2d(3), (2, 2, 5, 3)),
    (lm.GlobalAvgPool(), (2, 3)),
    (lm.Softmax(), ()),
    (lm.RNN(3, 4, rng=0), (2, 5, 4)),
    (lm.LSTM(3, 4, layers=2, rng=0), (2, 3)),
    (lm.Sequential(lm.ReLU(), lm.Sequential(lm.Linear(5, 4, rng=0), lm.ReLU())), (2, 6)),
    (lm.Residual(lm.Linear(5, 4, rng=0)), (2, 5)),
    (lm.Sequential(lm.ReLU(), lm.Concat(lm.ReLU(), lm.Linear(5, 4, rng=0))), (2, 6)),
    (lm.Sequential(lm.LSTM(3, 4, rng=0), lm.Linear(5, 4, rng=0)), (2, 5, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), WRONG, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("inference", [False, True])
def test_an_error_is_that_of_the_first_call(layer, shape, dtype, inference):
    layer = layer.for_inference() if inference else copy.deepcopy(layer)
    found = []
    for _ in range(3):
        with pytest.raises((ValueError, TypeError)) as refusal:
            layer(np.zeros(shape, dtype))
        found.append((str(refusal.value), getattr(refusal.value, "__notes__", [])))
    assert found[0] == found[1] == found[2]
    if inference:
        with lm.formulas(), pytest.raises((ValueError, TypeError)) as refusal:
            layer(np.zeros(shape, dtype))
        by_formulas = str(refusal.value), getattr(refusal.value, "__notes__", [])
        assert found[0] == by_formulas


def test_an_error_of_training_is_that_of_the_first_pass():
    for layer, shape in [(lm.BatchNorm(3), (4, 2)), (lm.BatchNorm(1), (1, 1)), *WRONG]:
        found = []
        for _ in range(3):
            with pytest.raises((ValueError, TypeError)) as refusal:
                layer.forward(np.zeros(shape, np.float32), training=True)
            found.append((str(refusal.value), getattr(refusal.value, "__notes__", [])))
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("inference", [False, True])
def test_an_error_in_planning_is_not_lost(inference, monkeypatch):
    def mistaken(self, given, plan, x):
        raise ValueError("a mistake in planning")

    monkeypatch.setattr(lm.Linear, "_plan_given", mistaken)
    layer, x = lm.Linear(5, 4, rng=0), np.ones((2, 5), np.float32)
    layer = layer.for_inference() if inference else layer
    with pytest.raises(ValueError, match="a mistake in planning"):
        planned(layer, x)
