r"""Transposed convolution: each element of x lays a small grid of weights, times it, on y.

It is the way back of a convolution, from its outputs to its inputs, as a layer: where the stride
is above 1, y has more elements than x. With x (N, \*S, C), W (\*K, O/G, C), b (O), y (N, \*P, O),
and the letters of the convolution's formula else: stride s, dilation d, groups G. W is the weight
of that convolution, from O channels to C.

Forward. Element p of x stands, for each k, at p s + k d of ỹ. To find what stands at q, spread x by
the stride, with zeros between, and look for it k d before q:

    ẋ[n, p s, c] = x[n, p, c], and 0 elsewhere                                  (1)
    ỹ[n, q, o] = Σ_k Σ_c ẋ[n, q - k d, c] W[k, o, c]                            (2)

On an axis ỹ has (S - 1) s + (K - 1) d + 1 elements, and as many zeros behind them as
`output_padding` says. What a convolution pads, its transpose takes away:

    y = crop(ỹ) + b                                                             (3)

Backward. What was taken away has no gradient:

    dỹ = cropᵀ(dy): dy with zeros around it                                     (4)

In (2), x[n, p, c] is multiplied by W[k, o, c] for each q = p s + k d, so

    dx[n, p, c] = Σ_k Σ_o dỹ[n, p s + k d, o] W[k, o, c]                        (5)
    dW[k, o, c] = Σ_n Σ_p dỹ[n, p s + k d, o] x[n, p, c]                        (6)
    db[o] = Σ_n Σ_q dy[n, q, o]                                                 (7)

(5) is the convolution, and (6) the gradient of its weights, where dỹ is what it meets and x the
gradient of what it gives.
"""

from typing import Any

from ...arrays import Array, mask_steps, namespace
from ...windows import Ints, Pads, Windows, crop, each, fill, pairs
from ..formula import correlate, input_gradient, weight_gradient


def forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    *,
    stride: int | Ints = 1,
    dilation: int | Ints = 1,
    padding: int | Pads = 0,
    output_padding: int | Ints = 0,
    groups: int = 1,
) -> tuple[Array, tuple[Any, ...]]:
    r"""Return y, shape (N, \*P, O), and the cache of `backward`.

    Parameters
    ----------
    x : array, shape (N, \*S, C)
        Any number of axes S.
    weight : array, shape (\*K, O / groups, C)
    bias : array, shape (O,), optional
    lengths : integer array, shape (N,), optional
        x has shape (N, T, C); steps from lengths[n] on are padding.
    stride, dilation : int or tuple of int
        For all axes or for each.
    padding : int or tuple of (before, after)
        What is taken away, for all axes or for each; it leaves something of each.
    output_padding : int or tuple of int
        How many elements more there are at the end, for all axes or for each.
    groups : int
        G; divides C and O.
    """
    rank = x.ndim - 2
    windows = Windows(
        weight.shape[:rank], each(stride, rank), each(dilation, rank), pairs(padding, rank)
    )
    more = each(output_padding, rank)
    x = mask_steps(x, lengths)
    sizes = windows.inputs(x.shape[1:-1], more)
    uncut = tuple(size + sum(pair) for size, pair in zip(sizes, windows.pads, strict=True))
    whole = input_gradient(x, weight, uncut, windows, groups)  # (1), (2)
    y = crop(whole, windows.pads)  # (3)
    if bias is not None:
        y = y + bias  # (3)
    out_lengths = windows.input_lengths(lengths, more)
    back = windows.longer(more)
    return mask_steps(y, out_lengths), (x, weight, bias, lengths, out_lengths, back, groups)


def backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    r"""Return dx, shape (N, \*S, C), and the gradients of weight and bias."""
    x, weight, bias, lengths, out_lengths, windows, groups = cache
    xp = namespace(dy, weight)
    dy = mask_steps(dy, out_lengths)
    dwhole = fill(dy, windows.pads)  # (4)
    dx = correlate(dwhole, weight, windows, groups)  # (5)
    grads = {"weight": weight_gradient(dwhole, x, weight.shape, windows, groups)}  # (6)
    if bias is not None:
        grads["bias"] = xp.sum(xp.reshape(dy, (-1, dy.shape[-1])), axis=0)  # (7)
    return mask_steps(dx, lengths), grads
