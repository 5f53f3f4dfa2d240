"""What a process of accuracy.py does: answer requests, a line of JSON each.

{"do": "losses", "form": form}
    {"losses": [...]}, of the first steps, where Dropout keeps everything
{"do": "train", "form": form, "steps": count}
    {"seconds": seconds}
{"do": "test", "form": form, "images": count}
    {"seconds": seconds}
"""

import importlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from . import runner

NDArray = npt.NDArray[Any]
Batch = tuple[NDArray, NDArray]

fashion: Final[Any] = importlib.import_module("examples.fashion")
CHECKED: Final = 4
"""So many first steps are compared."""


class Training(Protocol):
    """A network, its optimizer and its loss."""

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Make a step for each batch; return the losses."""

    def classify(self, x: NDArray) -> NDArray:
        """Return the classes of images, at inference."""


def model(dropping: bool) -> Any:
    """Return Lamina's network with its first weights; Dropout may keep everything."""
    found = fashion.network().initialize(0)
    for _, layer in found.walk():
        if hasattr(layer, "rate") and not dropping:
            layer.rate = 0.0
    return found


def serve(training: Callable[[str, Any, int], Training]) -> None:
    """Answer requests; `training(form, model, samples)` begins one from the model's weights."""
    (x, y), (x_test, _) = fashion.data()
    begun: dict[str, tuple[Training, Iterator[Batch]]] = {}

    def batches() -> Iterator[Batch]:
        augmented = fashion.Augmented(x, y, np.random.default_rng(0))
        return itertools.chain.from_iterable(itertools.repeat(augmented))

    def answer(request: dict[str, Any]) -> dict[Any, Any]:
        form = request["form"]
        if request["do"] == "losses":
            checked = training(form, model(dropping=False), len(y))
            return {"losses": checked.train(itertools.islice(batches(), CHECKED))}
        if form not in begun:
            begun[form] = training(form, model(dropping=True), len(y)), batches()
        running, source = begun[form]
        start = time.perf_counter()
        if request["do"] == "train":
            running.train(itertools.islice(source, request["steps"]))
        else:
            running.classify(x_test[: request["images"]])
        return {"seconds": time.perf_counter() - start}

    runner.answer_all(answer)
