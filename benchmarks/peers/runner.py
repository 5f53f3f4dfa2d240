"""What a library's process does: answer requests, a line of JSON each, until its input ends.

    {"do": "versions"}
        {"torch": "2.13.0", ...}
    {"do": "prepare", "case": name, "reference": file}
        {form: {pass: {array: error}}}
    {"do": "workspace", "form": form, "which": pass}
        {"bytes": count}
    {"do": "peak", "form": form, "which": pass}
        {"bytes": count}; no other form of the case can be asked for any more
    {"do": "time", "form": form, "which": pass, "seconds": seconds}
        {"median": seconds, "minimum": seconds, "calls": count}

Times are in seconds; "workspace" is for Lamina alone. "peak" is the resident memory at its highest
while a pass runs that ran before, over what is left of it when all that belongs to the case is
gone. "error" in an answer says what failed.
"""

import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from .. import reference
from ..case import Case, Pass
from ..cases import find

NDArray = npt.NDArray[Any]

THREADS: Final = int(os.environ.get("OMP_NUM_THREADS", "1"))
"""How many threads the library is to use."""


@dataclass(frozen=True)
class Form:
    """A way to compute a case: with arrays at hand, in the library's own kind and layout.

    Attributes
    ----------
    passes : dict of callables
        By pass, what is timed: "forward" returns y, "both" a sequence of y, dx and the gradients of
        the parameters, in the order of the case.
    restore : callable
        Turns one of these, given its name, into a NumPy array in Lamina's layout.
    checked : dict of callables
        What is called for the results of a pass, where it is not what is timed.
    """

    passes: Mapping[Pass, Callable[[], Any]]
    restore: Callable[[str, Any], NDArray]
    checked: Mapping[Pass, Callable[[], Any]] = field(default_factory=dict)

    def compute(self, case: Case, which: Pass) -> dict[str, NDArray]:
        """Return the results of a pass by name, in Lamina's layout."""
        found = {**self.passes, **self.checked}[which]()
        if which == "forward":
            return {"y": self.restore("y", found)}
        names = case.names(which)
        return {name: self.restore(name, array) for name, array in zip(names, found, strict=True)}


class Library(Protocol):
    """What a module beside this one gives."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages behind it; raise if it does not work here."""

    def forms(self, case: Case, given: Mapping[str, NDArray]) -> dict[str, Form]:
        """Return the ways to compute a case, by name; none where it cannot."""

    def release(self) -> None:
        """Give back the memory that is kept for calls to come."""

    def workspace(self, form: "Form", which: Pass) -> int:
        """Return the most bytes that a pass takes at once, beside its results; Lamina's alone."""


class Runner:
    """A library and the case at hand."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.forms: dict[str, Form] = {}

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages behind the library."""
        return self.library.versions()

    def prepare(self, case: str, exact: str) -> dict[str, dict[Pass, dict[str, float]]]:
        """Take up a case; return how far the results of each form are from the exact ones."""
        self.forms = {}  # frees the arrays of the case before
        given = find(case)
        forms = self.library.forms(given, reference.inputs(given))
        errors: dict[str, dict[Pass, dict[str, float]]] = {}
        with np.load(exact) as expected:
            for name, form in forms.items():
                errors[name] = {
                    which: {
                        array: reference.distance(found, expected[array])
                        for array, found in form.compute(given, which).items()
                    }
                    for which in form.passes
                }
        self.forms = forms
        return errors

    def workspace(self, form: str, which: Pass) -> int:
        """Return the most bytes that a pass takes at once, beside its results."""
        return self.library.workspace(self.forms[form], which)

    def peak(self, form: str, which: Pass) -> int:
        """Return the most memory that a pass takes, with all that it needs, and forget the case."""
        kept, self.forms = self.forms[form].passes[which], {}
        self.library.release()  # what the check of the values left
        for _ in range(2):
            kept()
        _trim()
        Path("/proc/self/clear_refs").write_text("5")  # the highest is now what is
        for _ in range(2):
            kept()
        highest = _resident("VmHWM")
        del kept
        self.library.release()
        _trim()
        return highest - _resident("VmRSS")

    def time(self, form: str, which: Pass, seconds: float) -> dict[str, float]:
        """Return median and minimum of the times of a pass, measured for so long."""
        return clock(self.forms[form].passes[which], seconds)


def _trim() -> None:
    """Give unused memory back to the system, so that what is resident is what is used."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _resident(what: str) -> int:
    """Return the bytes of a line of Linux's account of the process."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024


def clock(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Call for a quarter of `seconds` to warm up, then for `seconds`, five times at least."""
    now = time.perf_counter
    times: list[float] = []
    end = now() + seconds / 4
    call()
    while now() < end:
        call()
    gc.collect()
    gc.disable()
    try:
        end = now() + seconds
        while now() < end or len(times) < 5:
            start = now()
            call()
            times.append(now() - start)
    finally:
        gc.enable()
    median, least = (round(t, 9) for t in (statistics.median(times), min(times)))
    return {"median": median, "minimum": least, "calls": len(times)}


def serve(library: Any) -> None:
    """Answer requests until the input ends."""
    runner = Runner(library)

    def answer(request: dict[str, Any]) -> dict[Any, Any]:
        match request["do"]:
            case "versions":
                return dict(runner.versions())
            case "prepare":
                return dict(runner.prepare(request["case"], request["reference"]))
            case "workspace":
                return {"bytes": runner.workspace(request["form"], request["which"])}
            case "peak":
                return {"bytes": runner.peak(request["form"], request["which"])}
            case "time":
                return dict(runner.time(request["form"], request["which"], request["seconds"]))
            case unknown:
                return {"error": f"unknown request {unknown!r}"}

    answer_all(answer)


def answer_all(how: Callable[[dict[str, Any]], dict[Any, Any]]) -> None:
    """Answer requests by a function, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        try:
            answer = how(json.loads(line))
        except Exception as error:
            first, *_ = [*str(error).strip().splitlines(), ""]
            answer = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(answer), file=answers, flush=True)
