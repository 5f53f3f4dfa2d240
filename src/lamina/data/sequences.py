"""Ragged sequences as a padded batch."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]


def pad(sequences: Iterable[npt.ArrayLike]) -> tuple[NDArray, NDArray]:
    """Join sequences of unequal lengths into one batch.

    Parameters
    ----------
    sequences : iterable of arrays, shapes (T_n, ...)
        At least one; they agree in all axes but the first. Any may have no steps.

    Returns
    -------
    x : array, shape (N, T, ...)
        T is the greatest length; steps from ``lengths[n]`` on are 0.
    lengths : integer array, shape (N,)

    Raises
    ------
    TypeError
        A masked array, whose mask would be lost.
    ValueError
        No sequences, one without steps as an axis, or two that do not fit together.

    Examples
    --------
    >>> x, lengths = pad([[1, 2, 3], [4], []])
    >>> x
    array([[1, 2, 3],
           [4, 0, 0],
           [0, 0, 0]])
    >>> lengths
    array([3, 1, 0])
    """
    arrays = []
    for n, s in enumerate(sequences):
        if isinstance(s, np.ma.MaskedArray):
            raise TypeError(
                f"pad: sequence {n} is a masked array, whose mask would be lost; leave out the "
                "steps that are masked, or fill them: .filled(0)"
            )
        arrays.append(np.asarray(s))
    if not arrays:
        raise ValueError("pad: needs at least one sequence, got none")
    for n, a in enumerate(arrays):
        if a.ndim == 0:
            raise ValueError(f"pad: sequence {n} is the single value {a}; expected (T, ...)")
    # An empty list says nothing of the other axes or the dtype.
    telling = [a for a in arrays if a.shape != (0,)] or arrays
    shape = telling[0].shape[1:]
    expected = f"({', '.join(['T', *map(str, shape)])})"
    for n, a in enumerate(arrays):
        if a.shape != (0,) and a.shape[1:] != shape:
            raise ValueError(
                f"pad: sequence {n} has shape {a.shape}, expected {expected} like the first; "
                "all must agree in all axes but the first"
            )
    lengths = np.array([len(a) for a in arrays])
    x = np.zeros((len(arrays), lengths.max(), *shape), np.result_type(*telling))
    for row, a in zip(x, arrays, strict=True):
        if len(a):
            row[: len(a)] = a
    return x, lengths
