"""What the README and the first page of the site say is so: Python runs, links lead somewhere."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
INDEX = README.parent / "docs" / "index.md"


def python_of(page):
    """Run the Python of a page; return its names."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)
    return names


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = python_of(README)
    assert names["accuracy"] > 0.9
    assert names["dx"].shape == names["x"].shape
    assert set(names["grads"]) == set(names["model"].params)
    assert capsys.readouterr().out


def test_the_python_of_the_site_runs(capsys):
    python_of(INDEX)
    assert float(capsys.readouterr().out.split()[-1]) > 0.9


def test_the_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    local = [link for link in links if "://" not in link]
    assert local
    missing = [link for link in local if not (README.parent / link).exists()]
    assert not missing
