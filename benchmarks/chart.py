"""The picture of a run: the share of its limit that each case reaches, as SVG."""

from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import Final

from .bars import Result, Run, results
from .case import PASSES
from .cases import CASES, LAYERS, PASS_TITLES

LABEL, PANEL, GAP, ROW, TOP = 340, 300, 40, 18, 70  # pixels
MOST: Final = 2.0
"""The share at the right edge of a panel; longer bars end there."""
STYLE: Final = """
text { font: 11px sans-serif; fill: #222; }
.head { font-weight: bold; font-size: 13px; }
.family { font-weight: bold; }
.name { text-anchor: end; }
.tick { text-anchor: middle; fill: #666; }
.lamina { fill: #1769aa; }
.peer { fill: #c2c7cc; }
.line { stroke: #ddd; }
.limit { stroke: #b3261e; }
"""


def draw(run: Run) -> str:
    """Return the SVG: a panel for each pass, in it two bars for each case."""
    by_pass = {
        which: {result.case.name: result for result in results(run, which)} for which in PASSES
    }
    shown = [case for case in CASES if any(case.name in found for found in by_pass.values())]
    parts: list[str] = []
    y = TOP
    for layer in LAYERS:
        of_layer = [case for case in shown if case.layer == layer]
        for family, group in groupby(of_layer, key=lambda case: case.family):
            title = f"{LAYERS[layer].TITLE}: {family}"
            parts.append(_text(LABEL - 8, y + 14, title, "family name"))
            y += ROW + 4
            for case in group:
                name = case.name
                parts.append(_text(LABEL - 8, y + 12, name, "name"))
                for panel, which in enumerate(PASSES):
                    if name in by_pass[which]:
                        parts += _bars(_left(panel), y, by_pass[which][name])
                y += ROW
            y += 6
    width, height = _left(len(PASSES)), y + 10
    head = [
        _text(8, 20, "Share of the machine's limit", "head"),
        '<rect class="lamina" x="8" y="32" width="10" height="10"/>',
        _text(24, 41, "Lamina", ""),
        '<rect class="peer" x="84" y="32" width="10" height="10"/>',
        _text(100, 41, "the fastest other library", ""),
    ]
    for panel, which in enumerate(PASSES):
        head.append(_text(_left(panel), 36, PASS_TITLES[which], "head"))
        for percent in (0, 50, 100, 150, 200):
            x = _left(panel) + round(percent / 100 / MOST * PANEL)
            kind = "limit" if percent == 100 else "line"
            head.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{y}"/>')
            head.append(_text(x, TOP - 12, f"{percent}%", "tick"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            "<title>The share of its limit that each case reaches</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *head,
            *parts,
            "</svg>\n",
        ]
    )


def _left(panel: int) -> int:
    return LABEL + panel * (PANEL + GAP)


def _bars(x: int, y: int, result: Result) -> Iterator[str]:
    bars = [("lamina", result.lamina)]
    if result.fastest is not None:
        bars.append(("peer", result.times[result.fastest]))
    for i, (kind, seconds) in enumerate(bars):
        width = min(result.share(seconds), MOST) / MOST * PANEL
        yield (f'<rect class="{kind}" x="{x}" y="{y + 2 + 7 * i}" width="{width:.1f}" height="6"/>')


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'
