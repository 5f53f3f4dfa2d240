import copy
import inspect
import pickle
import pydoc
import re

import numpy as np
import pytest

import lamina as lm
from contract import assert_same, random
from lamina.layer import Parameter


class Scale(lm.Layer):
    """A user's layer: an __init__ that sets parameters, forward and backward, nothing else."""

    def __init__(self, features, start=1.0):
        self.params["scale"] = np.full(features, start, np.float32)

    def forward(self, x, *, training=False):
        return x * self.params["scale"], x

    def backward(self, dy, cache):
        axes = tuple(range(dy.ndim - 1))
        return dy * self.params["scale"], {"scale": np.sum(dy * cache, axis=axes)}


class Halve(lm.Layer):
    """A user's layer without an __init__."""

    def forward(self, x, *, training=False):
        return x / 2, None

    def backward(self, dy, cache):
        return dy / 2, {}


class Tall(lm.Layer):
    """A user's layer with every kind of argument, attributes for its arrays, and steps."""

    stepwise = True
    shift = Parameter()
    seen = Parameter()
    other = Parameter()

    def __init__(self, *sizes, mode, table=None, dtype=np.float32, rng=None):
        self.params = {"shift": np.zeros(sizes, dtype)}
        self.buffers = {"seen": np.zeros((), np.int64)}

    def forward(self, x, *, lengths=None, training=False):
        return x + self.shift, None

    def backward(self, dy, cache):
        return dy, {"shift": dy.reshape(-1, *self.shift.shape).sum(axis=0)}


def test_check_holds():
    x = random("x", (4, 3))
    assert lm.check(Scale(3), x).ok
    assert lm.check(Scale(3, start=0.5), random("x", (4, 2, 3)), training=False).ok
    assert lm.check(Halve(), x).ok
    assert lm.check(Tall(3, mode="a"), x).ok


def test_defaults():
    layer = Scale(3)
    assert layer.output_shape((7, 2, 3)) == (7, 2, 3)
    assert_same(layer.output_lengths(np.array([1, 2])), np.array([1, 2]))
    assert layer.flops((7, 3)) == 0
    assert layer.dtype == np.float32
    assert layer.astype(np.float64).dtype == np.float64
    assert layer.buffers == {}
    assert layer.children() == {}
    assert Halve().dtype is None
    assert_same(layer(np.ones((2, 3), np.float32)), np.ones((2, 3), np.float32))


def test_forward_is_inference_unless_told():
    dropout = lm.Dropout(0.9, rng=0)
    x = np.ones((4, 5))
    assert_same(dropout.forward(x)[0], x)


@pytest.mark.parametrize(
    ("layer", "text", "config"),
    [
        (Scale(3), "Scale(3)", {"features": 3, "start": 1.0}),
        (Scale(3, 2), "Scale(3, start=2)", {"features": 3, "start": 2}),
        (Scale(features=3), "Scale(3)", {"features": 3, "start": 1.0}),
        (Halve(), "Halve()", {}),
        (
            Tall(2, 3, mode="a", rng=0),
            "Tall(2, 3, mode='a')",
            {"sizes": (2, 3), "mode": "a", "table": None, "dtype": np.float32},
        ),
        (
            Tall(2, mode="b", dtype=np.float64).astype(np.float64),
            "Tall(2, mode='b', dtype=np.float64)",
            {"sizes": (2,), "mode": "b", "table": None, "dtype": np.float64},
        ),
        (
            Tall(mode="c", table=[1, 2]),
            "Tall(mode='c', table=[1, 2])",
            {"sizes": (), "mode": "c", "table": [1, 2], "dtype": np.float32},
        ),
    ],
    ids=["plain", "option", "by name", "none", "all", "dtype", "list"],
)
def test_repr_and_config(layer, text, config):
    assert repr(layer) == text
    assert layer.config() == config
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == text
        for name, a in layer.params.items():
            assert_same(other.params[name], a)


def test_repr_shows_an_array():
    assert "table=array([1, 2])" in repr(Tall(mode="c", table=np.array([1, 2])))


def test_wrong_arguments():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'features'"):
        Scale()
    with pytest.raises(TypeError, match=r"Halve: too many positional arguments; it takes \(\)"):
        Halve(3)
    takes = r"it takes \(in_channels, out_channels, kernel_size, \*, stride=1, .*, rng=None\)$"
    with pytest.raises(TypeError, match=rf"^Conv2d: too many positional arguments; {takes}"):
        lm.Conv2d(3, 8, 3, 1)
    with pytest.raises(TypeError, match=rf"^Conv1d: got an .* keyword argument 'strides'; {takes}"):
        lm.Conv1d(3, 8, 3, strides=2)
    with pytest.raises(TypeError, match=r"^LSTM: .* argument: 'hidden'; it takes \(in_features, h"):
        lm.LSTM(4)
    with pytest.raises(TypeError, match="abstract"):
        lm.Layer()


def test_in_a_sequential():
    model = lm.Sequential(lm.Linear(4, 3), Scale(3), Halve(), lm.ReLU(), rng=0)
    assert "1.scale" in model.params
    assert model.output_shape((5, 4)) == (5, 3)
    x = random("x", (5, 4))
    lm.check(model, x)
    assert_same(copy.deepcopy(model).astype(np.float64)(x), model.astype(np.float64)(x))


def test_a_layer_without_lengths_in_a_sequential():
    model = lm.Sequential(lm.Linear(4, 3, rng=0), Scale(3))
    with pytest.raises(TypeError, match=r"Scale\(3\): takes no lengths=; give its forward") as e:
        model(np.ones((2, 5, 4), np.float32), lengths=[5, 2])
    assert e.value.__notes__ == ["in layer 1 of Sequential"]


def test_all_that_forward_returned_is_no_cache():
    layer, x = lm.Linear(4, 3, rng=0), np.ones((2, 4), np.float32)
    found = layer.forward(x, training=True)
    with pytest.raises(TypeError, match=r"beside y, got tuple of 2 entries; keep both: y, cache"):
        layer.backward(found[0], found)


def test_an_option_that_forward_does_not_take():
    model, x = lm.Sequential(lm.Linear(4, 3, rng=0)), np.ones((2, 4), np.float32)
    for called in (model, model[0], model.for_inference()):
        with pytest.raises(TypeError, match="takes no mask=, since its forward takes none"):
            called(x, mask=None)


def test_a_layer_that_hands_on_its_options_in_a_sequential():
    class Own(lm.LSTM):
        def forward(self, x, **options):
            return super().forward(x, **options)

    model, x = lm.Sequential(Own(4, 3, rng=0)), np.ones((2, 5, 4), np.float32)
    assert_same(model(x, lengths=[5, 2]), lm.LSTM(4, 3, rng=0)(x, lengths=[5, 2]))


def test_steps_are_declared():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"Scale\(3\): cannot go step by step, since an output"):
        Scale(3).step(x, ())
    with pytest.raises(TypeError, match=r"Scale\(3\): cannot go step by step"):
        Scale(3).initial_state(2)
    layer = Tall(3, mode="a")
    assert layer.initial_state(2) == ()
    y, state = layer.step(x, layer.initial_state(2))
    assert_same(y, x)
    assert state == ()
    y, state, cache = layer.run(x[:, None], lengths=[1, 1])
    dx, dstate, grads = layer.run_backward(y, (), cache)
    assert_same(dx, y)
    assert (state, dstate) == ((), ())
    assert_same(grads["shift"], np.full(3, 2, np.float32))


def test_parameter_reads_and_writes_the_array():
    layer = Tall(3, mode="a")
    assert layer.shift is layer.params["shift"]
    assert layer.seen is layer.buffers["seen"]
    assert layer.other is None
    assert isinstance(Tall.shift, Parameter)
    before, value = layer.shift, [1, 2, 3]
    layer.shift = value
    assert layer.shift is before
    assert_same(before, np.array(value, np.float32))
    layer.seen = 7
    assert layer.buffers["seen"] == 7


def test_parameter_copies_what_it_is_given():
    layer, value = Scale(3), np.ones(3, np.float32)
    layer.assign({"scale": value})
    value[0] = 9
    assert layer.params["scale"][0] == 1
    layer.assign({"scale": layer.params["scale"][::-1]})


def test_parameter_refuses():
    layer = Tall(3, mode="a")
    with pytest.raises(ValueError, match=r"Tall\(3, mode='a'\): shift has shape \(3,\), got \(\)"):
        layer.shift = 1
    with pytest.raises(TypeError, match=r"shift has dtype float32, got <U1"):
        layer.shift = ["a", "b", "c"]
    with pytest.raises(TypeError, match=r"seen has dtype int64, got float64"):
        layer.seen = 0.5
    with pytest.raises(KeyError, match=r"no parameter or buffer named 'other'; it has shift, seen"):
        layer.other = 1
    with pytest.raises(KeyError, match=r"no parameter or buffer named 'a'; it has none"):
        Halve().assign({"a": 1})


def test_arrays_are_given_by_name():
    layer = Tall(3, mode="a")
    for act in (
        lambda: layer.assign([1]),
        lambda: layer.assign(None),
        lambda: setattr(layer, "params", 3),
        lambda: setattr(layer, "buffers", [1]),
    ):
        with pytest.raises(
            TypeError, match=r"Tall\(3, mode='a'\): .* a dict of arrays by name, got"
        ):
            act()
    with pytest.raises(TypeError, match=r"got Tall; give its arrays: other\.params"):
        layer.assign(layer)
    layer.assign(layer.params)


def test_a_sum_without_axes_stays_an_array():
    layer = Tall(2, mode="a")
    layer.buffers["seen"] = layer.buffers["seen"] + 1
    layer.seen = 5
    assert layer.buffers["seen"].tolist() == 5


def test_dtype_of_a_layer_whose_argument_is_none():
    class Late(Scale):
        def __init__(self, dtype=None):
            super().__init__(2)

    assert Late().dtype == np.float32


def test_a_call_is_inference():
    dropout = lm.Dropout(0.5, rng=0)
    for layer in (dropout, lm.Sequential(dropout), lm.Residual(dropout)):
        with pytest.raises(TypeError, match=r"a call is inference; .* training=True"):
            layer(np.ones((2, 3)), training=True)


def test_help_shows_what_a_class_and_a_call_take():
    assert list(inspect.signature(lm.Linear).parameters)[:2] == ["in_features", "out_features"]
    assert not inspect.signature(lm.ReLU).parameters
    assert next(iter(inspect.signature(lm.Linear(2, 3)).parameters)) == "x"
    shown = " ".join(pydoc.render_doc(lm.Conv2d, renderer=pydoc.plaintext).split())
    assert re.search(r"dtype: 'DTypeLike' = <class 'numpy.float32'>,[ |]+rng", shown)
    assert "Take no arguments" not in shown


def test_completion_offers_what_is_meant_to_be_used():
    assert set(dir(lm)) == {*lm.__all__, "__version__"}


def ten_times(cls):
    """Return a class whose y is ten times as large, and which says so by forward and backward."""

    class Ten(cls):
        def forward(self, x, **options):
            y, cache = super().forward(x, **options)
            return 10 * y, cache

        def backward(self, dy, cache):
            return super().backward(10 * dy, cache)

    return Ten


def ten_times_beside(cls):
    """Return the same, where the two methods are those of a class that is no layer."""
    return type("Ten", (ten_times(object), cls), {})


@pytest.mark.parametrize("ten_times", [ten_times, ten_times_beside])
@pytest.mark.parametrize(
    ("cls", "arguments", "shape"),
    [
        (lm.Linear, (3, 2), (4, 3)),
        (lm.Conv1d, (3, 2, 3), (4, 5, 3)),
        (lm.BatchNorm, (3,), (4, 3)),
        (lm.ReLU, (), (4, 3)),
        (lm.MaxPool1d, (2,), (4, 6, 3)),
        (lm.GlobalAvgPool, (), (4, 6, 3)),
        (lm.LSTM, (3, 2), (4, 5, 3)),
        (lm.Sequential, (lm.Linear(3, 3, rng=0), lm.ReLU()), (4, 3)),
        (lm.Residual, (lm.Linear(3, 3, rng=0),), (4, 3)),
    ],
)
def test_a_class_that_overrides_a_pass_is_called_and_trained_by_it(
    ten_times, cls, arguments, shape
):
    layer, x = ten_times(cls)(*arguments), random("x", shape, np.float32)
    for _ in range(3):  # calls that come again are planned
        y, cache = layer.forward(x)
        assert_same(layer(x), y)
        assert_same(lm.Sequential(layer, lm.ReLU())(x), np.maximum(y, 0))
    assert_same(layer.for_inference()(x), y)
    y, cache = layer.forward(x, training=True)
    _, grads = layer.backward(np.ones_like(y), cache)
    for name, g in layer.gradients(np.ones_like(y), cache).items():
        assert_same(g, grads[name])
    model = lm.Sequential(layer, lm.ReLU())
    y, cache = model.forward(x, training=True)
    found = model.backward(np.ones_like(y), cache)[0]
    y, cache = layer.forward(x, training=True)
    assert_same(found, layer.backward(np.where(y > 0, 1, 0).astype(np.float32), cache)[0])


def twice(cls):
    """Return a recurrent class whose x counts twice, and which says so by its runs."""

    class Two(cls):
        def run(self, x, *rest, **options):
            return super().run(2 * x, *rest, **options)

        def run_backward(self, dy, dstate, cache):
            dx, dstate, grads = super().run_backward(dy, dstate, cache)
            return 2 * dx, dstate, {name: 2 * g for name, g in grads.items()}

    return Two


@pytest.mark.parametrize("cls", [lm.RNN, lm.LSTM, lm.GRU])
def test_a_class_that_overrides_a_run_is_called_and_trained_by_it(cls):
    layer, usual, x = twice(cls)(3, 2, rng=0), cls(3, 2, rng=0), random("x", (4, 5, 3), np.float32)
    for _ in range(3):
        y, cache = layer.forward(x, training=True)
        for other in (usual, layer, lm.Sequential(layer), layer.for_inference()):
            assert_same(other(2 * x if other is usual else x), y)
    dx, grads = layer.backward(np.ones_like(y), cache)
    expected = usual.backward(np.ones_like(y), usual.forward(2 * x, training=True)[1])
    assert_same(dx, 2 * expected[0])
    for name, g in layer.gradients(np.ones_like(y), cache).items():
        assert_same(g, grads[name])
        assert_same(g, 2 * expected[1][name])
    assert not layer.stepwise  # its steps are those of the class above


@pytest.mark.parametrize("method", ["forward", "backward"])
@pytest.mark.parametrize(
    "make",
    [
        lambda convert: convert(lm.Sequential)(lm.LSTM(3, 2, rng=0)),
        lambda convert: convert(lm.Residual)(lm.LSTM(3, 3, rng=0)),
        lambda convert: convert(lm.LSTM)(3, 2, rng=0),
        lambda convert: convert(lm.GRU)(3, 2, rng=0),
        lambda convert: convert(lm.Conv1d)(3, 2, 3, padding="causal", rng=0),
    ],
)
def test_a_class_that_overrides_a_whole_pass_has_no_steps_of_another(make, method):
    assert make(lambda cls: cls).stepwise

    def overriding(cls):
        return type("Own", (cls,), {method: getattr(ten_times(cls), method)})

    assert not make(overriding).stepwise


def test_a_container_that_overrides_a_whole_pass_has_no_windows_of_its_layers():
    layer, x = lm.LSTM(3, 2, rng=0), np.ones((1, 2, 3), np.float32)
    with pytest.raises(TypeError, match="cannot go step by step"):
        ten_times(lm.Sequential)(layer).run(x)

    class Still(lm.Sequential):
        def backward(self, dy, cache):
            dx, grads = super().backward(dy, cache)
            return dx, {name: 0 * g for name, g in grads.items()}

    model = Still(layer)
    y, _, cache = model.run(x, training=True)
    with pytest.raises(TypeError, match="cannot go step by step"):
        model.run_backward(y, None, cache)
    with pytest.raises(TypeError, match="fit: bptt"):
        lm.fit(model, (x, y), loss=lm.MeanSquaredError(), optimizer=lm.SGD(0.1), epochs=1, bptt=1)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, path: lm.save(model, path / "model.safetensors"),
        lambda model, path: lm.fit(
            model,
            (np.ones((4, 3), np.float32), np.zeros(4, int)),
            loss=lm.CrossEntropy(),
            optimizer=lm.SGD(0.1),
            epochs=1,
        ),
        lambda model, path: model.astype(np.float64),
        lambda model, path: model.for_inference(),
        lambda model, path: model.initialize(0),
    ],
)
def test_a_layer_kept_as_an_attribute_is_refused(use, tmp_path):
    class Own(Halve):
        def __init__(self):
            self.inner = lm.Linear(3, 3, rng=0)

    with pytest.raises(
        TypeError, match=r"Own\(\): inner is a Linear, and a layer kept as an.*derive"
    ):
        use(lm.Sequential(Own(), lm.Linear(3, 2, rng=0)), tmp_path)


@pytest.mark.parametrize("kind", [list, tuple, lambda layers: dict(enumerate(layers))])
def test_layers_kept_in_an_attribute_are_refused(kind):
    layers = [lm.ReLU(), lm.Linear(3, 3, rng=0)]

    class Own(Halve):
        def __init__(self):
            self.inner = kind([1, layers[1]])

    class Known(lm.Sequential):
        def __init__(self):
            self.inner = kind(layers)
            super().__init__(*layers)

    class Lost(lm.Sequential):
        def __init__(self):
            self.inner = kind([*layers, lm.Linear(3, 3, rng=0)])
            super().__init__(*layers)

    for lost in (Own, Lost):
        with pytest.raises(
            TypeError, match=rf"^{lost.__name__}.*inner holds a Linear, and a layer"
        ):
            list(lm.Sequential(lost()).walk())
    assert len(list(Known().walk())) == 3


def test_options_are_set_later_where_they_count():
    rnn, dropout, norm = lm.RNN(2, 3, rng=0), lm.Dropout(0.5), lm.BatchNorm(2)
    with pytest.raises(AttributeError, match=r"activation is settled.*RNN\(\.\.\., activation='re"):
        rnn.activation = "relu"
    assert (rnn.activation, rnn.config()["activation"]) == ("tanh", "tanh")
    with pytest.raises(AttributeError, match="stride is settled"):
        lm.Conv2d(1, 1, 3).stride = 2
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got 2.0"):
        dropout.rate = 2.0
    with pytest.raises(ValueError, match="momentum"):
        norm.momentum = 5.0
    dropout.rate, norm.momentum, norm.frozen = 0.25, 0.95, True
    assert (repr(dropout), repr(norm)) == (
        "Dropout(rate=0.25)",
        "BatchNorm(2, momentum=0.95, frozen=True)",
    )
    assert Scale(3).settable is None  # of one's own: all that the constructor set


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (lm.Linear(2, 3), ["has_bias"]),
        (lm.Conv1d(2, 3, 1), ["has_bias"]),
        (lm.BatchNorm(2), ["has_gamma", "has_beta"]),
        (lm.MaxPool1d(2), ["dilation"]),
        (lm.RNN(2, 3), lm.RNN.derived),
        (lm.LSTM(2, 3, clip=1.0), [*lm.LSTM.derived, "clip", "cell_clip", "activations"]),
        (lm.GRU(2, 3), lm.GRU.derived),
    ],
    ids=lambda value: repr(value) if isinstance(value, lm.Layer) else "",
)
def test_what_follows_from_arguments_stays(layer, names):
    for name in names:
        before = getattr(layer, name)
        with pytest.raises(AttributeError, match=f"{name} (follows from what|is settled when)"):
            setattr(layer, name, 7)
        assert getattr(layer, name) is before
    public = [name for name in vars(layer) if name[0] != "_"]
    for name in {*public} - {*names, *layer.settable}:
        with pytest.raises(AttributeError, match="is settled"):
            setattr(layer, name, getattr(layer, name))
    layer.initialize(0)
    assert layer.astype(np.float64).dtype in (np.float64, None)
    layer.note = "of the user's own"
    layer.note = "which may change"


def test_assign_is_all_or_nothing():
    layer = lm.Linear(2, 3, rng=0)
    before = layer.weight.copy()
    layer.bias.flags.writeable = False
    with pytest.raises(ValueError, match="bias is read-only"):
        layer.assign({"weight": np.ones((2, 3)), "bias": np.ones(3)})
    with pytest.raises(ValueError, match="weight has values that float32 cannot hold"):
        layer.assign({"weight": np.full((2, 3), 1e300)})
    assert_same(layer.weight, before)


def test_assign_keeps_integers():
    dropout, norm = lm.Dropout(0.5, rng=0), lm.BatchNorm(2)
    dropout.key = [1, 2**32 - 1]
    norm.batches = np.uint64(7)
    assert_same(dropout.key, np.array([1, 2**32 - 1], np.uint32))
    assert norm.batches == 7
    for layer, name, value in (
        (dropout, "key", [-1, 2]),
        (dropout, "key", [0, 2**32]),
        (norm, "batches", np.uint64(2**63)),
    ):
        with pytest.raises(ValueError, match=rf"{name} has values that \w+ cannot hold"):
            setattr(layer, name, value)
    with pytest.raises(TypeError, match="key has dtype uint32, got float64"):
        dropout.key = [1.0, 2.0]


def test_a_call_names_the_option_that_it_does_not_take():
    model = lm.Sequential(lm.Linear(2, 3, rng=0))
    with pytest.raises(TypeError, match=r"^Sequential: takes no trace="):
        model(np.ones((1, 2), np.float32), trace=True)
    lstm = lm.LSTM(2, 3, rng=0)
    with pytest.raises(TypeError, match=r"takes no state=, .*; run takes x and a state"):
        lstm(np.ones((1, 4, 2), np.float32), state=lstm.initial_state(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: lm.Linear(2, 3, rng=0),
        lambda: lm.Conv1d(2, 3, 1, rng=0),
        lambda: lm.ConvTranspose1d(2, 3, 1, rng=0),
        lambda: lm.BatchNorm(2),
        lambda: lm.RNN(2, 3, rng=0),
        lambda: lm.LSTM(2, 3, projection=2, rng=0),
        lambda: lm.GRU(2, 3, layers=2, rng=0),
        lambda: lm.Embedding(9, 3, rng=0),
    ],
)
def test_a_layer_that_lost_an_array(make):
    layer = make()
    x = np.ones((2, 4, 2), int if isinstance(layer, lm.Embedding) else np.float32)
    for name in {*layer.params, *layer.buffers} - {"batches"}:
        for planned in (False, True):
            layer = make()
            for _ in range(2 * planned):
                layer(x)
            (layer.params if name in layer.params else layer.buffers).pop(name)
            for call in (layer, layer, lambda x, layer=layer: layer.for_inference()(x)):
                with pytest.raises(ValueError, match=f"it has lost its {name}, an array of shape"):
                    call(x)


@pytest.mark.parametrize("name", ["bias", "gamma", "beta", "running_mean", "running_var"])
def test_an_array_lost_before_layers_become_one(name):
    model = lm.Sequential(lm.Linear(2, 3, rng=0), lm.BatchNorm(3))
    for layer in model:
        for arrays in (layer.params, layer.buffers):
            arrays.pop(name, None)
    with pytest.raises(ValueError, match=f"it has lost its {name}"):
        model.for_inference()


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (lm.Linear, (4, 3)),
        (lm.Conv1d, (4, 3, 2)),
        (lm.ConvTranspose1d, (4, 3, 2)),
        (lm.BatchNorm, (4,)),
        (lm.Embedding, (5, 4)),
        (lm.LSTM, (4, 3)),
    ],
)
def test_a_subclass_without_dtype_has_that_of_the_layer(kind, arguments):
    class Mine(kind):
        def __init__(self):
            super().__init__(*arguments)

    layer = Mine()
    assert layer.dtype == np.float32
    assert {a.dtype for a in layer.params.values()} == {np.dtype(np.float32)}
    wide = layer.astype(np.float64)
    assert wide.initialize(0).dtype == np.float64
    assert {a.dtype for a in wide.params.values()} == {np.dtype(np.float64)}


def test_a_layer_that_was_given_a_bias():
    layer = lm.LSTM(2, 3, bias=False)
    layer.params["bias"] = np.zeros(12, np.float32)
    with pytest.raises(ValueError, match=r"bias has become an array of .*, expected none;"):
        layer(np.ones((1, 4, 2), np.float32))
