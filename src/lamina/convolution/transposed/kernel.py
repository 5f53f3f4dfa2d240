"""Transposed convolution: the functions of formula.py, by the kernels of the convolution."""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...arrays import mask_steps
from ...engine.matmul import column_sums, contiguous
from ...engine.program import Plan
from ...engine.threads import count as count_threads
from ...windows import Ints, Pads, Windows, each
from ..case import Case, case_of
from ..direct import PLANS
from ..kernel import (
    BackWeights,
    Live,
    Parameters,
    dw_of,
    dx_of,
    pack_back,
    plan_back,
    scaled,
    windows_of,
    y_of,
)

NDArray = npt.NDArray[Any]


def forward(
    x: NDArray,
    weight: NDArray,
    bias: NDArray | None = None,
    lengths: NDArray | None = None,
    *,
    stride: int | Ints = 1,
    dilation: int | Ints = 1,
    padding: int | Pads = 0,
    output_padding: int | Ints = 0,
    groups: int = 1,
    relu: bool = False,
) -> tuple[NDArray, tuple[Any, ...]]:
    r"""Return y, shape (N, \*P, O), with a ReLU on top if asked for, and `backward`'s cache."""
    windows = windows_of(weight.shape, stride, dilation, padding)
    more = each(output_padding, x.ndim - 2)
    x, weight = contiguous(mask_steps(x, lengths)), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    case = _case(x.shape, weight.shape, windows, more, groups, x.dtype, count_threads())
    out_lengths = windows.input_lengths(lengths, more)
    cache = x, weight, bias is not None, lengths, out_lengths, case
    return mask_steps(dx_of(case, x, weight, bias, relu), out_lengths), cache  # (1), (2), (3)


def backward(dy: NDArray, cache: tuple[Any, ...]) -> tuple[NDArray, dict[str, NDArray]]:
    r"""Return dx, shape (N, \*S, C), and the gradients of weight and bias."""
    _, weight, _, lengths, out_lengths, case = cache
    dy = contiguous(mask_steps(dy, out_lengths))
    dx = y_of(case.now(), dy, weight)  # (5)
    return mask_steps(dx, lengths), _gradients(dy, cache)


def gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias."""
    *_, out_lengths, _ = cache
    return _gradients(contiguous(mask_steps(dy, out_lengths)), cache)


def _gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias, of dy that is 0 at padding."""
    x, _, has_bias, _, _, case = cache
    grads = {"weight": dw_of(case.now(), x, dy)}  # (6): x in the place of the convolution's dy
    if has_bias:
        grads["bias"] = column_sums(dy)  # (7)
    return grads


@lru_cache(PLANS)
def _case(
    x: Ints, weight: Ints, windows: Windows, more: Ints, groups: int, dtype: np.dtype[Any],
    threads: int,
) -> Case:  # fmt: skip
    """Return the case of the convolution back, from y to x."""
    y = (x[0], *windows.inputs(x[1:-1], more), weight[-2] * groups)
    return case_of(y, weight, windows.longer(more), "zeros", groups, dtype, threads)


class Forward(Parameters):
    """The forward pass with given `Parameters`."""

    def __init__(
        self, *given: Any, stride: int | Ints = 1, dilation: int | Ints = 1,
        padding: int | Pads = 0, output_padding: int | Ints = 0, groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(*given)
        self.groups, weight = groups, self.weight
        self.windows = windows_of(weight.shape, stride, dilation, padding)
        self.more = each(output_padding, weight.ndim - 2)

    def __call__(self, x: NDArray, lengths: NDArray | None = None) -> NDArray:
        """Return y."""
        x = contiguous(mask_steps(x, lengths))
        case = self.case(x.shape, x.dtype)
        y = dx_of(case, x, self._weights(case), self.bias, self.relu)
        masked: NDArray = mask_steps(y, self.windows.input_lengths(lengths, self.more))
        return masked

    def plan(self, plan: Plan, x: int) -> int:
        """Plan y of the array of that number; return the number of y."""
        case = self.case(plan.shapes[x], plan.dtype)
        return plan_back(plan, case, x, self._weights(case), self.bias, self.relu)

    def case(self, x: Ints, dtype: np.dtype[Any]) -> Case:
        """Return what plans for x of that shape follow from."""
        options = self.windows, self.more, self.groups, dtype, count_threads()
        return _case(x, self.weight.shape, *options)

    def _weights(self, case: Case) -> BackWeights:
        kind = case.has_product_dx
        found = self.packed.get(kind)
        if found is None:
            factors = self.factors
            if factors is not None:  # the inputs of a group lead to the outputs of that group
                inputs = self.weight.shape[-1] // self.groups
                factors = np.repeat(factors.reshape(self.groups, -1).T, inputs, axis=1)
            found = self.packed[kind] = pack_back(case, scaled(self.weight, factors))
        return found


class _LiveForward(Live, Forward):
    """The forward pass with parameters whose values may change."""


fixed: Final = Forward
"""`fixed(weight, bias, relu, ...)`: the forward pass with parameters that stay, packed once."""

live: Final = _LiveForward.of
"""The same with parameters whose values may change."""
