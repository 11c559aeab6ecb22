"""What known policies declare of their cameras, found by the class of the policy; the core knows none by name.

An entry point in `GROUP` bears the class name of a policy; its value is a function from the live policy to
`PolicyCameras`, imported where a host holds such a policy, and not before.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata

from torch import nn

from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.errors import ConfigError

GROUP = "spaceclip_plugin.policies"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraOrder:
    """Cameras in the order in which a policy runs its tower within a host step, one image call each.

    Attributes:
        names: of all cameras; empty where that is not known or the policy puts all of them into one call.
        placeholders: those of them that no robot has.
        leaves_out: whether the tower is called once less for every camera that is missing.

    Example:
        >>> CameraOrder(("front", "wrist", "spare"), placeholders=frozenset({"spare"})).names
        ('front', 'wrist', 'spare')
    """

    names: tuple[str, ...] = ()
    placeholders: frozenset[str] = frozenset()
    leaves_out: bool = False


@dataclass(frozen=True, eq=False)
class PolicyCameras:
    """What the configuration of a policy says of its cameras; it is believed as far as the tower's images bear it out.

    Attributes:
        policy: class name of the policy.
        order: in which it runs its tower.
        mappings: how it makes the tower's image out of each camera's, by camera name; empty where that is not said.
            What is measured of a camera later may take the place of what was configured.
        anchor: where it puts the camera's image in the tower's, whose padding is compared with the mappings; None: it
            pads none, and the mappings are believed wherever the tower's image is of their size.
        preparation: what makes its tower's images out of photos, such as a function of its own; None: not said.
        lacking: why there is none, for a warning; empty: nobody knows.

    Example:
        A policy that centres 480x640 images in its tower's:

        >>> from spaceclip_plugin.depth import ImageMapping
        >>> mapping = ImageMapping.letterboxed((480, 640), (224, 224))
        >>> declared = PolicyCameras("MyPolicy", CameraOrder(("front", "wrist")), {"front": mapping}, "centre")
        >>> declared.order.names
        ('front', 'wrist')
    """

    policy: str
    order: CameraOrder = CameraOrder()
    mappings: dict[str, ImageMapping] = field(default_factory=dict)
    anchor: Anchor | None = "centre"
    preparation: ImagePreparation | None = None
    lacking: str = ""


def declared_cameras(holders: Iterable[nn.Module]) -> PolicyCameras | None:
    """What the policy among a tower's holders (`towers.adapter.lineage`) declares; None where none is known."""
    known = _known_policies()
    for module in holders:
        for kind in type(module).__mro__:
            if (point := known.get(kind.__name__)) is None:
                continue
            try:
                declared: PolicyCameras = point.load()(module)
            except ImportError as error:
                _logger.warning("what is declared of %s (%s) is left out: %s", point.name, point.value, error)
                return None
            return declared
    return None


def camera_name(key: str) -> str:
    """`front` of `observation.images.front`."""
    for prefix in ("observation.images.", "observation."):
        key = key.removeprefix(prefix)
    return key


def checked_cameras(names: Iterable[str]) -> tuple[str, ...]:
    """Camera names as a user gives them; ConfigError for anything but different, non-empty strings."""
    found = () if isinstance(names, str) else tuple(names)
    if not found or len(set(found)) != len(found) or not all(isinstance(name, str) and name for name in found):
        raise ConfigError(f"cameras must be a list of different camera names, got {names!r}")
    return found


@functools.lru_cache(maxsize=1)
def _known_policies() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}
