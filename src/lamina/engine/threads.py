"""How many threads kernels use. Imports no compiler, so that it costs nothing to import."""

import os
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

from ..arguments import integer
from .block import Block

_chosen: ContextVar[int | None] = ContextVar("lamina_threads", default=None)
chosen: Final = _chosen.get
"""`chosen()`: the n of the innermost block of `threads`, or None."""


@cache
def available() -> int:
    """Return LAMINA_THREADS, or how many cores this process may use."""
    affinity: Any = getattr(os, "sched_getaffinity", None)
    most = len(affinity(0)) if affinity else os.cpu_count() or 1
    given = os.environ.get("LAMINA_THREADS")
    if given is None:
        return most
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"LAMINA_THREADS must be a positive integer, got {given!r}")
    return min(int(given), most)


def count() -> int:
    """Return how many threads a kernel may use here and now."""
    chosen, most = _chosen.get(), available()
    return most if chosen is None else min(chosen, most)


def threads(n: int) -> Block[int | None]:
    """Let kernels use `n` threads within a block; results have the same bits for any n.

    For a whole process, set the environment variable LAMINA_THREADS.

    Parameters
    ----------
    n : int
        At least 1; more than there are count as all there are.

    Raises
    ------
    ValueError, TypeError
        n is not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> import lamina as lm
    >>> layer, x = lm.Linear(64, 64, rng=0), np.ones((32, 64), np.float32)
    >>> with lm.threads(1):
    ...     alone = layer(x)
    >>> bool((alone == layer(x)).all())
    True
    """
    n = integer("threads", "n", n)
    return Block(_chosen, n, f"lm.threads({n})")
