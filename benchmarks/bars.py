"""What the times of a run come to: ratios and shares of the limit, and the bars they should reach.

The limit of a case is the greater of two times: its arithmetic at the peak, its bytes at the
bandwidth that its working set has. A share is the limit over the time that was taken.
"""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from .case import Case, Pass
from .cases import CASES
from .convolution import Convolution
from .linear import Linear

Run: TypeAlias = Mapping[str, Any]
"""What the JSON of a run holds."""

LAMINA: Final = "lamina_layers"
PACKED: Final = "onnx_runtime"
"""The library that packs weights before it is called, as Lamina's `for_inference` does."""
WORKSPACE: Final = (32 * 2**20, 0.1)
"""Bytes that a convolution may take beside its arrays, or the share of x, if that is more."""
WORK: Final = 1e-4
"""Seconds: where the limit is below, much of the time is the call's, which has no limit."""
SMALLEST: Final = ("1x16 -> 16", 5e-6)
"""The case whose time is that of the call itself, and the most it may take, in seconds."""


@dataclass(frozen=True)
class Result:
    """A pass of a case: the best form's median time of each library, in seconds.

    Attributes
    ----------
    case : Case
    which : str
        The pass.
    times : dict of str to float
        By library, Lamina's layer among them.
    packed : float or None
        The time of Lamina's inference model, where it was measured.
    workspace : int
        The bytes that Lamina's layer took beside its arrays.
    peaks : dict of str to int
        By library, the bytes of memory that a network took with all that belongs to it.
    compute, memory : float
        The least time for the arithmetic, and for the bytes.
    """

    case: Case
    which: Pass
    times: Mapping[str, float]
    packed: float | None
    workspace: int
    peaks: Mapping[str, int]
    compute: float
    memory: float

    @property
    def limit(self) -> float:
        """The least time there can be."""
        return max(self.compute, self.memory)

    @property
    def lamina(self) -> float:
        """The time of Lamina's layer."""
        return self.times[LAMINA]

    @property
    def fastest(self) -> str | None:
        """The fastest of the other libraries."""
        others = [name for name in self.times if name != LAMINA]
        return min(others, key=self.times.__getitem__, default=None)

    @property
    def hardest(self) -> str | None:
        """The library that `ratio` is against: the fastest beside Lamina's form of its kind."""
        others = [name for name in self.times if name != LAMINA]
        return min(others, key=lambda name: self.times[name] / self._beside(name), default=None)

    @property
    def ratio(self) -> float:
        """Time of the fastest library / Lamina's; 1 where none was there."""
        if self.hardest is None:
            return 1.0
        return self.times[self.hardest] / self._beside(self.hardest)

    @property
    def ratio_at_limit(self) -> float:
        """What `ratio` would be if Lamina took no more time than the limit, of cases with work."""
        if self.hardest is None or self.limit < WORK:
            return self.ratio
        return max(self.ratio, self.times[self.hardest] / self.limit)

    def share(self, seconds: float) -> float:
        """Return the limit as a share of the time taken."""
        return self.limit / seconds

    def _beside(self, name: str) -> float:
        return self.packed if name == PACKED and self.packed is not None else self.lamina


def seconds_at_least(case: Case, which: Pass, limits: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least time for the arithmetic of a pass, and for its bytes.

    Bytes that are read while as many are written go at the bandwidth of scaling.
    """
    peak = limits["peak"][case.dtype][str(limits["threads"])]
    place = math.log(case.working_set(which)), np.log(limits["sizes"])
    reading, scaling = (float(np.interp(*place, limits[do])) for do in ("read", "scale"))
    read, written = case.bytes(which)
    paired = min(read, written)
    memory = 2 * paired / scaling + (read - paired) / reading + (written - paired) / scaling
    return case.flops(which) / peak, memory


def results(run: Run, which: Pass) -> Iterator[Result]:
    """Return a pass of each case that Lamina was measured on."""
    for case in CASES:
        forms = run["cases"].get(case.name, {}).get("times", {})
        times = {
            peer: min(_median(by_pass[which]) for by_pass in by_form.values() if which in by_pass)
            for peer, by_form in forms.items()
            if any(which in by_pass for by_pass in by_form.values())
        }
        if LAMINA not in times:
            continue
        lamina = forms[LAMINA]
        times[LAMINA] = _median(lamina["layer"][which])
        packed = lamina.get("for_inference", {}).get(which)
        yield Result(
            case,
            which,
            times,
            None if packed is None else _median(packed),
            run["cases"][case.name]["workspace"].get(which, 0),
            run["cases"][case.name].get("peaks", {}),
            *seconds_at_least(case, which, run["limits"]),
        )


def geometric_mean(found: list[Result]) -> float:
    """Return the geometric mean of the ratios."""
    return statistics.geometric_mean([result.ratio for result in found])


def misses(result: Result) -> Iterator[str]:
    """Say which bars a result is below."""
    at_least = ratio_wanted(result)
    if result.ratio < at_least:
        yield f"ratio {result.ratio:.2f}, bar {at_least:g}"
    share, wanted = result.share(result.lamina), share_wanted(result)
    if share < wanted:
        yield f"{share:.0%} of the limit, bar {wanted:.0%}"
    name, seconds = SMALLEST
    if result.case.name == name and result.which == "forward" and result.lamina > seconds:
        yield f"a call of {result.lamina * 1e6:.1f} µs, bar {seconds * 1e6:g} µs"
    most, part = WORKSPACE
    if isinstance(result.case, Convolution) and result.workspace > max(
        most, part * math.prod(result.case.shapes["x"]) * np.dtype(result.case.dtype).itemsize
    ):
        yield f"{result.workspace / 2**20:.0f} MiB beside its arrays, bar {most / 2**20:.0f} MiB"

    if result.peaks:
        least = min(result.peaks.values())
        if result.peaks[LAMINA] > least:
            yield f"{_mebibytes(result.peaks[LAMINA])} at its peak, bar {_mebibytes(least)}"


def ratio_wanted(result: Result) -> float:
    """Return the ratio that is the bar of a result."""
    rival = result.hardest
    share = result.share(result.times[rival]) if rival else 0.0
    return result.case.ratio_beside(result.which, share)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def share_wanted(result: Result) -> float:
    """Return the share of the limit that is the bar of a result; 0 where there is none."""
    case = result.case
    own = case.share_wanted(result.which)
    if own is not None:
        return own
    if result.compute >= 2 * result.memory:
        if result.which == "forward":
            return 0.92
        if isinstance(case, Linear):
            return 0.85 if min(case.inputs, case.outputs) >= 512 else 0.88
        return 0.80 if isinstance(case, Convolution) and case.inputs in (1, 3) else 0.88
    if isinstance(case, Linear) and case.rows == 1 and case.outputs >= 256:
        return 1 / 1.3 if result.which == "forward" else 0
    return 0


def _median(times: Mapping[str, Any]) -> float:
    return float(statistics.median(times["medians"]))
