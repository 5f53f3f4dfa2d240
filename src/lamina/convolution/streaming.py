r"""Causal convolution in parts: what a part needs of the past is a state.

A causal convolution of stride 1 pads x (N, T, C) by B = (K - 1) d zeros in front, so that y[n, t]
depends on x[n, t - B] ... x[n, t]. With the last B inputs before x as the state h (N, B, C), zeros
at first, a sequence may come in parts of any length:

    z = [h, x]                                 shape (N, B + T, C)              (1)
    y = convolution of z, without padding      shape (N, T, O)                  (2)
    h'[n, j] = z[n, L_n + j]                   the last B of L_n steps          (3)

Backward. z reaches the loss through y and through h', and its two parts are h and x:

    dz[n, L_n + j] += dh'[n, j]                                                 (4)
    [dh, dx] = dz                                                               (5)
"""

from types import ModuleType
from typing import Any

from ..arrays import Array, arange, namespace, whole_lengths
from . import formula


def run(
    x: Array,
    state: Array,
    weight: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    *,
    dilation: int = 1,
    groups: int = 1,
    how: ModuleType = formula,
) -> tuple[Array, Array, tuple[Any, ...]]:
    """Return y, shape (N, T, O), the state after the last step, and the cache of `run_backward`.

    Parameters
    ----------
    x : array, shape (N, T, C)
    state : array, shape (N, (K - 1) dilation, C)
        The inputs before x.
    weight : array, shape (K, C / groups, O)
    bias : array, shape (O,), optional
    lengths : integer array, shape (N,), optional
        Steps from lengths[n] on are padding; the state is that after each sequence's own last.
    dilation, groups : int
    how : module
        Whose `forward` and `backward` do (2): those of formula.py or of kernel.py.
    """
    xp = namespace(x, state)
    past = state.shape[1]
    z = xp.concat([state, x], axis=1)  # (1)
    z_lengths = None if lengths is None else lengths + past
    y, cache = how.forward(z, weight, bias, z_lengths, dilation=dilation, groups=groups)  # (2)
    ends = whole_lengths(x) if lengths is None else lengths
    last = ends[:, None] + arange(past, ends)
    after = xp.take_along_axis(z, _for_each_channel(last, z), axis=1)  # (3)
    return y, after, (how, cache, ends, past)


def run_backward(
    dy: Array, dstate: Array, cache: tuple[Any, ...]
) -> tuple[Array, Array, dict[str, Array]]:
    """Return dx, the gradient of the state before x, and those of weight and bias.

    `dstate`, shape (N, (K - 1) dilation, C), is the gradient of the state after x.
    """
    how, cache, ends, past = cache
    xp = namespace(dy, dstate)
    dz, grads = how.backward(dy, cache)
    # Step t of z is entry j = t - L_n of the state, or none: then it takes the 0 put at its end.
    j = arange(dz.shape[1], ends) - ends[:, None]
    j = xp.where((j >= 0) & (j < past), j, past)
    entries = xp.concat([dstate, xp.zeros_like(dz[:, :1, :])], axis=1)
    dz = dz + xp.take_along_axis(entries, _for_each_channel(j, dz), axis=1)  # (4)
    return dz[:, past:, :], dz[:, :past, :], grads  # (5)


def _for_each_channel(index: Array, z: Array) -> Array:
    """Return `index`, shape (N, J), as one into z, shape (N, T, C): shape (N, J, C)."""
    xp = namespace(index)
    return xp.broadcast_to(index[:, :, None], (*index.shape, z.shape[2]))
