"""Checks of arguments. Each error says who refuses what, what it expected, and how to mend it.

Every function takes the `owner` that speaks in the error: a layer, or a name.
"""

import inspect
import operator
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, Final, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

FLOATS: Final = (np.dtype(np.float32), np.dtype(np.float64))


def say(owner: object) -> str:
    """Return how `owner` names itself in an error: on one line."""
    text = owner if isinstance(owner, str) else repr(owner)
    return text if "\n" not in text else type(owner).__name__


def short(value: Any) -> str:
    """Return what an error says that it got; of an array its shape, not all of its values."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    return repr(value)


class Constructor:
    """The signature of a class: that of its `__init__`, which a `__new__` would hide."""

    def __get__(self, found: Any, owner: type) -> inspect.Signature:
        if found is not None:
            raise AttributeError("it is called by its __call__")
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]
        parameters = [
            p.replace(annotation="DTypeLike") if p.annotation == npt.DTypeLike else p
            for p in list(signature.parameters.values())[1:]
        ]
        return signature.replace(parameters=parameters)


def bind(owner: Callable[..., Any], args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Return the arguments of a call by name; say what it takes where they do not fit."""
    signature = inspect.signature(owner)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        names = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        takes = signature.replace(parameters=names, return_annotation=signature.empty)
        raise TypeError(f"{owner.__name__}: {error}; it takes {takes}") from None


class Constructed:
    """A class that says what it takes where its constructor is given other arguments."""

    __signature__ = Constructor()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Look at the arguments; copies give none."""
        if args or kwargs:
            bind(cls, args, kwargs)
        return super().__new__(cls)


def spoken(about: str) -> Callable[[Function], Function]:
    """Let a function say what it takes where it is given other arguments, and what `about` says."""

    def wrap(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                bind(function, args, kwargs)
            except TypeError as error:
                raise TypeError(f"{error}; {about}") from None
            return function(*args, **kwargs)

        return cast(Function, call)

    return wrap


def integer(owner: object, name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int that is at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{say(owner)}: {name} must be an integer, got {value!r}")
    if number < least:
        raise ValueError(f"{say(owner)}: {name} must be at least {least}, got {value!r}")
    return number


def integers(owner: object, name: str, value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """Return `value`, an integer for all or one for each of `count` axes, as a tuple."""
    if isinstance(value, (tuple, list)):
        if len(value) != count:
            raise ValueError(
                f"{say(owner)}: {name} must be an integer or {count} of them, "
                f"one an axis, got {value!r}"
            )
        return tuple(integer(owner, name, v, least) for v in value)
    return (integer(owner, name, value, least),) * count


def sizes(owner: object, shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple of ints."""
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"{say(owner)}: shape must be a tuple, batch first, got {short(shape)}")
    return tuple(integer(owner, "each size of shape", size, least=0) for size in shape)


def number(
    owner: object, name: str, value: Any, low: float = -np.inf, high: float = np.inf
) -> float:
    """Return `value` as a finite float in [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{say(owner)}: {name} must be a number, got {value!r}")
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        found = np.inf
    if not np.isfinite(found):
        raise ValueError(f"{say(owner)}: {name} must be finite, got {value!r}")
    if not low <= found <= high:
        raise ValueError(f"{say(owner)}: {name} must lie in [{low:g}, {high:g}], got {value!r}")
    return found


def positive(owner: object, name: str, value: Any) -> float:
    """Return `value` as a finite float above 0."""
    found = number(owner, name, value, 0)
    if found == 0:
        raise ValueError(f"{say(owner)}: {name} must be more than 0, got {value!r}")
    return found


def limit(owner: object, name: str, value: Any) -> float | None:
    """Return `value`, None or a number above 0."""
    return None if value is None else positive(owner, name, value)


def choice(owner: object, name: str, value: Any, options: Collection[Any]) -> Any:
    """Return `value` if it is one of `options`."""
    if not isinstance(value, (str, bool, int, type(None))) or value not in options:
        listed = ", ".join(map(repr, options))
        raise ValueError(f"{say(owner)}: {name} must be one of {listed}; got {value!r}")
    return value


def flag(owner: object, name: str, value: Any) -> bool:
    """Return `value`, True or False."""
    return bool(choice(owner, name, value, (True, False)))


def float_dtype(owner: object, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    """Return `dtype` as float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # numpy parses strings as it parses Python
        found = None
    if found is None or found not in FLOATS:  # to numpy, float64 == None
        raise TypeError(f"{say(owner)}: dtype must be float32 or float64, got {dtype!r}")
    return found


def as_array(owner: object, name: str, x: Any) -> NDArray:
    """Return `x` as an array of whatever dtype; it has no mask that could be lost."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{say(owner)}: {name} is a masked array, whose mask would be lost; "
            f"fill it first ({name}.filled(0)) or, for padded sequences, pass lengths="
        )
    if hasattr(x, "toarray"):  # to NumPy, a sparse matrix is one object
        raise TypeError(f"{say(owner)}: {name} is a sparse matrix; fill it: {name}.toarray()")
    try:
        return np.asarray(x)
    except (TypeError, RuntimeError) as error:  # a tensor of PyTorch mostly says how to mend it
        cure = f"; cast it: {name}.float()" if "ScalarType" in str(error) else ""
        raise TypeError(f"{say(owner)}: {name} does not become an array: {error}{cure}") from error
    except ValueError as error:
        if isinstance(x, tuple) and len(x) == 2 and sum(isinstance(a, np.ndarray) for a in x) == 1:
            raise TypeError(
                f"{say(owner)}: {name} is no array, but a tuple ({type(x[0]).__name__}, "
                f"{type(x[1]).__name__}); what forward, backward and a loss return is taken apart: "
                "y, cache = ...; dx, grads = ...; value, dy = ..."
            ) from error
        raise ValueError(
            f"{say(owner)}: {name} is no array, its rows differ in shape; "
            "join sequences of unequal lengths by lamina.data.pad"
        ) from error


def array(owner: object, name: str, x: Any, dtype: np.dtype[Any] | None = None) -> NDArray:
    """Return `x` as an array of `dtype`; None takes float32 and float64 alike.

    Values are never rounded: a wrong dtype is an error that names both cures. Arrays in the other
    byte order are copied into the machine's own.
    """
    if type(x) is np.ndarray and (x.dtype is dtype or (dtype is None and x.dtype in FLOATS)):
        return x  # what comes mostly, sooner: a check must not cost as much as a small layer
    found = as_array(owner, name, x)
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    cast = f"{name}.astype(" if isinstance(x, np.ndarray) else f"np.asarray({name}, "
    if dtype is not None and found.dtype != dtype:
        cure = f"cast it: {cast}np.{dtype})"
        if found.dtype in FLOATS and getattr(owner, "dtype", None) is not None:
            cure += (
                f"; or, if {found.dtype} is what you compute in, build the layer with "
                f"dtype=np.{found.dtype} or convert it: layer.astype(np.{found.dtype})"
            )
        raise TypeError(f"{say(owner)}: {name} has dtype {found.dtype}, expected {dtype}; {cure}")
    if dtype is None and found.dtype not in FLOATS:
        raise TypeError(
            f"{say(owner)}: {name} has dtype {found.dtype}, expected float32 or float64; "
            f"cast it: {cast}np.float32)"
        )
    return found


def features(owner: object, shape: tuple[int, ...], count: int, ndim: int | None = None) -> None:
    """Check that x of `shape` has `count` features in its last axis and `ndim` axes, if given."""
    if ndim is not None and len(shape) != ndim:
        raise ValueError(
            f"{say(owner)}: x has {len(shape)} axes (shape {shape}), expected {ndim}: "
            f"batch first, features last"
        )
    if not shape or shape[-1] != count:
        found = f"{shape[-1]} features in its last axis" if shape else "no axes"
        second = len(shape) > 2 and shape[1] == count
        cure = "; they seem to come second: np.moveaxis(x, 1, -1)" if second else ""
        raise ValueError(f"{say(owner)}: x has {found} (shape {shape}), expected {count}{cure}")


def parameters(owner: Any, shape: tuple[int, ...], outputs: int) -> tuple[NDArray, NDArray | None]:
    """Return a layer's weight and bias, which kernels trust: others may have taken their place."""
    weight, bias = owner.params.get("weight"), owner.params.get("bias")
    dtype = owner.dtype
    fits = weight is not None and weight.shape == shape and weight.dtype == dtype in FLOATS
    if bias is not None:
        fits = fits and bias.shape == (outputs,) and bias.dtype == dtype
    if not fits or (bias is None and owner.has_bias):
        parameter(owner, "weight", weight, shape)
        parameter(owner, "bias", bias, (outputs,))
    return weight, bias


def parameter(owner: Any, name: str, a: NDArray | None, shape: tuple[int, ...] | None) -> None:
    """Check one of a layer's own arrays; without a shape the layer was built without it."""
    if a is None:
        raise ValueError(
            f"{say(owner)}: it has lost its {name}, an array of shape {shape}; "
            "put one back, or build another layer"
        )
    if a.shape != shape or a.dtype != owner.dtype or a.dtype not in FLOATS:
        expected = "none" if shape is None else f"{shape} and {owner.dtype}"
        raise ValueError(
            f"{say(owner)}: {name} has become an array of shape {a.shape} and dtype {a.dtype}, "
            f"expected {expected}; an assignment, layer.{name} = array, would have refused it"
        )


def gradient(
    owner: object, dy: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None
) -> NDArray:
    """Return dy as an array of the shape and dtype of y."""
    found = array(owner, "dy", dy, dtype)
    if found.shape != shape:
        raise ValueError(
            f"{say(owner)}: dy has shape {found.shape}, expected {shape}, the shape of y"
        )
    return found


def cached(owner: object, cache: Any, count: int, kind: type[Any] = tuple) -> Any:
    """Return a cache, which has `count` parts; refuse what is none: y, None, both in one tuple."""
    if not isinstance(cache, kind) or len(cache) != count:
        of = f" of {len(cache)} entries" if isinstance(cache, (tuple, list)) else ""
        raise TypeError(
            f"{say(owner)}: cache must be what forward returned beside y, got "
            f"{type(cache).__name__}{of}; keep both: y, cache = layer.forward(x, training=True)"
        )
    return cache


def lengths(owner: object, lengths: Any, x: NDArray, ndim: int = 3) -> NDArray | None:
    """Return `lengths` as an integer array of shape (N,) in [0, T], for x of shape (N, T, ...).

    `ndim` is the least number of axes with which x is a batch of sequences to this owner.
    """
    if lengths is None:
        return None
    if x.ndim < ndim:
        raise ValueError(
            f"{say(owner)}: lengths go with x of shape (N, T, ...), {ndim} axes or more; "
            f"x has shape {x.shape}"
        )
    found = _whole(owner, lengths)
    if found.shape != x.shape[:1]:
        raise ValueError(
            f"{say(owner)}: lengths has shape {found.shape}, expected {x.shape[:1]}, "
            f"one length a sample of x (shape {x.shape})"
        )
    if found.size and not (found.min() >= 0 and found.max() <= x.shape[1]):
        raise ValueError(
            f"{say(owner)}: lengths must lie in 0 ... {x.shape[1]}, the steps of x; "
            f"got {found.min()} ... {found.max()}"
        )
    return found.astype(np.int64)


def steps(owner: object, lengths: Any) -> NDArray:
    """Return `lengths`, of sequences of any number of steps, as an integer array."""
    found = _whole(owner, lengths)
    if found.size and found.min() < 0:
        raise ValueError(f"{say(owner)}: lengths must be at least 0, got {found.min()}")
    return found.astype(np.int64)


def _whole(owner: object, lengths: Any) -> NDArray:
    """Return `lengths` as an array of whatever integers."""
    found = as_array(owner, "lengths", lengths)
    if found.size == 0 and found.ndim == 1:
        found = found.astype(np.int64)
    if found.dtype.kind not in "iu":
        cures = {
            "b": "; a mask has them as mask.sum(axis=1)",
            "f": "; cast them: lengths.astype(np.int64)",
        }
        raise TypeError(
            f"{say(owner)}: lengths must be integers, got dtype {found.dtype}"
            f"{cures.get(found.dtype.kind, '')}"
        )
    return found


def no_lengths(owner: object, lengths: Any, reason: str) -> None:
    """Refuse `lengths` where the owner cannot serve them."""
    if lengths is not None:
        raise ValueError(f"{say(owner)}: takes no lengths=; {reason}")
