"""Layers made of layers: Sequential, Residual, Concat. They present the protocol of Layer."""

import contextlib
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NoReturn, TypeVar, overload

import numpy as np

from . import kernels
from .affine import Affine
from .arguments import array, cached, say, short
from .batchnorm import BatchNorm
from .initializers import RNG
from .layer import Arrays, ByName, Fused, Layer, NDArray, Shape, as_pair, in_step
from .parts import sums
from .parts.activations import Identity, ReLU

T = TypeVar("T")

_NEW: Final = Affine.backward, BatchNorm.backward
"""Methods that return a dx which nobody else holds: others may, or return dy itself."""


class _Used:
    """Stands for the cache of a layer whose gradients are there, and which was let go."""


class _Caches(list[Any]):
    """What the layers of a container keep for the way back, in their order.

    Attributes
    ----------
    shapes : list of tuple of int
        Those of the outputs of branches.
    once : bool
        Whether this way back is the last: what a layer kept is let go behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Shape] = []
        self.once = False

    @contextlib.contextmanager
    def used_up(self) -> Iterator[None]:
        """Let go, in the block, what layers kept and need no more."""
        self.once = True
        try:
            yield
        finally:
            self.once = False

    def back(self, i: int, layer: Callable[[NDArray, Any], T], dy: NDArray) -> T:
        """Return what the way back through layer i gives."""
        if isinstance(self[i], _Caches):
            self[i].once = self.once
        found = layer(dy, self[i])
        if self.once:
            self[i] = _Used
        return found


class Container(Layer):
    """What all containers share: named children, whose arrays and gradients they present."""

    _children: dict[str, Layer]
    _shortcuts = {
        "forward": (*Layer._shortcuts["forward"], "run", "run_backward", "step"),
        "backward": (*Layer._shortcuts["backward"], "run_backward"),
    }

    def children(self) -> dict[str, Layer]:
        """Return the layers inside this one, by name.

        Raises
        ------
        TypeError
            A layer is kept as or in an attribute that has other arrays than these.
        """
        self._check_kept(self._has_arrays_of)
        return self._children

    def _has_arrays_of(self, layer: Layer) -> bool:
        """Return whether the arrays of a layer are among those of the layers inside this one."""
        own = {id(a) for arrays in (self.params, self.buffers) for a in arrays.values()}
        return all(
            id(a) in own for arrays in (layer.params, layer.buffers) for a in arrays.values()
        )

    def _adopt(self, layers: Iterable[Any]) -> dict[str, Layer]:
        """Return the layers under the names "0", "1", ..., refusing what is no layer."""
        adopted = {}
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                hint = ""
                if isinstance(layer, (list, tuple)):
                    hint = (
                        f"; write {'Concat' if isinstance(self, Concat) else 'Sequential'}(*layers)"
                    )
                elif isinstance(layer, type) and issubclass(layer, Layer):
                    hint = f"; write {layer.__name__}(...)"
                raise TypeError(
                    f"{type(self).__name__}: argument {i} must be a Layer, got {layer!r}{hint}"
                )
            adopted[str(i)] = layer
        return adopted

    def _distinct(self, arrays: str) -> Arrays:
        first: dict[int, tuple[str, NDArray]] = {}
        for name, child in self._children.items():
            for key, a in getattr(child, arrays).items():
                first.setdefault(id(a), (f"{name}.{key}", a))
        return ByName(first.values())

    @property
    def params(self) -> Arrays:
        """The parameters of all layers by dotted name; a shared one under its first name."""
        return self._distinct("params")

    @params.setter
    def params(self, arrays: Any) -> NoReturn:
        self._refuse_arrays("params")

    @property
    def buffers(self) -> Arrays:
        """The buffers of all layers by dotted name; a shared one under its first name."""
        return self._distinct("buffers")

    @buffers.setter
    def buffers(self, arrays: Any) -> NoReturn:
        self._refuse_arrays("buffers")

    def _kept(self, cache: Any) -> _Caches:
        """Return the caches of the layers inside, which a way back needs."""
        caches: _Caches = cached(self, cache, len(self._children), _Caches)
        if any(c is _Used for c in caches):
            raise ValueError(
                f"{type(self).__name__}: cache was used up by gradients(dy, cache), which lets go "
                "what it needs no more; call backward(dy, cache), which does not, or forward anew"
            )
        return caches

    def _gather(self, grads: dict[str, Arrays]) -> Arrays:
        """Join the gradients of the children by name; those of a shared parameter add."""
        first: dict[int, str] = {}
        total: Arrays = {}
        for name, child in self._children.items():
            own, found = child.params, grads[name]
            for key, a in own.items():
                full = first.setdefault(id(a), f"{name}.{key}")
                if key in found:
                    g = found[key]
                    total[full] = total[full] + g if full in total else g
            for key in found:
                if key not in own:
                    raise ValueError(
                        f"{type(self).__name__}: layer {name}, {say(child)}: backward gave a "
                        f"gradient of {key!r}, which is none of its parameters "
                        f"({', '.join(own) or 'it has none'}); a layer made of layers "
                        "derives from Sequential, Residual or Concat"
                    )
        return total

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether every layer inside may `step`, and y is what they make of x."""
        return in_step(type(self)) and all(child.stepwise for child in self._children.values())

    def initial_state(self, n: int) -> Any:
        """Return the state before the first step of `n` sequences: a tuple, an entry a layer."""
        states = []
        for name, layer in self._children.items():
            with within(self, name):
                states.append(layer.initial_state(n))
        return tuple(states)

    def _states(self, state: Any, name: str) -> tuple[Any, ...]:
        count = len(self._children)
        if state is None:
            return (None,) * count
        if not isinstance(state, tuple) or len(state) != count:
            found = f"{len(state)} entries" if isinstance(state, tuple) else type(state).__name__
            raise ValueError(
                f"{type(self).__name__}: {name} must be a tuple of {count} entries, one a layer, "
                f"as initial_state(n) gives; got {found}"
            )
        return state

    def flops(self, shape: Shape) -> int:
        """Return the additions and multiplications of a forward pass over x of `shape`."""
        return sum(layer.flops(given) for _, layer, given in self.trace(shape) if layer is not self)

    def __repr__(self) -> str:
        lines = [
            f"{child!r}," if name.isdigit() else f"{name}={child!r},"
            for name, child in self._children.items()
        ]
        if not lines:
            return f"{type(self).__name__}()"
        inside = textwrap.indent("\n".join(lines), "  ")
        return f"{type(self).__name__}(\n{inside}\n)"


class within:  # noqa: N801
    """Let an error say in which layer of a container it arose."""

    __slots__ = ("name", "owner")

    def __init__(self, owner: Layer, name: str) -> None:
        self.owner, self.name = owner, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception):
            error.add_note(place(self.owner, self.name))


def place(owner: Layer, name: str) -> str:
    """Return what an error notes that arose in a layer of a container."""
    return f"in layer {name} of {type(owner).__name__}"


class Sequential(Container):
    """Layers one after the other: y = f_k(... f_1(f_0(x))).

    Parameters
    ----------
    *layers : Layer
        In order; their names are "0", "1", .... A layer that appears twice is one set of
        parameters, whose gradients add. No layers: y = x, by an `Identity`.
    rng : int, numpy.random.Generator or None
        Where given, all parameters are drawn anew, seeded by name, as `initialize(rng)` does.

    Raises
    ------
    TypeError
        An argument is no `Layer`.

    Examples
    --------
    >>> from lamina import Linear, ReLU
    >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2), rng=0)
    >>> sorted(model.params)
    ['0.bias', '0.weight', '2.bias', '2.weight']
    >>> x = np.ones((5, 4), np.float32)
    >>> y, cache = model.forward(x, training=True)
    >>> dx, grads = model.backward(np.ones_like(y), cache)
    >>> dx.shape, grads["2.weight"].shape
    ((5, 4), (8, 2))
    >>> len(model), model[0]
    (3, Linear(4, 8))
    """

    def __init__(self, *layers: Layer, rng: RNG = None) -> None:
        self._children = self._adopt(layers or [Identity()])
        if rng is not None:
            self.initialize(rng)

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._children.values())

    @overload
    def __getitem__(self, place: int) -> Layer: ...
    @overload
    def __getitem__(self, place: slice) -> "Sequential": ...
    def __getitem__(self, place: int | slice) -> Layer:
        """Return a layer, or a Sequential of several; they are the same layers, not copies."""
        try:
            found = list(self)[place]
        except (IndexError, TypeError) as error:
            raise type(error)(
                f"{type(self).__name__}: a layer has a number from {-len(self)} to "
                f"{len(self) - 1}, model[0] say, and a slice gives several; got {short(place)}; "
                "to take an array by its name, model.params[name]"
            ) from None
        return Sequential(*found) if isinstance(found, list) else found

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False, sample_ids: Any = None
    ) -> tuple[NDArray, Any]:
        """Return y and the cache of `backward`."""
        layers = [*self._children.items()]
        return self._through(layers, x, lengths, sample_ids, training)

    def _fuses(self, after: Layer) -> bool:
        """Return whether `_forward_fused` does the layer after this one, too: if the last does."""
        return type(self) is Sequential and self[-1]._fuses(after)

    def _forward_fused(
        self, x: NDArray, after: Layer, *, lengths: Any = None, sample_ids: Any = None
    ) -> tuple[NDArray, Any, Any]:
        """Return y of the layer after this one, in training, and the caches of both."""
        layers = [*self._children.items(), ("after", after)]
        y, caches = self._through(layers, x, lengths, sample_ids, True)
        last = caches.pop()
        return y, caches, last

    def _through(
        self,
        layers: list[tuple[str, Layer]],
        x: NDArray,
        lengths: Any,
        sample_ids: Any,
        training: bool,
    ) -> tuple[NDArray, _Caches]:
        """Return what layers make of x one after the other, and their caches."""
        caches = _Caches()
        for i, (name, layer) in enumerate(layers):
            with within(self, name):
                if i == len(caches):  # and not done with the layer before
                    options = layer._accepted(lengths, sample_ids)
                    if training and _fused_at(layers, i):
                        _, after = layers[i + 1]
                        options |= after._accepted(lengths, sample_ids)
                        x, *both = layer._forward_fused(x, after, **options)
                        caches += both
                    else:
                        found = layer.forward(x, **options, training=training)
                        x, cache = as_pair(layer, "forward", found)
                        caches.append(cache)
                lengths = lengths_after(layer, lengths)
        return x, caches

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx and the gradients of all parameters, by dotted name."""
        return self._back(dy, self._kept(cache), -1)

    def gradients(self, dy: NDArray, cache: Any) -> Arrays:
        """Return the gradients of all parameters, by dotted name, without dx.

        The cache is used up: what a layer kept is let go as soon as its gradients are there, so
        that a step of training needs less memory. `backward` leaves it as it is.
        """
        first = next((i for i, layer in enumerate(self) if layer.params), len(self))
        caches = self._kept(cache)
        with caches.used_up():
            return self._back(dy, caches, first)[1]

    def _back(self, dy: NDArray, caches: _Caches, last: int) -> tuple[NDArray, Arrays]:
        """Return what `backward` does; at the layer of place `last`, if any, it ends without dx."""
        grads: dict[str, Arrays] = {name: {} for name in self._children}
        for i, (name, layer) in reversed(list(enumerate(self._children.items()))):
            if i < last:
                break
            if caches[i] is Fused:
                continue
            with within(self, name):
                if i == last:
                    grads[name] = caches.back(i, layer.gradients, dy)
                else:
                    found = caches.back(i, layer.backward, dy)
                    dy, grads[name] = as_pair(layer, "backward", found)
        return dy, self._gather(grads)

    def _infer(  # type: ignore[override]
        self, x: NDArray, *, lengths: Any = None, sample_ids: Any = None
    ) -> NDArray:
        """Return y, layer by layer, so that nothing is kept."""
        for name, layer in self._children.items():
            with within(self, name):
                x = layer(x, **layer._accepted(lengths, sample_ids))
                lengths = lengths_after(layer, lengths)
        return x

    def run(
        self,
        x: NDArray,
        state: Any = None,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
    ) -> tuple[NDArray, Any, Any]:
        """Return y, the state after the last step, and the cache of `run_backward`."""
        states = self._states(state, "state")
        after, caches = [], _Caches()
        for (name, layer), before in zip(self._children.items(), states, strict=True):
            with within(self, name):
                options = layer._accepted(lengths, sample_ids)
                x, s, c = layer.run(x, before, **options, training=training)
                lengths = lengths_after(layer, lengths)
            after.append(s)
            caches.append(c)
        return x, tuple(after), caches

    def run_backward(self, dy: NDArray, dstate: Any, cache: Any) -> tuple[NDArray, Any, Arrays]:
        """Return dx, the gradient of the state before the first step, and those of parameters.

        `dstate` is the gradient of the state after the last step; None stands for zero.
        """
        dstates, caches = self._states(dstate, "dstate"), self._kept(cache)
        before: list[Any] = []
        grads: dict[str, Arrays] = {name: {} for name in self._children}
        for (name, layer), d, c in reversed(
            list(zip(self._children.items(), dstates, caches, strict=True))
        ):
            d0: Any = ()
            if c is not Fused:  # as `forward` may leave it
                with within(self, name):
                    dy, d0, grads[name] = layer.run_backward(dy, d, c)
            before.append(d0)
        return dy, tuple(reversed(before)), self._gather(grads)

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, Any]:
        """Return y at one step, at inference, and the next state; x_t has shape (N, features)."""
        after = []
        states = self._states(state, "state")
        for (name, layer), before in zip(self._children.items(), states, strict=True):
            with within(self, name):
                x_t, s = layer.step(x_t, before)
            after.append(s)
        return x_t, tuple(after)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of y for x of `shape`."""
        for name, layer in self._children.items():
            with within(self, name):
                shape = layer.output_shape(shape)
        return shape

    def output_lengths(self, lengths: NDArray) -> NDArray | None:
        """Return the lengths of y's sequences; None where y has no steps."""
        for layer in self._children.values():
            lengths = lengths_after(layer, lengths)
        return lengths

    def trace(self, shape: Shape, prefix: str = "") -> Iterator[tuple[str, Layer, Shape]]:
        """Follow a shape through: dotted names, layers and the shapes that they are given."""
        for name, layer in self._children.items():
            with within(self, name):
                after = layer.output_shape(shape)
            yield from layer.trace(shape, f"{prefix}.{name}" if prefix else name)
            shape = after


class _Parallel(Container):
    """Branches that are all given x, and whose outputs are joined."""

    @abstractmethod
    def _join(self, ys: list[NDArray]) -> NDArray:
        """Return y."""

    @abstractmethod
    def _split(self, dy: NDArray, shapes: list[Shape]) -> list[NDArray]:
        """Return the gradient of each branch's output, which has that shape."""

    @abstractmethod
    def _joined(self, shapes: list[Shape]) -> Shape:
        """Return the shape of y; raise a ValueError where the branches do not fit together."""

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False, sample_ids: Any = None
    ) -> tuple[NDArray, Any]:
        """Return y and the cache of `backward`."""
        ys, cache = self._branches(x, lengths, sample_ids, training)
        return self._join(ys), cache

    def _branches(
        self, x: NDArray, lengths: Any, sample_ids: Any, training: bool
    ) -> tuple[list[NDArray], _Caches]:
        """Return what the branches give, checked to fit together, and the cache of `backward`."""
        ys, caches = [], _Caches()
        for name, layer in self._children.items():
            with within(self, name):
                options = layer._accepted(lengths, sample_ids)
                found = layer.forward(x, **options, training=training)
                y, cache = as_pair(layer, "forward", found)
            ys.append(y)
            caches.append(cache)
            caches.shapes.append(y.shape)
        self._check(ys, lengths)
        return ys, caches

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, the sum over the branches, and the gradients of all parameters."""
        caches = self._kept(cache)
        dxs, grads = [], {}
        for i, (name, layer, d) in enumerate(self._ways_back(dy, caches)):
            with within(self, name):
                dx, grads[name] = as_pair(layer, "backward", caches.back(i, layer.backward, d))
            dxs.append((dx, _gives_new(layer)))
        return _sum(dxs), self._gather(grads)

    def gradients(self, dy: NDArray, cache: Any) -> Arrays:
        """Return the gradients of all parameters, by dotted name, without dx; use the cache up."""
        caches, grads = self._kept(cache), {}
        with caches.used_up():
            for i, (name, layer, d) in enumerate(self._ways_back(dy, caches)):
                with within(self, name):
                    grads[name] = caches.back(i, layer.gradients, d)
        return self._gather(grads)

    def _ways_back(self, dy: NDArray, caches: _Caches) -> Iterator[tuple[str, Layer, NDArray]]:
        """Go through the branches: their names, layers, and gradients of what they gave."""
        dys = self._split(dy, caches.shapes)
        for (name, layer), d in zip(self._children.items(), dys, strict=True):
            yield name, layer, d

    def _infer(  # type: ignore[override]
        self, x: NDArray, *, lengths: Any = None, sample_ids: Any = None
    ) -> NDArray:
        """Return y, branch by branch, so that nothing is kept."""
        ys = []
        for name, layer in self._children.items():
            with within(self, name):
                ys.append(layer(x, **layer._accepted(lengths, sample_ids)))
        return self._checked_join(ys, lengths)

    def run(
        self,
        x: NDArray,
        state: Any = None,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
    ) -> tuple[NDArray, Any, Any]:
        """Return y, the state after the last step, and the cache of `run_backward`."""
        states = self._states(state, "state")
        ys, after, caches = [], [], _Caches()
        for (name, layer), before in zip(self._children.items(), states, strict=True):
            with within(self, name):
                options = layer._accepted(lengths, sample_ids)
                y, s, c = layer.run(x, before, **options, training=training)
            ys.append(y)
            after.append(s)
            caches.append(c)
            caches.shapes.append(y.shape)
        return self._checked_join(ys, lengths), tuple(after), caches

    def run_backward(self, dy: NDArray, dstate: Any, cache: Any) -> tuple[NDArray, Any, Arrays]:
        """Return dx, the gradient of the state before the first step, and those of parameters."""
        caches, dstates = self._kept(cache), self._states(dstate, "dstate")
        dxs, before, grads = [], [], {}
        for (name, layer, d), ds, c in zip(
            self._ways_back(dy, caches), dstates, caches, strict=True
        ):
            with within(self, name):
                dx, d0, grads[name] = layer.run_backward(d, ds, c)
            dxs.append((dx, False))
            before.append(d0)
        return _sum(dxs), tuple(before), self._gather(grads)

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, Any]:
        """Return y at one step, at inference, and the next state; x_t has shape (N, features)."""
        ys, after = [], []
        states = self._states(state, "state")
        for (name, layer), before in zip(self._children.items(), states, strict=True):
            with within(self, name):
                y, s = layer.step(x_t, before)
            ys.append(y)
            after.append(s)
        return self._checked_join(ys, None), tuple(after)

    def _checked_join(self, ys: list[NDArray], lengths: Any) -> NDArray:
        self._check(ys, lengths)
        return self._join(ys)

    def _check(self, ys: list[NDArray], lengths: Any) -> None:
        self._joined([y.shape for y in ys])
        if lengths is not None:
            self.output_lengths(lengths)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of y for x of `shape`."""
        shapes = []
        for name, layer in self._children.items():
            with within(self, name):
                shapes.append(layer.output_shape(shape))
        return self._joined(shapes)

    def output_lengths(self, lengths: NDArray) -> NDArray | None:
        """Return the lengths of y's sequences, on which all branches must agree."""
        found: list[NDArray | None] = [
            lengths_after(layer, lengths) for layer in self._children.values()
        ]
        for other in found[1:]:
            if (other is None) != (found[0] is None) or not np.all(other == found[0]):
                raise ValueError(
                    f"{type(self).__name__}: its branches turn the lengths {lengths} into "
                    f"{found[0]} and {other}; give all the same strides and padding in time"
                )
        return found[0]

    def trace(self, shape: Shape, prefix: str = "") -> Iterator[tuple[str, Layer, Shape]]:
        """Follow a shape through: dotted names, layers and the shapes that they are given."""
        for name, layer in self._children.items():
            yield from layer.trace(shape, f"{prefix}.{name}" if prefix else name)


class Residual(_Parallel):
    """The sum of a body and a shortcut: y = body(x) + shortcut(x).

    Parameters
    ----------
    body : Layer
        Most often a `Sequential`. Its output must have the shape of the shortcut's.
    shortcut : Layer, optional
        The identity where left out; a 1x1 convolution where shapes change.

    Raises
    ------
    ValueError
        At a call: the shapes of the body's and the shortcut's outputs differ.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition* (2016), eq. 1-2.

    Examples
    --------
    >>> from lamina import Linear, ReLU, Sequential
    >>> block = Residual(Sequential(Linear(4, 4), ReLU(), rng=0))
    >>> x = np.ones((2, 4), np.float32)
    >>> bool(np.allclose(block(x), block.children()["body"](x) + x))
    True
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        shortcut = Identity() if shortcut is None else shortcut
        self._adopt([body, shortcut])
        self._children = {"body": body, "shortcut": shortcut}

    def _joined(self, shapes: list[Shape]) -> Shape:
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Residual: the body gives shape {shapes[0]} and the shortcut {shapes[1]}; "
                "give shortcut= a layer that maps x to the body's shape"
            )
        return shapes[0]

    def _join(self, ys: list[NDArray]) -> NDArray:
        return _add(*ys)

    def _split(self, dy: NDArray, shapes: list[Shape]) -> list[NDArray]:
        return [dy, dy]

    def _fuses(self, after: Layer) -> bool:
        """Return whether `_forward_fused` does the layer after this one, too: a ReLU."""
        return type(after) is ReLU and type(self) is Residual and kernels.used()

    def _forward_fused(
        self, x: NDArray, after: Any, *, lengths: Any = None, sample_ids: Any = None
    ) -> tuple[NDArray, Any, Any]:
        """Return what the ReLU after this layer makes of y, in training, and the caches of both."""
        ys, cache = self._branches(x, lengths, sample_ids, True)
        y = kernels.beside(sums.__name__).add_relu(*ys)
        return y, cache, after._fused_cache(y)


class Concat(_Parallel):
    """The outputs of several branches, side by side in the last axis.

    Parameters
    ----------
    *branches : Layer
        At least one. Their outputs agree in all axes but the last.

    Raises
    ------
    ValueError
        There is no branch; at a call: their outputs do not agree.

    Examples
    --------
    >>> from lamina import Linear
    >>> Concat(Linear(4, 3), Linear(4, 5)).output_shape((2, 4))
    (2, 8)
    """

    def __init__(self, *branches: Layer) -> None:
        if not branches:
            raise ValueError("Concat: needs at least one branch, got none")
        self._children = self._adopt(branches)

    def _joined(self, shapes: list[Shape]) -> Shape:
        if any(shape[:-1] != shapes[0][:-1] for shape in shapes):
            raise ValueError(
                f"Concat: the branches' outputs have shapes {', '.join(map(str, shapes))}; "
                "they must agree in all axes but the last"
            )
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def _join(self, ys: list[NDArray]) -> NDArray:
        return np.concatenate(ys, axis=-1)

    def _split(self, dy: NDArray, shapes: list[Shape]) -> list[NDArray]:
        dy = array(self, "dy", dy, None)
        joined = self._joined(shapes)
        if dy.shape != joined:
            raise ValueError(f"Concat: dy has shape {dy.shape}, expected {joined}, the shape of y")
        return np.split(dy, np.cumsum([shape[-1] for shape in shapes])[:-1], axis=-1)


def _fused_at(layers: list[tuple[str, Layer]], i: int) -> bool:
    """Return whether a layer is done with the one after it, if that is not with its next one."""
    count = len(layers)
    if i + 1 == count or not layers[i][1]._fuses(layers[i + 1][1]):
        return False
    return i + 2 == count or not layers[i + 1][1]._fuses(layers[i + 2][1])


def _gives_new(layer: Layer) -> bool:
    """Return whether nobody but the caller holds the dx that `backward` of a layer returns."""
    method = getattr(layer.backward, "__func__", None)
    if isinstance(layer, Sequential) and method is Sequential.backward:
        return _gives_new(next(iter(layer._children.values())))
    return method in _NEW


def _sum(dxs: list[tuple[Any, bool]]) -> Any:
    """Return the sum of the branches' dx; None, as of integers, where all are None.

    It takes the place of one that is new, as is told beside each.
    """
    total, is_new = None, False
    for dx, new in dxs:
        if total is None:
            total, is_new = dx, new
        elif dx is not None:
            into = total if is_new else dx if new else None
            total, is_new = _add(total, dx, into), True
    return total


def _add(a: NDArray, b: NDArray, into: NDArray | None = None) -> NDArray:
    """Return a + b; `into` is that one of them whose place it may take."""
    total: NDArray = kernels.beside(sums.__name__).add(a, b, into)
    return total


def lengths_after(layer: Layer, lengths: Any) -> Any:
    """Return the lengths of a layer's output; None where it has no steps, or x has none."""
    return None if lengths is None else layer.output_lengths(np.asarray(lengths))
