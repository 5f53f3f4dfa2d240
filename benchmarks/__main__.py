"""Run the benchmarks: `python -m benchmarks --help`."""

import argparse
import contextlib
import datetime
import json
import signal
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from . import accuracy, chart, denormals, limits, machine, ragged, reference, report, starts
from .bars import LAMINA
from .case import Case
from .cases import CASES, LAYERS
from .networks import Network
from .peers import Peer, PeerError, peers

Forms = dict[str, dict[str, dict[str, list[float]]]]
"""By form, pass, and what was measured: a value for each round."""
Times = dict[str, Forms]
"""The same by library."""
COMPILED: Final = "pytorch_compiled"
BESIDE: Final[Mapping[str, Callable[[int], Any]]] = {
    "starts": lambda threads: starts.measure(),
    "denormals": lambda threads: denormals.measure(),
    "ragged": ragged.measure,
    "accuracy": accuracy.measure,
}
"""What a whole run measures before the cases, on so many threads."""


def main() -> None:
    """Measure the limits, then the cases, and write page, picture and JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--layer", choices=LAYERS, help="the cases of one layer alone")
    parser.add_argument("--accuracy", action="store_true", help="time to an accuracy alone")
    parser.add_argument("--quick", action="store_true", help="a few cases, for a short time")
    parser.add_argument("--rounds", type=int, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, help="for how long in each round")
    parser.add_argument(
        "--compiled",
        choices=LAYERS,
        default=[*LAYERS],
        nargs="+",
        metavar="LAYER",
        help="what torch.compile is measured beside, if not all: to compile takes long",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the page to write, with picture and JSON beside it; docs/benchmarks.md where all is "
        "measured, else build/benchmarks/benchmarks.md",
    )
    parser.add_argument(
        "--again", type=Path, metavar="JSON", help="measure nothing: the page of a run that was"
    )
    given = parser.parse_args()
    if given.out and given.out.suffix != ".md":
        parser.error(f"--out names the page, a file that ends in .md, not {given.out}")
    if given.again:
        write(json.loads(given.again.read_text(encoding="utf-8")), given.again.with_suffix(".md"))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be asked to end is no accident
    whole = given.layer is None and not given.quick and not given.accuracy
    out = given.out or Path("docs" if whole else "build/benchmarks") / "benchmarks.md"
    chosen = [
        case
        for case in CASES
        if (case.quick or not given.quick)
        and given.layer in (None, case.layer)
        and not given.accuracy
    ]
    rounds = given.rounds or (2 if given.quick else 3)
    seconds = given.seconds or (0.05 if given.quick else 0.15)
    beside = BESIDE if whole else ("accuracy",) if given.accuracy else ()
    run = measure(chosen, rounds, seconds, beside, given.compiled)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(run) + "\n", encoding="utf-8")
    write(run, out)
    if "stopped" in run:
        sys.exit(f"Stopped {run['stopped']}")


def write(run: Mapping[str, Any], page: Path) -> None:
    """Write the page of a run, and its picture beside it."""
    page.write_text(report.page(run, page.stem), encoding="utf-8")
    page.with_suffix(".svg").write_text(chart.draw(run), encoding="utf-8")
    print(f"Wrote {page} and {page.with_suffix('.svg')}, from {page.with_suffix('.json')}")


def measure(
    cases: Sequence[Case],
    rounds: int,
    seconds: float,
    beside: Iterable[str] = (),
    compiled: Collection[str] = LAYERS,
) -> dict[str, Any]:
    """Return what the JSON of a run holds: limits, what is `BESIDE` the cases, and their times.

    torch.compile is left out but for layers that are to be `compiled`.

    Whatever ends it early, Ctrl-C or an accident, leaves the cases that were measured until then.
    """
    threads = machine.threads()
    print("Limits of this machine ...", flush=True)
    found = limits.measure(threads)
    run: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine.describe(),
        "threads": threads,
        "versions": {},
        "left_out": {},
        "titles": {},
        "rounds": rounds,
        "seconds": seconds,
        "limits": found,
        "cases": {},
    }
    with kept(run, len(cases)):
        for name in beside:
            print(f"{name.capitalize()} ...", flush=True)
            run[name] = BESIDE[name](threads)
        with started(threads) as (present, versions, left_out):
            run["versions"], run["left_out"] = versions, left_out
            run["titles"] = {peer.name: peer.title for peer in present}
            fewer = [peer for peer in present if peer.name != COMPILED]
            if fewer != present and (without := [k for k in LAYERS if k not in compiled]):
                run["left_out"]["torch.compile"] = f"for want of time: {', '.join(without)}"
            for i, case in enumerate(cases, start=1):
                print(f"[{i}/{len(cases)}] {case.layer} {case.name}", flush=True)
                here = present if case.layer in compiled else fewer
                times, failures = turns(case, here, rounds, seconds, found)
                run["cases"][case.name] = {
                    "layer": case.layer,
                    "times": times,
                    "failures": failures,
                    "workspace": workspace(case, here, failures),
                    "peaks": peaks(case, here, times),
                }
                for name, reason in failures.items():
                    print(f"    {name}: {reason}", flush=True)
        run["limits"] = limits.greater(found, limits.measure(threads))
    return run


@contextlib.contextmanager
def kept(run: dict[str, Any], cases: int) -> Iterator[None]:
    """Note in a run of so many cases what ends the block, whatever that is, and go on behind it."""
    try:
        yield
    except BaseException as error:
        run["stopped"] = f"after {len(run['cases'])} of {cases} cases"
        if not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
            run["stopped"] += f", by {type(error).__name__}: {error}"


@contextlib.contextmanager
def started(threads: int) -> Iterator[tuple[list[Peer], dict[str, str], dict[str, str]]]:
    """Start the libraries; give those that work, their versions, and why others do not."""
    present, versions, left_out = [], {}, {}
    every = peers()
    try:
        for peer in every:
            reason = peer.missing()
            if reason is None:
                try:
                    peer.start(threads)
                    versions.update(peer.ask("versions"))
                    present.append(peer)
                except PeerError as error:
                    reason = str(error)
            if reason is not None:
                left_out[peer.title] = reason
                print(f"Without {peer.title}: {reason}", flush=True)
        yield present, versions, left_out
    finally:
        for peer in every:
            peer.stop()


def turns(
    case: Case, present: Sequence[Peer], rounds: int, seconds: float, found: limits.Limits
) -> tuple[Times, dict[str, str]]:
    """Return the times of a case, and why a library has none, on a machine with such limits."""
    forms, failures = prepared(case, present)
    times: Times = {peer.name: {} for peer in present}
    for i in range(rounds):
        first = i % len(present)
        for peer in [*present[first:], *present[:first]]:
            if peer.name not in failures:
                try:
                    limits.wait_for_cores(found)
                    turn(peer, forms[peer.name], seconds, times[peer.name])
                except PeerError as error:
                    failures[peer.name] = str(error)
    for peer in present:
        if peer.name in failures:
            del times[peer.name]
            peer.stop()  # whatever state it is in, the next case has a new process
            peer.start(found["threads"])
            peer.pause()
    return times, failures


def workspace(case: Case, present: Sequence[Peer], failures: dict[str, str]) -> dict[str, int]:
    """Return the bytes that Lamina's layer takes beside its arrays in each pass of the case."""
    if isinstance(case, Network):
        return {}
    return {
        which: peer.ask("workspace", form="layer", which=which)["bytes"]
        for peer in present
        if peer.name == LAMINA and peer.name not in failures
        for which in case.passes
    }


def peaks(case: Case, present: Sequence[Peer], times: Times) -> dict[str, int]:
    """Return the memory that a network takes in each library's fastest form."""
    if not isinstance(case, Network):
        return {}
    found = {}
    for peer in present:
        forms = times.get(peer.name)
        if forms:
            fastest = min(
                forms, key=lambda form: statistics.median(forms[form][case.which]["medians"])
            )
            found[peer.name] = peer.ask("peak", form=fastest, which=case.which)["bytes"]
    return found


def turn(peer: Peer, forms: dict[str, list[str]], seconds: float, times: Forms) -> None:
    """Add to `times` those of all forms and passes of a library."""
    for form, passes in forms.items():
        for which in passes:
            answer = peer.ask("time", form=form, which=which, seconds=seconds)
            empty: dict[str, list[float]] = {"medians": [], "minima": [], "calls": []}
            kept = times.setdefault(form, {}).setdefault(which, empty)
            kept["medians"].append(answer["median"])
            kept["minima"].append(answer["minimum"])
            kept["calls"].append(answer["calls"])


def prepared(
    case: Case, present: Sequence[Peer]
) -> tuple[dict[str, dict[str, list[str]]], dict[str, str]]:
    """Let all libraries take up a case at once; return forms with passes, and what failed."""
    forms: dict[str, dict[str, list[str]]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.npz"
        arrays: dict[str, Any] = reference.results(case, reference.inputs(case))
        np.savez(exact, **arrays)
        asked = []
        for peer in present:
            try:
                peer.resume()
                peer.send("prepare", case=case.name, reference=str(exact))
                asked.append(peer)
            except PeerError as error:
                failures[peer.name] = str(error)
        for peer in asked:
            try:
                errors = peer.receive()
            except PeerError as error:
                failures[peer.name] = str(error)
                continue
            finally:
                peer.pause()
            wrong = [
                f"{array} is off by {error:.1e} ({form or 'its only form'}, {which})"
                for form, by_pass in errors.items()
                for which, by_array in by_pass.items()
                for array, error in by_array.items()
                if not error <= reference.tolerance(case)
            ]
            if wrong:
                failures[peer.name] = "; ".join(wrong)
            else:
                forms[peer.name] = {form: list(by_pass) for form, by_pass in errors.items()}
    return forms, failures


if __name__ == "__main__":
    main()
