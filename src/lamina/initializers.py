"""Presets that draw a layer's first weights, by name.

With uniform bounds ±a, normal deviations σ, a fan-in of f and a fan-out of g:

=================  ==========================================  =================================
name               distribution                                source
=================  ==========================================  =================================
glorot_uniform     uniform, a = √(6 / (f + g))                 Glorot & Bengio 2010, eq. 16
glorot_normal      normal, σ = √(2 / (f + g))                  Glorot & Bengio 2010, eq. 12
he_uniform         uniform, a = √(6 / f)                       He et al. 2015, eq. 10
he_normal          normal, σ = √(2 / f)                        He et al. 2015, eq. 10
lecun_uniform      uniform, a = √(3 / f)                       LeCun et al. 1998, sec. 4.6
lecun_normal       normal, σ = √(1 / f)                        LeCun et al. 1998, sec. 4.6
orthogonal         orthonormal rows or columns                 Saxe et al. 2014
normal             normal, σ = 1
zeros, ones        constant
torch              uniform, a = √(1 / f), the bias too         ``torch.nn`` 2.x
=================  ==========================================  =================================
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from . import arguments
from .engine.memory import lasting, placed

NDArray = npt.NDArray[Any]
RNG: TypeAlias = int | np.random.Generator | None
"""An int seed, a NumPy Generator, or None for fresh entropy of the operating system."""


class Blank(np.random.Generator):
    """Stands in for a generator where what is drawn is overwritten at once: draws nothing.

    It gives no more than `room` numbers in all.
    """

    def __init__(self, room: float = math.inf) -> None:
        super().__init__(np.random.PCG64(0))
        self.room = room

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike | None) -> NDArray:
        """Return an array whose values are not set."""
        self.room -= math.prod(shape)
        if self.room < 0:
            raise ValueError(f"initializers: no room for an array of shape {shape}")
        return lasting(shape, np.dtype(dtype))


BLANK: Final = Blank()

_UNIFORM: Final[dict[str, Callable[[int, int], float]]] = {
    "glorot_uniform": lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out)),
    "he_uniform": lambda fan_in, fan_out: math.sqrt(6 / fan_in),
    "lecun_uniform": lambda fan_in, fan_out: math.sqrt(3 / fan_in),
    "torch": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
}
_NORMAL: Final[dict[str, Callable[[int, int], float]]] = {
    "glorot_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "he_normal": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "lecun_normal": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
    "normal": lambda fan_in, fan_out: 1.0,
}
PRESETS: Final = (*_UNIFORM, *_NORMAL, "orthogonal", "zeros", "ones")


def generator(rng: RNG) -> np.random.Generator:
    """Return `rng` as a NumPy Generator; an int is its seed, None draws fresh entropy."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None:
        try:
            arguments.integer("rng", "an int seed", rng, least=0)
        except TypeError as error:
            raise TypeError(f"{error}; or give a Generator: np.random.default_rng(0)") from None
    return np.random.default_rng(rng)


def draw(
    preset: str,
    shape: tuple[int, ...],
    fan_in: int,
    fan_out: int,
    rng: np.random.Generator,
    dtype: npt.DTypeLike | None,
) -> NDArray:
    """Draw an array of `shape` by the preset of that name; it begins with a line of the cache.

    Parameters
    ----------
    preset : str
        One of `PRESETS`; the table at the head of this module gives their equations.
    shape : tuple of int
        ``"orthogonal"`` draws the matrix (prod(shape[:-1]), shape[-1]).
    fan_in, fan_out : int
        How many inputs an output unit sums over, and how many outputs an input unit feeds.
    rng : numpy.random.Generator
    dtype : dtype

    Examples
    --------
    >>> q = draw("orthogonal", (3, 3), 3, 3, np.random.default_rng(0), np.float64)
    >>> bool(np.allclose(q @ q.T, np.eye(3)))
    True
    """
    arguments.choice("initializers", "preset", preset, PRESETS)
    if isinstance(rng, Blank):
        return rng.array(shape, dtype)
    if preset in _UNIFORM:
        bound = _UNIFORM[preset](fan_in, fan_out)
        return placed(rng.uniform(-bound, bound, shape), dtype)
    if preset in _NORMAL:
        return placed(rng.standard_normal(shape) * _NORMAL[preset](fan_in, fan_out), dtype)
    if preset == "orthogonal":
        return placed(_orthogonal(shape, rng), dtype)
    return placed(np.full(shape, preset == "ones"), dtype)


def draw_bias(
    preset: str,
    shape: tuple[int, ...],
    fan_in: int,
    rng: np.random.Generator,
    dtype: npt.DTypeLike | None,
) -> NDArray:
    """Draw the bias that goes with weights of that preset: 0, but for ``"torch"``."""
    return draw("torch" if preset == "torch" else "zeros", shape, fan_in, 1, rng, dtype)


def _orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
    rows, columns = math.prod(shape[:-1]), shape[-1]
    a = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(a)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)  # makes the decomposition, so the draw, uniform
    return (q if rows >= columns else q.T).reshape(shape)
