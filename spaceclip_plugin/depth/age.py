"""The age of a depth map in host steps, counted anew whenever it is asked for: depth that is kept grows old."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import overload


class HostSteps:
    """Counts the steps of one host."""

    def __init__(self) -> None:
        self.ended = 0  # the current step has this number

    def end(self) -> int:
        """End a step; returns the number of the one that begins."""
        self.ended += 1
        return self.ended

    def age_of(self, step: int) -> CountedAge:
        """Steps that have begun and ended since the one of that number; what is kept of it goes on counting."""
        # A read ends its step: one step after it, what it gave is still the newest there can be.
        age = CountedAge(max(0, self.ended - 1 - step))
        age.by_now = partial(self.age_of, step)
        return age


class CountedAge(int):
    """An age in host steps at the moment it was asked for; a `LiveAge` that is set to one goes on counting."""

    by_now: Callable[[], CountedAge]

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class LiveAge:
    """A dataclass field: a `CountedAge` goes on counting there; other numbers stay, as do those of deep copies."""

    @overload
    def __get__(self, owner: None, kind: type) -> int: ...
    @overload
    def __get__(self, owner: object, kind: type) -> int: ...
    def __get__(self, owner: object, kind: type) -> int:
        if owner is None:
            return 0  # the default: a dataclass asks its fields for it in this way
        age: int | Callable[[], CountedAge] = vars(owner)["age"]
        return age() if callable(age) else age

    def __set__(self, owner: object, age: int) -> None:
        vars(owner)["age"] = age.by_now if isinstance(age, CountedAge) else age
