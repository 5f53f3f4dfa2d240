"""The few array helpers that formulas share; they follow the Python array API standard."""

from typing import Any, TypeAlias

from array_api_compat import array_namespace, device

Array: TypeAlias = Any
"""An array of any library that follows the array API standard."""


def namespace(*arrays: Array) -> Any:
    """Return the array API namespace of `arrays`; None among them is passed over."""
    return array_namespace(*[a for a in arrays if a is not None])


def is_step(x: Array, lengths: Array) -> Array:
    """Tell the real steps of a batch from its padding.

    Parameters
    ----------
    x : array, shape (N, T, ...)
    lengths : integer array, shape (N,)

    Returns
    -------
    boolean array, shape (N, T, 1, ...), of as many axes as x
        True at [n, t] where t < lengths[n].
    """
    xp = namespace(x, lengths)
    T = x.shape[1]
    real = arange(T, lengths)[None, :] < lengths[:, None]
    return xp.reshape(real, (x.shape[0], T) + (1,) * (x.ndim - 2))


def mask_steps(x: Array, lengths: Array | None) -> Array:
    """Return x, shape (N, T, ...), with padding exactly 0, whatever stood there.

    `lengths=None` says that there is no padding.
    """
    if lengths is None:
        return x
    return namespace(x, lengths).where(is_step(x, lengths), x, 0)


def reverse_steps(x: Array, lengths: Array | None) -> Array:
    """Return x, shape (N, T, ...), with the steps of each sequence in reverse, padding in place.

    A sequence's last real step becomes its first. Doing it twice gives x back, so it is its own
    inverse, and, as a permutation, its own transpose: gradients are turned by it as well.
    """
    xp = namespace(x, lengths)
    if lengths is None:
        return xp.flip(x, axis=1)
    steps = arange(x.shape[1], lengths)[None, :]
    ends = lengths[:, None]
    index = xp.where(steps < ends, ends - 1 - steps, steps)
    index = xp.reshape(index, x.shape[:2] + (1,) * (x.ndim - 2))
    return xp.take_along_axis(x, index, axis=1)


def hold(new: Array, old: Array, t: int, lengths: Array | None) -> Array:
    """Return `new` for the sequences that have a step t (counted from 1), `old` for the others.

    `new` and `old` have shape (N, H). `lengths=None` says that every sequence has.
    """
    if lengths is None:
        return new
    xp = namespace(new, lengths)
    return xp.where(lengths[:, None] >= t, new, old)


def scale(a: Array, mask: Array | None) -> Array:
    """Return a ⊙ mask; `mask=None` stands for 1."""
    return a if mask is None else a * mask


def sigmoid(a: Array) -> Array:
    """Return σ(a) = 1 / (1 + e⁻ᵃ); where a < 0, eᵃ / (1 + eᵃ), for e⁻ᵃ may overflow."""
    xp = namespace(a)
    left = a < 0
    e = xp.exp(xp.where(left, a, -a))  # at most 1
    return xp.where(left, e, xp.ones_like(e)) / (1 + e)


def stack_steps(steps: list[Array], like: Array) -> Array:
    """Return arrays of shape (N, C), one a step, as one of shape (N, T, C).

    Without steps, T = 0, it has the N and C of `like`.
    """
    if not steps:
        return zeros((like.shape[0], 0, like.shape[1]), like)
    return namespace(*steps).stack(steps, axis=1)


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Return zeros of the library, dtype and device of `like`."""
    return namespace(like).zeros(shape, dtype=like.dtype, device=device(like))


def arange(n: int, like: Array) -> Array:
    """Return 0, 1, ..., n − 1 of the library, dtype and device of `like`."""
    return namespace(like).arange(n, dtype=like.dtype, device=device(like))


def whole_lengths(x: Array) -> Array:
    """Return the lengths of sequences x, shape (N, T, ...), without padding."""
    return namespace(x).full((x.shape[0],), x.shape[1], device=device(x))
