"""Sources of photos and depth maps in files, however these are found: what lists and folders have in common."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from spaceclip_plugin.data.files.depth_formats import check_units
from spaceclip_plugin.data.files.depth_values import StoredDepth
from spaceclip_plugin.data.files.orientation import UPRIGHT
from spaceclip_plugin.data.files.pairs import AXIS, RAY, DepthPair, checked_distance
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.selective import SelectiveSource
from spaceclip_plugin.errors import DataError

_log = logging.getLogger(__name__)
Label = TypeVar("Label", int, str)


class PairSource(SelectiveSource[DepthPair[Label], Label]):
    """A `DepthSource` over pairs of files."""

    units_per_metre: float | None  # of integer depth; None where all depth files hold metres
    need_depth: bool  # whether a photo without depth is an error

    def __init__(self, place: str, *, units_per_metre: float, distance: str = AXIS, skip_bad: bool = False) -> None:
        """Nothing is read; see `DepthList` and `ImageFolder` for arguments and errors."""
        check_units(units_per_metre)
        self.place = place
        self.skip_bad = skip_bad
        self._units, self._distance = units_per_metre, checked_distance(distance)
        self._said = False

    def fingerprint(self, index: int) -> str:
        """SHA-256 of the files of a pair, the unit and the intrinsics; see `DepthPair.fingerprint`."""
        return self._entries[index].fingerprint(self._units, self._distance)

    def tells_camera(self, index: int) -> bool:
        """Whether a pair has intrinsics."""
        return self._entries[index].lens is not None

    def stored_depth(self, index: int) -> StoredDepth:
        """The depth of a pair as its file holds it; see `DepthPair.stored_depth`."""
        return self._entries[index].stored_depth()

    def units_of(self, index: int) -> float | None:
        """The unit of a pair's depth; None where its file holds metres."""
        return self._units if self._entries[index].in_units else None

    def _take(self, good: Sequence[DepthPair[Label]], bad: Sequence[tuple[Label, str]]) -> None:
        """Takes over the pairs that were found."""
        self._keep(good, bad)
        in_units = any(pair.in_units for pair in self._entries)
        self.units_per_metre = self._units if in_units else None

    def _checked(self, pair: DepthPair[Label], how: str) -> DepthPair[Label]:
        """The pair, once it is known to have the intrinsics that its distance needs; `how` says where they belong."""
        if self._distance == RAY and pair.lens is None and pair.depth is not None:
            raise DataError(
                f"{pair.where}: distance {RAY!r} is converted by the intrinsics of {pair.depth.name}; {how}"
            )
        return pair

    def _read(self, entry: DepthPair[Label]) -> DepthSample:
        """The sample; says once that depth is turned with its photo, where it is."""
        sample, turned_with_photo = entry.read(self._units, self._distance)
        if turned_with_photo != UPRIGHT and entry.depth is not None and not self._said:
            self._said = True
            _log.info(
                "%s: depth maps without an orientation of their own are turned as their photos are, from %s on (EXIF "
                "orientation %d); if they are upright already, give them the orientation 1 or photos without one",
                self.place, entry.depth.name, turned_with_photo,
            )  # fmt: skip
        return sample

    def _label(self, entry: DepthPair[Label]) -> Label:
        return entry.label
