"""exp below 0, tanh and the logistic function against exact values, over the whole range."""

import ctypes
import decimal
import math
from decimal import Decimal
from functools import cache

import numpy as np
import pytest

import lamina as lm
import leftovers
from lamina.arrays import sigmoid
from lamina.engine import jit
from lamina.engine.pointwise import Functions
from lamina.engine.tile import lanes


def exp(e, b, a):
    """eᵃ for a <= 0, which the engine has 2^shift times."""
    a = e.at_least(b, a, e.number(e.format.least))
    return b.fmul(e.shifted_exp(b, a), e.number(2.0**-e.shift))


FUNCTIONS = {
    "exp": (exp, np.exp),
    "tanh": (Functions.tanh, np.tanh),
    "sigmoid": (Functions.sigmoid, sigmoid),
}
"""Each as vector code, and in NumPy."""
BOUNDS = {
    ("exp", "float32"): 1.1,
    ("tanh", "float32"): 2.6,
    ("sigmoid", "float32"): 2.4,
    ("exp", "float64"): 1.1,
    ("tanh", "float64"): 2.7,
    ("sigmoid", "float64"): 2.4,
}
"""In units in the last place, as the module states them."""
by_name = pytest.mark.parametrize("name", FUNCTIONS)
by_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def emit(name, dtype):
    """The IR of name(source, vectors, last, target)."""
    e = Functions(dtype)
    b, (source, vectors, last, target) = e.function(name, "piip")

    def one(b, element, mask):
        value = FUNCTIONS[name][0](e, b, e.load(b, e.at(b, source, element), mask))
        e.store(b, value, e.at(b, target, element), mask)

    e.sweep(b, vectors, last, one, together=4)
    b.ret_void()
    return str(e.module)


@cache
def compiled(name, dtype):
    address = jit.native("", lambda: emit(name, dtype), name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(address)


def apply(name, a):
    """f(a), by the machine code."""
    y = np.full_like(a, np.nan)
    n = lanes(a.dtype)
    vectors = -(-a.size // n)
    last = a.size - (vectors - 1) * n
    compiled(name, a.dtype)(a.ctypes.data, vectors, last, y.ctypes.data)
    return y


def wide(name, a):
    """f(a) in float64, for a in float32: in a form that is exact enough everywhere."""
    a = a.astype(np.float64)
    if name == "tanh":
        return np.tanh(a)
    u = np.exp(-np.abs(a))
    return np.exp(a) if name == "exp" else np.where(a < 0, u, 1) / (1 + u)


def exact(name, a):
    """f(a) to 60 digits."""
    a = Decimal(float(a))
    if name == "exp":
        return a.exp()
    if name == "sigmoid":
        return 1 / (1 + (-a).exp())
    if abs(a) < Decimal("1e-12"):
        return a - a**3 / 3
    e = (2 * a).exp()
    return (e - 1) / (e + 1)


def unit(value):
    """The unit in the last place of a number in float64."""
    return 2.0 ** max(math.frexp(value)[1] - 53, -1074)


@by_name
def test_float32_over_the_whole_range(name):
    """Every exponent, with some 8,000 fractions each, and the range that matters once more."""
    bits = np.arange(0, 0x7F800000, 1021, dtype=np.uint32).view(np.float32)
    a = np.concatenate([bits, -bits, np.linspace(-110, 110, 500_001, dtype=np.float32)])
    a = a[a <= 0] if name == "exp" else a
    with np.errstate(under="ignore"):
        expected = wide(name, a)
    exponent = np.maximum(np.frexp(expected)[1] - 1, -126)
    error = np.abs(apply(name, a) - expected) / np.exp2(exponent - 23.0)
    assert error.max() < BOUNDS[name, "float32"]


@by_name
def test_float64_at_samples_of_the_whole_range(name):
    rng = np.random.default_rng(0)
    a = np.concatenate(
        [
            rng.uniform(-3, 3, 3000),
            rng.uniform(-40, 40, 3000),
            rng.uniform(-745.2, 709.7, 2000),
            np.exp2(rng.uniform(-1074, 6, 2000)) * rng.choice([-1, 1], 2000),
        ]
    )
    a = a[a <= 0] if name == "exp" else a
    y = apply(name, a)
    worst = Decimal(0)
    with decimal.localcontext(prec=60):
        for found, given in zip(y, a, strict=True):
            expected = exact(name, given)
            error = abs(Decimal(float(found)) - expected) / Decimal(unit(float(expected)))
            worst = max(worst, error)
    assert worst < BOUNDS[name, "float64"]


@by_dtype
def test_special_values(dtype):
    special = np.array([np.nan, -np.inf, -0.0, 0.0, np.inf], dtype)
    for name, expected in {
        "exp": [np.nan, 0, 1, 1],
        "tanh": [np.nan, -1, -0.0, 0.0, 1],
        "sigmoid": [np.nan, 0, 0.5, 0.5, 1],
    }.items():
        y = apply(name, special[: len(expected)])
        np.testing.assert_array_equal(y, np.array(expected, dtype))
        np.testing.assert_array_equal(np.signbit(y[1:]), np.signbit(np.array(expected, dtype)[1:]))


@by_dtype
def test_the_small_side_of_the_sigmoid_ends_with_the_numbers(dtype):
    """σ(a) is eᵃ there: it is 0 only where that is less than half of the least number."""
    info = np.finfo(dtype)
    least = math.log(float(info.smallest_subnormal))
    a = np.array([least + 0.1, least + 5, float(np.log(info.tiny)), least - 1], dtype)
    y = apply("sigmoid", a)
    assert np.all(y[:3] > 0)
    assert y[3] == 0
    np.testing.assert_allclose(y[1:3], np.exp(a[1:3]), rtol=1e-2)


@pytest.mark.parametrize(
    "layer", [lm.Sigmoid(), lm.Tanh(), lm.GELU(), lm.GELU(approximate=True), lm.Softmax()], ids=repr
)
@by_dtype
def test_nothing_is_too_small_to_be_normal_far_out(layer, dtype):
    """CPUs note that: some take a hundred times as long for it."""
    far = 140 if dtype == "float32" else 1100
    x = np.array([[-np.inf, -1e9, -far, 0], [0, 1, far + 1, 1e9]], dtype)
    for a in (x, np.repeat(x, 9, axis=0), np.repeat(x, 40, axis=1)):
        y, cache = layer.forward(a, training=True)  # compiles
        dy = np.ones_like(y)
        layer.backward(dy, cache)
        found = leftovers.notes(lambda a=a: layer.forward(a, training=True))
        found |= leftovers.notes(lambda dy=dy, cache=cache: layer.backward(dy, cache))
        assert not found & (leftovers.DENORMALS | leftovers.UNDERFLOW)


@by_name
@by_dtype
def test_tails_of_vectors(name, dtype):
    n = lanes(dtype)
    rng = np.random.default_rng(0)
    for count in (1, n - 1, n, n + 1, 4 * n + 3, 9 * n):
        a = rng.uniform(-20, 0 if name == "exp" else 20, count).astype(dtype)
        y = apply(name, a)
        assert np.isfinite(y).all()
        alone = np.concatenate([apply(name, one) for one in a[:, None]])
        np.testing.assert_array_equal(y, alone)  # no value depends on its place
        np.testing.assert_allclose(y, FUNCTIONS[name][1](a), rtol=8 * np.finfo(dtype).eps)
