"""How Sphinx builds the site: `make site`."""

import doctest
import os
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes

here = Path(__file__).parent
sys.path[:0] = [str(here / "_ext"), str(here.parent)]  # the second for what examples/ has
os.environ.setdefault("LAMINA_THREADS", "1")  # the examples are small

import lamina  # noqa: E402

project = "Lamina"
author = "The Lamina developers"
copyright = "The Lamina developers"
version = release = lamina.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.katex",
    "cell",
    "formula",
    "live",
    "run",
    "speed",
]
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
exclude_patterns = ["_build", "node_modules", "vendor", "tests"]
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "special-members": "__call__",
    # What is of use to a layer itself alone:
    "exclude-members": "derived, settable, varied, weight_names",
}
autodoc_typehints = "none"  # the docstrings have types and shapes
napoleon_google_docstring = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
doctest_default_flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
doctest_test_doctest_blocks = ""  # those of docstrings are run by the tests of the package

html_theme = "furo"
html_title = "Lamina"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": ""})]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#9a3b00", "color-brand-content": "#9a3b00"},
    "dark_css_variables": {"color-brand-primary": "#ffb37a", "color-brand-content": "#ffb37a"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# Mathematics becomes HTML and MathML while the site is built; the style is of the same version.
katex_prerender = True
katex_css_path = "katex/katex.min.css"
katex = here / "node_modules" / "katex" / "dist"
if not katex.is_dir():
    raise SystemExit("docs/node_modules is missing: npm ci --prefix docs (make site does it)")
(here / "_static" / "katex").mkdir(exist_ok=True)
shutil.copy(katex / "katex.min.css", here / "_static" / "katex")
shutil.copytree(katex / "fonts", here / "_static" / "katex" / "fonts", dirs_exist_ok=True)


def give_captions_a_level(app, pagename, templatename, context, doctree):
    """Let the sidebar's captions be headings of a level, which readers' software asks for."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )


def keep_signs(app, doctree, docname):
    """Let no line end between short mathematics and a sign after it or a bracket before it."""
    for math in list(doctree.findall(nodes.math)):
        parent, place = math.parent, math.parent.index(math)
        before, after = "", ""
        if place and isinstance(parent[place - 1], nodes.Text):
            before = re.search(r"[(\[]*$", parent[place - 1])[0]
        if place + 1 < len(parent) and isinstance(parent[place + 1], nodes.Text):
            after = re.match(r"[.,;:!?)\]]*", parent[place + 1])[0]
        if len(math.astext()) > 24 or not before + after:
            continue
        if before:
            parent[place - 1] = nodes.Text(parent[place - 1].removesuffix(before))
        if after:
            parent[place + 1] = nodes.Text(parent[place + 1].removeprefix(after))
        parent[place] = nodes.inline(
            "", "", nodes.Text(before), math, nodes.Text(after), classes=["whole"]
        )


def leave_out_what_every_layer_says(app, what, name, member, skip, options):
    """Skip a method or property of a layer if its docstring is that of Layer, word for word."""
    general = vars(lamina.Layer).get(name)
    if what == "class" and general is not None and member is not general:
        return True if member.__doc__ == general.__doc__ else None
    return None


def show_blocks(app, what, name, module, options, lines):
    """Show what is indented at the head of a module, equations and tables, as it stands."""
    if what != "module":
        return
    shown, inside = [], False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not inside and not shown[-1]:
            shown += ["::", ""]
        inside = indented or (inside and not line)
        shown.append(line if indented else line.replace("|", r"\|"))
    lines[:] = shown


def show_sources_of_ours_alone(app, env):
    """Leave out what types of Python's own, by which some of ours are said, are written in."""
    for name in [name for name in env._viewcode_modules if name.split(".")[0] != "lamina"]:
        del env._viewcode_modules[name]


def leave_out_ways_back(app, pagename, templatename, context, doctree):
    """Leave out of source pages the links to the reference, which has names of its own for some."""
    if pagename.startswith("_modules/"):
        back = r'<a class="viewcode-back".*?</a>'
        context["body"] = re.sub(back, "", context["body"])


def setup(app):
    """Register with Sphinx."""
    app.connect("doctree-resolved", keep_signs)
    app.connect("autodoc-skip-member", leave_out_what_every_layer_says)
    app.connect("autodoc-process-docstring", show_blocks)
    app.connect("env-updated", show_sources_of_ours_alone)
    app.connect("html-page-context", leave_out_ways_back)
    app.connect("html-page-context", give_captions_a_level, priority=900)
