"""Models on disk: a safetensors file, with the architecture in its header.

The arrays stand under their dotted names, as they are in memory, to the bit. The header's metadata
has one entry, ``"lamina"``, whose text `architecture` explains. Any reader of safetensors reads the
arrays; nothing in the file is ever run.
"""

import errno
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..arguments import say
from ..dropout import Dropout
from ..layer import Arrays, Layer, check_layer
from .architecture import DTYPES, ArchitectureError, build, describe

Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], str]]
"""What is compared of arrays: shape and the name of the dtype."""


class FormatError(ValueError):
    """A file that is not a whole model of Lamina's; the message names it and says what is wrong."""


def save(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write a model to a file: its layers and their arguments, parameters and buffers.

    The file is written beside its place and moved there when it is whole: at any moment there is
    the old one or the new one, and who may read it stays as it is. An error leaves the old one. A
    pipe or a device is written to.

    Parameters
    ----------
    model : Layer
        Of Lamina's layers and your own. A layer of your own is saved as its name and the arguments
        it was built with (`Layer.config`), which may be numbers, strings, dtypes, layers, None, and
        lists, tuples or dicts of these.
    path : path
        By custom ``.safetensors``.

    Raises
    ------
    ValueError
        The model could not be loaded again as it is.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from lamina import Linear, Sequential
    >>> model = Sequential(Linear(4, 8, rng=0), Linear(8, 3, rng=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "model.safetensors")
    ...     again = load(Path(folder) / "model.safetensors")
    >>> again
    Sequential(
      Linear(4, 8),
      Linear(8, 3),
    )
    >>> bool((again.params["1.weight"] == model.params["1.weight"]).all())
    True
    """
    try:
        check_layer("save", model)
        arrays = {name: np.asarray(a, order="C") for name, a in _arrays(model).items()}
        text, classes = describe(model)
        _refuse_shared(model)
        for name, a in arrays.items():
            if a.dtype.name not in DTYPES.values() or name == "__metadata__":
                raise ArchitectureError(f"the format has no array {name!r} of {a.dtype}")
        # What cannot be read again is not written.
        again = build(text, classes, sum(a.size for a in arrays.values()))
        _refuse_lost(model, again)
        _compare(_shapes(_arrays(again)), _shapes(arrays))
    except ArchitectureError as error:
        raise ValueError(f"save: {say(model)} cannot be saved: {error}") from error
    except RecursionError:
        raise ValueError("save: the model cannot be saved: layers are nested too deep") from None
    from safetensors.numpy import save as as_bytes  # compiled: a browser's Python has none

    write_whole(path, as_bytes(arrays, {"lamina": text}))


def _refuse_shared(model: Layer) -> None:
    """Refuse an array that two layers share: the format knows layers that are shared."""
    first: dict[int, tuple[Layer, str]] = {}
    for prefix, layer in model.walk():
        for key, a in (layer._params | layer._buffers).items():
            name = f"{prefix}.{key}"
            known, other = first.setdefault(id(a), (layer, name))
            if known is not layer:
                raise ArchitectureError(
                    f"{other} and {name} are one array; the format knows a layer that stands in "
                    "several places, but no array that several layers share"
                )


def _refuse_lost(model: Layer, again: Layer) -> None:
    """Refuse options set on a Dropout that is built by the layer around it, which has one rate."""
    known = dict(again.walk())
    for name, layer in model.walk():
        if isinstance(layer, Dropout) and repr(layer) != repr(known.get(name)):
            raise ArchitectureError(
                f"{name} is {layer!r}, and would be {known.get(name)!r} when it is loaded"
            )


def load(path: str | os.PathLike[str], layers: Mapping[str, type[Layer]] | None = None) -> Layer:
    """Read a model that `save` wrote.

    Only Lamina's own layers are built, and those that you name; nothing else in the file is run.

    Parameters
    ----------
    path : path
    layers : dict of str to class
        Your own layers in the model, by the name of their class: ``{"Scale": Scale}``.

    Returns
    -------
    Layer

    Raises
    ------
    FormatError
        The file is no model of Lamina's, is cut short or damaged, names a layer that is not known,
        or holds other arrays than its layers have.
    TypeError
        `layers` holds what is no class of layers.
    OSError
        The file cannot be read.
    """
    if not isinstance(layers, Mapping | None):
        raise TypeError(
            f"load: layers must be a dict of your classes by name, {{'Scale': Scale}} say, "
            f"got {layers!r}"
        )
    layers = dict(layers or {})
    for name, cls in layers.items():
        if not (isinstance(cls, type) and issubclass(cls, Layer)):
            raise TypeError(f"load: layers[{name!r}] must be a class of layers, got {cls!r}")
    from safetensors import safe_open

    with _reading(path), safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get("lamina")
        if text is None:
            raise ArchitectureError(
                "a safetensors file, but without an architecture of Lamina's; build the model, and "
                "give it the arrays of safetensors.numpy.load_file by its own names: "
                "model.assign({name: array})"
            )
        found: Shapes = {}
        for name in file.keys():  # noqa: SIM118 - it cannot be iterated over itself
            view = file.get_slice(name)
            found[name] = (tuple(view.get_shape()), DTYPES.get(kind := view.get_dtype(), kind))
        model = build(text, layers, sum(math.prod(shape) for shape, _ in found.values()))
        arrays = _arrays(model)
        _compare(_shapes(arrays), found)
        for name, a in arrays.items():
            a[...] = file.get_tensor(name)
    return model


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let whatever is wrong with a file's contents be a FormatError that names the file."""
    from safetensors import SafetensorError

    with open(path, "rb"):  # what the system refuses, it says best itself
        pass
    if not os.path.isfile(path):  # and a pipe would be waited for
        raise OSError(errno.ENODEV, "not a file, which could be mapped", os.fspath(path))
    try:
        yield
    except ArchitectureError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error
    except SafetensorError as error:
        raise FormatError(f"{os.fspath(path)}: not a whole safetensors file: {error}") from error
    except MemoryError as error:
        raise FormatError(f"{os.fspath(path)}: larger than the memory") from error


def _arrays(model: Layer) -> Arrays:
    return {**model.params, **model.buffers}


def _shapes(arrays: Arrays) -> Shapes:
    return {name: (a.shape, a.dtype.name) for name, a in arrays.items()}


def _compare(expected: Shapes, found: Shapes) -> None:
    """Check that there are just the arrays that the layers have."""
    for name in sorted(expected.keys() ^ found.keys()):
        which = "is missing" if name in expected else "belongs to no layer"
        raise ArchitectureError(f"the array {name} {which}")
    for name, (shape, dtype) in expected.items():
        if found[name] != (shape, dtype):
            raise ArchitectureError(
                f"the array {name} has shape {found[name][0]} and dtype {found[name][1]}, "
                f"but its layer has {shape} and {dtype}"
            )


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that is whole or not there, even if the power fails."""
    path = os.fspath(path)  # an integer would be an open file
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device stays one
        with open(path, "wb") as file:
            file.write(data)
        return
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".lamina-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # there was none, or the system does not know modes
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # which names the temporary file, or none
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
