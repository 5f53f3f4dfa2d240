"""Settings that hold within a block of `with`, in the thread or task that runs it."""

import warnings
from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Block(Generic[T]):
    """A context manager within which a variable has a value.

    Parameters
    ----------
    variable : ContextVar
    value : object
    call : str
        What the user called to get it: one that is never entered warns that it changed nothing.
    """

    def __init__(self, variable: ContextVar[T], value: T, call: str) -> None:
        self.variable, self.value, self.call = variable, value, call
        self.token: Token[T] | None = None

    def __enter__(self) -> None:
        self.token = self.variable.set(self.value)

    def __exit__(self, *error: Any) -> None:
        if self.token is not None:
            self.variable.reset(self.token)

    def __del__(self) -> None:
        if self.token is None:
            said = f"{self.call} changed nothing: it is for a block, with {self.call}: ..."
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<for a block: with {self.call}: ...>"  # notebooks hold on to what they show
