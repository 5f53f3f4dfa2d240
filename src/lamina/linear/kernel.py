"""Linear: the functions of formula.py, as matrix products on the engine."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..arrays import mask_steps, scale
from ..engine import pool
from ..engine.jit import held
from ..engine.matmul import Given, are_contiguous, contiguous, machine_of, matmul, pack, product
from ..engine.memory import empty, workspace
from ..engine.program import Plan
from ..engine.threads import count as count_threads

NDArray = npt.NDArray[Any]

ARRAYS: Final = 3
"""So many as large as the weights a step of training reads and writes: these, their gradient, and
what an optimizer keeps."""
KEPT: Final = 256
"""For how many sizes it is kept how to compute the gradients."""


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


class Forward:
    """The forward pass with given parameters."""

    def __init__(self, product: Given) -> None:
        self.product = product

    def __call__(self, x: NDArray, lengths: NDArray | None = None) -> NDArray:
        """Return y."""
        x = contiguous(mask_steps(x, lengths))
        y = empty(x.shape[:-1] + (self.product.n,), x.dtype)  # noqa: RUF005
        self.product(x, x.size // self.product.k, y)  # (1)
        masked: NDArray = mask_steps(y, lengths)
        return masked

    def plan(self, plan: Plan, x: int) -> int:
        """Plan y of the array of that number; return the number of y."""
        return plan.multiply(x, self.product, (*plan.shapes[x][:-1], self.product.n))

    def train(
        self, program: Callable[[NDArray], NDArray], x: NDArray
    ) -> tuple[NDArray, tuple[Any, ...]]:
        """Return y, by a program of that plan, and the cache of `backward`."""
        x = contiguous(x)
        return program(x), (x, self.product.b, self.product.bias, None)


def fixed(
    weight: NDArray,
    bias: NDArray | None = None,
    relu: bool = False,
    factors: NDArray | None = None,
) -> Forward:
    """Return the forward pass with parameters that stay, packed once; with a ReLU if asked for.

    The weights of each output are multiplied by a factor, if there are some.
    """
    I, O = weight.shape  # noqa: E741
    found = scale(weight, factors).astype(weight.dtype, copy=False)
    packed = pack(contiguous(found), O, 1, O, I)
    return Forward(Given(packed, None if bias is None else contiguous(bias), relu))


def live(weight: NDArray, bias: NDArray | None = None, relu: bool = False) -> Forward | None:
    """Return the same with parameters whose values may change; None where they lie apart."""
    return Forward(Given(weight, bias, relu)) if are_contiguous(weight, bias) else None


def backward(dy: NDArray, cache: tuple[Any, ...]) -> tuple[NDArray, dict[str, NDArray]]:
    """Return dx, shape (..., I), and the gradients of weight and bias."""
    x, *_ = cache
    dx = empty(x.shape, x.dtype)
    return dx, _backward(dy, cache, dx)


def gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias."""
    return _backward(dy, cache, None)


def _backward(dy: NDArray, cache: tuple[Any, ...], dx: NDArray | None) -> dict[str, NDArray]:
    """Return the gradients of weight and bias, and write dx if it is given."""
    x, weight, bias, lengths = cache
    dy = contiguous(mask_steps(dy, lengths))
    I, O = weight.shape  # noqa: E741
    grads = {"weight": empty((I, O), x.dtype)}
    if bias is not None:
        grads["bias"] = np.empty(O, x.dtype)
    if x.size == 0:
        for g in grads.values():
            g[...] = 0
        return grads
    options = x.dtype, count_threads(), dx is not None, bias is not None
    run, room = _products(x.size // I, I, O, *options)
    panels = workspace(room, x.dtype) if room else dy
    run(dy, x, weight, panels, dy if dx is None else dx, *grads.values())
    return grads


@lru_cache(KEPT)
def _products(
    N: int,
    I: int,  # noqa: E741
    O: int,  # noqa: E741
    dtype: np.dtype[Any],
    threads: int,
    of_x: bool,
    of_bias: bool,
) -> tuple[pool.Run, int]:
    """Return a function of dy, x, weight, panels, dx, dweight and dbias, and the panels' size."""
    dy, x, weight, panels, dx, dweight, dbias = map(pool.late, range(7))
    found = []
    if of_x:
        found.append((product(dtype, N, I, O, O, 1, 1, O, threads), (dy, weight, dx)))  # (2)
    of_weight = product(dtype, I, O, N, 1, I, O, 1, threads, arrays=ARRAYS)
    found.append((of_weight, (x, dy, dweight)))  # (3)
    if of_bias:
        ones = held(machine_of(dtype).one)
        found.append((product(dtype, 1, O, N, 0, 0, O, 1, threads), (ones, dy, dbias)))  # (4)
    calls = [how.ready(*arrays, panels) for how, arrays in found]
    return pool.in_order(*calls), max(how.panels for how, _ in found)
