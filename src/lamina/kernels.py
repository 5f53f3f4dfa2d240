"""Which functions compute a layer: its kernels, or its formulas."""

from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Final

from .engine.block import Block

_formulas: ContextVar[bool] = ContextVar("lamina_formulas", default=False)


def formulas() -> Block[bool]:
    """Let layers compute by their formulas within a block: the code that their pages show.

    It is slower; results agree with those of the kernels to rounding. It holds for the thread (or
    task) that enters it.

    Examples
    --------
    >>> import numpy as np
    >>> import lamina as lm
    >>> layer, x = lm.Linear(8, 4, rng=0), np.ones((2, 8), np.float32)
    >>> with lm.formulas():
    ...     y = layer(x)
    >>> bool(np.allclose(y, layer(x), rtol=1e-6))
    True
    """
    return Block(_formulas, True, "lm.formulas()")


by_formulas: Final = _formulas.get
"""`by_formulas()`: whether this is a block of `formulas`."""


def used() -> bool:
    """Return whether kernels compute here and now: Numba is there, and `formulas` is not on."""
    return not _formulas.get() and present()


@cache
def present() -> bool:
    """Return whether there are kernels: not where Numba is missing."""
    try:
        return find_spec("numba") is not None
    except (ImportError, ValueError):  # it is blocked
        return False


@cache
def kernel(name: str) -> ModuleType:
    """Return the kernels beside the module of that name."""
    return import_module(f"{name.rpartition('.')[0]}.kernel")


def functions(name: str) -> ModuleType:
    """Return the module whose `forward` and `backward` a layer calls.

    Parameters
    ----------
    name : str
        ``__name__`` of the module beside formula.py and kernel.py.
    """
    return kernel(name) if used() else _formula(name)


def beside(name: str) -> ModuleType:
    """Return the kernels of a module, in a file beside it, or the module with its formulas.

    Parameters
    ----------
    name : str
        ``__name__`` of the module; that of the kernels ends with ``_kernel``.
    """
    return _module(f"{name}_kernel" if used() else name)


@cache
def _module(name: str) -> ModuleType:
    return import_module(name)


@cache
def _formula(name: str) -> ModuleType:
    return import_module(f"{name.rpartition('.')[0]}.formula")
