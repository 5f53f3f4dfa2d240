"""Random arguments of the kernels of RNN, LSTM and GRU, and what they must give.

They are held against their formulas in float64. Weights are so small that a rounding error does
not grow from step to step.
"""

from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

import problems
from contract import EPS, assert_same
from lamina.arrays import reverse_steps
from lamina.gru import formula as gru_formula
from lamina.gru import kernel as gru_kernel
from lamina.lstm import formula as lstm_formula
from lamina.lstm import kernel as lstm_kernel
from lamina.rnn import formula as rnn_formula
from lamina.rnn import kernel as rnn_kernel
from problems import lay_out

MODULES = {
    "rnn": (rnn_kernel, rnn_formula),
    "lstm": (lstm_kernel, lstm_formula),
    "gru": (gru_kernel, gru_formula),
}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
WEIGHTS = {
    "rnn": ("weight_x", "weight_h", "bias"),
    "lstm": ("weight_x", "weight_h", "bias", "weight_p"),
    "gru": ("weight_x", "weight_h", "bias", "bias_h"),
}


@dataclass(frozen=True)
class Recurrence:
    """One call of a layer's functions; `projection` is that of an LSTM, 0 for none.

    `shared` tells that the kernel's y and dy are those of two directions.
    """

    layer: str
    n: int
    steps: int
    inputs: int
    hidden: int
    dtype: str = "float32"
    lengths: tuple[int, ...] | None = None
    bias: bool = True
    masked: bool = False
    projection: int = 0
    activation: str = "tanh"
    reverse: bool = False
    shared: bool = False

    @property
    def modules(self) -> tuple[ModuleType, ModuleType]:
        """The kernel and the formula."""
        return MODULES[self.layer]

    @property
    def outputs(self) -> int:
        """The columns of h."""
        return self.projection or self.hidden

    @property
    def options(self) -> dict[str, Any]:
        return {"activation": self.activation} if self.layer == "rnn" else {}

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """x, the weights, the mask, dy, and the states: "h", "c", "dh" and "dc"."""
        rng = np.random.default_rng(seed)
        h, columns = self.outputs, GATES[self.layer] * self.hidden
        shapes = {
            "x": (self.n, self.steps, self.inputs),
            "weight_x": (self.inputs, columns),
            "weight_h": (h, columns),
            "dy": (self.n, self.steps, h),
        }
        shapes |= dict.fromkeys(("h", "dh"), (self.n, h))
        if self.layer == "lstm":
            shapes |= dict.fromkeys(("c", "dc"), (self.n, self.hidden))
        shapes |= {"bias": (columns,)} if self.bias else {}
        shapes |= {"bias_h": (h,)} if self.bias and self.layer == "gru" else {}
        shapes |= {"weight_p": (self.hidden, h)} if self.projection else {}
        arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        for name in ("weight_x", "weight_h", "weight_p"):
            if name in arrays:
                arrays[name] *= 0.5 / np.sqrt(len(arrays[name]))
        if self.masked:
            arrays["mask"] = 2.0 * rng.integers(0, 2, (self.n, h))
        arrays = {name: a.astype(self.dtype) for name, a in arrays.items()}
        return arrays | (
            {} if self.lengths is None else {"lengths": np.array(self.lengths, np.int64)}
        )

    def passes(self, module: ModuleType, arrays: dict[str, Any]) -> dict[str, Any]:
        """All that a run and its way back return, by a kernel or a formula."""
        given = dict(arrays)
        names = [name for name in ("h", "c") if name in given]
        state = tuple(given.pop(name) for name in names)
        dstate = tuple(given.pop(f"d{name}") for name in names)
        x, dy = given.pop("x"), given.pop("dy")
        options, turn = self.options, lambda a: a
        if self.reverse and getattr(module, "REVERSES", False):
            options["reverse"] = True
        elif self.reverse:
            turn = partial(reverse_steps, lengths=given.get("lengths"))
        if self.shared and hasattr(module, "padded"):
            options["y"] = module.padded(x, given.get("lengths"), 2 * self.outputs)
            nothing = np.full_like(dy, np.nan)
            dy = np.concatenate((nothing, dy) if self.reverse else (dy, nothing), axis=-1)
        y, after, cache = module.run(turn(x), state, **given, **options)
        trace = module.trace(cache)
        dx, before, grads = module.run_backward(turn(dy), dstate, cache, trace)
        y, dx, trace = turn(y), turn(dx), {name: turn(a) for name, a in trace.items()}
        if "y" in options:
            assert y is options["y"]
            y = np.split(y, 2, axis=-1)[int(self.reverse)]
        return {
            "y": y,
            "dx": dx,
            **{f"{name} after": a for name, a in zip(names, after, strict=True)},
            **{f"d{name} before": a for name, a in zip(names, before, strict=True)},
            **{f"grads of {name}": a for name, a in grads.items()},
            **{f"trace of {name}": a for name, a in trace.items()},
        }

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the formula; the arrays take the `layouts` in turn."""
        kernel, formula = self.modules
        arrays = self.arrays(seed)
        given = {
            name: a if name == "lengths" else lay_out(a, layouts[i % len(layouts)])
            for i, (name, a) in enumerate(arrays.items())
        }
        if self.lengths is not None:  # what stands in padding is read by nobody
            padding = np.arange(self.steps) >= np.array(self.lengths)[:, None]
            given |= {name: arrays[name].copy() for name in ("x", "dy")}
            for name in ("x", "dy"):
                given[name][padding] = np.nan
        before = {name: a.copy() for name, a in given.items()}
        found = self.passes(kernel, given)
        for name, a in before.items():
            np.testing.assert_array_equal(given[name], a, err_msg=f"{name} was written to")
        wide = {n: a if n == "lengths" else a.astype(np.float64) for n, a in arrays.items()}
        expected = self.passes(formula, wide)
        assert found.keys() == expected.keys()
        # What few units hand on may be a small difference of the terms of several gates.
        terms = 40 + self.inputs + self.hidden * 4 + self.n * self.steps
        for name, a in found.items():
            assert (a.shape, a.dtype) == (expected[name].shape, self.dtype), name
            size = np.max(np.abs(expected[name]), initial=0)
            off = np.max(np.abs(a - expected[name]), initial=0)
            bound = EPS[np.dtype(self.dtype)] * terms * size
            assert off <= bound, f"{name} of {self}: off by {off}, bound {bound}"
            if self.lengths is not None and name in ("y", "dx"):
                assert not a[padding].any(), f"padding of {name}"
        self.check_fixed(arrays, found["y"])

    def check_fixed(self, arrays: dict[str, Any], y: np.ndarray) -> None:
        """Hold weights that were packed beforehand to the bits of y: as a whole, and in steps."""
        if self.reverse or not self.n:
            return
        cell = self.modules[0].fixed(*map(arrays.get, WEIGHTS[self.layer]), **self.options)
        state = tuple(arrays[name] for name in ("h", "c") if name in arrays)
        x, lengths, mask = (arrays.get(name) for name in ("x", "lengths", "mask"))
        assert_same(cell.infer(x, state, lengths=lengths, mask=mask)[0], y, "y of packed weights")
        for t in range(self.steps if lengths is None and mask is None else 0):
            y_t, state = cell.step(np.ascontiguousarray(x[:, t]), state)
            assert_same(y_t, y[:, t], f"step {t} of packed weights")


def recurrence(rng: Any, most: int = 40) -> Recurrence:
    """A batch of sequences, some of one length, some ragged."""
    layer = str(rng.choice(["lstm", "rnn"]))
    n, hidden, inputs = problems.ragged(rng, 20), problems.ragged(rng, most), ragged_inputs(rng)
    steps = int(rng.integers(1, 9)) if rng.random() < 0.8 else int(rng.integers(30, 80))
    if rng.random() < 0.05:
        n, steps = (0, steps) if rng.random() < 0.5 else (n, 0)
    lengths = None
    if rng.random() < 0.5:
        lengths = tuple(int(t) for t in rng.integers(0, steps + 1, n))
    found = Recurrence(
        layer, n, steps, inputs, hidden, str(rng.choice(["float32", "float64"])), lengths,
        bias=bool(rng.random() < 0.8),
        masked=bool(rng.random() < 0.3),
        projection=problems.ragged(rng, most) if layer == "lstm" and rng.random() < 0.3 else 0,
        activation=str(rng.choice(["tanh", "relu", "sigmoid"])),
        reverse=steps % 3 == 1, shared=inputs % 2 == 1,
    )  # fmt: skip
    is_gru = hidden % 3 == 0 and not found.projection
    return replace(found, layer="gru") if is_gru else found


def ragged_inputs(rng: Any) -> int:
    """The features of x: often few."""
    return int(rng.integers(1, 4)) if rng.random() < 0.3 else problems.ragged(rng, 40)
