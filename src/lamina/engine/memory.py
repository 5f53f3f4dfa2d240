"""Large arrays whose memory is used again: the system would map and clear it anew each time."""

import contextlib
import ctypes
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]

LEAST: Final = 2**18
"""Bytes; smaller arrays are left to NumPy, whose allocator keeps them itself."""
MOST: Final = 2**30
"""Bytes that wait for use at the most: what a step of training leaves, the next one finds."""
WORKSPACE: Final = 2**23
"""Bytes of a workspace that a thread keeps at the most."""
LINE: Final = 64
"""Bytes of a line of the cache."""
ALIGNMENT: Final = LINE
"""That of a line, which is that of the widest vectors, too."""
ALIAS: Final = 4096
"""Bytes after which addresses share a set of a level-1 cache."""
AHEAD: Final = 512
"""How many bytes ahead to ask for what goes past the caches: it is to be read once."""


def _level(index: int, most: int) -> int:
    """Return the bytes of a cache, as far as one process may count on them."""
    found = most
    with contextlib.suppress(OSError, ValueError):
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text()
        found = int(text.strip().removesuffix("K")) * 2**10
    return min(found, most)


LEVEL_2: Final = _level(2, 2**20)
LEVEL_3: Final = _level(3, 2**25)
"""Bytes of the caches of level 2, which is a core's own, and of level 3."""


def past_caches(arrays: int, size: int) -> bool:
    """Tell whether a pass over so many arrays, of that many bytes each, should write past caches.

    They do not fit into these; and what is written past them need not be read before. It must come
    from `empty`, and is aligned then.
    """
    return size >= LEAST and arrays * size > LEVEL_3


HEADER: Final = object.__basicsize__
"""Bytes of an object before its own fields. NumPy's C interface lays down that the first field of
an array points to its data."""
_pointer_at: Final = ctypes.c_void_p.from_address


def pointer(array: NDArray) -> int:
    """Return where the data of an array begins: `array.ctypes.data`, but sooner."""
    return _pointer_at(id(array) + HEADER).value or 0


class _Block(np.ndarray[Any, Any]):
    """Bytes that arrays take turns to use."""

    __slots__ = ()


class _Lease(_Block):
    """The use of a block by an array, whose base it is; it ends when the last view of it dies."""

    __slots__ = ()

    def __del__(self) -> None:
        # It may run at any moment and in any thread; what it does to dict and lists is atomic.
        if _made is None:
            return  # the interpreter ends, and this module's names are gone
        block = self.base
        if type(block) is not _Block:
            return  # a copy, or a view, that somebody made of a lease
        _waiting.setdefault(block.nbytes, []).append(block)
        if _made > MOST:
            _let_go(MOST)


_waiting: dict[int, list[_Block]] = {}  # blocks that nobody uses, by size
_made = 0  # the bytes of all blocks, used or not; maybe more, where some were thrown away


def _let_go(most: int) -> None:
    """Keep no more bytes waiting than that."""
    global _made
    excess = sum(size * len(blocks) for size, blocks in list(_waiting.items())) - most
    for size, blocks in list(_waiting.items()):
        while excess > 0:
            try:
                blocks.pop(0)
            except IndexError:  # another thread may have taken the last one
                break
            excess -= size
            _made -= size


def _another(size: int) -> _Block:
    """Return the least block that waits and is larger, up to twice as large, or a new one."""
    for larger in sorted(_waiting):
        if size < larger <= 2 * size:
            with contextlib.suppress(KeyError, IndexError):  # another thread may have taken it
                return _waiting[larger].pop()
    return _block(size)


def _block(size: int) -> _Block:
    """Return a new block."""
    global _made
    try:
        block = _Block(size, np.uint8)
    except MemoryError:
        _let_go(0)  # there may be enough without what waits
        block = _Block(size, np.uint8)
    _made += size
    return block


def empty(shape: tuple[int, ...] | int, dtype: np.dtype[Any]) -> NDArray:
    """Return an array of C order whose values are not set, as `numpy.empty` does."""
    size = (shape if isinstance(shape, int) else math.prod(shape)) * dtype.itemsize
    if size < LEAST:
        return np.empty(shape, dtype)
    step = 1 << max(size.bit_length() - 4, 12)  # so that sizes fall into few classes
    rounded = -(-size // step) * step + ALIGNMENT
    try:
        block = _waiting[rounded].pop()
    except (KeyError, IndexError):
        block = _another(rounded)
    return np.ndarray(shape, dtype, block.view(_Lease), -pointer(block) % ALIGNMENT)


def aligned(shape: tuple[int, ...] | int, dtype: np.dtype[Any]) -> NDArray:
    """Return such an array that begins with a line of the cache, however small it is."""
    return _aligned(empty, shape, dtype)


def lasting(shape: tuple[int, ...] | int, dtype: np.dtype[Any]) -> NDArray:
    """Return one as `aligned` does, for a layer to keep: its memory does not wait for use again."""
    return _aligned(np.empty, shape, dtype)


def _aligned(
    take: Callable[..., NDArray], shape: tuple[int, ...] | int, dtype: np.dtype[Any]
) -> NDArray:
    count = shape if isinstance(shape, int) else math.prod(shape)
    memory = take(count + ALIGNMENT // dtype.itemsize, dtype)
    first = -pointer(memory) % ALIGNMENT // dtype.itemsize
    return memory[first : first + count].reshape(shape)


_own = threading.local()


def workspace(count: int, dtype: np.dtype[Any]) -> NDArray:
    """Return an array of at least so many elements, for this thread to use until it asks again."""
    kept: dict[Any, NDArray] = _own.__dict__
    found = kept.get(dtype)
    if found is None or found.size < count:
        found = aligned(count, dtype)
        if found.nbytes <= WORKSPACE:
            kept[dtype] = found
    return found


def placed(a: NDArray, dtype: npt.DTypeLike | None) -> NDArray:
    """Return a copy of an array, for a layer to keep, that begins with a line of the cache."""
    found = lasting(a.shape, np.dtype(dtype))
    found[...] = a
    return found
