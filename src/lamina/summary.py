"""The tables that show a model: what `Layer.summary` prints, and what a notebook shows."""

from __future__ import annotations

from html import escape
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


def page(model: Layer) -> str:
    """Return the layers of a model with the shapes and the count of their parameters, as HTML.

    Containers stand above what is inside them, which is set in by its depth.
    """
    rows = []
    seen: set[int] = set()
    for name, layer in model.walk():
        own = {key: a for key, a in layer.params.items() if "." not in key}
        new = sum(a.size for a in own.values() if id(a) not in seen)
        seen |= {id(a) for a in own.values()}
        depth = name.count(".") + 1 if name else 0
        shapes = ", ".join(f"{key} {a.shape}" for key, a in own.items())
        said = repr(layer).partition("\n")[0].removesuffix("(")
        rows.append(
            f"<tr><td>{escape(name)}</td>"
            f'<td style="text-align:left;padding-left:{1 + depth}em">{escape(said)}</td>'
            f'<td style="text-align:left">{escape(shapes)}</td>'
            f"<td>{format(new, ',') if own else ''}</td></tr>"
        )
    total = sum(a.size for a in model.params.values())
    dtype = f", {model.dtype}" if model.dtype is not None else ""
    return (
        "<table><thead><tr><th></th><th>layer</th><th>shapes</th><th>parameters</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody>"
        f"<tfoot><tr><th></th><th>total{dtype}</th><th></th><th>{total:,}</th></tr></tfoot></table>"
    )
