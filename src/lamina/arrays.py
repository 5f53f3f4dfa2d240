"""The few array helpers that formulas share; they follow the Python array API standard."""

from typing import Any, TypeAlias

from array_api_compat import array_namespace

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
    real = xp.arange(T, dtype=lengths.dtype)[None, :] < lengths[:, None]
    return xp.reshape(real, (x.shape[0], T) + (1,) * (x.ndim - 2))


def mask_steps(x: Array, lengths: Array | None) -> Array:
    """Return x, shape (N, T, ...), with padding exactly 0, whatever stood there.

    `lengths=None` says that there is no padding.
    """
    if lengths is None:
        return x
    xp = namespace(x, lengths)
    return xp.where(is_step(x, lengths), x, xp.zeros((), dtype=x.dtype))
