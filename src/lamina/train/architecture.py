"""A model as plain JSON values, and back: which layers it is made of, with what arguments.

The text is an object with the format's version and a list of layers, the model itself last::

    {"version": 1, "layers": [
        {"class": "Linear", "config": {"in_features": 4, "out_features": 2, ...}},
        {"class": "Sequential", "config": {"layers": {"tuple": [{"layer": 0}, {"layer": 0}]}}}]}

A layer stands for others by their place in the list, which is before its own: a layer used twice
is one entry, and there are no circles. Scalars and lists stand for themselves; what JSON does not
know is an object of one key, which says what it is: layer, tuple, dict, dtype or float (those that
are not finite). A layer whose constructor takes no dtype has that of its arrays beside it.
"""

import inspect
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from ..arguments import FLOATS
from ..containers import Container
from ..initializers import Blank
from ..layer import Layer

VERSION: Final = 1

DEEPEST: Final = 100
"""How deep layers may stand within layers, and values within values."""
MOST: Final = 100_000
"""Layers in all, each counted as often as it is used."""
SLACK: Final = 2**16
"""By how many numbers layers may exceed those of the file and still be built, so that the error can
say which array is wrong. No integer among the arguments may exceed them by more either."""

DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The dtypes of arrays and arguments, by what safetensors calls them."""

JSON: TypeAlias = Any
Classes: TypeAlias = Mapping[str, type[Layer]]


class ArchitectureError(ValueError):
    """An architecture that cannot be written, or read; says why, not where."""


def own_classes() -> dict[str, type[Layer]]:
    """Return Lamina's own layers by name."""
    import lamina  # at call: lamina imports this module

    public = {name: getattr(lamina, name) for name in lamina.__all__}
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, Layer) and not inspect.isabstract(value)
    }


# Writing


def describe(model: Layer) -> tuple[str, dict[str, type[Layer]]]:
    """Return the text of a model's architecture, and the classes that it names."""
    writer = _Writer()
    writer.layer(model)
    _refuse_excess(writer.entries)
    return json.dumps({"version": VERSION, "layers": writer.entries}), writer.classes


class _Writer:
    """Goes through a model from the inside out."""

    def __init__(self) -> None:
        self.entries: list[JSON] = []
        self.classes: dict[str, type[Layer]] = {}
        self.own = own_classes()
        self._place: dict[int, int] = {}

    def layer(self, layer: Layer) -> int:
        """Return a layer's place in the list; add it, and those in its arguments, when new."""
        if id(layer) not in self._place:
            cls = type(layer)
            name = cls.__name__
            if self.classes.setdefault(name, self.own.get(name, cls)) is not cls:
                raise ArchitectureError(f"there are two classes of the name {name}; rename one")
            config = layer.config()
            entry = {
                "class": name,
                "config": {
                    key: self.value(value, f"{name}: argument {key}")
                    for key, value in config.items()
                },
            }
            if "dtype" not in config and (dtype := _array_dtype(layer)):
                entry["dtype"] = dtype
            self._place[id(layer)] = len(self.entries)
            self.entries.append(entry)
        return self._place[id(layer)]

    def value(self, value: Any, where: str, depth: int = 0) -> JSON:
        """Return an argument as JSON."""
        if depth > DEEPEST:
            raise ArchitectureError(f"{where} is nested deeper than {DEEPEST}")
        if isinstance(value, Layer):
            return {"layer": self.layer(value)}
        if isinstance(value, np.generic) and value.dtype.kind in "fiub":
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(float(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            items = [self.value(v, where, depth + 1) for v in value]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {k: self.value(v, where, depth + 1) for k, v in value.items()}}
        scalar = isinstance(value, type) and issubclass(value, (np.generic, bool, int, float))
        if scalar or isinstance(value, np.dtype):
            name = np.dtype(value).name
            if name in DTYPES.values():
                return {"dtype": name}
        raise ArchitectureError(
            f"{where} is {value!r}, which cannot be saved; arguments may be numbers, strings, "
            "dtypes, layers, None, and lists, tuples or dicts of these; arrays belong in params "
            "or buffers"
        )


def _array_dtype(layer: Layer) -> str | None:
    """Return the dtype of the first floating-point array of a layer or of those inside."""
    arrays = (*layer.params.values(), *layer.buffers.values())
    return next((str(a.dtype) for a in arrays if a.dtype in FLOATS), None)


# Reading


def build(text: str, classes: Classes, elements: int) -> Layer:
    """Return the model of an architecture, its arrays still blank.

    `elements` is how many the file's arrays have together: a layer of Lamina's own that would be
    far larger is refused before it takes memory.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchitectureError(f"the architecture is not JSON: {error}") from None
    _expect(isinstance(found, dict) and "version" in found, "the architecture has no version")
    if found["version"] != VERSION or isinstance(found["version"], bool):
        raise ArchitectureError(
            f"the format has version {found['version']!r}, and this Lamina reads {VERSION}"
        )
    entries = found.get("layers")
    _expect(isinstance(entries, list) and entries, "the architecture has no list of layers")
    _refuse_excess(entries)
    reader = _Reader(classes, own_classes(), elements)
    for place, entry in enumerate(entries):
        reader.layer(place, entry)
    return reader.built[-1]


class _Reader:
    """Builds the layers of a list, one after the other."""

    def __init__(self, classes: Classes, own: Classes, elements: int) -> None:
        self.classes, self.own = classes, own
        self.limit = self.room = elements + SLACK
        self.built: list[Layer] = []

    def layer(self, place: int, entry: JSON) -> None:
        """Build the layer at a place of the list."""
        name = entry["class"]
        cls = {**self.own, **self.classes}.get(name)
        if cls is None:
            raise ArchitectureError(
                f"layer {place} is of the class {name!r}, which is none of Lamina's; if it is "
                f"yours, name it: load(path, {{{name!r}: ...}})"
            )
        config = {
            key: self.value(value, f"argument {key} of layer {place}, {name}")
            for key, value in entry["config"].items()
        }
        if cls is self.own.get(name):
            self._refuse_sizes(name, config)
            blank = Blank(self.room)
        else:
            blank = Blank()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were said when the model was made
                layer = _call(cls, config, blank)
            if "dtype" in entry and entry["dtype"] != _array_dtype(layer):
                for _, inside in layer.walk():
                    inside._cast(np.dtype(entry["dtype"]), {})
        # A constructor may raise anything at arguments it never expected.
        except Exception as error:
            raise ArchitectureError(
                f"layer {place} cannot be built: {_first_line(error)}"
            ) from error
        self.room -= sum(a.size for a in (*layer._params.values(), *layer._buffers.values()))
        _expect(self.room >= 0, "the layers hold more numbers than the file")
        self.built.append(layer)

    def value(self, value: JSON, where: str, depth: int = 0) -> Any:
        """Return an argument from JSON."""
        _expect(depth <= DEEPEST, f"{where} is nested deeper than {DEEPEST}")
        if isinstance(value, list):
            return [self.value(v, where, depth + 1) for v in value]
        if not isinstance(value, dict):
            return value
        _expect(len(value) == 1, f"{where} is an object of {len(value)} keys, expected 1")
        [(kind, inner)] = value.items()
        if kind == "layer":
            return self.built[inner]
        if kind == "tuple" and isinstance(inner, list):
            return tuple(self.value(v, where, depth + 1) for v in inner)
        if kind == "dict" and isinstance(inner, dict):
            return {k: self.value(v, where, depth + 1) for k, v in inner.items()}
        if kind == "dtype" and inner in DTYPES.values():
            return np.dtype(inner)
        if kind == "float" and inner in ("inf", "-inf", "nan"):
            return float(inner)
        raise ArchitectureError(f"{where} is no value of this format: {str(value)[:80]}")

    def _refuse_sizes(self, name: str, config: dict[str, Any]) -> None:
        for key, value in config.items():
            sizes = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(s, int) and abs(s) > self.limit for s in sizes):
                raise ArchitectureError(
                    f"{name} has {key} {value!r}, more than the file has numbers to fill"
                )


def _call(cls: type[Layer], config: dict[str, Any], rng: Blank) -> Layer:
    """Return `cls` called with arguments by name."""
    signature = cls.__signature__
    unknown = set(config) - set(signature.parameters)
    if unknown:
        raise TypeError(f"{cls.__name__} takes no argument {', '.join(sorted(unknown))}")
    if "rng" in signature.parameters and not issubclass(cls, Container):
        config = config | {"rng": rng}
    # In the order of the signature, which tells those that have no name from those that do.
    bound = inspect.BoundArguments(
        signature, {key: config[key] for key in signature.parameters if key in config}
    )
    return cls(*bound.args, **bound.kwargs)


# What both hold to


def _refuse_excess(entries: list[JSON]) -> None:
    """Check every entry's form, that it names earlier layers only, and how deep and many they are.

    Forty layers, each of which holds the one before it twice, would be 2⁴⁰ in all.
    """
    _expect(len(entries) <= MOST, f"there are more than {MOST:,} layers")
    depths: list[int] = []
    counts: list[int] = []
    for place, entry in enumerate(entries):
        _expect(
            isinstance(entry, dict)
            and isinstance(entry.get("class"), str)
            and isinstance(entry.get("config"), dict)
            and ("dtype" not in entry or entry["dtype"] in map(str, FLOATS)),
            f"layer {place} is not of this format",
        )
        inside = [i for value in entry["config"].values() for i in _references(value)]
        _expect(
            all(type(i) is int and 0 <= i < place for i in inside),
            f"layer {place} names a layer that does not stand before it",
        )
        depths.append(1 + max((depths[i] for i in inside), default=0))
        counts.append(1 + sum(counts[i] for i in inside))
        _expect(depths[-1] <= DEEPEST, f"layers are nested deeper than {DEEPEST}")
        _expect(counts[-1] <= MOST, f"there are more than {MOST:,} layers")


def _references(value: JSON) -> Iterator[Any]:
    """Go through the places of layers that an argument names."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for kind, inner in value.items():
                if kind == "layer":
                    yield inner
                elif isinstance(inner, dict):
                    waiting.extend(inner.values())
                else:
                    waiting.append(inner)


def _expect(holds: Any, otherwise: str) -> None:
    if not holds:
        raise ArchitectureError(otherwise)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
