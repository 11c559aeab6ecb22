"""The live link of a host, its tower's taps and a head: image calls come in, depth maps go out."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from torch import Tensor, nn
from typing_extensions import Self

from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach.camera_lenses import CameraGeometry
from spaceclip_plugin.attach.cameras import CallNames, Given, LatestDepth
from spaceclip_plugin.attach.declared import CameraOrder
from spaceclip_plugin.attach.decoding import Decoded, decode, finite_features
from spaceclip_plugin.attach.host_state import KeptTwin, run_alone
from spaceclip_plugin.attach.preparation_match import match_preparation, warn_of_other_images
from spaceclip_plugin.attach.preparations import preparation_of
from spaceclip_plugin.attach.recorder import FrameRecorder
from spaceclip_plugin.attach.steadying import Places, Steadying
from spaceclip_plugin.attach.tower_match import TowerMatch
from spaceclip_plugin.attach.verification import VerifyReport, measure
from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.age import HostSteps
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError, SpaceClipError
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.head.depth_head import checked_size
from spaceclip_plugin.steady import SteadyDepth
from spaceclip_plugin.towers import RawFrame, SeenPart, TowerFeatures, TowerSpec

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class DepthAttachment:
    """The live link of host, taps and head; made by `attach_depth_head`.

    Attributes:
        head: what decodes.
        tower_match: how the tower compares with the one the head was trained on; None: not asked.
        cameras: names in the order in which the host runs its tower; empty where they are not known.

    Example:
        >>> import timm, torch
        >>> from spaceclip_plugin import attach_depth_head
        >>> host = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2).eval()
        >>> images = torch.randn(1, 3, 32, 32)
        >>> with torch.no_grad(), attach_depth_head(host, cameras=["left", "right"]) as depth:
        ...     _ = host(images), host(images)  # a host step: one image call per camera
        ...     seen = depth.read()
        ...     report = depth.verify(lambda: host(images))
        >>> [(one.camera, one.age) for one in seen], report.identical
        ([('left', 0), ('right', 0)], True)
    """

    def __init__(
        self,
        host: nn.Module,
        head: DepthHead,
        recorder: FrameRecorder,
        order: CameraOrder,
        geometry: CameraGeometry,
        tower_match: TowerMatch | None = None,
    ) -> None:
        self.head = head
        self.tower_match = tower_match
        self.cameras = order.names
        self._steadying: Steadying | None = None
        self._geometry = geometry
        self._host = host
        self._recorder = recorder
        self._latest = LatestDepth(order.names)
        self._steps = HostSteps()
        self._names = CallNames(order)
        self._twin = KeptTwin()
        self._closed = False
        self._warned = False
        # A forgotten attachment takes its hooks along. At interpreter exit nothing is to be tidied.
        weakref.finalize(self, recorder.close).atexit = False

    @property
    def tower(self) -> TowerSpec:
        """The tower that is read."""
        return self._recorder.tower.spec

    @functools.cached_property
    def preparation(self) -> ImagePreparation:
        """What makes the tower's images out of photos: as a user says, else as the host does it itself.

        Where neither tells, photos are stretched. A warning says where the head was trained on images that were laid
        otherwise.

        Raises:
            HostError: the host says how it does it, in a way that is not understood.
        """
        found = preparation_of(self._host, self.tower)
        if found.kind != self._geometry.images.here:  # else it was compared when the head was attached
            warn_of_other_images(match_preparation(self.head.config, found))
        return found

    @property
    def dropped(self) -> int:
        """Unread frames discarded so far because too many, or too many bytes of them, were waiting."""
        return self._recorder.dropped

    @property
    def unread(self) -> int:
        """Frames that wait for a read."""
        return self._recorder.unread

    @property
    def steps(self) -> int:
        """Host steps that have ended since attaching: reads, and steps without one."""
        return self._recorder.step

    @property
    def latest(self) -> DepthMap | None:
        """The newest depth that `read` gave; None before the first. Of several cameras it is one's: see `latest_of`.

        It gets older while queued actions are served, see `age`. Blank images for missing cameras do not count.
        """
        return self._latest.newest

    @property
    def latest_of_each(self) -> tuple[DepthMap, ...]:
        """The newest depth of every camera, in the order of `cameras`; what was not seen again is older, see `age`.

        Where image calls bear no names, those of the last step that had any follow, in call order.
        """
        return self._latest.each

    def latest_of(self, camera: str) -> DepthMap | None:
        """The newest depth of one camera; None before its first.

        Raises:
            ConfigError: no camera has that name.
        """
        return self._latest.of(camera)

    def given(self, cameras: Iterable[str]) -> None:
        """Tell before this step's `read` which cameras the policy has images of: where some lack, calls do not.

        Args:
            cameras: their names as in `cameras`; or the policy's observation, of which only the keys are looked at.

        Raises:
            ConfigError: none of them is one of the policy's, or a name that is not.
        """
        self._names.tell(self.steps, cameras)

    @property
    def steady(self) -> SteadyDepth | None:
        """What makes its depth steady; None: every depth map is of its frame alone."""
        return None if self._steadying is None else self._steadying.steady

    def keep_steady(self, steady: SteadyDepth | None = None) -> Self:
        """From here on give depth of video that earlier frames have a say in, see `SteadyDepth`; returns itself.

        Calls of images of several sizes stay what their frames give, and a warning says so.

        Args:
            steady: what shall do it; None: a new one.

        Raises:
            ConfigError: frames wait for a read, of whose images nothing was kept.
            HostError: the adapter cannot tell what image its tower took, in which surfaces are found again.
        """
        if not self._recorder.tower.adapter.gives_pixels:
            raise HostError(
                f"the adapter {self.tower.adapter!r} gives no image of the tower to follow; read it unsteadied"
            )
        if self.unread:
            raise ConfigError(f"{self.unread} frame(s) wait for a read: read or skip them before depth is to be steady")
        self._steadying = Steadying(steady or SteadyDepth(), self.head, self.cameras)
        self._recorder.pixels = True
        return self

    def place(self, places: Any) -> None:
        """Tell before this step's `read` where cameras were when the policy saw their images, for steady depth.

        Args:
            places: (4, 4) camera to world of the only camera, or by name those that are known; (B, 4, 4) where the
                images of a call are of several robots. Rigid, in metres, of camera axes x right, y down, z forward. Of
                the others motion is taken from their images.

        Raises:
            ConfigError: a place that is not rigid, a camera that is not there, or depth is not steady.
        """
        if self._steadying is None:
            raise ConfigError("where cameras are is of use to steady depth alone; call keep_steady() first")
        self._steadying.tell(places)

    def read(self, output_size: tuple[int, int] | None = None) -> list[DepthMap]:
        """Decode the frames since the last read, oldest first: one DepthMap per image call. Each is given once.

        A read ends the host step: read once per step, or call `step` where you do not, and ages and names are right.
        Captured in a CUDA graph with the host, it gives maps that every replay fills anew, and checks no value.

        Args:
            output_size: (H, W) of the depth; the size of the image the tower saw if None.

        Returns:
            DepthMaps with depth (B, H, W) in metres; an empty list if the tower has not run.

        Raises:
            CaptureError: a tap did not fire or holds NaN or infinity. That frame is dropped, all others stay unread.
                Or the tower ran and its taps saw no image; or mappings are by camera and no one can tell which camera a
                call is of, and these frames are lost.
            ConfigError: an impossible output size; every frame stays unread. Or a camera's mapping is missing, or is to
                another tower image; these frames are lost.
        """
        decoded = self._each(self._decoder(output_size))
        try:
            return self._handed_out(decoded, self._names.given, self._told_places())
        finally:  # what cannot be handed out is lost: the step ends all the same
            self.step()

    def read_later(self, output_size: tuple[int, int] | None = None) -> Callable[[], list[DepthMap]]:
        """What `read` would decode now, as work for another thread; ends the host step like a read.

        The frames are taken here, in the host's thread, and none but the caller decodes them: call what is returned
        once, or not at all. It raises what `read` raises, and loses the frames then. The head stays in its mode, and
        its weights are followed: one that is trained meanwhile is read in the midst of its steps.

        Raises:
            CaptureError: a tap failed while the host ran.
            ConfigError: an impossible output size.
        """
        decode_one, given, places = self._decoder(output_size), self._names.given, self._told_places()
        frames = self._taken()
        self.step()

        def work() -> list[DepthMap]:
            return self._handed_out([decode_one(frame) for frame in frames], given, places, frames)

        return work

    def step(self) -> None:
        """Tell that the host took a step without a read; the frames it left stay unread and grow older."""
        self._recorder.step = self._steps.end()

    def skip(self) -> None:
        """End a host step whose depth nobody wants: its frames, and all that are unread, are dropped undecoded.

        Raises:
            CaptureError: a tap failed while the host ran; the step has ended all the same.
        """
        try:
            self._taken()
        finally:
            self.step()

    def refresh(
        self,
        pixels: Tensor,
        *,
        camera: str | None = None,
        mapping: ImageMapping | Literal["host"] | None = "host",
        lens: Intrinsics | Literal["host"] | None = "host",
    ) -> None:
        """Run the tower alone, without the rest of the host, so that the next `read` gives depth of these images.

        Args:
            pixels: (B, 3, H, W), prepared as the host prepares them (`preparation` does it for photos); moved to the
                tower's device and dtype.
            camera: that they are of; None: told by order, where every camera is refreshed.
            mapping: how they were made out of the camera's images: as the host makes them, which is what the attachment
                knows; by a mapping of their own; or None where that is not told.
            lens: whose metres depth is in: "host": of the cameras whose intrinsics the attachment knows; intrinsics of
                the images' own camera, as for `DepthMap.with_intrinsics`; None: of the one that the head assumes, for
                photos of other cameras and where no mapping is told.

        Raises:
            ConfigError: not such a tensor, an empty batch, no mapping or lens, or the attachment is closed.
            CaptureError: the tower does not take images of that size.
        """
        self._check_open("refresh")
        self._names.refreshed(self.steps)
        run_alone(self._recorder, pixels, camera=camera, mapping=mapping, lens=lens)

    def seen(self, image_hw: tuple[int, int] | None = None) -> SeenPart | None:
        """What the tower reads of an image of that size, or of the size it was built for; None where that is all of it.

        A tower whose patches do not divide its image leaves a strip at the right and at the bottom unread.
        """
        tower = self._recorder.tower
        return tower.adapter.seen(tower, image_hw or tower.spec.image_hw)

    def tower_digest(self) -> str:
        """SHA-256 (hex) over the weights and buffers of the tower that is read."""
        return module_digest(self._recorder.tower.module)

    def features(self) -> list[TowerFeatures]:
        """The features of the frames since the last read, undecoded: what a trainer caches or decodes itself.

        Those of a host that ran in inference mode are copied, for a head cannot be trained on inference tensors.

        Raises:
            CaptureError: a tap did not fire or holds NaN or infinity. That frame is dropped, all others stay unread.
        """
        return self._each(lambda frame: finite_features(self._recorder, frame).trainable())

    def verify(self, call: Callable[[], object]) -> VerifyReport:
        """Run `call`, which uses the host, without and with its taps, and compare what it returns bit for bit.

        Runs without gradients from the same random state, which is restored along with the host's buffers. Frames of
        these calls are not kept. Eager hosts and per-block compilation are exact; this measures every other case.

        Args:
            call: a step of the host from the same start each time, such as `lambda: host(**request)`. For a policy that
                queues actions: `lambda: (policy.reset(), policy.select_action(batch))[1]`.

        Raises:
            CaptureError: the host ran but the taps saw nothing, or its output holds nothing to compare.
            ConfigError: the attachment is closed.
        """
        self._check_open("verify")
        return measure(self._recorder, self._host, call)

    def close(self) -> None:
        """Remove every hook and drop unread frames. The host is as it was; may be called again."""
        self._recorder.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"DepthAttachment({state} on the {self.tower}, taps {list(self.head.taps)})"

    def __reduce__(self) -> NoReturn:
        raise HostError("an attachment is a live link and cannot be copied or saved; copy the host and attach again")

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise ConfigError(f"this attachment is closed; attach again to {what}")

    def _each(self, decode: Callable[[RawFrame], T]) -> list[T]:
        """Decode every unread frame, or none: on an error the bad frame is dropped and the others stay unread."""
        frames = self._taken()
        decoded: list[T] = []
        try:
            for frame in frames:
                decoded.append(decode(frame))
        except BaseException as error:
            bad = len(decoded)
            # Only a fault of the frame's own costs it; memory that ran out or an interrupt can be tried again.
            self._recorder.put_back(frames[:bad] + frames[bad + isinstance(error, SpaceClipError) :])
            raise
        return decoded

    def _decoder(self, output_size: tuple[int, int] | None) -> Callable[[RawFrame], Decoded]:
        """What decodes the frames that this thread takes, in eval mode, whatever the head's is then."""
        output_hw = None if output_size is None else checked_size(output_size)
        if not self.head.trained and not self._warned:
            self._warned = True
            _logger.warning("the head on the %s has random weights: its depth means nothing until trained", self.tower)
        head, reader, anchor = self._twin.of(self.head), threading.get_ident(), self._geometry.mappings.anchor
        tap = None if self._steadying is None else self._steadying.look_tap
        return lambda frame: decode(self._recorder, head, frame, output_hw, reader=reader, anchor=anchor, look_tap=tap)

    def _told_places(self) -> Places:
        return {} if self._steadying is None else self._steadying.take()

    def _taken(self) -> list[RawFrame]:
        frames = self._recorder.take()
        if not frames and not self._closed and not self._recorder.tower.is_part_of(self._host):
            raise CaptureError(f"the host no longer holds the {self.tower}: what replaced it has no taps; attach again")
        return frames

    def _handed_out(
        self, decoded: Sequence[Decoded], given: Given, places: Places, frames: Sequence[RawFrame] = ()
    ) -> list[DepthMap]:
        """Depth maps under their cameras' names, of ages that move on; the newest that show something become latest.

        `frames` are those that the host may have written over meanwhile, as it goes on while they are read.
        """
        maps = [
            self._geometry.applied(one, self.head, camera=name, age=self._steps.age_of(one.depth.step))
            for one, name in zip(decoded, self._names.of(decoded, given), strict=True)
        ]
        for frame in frames:
            self._recorder.check_complete(frame)
        if self._steadying is not None:
            maps = [
                depth if one.blank else self._steadying.applied(depth, one.look, places)
                for depth, one in zip(maps, decoded, strict=True)
            ]
        self._latest.add([depth for depth, one in zip(maps, decoded, strict=True) if not one.blank])
        return maps
