"""Data cut to batches, for a training loop of your own."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from ..initializers import RNG, generator
from ..layer import NDArray
from ..train.batches import Batches

Inputs: TypeAlias = NDArray | tuple[NDArray, NDArray]
"""x, or for padded sequences (x, lengths)."""


def batches(
    data: tuple[Any, Any], batch_size: int = 32, *, shuffle: bool = False, rng: RNG = None
) -> Iterator[tuple[Inputs, NDArray]]:
    """Go through all samples once, batch by batch: what one epoch of `lamina.fit` does.

    Parameters
    ----------
    data : (x, y)
        As `lamina.fit` takes it: arrays with as many samples; for padded sequences x is
        ``(x, lengths)``.
    batch_size : int
        Samples a batch. The last batch has what is left; a single sample left over joins the batch
        before, since batch statistics of one are none.
    shuffle : bool
        Whether in an order that `rng` draws, or as they are.
    rng : int, numpy.random.Generator or None
        None draws fresh entropy. Goes with ``shuffle=True``.

    Returns
    -------
    iterator of (x, y)
        In the form of `data`.

    Raises
    ------
    ValueError, TypeError
        `data` is not of that form, `batch_size` no positive integer, or `rng` none; `rng` is
        given without ``shuffle=True``.

    Examples
    --------
    >>> x, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0, 1, 2, 3, 4]
    >>> [some.tolist() for _, some in batches((x, y), 2, shuffle=True, rng=0)]
    [[2, 4], [3, 0, 1]]
    """
    cut = Batches("batches", data, batch_size, dtype=None)
    if cut.whole is None:
        raise TypeError(f"batches: data must be (x, y), arrays to cut, got {type(data).__name__}")
    if rng is not None and not shuffle:
        raise ValueError(
            "batches: rng draws the order of samples; set shuffle=True, or leave it out"
        )
    epoch = cut.epoch(generator(rng) if shuffle else None)
    return ((some.x if some.lengths is None else (some.x, some.lengths), some.y) for some in epoch)
