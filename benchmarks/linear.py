"""The cases of Linear."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from .case import Case, NDArray, Shape

TITLE: Final = "Linear"
MEANS: Final = {"forward": 1.2, "both": 1.8}
"""What the geometric means of the ratios should be, by pass."""


@dataclass(frozen=True, kw_only=True)
class Linear(Case):
    """y = x W + b, of `rows` samples."""

    layer: ClassVar[str] = "linear"
    rows: int
    inputs: int
    outputs: int

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"{self.rows}x{self.inputs} -> {self.outputs}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, weight, bias and y."""
        return {
            "x": (self.rows, self.inputs),
            "weight": (self.inputs, self.outputs),
            "bias": (self.outputs,),
            "y": (self.rows, self.outputs),
        }

    @property
    def terms(self) -> int:
        """How many products each element of y sums."""
        return self.inputs

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y, dx and the gradients of weight and bias."""
        x, weight, dy = given["x"], given["weight"], given["dy"]
        return {
            "y": x @ weight + given["bias"],
            "dx": dy @ weight.T,
            "weight": x.T @ dy,
            "bias": dy.sum(axis=0),
        }


def _cases() -> list[Linear]:
    families = {
        "Layers of many sizes": [
            (1, 512, 512), (32, 256, 256), (128, 1024, 1024), (512, 1024, 4096), (128, 784, 128),
            (128, 128, 10), (64, 2048, 1000), (4096, 64, 64), (1024, 512, 512),
        ],
        "Batch of one": [
            (1, 16, 16), (1, 256, 256), (1, 784, 128), (1, 1000, 1000), (1, 1024, 4096),
            (1, 4096, 4096),
        ],
        "Odd sizes": [
            (7, 300, 300), (33, 300, 300), (17, 17, 17), (33, 65, 17), (65, 127, 33),
            (100, 100, 100), (127, 127, 127), (127, 1000, 65), (1000, 33, 127), (1000, 1000, 1000),
        ],
    }  # fmt: skip
    quick = {(1, 16, 16), (1, 512, 512), (32, 256, 256), (128, 1024, 1024), (65, 127, 33)}
    return [
        Linear(family=family, rows=n, inputs=i, outputs=o, quick=(n, i, o) in quick)
        for family, shapes in families.items()
        for n, i, o in shapes
    ]


def _in_float64(cases: list[Linear]) -> list[Linear]:
    """Return a choice of the cases once more, in float64."""
    shapes = {(1, 512, 512), (32, 256, 256), (128, 1024, 1024), (1, 1000, 1000), (33, 300, 300)}
    chosen = [case for case in cases if (case.rows, case.inputs, case.outputs) in shapes]
    return [case.in_float64(quick=case.rows == 32) for case in chosen]


_IN_FLOAT32: Final = _cases()
CASES: Final = (*_IN_FLOAT32, *_in_float64(_IN_FLOAT32))
