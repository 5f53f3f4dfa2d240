"""BatchNorm: every channel at mean 0 and deviation 1 over the batch, then scaled and shifted.

With x and y (..., C) and μ, σ², γ, β (C). Channels do not meet, so c is left out: x[n] is a value
of one channel, n runs over all axes but the last, and M values are real (padding is not).

Forward

    μ    = Σ_n x[n] / M                                                         (1)
    σ²   = Σ_n (x[n] - μ)² / M                                                  (2)
    x̂[n] = (x[n] - μ) s    with s = 1 / √(σ² + ε)                               (3)
    y[n] = γ x̂[n] + β                                                           (4)

Or μ and σ² are given: running values, which (1) and (2) of the k-th batch move on by

    μ_run  ← a μ_run  + (1 - a) μ                                               (5)
    σ²_run ← a σ²_run + (1 - a) σ² M / (M - 1)    biased: without M / (M - 1)   (6)
    a = momentum; or a = 1 - 1 / k, the mean over the batches so far            (7)

With those, (3) and (4) are one multiply-add,

    y[n] = a x[n] + c    with a = γ s and c = β - a μ                           (12)

Backward. γ and β stand in (4) alone; with dy = ∂L/∂y

    dβ = Σ_n dy[n]                                                              (8)
    dγ = Σ_n dy[n] x̂[n]                                                         (9)

If μ and σ² are given, they do not depend on x, and ∂y[n]/∂x[n] = γ s:

    dx[n] = γ s dy[n]                                                           (10)

If they are the batch's, x[k] moves them too. In ∂σ²/∂x[k] = 2 (x[k] - μ) / M the part through μ is
0, as Σ_n (x[n] - μ) = 0; and ds/dσ² = -s³ / 2. So

    ∂s/∂x[k]    = -s³ (x[k] - μ) / M = -s² x̂[k] / M
    ∂x̂[n]/∂x[k] = s ([n = k] - 1 / M) + (x[n] - μ) ∂s/∂x[k]
                = s ([n = k] - 1 / M - x̂[n] x̂[k] / M)

and the sum over n of γ dy[n] ∂x̂[n]/∂x[k] holds (8) and (9):

    dx[k] = γ s (dy[k] - dβ / M - x̂[k] dγ / M)                                  (11)
"""

import math
from typing import Final, NamedTuple

from ..arrays import Array, mask_steps, namespace

CHUNK: Final = 64
"""How many values are added one after the other."""


class Cache(NamedTuple):
    """What `backward` needs, and the statistics that y was computed with."""

    normalized: Array
    scale: Array
    gamma: Array | None
    beta: Array | None
    mean: Array
    var: Array
    M: Array | None
    lengths: Array | None


def count(x: Array, lengths: Array | None = None) -> Array:
    """Return M, the real values of a channel, as an array of shape () and of x's dtype."""
    xp = namespace(x, lengths)
    if lengths is None:
        return xp.asarray(math.prod(x.shape[:-1]), dtype=x.dtype)
    return xp.astype(xp.sum(lengths), x.dtype) * math.prod(x.shape[2:-1])


def statistics(x: Array, lengths: Array | None = None) -> tuple[Array, Array, Array, Array]:
    """Return mean, var (biased), count and x - mean, of shapes (C), (C), () and that of x.

    Of an empty batch, mean and var are 0.
    """
    M = count(x, lengths)
    x = mask_steps(x, lengths)
    mean = _share(_sum(x), M)  # (1)
    centred = mask_steps(x - mean, lengths)
    # Where the mean is large beside the deviation, its rounding would show in every centred value.
    rest = _share(_sum(centred), M)
    centred = mask_steps(centred - rest, lengths)
    var = _share(_sum(centred * centred), M)  # (2)
    return mean + rest, var, M, centred


def forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    mean: Array | None = None,
    var: Array | None = None,
    eps: float = 1e-5,
    lengths: Array | None = None,
) -> tuple[Array, Cache]:
    """Return y, shape (..., C), and the cache of `backward`.

    Parameters
    ----------
    x : array, shape (..., C)
    gamma, beta : array, shape (C,), optional
    mean, var : array, shape (C,), optional
        Statistics to normalise with, as constants; without the two, those of x.
    eps : float
    lengths : integer array, shape (N,), optional
        x has shape (N, T, ..., C); steps from lengths[n] on are padding.
    """
    xp = namespace(x, lengths)
    M = None
    if mean is None or var is None:
        mean, var, M, centred = statistics(x, lengths)
    else:
        centred = mask_steps(x, lengths) - mean
    scale = 1.0 / xp.sqrt(var + eps)
    normalized = centred * scale  # (3)
    y = normalized
    if gamma is not None:
        y = gamma * y  # (4)
    if beta is not None:
        y = y + beta
    cache = Cache(normalized, scale, gamma, beta, mean, var, M, lengths)
    return mask_steps(y, lengths), cache


def affine(
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array]:
    """Return a and c of (12), shape (C,), for the arguments of `forward`."""
    scale = 1.0 / namespace(var).sqrt(var + eps)
    if gamma is not None:
        scale = gamma * scale
    shift = -scale * mean
    return scale, shift if beta is None else beta + shift  # (12)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """Return dx, shape (..., C), and the gradients of gamma and beta."""
    normalized, scale, gamma, beta, _, _, M, lengths = cache
    dy = mask_steps(dy, lengths)
    dbeta = _sum(dy)  # (8)
    dgamma = _sum(dy * normalized)  # (9)
    dx = dy
    if M is not None:
        dx = dy - _share(dbeta, M) - normalized * _share(dgamma, M)  # (11), its brackets
    dx = (scale if gamma is None else gamma * scale) * dx  # (10)
    grads = {}
    if gamma is not None:
        grads["gamma"] = dgamma
    if beta is not None:
        grads["beta"] = dbeta
    return mask_steps(dx, lengths), grads


def update(
    running_mean: Array,
    running_var: Array,
    batches: int,
    mean: Array,
    var: Array,
    count: Array,
    momentum: float | None = 0.9,
    unbiased: bool = True,
) -> tuple[Array, Array]:
    """Return the running mean and variance after one batch more.

    Parameters
    ----------
    running_mean, running_var : array, shape (C,)
    batches : int
        How many batches have gone into them: k - 1.
    mean, var, count : array, shapes (C,), (C,) and ()
        The `statistics` of the batch, of 2 values a channel or more.
    momentum : float or None
        The share of the old value that is kept; None is the mean over all batches.
    unbiased : bool
    """
    kept = 1 - 1 / (batches + 1) if momentum is None else momentum  # (7)
    if unbiased:
        var = var * (count / (count - 1))
    return (
        kept * running_mean + (1 - kept) * mean,  # (5)
        kept * running_var + (1 - kept) * var,  # (6)
    )


def _sum(a: Array) -> Array:
    """Sum over n, in chunks: one long chain of additions would lose most digits of float32."""
    xp = namespace(a)
    C = a.shape[-1]
    a = xp.reshape(a, (-1, C))
    while a.shape[0] > CHUNK:
        whole = a.shape[0] // CHUNK * CHUNK
        chunks = xp.sum(xp.reshape(a[:whole, :], (-1, CHUNK, C)), axis=1)
        a = xp.concat([chunks, xp.sum(a[whole:, :], axis=0, keepdims=True)])
    return xp.sum(a, axis=0)


def _share(total: Array, count: Array) -> Array:
    """Divide a sum by M; a sum of nothing is 0, and so is its share."""
    return total / namespace(count).clip(count, min=1.0)
