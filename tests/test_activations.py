import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import lamina as lm
from contract import FormulaCase, FormulaContract, LayerCase, LayerContract
from lamina.dropout import formula as dropout_formula
from lamina.parts import activations
from lamina.parts.erfc import erfc

LAYERS = [
    lm.Identity(),
    lm.ReLU(),
    lm.LeakyReLU(0.1),
    lm.Sigmoid(),
    lm.Tanh(),
    lm.GELU(),
    lm.GELU(approximate=True),
    lm.SELU(),
    lm.Softmax(),
]


def all_of(*layers):
    return pytest.mark.parametrize("layer", layers or LAYERS, ids=repr)


class TestLayer(LayerContract):
    cases = [
        LayerCase(f"{layer!r}, {what}", lambda dtype, layer=layer: layer, shape, lengths)
        for layer in LAYERS
        for what, shape, lengths in [
            ("two axes", (4, 5), None),
            ("sequences", (4, 3, 5), None),
            ("lengths", (4, 6, 5), (3, 0, 6, 1)),
        ]
    ]


class Formula(FormulaContract):
    cases = [FormulaCase("plain", {"x": (4, 3, 5)}), FormulaCase("one", {"x": (1, 1)})]


def formula(name, **options):
    """The two functions of an activation, with the signatures of a layer's formula."""
    forward = getattr(activations, name)
    backward = getattr(activations, f"{name}_backward")
    return SimpleNamespace(
        forward=lambda x: forward(x, **options),
        backward=lambda dy, cache: (backward(dy, cache), {}),
    )


class TestReLU(Formula):
    module = formula("relu")


class TestLeakyReLU(Formula):
    module = formula("leaky_relu", slope=0.1)


class TestSigmoid(Formula):
    module = formula("sigmoid")


class TestTanh(Formula):
    module = formula("tanh")


class TestGELU(Formula):
    module = formula("gelu")


class TestGELUTanh(Formula):
    module = formula("gelu_tanh")


class TestSELU(Formula):
    module = formula("selu")


class TestSoftmax(Formula):
    module = formula("softmax")


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-15), (np.float32, 1e-6)])
def test_erfc(dtype, error):
    edges = [0.46875, 4.0, -0.46875, -4.0, 0.0, 1e-30, np.inf, -np.inf]
    x = np.concatenate([np.linspace(-30, 30, 6001), np.linspace(-1, 1, 2001), edges]).astype(dtype)
    expected = np.array([math.erfc(v) for v in x])
    found = erfc(x)
    assert found.dtype == dtype
    normal = expected > np.finfo(dtype).tiny
    np.testing.assert_allclose(found[normal], expected[normal], rtol=error)
    np.testing.assert_allclose(found[~normal], expected[~normal], atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(1 - found, [math.erf(v) for v in x], rtol=0, atol=error)
    assert np.isnan(erfc(np.array([np.nan], dtype)))


@all_of()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_values_are_finite(layer, dtype):
    x = np.array([[-1e30, -1e4, -1000, -30, 0, 30, 1000, 1e4, 1e30]], dtype)
    y, cache = layer.forward(x)
    dx, _ = layer.backward(np.ones_like(y), cache)
    assert y.dtype == dx.dtype == dtype
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@pytest.mark.parametrize(
    ("layer", "far", "dfar"),
    [
        (lm.ReLU(), (0, 1000), (0, 1)),
        (lm.LeakyReLU(0.5), (-500, 1000), (0.5, 1)),
        (lm.Sigmoid(), (0, 1), (0, 0)),
        (lm.Tanh(), (-1, 1), (0, 0)),
        (lm.GELU(), (0, 1000), (0, 1)),
        (lm.GELU(approximate=True), (0, 1000), (0, 1)),
        (lm.SELU(), (dropout_formula.LEAST, 1050.7009873554805), (0, 1.0507009873554805)),
        (lm.Softmax(), (0, 1), (0, 0)),
    ],
    ids=repr,
)
def test_limits(layer, far, dfar):
    y, cache = layer.forward(np.array([-1000.0, 1000.0]))
    np.testing.assert_array_equal(y, far)
    np.testing.assert_array_equal(layer.backward(np.ones(2), cache)[0], dfar)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("formulas", [False, True])
@pytest.mark.parametrize(
    ("layer", "at_minus", "slopes"),
    [
        (lm.ReLU(), 0, (0, 1)),
        (lm.LeakyReLU(0.5), -np.inf, (0.5, 1)),
        (lm.LeakyReLU(0), 0, (0, 1)),
        (lm.Sigmoid(), 0, (0, 0)),
        (lm.Tanh(), -1, (0, 0)),
        (lm.GELU(), 0, (0, 1)),
        (lm.GELU(approximate=True), 0, (0, 1)),
        (lm.SELU(), dropout_formula.LEAST, (0, 1.0507009873554805)),
    ],
    ids=repr,
)
def test_infinities_have_their_limits(layer, at_minus, slopes, formulas, dtype):
    most = np.finfo(dtype).max
    at_plus = np.inf if slopes[1] else 1
    with lm.formulas() if formulas else nullcontext(), np.errstate(over="ignore"):
        y, cache = layer.forward(np.array([-np.inf, np.inf], dtype))
        np.testing.assert_allclose(y, [at_minus, at_plus], rtol=1e-6)
        np.testing.assert_allclose(layer.backward(np.ones_like(y), cache)[0], slopes, rtol=1e-6)
        y, cache = layer.forward(np.array([-most, most], dtype))
        ends = -most * slopes[0] if slopes[0] else at_minus, most * slopes[1] if slopes[1] else 1
        np.testing.assert_allclose(y, np.array(ends, dtype), rtol=1e-6)
        np.testing.assert_allclose(layer.backward(np.ones_like(y), cache)[0], slopes, rtol=1e-6)


def test_small_values_keep_their_digits():
    x = np.array([-10.0])
    np.testing.assert_allclose(lm.Sigmoid()(x), math.exp(-10) / (1 + math.exp(-10)), rtol=1e-15)
    np.testing.assert_allclose(lm.GELU()(x), -5 * math.erfc(10 / math.sqrt(2)), rtol=1e-13)


@all_of()
def test_nan_goes_through(layer):
    y, cache = layer.forward(np.array([[1.0, np.nan]]))
    assert np.isnan(y[0, 1])
    dx, _ = layer.backward(np.array([[1.0, np.nan]]), cache)
    assert np.isnan(dx[0, 1])


def test_gradient_at_zero():
    x = np.array([-0.0, 0.0])
    for layer, expected in [(lm.ReLU(), 0), (lm.LeakyReLU(0.1), 0.1), (lm.Sigmoid(), 0.25)]:
        dx, _ = layer.backward(np.ones(2), layer.forward(x)[1])
        np.testing.assert_array_equal(dx, expected, err_msg=repr(layer))


def test_selu_keeps_mean_0_and_variance_1():
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = np.concatenate([6 * nodes - 6, 6 * nodes + 6])  # by halves: SELU has a kink at 0
    density = np.tile(6 * weights, 2) * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    y = lm.SELU()(x)
    np.testing.assert_allclose([density @ y, density @ y**2], [0, 1], atol=1e-14)


def test_softmax_takes_logits_of_minus_infinity():
    np.testing.assert_array_equal(lm.Softmax()(np.array([0.0, -np.inf, 0.0])), [0.5, 0, 0.5])


def test_tanh_approximation_of_gelu_is_close():
    x = np.linspace(-6, 6, 1001)
    difference = np.max(np.abs(lm.GELU()(x) - lm.GELU(approximate=True)(x)))
    assert 1e-4 < difference < 5e-4


@pytest.mark.peers
def test_autograd_of_the_sigmoid_at_0():
    """Where its two forms meet."""
    torch = pytest.importorskip("torch")
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    activations.sigmoid(x)[0].sum().backward()
    assert (x.grad == 0.25).all()


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("layer", "name", "options"),
    [
        (lm.ReLU(), "relu", {}),
        (lm.LeakyReLU(), "leaky_relu", {}),
        (lm.Sigmoid(), "sigmoid", {}),
        (lm.Tanh(), "tanh", {}),
        (lm.GELU(), "gelu", {}),
        (lm.GELU(approximate=True), "gelu", {"approximate": "tanh"}),
        (lm.SELU(), "selu", {}),
        (lm.Softmax(), "softmax", {"dim": -1}),
    ],
    ids=repr,
)
def test_pytorch_gives_the_same(layer, name, options, dtype):
    torch = pytest.importorskip("torch")
    x = np.linspace(-6, 6, 60).astype(dtype).reshape(5, 12)
    dy = np.cos(x)
    tensor = torch.tensor(x, requires_grad=True)
    function = getattr(torch, name, None) or getattr(torch.nn.functional, name)
    expected = function(tensor, **options)
    expected.backward(torch.tensor(dy))
    y, cache = layer.forward(x)
    tolerance = {"rtol": 0, "atol": 16 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y, expected.detach().numpy(), **tolerance)
    np.testing.assert_allclose(layer.backward(dy, cache)[0], tensor.grad.numpy(), **tolerance)


@all_of()
def test_refuses_other_dtypes(layer):
    with pytest.raises(TypeError, match=r"x has dtype int64, expected float32 or float64; cast it"):
        layer(np.arange(3))


def test_refuses_a_gradient_that_does_not_fit():
    layer = lm.ReLU()
    _, cache = layer.forward(np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match=r"ReLU\(\): dy has dtype float64, expected float32"):
        layer.backward(np.ones((2, 3)), cache)
    with pytest.raises(ValueError, match=r"ReLU\(\): dy has shape \(3,\), expected \(2, 3\)"):
        layer.backward(np.ones(3, np.float32), cache)


def test_refuses_options():
    with pytest.raises(
        ValueError, match=r"LeakyReLU\(slope=-1\): slope must lie in \[0, inf\], got -1"
    ):
        lm.LeakyReLU(-1)
    with pytest.raises(TypeError, match=r"slope must be a number, got 'steep'"):
        lm.LeakyReLU("steep")
    with pytest.raises(ValueError, match=r"approximate must be one of True, False; got 'tanh'"):
        lm.GELU(approximate="tanh")
    with pytest.raises(ValueError, match=r"Softmax\(\): x has shape \(2, 0\), expected \(..., C\)"):
        lm.Softmax()(np.ones((2, 0)))
    with pytest.raises(ValueError, match=r"Softmax\(\): x has shape \(\), expected"):
        lm.Softmax()(np.array(1.0))


def test_reprs():
    assert [repr(layer) for layer in LAYERS] == [
        "Identity()",
        "ReLU()",
        "LeakyReLU(slope=0.1)",
        "Sigmoid()",
        "Tanh()",
        "GELU()",
        "GELU(approximate=True)",
        "SELU()",
        "Softmax()",
    ]
