import copy
import functools
import operator
import pickle
import re
import weakref

import numpy as np
import pytest

import lamina as lm
from contract import LayerCase, LayerContract, assert_close, assert_same, passes, random


def mlp(d):
    return lm.Sequential(
        lm.Linear(5, 4, dtype=d), lm.Tanh(), lm.Linear(4, 3, bias=False, dtype=d), rng=1
    )


def speech(d):
    return lm.Sequential(lm.Linear(5, 4, dtype=d), lm.ReLU(), lm.LSTM(4, 3, dtype=d), rng=2)


def to_vector(d):
    return lm.Sequential(speech(d), lm.LastStep(), lm.Linear(3, 2, dtype=d), rng=3)


def image(d):
    return lm.Sequential(
        lm.Conv2d(2, 3, 3, padding="same", dtype=d),
        lm.BatchNorm(3, dtype=d),
        lm.GELU(),
        lm.Flatten(),
        lm.Dropout(0.3, rng=0),
        lm.Linear(48, 2, dtype=d),
        rng=4,
    )


def residual(d):
    body = lm.Sequential(lm.Linear(5, 4, dtype=d), lm.Tanh(), lm.Linear(4, 5, dtype=d), rng=5)
    return lm.Residual(body)


def projected(d):
    return lm.Residual(lm.LSTM(5, 3, dtype=d, rng=6), lm.Linear(5, 3, dtype=d, rng=7))


def concat(d):
    return lm.Concat(lm.LSTM(5, 3, dtype=d, rng=8), lm.Linear(5, 2, dtype=d, rng=9), residual(d))


def shared(d):
    layer = lm.Linear(5, 5, dtype=d, rng=10)
    return lm.Sequential(layer, lm.Tanh(), layer)


def shared_deep_inside(d):
    layer = lm.Linear(5, 5, dtype=d, rng=11)
    return lm.Sequential(
        lm.Residual(lm.Sequential(lm.Tanh(), layer, lm.Tanh(), layer)), lm.Concat(layer, layer)
    )


LENGTHS = (3, 0, 6, 1)


class TestLayer(LayerContract):
    cases = [
        LayerCase("a network", mlp, (4, 5)),
        LayerCase("a network over steps", mlp, (4, 6, 5), LENGTHS),
        LayerCase("speech", speech, (4, 6, 5)),
        LayerCase("speech, lengths", speech, (4, 6, 5), LENGTHS),
        LayerCase("to vector", to_vector, (4, 6, 5)),
        LayerCase("to vector, lengths", to_vector, (4, 6, 5), LENGTHS),
        LayerCase("image", image, (3, 4, 4, 2), together=True),
        LayerCase("image, inference", image, (3, 4, 4, 2), training=False),
        LayerCase("nothing", lambda d: lm.Sequential(), (4, 6, 5)),
        LayerCase("nothing, lengths", lambda d: lm.Sequential(), (4, 6, 5), LENGTHS),
        LayerCase("residual", residual, (4, 6, 5)),
        LayerCase("residual, lengths", residual, (4, 6, 5), LENGTHS),
        LayerCase("projected", projected, (4, 6, 5)),
        LayerCase("projected, lengths", projected, (4, 6, 5), LENGTHS),
        LayerCase("concat", concat, (4, 6, 5)),
        LayerCase("concat, lengths", concat, (4, 6, 5), LENGTHS),
        LayerCase("shared", shared, (4, 5)),
        LayerCase("shared deep inside", shared_deep_inside, (4, 6, 5), LENGTHS),
    ]


# Names


def test_names_are_dotted():
    assert list(to_vector(np.float32).params) == [
        "0.0.weight",
        "0.0.bias",
        "0.2.weight_x",
        "0.2.weight_h",
        "0.2.bias",
        "2.weight",
        "2.bias",
    ]
    assert list(residual(np.float32).params) == [
        "body.0.weight",
        "body.0.bias",
        "body.2.weight",
        "body.2.bias",
    ]
    assert sorted(image(np.float32).buffers) == [
        "1.batches",
        "1.running_mean",
        "1.running_var",
        "4.calls",
        "4.key",
    ]


def test_a_shared_layer_is_one_set_of_parameters():
    model = shared(np.float64)
    assert list(model.params) == ["0.weight", "0.bias"]
    deep = shared_deep_inside(np.float64)
    assert list(deep.params) == ["0.body.1.weight", "0.body.1.bias"]
    model.assign({"0.bias": np.ones(5)})
    assert (model.children()["2"].bias == 1).all()


def test_the_gradients_of_a_shared_layer_add():
    model, x = shared(np.float64), random("x", (4, 5))
    apart = lm.Sequential(*(copy.deepcopy(layer) for layer in model.children().values()))
    both, each = passes(model, x, {}), passes(apart, x, {})
    assert_same(both["y"], each["y"])
    assert_close(both["0.weight"], each["0.weight"] + each["2.weight"], np.float64)
    assert_close(both["0.bias"], each["0.bias"] + each["2.bias"], np.float64)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_share_what_the_original_shares(how):
    model = how(shared_deep_inside(np.float64))
    inside = model.children()["1"].children()
    assert inside["0"] is inside["1"]
    assert list(model.params) == ["0.body.1.weight", "0.body.1.bias"]
    assert list(model.astype(np.float32).params) == ["0.body.1.weight", "0.body.1.bias"]


# Values


def test_sequential_residual_and_concat_by_hand():
    a, b = lm.Linear(5, 5, dtype=np.float64, rng=0), lm.Linear(5, 5, dtype=np.float64, rng=1)
    x = random("x", (4, 5))
    assert_same(lm.Sequential(a, b)(x), b(a(x)))
    assert_same(lm.Residual(a)(x), a(x) + x)
    assert_same(lm.Residual(a, b)(x), a(x) + b(x))
    assert_same(lm.Concat(a, b)(x), np.concatenate([a(x), b(x)], axis=1))
    assert_same(lm.Sequential()(x), x)


def test_branches_may_give_scalars():
    class Twice(lm.Layer):
        def forward(self, x, *, training=False):
            return 2 * x, None  # of an array without axes, NumPy makes a scalar

        def backward(self, dy, cache):
            return 2 * dy, {}

    x = np.array(-1.5, np.float32)
    for model, expected in (
        (lm.Residual(Twice()), (-4.5, -4.5, 3)),
        (lm.Residual(Twice(), Twice()), (-6, -6, 4)),
        (lm.Sequential(lm.Residual(Twice()), lm.ReLU()), (0, 0, 0)),
    ):
        y, cache = model.forward(x, training=True)
        dx, _ = model.backward(np.ones_like(x), cache)
        assert (model(x), y, dx) == expected


def test_branches_on_integers_have_no_dx():
    model = lm.Concat(lm.Embedding(7, 3, rng=0), lm.Embedding(7, 2, rng=1))
    y, cache = model.forward(np.array([1, 5]))
    dx, grads = model.backward(y, cache)
    assert dx is None
    assert set(grads) == {"0.weight", "1.weight"}


# Lengths and sample ids


def test_lengths_end_where_the_steps_end():
    model, lengths = to_vector(np.float32), np.array([2, 3])
    assert model.output_lengths(lengths) is None
    assert_same(model.children()["0"].output_lengths(lengths), lengths)


def test_strides_shorten_lengths_on_the_way():
    model = lm.Sequential(
        lm.Conv1d(5, 4, 3, stride=2, dtype=np.float64),
        lm.LSTM(4, 3, dtype=np.float64),
        lm.MeanSteps(),
        rng=0,
    )
    x = random("x", (3, 9, 5))
    y = model(x, lengths=[9, 5, 7])
    assert_close(y[1:2], model(x[1:2, :5]), np.float64)
    assert_same(model.children()["0"].output_lengths(np.array([9, 5, 7])), np.array([4, 2, 3]))


def test_a_layer_without_lengths_refuses_them():
    x = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match=r"Flatten\(\): takes no lengths=") as caught:
        lm.Sequential(lm.ReLU(), lm.Flatten())(x, lengths=[1, 2])
    assert caught.value.__notes__ == ["in layer 1 of Sequential"]

    class Double(lm.Layer):
        def forward(self, x, *, training=False):
            return 2 * x, None

        def backward(self, dy, cache):
            return 2 * dy, {}

    model = lm.Sequential(Double())
    assert_same(model(x), 2 * x)
    with pytest.raises(TypeError, match=r"Double\(\): takes no lengths=; give its forward that"):
        model(x, lengths=[1, 2])


@pytest.mark.parametrize("method", ["backward", "gradients"])
@pytest.mark.parametrize("container", [lm.Sequential, lm.Concat])
def test_refuses_dx_without_gradients(container, method):
    class Double(lm.Layer):
        def forward(self, x, *, training=False):
            return 2 * x, None

        def backward(self, dy, cache):
            return 2 * dy  # of two samples, which would unpack into dx and gradients

    model = container(lm.Linear(3, 3, rng=0), Double())
    y, cache = model.forward(np.ones((2, 3), np.float32), training=True)
    with pytest.raises(TypeError, match=r"Double\(\): backward must return dx and the gradients"):
        getattr(model, method)(y, cache)


def test_branches_agree_on_lengths():
    strided = lm.Concat(
        lm.Conv1d(4, 2, 1, stride=2, rng=0), lm.Conv1d(4, 2, 2, stride=2, rng=0), lm.ReLU()
    )
    with pytest.raises(ValueError, match=r"Concat: its branches turn the lengths .* \[2\] and"):
        strided.output_lengths(np.array([3]))
    with pytest.raises(ValueError, match="give all the same strides and padding in time"):
        lm.Concat(lm.ReLU(), lm.LastStep()).output_lengths(np.array([3]))


def test_sample_ids_reach_the_layers_that_take_them():
    model = lm.Sequential(lm.Residual(lm.Dropout(0.5, rng=0)), lm.Linear(4, 3, rng=0))
    x = np.ones((6, 4), np.float32)
    other = copy.deepcopy(model)
    y, _ = model.forward(x, training=True)
    part, _ = other.forward(x[4:], training=True, sample_ids=np.array([4, 5]))
    assert_same(part, y[4:])


# Steps


def test_run_in_pieces_is_forward_on_the_whole():
    model, x = speech(np.float64), random("x", (3, 6, 5))
    whole = passes(model, x, {})
    dy = random("dy", whole["y"].shape)
    first, state, cache_1 = model.run(x[:, :2], training=True)
    second, _, cache_2 = model.run(x[:, 2:], state, training=True)
    assert_close(np.concatenate([first, second], axis=1), whole["y"], np.float64)

    dx_2, dstate, grads_2 = model.run_backward(dy[:, 2:], None, cache_2)
    dx_1, _, grads_1 = model.run_backward(dy[:, :2], dstate, cache_1)
    assert_close(np.concatenate([dx_1, dx_2], axis=1), whole["dx"], np.float64)
    for name in grads_1:
        assert_close(grads_1[name] + grads_2[name], whole[name], np.float64, what=name)


def test_run_backward_takes_the_cache_of_forward():
    model = lm.Sequential(lm.Linear(3, 3), lm.ReLU(), lm.Dropout(0.2), lm.LSTM(3, 2), rng=0)
    y, cache = model.forward(random("x", (2, 4, 3), np.float32), training=True)
    dx, grads = model.backward(y, cache)
    found, dstate, found_grads = model.run_backward(y, None, cache)
    assert_same(found, dx)
    assert [len(entry) for entry in dstate] == [0, 0, 0, 1]
    assert grads.keys() == found_grads.keys()
    for name in grads:
        assert_same(found_grads[name], grads[name], name)


def test_run_hands_on_sample_ids():
    layers = lm.Dropout(0.5, rng=0), lm.Conv1d(4, 4, 2, padding="causal", rng=0)
    deep = lm.GRU(4, 4, layers=2, dropout=0.5, recurrent_dropout=0.5, rng=0)
    model = lm.Sequential(lm.Residual(lm.Sequential(*layers)), lm.Tanh(), deep)
    x, ids = random("x", (3, 5, 4), np.float32), np.array([7, 0, 2**40])
    turned = [
        copy.deepcopy(model).run(x[order], sample_ids=ids[order], training=True)[0][order]
        for order in (slice(None), slice(None, None, -1))
    ]
    assert_close(*turned, np.float32)
    assert not np.allclose(model.run(x, training=True)[0], turned[0])


@pytest.mark.parametrize("build", [residual, projected, concat])
def test_branches_run_in_pieces(build):
    model, x = build(np.float64), random("x", (3, 6, 5))
    whole = passes(model, x, {})
    dy = random("dy", whole["y"].shape)
    first, state, cache_1 = model.run(x[:, :2], model.initial_state(3))
    second, _, cache_2 = model.run(x[:, 2:], state)
    assert_close(np.concatenate([first, second], axis=1), whole["y"], np.float64)
    dx_2, dstate, _ = model.run_backward(dy[:, 2:], None, cache_2)
    dx_1, _, _ = model.run_backward(dy[:, :2], dstate, cache_1)
    assert_close(np.concatenate([dx_1, dx_2], axis=1), whole["dx"], np.float64)


def test_run_takes_lengths():
    model, x = speech(np.float64), random("x", (3, 6, 5))
    y, state, _ = model.run(x, lengths=[2, 6, 0])
    alone, alone_state, _ = model.run(x[:1, :2])
    assert_close(y[:1, :2], alone, np.float64)
    assert not y[0, 2:].any()
    (h, c), (alone_h, alone_c) = state[2][0], alone_state[2][0]
    assert_close(h[:1], alone_h, np.float64)
    assert_close(c[:1], alone_c, np.float64)


def test_what_cannot_step_says_so():
    model = lm.Sequential(lm.ReLU(), lm.Flatten())
    assert not model.stepwise
    for call in (
        lambda: model.initial_state(2),
        lambda: model.step(np.zeros((2, 3)), (None, None)),
        lambda: model.run(np.zeros((2, 3, 4))),
    ):
        with pytest.raises(TypeError, match=r"Flatten\(\): cannot go step by step") as caught:
            call()
        assert caught.value.__notes__ == ["in layer 1 of Sequential"]


def test_refuses_states():
    model, x = speech(np.float32), np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=r"state must be a tuple of 3 entries, .* got 2 entries"):
        model.step(x, ((), ()))
    with pytest.raises(ValueError, match=r"state must be a tuple of 3 entries, .* got list"):
        model.run(x[:, None], [])


# Errors


def test_an_error_names_the_layer():
    model = lm.Sequential(lm.Linear(4, 3, rng=0), lm.Residual(lm.Linear(2, 2, rng=0)))
    with pytest.raises(ValueError, match=r"Linear\(2, 2\): x has 3 features") as caught:
        model(np.ones((1, 4), np.float32))
    assert caught.value.__notes__ == ["in layer body of Residual", "in layer 1 of Sequential"]
    with pytest.raises(ValueError, match=r"Linear\(2, 2\): x has 3 features") as caught:
        model.output_shape((1, 4))
    assert caught.value.__notes__ == ["in layer body of Residual", "in layer 1 of Sequential"]


def test_an_error_in_a_layer_of_your_own_names_it_too():
    class Broken(lm.Layer):
        def forward(self, x, *, training=False):
            return x, None

        def backward(self, dy, cache):
            return dy * cache["scale"], {}

    model = lm.Sequential(lm.ReLU(), Broken())
    y, cache = model.forward(np.ones((1, 4)))
    with pytest.raises(TypeError, match="not subscriptable") as caught:
        model.backward(y, cache)
    assert caught.value.__notes__ == ["in layer 1 of Sequential"]


def test_a_gradient_of_no_parameter_names_its_layer():
    class Holder(lm.Layer):
        def __init__(self, inner):
            self.inner = inner

        def forward(self, x, *, training=False):
            return self.inner.forward(x, training=training)

        def backward(self, dy, cache):
            return self.inner.backward(dy, cache)

    model = lm.Sequential(lm.ReLU(), Holder(lm.Linear(4, 3, rng=0)))
    y, cache = model.forward(np.ones((1, 4), np.float32))
    with pytest.raises(
        ValueError, match=r"layer 1, Holder.*: backward gave a gradient of 'weight', which is none "
    ):
        model.backward(y, cache)


def test_a_layer_of_your_own_may_be_made_of_layers(tmp_path):
    class Block(lm.Sequential):
        def __init__(self, features, *, rng=None):
            super().__init__(lm.Linear(features, features), lm.ReLU(), rng=rng)

    model = lm.Sequential(Block(4), lm.Linear(4, 3), rng=0)
    x = random("x", (5, 4))
    assert list(model.params) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    lm.check(model, x)
    lm.save(model, tmp_path / "model.safetensors")
    again = lm.load(tmp_path / "model.safetensors", {"Block": Block})
    assert_same(lm.predict(again, x), lm.predict(model, x))


@pytest.mark.parametrize("build", [lm.Sequential, lm.Concat, lm.Residual])
@pytest.mark.parametrize(
    ("argument", "hint"),
    [(np.tanh, ""), (lm.ReLU, r"; write ReLU\(...\)"), ([lm.ReLU()], r"; write {}\(\*layers\)")],
)
def test_takes_only_layers(build, argument, hint):
    hint = hint.format("Concat" if build is lm.Concat else "Sequential")
    with pytest.raises(
        TypeError, match=rf"{build.__name__}: argument 0 must be a Layer, .*{hint}$"
    ):
        build(argument)


def test_branches_fit_together():
    x = np.ones((2, 4), np.float32)
    block = lm.Residual(lm.Linear(4, 3, rng=0))
    for call in (lambda: block(x), lambda: block.output_shape((2, 4))):
        with pytest.raises(
            ValueError, match=r"Residual: the body gives shape \(2, 3\) and the shortcut \(2, 4\)"
        ):
            call()
    with pytest.raises(ValueError, match=r"Concat: the branches' outputs have shapes .* agree in"):
        lm.Concat(lm.Flatten(), lm.ReLU())(np.ones((2, 3, 4), np.float32))
    with pytest.raises(ValueError, match="Concat: needs at least one branch, got none"):
        lm.Concat()
    model = lm.Concat(lm.ReLU(), lm.Tanh())
    _, cache = model.forward(x)
    with pytest.raises(ValueError, match=r"Concat: dy has shape \(2, 4\), expected \(2, 8\)"):
        model.backward(x, cache)


def test_assigns_all_or_nothing():
    model = mlp(np.float32)
    before = copy.deepcopy(model.params)
    new = {"0.weight": np.ones((5, 4)), "0.bias": np.ones(4)}
    for bad, error, message in [
        ({"1.weight": 0}, KeyError, r"named '1.weight'; it has 0.weight, 0.bias, 2.weight"),
        ({"2.weight": np.ones((3, 4))}, ValueError, r"2.weight has shape \(4, 3\), got \(3, 4\)"),
        ({"2.weight": np.ones((4, 3), complex)}, TypeError, "has dtype float32, got complex128"),
    ]:
        with pytest.raises(error, match=message):
            model.assign(new | bad)
        for name, a in model.params.items():
            assert_same(a, before[name], name)
    model.assign(new)
    assert (model.params["0.weight"] == 1).all()
    assert_same(model.params["2.weight"], before["2.weight"])


# Drawing


def test_a_new_layer_changes_no_other_draw():
    short = lm.Sequential(lm.Linear(5, 4), lm.Linear(4, 3), rng=7)
    long = lm.Sequential(lm.Linear(5, 4), lm.Linear(4, 3), lm.Linear(3, 2), rng=7)
    for name, a in short.params.items():
        assert_same(long.params[name], a, name)
    a, b = short.children().values()
    assert not np.isin(a.weight, b.weight).any()


def test_initialize_draws_by_seed_and_name():
    model = to_vector(np.float32)
    first = copy.deepcopy(model.initialize(1).params)
    second = copy.deepcopy(model.initialize(2).params)
    again = model.initialize(np.random.default_rng(1)).params
    for name in first:
        assert_same(again[name], first[name], name)
        if "weight" in name:
            assert (first[name] != second[name]).any()
    assert (model.initialize().params["2.weight"] != first["2.weight"]).any()


# What users see


def test_astype():
    model = image(np.float32)
    wide = model.astype(np.float64)
    assert {a.dtype for a in wide.params.values()} == {np.dtype(np.float64)}
    assert {a.dtype for a in model.params.values()} == {np.dtype(np.float32)}
    assert wide(random("x", (2, 4, 4, 2))).dtype == np.float64
    for bad in ("int8", "nonsense", "1,,", None):
        with pytest.raises(TypeError, match=rf"dtype must be float32 or float64, got {bad!r}"):
            model.astype(bad)


def test_repr():
    model = lm.Sequential(lm.Linear(4, 8), lm.Residual(lm.Sequential(lm.Tanh())), rng=0)
    assert repr(model) == (
        "Sequential(\n"
        "  Linear(4, 8),\n"
        "  Residual(\n"
        "    body=Sequential(\n"
        "      Tanh(),\n"
        "    ),\n"
        "    shortcut=Identity(),\n"
        "  ),\n"
        ")"
    )


def test_summary(capsys):
    layer = lm.Linear(3, 3)
    lm.Sequential(
        lm.Linear(2, 3), lm.Residual(lm.Sequential(layer, lm.ReLU())), layer, rng=0
    ).summary((10, 2))
    line = "─" * 52
    assert capsys.readouterr().out == (
        "            layer         output   parameters  FLOPs\n"
        f"{line}\n"
        "0           Linear(2, 3)  (10, 3)           9    150\n"
        "1.body.0    Linear(3, 3)  (10, 3)          12    210\n"
        "1.body.1    ReLU()        (10, 3)           0      0\n"
        "1.shortcut  Identity()    (10, 3)           0      0\n"
        "2           Linear(3, 3)  (10, 3)           0    210\n"
        f"{line}\n"
        "            total         (10, 3)          21    570\n"
    )


def test_summary_of_one_layer(capsys):
    lm.Linear(2, 3).summary((10, 2))
    assert "  Linear(2, 3)  (10, 3)           9    150\n" in capsys.readouterr().out


def test_summary_refuses_what_is_no_shape():
    model = lm.Sequential(lm.Linear(2, 3))
    with pytest.raises(TypeError, match=r"each size of shape must be an integer, got None"):
        model.summary((None, 2))
    with pytest.raises(TypeError, match=r"batch first, got an array of shape \(2, 3\)$"):
        lm.Sequential(lm.ReLU()).summary(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"shape must be a tuple, batch first, got 2"):
        model.summary(2)


def test_summary_says_which_layer_does_not_fit():
    model = lm.Sequential(lm.Linear(2, 3), lm.Sequential(lm.ReLU(), lm.Linear(4, 2)))
    for ask in (model.summary, model.flops):
        with pytest.raises(ValueError, match=r"Linear\(4, 2\): x has 3 features") as caught:
            ask((1, 2))
        assert caught.value.__notes__ == ["in layer 1 of Sequential"] * 2


def test_summary_of_ids_and_of_large_layers(capsys):
    lm.Sequential(lm.Embedding(1000, 8), lm.LastStep(), lm.Linear(8, 200), rng=0).summary((4, 6))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-5:] == ["(4,", "6,", "8)", "8,000", "0"]
    assert "(4, 8)" in lines[3]
    assert "1,800" in lines[4]
    assert lines[-1].split()[-2:] == ["9,800", "13,600"]


def test_walk_visits_what_is_inside():
    model = lm.Sequential(lm.Residual(lm.ReLU()), lm.Tanh())
    assert [name for name, _ in model.walk()] == ["", "0", "0.body", "0.shortcut", "1"]


def test_sequential_is_a_sequence_of_its_layers():
    first, second, third = lm.Linear(2, 3, rng=0), lm.ReLU(), lm.Linear(3, 1, rng=1)
    model = lm.Sequential(first, second, third)
    assert len(model) == 3
    assert list(model) == [first, second, third]
    assert model[-1] is third
    assert list(model[1:]) == [second, third]
    for error, place in ((IndexError, 3), (IndexError, -4), (TypeError, "0"), (TypeError, (0, 1))):
        message = (
            rf"Sequential: a layer has a number from -3 to 2, .* got {re.escape(repr(place))};"
        )
        with pytest.raises(error, match=message):
            model[place]


def test_arrays_that_are_not_there():
    model = lm.Sequential(lm.Linear(2, 3), lm.BatchNorm(3))
    for arrays, there in (
        (model.params, "0.weight, 0.bias, 1.gamma, 1.beta"),
        (model.buffers, "1.running_mean, 1.running_var, 1.batches"),
        (model[0].params, "weight, bias"),
        (model[0].buffers, "none"),
    ):
        with pytest.raises(KeyError, match=rf"no array is named '2.bias'; there are {there}\""):
            arrays["2.bias"]
        assert arrays.get("2.bias") is None


def test_arrays_put_into_params_are_not_lost():
    model = lm.Sequential(lm.Linear(2, 3, rng=0), lm.RNN(3, 2, layers=2, dropout=0.5, rng=0))
    with pytest.raises(TypeError, match=r"params\['0.bias'\]\[...\] = array, or .*model.assign"):
        model.params["0.bias"] = np.ones(3, np.float32)
    with pytest.raises(TypeError, match="would reach no layer"):
        model.buffers["1.dropout_0.calls"] = np.zeros((), np.int64)
    with pytest.raises(TypeError, match=r"model.assign\(\{'0.bias': array\}\)"):
        model.params.update({"0.bias": np.ones(3, np.float32)})
    with pytest.raises(TypeError, match="would reach no layer"):
        operator.ior(model.params, {"0.bias": np.ones(3, np.float32)})
    for name in ("params", "buffers"):
        with pytest.raises(
            TypeError, match=rf"Sequential: {name} are those .*model.assign\(arrays"
        ):
            setattr(model, name, {})
    model.params["0.bias"][...] = 1
    assert model[0].bias.tolist() == [1, 1, 1]
    model.params["0.bias"] -= 0.5  # a step of one's own, which is written into the array
    assert model[0].bias.tolist() == [0.5, 0.5, 0.5]


def test_arrays_that_layers_share_stay_shared_in_a_cast():
    one, two = lm.Linear(2, 2, rng=0), lm.Linear(2, 2, rng=1)
    two.params["weight"] = one.params["weight"]
    wide = lm.Sequential(one, two).astype(np.float64)
    assert wide[0].weight is wide[1].weight
    assert wide[0].weight.dtype == np.float64


def test_gradients_go_no_further_back_than_the_first_parameters():
    class Stop(lm.Layer):
        def forward(self, x, *, training=False):
            return x, None

        def backward(self, dy, cache):
            raise AssertionError("nothing before has parameters")

    model = lm.Sequential(Stop(), lm.Linear(3, 4, rng=0), lm.ReLU(), lm.Linear(4, 2, rng=1))
    y, cache = model.forward(np.ones((5, 3), np.float32), training=True)
    assert set(model.gradients(np.ones_like(y), cache)) == set(model.params)
    alone = lm.Sequential(Stop())
    assert alone.gradients(y, alone.forward(y)[1]) == {}


def test_gradients_let_go_what_layers_kept_and_backward_does_not():
    alive = []

    class Watched(lm.Layer):
        """Keeps an array of its own, and sees on the way back whose are still there."""

        def __init__(self):
            self.params["scale"] = np.ones(1, np.float32)

        def forward(self, x, *, training=False):
            kept = np.ones(3)
            alive.append(weakref.ref(kept))
            return x, kept

        def backward(self, dy, cache):
            seen.append(sum(ref() is not None for ref in alive))
            return dy, {"scale": np.ones(1, np.float32)}

    inner = lm.Sequential(Watched(), Watched())
    model = lm.Sequential(Watched(), lm.Residual(inner, Watched()), lm.Concat(Watched()), rng=0)
    y, cache = model.forward(np.ones((2, 3), np.float32), training=True)
    seen = []
    model.backward(np.ones_like(y), cache)
    with pytest.raises(ValueError, match="dy has shape"):
        model.gradients(y[:1], cache)
    assert seen == [5] * 5
    seen = []
    model.gradients(np.ones_like(y), cache)
    assert seen == [5, 4, 3, 2, 1]
    for way in model.gradients, model.backward:
        with pytest.raises(ValueError, match=r"Sequential: cache was used up by gradients"):
            way(np.ones_like(y), cache)


@pytest.mark.parametrize(
    "build",
    [
        lambda own, linear: lm.Residual(linear),
        lambda own, linear: lm.Residual(lm.Identity(), linear),
        lambda own, linear: lm.Residual(lm.Dropout(0.0), lm.BatchNorm(5)),
        lambda own, linear: lm.Residual(lm.Flatten(), lm.Sequential()),
        lambda own, linear: lm.Residual(own),
        lambda own, linear: lm.Residual(lm.Identity(), lm.Sequential(own, linear)),
        lambda own, linear: lm.Residual(lm.Sequential(linear, own), own),
        lambda own, linear: lm.Residual(lm.Residual(own), lm.Residual(linear)),
        lambda own, linear: lm.Concat(own, lm.Identity(), linear, own, linear),
    ],
)
@pytest.mark.parametrize("of_class", [True, False])
def test_gradients_add_into_no_array_that_somebody_else_holds(build, of_class):
    held = []

    def backward(self, dy, cache):
        dx, grads = lm.Linear.backward(self, dy, cache)
        held.append((dx, dx.copy()))
        return dx, grads

    class Own(lm.Linear):
        pass

    own, linear = Own(5, 5, rng=0), lm.Linear(5, 5, rng=1)
    if of_class:
        Own.backward = backward
    else:
        own.backward = functools.partial(backward, own)
    model, x = build(own, linear), random("x", (33, 5), np.float32)
    y, cache = model.forward(x, training=True)
    dy = random("dy", y.shape, np.float32)
    held.append((dy, dy.copy()))
    dys, layers = model._split(dy, cache.shapes), model.children().values()
    parts = [layer.backward(d, c)[0] for layer, d, c in zip(layers, dys, cache, strict=True)]
    expected = functools.reduce(operator.add, parts)
    assert_same(model.backward(dy, cache)[0], expected)
    for array, values in held:
        assert_same(array, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((500, 77), None),
        ((33, 3), None),
        ((4, 9, 9, 17), None),
        ((64, 28, 28, 32), None),
        ((8, 5, 5, 256), None),
        ((300, 1), None),
        ((3, 7, 5), [7, 0, 3]),
    ],
)
def test_batchnorm_does_the_relu_after_it_with_the_same_bits(shape, lengths, dtype):
    rng = np.random.default_rng(0)
    norm, relu = lm.BatchNorm(shape[-1], dtype=dtype), lm.ReLU()
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x.ravel()[:: x.size // 3] *= -1e6
    options = {} if lengths is None else {"lengths": np.array(lengths)}
    model = lm.Sequential(norm, relu)
    y, cache = model.forward(x, **options, training=True)
    if lm.kernels.used():
        assert cache[1] is lm.containers.Fused
    dx, grads = model.backward(dy, cache)
    inner, first = norm.forward(x, **options, training=True)
    expected, second = relu.forward(inner, **options, training=True)
    assert_same(y, expected, "y")
    inner_dx, own = norm.backward(relu.backward(dy, second)[0], first)
    assert_same(dx, inner_dx, "dx")
    for name, g in own.items():
        assert_same(grads[f"0.{name}"], g, name)
    for name, g in model.gradients(dy, cache).items():
        assert_same(g, own[name.removeprefix("0.")], name)
    assert_same(np.signbit(y), np.zeros_like(y, bool), "the sign of 0")


def one_by_one(layers, x, dy, **options):
    """y, dx and the gradients of layers, each called by itself."""
    caches, grads = [], {}
    for layer in layers:
        given = layer._accepted(options.get("lengths"), options.get("sample_ids"))
        x, cache = layer.forward(x, **given, training=True)
        if options.get("lengths") is not None:
            options["lengths"] = layer.output_lengths(options["lengths"])
        caches.append(cache)
    for i, (layer, cache) in reversed(list(enumerate(zip(layers, caches, strict=True)))):
        dy, own = layer.backward(dy, cache)
        grads |= {f"{i}.{name}": g for name, g in own.items()}
    return {"y": x, "dx": dy, **grads}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("pool", "shape", "lengths"),
    [
        (lm.MaxPool1d(3, stride=2, padding=1), (3, 9, 5), [9, 0, 4]),
        (lm.MaxPool2d(2), (3, 9, 8, 70), None),
        (lm.MaxPool2d(3, stride=2, padding=1), (2, 8, 7, 1), None),
        (lm.MaxPool3d(2), (2, 4, 5, 4, 3), None),
    ],
)
def test_a_maximum_does_the_relu_before_it_with_the_same_bits(pool, shape, lengths, dtype):
    rng = np.random.default_rng(0)
    values = [-0.0, 0.0, -1.0, 1.0, np.nan, *rng.standard_normal(9)]
    x = rng.choice(values, shape).astype(dtype)
    layers = [lm.ReLU(), pool]
    options = {} if lengths is None else {"lengths": np.array(lengths)}
    model = lm.Sequential(*layers, lm.Identity())
    y, cache = model.forward(x, **options, training=True)
    if lm.kernels.used():
        assert cache[0] is lm.containers.Fused
    dy = rng.choice([-0.0, 0.0, *rng.standard_normal(9)], y.shape).astype(dtype)
    expected = one_by_one([*layers, lm.Identity()], x, dy, **options)
    dx, _ = model.backward(dy, cache)
    assert_same(y, expected["y"], "y")
    assert_same(dx, expected["dx"], "dx")


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
def test_a_residual_does_the_relu_after_it_with_the_same_bits(lengths):
    rng = np.random.default_rng(0)
    layers = [lm.Residual(lm.Linear(5, 5, rng=0)), lm.ReLU(), lm.Linear(5, 5, rng=1)]
    layers += [lm.Residual(lm.Linear(5, 40, rng=2), lm.Linear(5, 40, rng=3)), lm.ReLU()]
    model = lm.Sequential(*layers)
    x, dy = (rng.standard_normal((3, 4, n)).astype(np.float32) for n in (5, 40))
    options = {} if lengths is None else {"lengths": np.array(lengths)}
    y, cache = model.forward(x, **options, training=True)
    if lm.kernels.used():
        assert all(layers[i]._fuses(layers[i + 1]) for i in (0, 3))
    dx, grads = model.backward(dy, cache)
    expected = one_by_one(layers, x, dy, **options)
    for name, found in {"y": y, "dx": dx, **grads}.items():
        assert_same(found, expected[name], name)
    with pytest.raises(ValueError, match=r"dy has shape \(3, 4, 5\), expected \(3, 4, 40\)"):
        model.backward(dy[..., :5], cache)
    for name, g in model.gradients(dy, cache).items():
        assert_same(g, expected[name], name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("layer", "shape", "lengths"),
    [
        (lambda **o: lm.Linear(7, 50, **o), (33, 7), None),
        (lambda **o: lm.Linear(300, 7, bias=False, **o), (3, 300), None),
        (lambda **o: lm.Linear(7, 5, **o), (3, 9, 7), [9, 0, 4]),
        (lambda **o: lm.Conv1d(7, 5, 3, padding="causal", **o), (3, 9, 7), [9, 0, 4]),
        (lambda **o: lm.Conv1d(7, 5, 3, stride=2, **o), (3, 9, 7), [9, 3, 4]),
        (lambda **o: lm.Conv2d(3, 20, 3, padding=1, **o), (2, 9, 8, 3), None),
        (lambda **o: lm.Conv2d(8, 20, 1, bias=False, **o), (2, 9, 8, 8), None),
        (lambda **o: lm.Conv2d(6, 6, 3, groups=6, **o), (2, 9, 8, 6), None),
        (lambda **o: lm.Conv3d(2, 3, 2, **o), (2, 4, 3, 5, 2), None),
        (lambda **o: lm.ConvTranspose1d(7, 5, 3, stride=2, **o), (3, 9, 7), [9, 0, 4]),
        (lambda **o: lm.ConvTranspose2d(3, 20, 3, stride=4, **o), (2, 9, 8, 3), None),
        (lambda **o: lm.ConvTranspose2d(8, 20, 1, bias=False, **o), (2, 9, 8, 8), None),
        (lambda **o: lm.ConvTranspose2d(6, 6, 3, groups=6, **o), (2, 9, 8, 6), None),
        (lambda **o: lm.ConvTranspose3d(17, 16, 3, **o), (2, 4, 3, 5, 17), None),
    ],
)
def test_a_product_does_the_relu_after_it_with_the_same_bits(layer, shape, lengths, dtype):
    rng = np.random.default_rng(0)
    layers = [layer(dtype=dtype, rng=1), lm.ReLU()]
    x = rng.standard_normal(shape).astype(dtype)
    if lengths is None:
        x.flat[0] = np.nan
    options = {} if lengths is None else {"lengths": np.array(lengths)}
    model = lm.Sequential(*layers)
    y, cache = model.forward(x, **options, training=True)
    if lm.kernels.used():
        assert layers[0]._fuses(layers[1])
    dy = rng.standard_normal(y.shape).astype(dtype)
    if lengths is not None:
        dy[1, lengths[1] :] = np.nan
    expected = one_by_one(layers, x, dy, **options)
    dx, grads = model.backward(dy, cache)
    for name, found in {"y": y, "dx": dx, **grads}.items():
        assert_same(found, expected[name], name)
    for name, g in model.gradients(dy, cache).items():
        assert_same(g, expected[name], name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mode", ["inverted", "classic"])
@pytest.mark.parametrize(
    ("before", "shape", "options"),
    [
        (lm.Identity, (5, 7), {}),
        (lm.Identity, (2, 40_000), {"sample_ids": [2**40, 3]}),
        (lambda: lm.BatchNorm(7), (50, 7), {"sample_ids": range(50, 0, -1)}),
        (lambda: lm.BatchNorm(7), (3, 9, 7), {"lengths": [9, 0, 4]}),
        (
            lambda: lm.Linear(7, 50, rng=1),
            (3, 9, 7),
            {"lengths": [9, 0, 4], "sample_ids": [7, 8, 6]},
        ),
        (lambda: lm.Residual(lm.Linear(7, 7, rng=1)), (5, 7), {}),
        (lambda: lm.Sequential(lm.Linear(7, 50, rng=1), lm.BatchNorm(50)), (5, 7), {}),
    ],
)
def test_dropout_does_the_relu_before_it_with_the_same_bits(
    before, shape, options, mode, rate, dtype
):
    rng = np.random.default_rng(0)
    layers = [before().astype(dtype), lm.ReLU(), lm.Dropout(rate, mode=mode, rng=2)]
    x = rng.choice([-0.0, 0.0, *rng.standard_normal(9)], shape).astype(dtype)
    if isinstance(layers[0], lm.Identity):
        x.flat[::7] = np.nan
        x.flat[::5] = np.inf
    options = {name: np.array(values) for name, values in options.items()}
    model = lm.Sequential(*layers, lm.Identity())
    y, cache = model.forward(x, **options, training=True)
    dy = rng.choice([-0.0, 0.0, *rng.standard_normal(9)], y.shape).astype(dtype)
    dy.flat[::9] = np.nan
    dx, grads = model.backward(dy, cache)
    if lm.kernels.used():
        assert cache[1] is lm.containers.Fused
    assert layers[2].calls == 1
    layers[2].calls = 0
    expected = one_by_one([*layers, lm.Identity()], x, dy, **options)
    for name, found in {"y": y, "dx": dx, **grads}.items():
        assert_same(found, expected[name], name)
        assert_same(np.signbit(found), np.signbit(expected[name]), f"signs of {name}")
    layers[2].calls = 0
    mask = layers[2].mask(
        layers[2].forward(y, sample_ids=options.get("sample_ids"), training=True)[1]
    )
    assert_same(layers[2].mask(cache[2]), mask, "the mask")


def test_the_last_layer_of_a_sequential_fuses_with_what_comes_after():
    rng = np.random.default_rng(0)
    inner = lm.Sequential(lm.Conv1d(3, 5, 3, padding="causal", rng=0), lm.BatchNorm(5))
    layers = [inner, lm.ReLU(), lm.Sequential(lm.Identity(), lm.ReLU()), lm.MaxPool1d(2)]
    layers += [lm.Sequential(lm.Sequential(lm.Linear(5, 4, rng=1))), lm.ReLU()]
    layers += [lm.Sequential(lm.ReLU()), lm.Dropout(0.4, rng=3)]
    model = lm.Sequential(*layers)
    x, options = rng.standard_normal((3, 8, 3)).astype(np.float32), {"lengths": np.array([8, 3, 5])}
    options["sample_ids"] = np.array([4, 9, 2])
    y, cache = model.forward(x, **options, training=True)
    if lm.kernels.used():
        assert cache[1] is cache[2][1] is cache[6][0] is lm.containers.Fused
    dy = rng.standard_normal(y.shape).astype(np.float32)
    found = {"y": y}
    found["dx"], grads = model.backward(dy, cache)
    found |= model.gradients(dy, cache)
    layers[-1].calls = 0
    expected = one_by_one(layers, x, dy, **options)
    assert set(grads) < set(found) == set(expected)
    for name in expected:
        assert_same(found[name], expected[name], name)
    layers[-1].calls = 0
    with lm.formulas():
        by_formulas, _ = model.forward(x, **options, training=True)
    np.testing.assert_allclose(y, by_formulas, rtol=1e-5, atol=1e-5)


def test_a_relu_goes_with_what_comes_after_where_both_sides_would_do_it():
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    model = lm.Sequential(lm.BatchNorm(3), lm.ReLU(), lm.MaxPool1d(2), lm.BatchNorm(3), lm.ReLU())
    _, cache = model.forward(x, training=True)
    if lm.kernels.used():
        assert [c is lm.containers.Fused for c in cache] == [False, True, False, False, True]
        assert not cache[0][2].relu
        assert cache[3][2].relu


def test_nan_goes_through_a_fused_relu():
    x = np.ones((4, 3), np.float32)
    x[1, 1] = np.nan
    y, _ = lm.Sequential(lm.BatchNorm(3), lm.ReLU()).forward(x, training=True)
    assert np.isnan(y[:, 1]).all()
    assert (y[:, [0, 2]] == 0).all()


def test_what_is_not_fused():
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)

    def own(cls, *args):
        return type("Own", (cls,), {})(*args)

    for layers in (
        (lm.BatchNorm(3, frozen=True), lm.ReLU()),
        (lm.BatchNorm(3), own(lm.ReLU)),
        (lm.BatchNorm(3), lm.Tanh()),
        (lm.ReLU(), lm.BatchNorm(3)),
        (lm.ReLU(), lm.Dropout(0.5, mode="alpha")),
        (lm.ReLU(), lm.Dropout(0.5, shared_axes=(0,))),
        (own(lm.ReLU), lm.Dropout(0.5)),
        (lm.Sequential(lm.BatchNorm(3)), own(lm.ReLU)),
        (own(lm.Sequential, lm.BatchNorm(3)), lm.ReLU()),
        (lm.Residual(lm.Identity()), own(lm.ReLU)),
        (own(lm.Residual, lm.Identity()), lm.ReLU()),
        (own(lm.BatchNorm, 3), lm.ReLU()),
        (own(lm.Linear, 3, 3), lm.ReLU()),
        (lm.ReLU(), own(lm.Dropout, 0.5)),
    ):
        _, cache = lm.Sequential(*layers).forward(x, training=True)
        assert lm.containers.Fused not in cache
    with lm.formulas():
        _, cache = lm.Sequential(lm.BatchNorm(3), lm.ReLU()).forward(x, training=True)
    assert lm.containers.Fused not in cache


@pytest.mark.parametrize(
    "use",
    [
        lambda model, path: lm.save(model, path / "m.safetensors"),
        lambda model, path: model.for_inference(),
        lambda model, path: model.initialize(0),
        lambda model, path: list(model.walk()),
    ],
)
def test_a_layer_beside_those_of_a_container_is_refused(use, tmp_path):
    model = lm.Residual(lm.Linear(3, 3, rng=0))
    use(model, tmp_path)
    model.shortcut = lm.Linear(3, 3, rng=0)
    with pytest.raises(TypeError, match="shortcut is a Linear, and a layer kept as an attribute"):
        use(model, tmp_path)


def test_a_container_may_keep_layers_of_its_own_as_attributes():
    class Coder(lm.Sequential):
        def __init__(self):
            self.encoder = lm.Sequential(lm.Linear(3, 2, rng=0), lm.BatchNorm(2), lm.ReLU())
            self.head = lm.Linear(2, 3, rng=1)
            self.last = lm.Sigmoid()
            super().__init__(*self.encoder, self.head, self.last)

    model = Coder()
    names = [name for name, _ in model.walk()]
    assert names == ["", "0", "1", "2", "3", "4"]
    model.for_inference()
