"""Run the examples, one after the other, and write what they print to docs/examples.md.

``python examples`` runs them all, ``python examples adding vowels`` these two: the page keeps what
it has of the others.
"""

import ast
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

import lamina as lm

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "examples.md"
HEAD = f"""\
# Examples

Known results, reproduced. `make examples` writes this page from what the scripts in `examples/`
print; last with Lamina {lm.__version__}, NumPy {np.__version__} and Python \
{platform.python_version()}.
"""
EXAMPLES = {
    "vowels": None,
    "mnist_1d": None,
    "fashion": None,
    "adding": "adding.svg",
    "characters": None,
}
"""The scripts, in order, each with the figure that it draws in docs/."""


def explanation(name):
    """Return an example's title and what it says of itself, from the head of its script."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text()))
    title, _, rest = text.partition("\n\n")
    return title.rstrip("."), rest


def section(name, figure):
    """Run an example; return its part of the page."""
    script = HERE / f"{name}.py"
    print(f"\n== {script.name}", flush=True)
    title, text = explanation(name)
    lines = []
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if run.returncode:
        sys.exit(f"{script.name} failed")
    drawn = f"\n![{title}]({figure})\n" if figure else ""
    return f"""\
## {title}

{text}

```text
{"".join(lines).rstrip()}
```
{drawn}
[`examples/{script.name}`](../examples/{script.name})
"""


def main(names):
    for name in names:
        fresh = section(name, EXAMPLES[name])
        old = PAGE.read_text().split("\n## ")[1:] if PAGE.exists() else []
        sections = {text.partition("\n")[0]: f"## {text.rstrip()}\n" for text in old}
        sections[fresh[3:].partition("\n")[0]] = fresh
        titles = [title for title, _ in map(explanation, EXAMPLES)]
        PAGE.write_text("\n".join([HEAD, *(sections[t] for t in titles if t in sections)]))
    print(f"\n{PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:] or EXAMPLES)
