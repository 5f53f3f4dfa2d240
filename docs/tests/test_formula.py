"""The code that stands beside equations."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1] / "_ext"))
import formula

PROGRAM = """\
def f(x, b):
    for t in range(3):
        x = x + t  # (1)
        if b is not None:
            x = x * b  # (2)
    return x
"""


def test_a_line_is_shown_with_the_branches_and_loops_around_it():
    found = formula.heads(ast.parse(PROGRAM))
    assert found[3] == {2}
    assert found[5] == {2, 4}
    assert 6 not in found


def test_equations_at_the_head_of_a_module_are_read():
    text = '"""A layer.\n\n    y = x W    (1)\n    z = y    (4p)\n\nIn (2), see\n(3).\n"""'
    assert formula.stated(text) == {"1", "4p"}


def test_what_a_page_leaves_out_is_said_of_every_layer(monkeypatch):
    said = []
    monkeypatch.setattr(formula, "stated", lambda text: {"99"})
    monkeypatch.setattr(
        formula.logger, "warning", lambda text, *found, location: said.append(found)
    )
    shown = {"linear": {"1", "2", "3"}, "dropout": set("1234567")}
    formula.check(None, SimpleNamespace(metadata={"page": {"equations": shown}, "other": {}}))
    assert said == [("linear", "4, 99"), ("dropout", "99")]
