"""Linear: the functions of formula.py, as matrix products on the engine."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt

from ..arrays import mask_steps
from ..engine.matmul import Given, column_sums, contiguous, matmul, pack
from ..engine.memory import empty
from ..engine.program import Plan

NDArray = npt.NDArray[Any]


def forward(
    x: NDArray,
    weight: NDArray,
    bias: NDArray | None = None,
    lengths: NDArray | None = None,
    relu: bool = False,
) -> tuple[NDArray, tuple[Any, ...]]:
    """Return y, shape (..., O), with a ReLU on top if asked for, and the cache of `backward`."""
    x, weight = contiguous(mask_steps(x, lengths)), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    I, O = weight.shape  # noqa: E741
    y = empty(x.shape[:-1] + (O,), x.dtype)  # noqa: RUF005
    matmul(x, I, 1, weight, O, 1, x.size // I, O, I, y, bias, relu)  # (1)
    return mask_steps(y, lengths), (x, weight, bias, lengths)


class Fixed:
    """The forward pass with given parameters, which are packed once, and a ReLU if asked for."""

    def __init__(self, weight: NDArray, bias: NDArray | None = None, relu: bool = False) -> None:
        bias = None if bias is None else contiguous(bias)
        self.I, self.O = weight.shape
        self.product = Given(pack(contiguous(weight), self.O, 1, self.O, self.I), bias, relu)

    def __call__(self, x: NDArray, lengths: NDArray | None = None) -> NDArray:
        """Return y."""
        x = contiguous(mask_steps(x, lengths))
        y = empty(x.shape[:-1] + (self.O,), x.dtype)  # noqa: RUF005
        self.product(x, x.size // self.I, y)  # (1)
        masked: NDArray = mask_steps(y, lengths)
        return masked

    def plan(self, plan: Plan, x: int) -> int:
        """Plan y of the array of that number; return the number of y."""
        return _planned(self.product, plan, x)


def live(weight: NDArray, bias: NDArray | None = None) -> Callable[[Plan, int], int] | None:
    """Return how to plan y with parameters whose values may change; None where they lie apart."""
    if any(a is not None and contiguous(a) is not a for a in (weight, bias)):
        return None
    return partial(_planned, Given(weight, bias))


def by_program(
    program: Callable[[NDArray], NDArray], x: NDArray, weight: NDArray, bias: NDArray | None
) -> tuple[NDArray, tuple[Any, ...]]:
    """Return y, by a plan with these parameters, and the cache of `backward`."""
    x = contiguous(x)
    return program(x), (x, weight, bias, None)


def _planned(product: Given, plan: Plan, x: int) -> int:
    return plan.multiply(x, product, (*plan.shapes[x][:-1], product.n))


def backward(dy: NDArray, cache: tuple[Any, ...]) -> tuple[NDArray, dict[str, NDArray]]:
    """Return dx, shape (..., I), and the gradients of weight and bias."""
    x, weight, _, lengths = cache
    dy = contiguous(mask_steps(dy, lengths))
    I, O = weight.shape  # noqa: E741
    dx = empty(x.shape, x.dtype)
    matmul(dy, O, 1, weight, 1, O, x.size // I, I, O, dx)  # (2)
    return dx, _gradients(dy, cache)


def gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias."""
    *_, lengths = cache
    return _gradients(contiguous(mask_steps(dy, lengths)), cache)


def _gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias, of dy that is 0 at padding."""
    x, weight, bias, _ = cache
    I, O = weight.shape  # noqa: E741
    N = x.size // I
    grads = {"weight": empty((I, O), x.dtype)}
    matmul(x, 1, I, dy, O, 1, I, O, N, grads["weight"])  # (3)
    if bias is not None:
        grads["bias"] = column_sums(dy)  # (4)
    return grads
