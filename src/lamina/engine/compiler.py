"""How kernels become LLVM IR: by Numba, the only place for its flags.

What kernels call beside each other and what Numba knows are the operations here, by name.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Final

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.registry import cpu_target
from numba.core.typed_passes import (
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
)
from numba.core.untyped_passes import (
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    TranslateByteCode,
)
from numba.extending import intrinsic, typeof_impl
from numba.np.arrayobj import make_array, populate_array

from .jit import Elsewhere, Kernel, Operation, machine
from .memory import HEADER
from .pool import LATEST, MOST, OFFSET, ROW

_i64: Final = ir.IntType(64)
_pointer: Final = ir.PointerType()
_ints: Any = types.UniTuple


# Operations


@intrinsic
def _data(typing_context: Any, held: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_field(builder, arguments[0]), typ=_i64)

    return types.int64(types.int64), codegen


def _field(builder: Any, held: Any) -> Any:
    """Return where an array keeps the address of its data."""
    return builder.inttoptr(builder.add(held, _i64(HEADER)), _pointer)


@intrinsic(prefer_literal=True)
def _constants(typing_context: Any, at: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _loaded(builder, builder.inttoptr(arguments[0], _pointer), 0, count.literal_value)
        return context.make_tuple(builder, signature.return_type, values)

    return _ints(types.int64, count.literal_value)(types.int64, count), codegen


def _loaded(builder: Any, first: Any, start: int, count: int) -> list[Any]:
    return [
        builder.load(builder.gep(first, [_i64(start + i)], source_etype=_i64), typ=_i64)
        for i in range(count)
    ]


def _word(builder: Any, at: Any, i: Any) -> Any:
    return builder.gep(builder.inttoptr(at, _pointer), [i], source_etype=_i64)


@intrinsic
def _item(typing_context: Any, at: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word(builder, *arguments), typ=_i64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _call(typing_context: Any, code: Any, arguments: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, packed = values
        unpacked: Any = cgutils.unpack_tuple(builder, packed)  # type: ignore[no-untyped-call]
        integers = [
            context.cast(builder, v, kind, types.int64)
            for v, kind in zip(unpacked, signature.args[1], strict=True)
        ]
        kind = ir.FunctionType(ir.VoidType(), [_i64] * len(integers))
        builder.call(builder.inttoptr(address, kind.as_pointer()), integers)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


def _atomic(operation: str) -> Any:
    def typed(typing_context: Any, shared: Any, word: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *place, value = arguments
            return builder.atomic_rmw(operation, _word(builder, *place), value, "acq_rel")

        return types.int64(types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


@intrinsic
def _read(typing_context: Any, shared: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_word(builder, *arguments), "acquire", 8, typ=_i64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _rest(typing_context: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, hint = "", []
        if llvm.get_process_triple().startswith(("x86_64", "i686")):
            name = "llvm.x86.sse2.pause"
        elif llvm.get_process_triple().startswith(("aarch64", "arm64")):
            name, hint = "llvm.aarch64.hint", [ir.IntType(32)(1)]
        if name:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in hint])
            insert: Any = cgutils.get_or_insert_function
            builder.call(insert(builder.module, kind, name), hint)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _filled(typing_context: Any, row: Any, late: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        row, late = values
        once: Any = cgutils.alloca_once
        memory = once(builder, _i64, size=MOST)
        for i in range(MOST):
            place = _word(builder, row, _i64(ROW - MOST + i))
            word = builder.load(place, typ=_i64)
            stands = builder.icmp_signed("<", word, _i64(0))
            to_data = builder.icmp_signed("<", word, _i64(LATEST // 2))
            data = builder.sub(word, _i64(LATEST))
            number = builder.select(to_data, builder.lshr(data, _i64(OFFSET)), builder.not_(word))
            place = builder.select(stands, _word(builder, late, number), place)
            found = builder.load(place, typ=_i64)
            place = builder.select(to_data, _field(builder, found), place)
            offset = builder.and_(data, _i64((1 << OFFSET) - 1))
            offset = builder.select(to_data, offset, _i64(0))
            into = builder.gep(memory, [_i64(i)], source_etype=_i64)
            builder.store(builder.add(builder.load(place, typ=_i64), offset), into)
        return builder.ptrtoint(memory, _i64)

    return types.int64(types.int64, types.int64), codegen


OPERATIONS: Final = {
    "data": _data,
    "constants": _constants,
    "int64": types.int64,
    "item": _item,
    "call": _call,
    "exchange": _atomic("xchg"),
    "add": _atomic("add"),
    "read": _read,
    "rest": _rest,
    "filled": _filled,
}


@typeof_impl.register(Operation)
def _operation(value: Any, context: Any) -> Any:
    return cpu_target.typing_context.resolve_value_type(OPERATIONS[value.name])


# Kernels


# Numba has no types.
_IR: Any = codegen.JITCodeLibrary
_Lower: Any = Lower
_Pass: Any = NativeLowering
_Passes: Any = CompilerBase
_Manager: Any = PassManager
_register: Any = register_pass
_locked: Any = global_compiler_lock


class _Library(_IR):  # type: ignore[misc]
    """IR as Numba's front end writes it: `emit` optimises all that a kernel calls at once."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self.codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _Writer(_Lower):  # type: ignore[misc]
    """What writes IR, without what Numba does for operations on literals, and for debuggers."""

    def lower_binop(self, kind: Any, operation: Any, operator: Any) -> Any:
        """Write an operation of two operands, whose result is of that kind."""
        context, builder = self.context, self.builder
        kinds = self.fndesc.calltypes[operation].args
        function = context.typing_context.resolve_value_type(operator)
        signature = _Typing(context.typing_context).resolve_function_type(function, kinds, {})
        operands = [
            context.cast(builder, self.loadvar(a.name), self.typeof(a.name), wanted)
            for a, wanted in zip((operation.lhs, operation.rhs), kinds, strict=True)
        ]
        result = context.get_function(function, signature)(builder, operands)
        return context.cast(builder, result, signature.return_type, kind)

    def alloca_lltype(self, name: str, kind: Any, datamodel: Any = None) -> Any:
        """Write that a variable has a place in memory."""
        once: Any = cgutils.alloca_once
        return once(self.builder, kind, name=name)


@_register(mutates_CFG=True, analysis_only=False)
class _Lowering(_Pass):  # type: ignore[misc]
    _name = "kernel_lowering"
    lowering_class = _Writer

    def run_pass(self, state: Any) -> bool:
        super().run_pass(state)
        name: Any = [].append  # by which Numba finds what others call: any built-in, of its own
        state.cr = state.cr._replace(cfunc=name)
        state.targetctx.insert_user_function(name, state.cr.fndesc, [state.library])
        return True


class _Typing:
    """What Numba knows of types, which looks up once alone what an operator makes of some."""

    known: ClassVar[dict[Any, Any]] = {}

    def __init__(self, context: Any) -> None:
        self.context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def resolve_function_type(self, function: Any, arguments: Any, named: Any) -> Any:
        """Return the signature of a call."""
        resolve = self.context.resolve_function_type
        if named or not isinstance(function, types.Function):  # a kernel may be compiled only now
            return resolve(function, arguments, named)
        key = function, tuple(arguments)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = resolve(function, arguments, named)
        return found


PASSES: Final = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    GenericRewrites,
    NopythonTypeInference,
    AnnotateTypes,
    _Lowering,
    NoPythonBackend,
)
"""Those that kernels need: no closures, objects, array expressions, or variables to delete."""


class _Compiler(_Passes):  # type: ignore[misc]
    """Numba's, for kernels."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        state = self.state
        state.flags.no_compile = True
        state.typingctx = _Typing(state.typingctx)
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        manager = _Manager("kernel")
        for one in PASSES:
            manager.add_pass(one, one._name)
        manager.finalize()
        return [manager]


_FLAGS: Final[Any] = {
    "pipeline_class": _Compiler,
    "error_model": "numpy",
    "fastmath": False,
    "_nrt": False,  # kernels take arrays as they are, and make none
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


@cache
def _compiled(function: Callable[..., Any]) -> Any:
    return numba.njit(function, **_FLAGS)


@typeof_impl.register(Kernel)
def _kernel(value: Any, context: Any) -> Any:
    kind: Any = types.Dispatcher
    return kind(_compiled(value.function))


def _kind(kind: Any) -> Any:
    """Return Numba's type for what `jit.words` says of an argument."""
    if kind is None:
        return types.int64
    if isinstance(kind, int):
        return _ints(types.int64, kind)
    array: Any = types.Array
    dtype, dimensions = kind
    return array(numba.from_dtype(np.dtype(dtype)), dimensions, "C")


def _kinds(kinds: tuple[Any, ...]) -> list[Any]:
    """Return Numba's types for those of several arguments."""
    found = []
    for kind in kinds:
        found += _kinds(kind.kinds) if isinstance(kind, Elsewhere) else [_kind(kind)]
    return found


def _values(context: Any, builder: Any, at: Any, kinds: tuple[Any, ...]) -> list[Any]:
    """Return arguments of these kinds, whose integers are read."""
    base, values, i = builder.inttoptr(at, _pointer), [], 0
    for kind in kinds:
        count = 1
        if isinstance(kind, int):
            count = kind
        elif isinstance(kind, tuple) and not isinstance(kind, Elsewhere):
            count = 1 + kind[1]
        words = _loaded(builder, base, i, count)
        i += count
        if isinstance(kind, Elsewhere):
            values += _values(context, builder, words[0], kind.kinds)
        elif isinstance(kind, int):
            values.append(context.make_tuple(builder, _kind(kind), words))
        elif kind is None:
            values += words
        else:
            values.append(_array(context, builder, _kind(kind), words[0], words[1:]))
    return values


def _array(context: Any, builder: Any, kind: Any, held: Any, shape: list[Any]) -> Any:
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [_i64(size)]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    make: Any = make_array
    populate: Any = populate_array
    array = make(kind)(context, builder)
    data = builder.load(_field(builder, held), typ=_pointer)
    populate(array, data=data, shape=shape, strides=strides, itemsize=_i64(size), meminfo=None)
    return array._getvalue()


def _spread(kernel: Kernel, kinds: tuple[Any, ...]) -> Callable[[int, int], None]:
    """Return a kernel as a function of two integers: it reads its other arguments."""
    given = _kinds(kinds)

    def typed(typing_context: Any, first: Any, at: Any) -> Any:
        called = typing_context.resolve_value_type(kernel)
        inner = called.get_call_type(typing_context, (types.int64, *given), {})

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, at = arguments
            values = [first, *_values(context, builder, at, kinds)]
            run = context.get_function(called, inner)
            context.add_linking_libs(getattr(run, "libs", ()))
            return run(builder, values)

        return types.void(types.int64, types.int64), codegen

    spread: Any = intrinsic(typed)

    def whole(first: int, at: int) -> None:
        spread(first, at)

    return whole


_ENTRY: Final = """
define void @"{name}"({given}) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{inner}"(ptr %result, ptr %error, {given})
  ret void
}}
"""


@_locked  # type: ignore[untyped-decorator]
def emit(kernel: Kernel, kinds: tuple[Any, ...] | int, name: str) -> str:
    """Return the IR of a function of that name: of integers, and it returns nothing."""
    compiled: Any = _compiled(kernel.function)
    count: Any = kinds
    if isinstance(kinds, tuple):
        compiled, count = _compiled(_spread(kernel, kinds)), 2
    whole = (types.int64,) * count
    compiled.compile(whole)
    found = compiled.overloads[whole]
    # As Numba calls: where to put the result and what is raised come first.
    given = ", ".join(f"i64 %{i}" for i in range(count))
    entry = _ENTRY.format(name=name, inner=found.fndesc.llvm_func_name, given=given)
    found.library._ensure_finalized()  # as part of another kernel, it is
    module = llvm.parse_assembly(found.library.get_llvm_str() + entry)
    for function in module.functions:
        if not function.is_declaration and function.name != name:
            function.linkage = "internal"
    # Sizes and addresses: nothing here is worth a vector.
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine(), tuning)
    builder.getModulePassManager().run(module, builder)
    return str(module)
