"""The table that `Layer.summary` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layer import Layer, Shape


def table(model: Layer, shape: Shape) -> str:
    """Return the layers of a model with output shapes, parameters and FLOPs, as a text table."""
    rows = [("", "layer", "output", "parameters", "FLOPs")]
    seen: set[int] = set()
    total = 0
    for name, layer, given in model.trace(shape):
        new = {id(a): a.size for a in layer.params.values() if id(a) not in seen}
        seen |= set(new)
        flops = layer.flops(given)
        total += flops
        rows.append(
            (
                name,
                repr(layer),
                str(layer.output_shape(given)),
                f"{sum(new.values()):,}",
                f"{flops:,}",
            )
        )
    parameters = sum(a.size for a in model.params.values())
    rows.append(("", "total", str(model.output_shape(shape)), f"{parameters:,}", f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for i, (name, layer_, output, *numbers) in enumerate(rows):
        left = [name.ljust(widths[0]), layer_.ljust(widths[1]), output.ljust(widths[2])]
        right = [n.rjust(w) for n, w in zip(numbers, widths[3:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
        if i in (0, len(rows) - 2):
            lines.append("─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
