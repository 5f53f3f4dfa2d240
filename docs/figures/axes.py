"""Which values share a mean: those of a channel in BatchNorm; other axes for comparison."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

AXES = {"table": "NC", "sequences": "NTC", "images": "NHWC"}
SHAPES = {"table": (6, 3), "sequences": (3, 5, 3), "images": (2, 4, 4, 3)}
LENGTHS = [5, 3, 4]


def data() -> dict[str, Any]:
    """Return the shapes and the lengths of the sequences."""
    return {"axes": AXES, "shapes": SHAPES, "lengths": LENGTHS}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return how many values share a mean and how many means there are, for any choice of axes.

    They are counted one by one, and where the choice is BatchNorm's own, by its formula.
    """
    found = []
    for kind, shape in SHAPES.items():
        real = np.ones(shape)
        if kind == "sequences":
            real[np.arange(shape[1]) >= np.array(LENGTHS)[:, None]] = 0
        for choice in product((True, False), repeat=len(shape)):
            shared = [i for i, over in enumerate(choice) if over]
            own = [i for i, over in enumerate(choice) if not over]
            channels = np.transpose(real, shared + own).reshape(
                *(shape[i] for i in shared), *([] if shared else [1]), -1
            )
            M = int(channels.reshape(-1, channels.shape[-1]).sum(axis=0)[0])
            if choice[0] and not choice[-1] and all(choice[1:-1]):  # BatchNorm
                lengths = np.array(LENGTHS) if kind == "sequences" else None
                M = int(lm.batchnorm.formula.count(np.zeros(shape), lengths))
            groups = int((channels.reshape(-1, channels.shape[-1]).sum(axis=0) > 0).sum())
            state = {"kind": kind, "row": 0, "column": 0}
            state |= dict(zip(AXES[kind], choice, strict=True))
            found.append((state, {"M": M, "means": groups}))
    return found
