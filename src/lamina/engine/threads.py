"""How many threads kernels use. Imports no compiler, so that it costs nothing to import."""

import contextlib
import math
import os
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..arguments import integer
from .block import Block

_chosen: ContextVar[int | None] = ContextVar("lamina_threads", default=None)
chosen: Final = _chosen.get
"""`chosen()`: the n of the innermost block of `threads`, or None."""


CONTROL: Final = Path("/sys/fs/cgroup")
"""Where Linux tells a container what it may use."""


def _quota() -> int | float:
    """Return how many cores' time a container may use: beyond it, all its threads must wait."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
            quota, period = (int(w) for name in names for w in (CONTROL / name).read_text().split())
            if quota > 0:
                return math.ceil(quota / period)
    return math.inf


@cache
def available() -> int:
    """Return LAMINA_THREADS, or how many cores this process may use."""
    affinity: Any = getattr(os, "sched_getaffinity", None)
    most = len(affinity(0)) if affinity else os.cpu_count() or 1
    given = os.environ.get("LAMINA_THREADS")
    if given is None:
        return int(min(most, _quota()))
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"LAMINA_THREADS must be a positive integer, got {given!r}")
    return min(int(given), most)


if hasattr(os, "register_at_fork"):  # a child may be bound to cores of its own
    os.register_at_fork(after_in_child=available.cache_clear)


def count() -> int:
    """Return how many threads a kernel may use here and now."""
    chosen, most = _chosen.get(), available()
    return most if chosen is None else min(chosen, most)


def threads(n: int) -> Block[int | None]:
    """Let kernels use `n` threads within a block; results have the same bits for any n.

    It holds for the thread (or task) that enters it: in a pool, each does. For a whole process, set
    the environment variable LAMINA_THREADS.

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
