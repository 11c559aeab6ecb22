"""Episodes of recordings by their numbers: as text, and split into some to learn from and some to validate on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError, DataError

_RANGE = "[0-9]{1,6}(-[0-9]{1,6})?"


def numbers_of(episodes: object) -> list[int] | None:
    """The numbers that "0-39,45" stands for, sorted; None for None, all of them. ConfigError for anything else."""
    if episodes is None:
        return None
    if not isinstance(episodes, str) or re.fullmatch(f"{_RANGE}(,{_RANGE})*", episodes) is None:
        raise ConfigError(f"episodes must be numbers and ranges, such as 0-39,45, got {shown(episodes)}")
    numbers: set[int] = set()
    for part in episodes.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ConfigError(f"episodes: the range {part} ends before it starts; write the lower number first")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def split_episodes(numbers: Sequence[int], share: float, *, where: str) -> tuple[str, str]:
    """Episodes to learn from, and those to validate on: about this share and at least one, spread evenly over all.

    Raises:
        DataError: there is one only. Names the data, `where`.
    """
    if len(numbers) < 2:
        raise DataError(
            f"{where}: one episode cannot be split into some to learn from and some to validate on; give other data "
            "for validation, or more episodes"
        )
    count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    held = {numbers[(2 * i + 1) * len(numbers) // (2 * count)] for i in range(count)}
    return in_ranges([number for number in numbers if number not in held]), in_ranges(sorted(held))


def in_ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as text: "0-39,45"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)
