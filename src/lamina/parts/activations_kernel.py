"""Activations: the functions of activations.py, in one pass over memory.

The caches hold x or y themselves, whichever the gradient follows from.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import elements
from ..engine.matmul import contiguous
from ..engine.memory import empty
from ..engine.program import Plan
from . import activations as formula
from . import sums_kernel
from .activations import ALPHA, LAMBDA, ROOT_8_OVER_PI
from .rows_kernel import ready_softmax, softmax, softmax_backward, write_softmax

__all__ = [
    "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "leaky_relu", "leaky_relu_backward",
    "relu", "relu_backward", "selu", "selu_backward", "sigmoid", "sigmoid_backward", "softmax",
    "softmax_backward", "tanh", "tanh_backward",
]  # fmt: skip

NDArray = npt.NDArray[Any]


# Vector code. `e` has the functions of vectors, `b` builds, `number` is the slope of LeakyReLU.


def _relu(e: Any, b: Any, x: Any, number: Any) -> Any:
    zero = e.number(0)
    return (b.select(b.fcmp_ordered("<=", x, zero), zero, x),)  # NaN goes through


def _relu_backward(e: Any, b: Any, dy: Any, y: Any, number: Any) -> Any:
    zero = e.number(0)
    return (b.select(b.fcmp_ordered("<=", y, zero), zero, dy),)


def _leaky_relu(e: Any, b: Any, x: Any, number: Any) -> Any:
    return (b.select(b.fcmp_ordered(">", x, e.number(0)), x, b.fmul(number(0), x)),)


def _leaky_relu_backward(e: Any, b: Any, dy: Any, y: Any, number: Any) -> Any:
    return (b.select(b.fcmp_ordered(">", y, e.number(0)), dy, b.fmul(number(0), dy)),)


def _sigmoid(e: Any, b: Any, x: Any, number: Any) -> Any:
    return (e.sigmoid(b, x),)


def _sigmoid_backward(e: Any, b: Any, dy: Any, y: Any, number: Any) -> Any:
    return (b.fmul(dy, b.fmul(y, b.fsub(e.number(1), y))),)


def _tanh(e: Any, b: Any, x: Any, number: Any) -> Any:
    return (e.tanh(b, x),)


def _tanh_backward(e: Any, b: Any, dy: Any, y: Any, number: Any) -> Any:
    one = e.number(1)
    return (b.fmul(dy, b.fmul(b.fsub(one, y), b.fadd(one, y))),)


def _selu(e: Any, b: Any, x: Any, number: Any) -> Any:
    negative = b.fmul(e.number(LAMBDA * ALPHA), e.expm1_of_negative(b, x))
    positive = b.fmul(e.number(LAMBDA), x)
    return (b.select(b.fcmp_ordered(">", x, e.number(0)), positive, negative),)


def _selu_backward(e: Any, b: Any, dy: Any, x: Any, number: Any) -> Any:
    slope = b.fadd(e.expm1_of_negative(b, x), e.number(1))
    factor = b.fmul(e.number(LAMBDA * ALPHA), slope)
    factor = b.select(b.fcmp_ordered(">", x, e.number(0)), e.number(LAMBDA), factor)
    return (b.fmul(factor, dy),)


def _gelu(e: Any, b: Any, x: Any, number: Any) -> Any:
    above = e.at_least(b, x, e.number(-40))  # Φ is 0 there, but infinity times 0 is none
    return (b.fmul(above, e.normal(b, x)[0]),)


def _gelu_backward(e: Any, b: Any, dy: Any, x: Any, number: Any) -> Any:
    Phi, g = e.normal(b, x)
    z = _clip(e, b, x, 40)  # φ is 0 there, but infinity times 0 is none
    phi = b.fmul(g, e.number((2 * np.pi) ** -0.5 * 2.0**-e.shift))
    return (b.fmul(dy, e.multiply_add(b, z, phi, Phi)),)


def _gelu_tanh(e: Any, b: Any, x: Any, number: Any) -> Any:
    above = e.at_least(b, x, e.number(-100))
    return (b.fmul(above, _gate(e, b, e.below(b, above, 100))[0]),)


def _gelu_tanh_backward(e: Any, b: Any, dy: Any, x: Any, number: Any) -> Any:
    z, one = _clip(e, b, x, 100), e.number(1)
    s, square = _gate(e, b, z)
    dv = e.multiply_add(
        b, square, e.number(3 * 0.044715 * ROOT_8_OVER_PI), e.number(ROOT_8_OVER_PI)
    )
    inner = b.fmul(b.fmul(z, b.fsub(one, s)), dv)
    return (b.fmul(dy, b.fmul(s, b.fadd(one, inner))),)


def _clip(e: Any, b: Any, x: Any, most: float) -> Any:
    least = e.number(-most)
    return e.below(b, e.at_least(b, x, least), most)


def _gate(e: Any, b: Any, z: Any) -> tuple[Any, Any]:
    """Return σ(v) and z² for z in the range where v is finite."""
    square = b.fmul(z, z)
    v = e.multiply_add(b, square, e.number(0.044715 * ROOT_8_OVER_PI), e.number(ROOT_8_OVER_PI))
    return e.sigmoid(b, b.fmul(v, z)), square


# The functions

codes: Final[dict[str, elements.Each]] = {}
"""That of each function of single elements, by name."""

Forward = Callable[..., tuple[NDArray, Any]]
Backward = Callable[[NDArray, Any], NDArray]


def _functions(
    name: str, rule: Any, backward_rule: Any, from_y: bool, light: bool
) -> tuple[Forward, Backward]:
    """Return the functions that have the name and the signatures of those of activations.py."""
    forward_of, backward_of = getattr(formula, name), getattr(formula, f"{name}_backward")

    def twin(x: NDArray, *numbers: Any) -> tuple[NDArray]:
        return (forward_of(x, *numbers)[0],)

    def backward_twin(dy: NDArray, kept: NDArray, *numbers: Any) -> tuple[NDArray]:
        # y may be what is kept of ReLUs, for it is on x's side of 0.
        cache = kept if name in ("sigmoid", "tanh") else forward_of(kept, *numbers)[1]
        return (backward_of(dy, cache),)

    code = codes[name] = elements.Each(name, rule, twin, light=light)
    backward_name = f"{name}_backward"  # from y, it takes few operations
    backward_code = elements.Each(backward_name, backward_rule, backward_twin, 2, from_y)

    def forward(x: NDArray, *numbers: float) -> tuple[NDArray, Any]:
        x = contiguous(x)
        y = empty(x.shape, x.dtype)
        elements.run(code, (x, y), numbers)
        return y, (y if from_y else x, numbers)

    def backward(dy: NDArray, cache: Any) -> NDArray:
        kept, numbers = cache
        dx = empty(dy.shape, dy.dtype)
        elements.run(backward_code, (contiguous(dy), kept, dx), numbers)
        return dx

    return forward, backward


relu, relu_backward = _functions("relu", _relu, _relu_backward, True, True)
leaky_relu, leaky_relu_backward = _functions(
    "leaky_relu", _leaky_relu, _leaky_relu_backward, True, True
)
sigmoid, sigmoid_backward = _functions("sigmoid", _sigmoid, _sigmoid_backward, True, False)
tanh, tanh_backward = _functions("tanh", _tanh, _tanh_backward, True, False)
selu, selu_backward = _functions("selu", _selu, _selu_backward, False, False)
gelu, gelu_backward = _functions("gelu", _gelu, _gelu_backward, False, False)
gelu_tanh, gelu_tanh_backward = _functions(
    "gelu_tanh", _gelu_tanh, _gelu_tanh_backward, False, False
)


class Planner:
    """The functions of this module as steps of a plan: of the number of an array, not of an array.

    They return the number of y, and no cache.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def sum(self, x: int, other: int, relu: bool) -> int:
        """Plan x + other, with a ReLU on top if asked for; return the number of y."""
        shape = self.plan.shapes[x]
        run = elements.bind(sums_kernel.CODES[relu], math.prod(shape), self.plan.dtype)
        return self.plan.add(shape, run, x, other, in_place=True, ready=run.ready)

    def softmax(self, x: int) -> tuple[int, None]:
        """Plan softmax(x); return the number of y."""
        shape = self.plan.shapes[x]
        ready = partial(ready_softmax, shape, self.plan.dtype)
        return self.plan.add(shape, write_softmax, x, ready=ready), None

    def __getattr__(self, name: str) -> Callable[..., tuple[int, None]]:
        code = codes[name]

        def add(x: int, *numbers: float) -> tuple[int, None]:
            shape = self.plan.shapes[x]
            run = elements.bind(code, math.prod(shape), self.plan.dtype, numbers)
            return self.plan.add(shape, run, x, in_place=True, ready=run.ready), None

        return add
