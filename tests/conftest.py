import os

# Test processes share the cores; threads that wait by spinning would keep them from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# JAX compiles much here and computes little.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_generate_tests(metafunc):
    """Run the tests of a contract over the cases that the class lists and to which they apply."""
    if "case" in metafunc.fixturenames and metafunc.cls is not None:
        applies = getattr(metafunc.function, "applies", lambda case: True)
        cases = [case for case in metafunc.cls.cases if applies(case)]
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def pytest_collection_modifyitems(items):
    """Leave out the tests of a contract that apply to no case; pytest would skip them."""
    items[:] = [
        item
        for item in items
        if not any(
            mark.kwargs.get("reason", "").startswith("got empty parameter set")
            for mark in item.iter_markers("skip")
        )
    ]
