"""The floating-point mode of a thread, set and restored: see denormals.py."""

from typing import Any, Final

import llvmlite.binding as llvm

from .jit import Address, Code

_FLUSH: Final = 0x8040
"""Flush-to-zero and denormals-are-zero, of MXCSR."""


def _emit(dtype: Any) -> str:
    """Emit `denormals(flush, restore, place)`: set the mode and keep the old one, or restore it."""
    if not llvm.get_process_triple().startswith(("x86_64", "i386", "i686")):
        return "define void @denormals(i64 %flush, i64 %restore, i64 %place) { ret void }"
    return f"""
        declare void @llvm.x86.sse.stmxcsr(ptr)
        declare void @llvm.x86.sse.ldmxcsr(ptr)
        define void @denormals(i64 %flush, i64 %restore, i64 %place) {{
            %asked = icmp ne i64 %flush, 0
            br i1 %asked, label %change, label %done
        change:
            %kept = inttoptr i64 %place to ptr
            %back = icmp ne i64 %restore, 0
            br i1 %back, label %old, label %new
        old:
            call void @llvm.x86.sse.ldmxcsr(ptr %kept)
            ret void
        new:
            call void @llvm.x86.sse.stmxcsr(ptr %kept)
            %mode = load i32, ptr %kept
            %with = or i32 %mode, {_FLUSH}
            %set = getelementptr i32, ptr %kept, i64 1
            store i32 %with, ptr %set
            call void @llvm.x86.sse.ldmxcsr(ptr %set)
            ret void
        done:
            ret void
        }}
    """


def _twin(flush: int, restore: int, place: Address) -> None:
    place.row(0, 1)


flush: Final = Code("denormals", _emit, _twin)
"""`flush(dtype)`: code with the arguments flush, restore, place: eight bytes of the thread."""
