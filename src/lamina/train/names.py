"""Choosing parameters by patterns of their names."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(patterns: str | Iterable[str], name: str) -> bool:
    """Tell whether a pattern, or any of several, fits `name`; ``*`` stands for any characters."""
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def refuse_idle(
    owner: str, argument: str, patterns: str | Iterable[str], names: Iterable[str]
) -> None:
    """Raise a ValueError where a pattern fits none of `names`: most often it is mistyped."""
    names = list(names)
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{owner}: {argument} {pattern!r} fits no parameter; the parameters are "
                f"{', '.join(names) or 'none'}"
            )
