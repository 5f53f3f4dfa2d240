"""``{speed} Linear``: the tables of docs/benchmarks.md, which `make bench` writes, on a layer."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

REPORT = Path(__file__).parents[1] / "benchmarks.md"


def tables(layer: str) -> list[tuple[str, str]]:
    """Return the titles and the texts of the report's sections on a layer."""
    sections = re.split(r"^## ", REPORT.read_text(), flags=re.MULTILINE)[1:]
    pairs = [section.split("\n", 1) for section in sections]
    return [
        (title.partition(", ")[2], text.strip())
        for title, text in pairs
        if title.startswith(f"{layer}, ")
    ]


class Speed(SphinxDirective):
    """The directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the tables, folded, or a word that there are none."""
        self.env.note_dependency(str(REPORT))
        found = tables(self.arguments[0])
        lines: list[str] = []
        if not found:
            lines = ["`make bench` has not measured this layer yet."]
        for title, text in found:
            lines += [
                f":::{{dropdown}} {title[:1].upper()}{title[1:]}",
                *text.splitlines(),
                ":::",
                "",
            ]
        box = nodes.container(classes=["speed"])
        self.state.nested_parse(StringList(lines, source=str(REPORT)), 0, box)
        return [box]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("speed", Speed)
    return {"parallel_read_safe": True}
