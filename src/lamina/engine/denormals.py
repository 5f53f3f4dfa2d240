"""Denormal numbers, smaller than the least normal one, may be taken for zero: opt-in, and scoped.

Some CPUs take a hundred cycles for an operation on them. A state that fades away passes through
them; a momentum whose gradients have become zero ends among them and stays, for 0.9 times the least
number rounds to itself. The mode is one of the thread: kernels of recurrent layers and of updates
set it for their own run, in each of their threads, and put back what was there (mode.py). Imports
no compiler.
"""

from contextvars import ContextVar

from .block import Block

_asked: ContextVar[bool] = ContextVar("lamina_flush_denormals", default=False)


def flush_denormals() -> Block[bool]:
    """Let RNN, LSTM and the updates of optimizers take denormal numbers for zero within a block.

    It helps where a state fades away, or where gradients stay zero, those of units that have died
    or of ids that are seen no more: a momentum, or Adam's mean, would end in such numbers and stay
    there. It changes results by less than the least normal number (1.2e-38 in float32) where it
    changes them, and saves time on CPUs that are slow with such numbers. It is for x86 alone;
    elsewhere, and in formulas, nothing changes.

    Examples
    --------
    >>> import numpy as np
    >>> import lamina as lm
    >>> layer, x = lm.LSTM(4, 8, rng=0), np.ones((2, 5, 4), np.float32)
    >>> with lm.flush_denormals():
    ...     y, cache = layer.forward(x, training=True)
    ...     dx, grads = layer.backward(y, cache)
    """
    return Block(_asked, True, "lm.flush_denormals()")


def flushing() -> int:
    """Return whether kernels are to take denormal numbers for zero."""
    return int(_asked.get())
