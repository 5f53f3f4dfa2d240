"""``{live} name``: a figure whose numbers the library computes while the site is built.

docs/figures/name.py gives ``data()``, or ``data(variant)`` where pages show it differently;
docs/figures/name.js draws it. The first state is drawn here,
so that it is there without JavaScript and in print.
"""

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.fileutil import copy_asset_file

FIGURES = Path(__file__).parents[1] / "figures"


def module(name: str) -> ModuleType:
    """Import docs/figures/name.py."""
    spec = importlib.util.spec_from_file_location(f"figures_{name}", FIGURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def rendered(name: str, data: Any) -> dict[str, str]:
    """Return the first state of a figure: its picture and what it says."""
    done = subprocess.run(
        ["node", FIGURES / "render.mjs"],
        input=json.dumps({"name": name, "data": data}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"figure {name}: {done.stderr}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


class Live(SphinxDirective):
    """The directive; its content is the caption."""

    required_arguments = 1
    has_content = True
    option_spec = {
        "label": directives.unchanged_required,
        "variant": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure as HTML."""
        name = self.arguments[0]
        for file in (f"{name}.py", f"{name}.js", "core.js"):
            self.env.note_dependency(str(FIGURES / file))
        data = module(name).data(*filter(None, [self.options.get("variant")]))
        first = rendered(name, data)
        blob = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
        used = self.env.metadata[self.env.docname].setdefault("figures", [])
        used.append(name)
        head = (
            f'<lamina-figure name="{name}" role="group" aria-label="{self.options["label"]}">'
            f'<div class="lf-picture">{first["picture"]}</div>'
            f'<p class="lf-say">{first["say"]}</p>'
            f'<script type="application/json">{blob}</script></lamina-figure>'
        )
        caption = nodes.container(classes=["lf-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        return [nodes.raw("", head, format="html"), caption]


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: Any, doctree: Any) -> None:
    """Let a page load the figures that it has, and no others."""
    used = app.env.metadata.get(pagename, {}).get("figures", [])
    if not used:
        return
    for name in ["core", *dict.fromkeys(used)]:
        app.add_js_file(f"figures/{name}.js", defer="")
    arrow = (
        '<svg width="0" height="0" aria-hidden="true" style="position:absolute"><defs>'
        '<marker id="lf-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" '
        'fill="context-stroke"/></marker></defs></svg>'
    )
    context["body"] = arrow + context["body"]


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Put the figures' scripts where the pages look for them."""
    if error is None:
        (target := app.outdir / "_static" / "figures").mkdir(parents=True, exist_ok=True)
        for script in FIGURES.glob("*.js"):
            copy_asset_file(script, target / script.name, force=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("live", Live)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", copy_scripts)
    return {"parallel_read_safe": True}
