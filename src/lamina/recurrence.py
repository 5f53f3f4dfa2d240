"""What RNN, LSTM and GRU share: depth, directions, dropout between layers, lengths, state."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, NoReturn, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from . import arguments, initializers
from .arguments import say
from .arrays import reverse_steps
from .calls import Live, by_steps, has_all
from .dropout import Dropout
from .layer import SETTLED, Arrays, ByName, Fixed, Layer, NDArray, Parameter, Shape, in_step

if TYPE_CHECKING:
    from .engine.program import Plan

State: TypeAlias = tuple[tuple[NDArray, ...], ...]
"""An entry a layer and direction, each a tuple of arrays of shape (N, H)."""
MERGES: Final = ("concat", "sum", "mean")
WEIGHTS: Final = ("weight_x", "weight_h", "bias")
"""What every cell has; of these bias may be missing."""


class Cache(NamedTuple):
    """What `run_backward` needs, and what `trace=True` asked for."""

    shape: Shape
    lengths: NDArray | None
    functions: ModuleType
    layers: list[tuple[Any, list[Any]]]
    """Of each layer, the cache of the Dropout before it and those of its directions."""
    trace: tuple[Arrays, ...] | None
    """Of each layer and direction, in the order of a state, arrays by step. See `Recurrent.run`."""


class Recurrent(Layer):
    """A stack of recurrent layers in one or both directions.

    A subclass names the functions of one layer in one direction, and hands `cell`, what they take
    beside the weights, to the constructor.
    """

    settable = SETTLED
    _shortcuts = Layer._shortcuts | {"run": ("_infer", "_live"), "run_backward": ("gradients",)}
    derived = frozenset((
        "gates", "weight_names", "varied", "has_bias", "shapes", "cell", "dropouts",
        "recurrent_dropouts",
    ))  # fmt: skip

    gates: int
    """G: weights and bias have G blocks of H columns."""
    weight_names: tuple[str, ...]
    """In the order in which the functions take them."""
    varied: bool
    """Whether an option of the cell is computed by formula only."""
    state_names: ClassVar[tuple[str, ...]]

    weight_x = Parameter()
    weight_h = Parameter()
    bias = Parameter()

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        gates: int,
        weight_names: tuple[str, ...] = WEIGHTS,
        varied: bool = False,
        layers: int,
        bidirectional: bool,
        merge: str,
        dropout: float,
        recurrent_dropout: float,
        bias: bool,
        init: str,
        recurrent_init: str | None,
        dtype: npt.DTypeLike,
        rng: initializers.RNG,
        **cell: Any,
    ) -> None:
        self.gates, self.weight_names, self.varied = gates, weight_names, varied
        self.in_features = arguments.integer(self, "in_features", in_features)
        self.hidden = arguments.integer(self, "hidden", hidden)
        self.layers = arguments.integer(self, "layers", layers)
        self.bidirectional = arguments.flag(self, "bidirectional", bidirectional)
        self.merge = arguments.choice(self, "merge", merge, MERGES)
        if merge != "concat" and not self.bidirectional:
            raise ValueError(
                f"{say(self)}: merge joins two directions, and there is one; "
                "give bidirectional=True, or leave merge out"
            )
        self.dropout = arguments.number(self, "dropout", dropout, 0, 1)
        if self.dropout and self.layers == 1:
            raise ValueError(
                f"{say(self)}: dropout acts between layers, and there is one; "
                "give layers=2 or more, or put lm.Dropout after this layer"
            )
        self.recurrent_dropout = arguments.number(
            self, "recurrent_dropout", recurrent_dropout, 0, 1
        )
        self.has_bias = arguments.flag(self, "bias", bias)
        self.init = arguments.choice(self, "init", init, initializers.PRESETS)
        choices = (None, *initializers.PRESETS)
        arguments.choice(self, "recurrent_init", recurrent_init, choices)
        self.recurrent_init = recurrent_init or ("torch" if init == "torch" else "orthogonal")
        self._dtype = arguments.float_dtype(self, dtype).type
        self.cell = cell
        gaps = self.layers - 1 if self.dropout else 0
        self.dropouts = [Dropout(self.dropout, rng=initializers.BLANK) for _ in range(gaps)]
        passes = self.layers * self.directions if self.recurrent_dropout else 0
        self.recurrent_dropouts = [
            Dropout(self.recurrent_dropout, rng=initializers.BLANK) for _ in range(passes)
        ]
        self.initialize(rng)
        self.shapes = {name: a.shape for name, a in self.params.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; one for an array of a further layer or direction would reach none."""
        if name in self._params and not hasattr(type(self), name):
            raise AttributeError(
                f"{say(self)}: {name} is no attribute; write into the array itself, "
                f"layer.params[{name!r}][...] = array, or let the layer check it: "
                f"layer.assign({{{name!r}: array}})"
            )
        super().__setattr__(name, value)

    @abstractmethod
    def _functions(self) -> ModuleType:
        """Return the module whose `run`, `run_backward`, `step` and `trace` compute the layer."""

    @property
    def directions(self) -> int:
        """How many directions a layer runs in: 2 where bidirectional."""
        return 2 if self.bidirectional else 1

    @property
    def state_sizes(self) -> dict[str, int]:
        """The columns of each array of a state, by name."""
        return dict.fromkeys(self.state_names, self.hidden)

    @property
    def out_features(self) -> int:
        """The columns of y: those of h, twice where two directions stand side by side."""
        side_by_side = self.directions if self.merge == "concat" else 1
        return side_by_side * self.state_sizes["h"]

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the layer may `step`: not where a direction starts at the end.

        Nor where a Dropout inside drops at inference, too.
        """
        return in_step(type(self)) and not (self.bidirectional or self._drops)

    @property
    def _drops(self) -> bool:
        return any(child.always for child in (*self.dropouts, *self.recurrent_dropouts))

    def _refuse_steps(self) -> None:
        for child in (*self.dropouts, *self.recurrent_dropouts):
            child._refuse_steps()
        super()._refuse_steps()

    def children(self) -> dict[str, Layer]:
        """Return the Dropout layers, between layers and of states, by name."""
        suffixes = [s for layer in range(self.layers) for s in self._suffixes(layer)]
        found: dict[str, Layer] = {f"dropout_{i}": child for i, child in enumerate(self.dropouts)}
        for suffix, child in zip(suffixes, self.recurrent_dropouts, strict=False):
            found[f"recurrent_dropout{suffix}"] = child
        return found

    def config(self) -> dict[str, Any]:
        """Return the arguments that build this layer again, with the rates that Dropouts have now.

        One stands for all between layers, and one for all of states.
        """
        config = super().config()
        for name in ("dropout", "recurrent_dropout"):
            for child in getattr(self, f"{name}s", [])[:1]:  # none yet in an error of the first
                config[name] = child.rate
        return config

    @property
    def buffers(self) -> Arrays:
        """The buffers of the Dropout layers, by dotted name."""
        return ByName(
            (f"{name}.{key}", a)
            for name, child in self.children().items()
            for key, a in child.buffers.items()
        )

    @buffers.setter
    def buffers(self, arrays: Any) -> NoReturn:
        self._refuse_arrays("buffers")

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        """Return what the names of a layer's parameters end in, one for each direction."""
        depth = f"_{layer}" if layer else ""
        return (depth, f"{depth}_reverse")[: self.directions]

    def _inputs(self, layer: int) -> int:
        """Return I of a layer: the features that it is given."""
        return self.out_features if layer else self.in_features

    def _weights(self, suffix: str) -> tuple[NDArray | None, ...]:
        params, shapes, dtype, found = self.params, self.shapes, self.dtype, []
        for name in self.weight_names:
            a, shape = params.get(name + suffix), shapes.get(name + suffix)
            wrong = shape if a is None else a.shape != shape or a.dtype is not dtype
            if wrong:
                arguments.parameter(self, name + suffix, a, shape)
            found.append(a)
        return tuple(found)

    def _each(self, make: Callable[..., Any]) -> dict[str, Any]:
        """Return what a function makes of the weights of each layer and direction, by suffix."""
        return {
            suffix: make(*self._weights(suffix), **self.cell)
            for layer in range(self.layers)
            for suffix in self._suffixes(layer)
        }

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw all parameters anew, and the keys of the Dropout layers; return the layer."""
        rng = initializers.generator(rng)
        self.params = {}
        for layer in range(self.layers):
            for suffix in self._suffixes(layer):
                for name, a in self._draw(self._inputs(layer), rng).items():
                    self.params[name + suffix] = a
        for child in self.children().values():
            child.initialize(rng)
        return self

    def _draw(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """Draw the parameters of one layer in one direction, by name."""
        H = self.hidden
        found = {
            "weight_x": self._draw_matrix(self.init, inputs, H, self.gates, rng),
            "weight_h": self._draw_matrix(
                self.recurrent_init, self.state_sizes["h"], H, self.gates, rng
            ),
        }
        if self.has_bias:
            found["bias"] = initializers.draw_bias(self.init, (self.gates * H,), H, rng, self.dtype)
        return found

    def _draw_matrix(
        self, preset: str, rows: int, columns: int, blocks: int, rng: np.random.Generator
    ) -> NDArray:
        """Draw a matrix of blocks side by side, each on its own."""
        fan_in = self.hidden if preset == "torch" else rows  # PyTorch takes every bound from H
        drawn = [
            initializers.draw(preset, (rows, columns), fan_in, columns, rng, self.dtype)
            for _ in range(blocks)
        ]
        return np.concatenate(drawn, axis=1)

    def forward(
        self,
        x: NDArray,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
        trace: bool = False,
    ) -> tuple[NDArray, Cache]:
        """Return y, shape (N, T, out_features), and the cache of `backward`: `run` from 0."""
        if sample_ids is None and not trace:
            bound = self._planned(x, lengths, training, True)
            if bound is not None:
                y, cell = bound(x)
                return y, Cache(y.shape, None, self._functions(), [(None, [cell])], None)
        y, _, cache = self.run(
            x, lengths=lengths, training=training, sample_ids=sample_ids, trace=trace
        )
        return y, cache

    def _infer(self, x: NDArray, **options: Any) -> NDArray:
        """Return y of a call that was not planned: nothing is kept."""
        if options.keys() <= {"lengths", "sample_ids"}:
            return self._through(x, **options, keep=False)[0]
        return super()._infer(x, **options)

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, shape (N, T, I), and the gradients of the parameters."""
        shape, _, functions, layers, trace = arguments.cached(self, cache, 5)
        ((_, cells), *more) = layers
        own = type(self).run_backward is not Recurrent.run_backward
        if more or len(cells) > 1 or trace or own or not hasattr(functions, "backward"):
            dx, _, grads = self.run_backward(dy, None, cache)
            return dx, grads
        dy = arguments.gradient(self, dy, shape, self.dtype)  # what comes mostly, sooner
        found: tuple[NDArray, Arrays] = functions.backward(np.ascontiguousarray(dy), cells[0])
        return found

    def gradients(self, dy: NDArray, cache: Any) -> Arrays:
        """Return the gradients of the parameters."""
        return self._through_back(dy, None, cache, of_x=False)[2]

    def initial_state(self, n: int) -> State:
        """Return the state before the first step of `n` sequences, all 0."""
        return self._zeros(arguments.integer(self, "n", n, least=0))

    def _zeros(self, n: int) -> State:
        sizes, dtype = self.state_sizes.values(), self.dtype
        count = self.layers * self.directions
        return tuple([tuple([np.zeros((n, k), dtype) for k in sizes]) for _ in range(count)])

    def run(
        self,
        x: NDArray,
        state: State | None = None,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
        trace: bool = False,
    ) -> tuple[NDArray, State, Cache]:
        """Return y, the state after the last step, and the cache of `run_backward`.

        `state` is that before the first step, None standing for 0. A sequence's last step is its
        own, by `lengths`; in the reverse direction it is the sequence's first. So a long sequence
        may be cut into windows, the state carried from one to the next, where the layer goes
        forward only.

        `sample_ids` names the samples to the Dropout layers.

        With `trace`, ``cache.trace`` has what the pass went through: for each layer and direction,
        in the order of a state, a dict of arrays by step, of shape (N, T, H), 0 in padding, under
        the names of the formula: the gates and the state, where an LSTM's c may be rounded once
        more than that of the state. `run_backward` adds ``"da"``, shape (N, T, G H), the gradient
        of the loss by a, the sum that the nonlinearities take, and ``"norm"``, shape (N, T), its
        Euclidean norm: what reaches a step from the later ones.
        """
        return self._through(x, state, lengths, training, sample_ids, trace, keep=True)

    def _through(
        self,
        x: NDArray,
        state: State | None = None,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
        trace: bool = False,
        *,
        keep: bool,
        infers: dict[str, Any] | None = None,
    ) -> tuple[NDArray, State, Cache]:
        """Return what `run` does; unless `keep`, without what `run_backward` needs.

        `infers` has, by suffix, what computes in the place of a kernel and its weights.
        """
        x = arguments.array(self, "x", x, self.dtype)
        arguments.features(self, x.shape, self.in_features, ndim=3)
        lengths = arguments.lengths(self, lengths, x)
        if lengths is not None and np.all(lengths == x.shape[1]):
            lengths = None  # there is no padding
        before = self._checked_state("state", state, len(x))
        if not x.shape[1]:
            before = _copied(before)
        functions = self._functions()
        reverses = getattr(functions, "REVERSES", False)
        x = np.ascontiguousarray(x)  # for the order of NumPy's sums follows how it lies
        run = functions.run if keep else getattr(functions, "infer", functions.run)
        after: list[tuple[NDArray, ...]] = []
        caches = []
        traces: list[Arrays] = []
        for layer in range(self.layers):
            dropped = None
            if layer and self.dropouts:
                x, dropped = self.dropouts[layer - 1].forward(
                    x, lengths=lengths, training=training, sample_ids=sample_ids
                )
            ys, cells, both = [], [], None
            if self._share(functions):
                both = functions.padded(x, lengths, self.out_features)
            for reverse, suffix in enumerate(self._suffixes(layer)):
                mask, place = None, len(after)
                if self.recurrent_dropouts and (training or self.recurrent_dropouts[place].always):
                    mask = self._draw_mask(place, len(x), sample_ids)
                start, turn = before[place], reverse and not reverses
                turned = reverse_steps(x, lengths) if turn else x
                options = {"lengths": lengths, "mask": mask}
                if reverse and not turn:
                    options["reverse"] = True
                if both is not None:
                    options["y"] = both
                if infers is not None:
                    y, end, cell = infers[suffix](turned, start, **options)
                else:
                    weights = self._weights(suffix)
                    y, end, cell = run(turned, start, *weights, **options, **self.cell)
                if not keep:
                    cell = None  # a formula's cache goes before the next one comes
                ys.append(reverse_steps(y, lengths) if turn else y)
                after.append(end)
                cells.append(cell)
                if trace:
                    seen = functions.trace(cell).items()
                    traces.append(
                        {name: reverse_steps(a, lengths) if turn else a for name, a in seen}
                    )
            x = self._join(ys) if both is None else both
            caches.append((dropped, cells))
        kept = Cache(x.shape, lengths, functions, caches, tuple(traces) if trace else None)
        return x, tuple(after), kept

    def run_backward(
        self, dy: NDArray, dstate: State | None, cache: Any
    ) -> tuple[NDArray, State, Arrays]:
        """Return dx, the gradient of the state before the first step, and those of parameters.

        `dstate` is the gradient of the state after the last step; None stands for zero.
        """
        return self._through_back(dy, dstate, cache, of_x=True)

    def _through_back(
        self, dy: NDArray, dstate: State | None, cache: Any, *, of_x: bool
    ) -> tuple[Any, State, Arrays]:
        """Return what `run_backward` does; unless `of_x`, it may be without dx."""
        shape, lengths, functions, caches, traces = arguments.cached(self, cache, 5)
        dy = arguments.gradient(self, dy, shape, self.dtype)
        dafter = list(self._checked_state("dstate", dstate, len(dy)))
        if not shape[1]:
            dafter = list(_copied(dafter))
        dbefore: list[tuple[NDArray, ...]] = []
        grads: Arrays = {}
        reverses = getattr(functions, "REVERSES", False)
        dy = np.ascontiguousarray(dy)
        for layer in reversed(range(self.layers)):
            dropped, cells = caches[layer]
            dys = [dy, dy] if self._share(functions) else self._split(dy)
            dxs: list[NDArray] = []
            for reverse, suffix in reversed(list(enumerate(self._suffixes(layer)))):
                trace = None if traces is None else traces[len(dafter) - 1]
                turn = reverse and not reverses
                dx, dstart, found = functions.run_backward(
                    reverse_steps(dys[reverse], lengths) if turn else dys[reverse],
                    dafter.pop(),
                    cells[reverse],
                    trace,
                    **({} if of_x or layer or not reverses else {"of_x": False}),
                )
                dxs.append(reverse_steps(dx, lengths) if turn else dx)
                dbefore.append(dstart)
                grads |= {name + suffix: g for name, g in found.items()}
                if trace is not None:
                    if turn:
                        trace["da"] = reverse_steps(trace["da"], lengths)
                    trace["norm"] = np.linalg.norm(trace["da"], axis=-1)
            if of_x or layer:
                dy, *others = dxs
                for dx in others:
                    dy += dx
            if dropped is not None:
                dy, _ = self.dropouts[layer - 1].backward(dy, dropped)
        return dy, tuple(reversed(dbefore)), grads

    def step(self, x_t: NDArray, state: State | None) -> tuple[NDArray, State]:
        """Return y at one step, at inference, and the next state; x_t has shape (N, I)."""
        self._refuse_steps()
        y_t = arguments.array(self, "x_t", x_t, self.dtype)
        arguments.features(self, y_t.shape, self.in_features, ndim=2)
        y_t, functions = np.ascontiguousarray(y_t), self._functions()
        after = []
        for layer, before in enumerate(self._checked_state("state", state, len(y_t))):
            (suffix,) = self._suffixes(layer)
            after.append(functions.step(y_t, before, self._weights(suffix), **self.cell))
            y_t = after[-1][0]
        return y_t.copy(), tuple(after)  # a caller who writes to y_t must not write to the state

    def _fixed(self) -> Fixed:
        """Return how the layer computes in an inference model: its weights packed for steps."""
        functions = self._functions()
        if not hasattr(functions, "fixed"):
            return super()._fixed()
        fixed = self._each(functions.fixed)
        infers = {suffix: one.infer for suffix, one in fixed.items()}
        run = [one.step for one in fixed.values()]
        plans = {suffix: one.plan for suffix, one in fixed.items()}

        dtype, inputs, sizes = self.dtype, self.in_features, tuple(self.state_sizes.values())
        depth, count, stepwise, ndarray = len(run), len(sizes), self.stepwise, np.ndarray
        whole_rows = partial(np.require, requirements=("C", "A"))

        def are_plain(x_t: Any, state: Any) -> bool:
            if not (type(x_t) is ndarray and x_t.dtype is dtype and x_t.flags.carray):
                return False
            shape = x_t.shape
            if not (len(shape) == 2 and shape[0] and shape[1] == inputs):
                return False
            if not (type(state) is tuple and len(state) == depth):
                return False
            for entry in state:
                if not (type(entry) is tuple and len(entry) == count):
                    return False
                for a, size in zip(entry, sizes):  # noqa: B905 (strict= takes long)
                    if not (type(a) is ndarray and a.dtype is dtype and a.flags.carray):
                        return False
                    if a.shape != (shape[0], size):
                        return False
            return True

        def step(x_t: NDArray, state: Any) -> tuple[NDArray, State]:
            if not (stepwise and are_plain(x_t, state)):  # say what is wrong, or mend it
                self._refuse_steps()
                x_t = arguments.array(self, "x_t", x_t, dtype)
                arguments.features(self, x_t.shape, inputs, ndim=2)
                state = self._checked_state("state", state, len(x_t))
                x_t, state = whole_rows(x_t), tuple(tuple(map(whole_rows, e)) for e in state)
            after = []
            for k, one in enumerate(run):
                x_t, end = one(x_t, state[k])
                after.append(end)
            return x_t, tuple(after)

        def call(
            x: NDArray, *, lengths: Any = None, sample_ids: Any = None, trace: bool = False
        ) -> NDArray:  # an inference model refuses a trace that is not False
            return self._through(
                x, lengths=lengths, sample_ids=sample_ids, keep=False, infers=infers
            )[0]

        return Fixed(call, step, self._plans(plans))

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a call with the parameters that are there now.

        The option says that it is a pass of training.
        """
        functions = self._functions()
        if not self._is_own or not hasattr(functions, "live") or self.children():
            return None
        if options:
            if self.layers * self.directions > 1:
                return None
            weights = self._weights("")

            def bind(shape: Shape, dtype: np.dtype[Any]) -> Callable[[NDArray], Any] | None:
                if len(shape) != 3 or shape[2] != self.in_features or dtype != self.dtype:
                    return None
                n, T, _ = shape
                bound: Callable[[NDArray], Any] | None = functions.bind(n, T, *weights, **self.cell)
                return bound

            return Live(bind, has_all(self))
        plan = self._plans(self._each(functions.live))
        return None if plan is None else Live(by_steps(plan), has_all(self))

    def _plans(
        self, given: dict[str, Callable[..., int] | None]
    ) -> Callable[["Plan", int], int] | None:
        """Return how to plan the whole from how each layer and direction is, if all can be."""
        plans = {suffix: one for suffix, one in given.items() if one is not None}
        if self._drops or len(plans) < len(given):
            return None

        def whole(plan: "Plan", x: int) -> int:
            plan.check(self.dtype)
            shape = self.output_shape(plan.shapes[x])
            for layer in range(self.layers):
                suffixes = enumerate(self._suffixes(layer))
                ys = [plans[suffix](plan, x, bool(reverse)) for reverse, suffix in suffixes]
                x = ys[0] if len(ys) == 1 else plan.add(shape, self._joined, *ys)
            return x

        return whole

    def _draw_mask(self, place: int, n: int, sample_ids: Any) -> NDArray:
        """Draw what h of a layer and direction is multiplied by in this pass: 0, or 1 / (1 - p)."""
        kept = np.ones((n, self.state_sizes["h"]), self.dtype)
        mask, _ = self.recurrent_dropouts[place].forward(kept, training=True, sample_ids=sample_ids)
        return mask

    def _share(self, functions: ModuleType) -> bool:
        """Return whether two directions write to one y, side by side."""
        side_by_side = self.bidirectional and self.merge == "concat"
        return side_by_side and getattr(functions, "REVERSES", False)

    def _join(self, ys: list[NDArray]) -> NDArray:
        """Return y of a layer from those of its directions."""
        return ys[0] if len(ys) == 1 else self._joined(*ys)

    def _joined(self, forth: NDArray, back: NDArray, y: NDArray | None = None) -> NDArray:
        """Return y from those of both directions; it is written to the array that is given."""
        if self.merge == "concat":
            return np.concatenate((forth, back), axis=-1, out=y)
        total: NDArray = np.add(forth, back, out=y)
        return total if self.merge == "sum" else np.divide(total, 2, out=total)

    def _split(self, dy: NDArray) -> list[NDArray]:
        """Return dy of each direction."""
        if self.directions == 1:
            return [dy]
        if self.merge == "concat":  # by formulas
            return np.split(dy, self.directions, axis=-1)
        return [dy, dy] if self.merge == "sum" else [dy / 2, dy / 2]

    def _checked_state(self, name: str, state: Any, n: int) -> State:
        """Return a state of `n` sequences, zeros for None."""
        if state is None:
            return self._zeros(n)
        count, names = self.layers * self.directions, self.state_names
        if not (_is_tuple(state, count) and all(_is_tuple(entry, len(names)) for entry in state)):
            entry = f"({', '.join(names)}{',' * (len(names) == 1)})"
            parts = state if isinstance(state, (tuple, list)) else (state,)
            stacked = len(parts) == len(names) and all(getattr(a, "ndim", 0) == 3 for a in parts)
            cure = f"; of PyTorch's arrays it is tuple(zip({', '.join(names)}))" if stacked else ""
            raise ValueError(
                f"{say(self)}: {name} must be a tuple with a tuple {entry} for each layer and "
                f"direction, {count} in all, as initial_state(n) gives; got {_outline(state)}{cure}"
            )
        checked = []
        for k, entry in enumerate(state):
            arrays = []
            for j, a in enumerate(entry):
                a = arguments.array(self, f"{name}[{k}][{j}]", a, self.dtype)
                expected = (n, self.state_sizes[names[j]])
                if a.shape != expected:
                    raise ValueError(
                        f"{say(self)}: {name}[{k}][{j}], {names[j]}, has shape {a.shape}, "
                        f"expected {expected}: a row for each of the {n} sequences"
                    )
                arrays.append(np.ascontiguousarray(a))
            checked.append(tuple(arrays))
        return tuple(checked)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (N, T, out_features) for (N, T, I)."""
        arguments.features(self, shape, self.in_features, ndim=3)
        return (*shape[:-1], self.out_features)

    def flops(self, shape: Shape) -> int:
        """Return twice the elements of all matrices, and those of the biases, a step."""
        N, T, _ = self.output_shape(shape)
        return N * T * sum(a.ndim * a.size for a in self.params.values())


def _copied(state: Iterable[tuple[NDArray, ...]]) -> State:
    """Return a copy: without steps a state is returned as it came, and belongs to the caller."""
    return tuple(tuple(a.copy() for a in entry) for entry in state)


def _is_tuple(value: Any, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count


def _outline(state: Any) -> str:
    """Return the form of a state for an error: tuples, and types for what is in them."""
    if isinstance(state, tuple):
        return f"({', '.join(map(_outline, state))}{',' * (len(state) == 1)})"
    return type(state).__name__
