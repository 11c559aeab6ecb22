"""Sources that can leave out what cannot be used, and say what they left out."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from tqdm import tqdm
from typing_extensions import Self

from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import DataError

_log = logging.getLogger(__name__)
_SHOWN = 5

SampleCheck = Callable[[DepthSample], None]
Entry = TypeVar("Entry")
Label = TypeVar("Label")


class SelectiveSource(ABC, Generic[Entry, Label]):
    """A `DepthSource` over entries that are known beforehand and may prove unusable, at first sight or when read.

    A subclass finds its entries, hands them to `_keep`, and says how one is read (`_read`) and called (`_label`).

    Attributes:
        place: the list, folder or data set, for messages.
        skip_bad: whether unusable entries are dropped instead of being an error.
        skipped: (label, reason) of every entry dropped because of `skip_bad`, in order.

    Example:
        >>> import numpy as np
        >>> from spaceclip_plugin.data import DepthSample, SelectiveSource
        >>> from spaceclip_plugin.errors import DataError
        >>> class Walls(SelectiveSource[float, float]):
        ...     _noun, _expected, place = "walls", "distances of walls", "a corridor"
        ...     def __init__(self, *distances_m, skip_bad=False):
        ...         self.skip_bad = skip_bad
        ...         self._keep(distances_m, [])
        ...     def _label(self, entry):
        ...         return entry
        ...     def _read(self, entry):
        ...         if entry <= 0:
        ...             raise DataError(f"a wall at {entry} m")
        ...         return DepthSample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), entry, np.float32), "a wall")
        >>> Walls(1.5, 0.0, 2.0, skip_bad=True).validated().skipped
        ((0.0, 'a wall at 0.0 m'),)
    """

    _noun: ClassVar[str]
    """What an entry is, in the plural: "lines"."""
    _expected: ClassVar[str]
    """What the place should have held: "lines `rgb depth [focal]`"."""

    place: str
    skip_bad: bool
    skipped: tuple[tuple[Label, str], ...] = ()
    _entries: tuple[Entry, ...] = ()

    @abstractmethod
    def _read(self, entry: Entry) -> DepthSample:
        """The sample of an entry; DataError, naming it, where it cannot be used."""

    @abstractmethod
    def _label(self, entry: Entry) -> Label:
        """What `skipped` calls an entry."""

    def __len__(self) -> int:
        """Number of usable entries."""
        return len(self._entries)

    def __getitem__(self, index: int) -> DepthSample:
        """Reads one sample.

        Raises:
            IndexError: no such sample.
            DataError: it cannot be used. Names the place, the entry and the file.
        """
        return self._read(self._entries[index])

    def validated(self, usable: SampleCheck | None = None) -> Self:
        """This source once every sample has been read: what it still holds can be read.

        Reads the whole data set once, with a progress bar on a terminal, so that a run of days does not stop at a
        file that was broken from the start. With `skip_bad` the returned source lacks the unreadable samples, names
        them in its `skipped` and logs a warning; this source is left as it is.

        Args:
            usable: raises DataError for a sample that is whole but of no use, such as `Protocol.check`.

        Raises:
            DataError: samples cannot be read (without `skip_bad`), or none can.
        """
        good: list[Entry] = []
        bad: list[tuple[Label, str]] = []
        for entry in tqdm(self._entries, desc=self.place, leave=False, disable=None):
            try:
                sample = self._read(entry)
                if usable is not None:
                    usable(sample)
                good.append(entry)
            except DataError as error:
                bad.append((self._label(entry), str(error)))
        readable = copy.copy(self)
        readable._keep(good, bad)
        return readable

    def _keep(self, good: Sequence[Entry], bad: Sequence[tuple[Label, str]]) -> None:
        """Takes over what is usable; bad entries are an error or, with `skip_bad`, a record and a warning."""
        count = f"{len(bad)} of {len(good) + len(bad)} {self._noun} cannot be used"
        reasons = "".join(f"\n  {reason}" for _, reason in bad[:_SHOWN])
        reasons += f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        if bad and not self.skip_bad:
            raise DataError(
                f"{self.place}: {count}; repair them, or leave them out with --skip-bad (in Python "
                f"skip_bad=True):{reasons}"
            )
        if not good:
            raise DataError(f"{self.place}: expected {self._expected}, but there is no usable one{reasons}")
        if bad:
            _log.warning("%s: %s and are skipped:%s", self.place, count, reasons)
        self._entries = tuple(good)
        self.skipped = tuple(sorted((*self.skipped, *bad)))
