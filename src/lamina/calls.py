"""Calls of a layer on arrays of a shape that came before: planned once.

Where there is little to compute, it takes longer to check the arguments and to choose how. A plan
has that behind it: for an x of one shape and dtype, and as long as the layer has the arrays that it
had then, whose values may change.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from .arguments import FLOATS
from .engine.denormals import flushing
from .engine.threads import chosen
from .kernels import by_formulas, used

if TYPE_CHECKING:
    from .engine.program import Plan, Program
    from .layer import Layer

NDArray = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Kind: TypeAlias = tuple[Shape, np.dtype[Any], int | None, bool, int, tuple[bool, ...]]
"""What a plan is for: the shape and dtype of x, the threads asked for, whether by formulas, whether
denormal numbers count as zero, and the options of `_live`."""
Call: TypeAlias = Callable[[NDArray], Any]

KINDS: Final = 16
"""For how many kinds a layer keeps plans."""


class Live(NamedTuple):
    """How to plan a call of a layer with the arrays that it has.

    `bind(shape, dtype)` returns the function of x that does it. `serves(layer)` tells whether the
    layer still has these arrays; their values may have changed. By default there are none.
    """

    bind: Callable[[Shape, np.dtype[Any]], Call | None]
    serves: Callable[[Any], bool] = lambda layer: True


def by_steps(note: Callable[["Plan", int], int]) -> Callable[[Shape, np.dtype[Any]], "Program"]:
    """Return how to bind steps: `note(plan, x)` notes them and returns the number of y."""

    def bind(shape: Shape, dtype: np.dtype[Any]) -> "Program":
        from .engine.program import Plan, Program  # not before it is known that there are kernels

        plan = Plan(shape, dtype)
        return Program(plan, note(plan, 0))

    return bind


def has(weight: NDArray, bias: NDArray | None) -> Callable[[Any], bool]:
    """Return whether a layer has these parameters, of the size that they have now.

    NumPy can be made to resize an array where it is.
    """
    sizes = weight.size, 0 if bias is None else bias.size

    def serves(layer: "Layer") -> bool:
        arrays = layer._params
        if arrays.get("weight") is not weight or arrays.get("bias") is not bias:
            return False
        return (weight.size, 0 if bias is None else bias.size) == sizes

    return serves


def has_all(layer: "Layer") -> Callable[[Any], bool]:
    """Return the same of all arrays that a layer has now, which takes longer."""
    arrays = [*layer._params.values(), *layer._buffers.values()]
    ids, sizes = [*map(id, arrays)], [a.size for a in arrays]

    def serves(layer: "Layer") -> bool:
        found = [*map(id, layer._params.values()), *map(id, layer._buffers.values())]
        return found == ids and [a.size for a in arrays] == sizes

    return serves


class Known(NamedTuple):
    """A call that was planned; or was not, since it cannot be, or does not pay."""

    serves: Callable[[Any], bool]
    run: Call | None


class Calls:
    """The calls of a layer that were planned; a copy of the layer plans its own."""

    def __init__(self) -> None:
        self.known: dict[Kind, Known | list[int]] = {}  # or the parameters it came with, by id

    def program(self, x: NDArray, layer: "Layer", *options: bool) -> Call | None:
        """Return a function of x that does what the layer does of it, if there is one.

        There is for a kind that comes for the second time with the same parameters, if the layer
        takes such an x.
        """
        kind = x.shape, x.dtype, chosen(), by_formulas(), flushing(), options
        known = self.known.get(kind)
        if isinstance(known, Known) and known.serves(layer):
            return known.run
        arrays = [*map(id, layer._params.values())]
        if known == arrays:
            planned = _planned(kind, layer)
            if planned is None:
                return None
            self.known[kind] = planned
            return planned.run
        if known is not None or len(self.known) >= KINDS:
            self.known.clear()  # other plans, too, would hold on to arrays that were replaced
        self.known[kind] = arrays
        return None

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


def _planned(kind: Kind, layer: "Layer") -> Known | None:
    """Plan a call; an error of x's shape, or of the layer's arrays, is that of the call."""
    shape, dtype, *_, options = kind
    if 0 in shape or dtype not in FLOATS or not used():
        return None
    from .engine.program import PlanError  # not before it is known that there are kernels

    live = layer._live(*options)
    if live is None:
        return None
    try:
        return Known(live.serves, live.bind(shape, dtype))
    except PlanError:
        return Known(live.serves, None)
