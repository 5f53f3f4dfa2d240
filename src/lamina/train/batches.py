"""Data as batches: what may be given, checked and cast once, then cut and shuffled."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Number
from typing import Any, Final, Self, TypeAlias

import numpy as np

from .. import arguments
from ..data.splits import Split
from ..layer import NDArray

Data: TypeAlias = tuple[Any, Any] | Iterable[tuple[Any, Any]]
"""``(x, y)`` as a tuple, or an iterable of such batches; x is an array or ``(x, lengths)``."""

NUMBER_CLASSES: Final = "; number the classes: np.unique(y, return_inverse=True)[1]"


@dataclass(frozen=True)
class Batch:
    """Samples with their targets, and for padded sequences their lengths."""

    x: NDArray
    y: NDArray
    lengths: NDArray | None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Self:
        lengths = None if self.lengths is None else self.lengths[rows]
        return type(self)(self.x[rows], self.y[rows], lengths)

    def windows(self, owner: str, size: int) -> Iterator[Self]:
        """Go through sequences `size` steps at a time, as far as any of them has steps.

        A single step left over, of all sequences, goes with the window before, as in `cuts`.
        """
        if self.x.ndim < 2 or self.y.ndim < 2 or self.x.shape[1] != self.y.shape[1]:
            raise ValueError(
                f"{owner}: bptt goes through sequences with a target a step: x of shape (N, T, ...)"
                f" and y of shape (N, T, ...); got {self.x.shape} and {self.y.shape}"
            )
        ends = np.full(len(self), self.x.shape[1]) if self.lengths is None else self.lengths
        T = int(ends.max())
        if not T:
            raise ValueError(f"{owner}: the sequences of a batch have no steps")
        starts = [*range(0, T, size)]
        if 1 < size < T and np.maximum(ends - starts[-1], 0).sum() == 1:
            starts.pop()
        for start, stop in zip(starts, [*starts[1:], T], strict=True):
            x, y = (a[:, start:stop] for a in (self.x, self.y))
            lengths = None if self.lengths is None else np.clip(self.lengths - start, 0, x.shape[1])
            yield type(self)(x, y, lengths)


def batch(owner: str, data: Any, dtype: np.dtype[Any] | None) -> Batch:
    """Return ``(x, y)`` or ``((x, lengths), y)`` as a Batch whose floats have that dtype."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        entries = f" of {len(data)} entries" if isinstance(data, (tuple, list)) else ""
        cure = "; give it one of its parts, split.train say" if isinstance(data, Split) else ""
        raise TypeError(
            f"{owner}: data must be (x, y), with x an array or (x, lengths), or an iterable of "
            f"such batches; got {type(data).__name__}{entries}{cure}"
        )
    x, y = data
    x, lengths = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
    if isinstance(x, tuple) or isinstance(y, tuple):
        raise TypeError(
            f"{owner}: x and y must be arrays; put several batches in a list; "
            "of padded targets, whose lengths are those of x, give the array alone: pad(y)[0]"
        )
    x, y = inputs(owner, "x", x, dtype), inputs(owner, "y", y, dtype)
    if len(x) != len(y):
        raise ValueError(
            f"{owner}: x has {len(x)} samples (shape {x.shape}) and y {len(y)} (shape {y.shape}); "
            "they must have as many"
        )
    if not len(x):
        raise ValueError(f"{owner}: x has no samples (shape {x.shape})")
    return Batch(x, y, arguments.lengths(owner, lengths, x, ndim=2))


def inputs(owner: str, name: str, x: Any, dtype: np.dtype[Any] | None) -> NDArray:
    """Return an array of samples, floats cast to `dtype`, integers as they are."""
    found = arguments.as_array(owner, name, x)
    if found.dtype.kind not in "fiub":
        said = _said_of_objects(name, found) if found.dtype.kind == "O" else ""
        if found.dtype.kind == "U" and name == "y":
            said = NUMBER_CLASSES
        raise TypeError(
            f"{owner}: {name} must be an array of real numbers, got dtype {found.dtype}{said}"
        )
    if not found.ndim:
        raise ValueError(f"{owner}: {name} must have samples along its first axis, got {x!r}")
    if name == "x" and found.ndim == 1 and found.dtype.kind == "f":
        given = name if isinstance(x, np.ndarray) else "np.asarray(x)"
        raise ValueError(
            f"{owner}: x has shape {found.shape}, expected (N, ...), batch first; {given}[:, None] "
            f"has one feature a sample, {given}[None] is one sample"
        )
    return found.astype(dtype, copy=False) if found.dtype.kind == "f" and dtype else found


def _said_of_objects(name: str, a: NDArray) -> str:
    """Return what an array of objects holds beside numbers, and what is done about it."""
    strange = (v for v in a.flat if not isinstance(v, (Number, np.bool_)))
    first = next(strange, None)
    kind = type(first).__name__
    if isinstance(first, str):
        return f", holds {kind}, {first!r}{NUMBER_CLASSES if name == 'y' else ''}"
    if a.ndim and hasattr(first, "__len__"):
        return f", holds {kind}; join sequences of unequal lengths by lamina.data.pad"
    if first is None or kind == "NAType":
        return f"; make it floats, np.asarray({name}, np.float32), missing values filled first"
    return f", holds {kind}"


def samples(
    owner: str, x: Any, lengths: Any, dtype: np.dtype[Any] | None
) -> tuple[NDArray, NDArray | None]:
    """Return x as by `inputs`, and its lengths, which are an argument beside it."""
    if isinstance(x, tuple):
        raise TypeError(
            f"{owner}: x is a tuple; give the array alone and its lengths beside it, by lengths="
        )
    x = inputs(owner, "x", x, dtype)
    return x, arguments.lengths(owner, lengths, x, ndim=2)


class Batches:
    """The batches of one epoch after the other.

    Data in memory is checked and cast once, shuffled anew each epoch, and cut; an iterable is gone
    through anew each epoch, in its own order, each batch checked and cast as it comes.
    """

    def __init__(
        self, owner: str, data: Any, batch_size: int, dtype: np.dtype[Any] | None, passes: int = 1
    ) -> None:
        self.owner, self.dtype = owner, dtype
        self.batch_size = arguments.integer(owner, "batch_size", batch_size)
        if isinstance(data, list) and len(data) == 2 and not all(map(_is_pair, data)):
            raise TypeError(f"{owner}: data must be (x, y), a tuple; got a list of these two")
        in_memory = isinstance(data, (tuple, Split, dict)) or not isinstance(data, Iterable)
        self.whole = batch(owner, data, dtype) if in_memory else None
        self.source = data
        if passes > 1 and isinstance(data, Iterator):
            raise ValueError(
                f"{owner}: an iterator can be gone through once only, not {passes} times; "
                "give a list of batches, or an object whose __iter__ starts anew"
            )

    @property
    def samples(self) -> int | None:
        """How many samples an epoch has; None where the source alone knows."""
        return None if self.whole is None else len(self.whole)

    def epoch(self, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """Go through all samples once, in the order that `rng` draws, or as they are."""
        if self.whole is None:
            yield from self._from_source()
            return
        n = len(self.whole)
        order = np.arange(n) if rng is None else rng.permutation(n)
        for start, stop in cuts(n, self.batch_size):
            yield self.whole[order[start:stop]]

    def _from_source(self) -> Iterator[Batch]:
        empty = True
        for given in self.source:
            empty = False
            yield batch(self.owner, given, self.dtype)
        if empty:
            raise ValueError(f"{self.owner}: the data has no batches")


def _is_pair(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2


def cuts(n: int, size: int) -> list[tuple[int, int]]:
    """Cut 0 ... n into batches of `size`, the last one smaller.

    A single sample left over goes with the batch before: batch statistics of one value are none.
    """
    starts = [*range(0, n, size)] or [0]
    if n % size == 1 and size < n:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))
