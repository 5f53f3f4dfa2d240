"""Steps on arrays of known shapes, planned once and run often: how an inference model computes.

A *step* computes one array from others. What follows from shapes alone it knows beforehand. A
`Plan` notes the steps; a `Program` lays out the arrays between x and y in one memory, where an
array takes the place of those that no later step reads, and runs the steps. Only y is new at each
call.
"""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from . import pool
from .jit import DISABLED, held
from .matmul import Given, contiguous
from .memory import ALIGNMENT, LEAST, aligned, empty
from .pool import Ready, Run

NDArray = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Bind: TypeAlias = Callable[[NDArray], Run]
"""`bind(scratch)` returns `run(*sources, target)`, which writes the target, and works in those
bytes, which begin a cache line."""
Prepare: TypeAlias = Callable[..., Ready | None]
"""`prepare(*sources, target, scratch)` returns a step as a call that is ready, if it can be one,
for what `held` says of the arrays: it takes less time than what runs."""

AT_ONCE: Final = os.cpu_count() or 1
"""For how many calls at once a program keeps memory, if it is more than `KEPT` in all: it may be
called from hundreds of threads, but more than that find no core."""
KEPT: Final = 2**21 * max(AT_ONCE, 8)
"""The most bytes that a program keeps from call to call, those in which threads work among them;
beyond, to ask for memory takes no time beside the work on it."""
_BYTE: Final = np.dtype(np.uint8)


class PlanError(Exception):
    """There is no plan, or none that pays: a call must do, which may say what is wrong."""


class Step(NamedTuple):
    """A step, and the numbers of the arrays that it reads and writes.

    `in_place` tells that the target may lie where the first source lies.
    """

    bind: Bind
    sources: tuple[int, ...]
    target: int
    in_place: bool
    ready: Prepare | None = None


class Plan:
    """Steps in the order in which they run. Arrays are known by their number; that of x is 0.

    Attributes
    ----------
    dtype : dtype
        That of all arrays.
    shapes : list of tuple of int
        That of each array.
    owners : list of int
        In whose memory each array lies: its own, or that of one it is a view of.
    steps : list of Step
    scratch : int
        The most bytes that a step works in.
    """

    def __init__(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.shapes = [shape]
        self.owners = [0]
        self.steps: list[Step] = []
        self.scratch = 0

    def add(
        self,
        shape: Shape,
        run: Run,
        *sources: int,
        in_place: bool = False,
        scratch: int = 0,
        ready: Prepare | None = None,
    ) -> int:
        """Note a step whose target has that shape; return the target's number."""
        bind: Bind = lambda scratch: run  # noqa: E731
        return self.add_bound(shape, bind, scratch, *sources, in_place=in_place, ready=ready)

    def add_bound(
        self,
        shape: Shape,
        bind: Bind,
        scratch: int,
        *sources: int,
        in_place: bool = False,
        ready: Prepare | None = None,
    ) -> int:
        """Note a step that works in so many bytes of scratch; return the target's number."""
        target = len(self.shapes)
        self.shapes.append(shape)
        self.owners.append(target)
        self.steps.append(Step(bind, sources, target, in_place, ready))
        self.scratch = max(self.scratch, scratch)
        return target

    def multiply(self, x: int, product: Given, shape: Shape) -> int:
        """Note a product of an array's rows, which gives one of that shape; return its number."""
        rows = math.prod(self.shapes[x]) // product.k
        ready, scratch = partial(product.ready, rows), product.scratch(rows)
        return self.add(shape, lambda x, y: product(x, rows, y), x, scratch=scratch, ready=ready)

    def check(self, dtype: np.dtype[Any] | None) -> None:
        """Refuse another dtype than that of the plan."""
        if dtype != self.dtype:
            raise PlanError(f"a plan for {self.dtype} has a layer in {dtype}")

    def view(self, source: int, shape: Shape) -> int:
        """Return the number of an array that is another one in that shape."""
        self.shapes.append(shape)
        self.owners.append(self.owners[source])
        return len(self.shapes) - 1

    def bytes(self, number: int) -> int:
        """Return the size of an array, as whole lines of the cache."""
        size = math.prod(self.shapes[number]) * self.dtype.itemsize
        return -(-size // ALIGNMENT) * ALIGNMENT


class Memory(NamedTuple):
    """What a call of a program works with.

    `arrays` lacks x and y, and what is a view of them. `runs` are the steps, each with the numbers
    of the arrays that it is called with; those that are ready, and run as one, are called with x
    and y alone. `scratch` is where they work.
    """

    arrays: list[Any]
    runs: list[tuple[Run, tuple[int, ...] | None]]
    scratch: NDArray


class Program:
    """A plan as a function of x that returns the array of number `result`.

    Any number of threads may call it. A call has memory of its own: that of a call that is over, if
    there was one.
    """

    def __init__(self, plan: Plan, result: int) -> None:
        self.plan, self.result, self.y = plan, result, plan.owners[result]
        self.places, self.size = _laid_out(plan, self.y)
        self.waiting: list[Memory] = []
        self.views = [
            i for i, owner in enumerate(plan.owners) if owner != i and owner in (0, self.y)
        ]
        self.shape, self.dtype = plan.shapes[self.y], plan.dtype
        small = math.prod(self.shape) * self.dtype.itemsize < LEAST
        self.new = np.empty if small else empty
        self.only = self._only()

    def __call__(self, x: NDArray) -> NDArray:
        """Return y for x, of the shape and dtype that were planned."""
        if not x.flags.carray:  # what comes mostly, sooner: it may be read-only
            x = contiguous(x)
        if self.only is not None:
            y = self.new(self.shape, self.dtype)
            self.only(x, y)
            return y
        y = self.new(self.shape, self.dtype) if self.y else x
        self.write(x, y)
        return y if self.result == self.y else y.reshape(self.plan.shapes[self.result])

    def write(self, x: NDArray, y: NDArray) -> None:
        """Compute y, of the shape `shape`; both arrays are C-contiguous."""
        try:
            memory = self.waiting.pop()
        except IndexError:
            memory = self.memory(*_room([self]))
        self.run(memory, x, y)
        if _keeps(self.waiting, self):
            self.waiting.append(memory)

    def run(self, memory: Memory, x: NDArray, y: NDArray) -> None:
        """Compute y, as `write` does, in a memory of this program."""
        arrays: list[Any] = []
        for run, numbers in memory.runs:
            if numbers is None:
                run(x, y)
                continue
            if not arrays:
                arrays = self._arrays(memory, x, y)
            run(*[arrays[i] for i in numbers])

    def _only(self) -> Run | None:
        """Return all steps as one run, if they are, with no other arrays than x and y: or None."""
        if self.places or self.plan.scratch or self.result != self.y:
            return None
        self.kept = self.memory(*_room([self]))  # the run looks up its scratch, empty or not
        found = [run for run, numbers in self.kept.runs if numbers is None]
        return found[0] if len(found) == len(self.kept.runs) == 1 else None

    def _arrays(self, memory: Memory, x: NDArray, y: NDArray) -> list[Any]:
        """Return all arrays of a call."""
        arrays = memory.arrays.copy()
        arrays[0], arrays[self.y] = x, y
        for i in self.views:
            arrays[i] = arrays[self.plan.owners[i]].reshape(self.plan.shapes[i])
        return arrays

    def memory(self, space: NDArray, scratch: NDArray) -> Memory:
        """Return what calls one after the other use again, in what `_room` gave."""
        plan = self.plan
        arrays: list[Any] = [None] * len(plan.shapes)
        for i, (shape, owner) in enumerate(zip(plan.shapes, plan.owners, strict=True)):
            if owner in self.places:
                first, count = self.places[owner], math.prod(shape) * plan.dtype.itemsize
                arrays[i] = space[first : first + count].view(plan.dtype).reshape(shape)
        runs: list[tuple[Run, tuple[int, ...] | None]] = []
        steps = [(step, self._ready(step, arrays, scratch)) for step in plan.steps]
        for is_ready, group in itertools.groupby(steps, lambda pair: pair[1] is not None):
            some = list(group)
            calls = [ready for _, ready in some if ready is not None]
            if is_ready:
                runs.append((pool.in_order(*calls), None))
            else:
                runs += [(step.bind(scratch), (*step.sources, step.target)) for step, _ in some]
        return Memory(arrays, runs, scratch)

    def _ready(self, step: Step, arrays: list[Any], scratch: NDArray) -> Ready | None:
        """Return a step as a call that is ready, if it can be one."""
        if step.ready is None or DISABLED:
            return None
        later = {self.y: pool.late(1), 0: pool.late(0)}
        numbers = *step.sources, step.target
        places = [later.get(self.plan.owners[i]) or held(arrays[i]) for i in numbers]
        return step.ready(*places, scratch)


class Microbatches:
    """Programs for a batch, one after the other, each for some samples; `then` ends it for all.

    What lies between x and y stays in the caches, and takes less memory: all work in the same.
    """

    def __init__(self, programs: Sequence[Program], then: Callable[[NDArray], NDArray]) -> None:
        self.programs, self.then = programs, then
        self.counts = [program.plan.shapes[0][0] for program in programs]
        first = programs[0]
        self.shape = (sum(self.counts), *first.plan.shapes[first.result][1:])
        self.waiting: list[dict[Program, Memory]] = []

    def __call__(self, x: NDArray) -> NDArray:
        """Return y for x, of the shape and dtype that were planned."""
        x, y, end = contiguous(x), empty(self.shape, x.dtype), 0
        try:
            memories = self.waiting.pop()
        except IndexError:
            room = _room(self.programs)
            memories = {program: program.memory(*room) for program in set(self.programs)}
        for program, count in zip(self.programs, self.counts, strict=True):
            first, end = end, end + count
            program.run(memories[program], x[first:end], y[first:end].reshape(program.shape))
        if all(_keeps(self.waiting, program) for program in memories):
            self.waiting.append(memories)
        return self.then(y)


def _keeps(waiting: Sequence[Any], program: Program) -> bool:
    """Tell whether the memory of one more call of a program may wait for the next."""
    count, size = len(waiting), program.size + program.plan.scratch
    return size <= KEPT and (count < AT_ONCE or count * size < KEPT)


def _room(programs: Sequence[Program]) -> tuple[NDArray, NDArray]:
    """Return bytes for the arrays, and bytes to work in, of programs that take turns."""
    size = max(program.size for program in programs)
    scratch = max(program.plan.scratch for program in programs)
    return aligned(size, _BYTE), aligned(scratch, _BYTE)


def _laid_out(plan: Plan, y: int) -> tuple[dict[int, int], int]:
    """Return the first byte of each array between x and y, and how many bytes there are."""
    last = {
        plan.owners[number]: i
        for i, step in enumerate(plan.steps)
        for number in (*step.sources, step.target)
    }
    places: dict[int, int] = {}
    taken: list[tuple[int, int, int]] = []  # first byte, end, the step that is the last to read
    for i, (_, sources, target, in_place, _) in enumerate(plan.steps):
        if target == y:
            continue
        begun, size = 0, plan.bytes(target)
        taken = sorted(space for space in taken if space[2] >= i)
        source = plan.owners[sources[0]]
        if in_place and source in places and last[source] == i and plan.bytes(source) == size:
            begun = places[source]
        else:
            for first, end, _ in taken:
                if begun + size <= first:
                    break
                begun = max(begun, end)
        places[target] = begun
        taken.append((begun, begun + size, last[target]))
    return places, max((place + plan.bytes(n) for n, place in places.items()), default=0)
