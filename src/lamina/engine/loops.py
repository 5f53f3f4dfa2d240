"""Loops in LLVM IR."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from llvmlite import ir

State = list[ir.Value]


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


def loop_while(
    b: ir.IRBuilder,
    state: State,
    going: Callable[[State], ir.Value],
    body: Callable[[State], State],
) -> State:
    """Emit `while going(state): state = body(state)`; return the state behind it."""
    head, inside, behind = (b.append_basic_block(name) for name in ("head", "inside", "behind"))
    before = b.block
    b.branch(head)
    b.position_at_end(head)
    now = [b.phi(value.type) for value in state]
    for phi, value in zip(now, state, strict=True):
        phi.add_incoming(value, before)
    b.cbranch(going(now), inside, behind)
    b.position_at_end(inside)
    after = body(now)
    for phi, value in zip(now, after, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(behind)
    return now


def is_below(b: ir.IRBuilder, end: ir.Value, state: State) -> ir.Value:
    """Tell whether the count state[0] is below the end."""
    return b.icmp_signed("<", state[0], end)
