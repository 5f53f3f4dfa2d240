"""The training of examples/fashion.py by Lamina."""

from collections.abc import Iterable
from typing import Any

import lamina as lm

from . import fashion
from .fashion import Batch, NDArray


class Training:
    """The network with `lm.fit`'s own steps."""

    def __init__(self, form: str, model: Any, samples: int) -> None:
        self.model, self.optimizer = model, fashion.fashion.optimizer(samples)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Make a step for each batch; return the losses."""
        losses = []
        for x, y in batches:
            scores, cache = self.model.forward(x, training=True)
            value, dy = fashion.fashion.LOSS(scores, y)
            self.optimizer.step(self.model.params, self.model.gradients(dy, cache))
            losses.append(value)
        return losses

    def classify(self, x: NDArray) -> NDArray:
        """Return the classes of images, at inference."""
        classes: NDArray = lm.predict(self.model, x, batch_size=256).argmax(axis=-1)
        return classes


if __name__ == "__main__":
    fashion.serve(Training)
