"""A loop in LLVM IR."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from llvmlite import ir


class Loop(NamedTuple):
    """What a turn of a loop knows."""

    index: ir.Value


@contextmanager
def for_range(b: ir.IRBuilder, stop: ir.Value, start: ir.Value | None = None) -> Iterator[Loop]:
    """Emit the block of `with` for each index from `start`, or 0, up to `stop`."""
    condition, body, end = (b.append_basic_block(f"for.{name}") for name in ("cond", "body", "end"))
    before = b.block
    b.branch(condition)
    b.position_at_end(condition)
    index = b.phi(stop.type, name="loop.index")
    b.cbranch(b.icmp_signed("<", index, stop), body, end)
    b.position_at_end(body)
    yield Loop(index)
    following = b.add(index, stop.type(1), flags=["nsw"])
    index.add_incoming(stop.type(0) if start is None else start, before)
    index.add_incoming(following, b.block)
    b.branch(condition)
    b.position_at_end(end)
