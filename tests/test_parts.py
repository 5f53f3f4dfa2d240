import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract, assert_same, random
from lamina.parts import steps


class TestFlatten(LayerContract):
    cases = [
        LayerCase("an image", lambda d: lm.Flatten(), (4, 3, 2, 5)),
        LayerCase("flat already", lambda d: lm.Flatten(), (4, 5)),
        LayerCase("one feature, no axis", lambda d: lm.Flatten(), (4,)),
    ]


def embedding(**options):
    return lambda dtype: lm.Embedding(7, 3, dtype=dtype, rng=1, **options)


class TestEmbedding(LayerContract):
    cases = [
        LayerCase("one id a sample", embedding(), (9,), integers=7),
        LayerCase("sequences", embedding(), (4, 6), integers=7),
        LayerCase("three axes", embedding(), (4, 3, 2), integers=7),
        LayerCase("lengths", embedding(), (4, 6), (3, 0, 6, 1), integers=7),
        LayerCase("padding index", embedding(padding_index=2), (4, 6), integers=7),
        LayerCase(
            "both", embedding(padding_index=0, init="zeros"), (4, 6), (3, 0, 6, 1), integers=7
        ),
        LayerCase(
            "in a network",
            lambda d: lm.Sequential(
                lm.Embedding(7, 3, dtype=d), lm.Tanh(), lm.Linear(3, 2, dtype=d), rng=1
            ),
            (4, 6),
            (3, 0, 6, 1),
            integers=7,
        ),
        LayerCase(
            "side by side",
            lambda d: lm.Concat(
                lm.Embedding(7, 3, dtype=d, rng=1), lm.Embedding(7, 2, dtype=d, rng=2)
            ),
            (4, 6),
            integers=7,
        ),
    ]


class TestReductions(LayerContract):
    cases = [
        LayerCase(f"{layer!r}, {what}", lambda dtype, layer=layer: layer, shape, lengths)
        for layer in [lm.LastStep(), lm.MeanSteps()]
        for what, shape, lengths in [
            ("whole sequences", (4, 6, 5), None),
            ("lengths", (4, 6, 5), (3, 0, 6, 1)),
            ("images in time", (3, 4, 2, 2, 3), (4, 0, 2)),
            ("long", (4, 60, 3), (60, 13, 0, 33)),
            ("long, one feature", (4, 60, 1), (60, 13, 7, 33)),
        ]
    ]


class Formula(FormulaContract):
    cases = [
        FormulaCase("whole sequences", {"x": (4, 6, 5)}),
        FormulaCase("lengths", {"x": (4, 6, 5)}, (3, 0, 6, 1)),
    ]


class TestLastStep(Formula):
    module = SimpleNamespace(
        forward=steps.last_step,
        backward=lambda dy, cache: (steps.last_step_backward(dy, cache), {}),
    )


class TestMeanSteps(Formula):
    module = SimpleNamespace(
        forward=steps.mean_steps,
        backward=lambda dy, cache: (steps.mean_steps_backward(dy, cache), {}),
    )


def test_reductions_are_those_of_each_sequence():
    x, lengths = random("x", (4, 6, 5)), [3, 0, 6, 1]
    last, mean = lm.LastStep()(x, lengths=lengths), lm.MeanSteps()(x, lengths=lengths)
    for n, length in enumerate(lengths):
        assert_same(last[n], x[n, length - 1] if length else np.zeros(5))
        expected = x[n, :length].mean(axis=0) if length else np.zeros(5)
        np.testing.assert_allclose(mean[n], expected, rtol=1e-14)
    np.testing.assert_array_equal(lm.LastStep()(x), x[:, -1])
    np.testing.assert_allclose(lm.MeanSteps()(x), x.mean(axis=1), rtol=1e-14)


@pytest.mark.parametrize("layer", [lm.LastStep(), lm.MeanSteps()], ids=repr)
def test_reductions_without_any_step(layer):
    x = np.zeros((2, 0, 3), np.float32)
    y, cache = layer.forward(x)
    assert_same(y, np.zeros((2, 3), np.float32))
    assert layer.backward(y, cache)[0].shape == (2, 0, 3)


@pytest.mark.parametrize("of_forward", [True, False])
def test_the_mean_goes_back_as_it_came(of_forward):
    x, lengths, layer = random("x", (4, 6, 5, 2)), [3, 0, 6, 1], lm.MeanSteps()
    y, cache = layer.forward(x, lengths=lengths)
    expected = layer.backward(y, cache)[0]
    with lm.formulas() if of_forward else contextlib.nullcontext():
        y, cache = layer.forward(x, lengths=lengths)
    with contextlib.nullcontext() if of_forward else lm.formulas():
        np.testing.assert_allclose(layer.backward(y, cache)[0], expected, rtol=1e-14)


@pytest.mark.parametrize("layer", [lm.LastStep(), lm.MeanSteps()], ids=repr)
def test_reductions_end_the_sequence(layer):
    assert layer.output_lengths(np.array([1, 2])) is None
    assert layer.output_shape((4, 6, 5)) == (4, 5)
    with pytest.raises(ValueError, match=r"x has shape \(4, 5\), expected sequences"):
        layer.output_shape((4, 5))
    with pytest.raises(TypeError, match=r"Step.?\(\): cannot go step by step"):
        layer.step(np.zeros((4, 5)), ())
    with pytest.raises(ValueError, match=r"x has shape \(4, 5\), expected sequences \(N, T, ...\)"):
        layer(np.zeros((4, 5)))


def test_flatten_refuses():
    with pytest.raises(ValueError, match=r"Flatten\(\): takes no lengths=; .* put LastStep or"):
        lm.Flatten()(np.zeros((2, 3, 4)), lengths=[1, 2])
    with pytest.raises(ValueError, match=r"Flatten\(\): x has no axes"):
        lm.Flatten()(np.array(1.0))
    with pytest.raises(TypeError, match=r"x has dtype uint8, expected float32 or float64"):
        lm.Flatten()(np.zeros((2, 3), np.uint8))


def test_flatten_runs_through_the_last_axis_first():
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(lm.Flatten()(x), np.arange(12.0)[None])


def test_embedding_adds_the_gradients_of_an_id():
    rng = np.random.default_rng(0)
    layer, ids = lm.Embedding(50, 8, dtype=np.float64, rng=0), rng.integers(0, 50, (20, 30))
    y, cache = layer.forward(ids)
    dy = rng.standard_normal(y.shape)
    _, grads = layer.backward(dy, cache)
    one_hot = np.eye(50)[ids.reshape(-1)]
    np.testing.assert_allclose(grads["weight"], one_hot.T @ dy.reshape(-1, 8), atol=1e-13)


def test_an_embedding_tied_to_a_linear():
    layer, out = lm.Embedding(5, 3, rng=0), lm.Linear(3, 5, bias=False, rng=1)
    layer.params["weight"] = out.weight.T
    y, cache = layer.forward(np.array([1, 2, 1]))
    _, grads = layer.backward(np.ones_like(y), cache)
    np.testing.assert_array_equal(grads["weight"][:, 0], [0, 2, 1, 0, 0])


def test_padding_index():
    layer = lm.Embedding(4, 2, padding_index=3, rng=0)
    assert not layer.weight[3].any()
    assert layer.weight[:3].all()
    layer.weight = np.ones((4, 2))
    y, cache = layer.forward(np.array([3, 1]))
    np.testing.assert_array_equal(y, [[0, 0], [1, 1]])
    _, grads = layer.backward(np.ones_like(y), cache)
    np.testing.assert_array_equal(grads["weight"][:, 0], [0, 1, 0, 0])


def test_embedding_draws_as_pytorch_does():
    drawn, normal = (lm.Embedding(7, 3, init=init, rng=0) for init in ("torch", "normal"))
    assert_same(drawn.weight, normal.weight)
    assert_same(lm.Embedding(7, 3, init="ones").weight, np.ones((7, 3), np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, ">i4"])
def test_embedding_takes_any_integers(dtype):
    layer = lm.Embedding(200, 300, rng=0)
    y, cache = layer.forward(np.array([[0, 199], [100, 3]], dtype))
    assert_same(y, layer.weight[[[0, 199], [100, 3]]])
    _, grads = layer.backward(np.ones_like(y), cache)
    assert grads["weight"].sum() == 4 * 300


def test_embedding_ignores_the_ids_in_padding():
    layer = lm.Embedding(5, 2, rng=0)
    ids = np.array([[1, -1, 99], [-7, 2**40, -1]])
    y, cache = layer.forward(ids, lengths=[1, 0])
    assert y[0, 0].all()
    assert not y[0, 1:].any()
    assert not y[1].any()
    _, grads = layer.backward(np.full_like(y, np.nan), cache)
    assert np.isnan(grads["weight"]).any(axis=1).tolist() == [False, True, False, False, False]


def test_embedding_refuses():
    layer = lm.Embedding(5, 2, rng=0)
    with pytest.raises(
        ValueError, match=r"Embedding\(5, 2\): ids must lie in 0 ... 4, got 0 ... 5"
    ):
        layer(np.array([0, 5]))
    with pytest.raises(ValueError, match=r"ids must lie in 0 ... 4, got -1 ... 3"):
        layer(np.array([[3, -1]]))
    with pytest.raises(
        TypeError, match=r"x has dtype float64, expected integers; cast it: x.astyp"
    ):
        layer(np.array([0.0]))
    with pytest.raises(TypeError, match=r"x has dtype bool, expected integers"):
        layer(np.array([True]))
    with pytest.raises(ValueError, match=r"lengths go with x of shape \(N, T, ...\)"):
        layer(np.array([1, 2]), lengths=[1, 1])
    with pytest.raises(TypeError, match=r"Embedding\(5, 2\): x is a masked array, whose mask"):
        layer(np.ma.masked_array([0, 1]))
    y, cache = layer.forward(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"dy has shape \(2, 1\), expected \(2, 2\)"):
        layer.backward(y[:, :1], cache)
    with pytest.raises(ValueError, match=r"padding_index must be an id, 0 ... 4, got 5"):
        lm.Embedding(5, 2, padding_index=5)
    with pytest.raises(ValueError, match=r"padding_index must be at least 0, got -1"):
        lm.Embedding(5, 2, padding_index=-1)
    with pytest.raises(ValueError, match=r"Embedding\(0, 2\): count must be at least 1, got 0"):
        lm.Embedding(0, 2)
    with pytest.raises(TypeError, match=r"features must be an integer, got 2.0"):
        lm.Embedding(5, 2.0)
    layer.params["weight"] = layer.weight[:4]
    with pytest.raises(ValueError, match=r"weight has become an array of shape \(4, 2\)"):
        layer(np.array([0, 1]))


@pytest.mark.peers
def test_pytorch_gives_the_same_embedding():
    torch = pytest.importorskip("torch")
    ours, ids = lm.Embedding(7, 3, padding_index=2, rng=0), np.array([[0, 2, 6], [6, 1, 2]])
    theirs = torch.nn.Embedding(7, 3, padding_idx=2)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(ours.weight))
    y, cache = ours.forward(ids)
    dy = random("dy", y.shape, np.float32)
    expected = theirs(torch.tensor(ids))
    expected.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(ours.backward(dy, cache)[1]["weight"], theirs.weight.grad.numpy())
