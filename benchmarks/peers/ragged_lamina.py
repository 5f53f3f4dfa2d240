"""Ragged and full batches by Lamina."""

from collections.abc import Callable
from typing import Any

import lamina as lm

from .. import ragged
from .runner import answer_all, clock


def passes(layer: str, hidden: int) -> dict[str, Callable[[], Any]]:
    """Return a pass forward and backward of each batch."""
    model = getattr(lm, layer)(hidden, hidden, rng=0)
    x, lengths = ragged.arrays(hidden)

    def both(lengths: Any) -> Any:
        _, cache = model.forward(x, lengths=lengths, training=True)
        return model.backward(x, cache)

    return {"full": lambda: both(None), "ragged": lambda: both(lengths)}


def answer(request: dict[str, Any]) -> dict[Any, Any]:
    """Return the median seconds of each batch."""
    found = passes(request["layer"], request["hidden"])
    return {name: clock(call, request["seconds"])["median"] for name, call in found.items()}


if __name__ == "__main__":
    answer_all(answer)
