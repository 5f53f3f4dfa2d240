"""``{cell}``: a part of an example, which is run when the site is built.

The cells of a page share their names. What a cell prints stands beneath it; where its last line is
a figure or something that shows itself as HTML, that too. Figures are drawn into the page, in the
colours of its text, so that they follow dark mode.
"""

import ast
import contextlib
import html
import io
from typing import Any

import matplotlib as mpl
from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=["#d9680f", "#2173c4", "#1a7f4b", "#b3206a"]),
    "font.family": "sans-serif",
    "legend.frameon": False,
}


def run(code: str, names: dict[str, Any]) -> tuple[str, Any]:
    """Run a cell; return what it prints, and the value of its last line."""
    tree = ast.parse(code)
    last = None
    if isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as out, mpl.rc_context(STYLE):
        exec(compile(tree, "<cell>", "exec"), names)
        if last is not None:
            value = eval(compile(last, "<cell>", "eval"), names)
        if isinstance(value, Figure):
            value = drawn(value, names)
    return out.getvalue(), value


def drawn(figure: Figure, names: dict[str, Any]) -> str:
    """Return a figure as SVG in the colour of the text around it."""
    names["__figures__"] = names.get("__figures__", 0) + 1
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": f"{names['__name__']}-{names['__figures__']}"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace("#000000", "currentColor")


class Cell(SphinxDirective):
    """The directive; ``:alt:`` says what a figure shows."""

    has_content = True
    option_spec = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the code and what came of it."""
        code = "\n".join(self.content)
        names = self.env.temp_data.setdefault("cells", {"__name__": self.env.docname})
        text, value = run(code, names)
        result: list[nodes.Node] = [nodes.literal_block("", code, language="python")]
        if text:
            shown = f'<pre class="lr-out">{html.escape(text)}</pre>'
            result.append(nodes.raw("", shown, format="html"))
        if isinstance(value, str) and value.startswith("<svg"):
            alt = html.escape(self.options["alt"])
            width = value.partition('width="')[2].partition('"')[0]
            figure = (
                f'<div class="cell-figure" role="img" aria-label="{alt}" style="--wide: {width}">'
                f"{value}</div>"
            )
            result.append(nodes.raw("", figure, format="html"))
        elif hasattr(value, "_repr_html_"):
            table = f'<div class="cell-table table-wrapper">{value._repr_html_()}</div>'
            result.append(nodes.raw("", table, format="html"))
        return [nodes.container("", *result, classes=["cell"])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("cell", Cell)
    return {"parallel_read_safe": True}
