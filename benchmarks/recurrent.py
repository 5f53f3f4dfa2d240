"""What the cases of RNN, LSTM and GRU share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import lamina as lm

from .case import Case, NDArray, Pass, Shape


@dataclass(frozen=True, kw_only=True)
class Recurrence(Case):
    """Sequences through recurrent layers, from a state of zero.

    Attributes
    ----------
    batch, steps, inputs, hidden, layers : int
    bidirectional : bool
    """

    gates: ClassVar[int]
    shares: ClassVar[Mapping[Pass, float]]
    """What share of the limit a large case should reach, by pass."""
    batch: int
    steps: int
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False

    def ratio_wanted(self, which: Pass) -> float:
        """Return the bar of a pass: time of the fastest library / Lamina's, at least."""
        return 1.0 if which == "forward" else 1.3

    @property
    def directions(self) -> int:
        """How many directions a layer runs in."""
        return 1 + self.bidirectional

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        said = [f"{self.layer.upper()} {self.batch}x{self.steps}x{self.inputs} -> {self.hidden}"]
        if self.layers > 1:
            said.append(f"{self.layers} layers")
        if self.bidirectional:
            said.append("both directions")
        return ", ".join(said)

    def suffixes(self) -> list[str]:
        """Return what the names of parameters end in, by layer and direction."""
        depths = [f"_{k}" if k else "" for k in range(self.layers)]
        return [depth + end for depth in depths for end in ("", "_reverse")[: self.directions]]

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, the parameters and y."""
        shapes: dict[str, Shape] = {"x": (self.batch, self.steps, self.inputs)}
        columns, outputs = self.gates * self.hidden, self.directions * self.hidden
        for k, suffix in enumerate(self.suffixes()):
            inputs = self.inputs if k < self.directions else outputs
            shapes[f"weight_x{suffix}"] = (inputs, columns)
            shapes[f"weight_h{suffix}"] = (self.hidden, columns)
            shapes[f"bias{suffix}"] = (columns,)
        return {**shapes, "y": (self.batch, self.steps, outputs)}

    @property
    def terms(self) -> int:
        """How many products each element of y sums, in its own layer and in those before."""
        names = [name for name in self.parameters if name.startswith("weight")]
        products = sum(math.prod(self.shapes[name]) for name in names)
        return products // (self.directions * self.hidden)

    def scale(self, name: str) -> float:
        """Weights are small, so that no rounding error grows from step to step."""
        return 0.5 / math.sqrt(self.shapes[name][0]) if name.startswith("weight") else 1.0

    def share_wanted(self, which: Pass) -> float:
        """Return the share of the limit that is the bar of a pass: large cases have one."""
        return self.shares[which] if self.hidden >= 128 and self.batch >= 32 else 0

    def layer_of(self) -> "lm.RNN | lm.LSTM | lm.GRU":
        """Return Lamina's layer."""
        kind = {"rnn": lm.RNN, "lstm": lm.LSTM, "gru": lm.GRU}[self.layer]
        return kind(
            self.inputs, self.hidden, layers=self.layers, bidirectional=self.bidirectional,
            dtype=self.dtype, rng=0,
        )  # fmt: skip

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y, dx and the gradients of the parameters, by Lamina's formulas."""
        layer = self.layer_of().astype(given["x"].dtype)
        layer.assign({name: given[name] for name in self.parameters})
        with lm.formulas():
            y, cache = layer.forward(given["x"], training=True)
            dx, grads = layer.backward(given["dy"], cache)
        return {"y": y, "dx": dx, **{name: grads[name] for name in self.parameters}}


def cases(kind: type[Recurrence]) -> tuple[Recurrence, ...]:
    """Return the cases of one kind: batch, steps, inputs, hidden."""
    families = {
        "Layers of many sizes": [
            (1, 1, 128, 128), (1, 50, 128, 128), (32, 50, 128, 128), (64, 100, 256, 256),
            (128, 28, 28, 128), (32, 100, 32, 32), (64, 50, 64, 64), (32, 20, 512, 512),
            (32, 10, 1024, 1024), (256, 20, 128, 128), (16, 1000, 40, 64),
        ],
        "Batch of one": [
            (1, 100, 32, 32), (1, 1000, 64, 64), (1, 100, 256, 256), (1, 20, 1024, 1024),
        ],
        "Odd sizes": [(20, 35, 100, 100), (7, 50, 13, 250), (33, 30, 250, 100)],
    }  # fmt: skip
    quick = {(1, 50, 128, 128), (32, 50, 128, 128), (20, 35, 100, 100)}
    found = [
        kind(
            family=family, batch=n, steps=t, inputs=i, hidden=h, quick=(n, t, i, h) in quick
        )
        for family, shapes in families.items()
        for n, t, i, h in shapes
    ]  # fmt: skip
    found += [
        kind(
            family="Deep, or in both directions", batch=n, steps=t, inputs=i, hidden=h,
            layers=depth, bidirectional=both,
        )
        for depth, both in ((1, True), (2, False), (2, True))
        for n, t, i, h in ((32, 50, 128, 128), (16, 40, 64, 250))
    ]  # fmt: skip
    by_title = {case.title: case for case in found}
    of_float64 = [(1, 50, 128, 128), (32, 50, 128, 128), (20, 35, 100, 100)]
    for n, t, i, h in of_float64:
        chosen = kind(family="", batch=n, steps=t, inputs=i, hidden=h)
        found.append(by_title[chosen.title].in_float64(quick=n == 20))
    return tuple(found)
