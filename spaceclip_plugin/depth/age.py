"""The count of a host's steps, and ages that move on with it.

Depth that is kept grows old while the host goes on; an age noted when it was read would tell of fresh depth for ever.
So what an attachment gives carries an age that knows its count, and is counted anew whenever it is asked for.
"""

from __future__ import annotations

from typing import overload


class HostSteps:
    """Counts the steps of one host.

    Attributes:
        ended: steps that have ended so far; the current one has this number.
    """

    def __init__(self) -> None:
        self.ended = 0

    def end(self) -> int:
        """End a step; returns the number of the one that begins."""
        self.ended += 1
        return self.ended

    def age_of(self, step: int) -> CountedAge:
        """Steps that have begun and ended since the one of that number; what is kept of it goes on counting."""
        return _Counting(self, step).by_now()


class CountedAge(int):
    """An age in host steps at the moment it was asked for; a `LiveAge` that is set to one goes on counting."""

    counting: _Counting

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class _Counting:
    """What an age is counted by: pickled or deep-copied it has no host any more, and is the age of that moment."""

    def __init__(self, steps: HostSteps, since: int) -> None:
        self._steps = steps
        self._since = since

    def by_now(self) -> CountedAge:
        # A read ends its step: one step after it, what it gave is still the newest there can be.
        age = CountedAge(max(0, self._steps.ended - 1 - self._since))
        age.counting = self
        return age

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self.by_now()),)


class LiveAge:
    """The field of a dataclass: a `CountedAge` it is given goes on counting there, any other number stays."""

    @overload
    def __get__(self, owner: None, kind: type) -> int: ...
    @overload
    def __get__(self, owner: object, kind: type) -> int: ...
    def __get__(self, owner: object, kind: type) -> int:
        if owner is None:
            return 0  # the default: a dataclass asks its fields for it in this way
        age: int | _Counting = vars(owner)["age"]
        return age.by_now() if isinstance(age, _Counting) else age

    def __set__(self, owner: object, age: int) -> None:
        vars(owner)["age"] = age.counting if isinstance(age, CountedAge) else age
