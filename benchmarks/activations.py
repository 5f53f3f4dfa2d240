"""The cases of activations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import lamina as lm
from lamina.parts import activations as formula

from .case import NDArray, Pass, Shape
from .parts import Part

TITLE: Final = "Activations"
MEANS: Final[dict[Pass, float]] = {}
"""No bar for geometric means: each case has one."""

SLOPE: Final = 0.01
"""What LeakyReLU makes of the negative."""
LAYERS: Final[Mapping[str, Callable[[], Any]]] = {
    "ReLU": lm.ReLU,
    "LeakyReLU": lambda: lm.LeakyReLU(SLOPE),
    "Sigmoid": lm.Sigmoid,
    "Tanh": lm.Tanh,
    "GELU": lm.GELU,
    "GELU by tanh": lambda: lm.GELU(approximate=True),
    "SELU": lm.SELU,
    "Softmax": lm.Softmax,
}
_FORMULAS: Final = {"LeakyReLU": "leaky_relu", "GELU by tanh": "gelu_tanh"}


@dataclass(frozen=True, kw_only=True)
class Activation(Part):
    """A function of each element; Softmax of the last axis."""

    layer: ClassVar[str] = "activations"
    function: str
    x: Shape

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"{self.function} {'x'.join(map(str, self.x))}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x and y."""
        return {"x": self.x, "y": self.x}

    def layer_of(self) -> Any:
        """Return Lamina's layer."""
        return LAYERS[self.function]()

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y and dx."""
        name = _FORMULAS.get(self.function, self.function.lower())
        options = (SLOPE,) if self.function == "LeakyReLU" else ()
        y, cache = getattr(formula, name)(given["x"], *options)
        return {"y": y, "dx": getattr(formula, f"{name}_backward")(given["dy"], cache)}


SMALL: Final = (128, 256)
LARGE: Final = (32, 56, 56, 64)


def _cases() -> list[Activation]:
    sizes = dict.fromkeys(LAYERS, (SMALL, LARGE))
    sizes |= dict.fromkeys(("LeakyReLU", "SELU"), (LARGE,))
    sizes["Softmax"] = ((128, 10), (64, 12, 100, 100))
    return [
        Activation(
            family="Activations",
            function=function,
            x=shape,
            quick=function in ("ReLU", "GELU") and shape == SMALL,
        )
        for function, of_function in sizes.items()
        for shape in of_function
    ]


CASES: Final = tuple(_cases())
