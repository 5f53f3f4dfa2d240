import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same, random


def mlp(**options):
    return lm.Sequential(
        lm.Sequential(lm.Linear(5, 32), lm.BatchNorm(32)),
        lm.ReLU(),
        lm.Residual(lm.Sequential(lm.Dropout(0.3, **options), lm.Linear(32, 32), lm.ReLU())),
        lm.Dropout(0.5, **options),
        lm.Linear(32, 4),
        rng=0,
    )


X = random("x", (11, 5), np.float32)


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_passes_are_those_of_layers_that_always_drop(mode):
    model = mlp(mode=mode)
    ys = lm.mc(model, X, 6, rng=3)
    assert (ys.shape, ys.dtype) == ((6, 11, 4), np.float32)
    assert len({y.tobytes() for y in ys}) == 6
    assert_same(lm.mc(model, X, 4, rng=3), ys[:4])
    assert (lm.mc(model, X, 6, rng=4) != ys).any()
    assert_same(lm.mc(model.for_inference(), X, 6, rng=3), ys)
    always = mlp(mode=mode, always=True)
    for layer in (always[2].children()["body"][0], always[3]):
        assert not np.array_equal(layer.key, 0)
    many = np.mean([always(X) for _ in range(400)], axis=0)
    assert np.abs(lm.mc(model, X, 400, rng=0).mean(0) - many).max() < 0.2


def test_the_mean_of_many_passes_is_what_inference_says_where_the_rest_is_linear():
    model = lm.Sequential(lm.Linear(5, 64), lm.ReLU(), lm.Dropout(0.5), lm.Linear(64, 2), rng=0)
    ys = lm.mc(model, X, 2000, rng=0)
    error = ys.std(0) / np.sqrt(2000)
    assert (np.abs(ys.mean(0) - model(X)) < 5 * error).all()


@pytest.mark.parametrize("batch_size", [1, 3, 5, 100])
def test_a_sample_is_dealt_with_alike_in_any_batch(batch_size):
    ys = lm.mc(mlp(), X, 3, rng=1)
    assert_same(lm.mc(mlp(), X, 3, rng=1, batch_size=batch_size), ys)
    assert_same(lm.mc(mlp(), X[:4], 3, rng=1, batch_size=batch_size), ys[:, :4])


def test_what_comes_before_the_first_dropout_is_computed_once():
    counts = []

    class Counted(lm.Layer):
        def forward(self, x, *, training=False):
            counts.append(len(x))
            return x, None

        def backward(self, dy, cache):
            return dy, {}

    inner = lm.Sequential(lm.Dropout(0.5), Counted())
    model = lm.Sequential(Counted(), lm.Dropout(0.0), lm.Sequential(Counted(), lm.Residual(inner)))
    lm.mc(model, X, 7, rng=0, batch_size=6)
    assert counts == [6, 6, *[6] * 7, 5, 5, *[5] * 7]


def test_the_model_stays_as_it_is():
    model = mlp()
    before = {name: a.copy() for name, a in (model.params | model.buffers).items()}
    y = model(X)
    lm.mc(model, X, 3)
    for name, a in (model.params | model.buffers).items():
        assert_same(a, before[name], name)
    assert_same(model(X), y)
    assert not model[3].always


def test_a_layer_in_two_places_drops_other_units_in_each():
    drop = lm.Dropout(0.5)
    model = lm.Sequential(drop, lm.Concat(lm.Identity(), drop))
    (y,) = lm.mc(model, np.ones((1, 1000)), 1, rng=0)
    once, twice = np.split(y[0], 2)
    assert abs((twice != 0).mean() - 0.25) < 0.06
    assert (twice[once != 0] == 0).any()


@pytest.mark.parametrize("layer", [lm.RNN, lm.LSTM, lm.GRU])
@pytest.mark.parametrize("options", [{"layers": 2, "dropout": 0.5}, {"recurrent_dropout": 0.5}])
def test_recurrent_layers_drop_inside(layer, options):
    model = lm.Sequential(layer(3, 8, **options), lm.Linear(8, 2), rng=0).astype(np.float64)
    x, lengths = random("x", (4, 6, 3)), [6, 0, 2, 5]
    for n, length in enumerate(lengths):
        x[n, length:] = np.nan
    ys = lm.mc(model, x, 3, lengths=lengths, rng=0)
    assert (ys[0, 0] != ys[1, 0]).any()
    for n, length in enumerate(lengths):
        assert not ys[:, n, length:].any()
    assert_close(lm.mc(model, x, 3, lengths=lengths, rng=0, batch_size=1), ys, np.float64)


def test_integers_where_the_first_layer_drops():
    drops = lm.Sequential(lm.Embedding(10, 4), lm.Dropout(0.5))
    model = lm.Concat(drops, lm.Embedding(10, 3))
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    ys = lm.mc(model, ids, 3, lengths=[3, 1], rng=0)
    assert (ys[0, 0, :, :4] != ys[1, 0, :, :4]).any()
    assert_same(ys[:, 1, :1, 4:], np.stack([lm.predict(model, ids)[1, :1, 4:]] * 3))
    assert not ys[:, 1, 1:].any()


def test_a_layer_alone():
    ys = lm.mc(lm.Dropout(0.5), np.ones((2, 50), np.float32), 4, rng=0)
    assert set(np.unique(ys)) == {0.0, 2.0}


def test_refusals():
    for model in (lm.Linear(5, 2), lm.Sequential(lm.Linear(5, 2), lm.Dropout(0))):
        with pytest.raises(ValueError, match="mc: the model has no Dropout that drops"):
            lm.mc(model, X, 3)
    with pytest.raises(ValueError, match="mc: n must be at least 1, got 0"):
        lm.mc(mlp(), X, 0)
    with pytest.raises(ValueError, match="x has 4 features"):
        lm.mc(mlp(), X[:, 1:], 2)
    with pytest.raises(TypeError, match=r"mc: x is a tuple; give .* beside it, by lengths="):
        lm.mc(mlp(), (X, np.ones(11, int)), 2)
