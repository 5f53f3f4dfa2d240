"""Models for inference, in which layers that stand side by side are fused.

At inference a BatchNorm is y = a x + c, channel by channel (batchnorm/formula.py, (14)). After a
product or a convolution, written x W + b, it goes into its weights:

    a (x W + b) + c = x (a W) + (a b + c)                                                       (1)

A ReLU is done where the sums of the product are still in registers. Layers that do nothing at
inference are left out.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Self, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from . import kernels
from .affine import Affine
from .arguments import FLOATS, say
from .batchnorm import BatchNorm
from .batchnorm.formula import affine
from .containers import Concat, Residual, Sequential, lengths_after, place, within
from .convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from .dropout import Dropout
from .engine import denormals, threads
from .engine.memory import placed
from .gru import GRU
from .initializers import RNG
from .layer import Arrays, Fixed, Layer, NDArray, Shape
from .linear import Linear
from .lstm import LSTM
from .parts import (
    GELU,
    SELU,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Identity,
    LeakyReLU,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    activations,
)
from .recurrence import Recurrent
from .rnn import RNN

if TYPE_CHECKING:
    from .engine.program import Plan, Program

Memo: TypeAlias = dict[tuple[int, ...], Fixed]
"""How layers compute, by the ids of the layers that it stands for."""

PROGRAMS: Final = 8
"""For how many shapes of x a model keeps its program, with the memory that it works in."""
CACHED: Final = 3 * 2**19
"""Bytes between x and y that stay in caches; a batch that needs more goes by microbatches."""
AFFINE: Final = (
    *(Linear, Conv1d, Conv2d, Conv3d),
    *(ConvTranspose1d, ConvTranspose2d, ConvTranspose3d),
)
"""The layers that take in what stands after them."""
KNOWN: Final = (
    *(BatchNorm, RNN, LSTM, GRU, Flatten, ReLU, LeakyReLU, Sigmoid, Tanh, GELU, SELU, Softmax),
    *(MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d),
    *(GlobalMaxPool, GlobalAvgPool),
)
"""Other layers that know how they compute in an inference model."""
_RELU: Final = ReLU()


class Inference(Layer):
    """A model as it was when this was made, for calls and steps alone: `Layer.for_inference`.

    It is called with the options of the model, and has its shapes, its states and its parameters;
    these are read-only copies. Any number of threads may call it at once. In a block of `formulas`
    it computes as the model would there. Copies and pickles are made from the parameters.

    Attributes
    ----------
    params, buffers : dict of str to array
        Those of the model, by the same names. A `Dropout` with ``always=True`` goes on to count its
        calls; nothing else changes.

    Raises
    ------
    TypeError
        What would change it, or train it, is asked for.
    """

    _model: Layer
    _run: Fixed
    _plain: Callable[[NDArray], NDArray]

    def __init__(self, model: Layer) -> None:
        model = _frozen(model)
        run = _fixed(model, {}) if kernels.present() else Fixed(model, model.step)
        vars(self).update(_config={}, _model=model, _run=run, _plain=_plain(model, run))

    def __call__(self, x: NDArray, **options: Any) -> NDArray:
        """Return y; the options are those of a call of the model, as ``lengths=``."""
        if not options and not kernels.by_formulas():
            return self._plain(x)
        if "training" in options:
            self._refuse("a pass to differentiate")
        if options.get("trace") and isinstance(self._model, Recurrent):
            self._refuse("a trace of what goes on inside")
        if kernels.by_formulas():
            return self._model(x, **options)
        self._model._refuse_unknown(options)
        return self._run.call(x, **options)

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, Any]:
        """Return y at one step and the next state, where the model can."""
        if kernels.by_formulas():
            return self._model.step(x_t, state)
        return self._run.step(x_t, state)

    def initial_state(self, n: int) -> Any:
        """Return the state before the first step of `n` sequences: that of the model."""
        return self._model.initial_state(n)

    def forward(
        self, x: NDArray, *, training: bool = False, **options: Any
    ) -> tuple[NDArray, None]:
        """Return y and, for a cache, None: there is no way back."""
        if training:
            self._refuse("a pass to differentiate")
        return self(x, **options), None

    # What it does not do

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(
            f"{say(self)}: is for calls and steps, not for {what}; do that to the model that it "
            "was made from, and call its for_inference() again"
        )

    def backward(self, dy: NDArray, cache: Any) -> NoReturn:
        """Refuse: an inference model has no gradients."""
        self._refuse("gradients")

    def run(
        self, x: NDArray, state: Any = None, *, lengths: Any = None, **options: Any
    ) -> NoReturn:
        """Refuse: windows of a sequence are for the model."""
        self._refuse("windows of a sequence")

    def run_backward(self, dy: NDArray, dstate: Any, cache: Any) -> NoReturn:
        """Refuse: an inference model has no gradients."""
        self._refuse("gradients")

    def initialize(self, rng: RNG = None) -> NoReturn:
        """Refuse: its parameters stay."""
        self._refuse("new parameters")

    def assign(self, arrays: Any) -> NoReturn:
        """Refuse: its parameters stay."""
        self._refuse("new parameters")

    def config(self) -> NoReturn:
        """Refuse: an inference model is not saved; the model that it was made from is."""
        self._refuse("saving")

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse(f"assignment to {name}")

    # What it has of the model

    @property  # type: ignore[misc]
    def params(self) -> Arrays:
        """The parameters of the model, by name, read-only."""
        return self._model.params

    @property  # type: ignore[misc]
    def buffers(self) -> Arrays:
        """The buffers of the model, by name, read-only."""
        return self._model.buffers

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The dtype of the parameters; None for a model without."""
        return self._model.dtype

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the model may `step`."""
        return self._model.stepwise

    def children(self) -> dict[str, Layer]:
        """Return none: the layers of the model stay what they are."""
        return {}

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of y for x of `shape`."""
        return self._model.output_shape(shape)

    def output_lengths(self, lengths: NDArray) -> NDArray | None:
        """Return the lengths of y's sequences; None where y has no steps."""
        return self._model.output_lengths(lengths)

    def flops(self, shape: Shape) -> int:
        """Return the additions and multiplications of the model's forward pass."""
        return self._model.flops(shape)

    def trace(self, shape: Shape, prefix: str = "") -> Iterator[tuple[str, Layer, Shape]]:
        """Follow a shape through the model."""
        return self._model.trace(shape, prefix)

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Return a copy that computes in float32 or float64."""
        return type(self)(self._model.astype(dtype))

    def for_inference(self) -> Self:
        """Return this: it is for inference."""
        return self

    def _accepted(self, lengths: Any, sample_ids: Any) -> dict[str, Any]:
        return self._model._accepted(lengths, sample_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model,)

    def __repr__(self) -> str:
        return f"{self._model!r}.for_inference()"


def _frozen(model: Layer) -> Layer:
    """Return a copy whose arrays are read-only, but for Dropout's count of calls."""
    params = {id(a): a for _, layer in model.walk() for a in layer.params.values()}
    floats = {key: placed(a, a.dtype) for key, a in params.items() if a.dtype.kind == "f"}
    model = copy.deepcopy(model, floats)
    for _, layer in model.walk():
        for arrays in (layer._params, layer._buffers):
            for name, a in arrays.items():
                a.flags.writeable = isinstance(layer, Dropout) and name == "calls"
    return model


# Which layers are known


def _is(layer: Layer, kinds: tuple[type[Layer], ...]) -> bool:
    """Return whether a layer is of one of these kinds.

    A subclass is, unless it changes a method; it may have a constructor and more methods.
    """
    classes = type(layer).__mro__
    for kind in kinds:
        if kind in classes:
            own = {name for cls in classes[: classes.index(kind)] for name in vars(cls)}
            own -= {"_abc_impl"}  # every class's
            return not any(hasattr(kind, n) for n in own if n == "__call__" or n[:2] != "__")
    return False


def _is_affine(layer: Layer) -> TypeGuard[Affine]:
    return _is(layer, AFFINE)


def _is_sequential(layer: Layer) -> TypeGuard[Sequential]:
    return _is(layer, (Sequential,))


def _does_nothing(layer: Layer) -> bool:
    """Return whether y = x at inference."""
    if isinstance(layer, Dropout) and _is(layer, (Dropout,)):
        return not layer.always and (layer.mode != "classic" or layer.rate == 0)
    return _is(layer, (Identity,))


def _folds(layer: Layer, before: Affine) -> TypeGuard[BatchNorm]:
    """Return whether (1) holds: of a BatchNorm with given statistics, whose x is that y."""
    return (
        isinstance(layer, BatchNorm)
        and _is(layer, (BatchNorm,))
        and layer.running
        and (layer.features, layer.dtype) == (before._features, before.dtype)
    )


def _folded(layer: Affine, norm: BatchNorm) -> Affine:
    """Return a layer that gives what `norm` makes of y."""
    norm._check_arrays(norm.dtype)
    statistics = norm.running_mean, norm.running_var.astype(np.float64)
    scale, shift = affine(*statistics, norm.gamma, norm.beta, norm.eps)
    weight, bias = layer._arrays()
    other = copy.copy(layer)
    other._factors = scale if layer._factors is None else layer._factors * scale
    other.params = {
        "weight": weight,
        "bias": (shift if bias is None else bias * scale + shift).astype(weight.dtype),  # (1)
    }
    return other


# Models as they are run


def _plain(model: Layer, run: Fixed) -> Callable[[NDArray], NDArray]:
    """Return how a model computes without options."""
    if not kernels.present():
        return run.call
    segments = [_Segment([_Part(run, (model,), 0, (), True)])]
    if isinstance(run.call, _Chain):
        segments = run.call.segments
    return segments[0] if len(segments) == 1 else run.call


def _fixed(layer: Layer, memo: Memo, relu: bool = False) -> Fixed:
    """Return how a layer, which will not change, computes, with a ReLU on top where it may be."""
    if _is_affine(layer):
        return layer._fixed(relu)
    if _is_sequential(layer):
        chain = _Chain(layer, memo)
        return Fixed(chain, chain.step, chain.plan)
    if _is(layer, (Residual, Concat)):
        branches = _Branches(layer, memo, relu)
        return Fixed(branches, branches.step, branches.plan)
    if _does_nothing(layer):
        return Fixed(layer, layer.step, lambda plan, x: x)
    return layer._fixed() if _is(layer, KNOWN) else Fixed(layer, layer.step)


class _Leaf(NamedTuple):
    """A layer in a Sequential or in those inside it, and what an error of it notes."""

    layer: Layer
    notes: tuple[str, ...]


class _Part(NamedTuple):
    """Layers that are one.

    Attributes
    ----------
    run : Fixed
    layers : tuple of Layer
    first : int
        Where the first of them stands among the leaves.
    notes : tuple of str
        What an error notes.
    needed : bool
        Whether it does or checks anything where there are no lengths.
    """

    run: Fixed
    layers: tuple[Layer, ...]
    first: int
    notes: tuple[str, ...]
    needed: bool


def flat(model: Sequential, notes: tuple[str, ...] = ()) -> Iterator[_Leaf]:
    """Go through the layers of a Sequential and of those inside it."""
    for name, layer in model.children().items():
        inner = (place(model, name), *notes)
        if _is_sequential(layer):
            yield from flat(layer, inner)
        else:
            yield _Leaf(layer, inner)


def _parts(leaves: list[_Leaf], memo: Memo) -> Iterator[_Part]:
    """Fuse leaves that stand side by side."""
    first = 0
    while first < len(leaves):
        layer, notes = leaves[first]
        stop, relu = first + 1, False
        fuses = _is(layer, (*AFFINE, Residual))
        for after, _ in leaves[stop:] if fuses else ():
            if not relu and _is_affine(layer) and _folds(after, layer):
                layer = _folded(layer, after)
            elif not relu and _is(after, (ReLU,)):
                relu = True
            elif not _does_nothing(after):
                break
            stop += 1
        fused = tuple(leaf.layer for leaf in leaves[first:stop])
        key = tuple(map(id, fused))
        if key not in memo:
            memo[key] = _fixed(layer, memo, relu)
        # The first layer sees what no other has checked.
        needed = first == 0 or not _does_nothing(layer)
        yield _Part(memo[key], fused, first, notes, needed)
        first = stop


class _Segment:
    """Parts one after the other: a program for each shape of x, where all of them can be planned.

    Where one cannot, and for an x that does not fit, they are called.
    """

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts
        self.program = functools.lru_cache(PROGRAMS)(functools.partial(_program, parts))

    def __call__(self, x: NDArray) -> NDArray:
        """Return y."""
        if type(x) is np.ndarray:
            program = self.program(x.shape, x.dtype, threads.chosen(), denormals.flushing())
            if program is not None:
                return program(x)
        try:
            for part in self.parts:
                x = part.run.call(x)
        except Exception as error:
            _add(error, part.notes)
            raise
        return x


def _plan_parts(parts: list[_Part], plan: "Plan", x: int) -> int:
    """Plan parts one after the other, all of which can be; return the number of y."""
    for part in parts:
        if part.run.plan is not None:
            try:
                x = part.run.plan(plan, x)
            except Exception as error:
                _add(error, part.notes)
                raise
    return x


def _program(
    parts: list[_Part], shape: Shape, dtype: np.dtype[Any], *_: int | None
) -> Callable[[NDArray], NDArray] | None:
    """Return a program for x of that shape and dtype; None where calls must do.

    The others, the threads asked for and whether denormal numbers count as zero, tell programs
    apart: what is planned looks them up itself. An error of x's shape is that of the call.
    """
    if 0 in shape or dtype not in FLOATS or any(part.run.plan is None for part in parts):
        return None
    from .engine.program import PlanError  # not before it is known that there are kernels

    # The samples of a batch share each step of a recurrent layer, and the weights of vectors.
    layers = [layer for part in parts for own in part.layers for _, layer in own.walk()]
    together = len(shape) < 3 or any(isinstance(layer, Recurrent) for layer in layers)
    try:
        return _whole(parts, shape, dtype) if together else _by_microbatches(parts, shape, dtype)
    except PlanError:
        return None


def _whole(parts: list[_Part], shape: Shape, dtype: np.dtype[Any]) -> "Program":
    """Return the program of all samples at once."""
    from .engine.program import Plan, Program  # not before it is known that there are kernels

    plan = Plan(shape, dtype)
    return Program(plan, _plan_parts(parts, plan, 0))


def _by_microbatches(
    parts: list[_Part], shape: Shape, dtype: np.dtype[Any]
) -> Callable[[NDArray], NDArray]:
    """Return a program that takes, as long as samples are no vectors, some of them at a time.

    Weights of vectors are many for what is done with them: there the whole batch shares them.
    """
    from .engine.program import Microbatches, Plan

    plan, x, head = Plan(shape, dtype), 0, 0
    while head < len(parts) and len(plan.shapes[x]) > 2:
        x = _plan_parts(parts[head : head + 1], plan, x)
        head += 1
    n, between = shape[0], _whole(parts[:head], shape, dtype).size
    batches = min(n, -(-between // CACHED))
    if batches < 2:
        return _whole(parts, shape, dtype)
    unit = threads.count()  # all threads have as many samples then
    unit = unit if n >= unit * batches else 1
    units = -(-n // unit)
    ends = [min(n, units * i // batches * unit) for i in range(batches + 1)]
    counts = [end - first for first, end in itertools.pairwise(ends)]
    programs = {c: _whole(parts[:head], (c, *shape[1:]), dtype) for c in set(counts)}
    return Microbatches([programs[c] for c in counts], _whole(parts[head:], plan.shapes[x], dtype))


class _Chain:
    """A Sequential, with those inside it, as parts one after the other."""

    def __init__(self, model: Sequential, memo: Memo) -> None:
        self.parts = list(_parts(list(flat(model)), memo))
        self.needed = [part for part in self.parts if part.needed]
        planned = all(part.run.plan is not None for part in self.needed)
        self.plan = functools.partial(_plan_parts, self.needed) if planned else None
        by_plan = itertools.groupby(self.needed, lambda part: part.run.plan is not None)
        self.segments = [_Segment(list(parts)) for _, parts in by_plan]
        self.outline = _Outline(model)

    def __call__(self, x: NDArray, *, lengths: Any = None, sample_ids: Any = None) -> NDArray:
        if lengths is None and sample_ids is None:
            for segment in self.segments:
                x = segment(x)
            return x
        try:  # even what does nothing else clears the padding
            for part in self.parts:
                x = part.run.call(x, **part.layers[0]._accepted(lengths, sample_ids))
                for layer in part.layers:
                    lengths = lengths_after(layer, lengths)
        except Exception as error:
            _add(error, part.notes)
            raise
        return x

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, Any]:
        states = self.outline.spread(state)
        after: list[Any] = [()] * len(states)
        try:
            for part in self.needed:
                x_t, after[part.first] = part.run.step(x_t, states[part.first])
        except Exception as error:
            _add(error, part.notes)
            raise
        return x_t, self.outline.gather(iter(after))


class _Outline:
    """How Sequentials stand in a Sequential, which is how the states of leaves are nested."""

    def __init__(self, model: Sequential) -> None:
        self.model = model
        self.inside = [_Outline(layer) if _is_sequential(layer) else None for layer in model]

    def spread(self, state: Any) -> list[Any]:
        """Return the states of the leaves."""
        states: list[Any] = []
        for inner, given in zip(self.inside, self.model._states(state, "state"), strict=True):
            states += [given] if inner is None else inner.spread(given)
        return states

    def gather(self, states: Iterator[Any]) -> tuple[Any, ...]:
        """Return the state that `spread` would spread to these."""
        return tuple(
            next(states) if inner is None else inner.gather(states) for inner in self.inside
        )


class _Branches:
    """A Residual or Concat, with a ReLU on top if asked for."""

    def __init__(self, model: Any, memo: Memo, relu: bool) -> None:
        self.model, self.relu = model, relu
        self.branches = [
            (name, layer, _fixed(layer, memo)) for name, layer in model.children().items()
        ]
        planned = all(run.plan is not None for *_, run in self.branches)
        self.plan = self._plan if planned else None

    def __call__(self, x: NDArray, *, lengths: Any = None, sample_ids: Any = None) -> NDArray:
        ys = []
        for name, layer, run in self.branches:
            with within(self.model, name):
                ys.append(run.call(x, **layer._accepted(lengths, sample_ids)))
        return self._joined(ys, lengths)

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, Any]:
        ys, after = [], []
        states = self.model._states(state, "state")
        for (name, _, run), before in zip(self.branches, states, strict=True):
            with within(self.model, name):
                y, s = run.step(x_t, before)
            ys.append(y)
            after.append(s)
        return self._joined(ys, None), tuple(after)

    def _joined(self, ys: list[NDArray], lengths: Any) -> NDArray:
        y: NDArray = self.model._checked_join(ys, lengths)
        return _RELU(y) if self.relu else y

    def _plan(self, plan: "Plan", x: int) -> int:
        ys = []
        for name, _, run in self.branches:
            if run.plan is not None:
                with within(self.model, name):
                    ys.append(run.plan(plan, x))
        shape = self.model._joined([plan.shapes[y] for y in ys])
        if isinstance(self.model, Concat):
            return plan.add(shape, _concatenate, *ys)
        return int(kernels.beside(activations.__name__).Planner(plan).sum(*ys, self.relu))


def _concatenate(*arrays: NDArray) -> None:
    """Write the first arrays side by side into the last."""
    np.concatenate(arrays[:-1], axis=-1, out=arrays[-1])


def _add(error: Exception, notes: tuple[str, ...]) -> None:
    for note in notes:
        error.add_note(note)
