r"""Convolution: a small grid of weights that slides over a signal, an image or a volume.

With x (N, \*S, C), W (\*K, C/G, O), b (O) and y (N, \*Q, O). Positions p in y, q in x̃ and k in the
kernel have a component for each of the axes \*S; s is the stride, d the dilation, and arithmetic on
positions goes axis by axis. x̃ is x padded. With G groups, c runs over the C/G channels of x that
belong to the group of o: the g-th C/G of C go with the g-th O/G of O. Nothing is flipped: what
deep learning calls convolution, mathematics calls cross-correlation.

Forward

    x̃ = pad(x)                                                                  (1)
    y[n, p, o] = Σ_k Σ_c x̃[n, p s + k d, c] W[k, c, o] + b[o]                   (2)

Backward. In (2), W[k, c, o] is multiplied by x̃[n, p s + k d, c] for each n and p, so

    dW[k, c, o] = Σ_n Σ_p x̃[n, p s + k d, c] dy[n, p, o]                        (3)
    db[o] = Σ_n Σ_p dy[n, p, o]                                                 (4)

and x̃[n, q, c] by W[k, c, o] for each k and p with p s + k d = q and each o of its group. To find
those p, spread dy by the stride, with zeros between, and look for it k d before q:

    ẏ[n, p s, o] = dy[n, p, o], and 0 elsewhere                                 (5)
    dx̃[n, q, c] = Σ_k Σ_o ẏ[n, q - k d, o] W[k, c, o]
                = Σ_k Σ_o ẏ[n, q - (K-1) d + k d, o] W[K-1-k, c, o]             (6)

The last line counts k from the other end. It is (2) again, with stride 1: dx̃ is the convolution of
ẏ, behind (K-1) d zeros, with the kernel flipped and its two sides exchanged. This is why one calls
it the transposed convolution. Padding repeats elements of x or adds zeros, so what x̃ holds of an
element adds up:

    dx = padᵀ(dx̃)                                                               (7)
"""

import math
import operator
from functools import reduce
from typing import Any

from ..arrays import Array, mask_steps, namespace
from ..windows import Ints, Pads, Windows, each, pad, pairs, unpad


def forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    *,
    stride: int | Ints = 1,
    dilation: int | Ints = 1,
    padding: int | Pads = 0,
    padding_mode: str = "zeros",
    groups: int = 1,
) -> tuple[Array, tuple[Any, ...]]:
    r"""Return y, shape (N, \*Q, O), and the cache of `backward`.

    Parameters
    ----------
    x : array, shape (N, \*S, C)
        Any number of axes S.
    weight : array, shape (\*K, C / groups, O)
    bias : array, shape (O,), optional
    lengths : integer array, shape (N,), optional
        x has shape (N, T, C); steps from lengths[n] on are padding. With zeros as the
        `padding_mode` alone.
    stride, dilation : int or tuple of int
        For all axes or for each.
    padding : int or tuple of (before, after)
        For all axes or for each.
    padding_mode : str
        What the padding holds, one of `lamina.windows.MODES`.
    groups : int
        G; divides C and O.
    """
    rank = x.ndim - 2
    windows = Windows(
        weight.shape[:rank], each(stride, rank), each(dilation, rank), pairs(padding, rank)
    )
    padded = pad(mask_steps(x, lengths), windows.pads, padding_mode)  # (1)
    y = correlate(padded, weight, windows, groups)  # (2)
    if bias is not None:
        y = y + bias  # (2)
    out_lengths = windows.output_lengths(lengths)
    cache = padded, weight, bias, lengths, out_lengths, windows, padding_mode, groups
    return mask_steps(y, out_lengths), cache


def step(z: Array, weight: Array, bias: Array | None = None, *, groups: int = 1) -> Array:
    """Return y, shape (N, O), of the only window in z, shape (N, K, C); `weight` has one axis K."""
    y, _ = forward(z, weight, bias, groups=groups)
    return y[:, 0, :]


def backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    r"""Return dx, shape (N, \*S, C), and the gradients of weight and bias."""
    padded, weight, bias, lengths, out_lengths, windows, padding_mode, groups = cache
    xp = namespace(dy, weight)
    dy = mask_steps(dy, out_lengths)

    grads = {"weight": weight_gradient(padded, dy, weight.shape, windows, groups)}
    if bias is not None:
        grads["bias"] = xp.sum(xp.reshape(dy, (-1, weight.shape[-1])), axis=0)  # (4)

    dpadded = input_gradient(dy, weight, padded.shape[1:-1], windows, groups)
    dx = unpad(dpadded, windows.pads, padding_mode)  # (7)
    return mask_steps(dx, lengths), grads


def weight_gradient(padded: Array, dy: Array, shape: Ints, windows: Windows, groups: int) -> Array:
    """Return dW, of that shape."""
    xp = namespace(padded, dy)
    rows_dy = _rows(dy, groups)
    by_tap = [
        xp.matrix_transpose(_rows(windows.meet(padded, k), groups)) @ rows_dy  # (3)
        for k in windows.taps
    ]
    return xp.reshape(xp.permute_dims(xp.stack(by_tap), (0, 2, 1, 3)), shape)


def input_gradient(dy: Array, weight: Array, sizes: Ints, windows: Windows, groups: int) -> Array:
    """Return dx̃, whose axes have these sizes."""
    spread = windows.spread(dy, sizes)  # (5)
    return correlate(spread, _exchanged(weight, groups), windows.back, groups)  # (6)


def correlate(padded: Array, weight: Array, windows: Windows, groups: int) -> Array:
    r"""Return the sum in (2): one matrix product for each k."""
    xp = namespace(padded, weight)
    *kernel, c, o = weight.shape
    W = xp.reshape(weight, (*kernel, c, groups, o // groups))
    terms = (
        _rows(windows.meet(padded, k), groups) @ xp.permute_dims(W[(*k, ...)], (1, 0, 2))
        for k in windows.taps
    )
    rows = xp.permute_dims(reduce(operator.add, terms), (1, 0, 2))
    return xp.reshape(rows, (padded.shape[0], *windows.fits(padded), o))


def _rows(x: Array, groups: int) -> Array:
    r"""Return x, shape (N, \*Q, C), as a matrix for each group, shape (G, N ∏Q, C / G)."""
    xp = namespace(x)
    *positions, channels = x.shape
    rows = xp.reshape(x, (math.prod(positions), groups, channels // groups))
    return xp.permute_dims(rows, (1, 0, 2))


def _exchanged(weight: Array, groups: int) -> Array:
    r"""Return the weights of (6), shape (\*K, O / G, C): flipped, with their sides exchanged."""
    xp = namespace(weight)
    *kernel, c, o = weight.shape
    rank = len(kernel)
    W = xp.reshape(weight, (*kernel, c, groups, o // groups))
    W = xp.permute_dims(W, (*range(rank), rank + 2, rank + 1, rank))
    return xp.flip(xp.reshape(W, (*kernel, o // groups, groups * c)), axis=tuple(range(rank)))
