"""How the pairs of one source are read: their unit, what their distance is along, and what is said once about them."""

from __future__ import annotations

import logging

from spaceclip_plugin.data.files.depth_pair import DepthPair
from spaceclip_plugin.data.files.depth_values import StoredDepth
from spaceclip_plugin.data.files.image_files import check_units
from spaceclip_plugin.data.files.orientation import UPRIGHT
from spaceclip_plugin.data.files.ray_distance import AXIS, RAY, distance
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import DataError

_log = logging.getLogger(__name__)


class PairReader:
    """Reads the pairs of a list or folder.

    Attributes:
        units_per_metre: of integer depth.
        distance: what depth is measured along, one of `DISTANCES`.
    """

    def __init__(self, place: str, *, units_per_metre: float, distance_along: str = AXIS) -> None:
        """Nothing is read.

        Args:
            place: the list or folder, for messages.
            units_per_metre: of integer depth.
            distance_along: see `DISTANCES`.

        Raises:
            ConfigError: `units_per_metre` is not finite and positive, or there is no such distance.
        """
        check_units(units_per_metre)
        self.units_per_metre = units_per_metre
        self.distance = distance(distance_along)
        self._place = place
        self._told = False

    def check(self, pair: DepthPair, how: str) -> DepthPair:
        """The pair, once it is known to have what its distance needs.

        Args:
            pair: found, not read yet.
            how: where its intrinsics belong, for the message.

        Raises:
            DataError: distance along the ray, and no intrinsics.
        """
        if self.distance == RAY and pair.lens is None:
            raise DataError(
                f"{pair.where}: distance {RAY!r} is converted by the intrinsics of {pair.depth.name}; {how}"
            )
        return pair

    def read(self, pair: DepthPair) -> DepthSample:
        """The sample; says once that depth is turned with its photo, where it is."""
        found = pair.read(units_per_metre=self.units_per_metre, distance=self.distance)
        if found.turned_with_photo != UPRIGHT and not self._told:
            self._told = True
            _log.info(
                "%s: depth maps without an orientation of their own are turned as their photos are, from %s on (EXIF "
                "orientation %d); if they are upright already, give them the orientation 1 or photos without one",
                self._place, pair.depth.name, found.turned_with_photo,
            )  # fmt: skip
        return found.sample

    def stored(self, pair: DepthPair) -> StoredDepth:
        """The depth map as its file holds it."""
        return pair.stored_depth()

    def units_of(self, pair: DepthPair) -> float | None:
        """The unit a pair's depth is read with; None where its file holds metres."""
        return self.units_per_metre if pair.in_units else None

    def fingerprint(self, pair: DepthPair) -> str:
        """See `DepthPair.fingerprint`."""
        return pair.fingerprint(units_per_metre=self.units_per_metre, distance=self.distance)
