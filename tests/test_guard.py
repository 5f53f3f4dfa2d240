"""No kernel reads or writes outside its arrays: see guarded.py."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects pages by Linux's means")


def guarded(*arguments):
    script = Path(__file__).with_name("guarded.py")
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_guard_sees_one_element_too_far():
    done = guarded("strays")
    assert done.returncode == 0, done.stderr
    outcomes = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert len(outcomes) == 13
    for what, outcome in outcomes.items():
        assert outcome == ("0" if what.endswith("nothing") else "SIGSEGV"), what


@pytest.mark.parametrize("width", [16, 32, 64])
def test_tiles_read_nothing_behind_the_last_row_of_b(width):
    """Vectors of any width run on every CPU: LLVM makes several narrow ones of a wide one."""
    done = guarded("tiles", width)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("activation", 200),
        ("batchnorm", 300),
        ("dropout", 300),
        ("loss", 100),
        ("pool", 200),
        ("update", 200),
        ("recurrent", 150),
        ("rows", 100),
    ],
)
def test_kernels_of_elements_stay_within_their_arrays(kind, count):
    done = guarded("elements", kind, 0, count)
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else "nothing yet"
    assert done.returncode == 0, f"ended with {done.returncode} at {last}\n{done.stderr[-2000:]}"
    assert len(lines) == 1 + count


@pytest.mark.parametrize("counts", [(1000, 0, 0), (0, 600, 0), (0, 0, 300)])
def test_kernels_stay_within_their_arrays(counts):
    done = guarded("problems", 0, *counts)
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else "nothing yet"
    assert done.returncode == 0, f"ended with {done.returncode} at {last}\n{done.stderr[-2000:]}"
    assert len(lines) == 1 + sum(counts)
