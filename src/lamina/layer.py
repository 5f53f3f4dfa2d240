"""The abstract Layer: what a layer promises, and the defaults it may rely on."""

import copy
import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, NoReturn, Self

import numpy as np
import numpy.typing as npt

from .arguments import Constructor, as_array, bind, float_dtype, say, short, sizes
from .calls import Calls, Live
from .engine.memory import placed
from .initializers import RNG, Blank, generator
from .summary import page, table

if TYPE_CHECKING:
    from .engine.program import Plan
    from .fusion import Inference

NDArray = npt.NDArray[Any]
Arrays = dict[str, NDArray]
Shape = tuple[int, ...]
Check = Callable[[Any, Any], Any]

SETTLED: Final[Mapping[str, Check]] = MappingProxyType({})
"""No argument may be set later: `Layer.settable` of most layers."""


class Named(dict[str, NDArray]):
    """The arrays of a layer by name; what is no array is refused."""

    def __setitem__(self, name: str, array: NDArray) -> None:
        if isinstance(array, np.generic):
            array = np.array(array)  # NumPy makes a scalar of the sum of two arrays without axes
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{name} must be a NumPy array, got {array!r}; to change the values of one that "
                f"is there, write into it, params[{name!r}][...] = values"
            )
        super().__setitem__(name, array)

    def __missing__(self, name: Any) -> NoReturn:
        raise KeyError(f"no array is named {name!r}; there are {', '.join(self) or 'none'}")

    def update(self, *arrays: Any, **named: Any) -> None:
        """Put each by assignment, which may refuse it."""
        for name, array in dict(*arrays, **named).items():
            self[name] = array

    def __ior__(self, arrays: Any) -> Self:  # type: ignore[override,misc]
        self.update(arrays)
        return self


class ByName(Named):
    """The arrays of several layers by dotted name: to read, and to write into the arrays."""

    def __setitem__(self, name: str, array: NDArray) -> None:
        if array is self.get(name):
            return  # params[name] -= step has been written into it
        raise TypeError(
            f"an array put here would reach no layer; write into the one that is there, "
            f"params[{name!r}][...] = array, or let the model check it: "
            f"model.assign({{{name!r}: array}})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy or a pickle stands for itself


class Parameter:
    """An attribute that stands for ``layer.params[name]`` or ``layer.buffers[name]``.

    It reads None where the layer was built without it (``bias=False``). Assigning checks shape
    and dtype and writes into the array that is there.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: "Layer | None", owner: type) -> Any:
        if layer is None:
            return self
        array = layer.params.get(self.name)
        return layer.buffers.get(self.name) if array is None else array

    def __set__(self, layer: "Layer", value: Any) -> None:
        layer.assign({self.name: value})


class Fused:
    """Stands for the cache of a layer whose gradient the other one gives with its own."""


class Fixed(NamedTuple):
    """How a layer computes in an inference model: as it is called, and as it steps.

    `plan(plan, number)` plans y, where the layer can: given an x of a shape that it takes, the
    array of that number, it notes its steps and returns the number of y.
    """

    call: Callable[..., NDArray]
    step: Callable[[NDArray, Any], tuple[NDArray, Any]]
    plan: Callable[["Plan", int], int] | None = None


class Layer(ABC):
    """A function of an array, with parameters, and its gradient.

    A layer of your own needs `forward` and `backward`; everything else has a default. One that is
    made of layers derives from `Sequential`, `Residual` or `Concat` and hands them to its
    ``super().__init__``.

    Attributes
    ----------
    params : dict of str to array
        What training changes, by name.
    buffers : dict of str to array
        State that is saved with the layer but has no gradient.
    dtype : numpy.dtype or None
        The dtype of the parameters; None for a layer without.

    Examples
    --------
    >>> class Scale(Layer):
    ...     def __init__(self, features):
    ...         self.params["scale"] = np.ones(features, np.float32)
    ...
    ...     def forward(self, x, *, training=False):
    ...         return x * self.params["scale"], x
    ...
    ...     def backward(self, dy, cache):
    ...         dscale = (dy * cache).sum(axis=tuple(range(dy.ndim - 1)))
    ...         return dy * self.params["scale"], {"scale": dscale}
    >>> layer = Scale(3)
    >>> layer
    Scale(3)
    >>> y, cache = layer.forward(np.ones((2, 3), np.float32))
    >>> dx, grads = layer.backward(y, cache)
    >>> grads["scale"]
    array([2., 2., 2.], dtype=float32)
    """

    stepwise: ClassVar[bool] = False
    """Whether y at a step depends on x at that step alone, so that the layer may `step`."""
    settable: ClassVar[Mapping[str, Check] | None] = None
    """The arguments of the constructor that may be set later, as attributes, each with a function
    of the layer and a value that returns the value or refuses it; None for all, unchecked."""

    derived: ClassVar[frozenset[str]] = frozenset()
    """The attributes that the constructor works out from its arguments, and that stay."""

    _shortcuts: ClassVar[dict[str, tuple[str, ...]]] = {
        "forward": ("_infer", "_live"),
        "backward": ("gradients",),
    }
    """By a method, those that do the same as it does in the class that has them, but sooner."""

    _plan: Callable[["Plan", int], int] | None = None
    """The `plan` of `Fixed` where a layer without parameters has one: its method."""

    __signature__ = Constructor()
    _params: Arrays
    _buffers: Arrays
    _config: dict[str, Any]
    _dtype: type[np.generic] | None = None
    """What a layer with parameters was built for, by itself or by a subclass: no np.dtype, of which
    copies are others."""
    _calls: Calls | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a class that overrides a pass be called, and trained, by its own.

        It may have them from a class beside the layer, too.
        """
        super().__init_subclass__(**kwargs)
        for method, others in cls._shortcuts.items():
            for name in others:
                if depth(cls, method) < depth(cls, name):
                    setattr(cls, name, getattr(Layer, name))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments, which are the layer's `config`; a subclass need not call up."""
        self = super().__new__(cls)
        object.__setattr__(self, "_params", Named())
        object.__setattr__(self, "_buffers", Named())
        try:
            bound = bind(cls, args, kwargs)
        except TypeError:
            if args or kwargs:
                raise
            config = {}  # pickle calls without arguments; else __init__ will say it
        else:
            bound.apply_defaults()
            config = dict(bound.arguments)
            config.pop("rng", None)
        object.__setattr__(self, "_config", config)
        planned = cls._live is not Layer._live
        object.__setattr__(self, "_calls", Calls() if planned else None)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and forget the calls that were planned with another value.

        One that the constructor set from an argument of that name becomes part of `config`, if it
        is `settable`.
        """
        if name in self.derived and name in vars(self):
            raise AttributeError(
                f"{say(self)}: {name} follows from what the layer was built with; build another"
            )
        if name in self._config and name in vars(self):
            if self.settable is not None:
                if name not in self.settable:
                    raise AttributeError(
                        f"{say(self)}: {name} is settled when the layer is built; build another, "
                        f"{type(self).__name__}(..., {name}={value!r})"
                    )
                value = self.settable[name](self, value)
            self._config[name] = value
        super().__setattr__(name, value)
        if self._calls is not None:
            self._calls.known.clear()

    def __copy__(self) -> Self:
        """Return a copy that has the same arrays and layers inside, and options of its own."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        for name in ("_params", "_buffers", "_config", "_calls"):
            vars(other)[name] = copy.copy(vars(self)[name])
        return other

    def __init__(self) -> None:  # noqa: B027
        """Build the layer; the class says from what."""

    # What a layer computes

    @abstractmethod
    def forward(self, x: NDArray, *, training: bool = False) -> tuple[NDArray, Any]:
        """Return y and the cache that `backward` needs.

        The cache may hold x and y themselves: write into neither before `backward`.

        A layer that sequences pass through takes ``lengths=`` as well, one whose output depends
        on the identity of samples ``sample_ids=``; containers hand both on to those that do.
        """

    @abstractmethod
    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx and the gradients of the parameters, by name."""

    def gradients(self, dy: NDArray, cache: Any) -> Arrays:
        """Return the gradients of the parameters, as `backward` does, and spare the work of dx.

        It is what a step of training needs: in a model the first layer with parameters is the last
        that backward has to reach.
        """
        grads: Arrays
        _, grads = as_pair(self, "backward", self.backward(dy, cache))
        return grads

    def __call__(self, x: NDArray, **options: Any) -> NDArray:
        """Return y, at inference: nothing is kept, and any number of threads may call."""
        if self._calls is not None and not options and type(x) is np.ndarray:
            program = self._calls.program(x, self)
            if program is not None:
                y: NDArray = program(x)
                return y
        if "training" in options:
            raise TypeError(
                f"{say(self)}: a call is inference; a pass to differentiate is "
                "y, cache = layer.forward(x, training=True)"
            )
        if options:
            self._refuse_unknown(options)
        return self._infer(x, **options)

    def _refuse_unknown(self, options: Iterable[str]) -> None:
        """Refuse options of a call that `forward` does not take."""
        for name in options:
            if not _takes(type(self).forward, name):
                cure = "; run takes x and a state, and returns y, the new state and a cache"
                raise TypeError(
                    f"{say(self)}: takes no {name}=, since its forward takes none"
                    f"{cure if name == 'state' else ''}"
                )

    def for_inference(self) -> "Inference":
        """Return this layer, or model, as it is now, for calls and steps alone, where it is faster.

        Its weights are packed once, but for transposed convolutions in groups, which read them as
        they are. A `BatchNorm` after a convolution or a `Linear` goes into their
        weights, a `ReLU` into their kernel, and what does nothing at inference, as `Dropout`, is
        left out. y agrees with this layer's to rounding. Arrays are read-only copies: to train on
        changes nothing here.

        Examples
        --------
        >>> from lamina import BatchNorm, Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), BatchNorm(8), ReLU(), rng=0)
        >>> fixed, x = model.for_inference(), np.ones((2, 4), np.float32)
        >>> bool(np.allclose(fixed(x), model(x), atol=1e-6))
        True
        """
        from .fusion import Inference  # which knows the layers, as they know this class

        return Inference(self)

    def _infer(self, x: NDArray, **options: Any) -> NDArray:
        """Return y of a call that was not planned."""
        y: NDArray
        y, _ = as_pair(self, "forward", self.forward(x, **options))
        return y

    # Two layers that a Sequential fuses in training: the bits are those of one by one, where -0
    # counts as 0

    def _fuses(self, after: "Layer") -> bool:
        """Return whether `_forward_fused` does the layer that comes after this one, too."""
        return False

    def _forward_fused(
        self, x: NDArray, after: "Layer", *, lengths: Any = None
    ) -> tuple[NDArray, Any, Any]:
        """Return y of the layer after this one, and the caches of both; one may be `Fused`.

        The options are those that either of the two takes.
        """
        raise NotImplementedError

    @property
    def _is_own(self) -> bool:
        """Whether this is a class of Lamina's: another may compute something else."""
        return type(self).__module__.startswith(f"{__package__}.")

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a call with the arrays that the layer has, whose values may change.

        Options are those that the layer itself asks for; without, it is for inference. None says
        that it cannot be planned, or is not worth it: the default.
        """
        return None

    def _planned(
        self, x: NDArray, lengths: Any, training: bool, *options: bool
    ) -> Callable[[NDArray], Any] | None:
        """Return a function of x that does a pass of training, if there is one.

        At inference, `__call__` has looked for it already.
        """
        if training and lengths is None and self._calls is not None and type(x) is np.ndarray:
            return self._calls.program(x, self, *options)
        return None

    def _fixed(self) -> Fixed:
        """Return how the layer computes in an inference model: by default, as ever."""
        return Fixed(self, self.step, self._plan)

    # Sequences, step by step

    def initial_state(self, n: int) -> Any:
        """Return the state before the first step of `n` sequences: arrays in tuples."""
        self._refuse_steps()
        return ()

    def run(
        self,
        x: NDArray,
        state: Any = None,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
    ) -> tuple[NDArray, Any, Any]:
        """Return y, the state after the last step, and the cache of `run_backward`.

        `sample_ids` go to those layers whose output depends on them.
        """
        self._refuse_steps()
        y, cache = self.forward(x, **self._accepted(lengths, sample_ids), training=training)
        return y, (), cache

    def run_backward(self, dy: NDArray, dstate: Any, cache: Any) -> tuple[NDArray, Any, Arrays]:
        """Return dx, the gradient of the state before the first step, and those of parameters."""
        self._refuse_steps()
        dx, grads = self.backward(dy, cache)
        return dx, (), grads

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, Any]:
        """Return y at one step, at inference, and the next state; x_t has shape (N, features)."""
        self._refuse_steps()
        return self(x_t), ()

    def _refuse_steps(self) -> None:
        if not self.stepwise:
            raise TypeError(
                f"{say(self)}: cannot go step by step, since an output may depend on later steps; "
                "use the whole sequence: layer(x)"
            )

    # Shapes

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of y for x of `shape`; by default, by trying."""
        return self(np.zeros(shape, self.dtype or np.float32)).shape

    def output_lengths(self, lengths: NDArray) -> NDArray | None:
        """Return the lengths of y's sequences; None where y has no steps."""
        return lengths

    def flops(self, shape: Shape) -> int:
        """Return the additions and multiplications of a forward pass over x of `shape`; here 0."""
        return 0

    # State

    @property
    def params(self) -> Arrays:
        """What training changes, by name."""
        return self._params

    @params.setter
    def params(self, arrays: Mapping[str, NDArray]) -> None:
        _check_named(f"{say(self)}: params must be", arrays)
        self._params = _named(arrays)

    @property
    def buffers(self) -> Arrays:
        """State that is saved with the layer but has no gradient, by name."""
        return self._buffers

    @buffers.setter
    def buffers(self, arrays: Mapping[str, NDArray]) -> None:
        _check_named(f"{say(self)}: buffers must be", arrays)
        self._buffers = _named(arrays)

    def _refuse_arrays(self, name: str) -> NoReturn:
        """Refuse to put arrays in the place of those of the layers inside."""
        raise TypeError(
            f"{type(self).__name__}: {name} are those of the layers inside; to change their "
            "values, model.assign(arrays)"
        )

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The dtype of the parameters; None for a layer without."""
        given = self._config.get("dtype") if self._dtype is None else self._dtype
        if given is not None:
            dtype: np.dtype[Any] = np.dtype(given)
            return dtype
        for a in self.params.values():
            return np.dtype(a.dtype)
        return None

    def children(self) -> dict[str, "Layer"]:
        """Return the layers inside this one, by name.

        Raises
        ------
        TypeError
            A layer is kept as an attribute, or in a list, tuple or dict that is one, where nothing
            would train or save it.
        """
        self._check_kept(lambda layer: False)
        return {}

    def _check_kept(self, reached: Callable[["Layer"], bool]) -> None:
        """Refuse a layer kept as or in an attribute, unless it is `reached` otherwise."""
        for name, value in vars(self).items():
            if name in ("_config", "_children"):
                continue
            values = value.values() if isinstance(value, dict) else value
            for kept in values if isinstance(value, (list, tuple, dict)) else (value,):
                if isinstance(kept, Layer) and not reached(kept):
                    where = "is" if kept is value else "holds"
                    raise TypeError(
                        f"{say(self)}: {name} {where} a {type(kept).__name__}, and a layer kept as "
                        "an attribute is neither trained nor saved; a layer made of layers derives "
                        "from Sequential, Residual or Concat and hands them to super().__init__"
                    )

    def walk(self, prefix: str = "") -> Iterator[tuple[str, "Layer"]]:
        """Go through this layer and all inside it: dotted names and layers, repeats included."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.walk(f"{prefix}.{name}" if prefix else name)

    def assign(self, arrays: Mapping[str, Any]) -> None:
        """Replace the values of parameters and buffers, all of them or, on an error, none.

        Raises
        ------
        KeyError
            A name that the layer does not have.
        ValueError, TypeError
            An array of another shape or kind of dtype, with values that the one there cannot hold,
            or for one that is read-only.
        """
        _check_named(f"{say(self)}: assign takes", arrays)
        here = {**self.params, **self.buffers}
        new = {}
        for name, value in arrays.items():
            if name not in here:
                known = ", ".join(here) or "none"
                raise KeyError(
                    f"{say(self)}: no parameter or buffer named {name!r}; it has {known}"
                )
            value = as_array(self, name, value)
            if value.shape != here[name].shape:
                raise ValueError(
                    f"{say(self)}: {name} has shape {here[name].shape}, got {value.shape}"
                    f"{_turn(value.shape, here[name].shape)}"
                )
            dtype = here[name].dtype
            are_integers = value.dtype.kind in "iu" and dtype.kind in "iu"
            if not (are_integers or np.can_cast(value.dtype, dtype, "same_kind")):
                raise TypeError(f"{say(self)}: {name} has dtype {dtype}, got {value.dtype}")
            if not here[name].flags.writeable:
                raise ValueError(f"{say(self)}: {name} is read-only; put a copy in its place")
            with np.errstate(over="ignore"):
                new[name] = value.astype(dtype)
            lost = new[name] != value if are_integers else np.isinf(new[name]) > np.isinf(value)
            if lost.any():
                raise ValueError(f"{say(self)}: {name} has values that {dtype} cannot hold")
        for name, value in new.items():
            here[name][...] = value

    def initialize(self, rng: RNG = None) -> Self:
        """Draw all parameters anew and return the layer.

        By default that is those of the layers inside: a layer of your own whose parameters are
        random overrides this, or else the seed of a model does not reach them. Layers that share an
        array have one each afterwards.

        Parameters
        ----------
        rng : int, numpy.random.Generator or None
            Each layer inside is seeded by its name, so that adding one changes no other.
            None draws fresh entropy.
        """
        rng = generator(rng)
        seed = int(rng.integers(2**63))
        for name, child in self.children().items():
            by_name = np.random.default_rng([seed, zlib.crc32(name.encode())])
            child.initialize(rng if isinstance(rng, Blank) else by_name)
        return self

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Return a copy that computes in float32 or float64."""
        dtype = float_dtype(self, dtype)
        other = copy.deepcopy(self)
        cast: dict[int, NDArray] = {}
        for _, layer in other.walk():
            layer._cast(dtype, cast)
        return other

    def _cast(self, dtype: np.dtype[Any], cast: dict[int, NDArray]) -> None:
        """Cast this layer's own floating-point arrays, those that are shared to one array."""
        for arrays in (self._params, self._buffers):
            for name, a in arrays.items():
                if a.dtype.kind == "f" and a.dtype != dtype:
                    arrays[name] = cast.setdefault(id(a), placed(a, dtype))
        if self._dtype is not None:
            self._dtype = dtype.type
        if "dtype" in self._config:
            self._config["dtype"] = dtype

    def config(self) -> dict[str, Any]:
        """Return the arguments that build this layer again, as it is now, but for `rng`."""
        return dict(self._config)

    def summary(self, shape: Shape) -> None:
        """Print the layers with their output shapes, parameters and FLOPs for x of `shape`."""
        print(table(self, sizes(self, shape)))

    def trace(self, shape: Shape, prefix: str = "") -> Iterator[tuple[str, "Layer", Shape]]:
        """Follow a shape through: dotted names, layers and the shapes that they are given."""
        yield prefix, self, shape

    # How containers speak to the layers inside

    def _accepted(self, lengths: Any, sample_ids: Any) -> dict[str, Any]:
        """Return those of the options that were given and that `forward` takes."""
        if lengths is None and sample_ids is None:
            return {}
        forward = type(self).forward
        options = {}
        if lengths is not None:
            if not _takes(forward, "lengths"):
                raise TypeError(
                    f"{say(self)}: takes no lengths=; give its forward that argument, "
                    "or put the layer after the sequences are reduced"
                )
            options["lengths"] = lengths
        if sample_ids is not None and _takes(forward, "sample_ids"):
            options["sample_ids"] = sample_ids
        return options

    def _repr_html_(self) -> str:
        """Return a table of the layers, which notebooks show."""
        return page(self)

    def __repr__(self) -> str:
        config = self.config()
        said: list[str] = []
        for name, parameter in type(self).__signature__.parameters.items():
            if name not in config:
                continue
            value = config[name]
            required = parameter.default is parameter.empty
            if parameter.kind is parameter.VAR_POSITIONAL:
                said.extend(map(repr, value))
            elif required and parameter.kind is not parameter.KEYWORD_ONLY:
                said.append(repr(value))
            elif required or not np.all(value == parameter.default):
                is_dtype = isinstance(value, (type, np.dtype))
                shown = f"np.{np.dtype(value)}" if is_dtype else repr(value)
                said.append(f"{name}={shown}")
        return f"{type(self).__name__}({', '.join(said)})"


def depth(cls: type, name: str) -> int:
    """Return how far from a class the one stands, among those it derives from, that has a name."""
    return next(i for i, found in enumerate(cls.__mro__) if name in vars(found))


@lru_cache(maxsize=256)
def in_step(cls: type[Layer]) -> bool:
    """Return whether a class has passes by steps that none over whole sequences overrides."""
    if cls.run is Layer.run or cls.run_backward is Layer.run_backward:
        return False
    passes = ("step", "run", "forward"), ("run_backward", "backward")
    depths = ([depth(cls, name) for name in names] for names in passes)
    return all(found == sorted(found) for found in depths)


def _check_named(must: str, arrays: Any) -> None:
    """Check that arrays are given by name, and say what `must` be a dict if they are not."""
    if not isinstance(arrays, Mapping):
        cure = "; give its arrays: other.params" if isinstance(arrays, Layer) else ""
        raise TypeError(f"{must} a dict of arrays by name, got {type(arrays).__name__}{cure}")


def _named(arrays: Mapping[str, NDArray]) -> Named:
    named = Named()
    named.update(arrays)
    return named


def _turn(found: Shape, shape: Shape) -> str:
    """Return how to turn an array of PyTorch's or ONNX's axes, outputs first, if it then fits."""
    axes = (*range(2, len(found)), 1, 0)
    if len(found) < 2 or tuple(found[k] for k in axes) != shape:
        return ""
    return f"; its outputs seem to come first: array.transpose{axes}"


def as_pair(layer: Layer, method: str, found: Any) -> tuple[Any, Any]:
    """Return what `forward` or `backward` returned: an array alone would unpack into samples."""
    if isinstance(found, tuple) and len(found) == 2:
        return found
    expected = {"forward": "y and a cache", "backward": "dx and the gradients by name"}[method]
    raise TypeError(f"{say(layer)}: {method} must return {expected}, got {type(found).__name__}")


def check_layer(owner: str, model: Any) -> None:
    """Check that a model is a layer, neither a class nor a list of them, and all of it is known."""
    if not isinstance(model, Layer):
        raise TypeError(f"{owner}: model must be a Layer, Sequential(...) say, got {short(model)}")
    for _ in model.walk():  # which refuses layers that would be neither trained nor saved
        pass


@lru_cache(maxsize=256)
def _takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function takes an argument: to look takes longer than a small layer."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
