"""What a LeRobot policy's processor steps share: its attached head, the depth of every robot, and the host's steps."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthMap, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach.declared import camera_name
from spaceclip_plugin.bridges.lerobot.actions import ActionChunks
from spaceclip_plugin.bridges.lerobot.declared_cameras import camera_names
from spaceclip_plugin.bridges.lerobot.images import CameraGeometry, Preparation
from spaceclip_plugin.bridges.lerobot.lenses import PolicyLenses
from spaceclip_plugin.bridges.lerobot.policy import guessed_policy
from spaceclip_plugin.bridges.lerobot.steadying import SteadyRobots
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError
from spaceclip_plugin.guard import NewestDepth
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.adapter import lineage

_SHAPES = "Actions are (B, A) of B robots; a chunk of T of them is (B, T, A)"

_logger = logging.getLogger(__name__)
_LINKS: weakref.WeakKeyDictionary[nn.Module, weakref.ref[DepthLink]] = weakref.WeakKeyDictionary()


class DepthLink:
    """A head attached to a live policy, and the newest depth of each of its robots.

    The policy is not kept alive: when it goes, the hooks go, and `alive` says so.
    """

    def __init__(self, policy: nn.Module, head: DepthHead) -> None:
        spec = registry.find_tower(policy).spec
        self._geometry = CameraGeometry(policy, [*lineage(policy, spec.path)])
        # Attached below the policy, which an attachment would keep alive otherwise.
        child, _, path = spec.path.partition(".")
        self._prepare = Preparation(policy, spec, head.config)
        held, cameras = policy.get_submodule(child), self._prepare.told(self._geometry.declared)
        tower = registry.find_tower(held, tower=path)
        # The policy may declare the statistics, and nothing below it knows.
        below = dataclasses.replace(tower.spec, image_mean=spec.image_mean, image_std=spec.image_std)
        tower = dataclasses.replace(tower, spec=below)
        self._attachment = attach_depth_head(held, head, tower=tower, cameras=cameras)
        weight = next((p for p in policy.get_submodule(spec.path).parameters() if not p.is_meta), None)
        if weight is not None:
            head.to(weight.device)
        this = weakref.ref(self)

        def close(_: object, ending: Callable[[], bool] = sys.is_finalizing) -> None:
            # Nothing at the end of the process: what closing calls may be gone by then.
            if not ending() and (link := this()) is not None:
                link.close()

        self._policy = weakref.ref(policy, close)
        self._digest = module_digest(head)
        self._refreshed: list[DepthMap] | None = None
        self._open, self._robots = False, 0
        self._warned: set[str] = set()
        self.cameras = camera_names(policy)  # by the key of their images in a batch
        self.names_images = bool(self._attachment.cameras)  # each image call is of one camera, and bears its name
        self.refreshed = False  # whether depth is, at every host step
        self.lenses = PolicyLenses()
        self._steady: SteadyRobots | None = None
        self.newest: list[NewestDepth] = []  # of each row of a batch, over the camera's image where that is known
        self.rows = 1  # host steps that the last actions take: those of a chunk, else 1

    @classmethod
    def to(cls, policy: nn.Module, head: DepthHead) -> DepthLink:
        """The link of a live policy, shared by all steps that are connected to it; made where there is none."""
        link = cls._known(policy)
        if link is None:
            link = cls(policy, head)
            _LINKS[policy] = weakref.ref(link)
        elif module_digest(head) != link._digest:
            raise HostError(
                "this policy is read by another head already, and all its steps must carry the same one; drop the "
                "pipelines that hold the other head, or make both steps with one head"
            )
        return link

    @classmethod
    def guessed(cls, head: DepthHead) -> DepthLink:
        """The link of the one live policy that the head fits; a warning says which was guessed, unless it is linked."""
        policy = guessed_policy(head)
        if cls._known(policy) is None:
            _logger.warning(
                "no policy was told: the depth steps read the %s, guessed because no other LeRobot policy alive in "
                "this process has a tower that their head fits. Say which it is: connect(policy) of both steps, "
                "add_depth(…, policy=policy), or an override {'policy': policy} of each step", type(policy).__name__,
            )  # fmt: skip
        return cls.to(policy, head)

    @staticmethod
    def _known(policy: nn.Module) -> DepthLink | None:
        known = _LINKS.get(policy)
        return None if known is None else known()

    @property
    def alive(self) -> bool:
        """Whether the policy is still there."""
        return self._policy() is not None

    @property
    def policy(self) -> nn.Module:
        """The policy; HostError where it is gone."""
        policy = self._policy()
        if policy is None:
            raise HostError("the policy that these steps were connected to is gone; call connect(policy)")
        return policy

    @property
    def chunks(self) -> ActionChunks:
        """How many actions the policy makes out of one look at its images, as its configuration says by now."""
        return ActionChunks.of(self.policy)

    def keep_steady(self) -> None:
        """From here on earlier frames have a say in depth; HostError where the adapter tells no images to follow."""
        if self._steady is None:
            self.forget()  # of the images of frames that wait, nothing was kept
            steady = SteadyRobots(self.lenses)
            self._attachment.keep_steady(steady)
            self._steady = steady

    def begin_step(self, robots: int, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Begin a host step of so many robots, with images of these (H, W); one that no one ended is ended."""
        if self._open:
            # Real-time chunking shows the steps no host step but those at which it makes a chunk.
            chunks = self.chunks
            self.end_step(self._robots, rows=chunks.chunk if chunks.overlapping else 1)
        for camera, camera_hw in sizes.items():
            self._geometry.see(camera, camera_hw)
        if self.names_images and sizes:
            self._attachment.given([*sizes])  # of missing cameras, image calls alone do not tell which they are
        self._open, self._robots = True, robots

    def place(self, places: Mapping[str, Tensor]) -> None:
        """Tell where cameras are in this step, (B, 4, 4) camera to world each, for steady depth."""
        if places and not (self.names_images or self.refreshed):
            self._warn_once(
                "where cameras are is told, but not which camera this policy's image calls are of: motion is taken "
                "from images. fresh=True gives depth by camera"
            )
        self._attachment.place(places)

    def end_step(self, robots: int, *, rows: int = 1) -> None:
        """End a host step: the depth it left, refreshed or of the policy's own image calls, becomes the newest.

        The actions given now take `rows` host steps. Where it raises, there is no depth any more.
        """
        self._open = False
        refreshed, self._refreshed = self._refreshed, None
        try:
            if refreshed is None:
                self._share_out(self._attachment.read(), robots)
            else:
                self._attachment.skip()
                self._share_out(refreshed, robots, placed=True)
        except HostError:
            self.forget()
            raise
        finally:
            self.rows = rows

    def refresh(self, images: Mapping[str, Tensor]) -> dict[str, DepthMap]:
        """Depth over each image (B, 3, H, W) of this step, of age 0, by running the tower alone.

        What the policy sees later in the step is not decoded.
        """
        for key, image in images.items():
            name = camera_name(key)
            mapping = self._prepare.mapping(self._geometry, name, (image.shape[-2], image.shape[-1]))
            self._attachment.refresh(self._prepare(key, image, mapping), camera=name, mapping=mapping)
        maps = self._attachment.read()[-len(images) :]
        # Of this step, which `end_step` ends: reading counted one more.
        placed = [self.lenses.applied(self._over_camera(depth, depth.mapping)).relabelled(age=0) for depth in maps]
        self._refreshed = placed
        return dict(zip(images, placed, strict=True))

    def newest_of(self, camera: str, image: Tensor) -> list[DepthMap | None]:
        """A camera's newest depth over its present image (B, 3, H, W), robot by robot, with its age by now."""
        found: list[DepthMap | None] = [None] * len(image)
        for robot, newest in enumerate(self.newest if len(self.newest) == len(image) else ()):
            depth = next((each for each in newest.images if each.camera == camera), None)
            if depth is not None and depth.mapping is not None and depth.image_hw == tuple(image.shape[-2:]):
                found[robot] = depth.relabelled(age=depth.age + self.rows)
        return found

    def forget(self) -> None:
        """There is no depth any more, and none that waits to be decoded."""
        self.newest = []
        self._refreshed = None
        with contextlib.suppress(CaptureError):
            self._attachment.skip()

    def start_over(self) -> None:
        """Another episode begins: nothing was seen."""
        self.forget()
        if self._steady is not None:
            self._steady.reset()

    def close(self) -> None:
        """Take the hooks off the policy's tower, and let go of it; nothing can be read any more."""
        self._attachment.close()
        del self._attachment

    def _share_out(self, maps: Sequence[DepthMap], robots: int, *, placed: bool = False) -> None:
        """Give each robot its images: all policies keep the images of one robot together, robot after robot.

        Maps that are `placed` lie over the cameras' images already.
        """
        if not maps and self.newest and len(self.newest) != robots:
            raise HostError(f"actions of {robots} robot(s) behind depth of {len(self.newest)}. {_SHAPES}")
        if len(self.newest) != robots:
            self.newest = [NewestDepth() for _ in range(robots)]
        for depth in maps:
            if len(depth) % robots:
                raise HostError(
                    f"an image call of {len(depth)} image(s) for {robots} robot(s): whose image is whose cannot be "
                    f"told. {_SHAPES}"
                )
        only = [*self.cameras.values()] if sum(map(len, maps)) == robots and len(self.cameras) == 1 else [None]
        for robot, newest in enumerate(self.newest):
            own: list[DepthMap] = []
            for depth in maps:
                each = len(depth) // robots
                images = [depth[robot * each + place].relabelled(camera=only[0]) for place in range(each)]
                if not placed:
                    over = map(self._over_camera, images, self._mappings(images))
                    images = [self.lenses.applied(image) for image in over]
                own += images
            newest.end_step(own, steps=self.rows)

    def _mappings(self, images: Sequence[DepthMap]) -> list[ImageMapping | None]:
        """How every image of one robot in one image call was made out of its camera's; None where that is not known.

        HostError where the policy pads its images, and neither what was measured nor its configuration tells how.
        """
        names: list[str | None] = [image.camera for image in images]
        # Cameras that are missing are left out, and blank images fill up: then the order tells nothing.
        shows = [bool(image.valid.any()) for image in images]
        cameras = [*self.cameras.values()]
        if None in names and shows == [True] * len(cameras) + [False] * (len(images) - len(cameras)):
            names = [*cameras, *[None] * (len(images) - len(cameras))]
        alike = {self._geometry.measured(camera) for camera in cameras}
        same = alike.pop() if len(alike) == 1 else None
        mappings = []
        for image, name, shown in zip(images, names, shows, strict=True):
            mapping = (self._geometry.measured(name) if name is not None else same) or image.mapping
            if mapping is None and shown and image.unmapped is not None:
                raise HostError(
                    f"{image.unmapped}. Or put the depth step into the preprocessor (add_depth), which measures the "
                    "cameras"
                )
            mappings.append(mapping)
        return mappings

    def _over_camera(self, depth: DepthMap, mapping: ImageMapping | None) -> DepthMap:
        """Depth over the camera's image; as it is where that is not known, and a warning says so once."""
        if mapping is not None:
            try:
                return depth.in_camera(mapping)
            except ConfigError as error:
                raise HostError(f"the policy's images are not what its configuration says: {error}") from error
        if depth.valid.any():
            self._warn_once(
                "how this policy makes its tower's images out of its cameras' is not known: the guard judges the "
                "tower's images, and the depth step gives depth with fresh=True alone"
            )
        return depth

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _logger.warning(message)
