"""Ragged batches, forward and backward: against the share of their real steps, and PyTorch's."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .peers import Peer, PeerError

BATCH: Final = 64
STEPS: Final = 100
CASES: Final = {
    f"{layer} {BATCH}x{STEPS}x{hidden} -> {hidden}": (layer, hidden)
    for layer in ("LSTM", "RNN")
    for hidden in (128, 256)
}
MOST: Final = 1.1
"""Time of a ragged batch over the share of its real steps in the full batch's, at the most."""
LEAST: Final = 5.0
"""Time of PyTorch's packed sequences / Lamina's, at least."""
METHOD: Final = f"""\
Forward + backward of {BATCH} sequences whose lengths are uniform in 1 ... {STEPS}, padded to
{STEPS} steps, and of as many that all have {STEPS}. PyTorch's module is given a packed sequence
(`pack_padded_sequence` with `enforce_sorted=False`, then `pad_packed_sequence`); packing is inside
the clock. In turns, each library in a process of its own."""


def arrays(hidden: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return x, shape (N, T, hidden), and the lengths."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, STEPS, hidden), dtype=np.float32)
    return x, rng.integers(1, STEPS + 1, BATCH)


def measure(threads: int, rounds: int = 5, seconds: float = 0.2) -> dict[str, Any]:
    """Return the seconds of each case by library and batch, and the share of real steps."""
    libraries = (
        Peer("ragged_lamina", "Lamina", ("lamina",)),
        Peer("ragged_pytorch", "PyTorch", ("torch",)),
    )
    times: dict[str, dict[str, list[float]]] = {case: {} for case in CASES}
    try:
        present = [peer for peer in libraries if peer.missing() is None]
        for peer in present:
            peer.start(threads)
            peer.pause()
        for case, (layer, hidden) in CASES.items():
            for _ in range(rounds):
                for peer in present:
                    try:
                        answer = peer.ask("time", layer=layer, hidden=hidden, seconds=seconds)
                    except PeerError:
                        continue
                    for batch, median in answer.items():
                        times[case].setdefault(f"{peer.title}, {batch}", []).append(median)
    finally:
        for peer in libraries:
            peer.stop()
    return {
        case: {
            "share": float(arrays(1)[1].mean() / STEPS),
            "times": {name: statistics.median(found) for name, found in by_name.items()},
        }
        for case, by_name in times.items()
    }


def over_share(found: Mapping[str, Any]) -> float:
    """Return the time of the ragged batch over the share of its steps in that of the full one."""
    times = found["times"]
    return float(times["Lamina, ragged"] / times["Lamina, full"] / found["share"])


def ratio(found: Mapping[str, Any]) -> float | None:
    """Return PyTorch's time of the ragged batch over Lamina's; None where it is not there."""
    theirs = found["times"].get("PyTorch, ragged")
    return None if theirs is None else theirs / found["times"]["Lamina, ragged"]


def misses(run: Mapping[str, Any]) -> Iterator[str]:
    """Say which bars are missed."""
    for case, found in run.items():
        if (over := over_share(found)) > MOST:
            yield f"Ragged {case}: {over:.2f} times the share of the real steps, bar {MOST:g}"
        if (reached := ratio(found)) is not None and reached < LEAST:
            yield f"Ragged {case}: ratio {reached:.2f}, bar {LEAST:g}"
