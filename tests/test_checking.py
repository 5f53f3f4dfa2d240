import re

import numpy as np
import pytest

import lamina as lm
from contract import random


class Square(lm.Layer):
    """y = w x², right. The layers below get one thing wrong each."""

    def __init__(self):
        self.params["w"] = np.array([0.5, 2, -1], np.float32)

    def forward(self, x, *, training=False):
        return self.params["w"] * x * x, x

    def backward(self, dy, x):
        w = self.params["w"]
        return 2 * w * x * dy, {"w": (x * x * dy).sum(axis=0)}


class WrongDx(Square):
    def backward(self, dy, x):
        dx, grads = super().backward(dy, x)
        return 1.001 * dx, grads


class WrongInOneElement(Square):
    def backward(self, dy, x):
        dx, grads = super().backward(dy, x)
        grads["w"][2] = 0
        return dx, grads


class NotANumber(Square):
    def backward(self, dy, x):
        dx, grads = super().backward(dy, x)
        return dx * np.nan, grads


class ZeroDx(Square):
    def backward(self, dy, x):
        return np.zeros_like(dy), super().backward(dy, x)[1]


class NoDx(Square):
    def backward(self, dy, x):
        return None, super().backward(dy, x)[1]


class NoGradient(Square):
    def backward(self, dy, x):
        return super().backward(dy, x)[0], {}


class Misnamed(Square):
    def backward(self, dy, x):
        dx, grads = super().backward(dy, x)
        return dx, {"weight": grads["w"]}


class WrongShape(Square):
    def backward(self, dy, x):
        dx, grads = super().backward(dy, x)
        return dx, {"w": grads["w"][None]}


class WrongShapeOfDx(Square):
    def backward(self, dy, x):
        dx, grads = super().backward(dy, x)
        return dx.sum(axis=0), grads


class LosesPrecision(Square):
    def forward(self, x, *, training=False):
        if x.dtype == np.float64:
            return super().forward(x)
        big = x.dtype.type(30000)
        y, _ = super().forward(x)
        return (y + big) - big, x


class TurnsWide(Square):
    def forward(self, x, *, training=False):
        y, cache = super().forward(x)
        return y * np.float64(1), cache


def x():
    return random("x", (4, 3))


def test_a_right_layer_and_its_report():
    report = lm.check(Square(), x())
    assert report.ok
    assert [f.name for f in report.findings] == [
        "gradient of x",
        "gradient of w",
        "float32 y",
        "float32 gradient of x",
        "float32 gradient of w",
        "float64 y",
        "float64 gradient of x",
        "float64 gradient of w",
    ]
    assert repr(report) == str(report)  # as a prompt and a notebook show it
    first, *lines = str(report).splitlines()
    assert first == "Square()"
    for line in lines:
        assert re.fullmatch(
            r"  ok    [\w ]{21}  error \d\.\de[-+]\d\d  \(allowed \d\.\de-\d\d\)", line
        )


@pytest.mark.parametrize(
    ("layer", "lines"),
    [
        (WrongDx(), [r"FAIL  gradient of x +error \d\.\de-04", r"ok    gradient of w"]),
        (WrongInOneElement(), [r"ok    gradient of x", r"FAIL  gradient of w"]),
        (NotANumber(), [r"FAIL  gradient of x +error nan", r"FAIL  float32 gradient of x"]),
        (ZeroDx(), [r"FAIL  gradient of x"]),
        (LosesPrecision(), [r"FAIL  float32 y +error \d\.\de-04", r"ok    float32 gradient of x"]),
    ],
    ids=repr,
)
def test_wrong_numbers(layer, lines):
    with pytest.raises(lm.CheckError) as caught:
        lm.check(layer, x())
    assert str(caught.value).startswith(f"{layer!r}\n")
    for line in lines:
        assert re.search(line, str(caught.value)), str(caught.value)


class WritesForward(Square):
    def forward(self, x, *, training=False):
        x *= 2
        return super().forward(x.copy(), training=training)


class WritesBackward(Square):
    def backward(self, dy, x):
        dy *= 2
        return super().backward(dy, x)


class WritesIntoItsCache(Square):
    def backward(self, dy, x):
        x *= 2
        return super().backward(dy, x / 2)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (WritesForward(), r"WritesForward\(\): forward wrote into x; work on a copy$"),
        (WritesBackward(), r"WritesBackward\(\): backward wrote into dy; work on a copy$"),
        (WritesIntoItsCache(), r"WritesIntoItsCache\(\): backward wrote into x; work on a copy$"),
        (NoDx(), r"NoDx\(\): backward gave no gradient of x"),
        (NoGradient(), r"NoGradient\(\): backward gave no gradient of w"),
        (
            Misnamed(),
            r"backward gave gradients for no parameter: \['weight'\]; layer.params has w,",
        ),
        (WrongShape(), r"the gradient of w has shape \(1, 3\), expected \(3,\)"),
        (WrongShapeOfDx(), r"the gradient of x has shape \(3,\), expected \(4, 3\)"),
        (TurnsWide(), r"y has dtype float64, expected float32, that of x and the parameters"),
    ],
    ids=repr,
)
def test_wrong_arrays(layer, message):
    with pytest.raises(lm.CheckError, match=message):
        lm.check(layer, x())


def test_an_array_alone_is_not_taken_apart():
    class Alone(lm.Layer):
        def forward(self, x, *, training=False):
            return 2 * x

        def backward(self, dy, cache):
            return 2 * dy, {}

    class AloneBack(Alone):
        def forward(self, x, *, training=False):
            return 2 * x, None

        def backward(self, dy, cache):
            return 2 * dy

    x = random("x", (2, 3))  # of two samples, which would unpack into y and a cache
    message = r"Alone\(\): forward must return y and a cache, got ndarray"
    for layer in (Alone(), lm.Sequential(Alone()), lm.Residual(Alone())):
        for call in (layer, lambda x, layer=layer: lm.check(layer, x)):
            with pytest.raises(TypeError, match=message):
                call(x)
    with pytest.raises(TypeError, match="backward must return dx and the gradients by name, got n"):
        lm.check(AloneBack(), x)


def test_a_wrong_layer_inside_a_network():
    model = lm.Sequential(lm.Linear(3, 3), lm.Residual(WrongInOneElement()), lm.Tanh(), rng=0)
    with pytest.raises(lm.CheckError, match=r"FAIL  gradient of 1.body.w"):
        lm.check(model, x())


def test_a_gradient_that_is_0_by_cancelling_passes():
    model = lm.Sequential(lm.Linear(3, 4), lm.BatchNorm(4), rng=0)
    assert lm.check(model, random("x", (16, 3))).ok


def test_integers_have_no_dx():
    ids = np.array([[1, 2], [3, 1]])
    for layer in (lm.Embedding(5, 3), lm.Sequential(lm.Embedding(5, 3), lm.Tanh())):
        report = lm.check(layer.initialize(0), ids, lengths=[2, 1])
        assert not any(f.name == "gradient of x" for f in report.findings)


def test_a_layer_with_neither_dx_nor_parameters():
    class OneHot(lm.Layer):
        def __init__(self, dtype=np.float32):
            pass

        def forward(self, x, *, training=False):
            return np.eye(4, dtype=self.dtype)[x], None

        def backward(self, dy, cache):
            return None, {}

    assert lm.check(OneHot(), np.array([1, 2])).ok


def test_the_layer_is_left_as_it_is():
    model = lm.Sequential(lm.Linear(3, 4), lm.BatchNorm(4), lm.Dropout(0.5), rng=0)
    before = {name: a.copy() for name, a in {**model.params, **model.buffers}.items()}
    lm.check(model, random("x", (16, 3)).astype(np.float32))
    for name, a in {**model.params, **model.buffers}.items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_training_or_inference():
    model = lm.BatchNorm(3, dtype=np.float64)
    names = [f.name for f in lm.check(model, x(), training=False).findings]
    assert names == [f.name for f in lm.check(model, x()).findings]


def test_an_empty_batch():
    assert lm.check(lm.Linear(3, 2, rng=0), np.zeros((0, 3))).ok
