"""Machine code: that of kernels and of LLVM IR, the CPU that it is for, and its cache.

Numba takes long to import, and is imported (by compiler.py) only where a kernel must be compiled.
"""

import atexit
import contextlib
import ctypes
import gc
import hashlib
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from .memory import HEADER, pointer

NDArray = npt.NDArray[Any]
Task: TypeAlias = tuple[Any, ...]
"""The integers that a kernel is given: sizes, strides, addresses."""

DISABLED: Final = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
"""Whether NUMBA_DISABLE_JIT=1: kernels run as plain Python, tiles as their twin."""


# The CPU


@cache
def cpu() -> tuple[str, str]:
    """Return name and features of the CPU to compile for; NUMBA_CPU_NAME and _FEATURES override."""
    name = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name else llvm.get_host_cpu_features().flatten()
    return name or llvm.get_host_cpu_name(), features


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


@cache
def is_amd() -> bool:
    """Return whether the CPU is one of AMD's, from Zen on."""
    return cpu()[0].startswith("znver")


# The cache on disk

UNUSED: Final = 30 * 24 * 3600
"""Seconds after which compiled code of other sources, or of another CPU, is removed."""


FILES: Final = sorted(Path(__file__).parent.parent.glob("*/**/*.py"))
"""All sources in folders, as kernels are; none where the package came without."""


def stamps() -> list[tuple[int, int]]:
    """Return when each source was written, and its size; nothing where one is gone."""
    try:
        return [(found.st_mtime_ns, found.st_size) for found in map(os.stat, FILES)]
    except OSError:
        return []


def sources() -> str:
    """Name all engine and kernel sources, and what compiles them, by a hash."""
    digest = hashlib.sha256()
    for path in FILES:
        source = path.read_bytes()
        if path.parent.name == "engine" or b"engine" in source:
            digest.update(source)
    versions = (sys.version_info[:2], HEADER, version("numba"), llvm.llvm_version_info, *cpu())
    digest.update(repr(versions).encode())
    return f"lamina-{digest.hexdigest()[:24]}"


STAMPS: Final = stamps()
KEY: Final = sources() if FILES else ""
"""What is imported later may be of other sources: then the stamps are others, too."""


@cache
def folder() -> Path | None:
    """Return the folder for compiled code; None where there is none, and none can be written.

    LAMINA_CACHE_DIR names its parent; by default it lies in the user's cache folder.
    """
    if not KEY:
        return None
    parent = os.environ.get("LAMINA_CACHE_DIR")
    if not parent:
        parent = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lamina"
        )
        if parent.startswith("~"):  # a user without a home
            return None
    path = Path(os.path.abspath(parent), KEY)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}"
        probe.touch()  # which says that the folder is in use, too
        probe.unlink()
        _tidy(path)
    except OSError:
        return path if os.path.isdir(path) else None  # to read, maybe
    return path


def _tidy(path: Path) -> None:
    """Remove the folders beside `path` that no process has begun to use, or written to, of late."""
    for other in path.parent.iterdir():
        if other != path and re.fullmatch("lamina-[0-9a-f]{24}", other.name):
            with contextlib.suppress(OSError):  # it may be another's, or gone by now
                if other.stat().st_mtime < time.time() - UNUSED:
                    for file in other.iterdir():
                        if re.search(r"\.(code|\d+)$", file.name):  # what this module writes
                            file.unlink()
                    other.rmdir()


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
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            unfinished.write_bytes(hashlib.sha256(code).digest() + code)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)  # the disk is full, say


_engines: list[Any] = []  # machine code lives as long as the engine that holds it


def machine() -> Any:
    """Return what turns IR into machine code."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = cpu()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=name, features=features, opt=3, jit=True)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles of garbage: to write IR makes many objects, which live until it is done.

    It takes a third of the time, otherwise.
    """
    enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if enabled:
            gc.enable()


def native(name: str, emit: Callable[[], str], function: str) -> int:
    """Return the address of a function in a module of LLVM IR, compiled once a machine.

    Parameters
    ----------
    name : str
        Names the module in the cache; it is not kept there without a name.
    emit : callable
        Returns the IR, where it was not compiled before.
    function : str
    """
    parent = folder() if name and stamps() == STAMPS else None
    path = parent / f"{name}.code" if parent else None
    code = None if path is None else _read(path)
    if code is None:
        with _uncollected():
            module = llvm.parse_assembly(emit())
        module.verify()
        code = machine().emit_object(module)
        if path is not None:
            _write(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(function))


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


class Operation:
    """What kernels alone can do; compiler.py knows by its name how."""

    def __init__(self, name: str) -> None:
        self.name = name


def operation(name: str, twin: Callable[..., Any]) -> Any:
    """Return an operation; what does the same in Python where the JIT is disabled."""
    return twin if DISABLED else Operation(name)


def address(array: NDArray) -> Any:
    """Return where the data of an array begins; hold on to the array while it is used."""
    return Address(array) if DISABLED else pointer(array)


held: Final[Any] = Address if DISABLED else id
"""`held(array)`: what `data` turns into its address in a kernel, in less time than here."""


def _data_twin(held: Address) -> Address:
    return held


data: Final = operation("data", _data_twin)
"""`data(held)`, in a kernel: where the data of an array begins."""


def table(rows: Sequence[Any]) -> NDArray:
    """Return integers and addresses as an array of so many rows, for a kernel to read."""
    return np.array(rows, object if DISABLED else np.int64)


class Constants:
    """Integers that a kernel reads whenever it runs: handing over where they are takes less time.

    An array among them stands for where it begins, and is kept.

    Attributes
    ----------
    at : int
        What `constants` takes in a kernel; the values themselves where the JIT is disabled.
    """

    def __init__(self, *values: Any) -> None:
        self.kept = values
        found = tuple(address(v) if isinstance(v, np.ndarray) else v for v in values)
        self.held = None if DISABLED else np.array(found, np.int64)
        self.at: Any = found if self.held is None else address(self.held)


def _constants_twin(at: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(at) != count:
        raise IndexError(f"{count} of {len(at)} constants")
    return at


constants: Final = operation("constants", _constants_twin)
"""`constants(at, count)`, in a kernel: the values of `Constants`, or its arguments."""


int64: Final = operation("int64", int)
"""`int64(i)`, in a kernel: no literal, for which what takes it would be compiled once more."""


def _item_twin(at: Address, i: int) -> int:
    return int(at.row(i, 1)[0])


item: Final = operation("item", _item_twin)
"""`item(at, i)`, in a kernel: element i of an array of 64-bit integers."""


_compiling = threading.RLock()
"""One thread compiles at a time; what it is interrupted by, a signal's handler say, may as well."""


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


def _call_twin(code: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    code(*arguments)


call: Final = operation("call", _call_twin)
"""`call(code, (integers...))`, in a kernel: run the machine code."""


# Kernels


class Entry(NamedTuple):
    """Where the code of a kernel begins, and the same as a function of Python."""

    at: int
    run: Callable[..., None]


class Kernel:
    """A function of integers, of tuples of them and of C-contiguous arrays; it returns nothing.

    It is compiled when first asked for, to a function of two integers: its first argument, and the
    address of the others, as `words` lays them. Called in Python, it runs as Python.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.known: dict[Any, Entry] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run it in Python."""
        return self.function(*arguments)

    def entry(self, kinds: tuple[Any, ...] | int = 2) -> Entry:
        """Return the code for arguments of these kinds, behind the first.

        A number: there are so many arguments, all integers, and these are those of the code.
        """
        found = self.known.get(kinds)
        if found is None:
            with _compiling:
                found = self.known.get(kinds) or self._compiled(kinds)
                self.known[kinds] = found
        return found

    def _compiled(self, kinds: tuple[Any, ...] | int) -> Entry:
        def emit() -> str:
            from . import compiler  # which imports Numba

            ir: str = compiler.emit(self, kinds, "kernel")
            return ir

        package, _, module = self.function.__module__.partition(".")
        parts = [module, self.function.__name__]
        parts += map(_label, kinds if isinstance(kinds, tuple) else ())
        # The cache knows when a source of this package changes, not when another's does.
        name = "-".join(parts) if package == __name__.partition(".")[0] else ""
        at = native(name, emit, "kernel")
        return Entry(at, _callable(at, kinds if isinstance(kinds, int) else 2))


def _label(kind: Any) -> str:
    """Return what the name of code says of a kind of argument."""
    if isinstance(kind, Elsewhere):
        return "at" + "_".join(map(_label, kind.kinds))
    return "".join(map(str, kind)) if isinstance(kind, tuple) else str(kind or "")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel when it is first needed: strict floating point, NumPy's division, no GIL.

    It raises nothing.
    """
    return function if DISABLED else Kernel(function)


@cache
def packer(count: int) -> Callable[..., bytes]:
    """Return what packs so many integers."""
    return struct.Struct(f"{count}q").pack


BYTES: Final = bytes.__basicsize__ - 1
"""Bytes of such an object before what it holds, to which CPython adds a zero."""


class Elsewhere(NamedTuple):
    """The kind of `Arguments`: several arguments, of these kinds."""

    kinds: tuple[Any, ...]


class Late(NamedTuple):
    """Stands for an array argument that comes later: what `held` will say of it, and its form."""

    held: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def words(arguments: Sequence[Any]) -> tuple[tuple[Any, ...], list[int]]:
    """Return the kinds of arguments, and their integers: of an array `held` and its shape.

    The kind of a tuple is how many integers it has, that of an array its type and dimensions. Of
    `Arguments` there is one integer: where their own are.
    """
    kinds: list[Any] = []
    found: list[int] = []
    for a in arguments:
        if isinstance(a, Late):
            kinds.append((a.dtype.char, len(a.shape)))
            found += a.held, *a.shape
        elif isinstance(a, tuple):
            kinds.append(len(a))
            found += a
        elif isinstance(a, np.ndarray):
            if not a.flags.c_contiguous:
                raise ValueError("kernels take C-contiguous arrays")
            kinds.append((a.dtype.char, a.ndim))
            found.append(id(a))
            found += a.shape
        elif isinstance(a, Arguments):
            kinds.append(a.kind)
            found.append(id(a.packed) + BYTES)
        else:
            kinds.append(None)
            found.append(a)
    return tuple(kinds), found


class Arguments:
    """Arguments of a kernel that stay from call to call."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = tuple(
            np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in arguments
        )
        kinds, found = ((), []) if DISABLED else words(self.arguments)
        self.kind = Elsewhere(kinds)
        self.packed = packer(len(found))(*found)


def run(kernel: Any, first: int, *arguments: Any) -> None:
    """Run a kernel on these arguments, without the GIL."""
    if DISABLED:
        kernel(first, *arguments)
    else:
        kinds, found = words(arguments)
        packed = packer(len(found))(*found)
        kernel.entry(kinds).run(first, id(packed) + BYTES)


_ENTER: Final = """
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyErr_Occurred()
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare ptr @Py_BuildValue(ptr, ...)
@nothing = private constant [1 x i8] zeroinitializer

define ptr @enter(ptr %self, ptr %arguments, i64 %count) {{
{read}
  %error = call ptr @PyErr_Occurred()
  %right = icmp eq ptr %error, null
  br i1 %right, label %run, label %end

run:
  %state = call ptr @PyEval_SaveThread()
  %function = inttoptr i64 %code to ptr
  call void %function({given})
  call void @PyEval_RestoreThread(ptr %state)
  %none = call ptr (ptr, ...) @Py_BuildValue(ptr @nothing)
  ret ptr %none

end:
  ret ptr null
}}
"""
_READ: Final = """
  %place{i} = getelementptr ptr, ptr %arguments, i64 {i}
  %object{i} = load ptr, ptr %place{i}
  %integer{i} = call i64 @PyLong_AsLongLong(ptr %object{i})
"""
_READ_CODE: Final = """
  %code = call i64 @PyLong_AsLongLong(ptr %self)
"""
_READ_TABLE: Final = f"""
  %field = getelementptr i8, ptr %self, i64 {HEADER}
  %table = load i64, ptr %field
  %first = inttoptr i64 %table to ptr
  %code = load i64, ptr %first
  %late = getelementptr ptr, ptr %arguments, i64 1
  %held = ptrtoint ptr %late to i64
"""


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_FASTCALL: Final = 0x80


@cache
def _method(name: str, read: str, given: str) -> _Method:
    """Return how Python calls code: what it reads of its arguments, and gives to the code."""
    for symbol in re.findall(r"declare \w+ @(\w+)", _ENTER):
        function = ctypes.cast(getattr(ctypes.pythonapi, symbol), ctypes.c_void_p)
        llvm.add_symbol(symbol, function.value)
    emit = partial(_ENTER.format, read=read, given=given)
    return _Method(b"enter", native(f"enter-{name}", emit, "enter"), _FASTCALL, None)


_prototype: Final = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object
)
_new: Final = _prototype(("PyCFunction_NewEx", ctypes.pythonapi))


def _function(method: _Method, own: Any, keep: Any) -> Callable[..., None]:
    """Return a function of Python that lets the GIL go; it holds on to what is its own."""
    found: Callable[..., None] = _new(ctypes.addressof(method), own, keep)
    return found


def _callable(code: int, count: int) -> Callable[..., None]:
    """Return code of so many integers as a function of Python."""
    read = _READ_CODE + "".join(_READ.format(i=i) for i in range(count))
    given = ", ".join(f"i64 %integer{i}" for i in range(count))
    return _function(_method(str(count), read, given), code, None)


def with_table(table: NDArray, keep: Any) -> Callable[..., None]:
    """Return a function of Python that runs the code whose address a table of integers begins with.

    It takes an integer and any number of arrays, which it hands on as where they are `held`: those
    that CPython calls with lie in a row. The code takes the integer, the table and that place.
    """
    read = _READ.format(i=0) + _READ_TABLE
    with _compiling:
        method = _method("table", read, "i64 %integer0, i64 %table, i64 %held")
    return _function(method, table, keep)


def _after_fork() -> None:
    global _compiling
    _compiling = threading.RLock()


if hasattr(os, "register_at_fork"):
    # A fork waits until nobody compiles: locks of LLVM and of imports would stay held in the child.
    os.register_at_fork(
        before=lambda: _compiling.acquire(),
        after_in_parent=lambda: _compiling.release(),
        after_in_child=_after_fork,
    )
# So does the end of the process, which would take LLVM down meanwhile; nobody begins after that.
atexit.register(lambda: _compiling.acquire())
