"""The cases of pooling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import lamina as lm
from lamina.parts import pooling as formula
from lamina.windows import Windows

from .case import NDArray, Pass, Shape
from .parts import Part

TITLE: Final = "Pooling"
MEANS: Final[dict[Pass, float]] = {}
"""No bar for geometric means: each case has one."""


@dataclass(frozen=True, kw_only=True)
class Pool(Part):
    """The largest value, or the mean, of windows; with no window, of all of a sample.

    Attributes
    ----------
    kind : "Max" or "Avg"
    x : tuple of int
    window, stride, padding : int
        For each axis; a window of 0 is none.
    """

    layer: ClassVar[str] = "pooling"
    kind: str
    x: Shape
    window: int
    stride: int = 0
    padding: int = 0

    @property
    def rank(self) -> int:
        """The axes between batch and channels."""
        return len(self.x) - 2

    @property
    def step(self) -> int:
        """The stride; where none is given, windows lie side by side."""
        return self.stride or self.window

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        shape = "x".join(map(str, self.x))
        if not self.window:
            return f"Global{self.kind}Pool {shape}"
        more = f"/{self.stride}" if self.stride else ""
        return f"{self.kind}Pool{self.rank}d {shape} window {self.window}{more}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x and y."""
        n, *sizes, channels = self.x
        outputs = self._windows().outputs(tuple(sizes)) if self.window else ()
        return {"x": self.x, "y": (n, *outputs, channels)}

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes: x only forward."""
        x, y = self.size("x"), self.size("y")
        return (x + y, x + y) if which == "both" else (x, y)

    def layer_of(self) -> Any:
        """Return Lamina's layer."""
        if not self.window:
            return getattr(lm, f"Global{self.kind}Pool")()
        layer = getattr(lm, f"{self.kind}Pool{self.rank}d")
        return layer(self.window, stride=self.step, padding=self.padding)

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y and dx."""
        kind, options = self.kind.lower(), {}
        name = f"{kind}_pool" if self.window else f"global_{kind}"
        if self.window:
            windows = self._windows()
            options = {
                "pool_size": windows.size, "stride": windows.stride, "padding": windows.pads
            }  # fmt: skip
        y, cache = getattr(formula, name)(given["x"], **options)
        return {"y": y, "dx": getattr(formula, f"{name}_backward")(given["dy"], cache)}

    def _windows(self) -> Windows:
        axes = self.rank
        pads = ((self.padding, self.padding),) * axes
        return Windows((self.window,) * axes, (self.step,) * axes, (1,) * axes, pads)


def _cases() -> list[Pool]:
    given: list[tuple[str, Shape, int, int, int]] = [
        ("Max", (4, 28, 28, 32), 2, 0, 0),
        ("Max", (32, 56, 56, 64), 2, 0, 0),
        ("Max", (8, 112, 112, 64), 3, 2, 1),
        ("Max", (7, 33, 29, 17), 3, 1, 0),
        ("Max", (64, 1000, 64), 2, 0, 0),
        ("Avg", (4, 28, 28, 32), 2, 0, 0),
        ("Avg", (32, 56, 56, 64), 2, 0, 0),
        ("Avg", (128, 8, 8, 64), 0, 0, 0),
        ("Avg", (128, 7, 7, 2048), 0, 0, 0),
    ]
    return [
        Pool(
            family="Pooling",
            kind=kind,
            x=shape,
            window=window,
            stride=stride,
            padding=padding,
            quick=shape == (4, 28, 28, 32),
        )
        for kind, shape, window, stride, padding in given
    ]


CASES: Final = tuple(_cases())
