"""The training of examples/fashion.py by PyTorch, eager and compiled."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from lamina.train.names import matches

from . import fashion, runner
from .fashion import Batch, NDArray
from .network_pytorch import Translation

torch.set_num_threads(runner.THREADS)
torch.set_num_interop_threads(1)


class Training:
    """The same modules, and PyTorch's fused SGD with the same settings and learning rates."""

    def __init__(self, form: str, model: Any, samples: int) -> None:
        translation = Translation(model, (1, 28, 28, 1))
        for name, parameter, there, _ in translation.slots:
            array = np.array(there(model.params[name]), order="C")
            parameter.data = torch.from_numpy(array)
        self.layout = torch.contiguous_format if form == "channels first" else torch.channels_last
        self.module: Any = translation.module.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.run: Any = torch.compile(self.module) if form == "compiled" else self.module
        settings = fashion.fashion.optimizer(samples)
        self.schedule, self.step = settings.lr, 0
        groups: dict[float, list[nn.Parameter]] = {0.0: [], settings.weight_decay: []}
        for name, parameter, _, _ in translation.slots:
            spared = matches(settings.no_decay, name)
            groups[0.0 if spared else settings.weight_decay].append(parameter)
        self.optimizer = torch.optim.SGD(
            [{"params": params, "weight_decay": decay} for decay, params in groups.items()],
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            fused=True,
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=fashion.fashion.LOSS.label_smoothing)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Make a step for each batch; return the losses."""
        self.module.train()
        losses = []
        for x, y in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(self.run(self._tensor(x)), torch.from_numpy(y))
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
            self.step += 1
        return losses

    def classify(self, x: NDArray) -> NDArray:
        """Return the classes of images, at inference."""
        self.module.eval()
        with torch.inference_mode():
            found = [
                self.run(self._tensor(x[i : i + 256])).argmax(dim=-1) for i in range(0, len(x), 256)
            ]
        classes: NDArray = torch.cat(found).numpy()
        return classes

    def _tensor(self, x: NDArray) -> torch.Tensor:
        return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)


if __name__ == "__main__":
    fashion.serve(Training)
