"""Run kernels on memory where denormal numbers stood, and see whether arithmetic meets them.

`python leftovers.py SEED LINEARS CONVOLUTIONS RECURRENCES` runs so many random problems. It prints
each before its turn, and ends with an error where the CPU, an x86-64 one, notes denormal numbers
that are not there when zeros stood in memory. Some CPUs take a hundred times as long for them.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import problems
import recurrences
from lamina.engine import memory, mode, pool

DENORMAL, NOTHING = np.uint32(0x1234), np.uint32(0)
"""What stands in every four bytes: a number of float32 or of float64 is denormal."""
DENORMALS, UNDERFLOW, ALL = 0x02, 0x10, np.uint32(0x3F)
"""Bits of MXCSR: an operand was denormal, a result was too small to be normal, and all notes."""

left = DENORMAL
control = np.zeros(2, np.uint32)
exchange = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(mode.flush(np.dtype(np.float32)))


def spoilt(a: np.ndarray) -> np.ndarray:
    """Leave something in an array; integers do so, without arithmetic."""
    if a.dtype.kind == "f":
        a.reshape(-1).view(np.uint32)[...] = left
    return a


class SpoiltNumPy:
    """NumPy, but for the functions by which kernels take memory."""

    empty = staticmethod(lambda *a: spoilt(np.empty(*a)))
    empty_like = staticmethod(lambda a: spoilt(np.empty_like(a)))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def spoil() -> None:
    """Let kernels take spoilt memory alone, and compute all parts in this thread."""
    taken = {"empty": memory.empty, "aligned": memory.aligned, "lasting": memory.lasting}
    taken["workspace"] = memory.workspace
    for module in problems.modules():
        if module is memory:
            continue
        if hasattr(module, "np"):
            module.np = SpoiltNumPy()
        for name, take in taken.items():
            if getattr(module, name, None) is take:
                setattr(module, name, lambda *a, take=take: spoilt(take(*a)))
    pool.Pool.gather = lambda *_: pool.ALONE


def notes(run: Callable[[], Any]) -> int:
    """Return what the CPU notes in a run, in bits as MXCSR has them; 0 where there is none.

    Functions of NumPy forget the note of an underflow.
    """
    exchange(1, 0, control.ctypes.data)  # what it has noted,
    control[0] &= ~ALL
    exchange(1, 1, control.ctypes.data)  # without the notes
    run()
    exchange(1, 0, control.ctypes.data)
    exchange(1, 1, control.ctypes.data)
    return int(control[0] & ALL)


def meets_denormals(run: Callable[[], Any], what: np.uint32) -> bool:
    """Return whether operands are denormal in a run, if that stood in memory."""
    global left
    left = what
    return bool(notes(run) & DENORMALS)


def passes(problem: problems.Problem) -> None:
    """Run all that the layer's kernel does."""
    kernel, arrays = problems.LAYERS[problem.layer][0], problem.arrays()
    problems.passes(kernel, problem, arrays, problems.random_dy(problem))
    problems.inferred(problem, arrays, relu=True)


def sweep(seed: int, linears: int, convolutions: int, recurrent: int) -> None:
    """Run random problems, in one part and in several."""
    spoil()
    rng = np.random.default_rng(seed)
    for make, count in (
        (problems.linear, linears),
        (problems.convolution, convolutions),
        (recurrences.recurrence, recurrent),
    ):
        for i in range(count):
            problem, parts = make(rng), int(rng.integers(1, 4))
            print(f"{i}, in {parts} parts: {problem}", flush=True)
            problems.cut(parts)
            if isinstance(problem, problems.Problem):
                run = partial(passes, problem)
            else:
                run = partial(problem.passes, problem.modules[0], problem.arrays())
            run()  # which may compile
            assert meets_denormals(run, NOTHING) or not meets_denormals(run, DENORMAL)


if __name__ == "__main__":
    sweep(*map(int, sys.argv[1:]))
