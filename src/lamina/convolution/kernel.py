"""Convolution: the functions of formula.py, as direct correlations on the engine's tile."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..arrays import mask_steps
from ..engine.matmul import column_sums, contiguous, matmul
from ..engine.memory import empty
from ..windows import Ints, Pads, Windows, each, pad, pairs, unpad
from .direct import Taps, correlate
from .phases import input_gradient
from .weights import add_weight_gradient

NDArray = npt.NDArray[Any]

_NUMPY_MODES: Final = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def forward(
    x: NDArray,
    weight: NDArray,
    bias: NDArray | None = None,
    lengths: NDArray | None = None,
    *,
    stride: int | Ints = 1,
    dilation: int | Ints = 1,
    padding: int | Pads = 0,
    padding_mode: str = "zeros",
    groups: int = 1,
) -> tuple[NDArray, tuple[Any, ...]]:
    r"""Return y, shape (N, \*Q, O), and the cache of `backward`."""
    rank = x.ndim - 2
    windows = Windows(
        weight.shape[:rank], each(stride, rank), each(dilation, rank), pairs(padding, rank)
    )
    x, weight = contiguous(mask_steps(x, lengths)), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    y = _outputs(x, weight, bias, False, windows, padding_mode, groups)
    out_lengths = windows.output_lengths(lengths)
    cache = x, weight, bias, lengths, out_lengths, windows, padding_mode, groups
    return mask_steps(y, out_lengths), cache


def prepare(
    weight: NDArray,
    bias: NDArray | None = None,
    relu: bool = False,
    *,
    stride: int | Ints = 1,
    dilation: int | Ints = 1,
    padding_mode: str = "zeros",
    groups: int = 1,
) -> Callable[[NDArray, NDArray | None, Pads], NDArray]:
    """Return a function of x, lengths and padding that gives y, with a ReLU on top if asked for."""
    weight = contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    rank = weight.ndim - 2
    window = weight.shape[:rank], each(stride, rank), each(dilation, rank)

    def run(x: NDArray, lengths: NDArray | None, padding: Pads) -> NDArray:
        windows = Windows(*window, padding)
        x = contiguous(mask_steps(x, lengths))
        y = _outputs(x, weight, bias, relu, windows, padding_mode, groups)
        masked: NDArray = mask_steps(y, windows.output_lengths(lengths))
        return masked

    return run


def _outputs(
    x: NDArray, weight: NDArray, bias: NDArray | None, relu: bool,
    windows: Windows, padding_mode: str, groups: int,
) -> NDArray:  # fmt: skip
    """Return y, with a ReLU on top if asked for."""
    y = empty((len(x), *windows.outputs(x.shape[1:-1]), weight.shape[-1]), x.dtype)
    if _is_product(windows, x.shape, groups):
        o = weight.shape[-1]
        c = weight.size // o
        matmul(x, c, 1, weight, o, 1, y.size // o, o, c, y, bias, relu)
    elif y.size:
        axes = [
            Taps(tuple(range(k)), d, s, q, _map(size, pads, padding_mode)[: (q - 1) * s + span])
            for k, d, s, q, size, pads, span in zip(
                windows.size, windows.dilation, windows.stride, y.shape[1:-1], x.shape[1:-1],
                windows.pads, windows.spans, strict=True,
            )
        ]  # fmt: skip
        correlate(
            _volume(x), _taps(weight), groups, False, _three(axes),
            y, 0, _strides(y.shape[1:-1], y.shape[-1]), bias, relu,
        )  # fmt: skip
    return y


def backward(dy: NDArray, cache: tuple[Any, ...]) -> tuple[NDArray, dict[str, NDArray]]:
    r"""Return dx, shape (N, \*S, C), and the gradients of weight and bias."""
    x, weight, bias, lengths, out_lengths, windows, padding_mode, groups = cache
    dy = contiguous(mask_steps(dy, out_lengths))
    dx = _input_gradient(dy, weight, x.shape, windows, padding_mode, groups)
    grads = {"weight": _weight_gradient(dy, x, weight, windows, padding_mode, groups)}
    if bias is not None:
        grads["bias"] = column_sums(dy)  # (4)
    return mask_steps(dx, lengths), grads


def _weight_gradient(
    dy: NDArray, x: NDArray, weight: NDArray, windows: Windows, padding_mode: str, groups: int
) -> NDArray:
    """Return dW; where padding repeats x, of x padded sample by sample."""
    if _is_product(windows, x.shape, groups):
        dweight = empty(weight.shape, dy.dtype)
        o = weight.shape[-1]
        c = weight.size // o
        matmul(x, 1, c, dy, o, 1, c, o, dy.size // o, dweight)
        return dweight
    dweight = np.zeros(weight.shape, dy.dtype)
    if not dy.size:
        return dweight
    moves, into = _moves(windows), _taps(dweight)
    if padding_mode == "zeros":
        add_weight_gradient(_volume(x), _volume(dy), into, groups, *moves)
        return dweight
    for n in range(len(x)):
        padded = pad(x[n : n + 1], windows.pads, padding_mode)
        one = _volume(contiguous(padded)), _volume(dy[n : n + 1]), into
        add_weight_gradient(*one, groups, *moves[:2], (0, 0, 0))
    return dweight


def _input_gradient(
    dy: NDArray, weight: NDArray, shape: Ints, windows: Windows, padding_mode: str, groups: int
) -> NDArray:
    """Return dx: of padded x, and folded back sample by sample, where padding repeats x."""
    dx = empty(shape, dy.dtype)
    if _is_product(windows, shape, groups):
        o = weight.shape[-1]
        c = weight.size // o
        matmul(dy, o, 1, weight, 1, o, dy.size // o, c, o, dx)
        return dx
    moves = _moves(windows)
    if padding_mode == "zeros":
        input_gradient(_volume(dy), _taps(weight), _volume(dx), groups, *moves)
        return dx
    padded = [s + sum(pad) for s, pad in zip(shape[1:-1], windows.pads, strict=True)]
    dpadded = empty((1, *padded, shape[-1]), dy.dtype)
    for n in range(len(dy)):
        one = _volume(dy[n : n + 1]), _taps(weight), _volume(dpadded)
        input_gradient(*one, groups, *moves[:2], (0, 0, 0))
        dx[n : n + 1] = unpad(dpadded, windows.pads, padding_mode)
    return dx


def _is_product(windows: Windows, shape: Ints, groups: int) -> bool:
    """Tell whether the convolution is a product of matrices.

    It is with one tap that meets each position once, or with one window that is all of x.
    """
    each_position = {*windows.size, *windows.stride} == {1}
    all_of_x = windows.size == shape[1:-1] and set(windows.dilation) == {1}
    return groups == 1 and (each_position or all_of_x) and not any(map(any, windows.pads))


def _map(size: int, pads: tuple[int, int], mode: str) -> NDArray:
    """Return which position of x stands at each position of padded x; -1 for zero."""
    if mode == "zeros":
        return np.pad(np.arange(size), pads, constant_values=-1)
    found: NDArray = np.pad(np.arange(size), pads, mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return found


def _three(axes: list[Taps]) -> list[Taps]:
    """Put axes of one position before those there are, to make three."""
    return [Taps((0,), 1, 1, 1, np.zeros(1, np.int64))] * (3 - len(axes)) + axes


def _moves(windows: Windows) -> tuple[Ints, Ints, Ints]:
    """Return stride, dilation and what is padded before, on three axes."""
    one = (1,) * (3 - len(windows.size))
    before = tuple(pad[0] for pad in windows.pads)
    return one + windows.stride, one + windows.dilation, (0,) * len(one) + before


def _volume(x: NDArray) -> NDArray:
    r"""Return x, shape (N, \*S, C), with three axes S."""
    return x.reshape(x.shape[:1] + (1,) * (5 - x.ndim) + x.shape[1:])


def _taps(weight: NDArray) -> NDArray:
    r"""Return weights, shape (\*K, C, O), with three axes K."""
    return weight.reshape((1,) * (5 - weight.ndim) + weight.shape)


def _strides(sizes: Ints, c: int) -> tuple[int, int, int]:
    """Return how many elements apart positions are along depth, rows and columns."""
    three = (1,) * (3 - len(sizes)) + sizes
    return three[1] * three[2] * c, three[2] * c, c
