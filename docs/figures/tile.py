"""A register tile on its way over an output: which numbers it reads at each step."""

from typing import Any

import numpy as np

import lamina as lm

LAYERS: dict[str, tuple[lm.Layer, tuple[int, ...]]] = {
    "linear": (lm.Linear(8, 12, bias=False, rng=0), (6, 8)),
    "convolution": (lm.Conv2d(2, 6, 3, bias=False, rng=0), (1, 4, 6, 2)),
    "rnn": (lm.RNN(4, 6, bias=False, rng=0), (4, 1, 4)),
    "lstm": (lm.LSTM(4, 3, bias=False, rng=0), (4, 1, 4)),
}


def data(variant: str) -> dict[str, Any]:
    """Return the grids: a (rows, columns), terms of each segment, c, the tile's height and width.

    `at` is the place in a of the tile's first row, first term, for each tile and each segment:
    (row, column); `step` is how far the tile's next row is from there.
    """
    if variant == "linear":
        return {
            "a": [6, 8], "c": [6, 12], "segments": [8], "tile": [3, 6], "step": [1, 0],
            "tiles": [{"c": [m, j], "at": [[m, 0]]} for m in (0, 3) for j in (0, 6)],
            "names": ["x", "W", "y"], "row": "row of x", "parts": [],
        }  # fmt: skip
    if variant == "convolution":
        return {
            "a": [4, 12], "c": [8, 6], "segments": [6, 6, 6], "tile": [4, 6], "step": [0, 2],
            "tiles": [{"c": [4 * r, 0], "at": [[r + s, 0] for s in range(3)]} for r in (0, 1)],
            "names": ["x, a row of pixels in each line", "W", "y, a pixel in each line"],
            "row": "output pixel", "parts": ["kernel row 1", "kernel row 2", "kernel row 3"],
        }  # fmt: skip
    H, wide = (6, 6) if variant == "rnn" else (3, 12)
    return {
        "a": [4, 4 + H], "c": [4, wide], "segments": [4, H], "tile": [4, 6], "step": [1, 0],
        "tiles": [{"c": [0, j], "at": [[0, 0], [0, 4]]} for j in range(0, wide, 6)],
        "names": ["x_t and h_t-1", "W_x and W_h", "a_t"], "row": "sequence",
        "parts": ["x_t with W_x", "h_t-1 with W_h"],
    }  # fmt: skip


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Count multiply-adds: as many as the layers' own `flops` say."""
    found = []
    for name, (layer, shape) in LAYERS.items():
        assert layer(np.zeros(shape, np.float32)).size
        found.append(({"variant": name}, {"multiply_adds": layer.flops(shape) // 2}))
    return found
