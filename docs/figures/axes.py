"""Which values share a mean: those of a channel, over all other axes."""

from typing import Any

import numpy as np

import lamina as lm

SHAPES = {"table": (6, 3), "sequences": (3, 5, 3), "images": (2, 4, 4, 3)}
LENGTHS = [5, 3, 4]


def data() -> dict[str, Any]:
    """Return the shapes and the lengths of the sequences."""
    return {"shapes": SHAPES, "lengths": LENGTHS}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return M of each kind of x."""
    found = []
    for kind, shape in SHAPES.items():
        lengths = np.array(LENGTHS) if kind == "sequences" else None
        M = lm.batchnorm.formula.count(np.zeros(shape), lengths)
        found.append(({"kind": kind}, {"M": int(M)}))
    return found
