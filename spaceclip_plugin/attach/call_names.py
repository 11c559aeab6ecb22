"""Naming the image calls of one attachment, by what the policy declares and what its user tells."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from spaceclip_plugin._checks import shown
from spaceclip_plugin.attach.cameras import named_calls
from spaceclip_plugin.attach.decoding import Decoded
from spaceclip_plugin.errors import ConfigError, nearest

Given = Mapping[int, frozenset[str]]
"""The cameras that a policy had images of in a host step, by its number; empty where no one told."""

_PREFIXES = ("", "observation.", "observation.images.")
_logger = logging.getLogger(__name__)


class CallNames:
    """Names for the cameras of image calls; says once in the log where it has none.

    Attributes:
        views: the cameras, in the order in which the policy calls its tower.
        given: what was told last.
    """

    def __init__(self, views: Sequence[str]) -> None:
        self.views = views
        self.given: Given = {}
        self._refreshed: int | None = None
        self._warned = False

    def tell(self, step: int, cameras: Iterable[str]) -> None:
        """Take note of the cameras that the policy is given in a host step.

        Args:
            step: its number.
            cameras: their names; or an observation, whose other keys are passed over.

        Raises:
            ConfigError: none of them is a camera of the policy, or a name that is none.
        """
        names = [cameras] if isinstance(cameras, str) else [str(name) for name in cameras]
        there = {prefix + view: view for view in self.views for prefix in _PREFIXES if prefix + view in names}
        unknown = [name for name in names if name not in there]
        if not there or (unknown and not isinstance(cameras, Mapping)):
            known = ", ".join(self.views) or "none by name: attach with views=[…]"
            hint = nearest(unknown[0], self.views) if unknown else ""
            raise ConfigError(
                "given takes the names of the cameras that the policy has images of, or its observation, got "
                f"{shown(names)}{hint}; the cameras of this attachment are {known}"
            )
        self.given = {step: frozenset(there.values())}

    def refreshed(self, step: int) -> None:
        """Take note that image calls of that step are not the policy's: that they bear no name surprises no one."""
        self._refreshed = step

    def of(self, decoded: Sequence[Decoded], given: Given) -> list[str | None]:
        """The camera of every image call of a read, or None.

        Args:
            decoded: in call order.
            given: what was told by then.
        """
        names = [one.depth.camera for one in decoded]
        if not self.views:
            return names
        asked = [(i, one) for i, one in enumerate(decoded) if one.depth.camera is None]
        steps, blank = [one.depth.step for _, one in asked], [one.blank for _, one in asked]
        for (i, _), name in zip(asked, named_calls(self.views, steps, blank, given=given), strict=True):
            names[i] = name
        if not self._warned and any(
            names[i] is None and one.blank is False and one.depth.step != self._refreshed for i, one in asked
        ):
            self._warned = True
            _logger.warning(
                "%d image call(s) of the cameras %s: which is of which cannot be told, and depth bears no name. Read "
                "once per host step; where cameras are missing, tell which there are: attachment.given(observation) in "
                "every step, or attach_depth_head(…, views=[…]) with those alone", len(asked), ", ".join(self.views),
            )  # fmt: skip
        return names
