"""``{run}``: Python that was run when the site was built, and runs again in the reader's browser.

The browser's Python is Pyodide with NumPy and Lamina's own sources: nothing is loaded before the
reader asks for it, and nothing from another host. Lamina's kernels need Numba, which is not there:
layers compute by their formulas.
"""

import contextlib
import hashlib
import html
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import array_api_compat
import tqdm
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import lamina

DOCS = Path(__file__).parents[1]
PYODIDE = DOCS / "node_modules" / "pyodide"
RUNTIME = ("pyodide.js", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip")


def output(code: str) -> str:
    """Run the code as a program and return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, lamina.formulas():
        exec(compile(code, "<example>", "exec"), {"__name__": "__main__"})
    return out.getvalue()


class Run(SphinxDirective):
    """The directive; its content is the program."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the program and its output, which a script makes live."""
        code = "\n".join(self.content)
        self.env.metadata[self.env.docname]["run"] = True
        block = nodes.literal_block("", code, language="python")
        text = html.escape(output(code))
        return [
            nodes.raw("", '<lamina-run><div class="lr-static">', format="html"),
            block,
            nodes.raw(
                "",
                f'</div><pre class="lr-out">{text}</pre></lamina-run>',
                format="html",
            ),
        ]


def add_script(app: Sphinx, pagename: str, templatename: str, context: Any, doctree: Any) -> None:
    """Let pages with programs load what runs them."""
    if app.env.metadata.get(pagename, {}).get("run"):
        app.add_js_file("run.js", defer="")


def wheel() -> Path:
    """Return NumPy's wheel, which must be the one that Pyodide was released with."""
    entry = json.loads((PYODIDE / "pyodide-lock.json").read_text())["packages"]["numpy"]
    path = DOCS / "vendor" / entry["file_name"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path} is not the file that pyodide-lock.json names")
    return path


def pack(app: Sphinx, error: Exception | None) -> None:
    """Put Python, NumPy and Lamina into the site."""
    if error is not None:
        return
    target = app.outdir / "_static" / "python"
    target.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME:
        shutil.copy(PYODIDE / name, target)
    numpy = wheel()
    shutil.copy(numpy, target)
    lock = json.loads((PYODIDE / "pyodide-lock.json").read_text())
    lock["packages"] = {"numpy": lock["packages"]["numpy"]}
    (target / "pyodide-lock.json").write_text(json.dumps(lock))
    with zipfile.ZipFile(target / "lamina.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for package in (lamina, array_api_compat, tqdm):
            folder = Path(package.__file__).parent
            for path in sorted(folder.rglob("*.py")):
                file.write(path, path.relative_to(folder.parent))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("run", Run)
    app.connect("html-page-context", add_script)
    app.connect("build-finished", pack)
    return {"parallel_read_safe": True}
