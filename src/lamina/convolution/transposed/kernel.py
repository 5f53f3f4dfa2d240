"""Transposed convolution: the functions of formula.py, by the kernels of the convolution."""

from typing import Any

import numpy.typing as npt

from ...arrays import mask_steps
from ...engine.matmul import column_sums, contiguous
from ...engine.threads import count as count_threads
from ...windows import Ints, Pads, each
from ..kernel import case_of, dw_of, dx_of, windows_of, y_of

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
) -> tuple[NDArray, tuple[Any, ...]]:
    r"""Return y, shape (N, \*P, O), and the cache of `backward`."""
    windows = windows_of(weight.shape, stride, dilation, padding)
    more = each(output_padding, x.ndim - 2)
    x, weight = contiguous(mask_steps(x, lengths)), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    y = (len(x), *windows.inputs(x.shape[1:-1], more), weight.shape[-2] * groups)
    case = case_of(y, weight.shape, windows, "zeros", groups, x.dtype, count_threads())
    out_lengths = windows.input_lengths(lengths, more)
    cache = x, weight, bias is not None, lengths, out_lengths, case
    return mask_steps(dx_of(case, x, weight, bias), out_lengths), cache  # (1), (2), (3)


def backward(dy: NDArray, cache: tuple[Any, ...]) -> tuple[NDArray, dict[str, NDArray]]:
    r"""Return dx, shape (N, \*S, C), and the gradients of weight and bias."""
    _, weight, _, lengths, out_lengths, case = cache
    dy = contiguous(mask_steps(dy, out_lengths))
    dx = y_of(case, dy, weight)  # (5)
    return mask_steps(dx, lengths), _gradients(dy, cache)


def gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias."""
    *_, out_lengths, _ = cache
    return _gradients(contiguous(mask_steps(dy, out_lengths)), cache)


def _gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias, of dy that is 0 at padding."""
    x, _, has_bias, _, _, case = cache
    grads = {"weight": dw_of(case, x, dy)}  # (6): x in the place of the convolution's dy
    if has_bias:
        grads["bias"] = column_sums(dy)  # (7)
    return grads
