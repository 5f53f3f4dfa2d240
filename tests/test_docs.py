"""The reference of the site has a place for everything public."""

import re
from pathlib import Path
from types import ModuleType

import lamina as lm

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
FOUND = re.findall(r"^\.\. auto(\w+):: lamina\.([\w.]+)\n((?:   :.*\n)*)", PAGE.read_text(), re.M)
LISTED = {name for _, name, _ in FOUND}
WHOLE = {name for kind, name, options in FOUND if ":members:" in options}


def public():
    """Return what is public: names, and of modules those that are not names already."""
    for name in lm.__all__:
        value = getattr(lm, name)
        yield name
        if isinstance(value, ModuleType) and name not in WHOLE:
            for part in value.__all__:
                if part == "formula":
                    yield f"{name}.formula"
                elif not isinstance(getattr(value, part), ModuleType) and part not in lm.__all__:
                    yield f"{name}.{part}"


def test_everything_public_is_listed():
    assert not sorted(set(public()) - LISTED)


def test_classes_and_formulas_are_listed_with_their_members():
    assert {n for kind, n, _ in FOUND if kind == "class" or n.endswith(".formula")} <= WHOLE


def test_everything_listed_is_there():
    for name in LISTED:
        value = lm
        for part in name.split("."):
            value = getattr(value, part)
        assert value.__doc__, name
