"""Choosing parameters by patterns of their names."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any


def as_patterns(owner: str, argument: str, given: Any) -> tuple[str, ...]:
    """Return a pattern, or several, as a tuple: an iterator could be gone through once only."""
    if isinstance(given, str):
        return (given,)
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(pattern, str) for pattern in found):
        raise TypeError(
            f'{owner}: {argument} must be a pattern of names of parameters, "4.*" say, or several '
            f"in a list, got {given!r}"
        )
    return found


def matches(patterns: str | Iterable[str], name: str) -> bool:
    """Tell whether a pattern, or any of several, fits `name`; ``*`` stands for any characters."""
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def refuse_idle(owner: str, argument: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Raise a ValueError where a pattern fits none of `names`: most often it is mistyped."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{owner}: {argument} {pattern!r} fits no parameter; the parameters are "
                f"{', '.join(names) or 'none'}"
            )
