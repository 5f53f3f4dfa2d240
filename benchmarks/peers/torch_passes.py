"""The two passes of a module of PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..case import Pass


def passes(
    run: Callable[[torch.Tensor], Any],
    x: torch.Tensor,
    differentiated: Sequence[torch.Tensor],
    dy: torch.Tensor,
    no_gradients: Callable[[], Any] = torch.inference_mode,
) -> dict[Pass, Callable[[], Any]]:
    """Return `run` on x, and with the gradients of what is differentiated: first of all its x."""

    def forward() -> torch.Tensor:
        with no_gradients():
            y: torch.Tensor = run(x)
            return y

    def both() -> list[torch.Tensor]:
        y = run(differentiated[0])
        return [y, *torch.autograd.grad(y, differentiated, dy)]

    return {"forward": forward, "both": both}
