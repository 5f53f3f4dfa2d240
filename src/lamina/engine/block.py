"""Settings that hold within a block of `with`, in the thread or task that runs it."""

import warnings
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_entered: ContextVar[tuple[tuple["Block[Any]", Any], ...]] = ContextVar(
    "lamina_entered", default=()
)
"""The blocks that this thread or task is in, and the values that their variables had before."""


class Block(Generic[T]):
    """A context manager within which a variable has a value.

    It may be entered again, within itself or in another thread.

    Parameters
    ----------
    variable : ContextVar
    value : object
    call : str
        What the user called to get it: one that is never entered warns that it changed nothing.
    """

    used = True  # of one that was never made: an attempt to copy it

    def __init__(self, variable: ContextVar[T], value: T, call: str) -> None:
        self.variable, self.value, self.call = variable, value, call
        self.used = False

    def __enter__(self) -> None:
        self.used = True
        _entered.set((*_entered.get(), (self, self.variable.get())))
        self.variable.set(self.value)

    def __exit__(self, *error: Any) -> None:
        entered = [*_entered.get()]
        found = [i for i, (block, _) in enumerate(entered) if block is self]
        if found:  # a web server may end a generator in another context than it began in
            _, before = entered.pop(found[-1])
            for i, (block, _) in enumerate(entered[found[-1] :], found[-1]):
                if block.variable is self.variable:  # a generator may end after another began
                    entered[i] = block, before
                    break
            else:
                self.variable.set(before)
            _entered.set(tuple(entered))

    def __del__(self) -> None:
        if not self.used:
            said = f"{self.call} changed nothing: it is for a block, with {self.call}: ..."
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<for a block: with {self.call}: ...>"  # notebooks hold on to what they show
