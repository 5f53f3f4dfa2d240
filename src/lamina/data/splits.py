"""A data set in two parts: one to train on, one to test on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import as_array, integer, number

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """A data set in two parts, each as `lamina.fit` and `lamina.evaluate` take it.

    Attributes
    ----------
    train, test : tuple
        ``(x, y)``; for sequences ``((x, lengths), y)``. y are class numbers from 0, int64.
    """

    train: tuple[Any, NDArray]
    test: tuple[Any, NDArray]

    def __iter__(self) -> Iterator[tuple[Any, NDArray]]:
        """Give the two: ``(x, y), (x_test, y_test) = lamina.data.digits()``."""
        yield self.train
        yield self.test


def stratified(y: npt.ArrayLike, share: float = 0.2, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Divide samples in two so that every class is divided in the same proportion.

    The samples are put in a random order; of each class of n samples, the first ``share * n`` in
    that order, rounded half up, are for testing.

    Parameters
    ----------
    y : array, shape (N,)
        The class of each sample.
    share : float in [0, 1]
        The share of the test samples.
    seed : int
        Of the order. It sorts N raw numbers of the bit generator PCG64, a stream that NumPy
        promises to keep: the parts are the same on every machine and in every version.

    Returns
    -------
    train, test : integer arrays
        Indices into y, rising.

    Raises
    ------
    ValueError, TypeError
        y is no array of one axis, `share` no number in [0, 1] or `seed` no integer from 0 on.

    Examples
    --------
    >>> train, test = stratified([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    >>> len(train), len(test)
    (8, 2)
    """
    share = number("stratified", "share", share, 0, 1)
    seed = integer("stratified", "seed", seed, least=0)
    y = as_array("stratified", "y", y)
    if y.ndim != 1:
        raise ValueError(f"stratified: y has shape {y.shape}, expected (N,), a class a sample")
    order = np.argsort(np.random.PCG64(seed).random_raw(len(y)), kind="stable")
    chosen = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = order[y[order] == label]
        chosen[members[: int(share * len(members) + 0.5)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
