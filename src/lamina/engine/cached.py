"""What is computed once and kept: attributes, and results of functions."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class cached_property(Generic[T]):  # noqa: N801
    """An attribute that is computed when first read; all threads find the same one.

    It has no lock. That of Python 3.11's `functools.cached_property` is one for all instances: a
    fork while another thread computes would leave it held in the child.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        found: T = instance.__dict__.setdefault(self.compute.__name__, self.compute(instance))
        return found


class KeptBySize(Generic[T]):
    """A function whose results are kept: of small first arguments `many`, of large ones `few`."""

    def __init__(
        self, function: Callable[..., T], many: int, few: int, is_large: Callable[[Any], bool]
    ) -> None:
        self.small, self.large = lru_cache(many)(function), lru_cache(few)(function)
        self.is_large = is_large

    def __call__(self, first: Hashable, *others: Hashable) -> T:
        """Return what the function does."""
        return (self.large if self.is_large(first) else self.small)(first, *others)

    def cache_clear(self) -> None:
        """Forget all, as of `lru_cache`."""
        self.small.cache_clear()
        self.large.cache_clear()
