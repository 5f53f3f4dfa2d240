"""Attributes that are computed once, without a lock.

That of Python 3.11's `functools.cached_property` is one for all instances: a fork while another
thread computes would leave it held in the child.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class cached_property(Generic[T]):  # noqa: N801
    """An attribute that is computed when first read; all threads find the same one."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        found: T = instance.__dict__.setdefault(self.compute.__name__, self.compute(instance))
        return found
