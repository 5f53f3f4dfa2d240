"""The reference of the built site has an entry for every public member."""

import inspect
import re
import sys
import zlib

import serve

import lamina as lm

ENTRIES = {
    line.split()[0]
    for line in zlib.decompress((serve.SITE / "objects.inv").read_bytes().split(b"\n", 4)[4])
    .decode()
    .splitlines()
}


def members(owner):
    """Return the methods and properties that a class has a docstring for.

    Those of bases without an entry of their own count as the class's; what says the same of a layer
    as Layer does is there.
    """
    for base in owner.__mro__:
        listed = f"{base.__module__}.{base.__qualname__}" in ENTRIES
        if not base.__module__.startswith("lamina.") or (listed and base is not owner):
            continue
        for name, member in vars(base).items():
            public = name == "__call__" or not name.startswith("_")
            if public and (inspect.isroutine(member) or isinstance(member, property)):
                general = vars(lm.Layer).get(name)
                if member.__doc__ and (base is lm.Layer or member.__doc__ != general.__doc__):
                    yield name


def test_every_member_has_an_entry():
    owners = [v for v in vars(lm).values() if inspect.isclass(v)]
    assert len(owners) > 40
    wanted = {f"lamina.{owner.__name__}.{name}" for owner in owners for name in members(owner)}
    assert {"lamina.Dropout.forward", "lamina.LSTM.forward", "lamina.Layer.walk"} <= wanted
    assert not sorted(wanted - ENTRIES)


def test_every_function_of_a_formula_has_an_entry():
    formulas = [f for path, f in sys.modules.items() if re.fullmatch(r"lamina\..*\.formula", path)]
    assert len(formulas) == 8
    wanted = {
        f"{f.__name__}.{name}"
        for f in formulas
        for name, member in vars(f).items()
        if getattr(member, "__module__", None) == f.__name__ and not name.startswith("_")
    }
    assert {"lamina.dropout.formula.keep_mask", "lamina.lstm.formula.gates"} <= wanted
    assert not sorted(wanted - ENTRIES)


def test_every_name_has_an_entry():
    assert not sorted({f"lamina.{name}" for name in lm.__all__} - ENTRIES)
