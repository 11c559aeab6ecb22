"""What a LeRobot policy's processor steps share: its attached head, the depth of every robot, and the host's steps.

The steps are handed no policy by LeRobot's command lines; `link_to` and `live_policy` find it and keep it weakly.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from spaceclip_plugin import registry
from spaceclip_plugin.attachment import attach_depth_head
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.depth_guard import NewestDepth
from spaceclip_plugin.depth_map import DepthMap
from spaceclip_plugin.digest import module_digest
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError, SpaceClipError
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.token_adapter import lineage
from spaceclip_plugin.tower import TowerSpec
from spaceclip_plugin.views import declared_views

# How policies make their tower's images of those in a batch: SmolVLA; pi0 and its family; X-VLA.
_OWN_PREPARATION = ("prepare_images", "_preprocess_images", "_prepare_images")
_PLACEHOLDER = "empty_camera"
_LINKS: weakref.WeakKeyDictionary[nn.Module, weakref.ref[DepthLink]] = weakref.WeakKeyDictionary()


class DepthLink:
    """A head attached to a live policy, and the newest depth of each of its robots.

    The policy is not kept alive: when it goes, the hooks go, and `alive` says so.

    Attributes:
        cameras: names of the policy's cameras, placeholders left out, by the key of their images in a batch.
        names_images: whether each of the policy's image calls is of one camera, and bears its name.
        newest: of each robot (each row of a batch), by the end of the last host step.
    """

    def __init__(self, policy: nn.Module, head: DepthHead) -> None:
        spec = registry.choose_tower(policy).spec
        views = declared_views(lineage(policy, spec.path))
        # Attached below the policy, which an attachment would keep alive otherwise.
        child, _, tower = spec.path.partition(".")
        self._attachment = attach_depth_head(policy.get_submodule(child), head, tower=tower, views=views or None)
        weight = next((p for p in policy.get_submodule(spec.path).parameters() if not p.is_meta), None)
        if weight is not None:
            head.to(weight.device)
        self._policy = weakref.ref(policy, _detaching(weakref.ref(self)))
        self._spec = spec
        self._digest = module_digest(head)
        self._refreshed: list[DepthMap] | None = None
        self._open, self._robots = False, 0
        self.cameras = _cameras(policy)
        self.names_images = bool(views)
        self.newest: list[NewestDepth] = []

    @property
    def alive(self) -> bool:
        """Whether the policy is still there."""
        return self._policy() is not None

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the tower's images as it was built, in pixels."""
        return self._spec.image_hw

    def check_same(self, head: DepthHead) -> None:
        """Raise HostError unless that head is, bit for bit, the one that is attached."""
        if module_digest(head) != self._digest:
            raise HostError(
                "this policy is read by another head already, and all its steps must carry the same one; drop the "
                "pipelines that hold the other head, or make both with one head: add_depth(…, head)"
            )

    def begin_step(self, robots: int) -> None:
        """Begin a host step; one that was begun before and that no one ended is ended."""
        if self._open:
            self.end_step(self._robots)
        self._open, self._robots = True, robots

    def end_step(self, robots: int) -> None:
        """End a host step: the depth it left, refreshed or of the policy's own image calls, becomes the newest.

        Raises:
            CaptureError: it cannot be read; there is no depth then.
            HostError: images that cannot be shared out among so many robots; there is no depth then.
        """
        self._open = False
        refreshed, self._refreshed = self._refreshed, None
        try:
            if refreshed is None:
                maps = self._attachment.read()
            else:
                self._attachment.skip()
                maps = refreshed
            self._share_out(maps, robots)
        except HostError:
            self.forget()
            raise

    def refresh(self, images: Mapping[str, Tensor]) -> dict[str, DepthMap]:
        """Run the tower alone on the images of this step, and decode; what the policy sees later is not decoded.

        Args:
            images: (B, 3, H, W) by key, in the range that the policy takes them in.

        Returns:
            Depth of each, of age 0, under its camera's name.

        Raises:
            CaptureError: the tower does not take them, or the depth cannot be read.
            HostError: they are not images in [0, 1] where this package prepares them.
        """
        policy = self._policy()
        if policy is None:
            raise HostError("the policy that these steps were connected to is gone; call connect(policy)")
        for key, image in images.items():
            self._attachment.refresh(_prepared(policy, key, image, self._spec))
        maps = self._attachment.read()[-len(images) :]
        # Of this step, which `end_step` ends: reading counted one more.
        found = {key: depth.relabelled(view=camera_name(key), age=0) for key, depth in zip(images, maps, strict=True)}
        self._refreshed = [*found.values()]
        return found

    def forget(self) -> None:
        """There is no depth any more, and none that waits to be decoded."""
        self.newest = []
        self._refreshed = None
        with contextlib.suppress(CaptureError):
            self._attachment.skip()

    def close(self) -> None:
        """Take the hooks off the policy's tower, and let go of it; nothing can be read any more."""
        self._attachment.detach()
        del self._attachment

    def _share_out(self, maps: Sequence[DepthMap], robots: int) -> None:
        """Give each robot its images: all policies keep the images of one robot together, robot after robot."""
        if len(self.newest) != robots:
            self.newest = [NewestDepth() for _ in range(robots)]
        for depth in maps:
            if len(depth) % robots:
                raise HostError(
                    f"an image call of {len(depth)} image(s) for {robots} robot(s): whose image is whose cannot be told"
                )
        lone = [*self.cameras.values()] if sum(map(len, maps)) == robots and len(self.cameras) == 1 else [None]
        for robot, newest in enumerate(self.newest):
            own = [
                depth[i].relabelled(view=lone[0])
                for depth in maps
                for i in range(robot * len(depth) // robots, (robot + 1) * len(depth) // robots)
            ]
            newest.end_step(own)


def link_to(policy: nn.Module, head: DepthHead) -> DepthLink:
    """The link of a live policy, shared by all steps that are connected to it; made where there is none.

    Raises:
        HostError: not a module, no tower or several, or the policy is read by another head already.
        HeadMismatchError: the head does not fit the tower.
    """
    if not isinstance(policy, nn.Module):
        raise HostError(f"connect takes the live policy, a torch.nn.Module, got {type(policy).__name__}")
    known = _LINKS.get(policy)
    link = None if known is None else known()
    if link is not None:
        link.check_same(head)
        return link
    link = DepthLink(policy, head)
    _LINKS[policy] = weakref.ref(link)
    return link


def live_policy(head: DepthHead) -> nn.Module:
    """The one LeRobot policy alive in this process whose tower the head fits.

    Raises:
        HostError: there is none, or there are several.
    """
    pretrained = sys.modules.get("lerobot.policies.pretrained")  # not imported: there is no policy
    base = getattr(pretrained, "PreTrainedPolicy", None)
    gc.collect()  # one that was dropped may wait to be collected
    alive: list[nn.Module] = [] if base is None else [each for each in gc.get_objects() if issubclass(type(each), base)]
    fitting = [policy for policy in alive if _fits(policy, head)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(type(policy).__name__ for policy in fitting or alive)) or "none"
    if not fitting:
        problem = f"no LeRobot policy alive in this process has a tower that this head fits (alive: {listed})"
    else:
        problem = f"{len(fitting)} LeRobot policies alive in this process have a tower that this head fits: {listed}"
    raise HostError(f"{problem}; call connect(policy) of both steps with the one that acts")


def camera_name(key: str) -> str:
    """`front` of `observation.images.front`."""
    return key.removeprefix("observation.").removeprefix("images.")


def _fits(policy: nn.Module, head: DepthHead) -> bool:
    try:
        return not head.config.mismatches(registry.choose_tower(policy).spec)
    except SpaceClipError:
        return False


def _detaching(link: weakref.ref[DepthLink]) -> Callable[[object], None]:
    def detach(_: object) -> None:
        there = link()
        if there is not None:
            there.close()

    return detach


def _cameras(policy: nn.Module) -> dict[str, str]:
    features = getattr(getattr(policy, "config", None), "image_features", None)
    keys = [str(key) for key in features] if isinstance(features, Mapping) else []
    return {key: name for key in keys if not (name := camera_name(key)).startswith(_PLACEHOLDER)}


def _prepared(policy: nn.Module, key: str, image: Tensor, spec: TowerSpec) -> Tensor:
    """(B, 3, h, w) as the policy shows it to its tower; by `data.preparation` where it has no function for that."""
    modes = getattr(getattr(policy, "config", None), "normalization_mapping", None) or {}
    mode = modes.get("VISUAL", "IDENTITY")
    own = [method for name in _OWN_PREPARATION if callable(method := getattr(policy, name, None))]
    if own and getattr(mode, "value", mode) == "IDENTITY":  # else a later step normalises the images it takes
        images, _masks = own[0]({key: image})
        prepared: Tensor = images[:, 0] if isinstance(images, Tensor) else images[0]
        return prepared
    if not torch.isfinite(image).all():
        raise CaptureError(f"{key} holds NaN or infinity; depth from it would mean nothing")
    if not image.is_floating_point() or image.amin() < 0 or image.amax() > 1:
        raise HostError(
            f"{key} must hold floating-point images in [0, 1], to be prepared for the {spec}; put the depth step "
            "before whatever normalises images, or use fresh=False"
        )
    photos = [photo.permute(1, 2, 0).mul(255).round().byte().cpu().numpy() for photo in image]
    return prepare(photos, spec)


def stacked(images: Sequence[DepthMap | None], hw: tuple[int, int], *, like: Tensor) -> tuple[Tensor, Tensor]:
    """One camera of every robot, as LeRobot batches hold it.

    Args:
        images: of one image each; None where there is no depth.
        hw: size where there is none at all, in pixels.
        like: on the device that is wanted.

    Returns:
        (B, 1, H, W) float32 metres, 0 where there is no depth; (B,) int64 age in host steps, -1 where there is none.

    Raises:
        ConfigError: depth of several sizes.
    """
    sizes = {tuple(depth.depth_m.shape[1:]) for depth in images if depth is not None} or {hw}
    if len(sizes) > 1:
        raise ConfigError(f"the robots' depth maps are of several sizes: {sorted(sizes)}; run them one by one")
    [size] = sizes
    none = torch.zeros(1, *size)
    maps = [none if depth is None else depth.depth_m * depth.valid for depth in images]
    ages = [-1 if depth is None else depth.age for depth in images]
    return torch.stack([one.to(like.device) for one in maps]), torch.tensor(ages, device=like.device)
