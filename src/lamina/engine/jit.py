"""The only place for compiler flags, CPU features and the cache of compiled code."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import llvmlite.binding as llvm
import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import config as _config
from numba.extending import intrinsic

from .memory import HEADER, pointer

NDArray = npt.NDArray[Any]
Task: TypeAlias = tuple[Any, ...]
"""The integers that a kernel is given: sizes, strides, addresses."""
numba_config: Any = _config

DISABLED: Final = bool(numba_config.DISABLE_JIT)
"""Whether NUMBA_DISABLE_JIT=1: kernels run as plain Python, tiles as their twin."""


# The CPU


@cache
def cpu() -> tuple[str, str]:
    """Return name and features of the CPU to compile for; NUMBA_CPU_NAME and _FEATURES override."""
    name = numba_config.CPU_NAME or llvm.get_host_cpu_name()
    features = numba_config.CPU_FEATURES
    if features is None:
        features = "" if numba_config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    return name, features


@cache
def vector_bytes() -> int:
    """Return the width of a vector register in bytes."""
    _, features = cpu()
    has = set(features.split(","))
    if "+avx512f" in has:
        return 64
    if "+avx" in has:
        return 32
    return 16


@cache
def has_fma() -> bool:
    """Return whether one instruction multiplies and adds with one rounding."""
    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return True
    return "+fma" in cpu()[1].split(",")


@cache
def vector_registers() -> int:
    """Return how many vector registers there are."""
    wide = llvm.get_process_triple().startswith(("aarch64", "arm64")) or vector_bytes() == 64
    return 32 if wide else 16


# The cache on disk

UNUSED: Final = 30 * 24 * 3600
"""Seconds after which compiled code of other sources, or of another CPU, is removed."""


@cache
def sources() -> str:
    """Return a hash of all engine and kernel sources and of what compiles them."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for path in sorted(package.glob("*/*.py")):
        source = path.read_bytes()
        if path.parent.name == "engine" or b"engine" in source:
            digest.update(source)
    versions = (sys.version_info[:2], numba.__version__, llvm.llvm_version_info, *cpu())
    digest.update(repr(versions).encode())
    return digest.hexdigest()[:24]


@cache
def folder() -> Path | None:
    """Return the folder for compiled code; None where none can be written.

    LAMINA_CACHE_DIR names its parent; by default it lies in the user's cache folder.
    """
    parent = os.environ.get("LAMINA_CACHE_DIR")
    if parent is None:
        parent = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lamina"
        )
    path = Path(parent) / sources()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}"
        probe.touch()  # which says that the folder is in use, too
        probe.unlink()
        _tidy(path)
    except OSError:
        return None
    return path


def _tidy(path: Path) -> None:
    """Remove the folders beside `path` that no process has begun to use, or written to, of late."""
    for other in path.parent.iterdir():
        if other != path and re.fullmatch("[0-9a-f]{24}", other.name):
            with contextlib.suppress(OSError):  # it may be another's, or gone by now
                if other.stat().st_mtime < time.time() - UNUSED:
                    shutil.rmtree(other, ignore_errors=True)


def _read(path: Path) -> bytes | None:
    """Return what `_write` wrote to a file, None if that is not whole: LLVM would crash on it."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        digest, code = data[:32], data[32:]
        if hashlib.sha256(code).digest() == digest:
            return code
    return None


def _write(path: Path, code: bytes) -> None:
    """Write code to a file, behind its digest, if that can be done."""
    with contextlib.suppress(OSError):
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(hashlib.sha256(code).digest() + code)
        partial.replace(path)


_engines: list[Any] = []  # machine code lives as long as the engine that holds it


def native(name: str, emit: Callable[[], str], function: str) -> int:
    """Return the address of a function in a module of LLVM IR, compiled once a machine.

    Parameters
    ----------
    name : str
        Names the module in the cache.
    emit : callable
        Returns the IR, where it was not compiled before.
    function : str
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu_name, features = cpu()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu_name, features=features, opt=3, jit=True
    )
    parent = folder()
    path = None if parent is None else parent / f"{name}.code"
    code = None if path is None else _read(path)
    if code is None:
        module = llvm.parse_assembly(emit())
        module.verify()
        code = machine.emit_object(module)
        if path is not None:
            _write(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(function))


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel when it is first called: strict floating point, NumPy's division, no GIL."""
    # Numba's cache knows changes of a function's own file only. Ours is keyed by all sources, and
    # Numba takes the folder from its configuration at the moment of decoration.
    before = numba_config.CACHE_DIR
    try:
        if folder() is not None:
            numba_config.CACHE_DIR = str(folder())
        return numba.njit(
            function,
            error_model="numpy",
            fastmath=False,
            nogil=True,
            cache=folder() is not None,
        )
    finally:
        numba_config.CACHE_DIR = before


# Calling machine code


class Address:
    """What stands for a pointer where the JIT is disabled: an array and an offset, checked."""

    def __init__(self, array: NDArray, offset: int = 0) -> None:
        self.flat, self.offset = array.reshape(-1, copy=False), offset
        self.dtype = array.dtype

    def __add__(self, count: int) -> "Address":
        """Move on by `count` bytes."""
        return Address(self.flat, self.offset + int(count))

    def row(self, first: int, count: int) -> NDArray:
        """Return `count` elements from the element `first` on, to read or to write."""
        first += self.offset // self.dtype.itemsize
        if self.offset % self.dtype.itemsize or not 0 <= first <= first + count <= self.flat.size:
            raise IndexError(f"elements {first} ... {first + count} of {self.flat.size}")
        return self.flat[first : first + count]


def address(array: NDArray) -> Any:
    """Return where the data of an array begins; hold on to the array while it is used."""
    return Address(array) if DISABLED else pointer(array)


def held(array: NDArray) -> Any:
    """Return what `data` turns into the address of an array in a kernel: in less time than here."""
    return Address(array) if DISABLED else id(array) + HEADER


@intrinsic
def _data(typing_context: Any, held: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.PointerType())
        return builder.load(place, typ=ir.IntType(64))

    return types.int64(types.int64), codegen


def _data_twin(held: Address) -> Address:
    return held


data: Final[Any] = _data_twin if DISABLED else _data
"""`data(held)`, in a kernel: where the data of an array begins."""


def table(rows: Sequence[tuple[Any, ...]]) -> NDArray:
    """Return integers and addresses as an array of so many rows, for a kernel to read."""
    return np.array(rows, object if DISABLED else np.int64)


class Constants:
    """Integers that a kernel reads whenever it runs: handing over where they are takes less time.

    Attributes
    ----------
    at : int
        What `constants` takes in a kernel; the values themselves where the JIT is disabled.
    """

    def __init__(self, *values: Any) -> None:
        self.held = None if DISABLED else np.array(values, np.int64)
        self.at: Any = values if self.held is None else address(self.held)


@intrinsic(prefer_literal=True)
def _constants(typing_context: Any, at: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.inttoptr(arguments[0], ir.PointerType())
        values = [
            builder.load(
                builder.gep(first, [ir.IntType(64)(i)], source_etype=ir.IntType(64)),
                typ=ir.IntType(64),
            )
            for i in range(count.literal_value)
        ]
        return context.make_tuple(builder, signature.return_type, values)

    kind: Any = types.UniTuple(types.int64, count.literal_value)  # type: ignore[no-untyped-call]
    return kind(types.int64, count), codegen


def _constants_twin(at: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(at) != count:
        raise IndexError(f"{count} of {len(at)} constants")
    return at


constants: Final[Any] = _constants_twin if DISABLED else _constants
"""`constants(at, count)`, in a kernel: the values of `Constants`, or its arguments."""


@intrinsic
def _item(typing_context: Any, at: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.IntType(64)
        first = builder.inttoptr(arguments[0], ir.PointerType())
        place = builder.gep(first, [arguments[1]], source_etype=whole)
        return builder.load(place, typ=whole)

    return types.int64(types.int64, types.int64), codegen


def _item_twin(at: Address, i: int) -> int:
    return int(at.row(i, 1)[0])


item: Final[Any] = _item_twin if DISABLED else _item
"""`item(at, i)`, in a kernel: element i of an array of 64-bit integers."""


_compiling = threading.Lock()


class Code:
    """A function of machine code for each dtype, compiled when first asked for.

    Parameters
    ----------
    name : str
        The function's name in the module.
    emit : callable
        Returns the module's LLVM IR for a dtype. The function takes 64-bit integers, addresses
        among them, and returns nothing.
    twin : callable
        Does the same in plain Python, with an `Address` for each address.
    """

    def __init__(self, name: str, emit: Callable[[Any], str], twin: Callable[..., None]) -> None:
        self.name, self.emit, self.twin = name, emit, twin
        self.known: dict[Any, Any] = {}

    def __call__(self, dtype: np.dtype[Any]) -> Any:
        """Return what `call` calls."""
        found = self.known.get(dtype)
        if found is None:
            with _compiling:  # several threads may come here at once
                found = self.known.get(dtype) or self._compiled(dtype)
                self.known[dtype] = found
        return found

    def _compiled(self, dtype: np.dtype[Any]) -> Any:
        if DISABLED:
            return self.twin
        return native(f"{self.name}-{dtype}", lambda: self.emit(dtype), self.name)


@intrinsic
def _call(typing_context: Any, code: Any, arguments: Any) -> Any:
    """Call the function at the address `code` with a tuple of integers."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, packed = values
        unpacked: Any = cgutils.unpack_tuple(builder, packed)  # type: ignore[no-untyped-call]
        integers = [
            context.cast(builder, v, kind, types.int64)
            for v, kind in zip(unpacked, signature.args[1], strict=True)
        ]
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(integers))
        builder.call(builder.inttoptr(address, kind.as_pointer()), integers)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


def _call_twin(code: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    code(*arguments)


call: Final[Any] = _call_twin if DISABLED else _call
"""`call(code, (integers...))`, in a kernel: run the machine code."""


def _after_fork() -> None:
    global _compiling
    _compiling = threading.Lock()  # the parent's may be held


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
