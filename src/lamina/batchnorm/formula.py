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

    y[n] = a x[n] + c    with a = γ s and c = β - a μ                           (14)

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

Parts of a batch. What a set of M values is to (1) to (4) are M, μ and q = Σ_n (x[n] - μ)², and two
sets a and b make one (T. Chan, G. Golub, R. LeVeque, *Algorithms for Computing the Sample
Variance*, 1983) by

    M = M_a + M_b        μ = μ_a + (μ_b - μ_a) M_b / M                          (12)
    q = q_a + q_b + (μ_b - μ_a)² M_a M_b / M           σ² = q / M               (13)

So a batch may come in parts: their statistics first, then y of each part with those of the whole.
In (11) dβ and dγ are those of the whole, too: the sums (8) and (9) of the parts add. μ is kept as
two numbers, `mean` and the `rest` that its rounding left out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from array_api_compat import device

from ..arrays import Array, mask_steps, namespace

CHUNK: Final = 64
"""How many values are added one after the other."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of some values of each channel: `a + b` are those of both sets together.

    Attributes
    ----------
    mean, rest : array, shape (C,)
        μ is the sum of the two.
    squares : array, shape (C,)
        q.
    count : int
        M.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> both = stats(x[:1]) + stats(x[1:])
    >>> both.mean, both.var, both.count
    (array([4.]), array([8.66666667]), 3)
    """

    mean: Array
    rest: Array
    squares: Array
    count: int

    @property
    def var(self) -> Array:
        """σ², biased; 0 of nothing."""
        return self.squares / max(self.count, 1)

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets."""
        count = self.count + other.count
        share = other.count / max(count, 1)
        apart = (other.mean - self.mean) + (other.rest - self.rest)
        moved = self.rest + apart * share
        mean = self.mean + moved  # (12)
        rest = moved - (mean - self.mean)
        squares = self.squares + other.squares + apart * apart * (self.count * share)  # (13)
        return Statistics(mean, rest, squares, count)


@dataclass(frozen=True, eq=False)
class Sums:
    """(8) and (9) of some values of each channel: `a + b` are those of both sets together."""

    beta: Array
    gamma: Array

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums over both sets."""
        return Sums(self.beta + other.beta, self.gamma + other.gamma)


def merge(parts: Iterable[Any]) -> Any:
    """Add statistics, or sums, in a binary tree by index: one answer for the same parts.

    Parameters
    ----------
    parts : iterable of Statistics or of Sums
        At least one.
    """
    level = list(parts)
    while len(level) > 1:
        pairs = [a + b for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


class Running(NamedTuple):
    """Running mean and variance, shape (C,), before a batch more, and how they follow it.

    `batches`, shape (), have gone into them: k - 1 of (7), by which a mean over all goes, where
    `momentum`, a of (5), is None. `unbiased` stands at (6).
    """

    mean: Array
    var: Array
    batches: Array
    momentum: float | None = 0.9
    unbiased: bool = True

    @property
    def kept(self) -> float:
        """a, the share of the old values that is kept."""
        return 1 - 1 / (int(self.batches) + 1) if self.momentum is None else self.momentum  # (7)


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
    running: tuple[Array, Array] | None
    """Running mean and variance after this batch, if they were asked for."""


def count(x: Array, lengths: Array | None = None) -> Array:
    """Return M, the real values of a channel, as an array of shape () and of x's dtype."""
    xp = namespace(x, lengths)
    if lengths is None:
        return xp.asarray(math.prod(x.shape[:-1]), dtype=x.dtype, device=device(x))
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


def stats(x: Array, lengths: Array | None = None) -> Statistics:
    """Return the statistics of a batch, or of a part of one."""
    xp = namespace(x, lengths)
    mean, _, _, centred = statistics(x, lengths)
    M = math.prod(x.shape[:-1])
    if lengths is not None:
        M = int(xp.sum(lengths)) * math.prod(x.shape[2:-1])
    # `mean` is what `centred` is about, rounded; what is left of x - mean says by how much.
    rest = _share(_sum(mask_steps(mask_steps(x, lengths) - mean, lengths)), count(x, lengths))
    return Statistics(mean, rest, _sum(centred * centred), M)


def forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    mean: Array | None = None,
    var: Array | None = None,
    eps: float = 1e-5,
    lengths: Array | None = None,
    stats: Statistics | None = None,
    running: Running | None = None,
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
    stats : Statistics, optional
        Those of the batch that x is a part of, x among it.
    running : Running, optional
        What follows the statistics of x, to values that the cache holds.
    """
    xp = namespace(x, lengths)
    M = None
    if stats is not None:
        mean, var = stats.mean, stats.var
        M = xp.asarray(stats.count, dtype=x.dtype, device=device(x))
        centred = mask_steps(x, lengths) - mean - stats.rest
    elif mean is None or var is None:
        mean, var, M, centred = statistics(x, lengths)
    else:
        centred = mask_steps(x, lengths) - mean
    scale = 1.0 / xp.sqrt(var + eps)  # (3)
    normalized = centred * scale  # (3)
    y = normalized
    if gamma is not None:
        y = gamma * y  # (4)
    if beta is not None:
        y = y + beta  # (4)
    after = None if running is None else update(running, mean, var, M)
    cache = Cache(normalized, scale, gamma, beta, mean, var, M, lengths, after)
    return mask_steps(y, lengths), cache


def affine(
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array]:
    """Return a and c of (14), shape (C,), for the arguments of `forward`."""
    scale = 1.0 / namespace(var).sqrt(var + eps)
    if gamma is not None:
        scale = gamma * scale  # (14)
    shift = -scale * mean  # (14)
    return scale, shift if beta is None else beta + shift  # (14)


def sums(dy: Array, cache: Cache) -> Sums:
    """Return the sums over a batch, or over a part of one, that `backward` needs of the whole."""
    dy = mask_steps(dy, cache.lengths)
    return Sums(_sum(dy), _sum(dy * cache.normalized))  # (8), (9)


def backward(dy: Array, cache: Cache, total: Sums | None = None) -> tuple[Array, dict[str, Array]]:
    """Return dx, shape (..., C), and the gradients of gamma and beta.

    Parameters
    ----------
    dy : array, shape (..., C)
    cache : Cache
    total : Sums, optional
        Those of the whole batch, where x is a part of it. The gradients of gamma and beta are the
        part's all the same: those of all parts add.
    """
    normalized, scale, gamma, beta, _, _, M, lengths, _ = cache
    own = sums(dy, cache)
    whole = own if total is None else total
    dy = mask_steps(dy, lengths)
    dx = dy
    if M is not None:
        dx = dy - _share(whole.beta, M) - normalized * _share(whole.gamma, M)  # (11), its brackets
    dx = (scale if gamma is None else gamma * scale) * dx  # (10)
    grads = {}
    if gamma is not None:
        grads["gamma"] = own.gamma
    if beta is not None:
        grads["beta"] = own.beta
    return mask_steps(dx, lengths), grads


def update(running: Running, mean: Array, var: Array, count: Any) -> tuple[Array, Array]:
    """Return the running mean and variance after one batch more.

    Parameters
    ----------
    running : Running
    mean, var, count : array, shapes (C,), (C,) and ()
        The `statistics` of the batch, of 2 values a channel or more.
    """
    kept = running.kept
    if running.unbiased:
        var = var * (count / (count - 1))
    return (
        kept * running.mean + (1 - kept) * mean,  # (5)
        kept * running.var + (1 - kept) * var,  # (6)
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
