"""What the README says is so: its Python runs and its links lead somewhere."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["accuracy"] > 0.9
    assert names["dx"].shape == names["x"].shape
    assert set(names["grads"]) == set(names["model"].params)
    assert capsys.readouterr().out


def test_the_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    local = [link for link in links if "://" not in link]
    assert local
    missing = [link for link in local if not (README.parent / link).exists()]
    assert not missing
