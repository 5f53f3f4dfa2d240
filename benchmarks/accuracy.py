"""Time to an accuracy: the training of examples/fashion.py, by Lamina and by PyTorch."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .peers import Peer, PeerError

TITLES: Final = {
    "lamina": "Lamina",
    "channels first": "PyTorch, channels first",
    "channels last": "PyTorch, channels last",
    "compiled": "torch.compile, channels last",
}
BAR: Final = 1.5
"""Time of the fastest form of PyTorch / Lamina's, at least."""
EPOCHS: Final = 16
"""After which examples/fashion.py is at 93.0% or above."""
FLOPS: Final = 20.6e6
"""The floating-point operations of an image forward; in a step it takes three times as many."""
BATCH: Final = 128
STEPS, TESTED = -(-60_000 // BATCH), 10_000
"""The steps of an epoch, and the images that are classified after it."""
METHOD: Final = f"""\
The network of examples/fashion.py, a small ResNet that reaches 93.0% on the test images of
Fashion-MNIST after {EPOCHS} epochs, by Lamina and by the same modules of PyTorch, from the same
weights, with the same batches in the same order, learning rates, momentum, decay and loss; that
the losses of the first steps agree is seen to before. So the epochs are the same for both (what
differs is the draws of Dropout and rounding), and what is measured is the time of steps and of
the classification of test images after each epoch, in turns, each library in a process of its
own; an epoch is counted as {STEPS} steps and {TESTED:,} images of these. Augmentation is NumPy's
for both. Compilation is left out."""

Found = Mapping[str, Any]


def measure(threads: int, rounds: int = 8, steps: int = 4, images: int = 256) -> dict[str, Any]:
    """Return the seconds of a step, and of an image of the test, of each form; and what failed."""
    libraries = {
        "lamina": Peer("fashion_lamina", "Lamina", ("lamina",)),
        "pytorch": Peer("fashion_pytorch", "PyTorch", ("torch",)),
    }
    forms = {name: libraries["lamina" if name == "lamina" else "pytorch"] for name in TITLES}
    times: dict[str, dict[str, list[float]]] = {name: {"step": [], "image": []} for name in TITLES}
    failures: dict[str, str] = {}
    exact: list[float] = []
    try:
        for peer in libraries.values():
            if peer.missing() is None:
                peer.start(threads)
                peer.pause()
        for name, peer in forms.items():
            try:
                first = peer.ask("losses", form=name)["losses"]
                exact = exact or first  # Lamina's
                off = max(abs(a - b) / b for a, b in zip(first, exact, strict=True))
                if not off < 1e-3:
                    failures[name] = f"its losses are off by {off:.1e}"
                peer.ask("train", form=name, steps=3)  # compiles
                peer.ask("test", form=name, images=images)
            except PeerError as error:
                failures[name] = str(error)
        for _ in range(rounds):
            for name in [name for name in TITLES if name not in failures]:
                trained = forms[name].ask("train", form=name, steps=steps)
                times[name]["step"].append(trained["seconds"] / steps)
                tested = forms[name].ask("test", form=name, images=images)
                times[name]["image"].append(tested["seconds"] / images)
    finally:
        for peer in libraries.values():
            peer.stop()
    medians = {
        name: {what: statistics.median(found) for what, found in times[name].items()}
        for name in TITLES
        if name not in failures
    }
    return {"times": medians, "failures": failures}


def epoch(times: Mapping[str, float]) -> float:
    """Return the seconds of an epoch."""
    return STEPS * times["step"] + TESTED * times["image"]


def least(peak: float) -> dict[str, float]:
    """Return the seconds that the arithmetic of the definition takes, at so many flop/s."""
    return {"step": 3 * BATCH * FLOPS / peak, "image": FLOPS / peak}


def ratio(found: Found) -> float | None:
    """Return the time of the fastest form of PyTorch over Lamina's; None where there is none."""
    epochs = {name: epoch(times) for name, times in found["times"].items()}
    lamina = epochs.pop("lamina", None)
    return min(epochs.values()) / lamina if lamina and epochs else None


def misses(found: Found | None) -> Iterator[str]:
    """Say whether the bar is missed."""
    if found and (reached := ratio(found)) is not None and reached < BAR:
        yield f"Time to an accuracy: ratio {reached:.2f}, bar {BAR:g}"
