"""``{formula} layer 3 4p``: the lines of a layer's formula.py that implement (3) and (4p).

formula.py repeats the number of an equation beside the code that computes it. A page that derives
the equations of a layer must show each of them, those at the head of formula.py too: what is left
out is a warning, and so an error.
"""

import ast
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import lamina

SOURCE = Path(lamina.__file__).parent

WHOLE = 10
"""A statement of up to so many lines is shown whole, of a longer one the lines alone."""

HEADED = (ast.If, ast.For, ast.While)
"""What a statement stands in is shown by its first line."""

logger = logging.getLogger(__name__)


def numbers(line: str) -> set[str]:
    """Return the equations that a line of code names in its comment."""
    code, mark, comment = line.partition("  # ")
    if not (mark and code.strip()):
        return set()
    return set(re.findall(r"\((\d+[a-z]?)\)", comment))


def stated(text: str) -> set[str]:
    """Return the equations that stand, numbered, at the head of a module."""
    return set(re.findall(r"  \((\d+[a-z]?)\)$", ast.get_docstring(ast.parse(text)) or "", re.M))


def in_order(number: str) -> tuple[int, str]:
    """Return what to sort equations by."""
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits), number


def statements(tree: ast.AST) -> list[tuple[int, int, str]]:
    """Return the first and the last line of every simple statement, and its function's name."""
    found = []

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else name
            if isinstance(child, ast.stmt) and not hasattr(child, "body"):
                assert child.end_lineno
                found.append((child.lineno, child.end_lineno, inner))
            visit(child, inner)

    visit(tree, "")
    return found


def heads(tree: ast.AST) -> dict[int, set[int]]:
    """Return, for each line, the first lines of the branches and loops that it stands in."""
    found: dict[int, set[int]] = {}
    for node in ast.walk(tree):
        if isinstance(node, HEADED):
            for child in node.body:
                for line in range(child.lineno, (child.end_lineno or child.lineno) + 1):
                    found.setdefault(line, set()).add(node.lineno)
    return found


def equations(layer: str) -> dict[str, list[tuple[int, int, str]]]:
    """Return, for each number of an equation, the lines that implement it."""
    text = (SOURCE / layer / "formula.py").read_text()
    lines = text.splitlines()
    simple = statements(ast.parse(text))
    found: dict[str, list[tuple[int, int, str]]] = {}
    for i, line in enumerate(lines, 1):
        for n in numbers(line):
            around = [s for s in simple if s[0] <= i <= s[1]]
            first, last, name = around[0] if around else (i, i, "")
            if last - first >= WHOLE or not around:
                first = last = i
            found.setdefault(n, []).append((first, last, name))
    return found


class Formula(SphinxDirective):
    """The directive. ``:of: run_backward`` takes the lines from that function alone."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"of": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the code, and where it is from."""
        layer = self.arguments[0]
        asked = self.arguments[1].split()
        path = SOURCE / layer / "formula.py"
        self.env.note_dependency(str(path))
        text = path.read_text()
        lines = text.splitlines()
        found = equations(layer)
        above = heads(ast.parse(text))
        shown: list[tuple[int, int, str]] = []
        for n in asked:
            if n not in found:
                raise self.error(f"{path} marks no line as equation ({n})")
            shown += found[n]
        only = self.options.get("of")
        shown = sorted({s for s in shown if only in (None, s[2])})
        if not shown:
            raise self.error(f"{path}: no such equations in {only}")
        seen = self.env.metadata[self.env.docname].setdefault("equations", {})
        seen.setdefault(layer, set()).update(asked)
        result: list[nodes.Node] = []
        for name in dict.fromkeys(s[2] for s in shown):
            code: list[str] = []
            after = headed = 0
            for first, last, _ in (s for s in shown if s[2] == name):
                if last <= after:
                    continue
                code += [lines[n - 1] for n in sorted(above.get(first, ())) if n > headed]
                headed = max(above.get(first, {headed}))
                code += lines[max(first - 1, after) : last]
                after = last
            block = nodes.literal_block("", dedent("\n".join(code)), language="python")
            block["classes"].append("formula")
            where = nodes.paragraph(classes=["formula-source"])
            file = nodes.literal(text=f"{layer}/formula.py")
            up = "../" * self.env.docname.count("/")
            source = f"{up}_modules/lamina/{layer}/formula.html"
            where += nodes.reference("", "", file, refuri=source, internal=True)
            if name:
                where += [nodes.Text(" · "), nodes.literal(text=name)]
            result.append(nodes.container("", block, where, classes=["formula-code"]))
        return result


def check(app: Sphinx, env: Any) -> None:
    """Warn of equations that a page on a layer does not show."""
    for page, metadata in env.metadata.items():
        for layer, shown in metadata.get("equations", {}).items():
            wanted = stated((SOURCE / layer / "formula.py").read_text()) | set(equations(layer))
            missing = ", ".join(sorted(wanted - shown, key=in_order))
            if missing:
                logger.warning(
                    "equations of %s that it does not show: %s", layer, missing, location=page
                )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("formula", Formula)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
