"""What RNN and LSTM share: depth, directions, dropout between layers, lengths, state."""

from types import ModuleType
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from . import arguments, initializers
from .arguments import say
from .arrays import reverse_steps
from .dropout import Dropout
from .layer import Arrays, ByName, Layer, NDArray, Parameter, Shape

State: TypeAlias = tuple[tuple[NDArray, ...], ...]
"""An entry a layer and direction, each a tuple of arrays of shape (N, H)."""


class Recurrent(Layer):
    """A stack of recurrent layers in one or both directions.

    A subclass names the formula of one layer in one direction, and hands `cell`, what that formula
    takes beside the weights, to the constructor.
    """

    formula: ClassVar[ModuleType]
    gates: ClassVar[int]
    """G: weights and bias have G blocks of H columns."""
    state_names: ClassVar[tuple[str, ...]]

    weight_x = Parameter()
    weight_h = Parameter()
    bias = Parameter()

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        layers: int,
        bidirectional: bool,
        dropout: float,
        bias: bool,
        init: str,
        recurrent_init: str | None,
        dtype: npt.DTypeLike,
        rng: initializers.RNG,
        **cell: Any,
    ) -> None:
        self.in_features = arguments.integer(self, "in_features", in_features)
        self.hidden = arguments.integer(self, "hidden", hidden)
        self.layers = arguments.integer(self, "layers", layers)
        self.bidirectional = arguments.choice(self, "bidirectional", bidirectional, (True, False))
        self.dropout = arguments.number(self, "dropout", dropout, 0, 1)
        if self.dropout and self.layers == 1:
            raise ValueError(
                f"{say(self)}: dropout acts between layers, and there is one; "
                "give layers=2 or more, or put lm.Dropout after this layer"
            )
        self.has_bias = arguments.choice(self, "bias", bias, (True, False))
        self.init = arguments.choice(self, "init", init, initializers.PRESETS)
        choices = (None, *initializers.PRESETS)
        arguments.choice(self, "recurrent_init", recurrent_init, choices)
        self.recurrent_init = recurrent_init or ("torch" if init == "torch" else "orthogonal")
        arguments.float_dtype(self, dtype)
        self.cell = cell
        gaps = self.layers - 1 if self.dropout else 0
        self.dropouts = [Dropout(self.dropout, rng=initializers.BLANK) for _ in range(gaps)]
        self.initialize(rng)

    @property
    def directions(self) -> int:
        """How many directions a layer runs in: 2 where bidirectional."""
        return 2 if self.bidirectional else 1

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the layer may `step`: not where a direction starts at the end."""
        return not self.bidirectional

    def children(self) -> dict[str, Layer]:
        """Return the Dropout layers between the layers, by name."""
        return {f"dropout_{i}": child for i, child in enumerate(self.dropouts)}

    @property  # type: ignore[misc]
    def buffers(self) -> Arrays:
        """The buffers of the Dropout layers, by dotted name."""
        return ByName(
            (f"{name}.{key}", a)
            for name, child in self.children().items()
            for key, a in child.buffers.items()
        )

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        """Return what the names of a layer's parameters end in, one for each direction."""
        depth = f"_{layer}" if layer else ""
        return (depth, f"{depth}_reverse")[: self.directions]

    def _inputs(self, layer: int) -> int:
        """Return I of a layer: the features that it is given."""
        return self.directions * self.hidden if layer else self.in_features

    def _weights(self, suffix: str) -> tuple[NDArray | None, ...]:
        return tuple(self.params.get(name + suffix) for name in ("weight_x", "weight_h", "bias"))

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw all parameters anew, and the keys of the Dropout layers; return the layer."""
        rng = initializers.generator(rng)
        H = self.hidden
        self.params = {}
        for layer in range(self.layers):
            inputs = self._inputs(layer)
            # PyTorch takes the bound of every array from H.
            fan_in = H if self.init == "torch" else inputs
            for suffix in self._suffixes(layer):
                self.params[f"weight_x{suffix}"] = self._draw(self.init, (inputs, H), fan_in, rng)
                self.params[f"weight_h{suffix}"] = self._draw(self.recurrent_init, (H, H), H, rng)
                if self.has_bias:
                    self.params[f"bias{suffix}"] = initializers.draw_bias(
                        self.init, (self.gates * H,), H, rng, self.dtype
                    )
        for child in self.dropouts:
            child.initialize(rng)
        return self

    def _draw(
        self, preset: str, block: tuple[int, int], fan_in: int, rng: np.random.Generator
    ) -> NDArray:
        """Draw a matrix of G blocks side by side, each on its own."""
        blocks = [
            initializers.draw(preset, block, fan_in, self.hidden, rng, self.dtype)
            for _ in range(self.gates)
        ]
        return np.concatenate(blocks, axis=1)

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False, sample_ids: Any = None
    ) -> tuple[NDArray, Any]:
        """Return y, shape (N, T, H) or (N, T, 2H), and the cache of `backward`: `run` from 0.

        `sample_ids` names the samples to the Dropout layers.
        """
        y, _, cache = self.run(x, lengths=lengths, training=training, sample_ids=sample_ids)
        return y, cache

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, shape (N, T, I), and the gradients of the parameters."""
        dx, _, grads = self.run_backward(dy, None, cache)
        return dx, grads

    def initial_state(self, n: int) -> State:
        """Return the state before the first step of `n` sequences, all 0."""
        n = arguments.integer(self, "n", n, least=0)
        return tuple(
            tuple(np.zeros((n, self.hidden), self.dtype) for _ in self.state_names)
            for _ in range(self.layers * self.directions)
        )

    def run(
        self,
        x: NDArray,
        state: State | None = None,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
    ) -> tuple[NDArray, State, Any]:
        """Return y, the state after the last step, and the cache of `run_backward`.

        `state` is that before the first step, None standing for 0. A sequence's last step is its
        own, by `lengths`; in the reverse direction it is the sequence's first. So a long sequence
        may be cut into windows, the state carried from one to the next, where the layer goes
        forward only.
        """
        x = arguments.array(self, "x", x, self.dtype)
        arguments.features(self, x, self.in_features, ndim=3)
        lengths = arguments.lengths(self, lengths, x)
        before = self._checked_state("state", state, len(x))
        after: list[tuple[NDArray, ...]] = []
        caches = []
        for layer in range(self.layers):
            dropped = None
            if layer and self.dropouts:
                x, dropped = self.dropouts[layer - 1].forward(
                    x, lengths=lengths, training=training, sample_ids=sample_ids
                )
            ys, cells = [], []
            for reverse, suffix in enumerate(self._suffixes(layer)):
                y, end, cell = self.formula.run(
                    reverse_steps(x, lengths) if reverse else x,
                    before[len(after)],
                    *self._weights(suffix),
                    lengths,
                    **self.cell,
                )
                ys.append(reverse_steps(y, lengths) if reverse else y)
                after.append(end)
                cells.append(cell)
            x = np.concatenate(ys, axis=-1)
            caches.append((dropped, cells))
        return x, tuple(after), (x.shape, lengths, caches)

    def run_backward(
        self, dy: NDArray, dstate: State | None, cache: Any
    ) -> tuple[NDArray, State, Arrays]:
        """Return dx, the gradient of the state before the first step, and those of parameters.

        `dstate` is the gradient of the state after the last step; None stands for zero.
        """
        shape, lengths, caches = cache
        dy = arguments.gradient(self, dy, shape, self.dtype)
        dafter = list(self._checked_state("dstate", dstate, len(dy)))
        dbefore: list[tuple[NDArray, ...]] = []
        grads: Arrays = {}
        for layer in reversed(range(self.layers)):
            dropped, cells = caches[layer]
            dys = np.split(dy, self.directions, axis=-1)
            dxs: list[NDArray] = []
            for reverse, suffix in reversed(list(enumerate(self._suffixes(layer)))):
                dx, dstart, found = self.formula.run_backward(
                    reverse_steps(dys[reverse], lengths) if reverse else dys[reverse],
                    dafter.pop(),
                    cells[reverse],
                )
                dxs.append(reverse_steps(dx, lengths) if reverse else dx)
                dbefore.append(dstart)
                grads |= {name + suffix: g for name, g in found.items()}
            dy = sum(dxs[1:], start=dxs[0])
            if dropped is not None:
                dy, _ = self.dropouts[layer - 1].backward(dy, dropped)
        return dy, tuple(reversed(dbefore)), grads

    def step(self, x_t: NDArray, state: State | None) -> tuple[NDArray, State]:
        """Return y at one step, at inference, and the next state; x_t has shape (N, I)."""
        self._refuse_steps()
        y_t = arguments.array(self, "x_t", x_t, self.dtype)
        arguments.features(self, y_t, self.in_features, ndim=2)
        after = []
        for layer, before in enumerate(self._checked_state("state", state, len(y_t))):
            (suffix,) = self._suffixes(layer)
            after.append(self.formula.step(y_t, before, self._weights(suffix), **self.cell))
            y_t = after[-1][0]
        return y_t.copy(), tuple(after)  # a caller who writes to y_t must not write to the state

    def _checked_state(self, name: str, state: Any, n: int) -> State:
        """Return a state of `n` sequences, zeros for None."""
        if state is None:
            return self.initial_state(n)
        count, names = self.layers * self.directions, self.state_names
        if not (_is_tuple(state, count) and all(_is_tuple(entry, len(names)) for entry in state)):
            entry = f"({', '.join(names)}{',' * (len(names) == 1)})"
            raise ValueError(
                f"{say(self)}: {name} must be a tuple with a tuple {entry} for each layer and "
                f"direction, {count} in all, as initial_state(n) gives; got {_outline(state)}"
            )
        expected = (n, self.hidden)
        checked = []
        for k, entry in enumerate(state):
            arrays = []
            for j, a in enumerate(entry):
                a = arguments.array(self, f"{name}[{k}][{j}]", a, self.dtype)
                if a.shape != expected:
                    raise ValueError(
                        f"{say(self)}: {name}[{k}][{j}], {names[j]}, has shape {a.shape}, "
                        f"expected {expected}: a row of H for each of the {n} sequences"
                    )
                arrays.append(a)
            checked.append(tuple(arrays))
        return tuple(checked)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (N, T, H), or (N, T, 2H) where bidirectional, for (N, T, I)."""
        arguments.features(self, np.empty((0, *shape[1:])), self.in_features, ndim=3)
        return (*shape[:-1], self.directions * self.hidden)

    def flops(self, shape: Shape) -> int:
        """Return 2 (I + H) G H, and G H for the bias, a step, layer and direction."""
        N, T, _ = shape
        inputs = sum(self._inputs(layer) for layer in range(self.layers))
        rows = inputs + self.layers * self.hidden
        per_step: int = self.gates * self.hidden * (2 * rows + self.layers * self.has_bias)
        return N * T * self.directions * per_step


def _is_tuple(value: Any, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count


def _outline(state: Any) -> str:
    """Return the form of a state for an error: tuples, and types for what is in them."""
    if isinstance(state, tuple):
        return f"({', '.join(map(_outline, state))}{',' * (len(state) == 1)})"
    return type(state).__name__
