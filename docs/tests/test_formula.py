"""The code that stands beside equations."""

import ast
import sys
from pathlib import Path

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
