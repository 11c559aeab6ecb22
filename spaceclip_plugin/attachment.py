"""The front door: `attach_depth_head` links a live host, its tower's taps and a head."""

from __future__ import annotations

import dataclasses
import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from spaceclip_plugin import registry, verification
from spaceclip_plugin.decoding import Decoded, decode, frame_features
from spaceclip_plugin.depth_map import DepthMap
from spaceclip_plugin.errors import CaptureError, ConfigError, HeadMismatchError, HostError, SpaceClipError
from spaceclip_plugin.head.depth_head import DepthHead, checked_size
from spaceclip_plugin.identity.tower_match import WARN, TowerMatch, check_tower
from spaceclip_plugin.image_geometry import ImageMapping
from spaceclip_plugin.module_state import buffers_kept, in_eval_mode, random_state_kept
from spaceclip_plugin.taps import FrameRecorder
from spaceclip_plugin.token_adapter import lineage
from spaceclip_plugin.tower import Adapter, RawFrame, Tower, TowerFeatures, TowerSpec
from spaceclip_plugin.views import checked_views, declared_views, named_calls

MAX_UNREAD = 16
"""Unread frames kept by default, five steps of three cameras.

Each holds every tapped hidden state of its image call: 4 MiB for a ViT-B/16 at 224 pixels in float32 and the default
head, 8 MiB for a So400m; proportionally more for larger images.
"""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


def attach_depth_head(
    host: nn.Module,
    head: DepthHead | str | Path | None = None,
    *,
    tower: str | None = None,
    adapter: str | Adapter | None = None,
    views: Sequence[str] | None = None,
    mapping: ImageMapping | Mapping[str, ImageMapping] | None = None,
    max_unread: int = MAX_UNREAD,
    copy: bool = False,
    other_tower: str = WARN,
) -> DepthAttachment:
    """Read depth from the vision tower of a live host.

    The host is not changed: hooks keep references to activations it computes anyway, and the head stays outside it.
    Everything is checked before the first hook is registered.

    Args:
        host: any module with a vision tower inside.
        head: a `DepthHead`, the folder of a saved one, or None for a fresh one to train.
        tower: module path of the tower, where the host has several.
        adapter: name of the adapter to use, or an instance, where discovery is wrong.
        views: camera names in the order in which the host runs its tower within a step, one image call each; None: as
            the policy's configuration lists them, where it does (LeRobot).
        mapping: how the host makes its tower's image out of the camera's, of every view or by view; depth maps carry
            it, and their `points` take the camera's intrinsics.
        max_unread: unread frames kept; beyond it the oldest is dropped and counted.
        copy: keep copies of the activations, not references, for a host that overwrites them in place.
        other_tower: what to do where the weights are not those the head was trained on, or adapters change the blocks:
            "warn" in the log, "error", or "ignore", which does not look. `DepthAttachment.tower_match` says what was
            found.

    Returns:
        The attachment; also a context manager that detaches on leaving.

    Raises:
        TowerNotFoundError, AmbiguousTowerError, AdapterError, HostError: no tower, or no single one.
        HeadMismatchError: the head does not fit the tower, or with `other_tower="error"` was trained on another one.
        CheckpointError: the head's files are not a head.
    """
    if not isinstance(max_unread, int) or max_unread < 1:
        raise ConfigError(f"max_unread must be at least 1, got {max_unread!r}")
    if views is not None:
        views = checked_views(views)
    chosen = registry.choose_tower(host, tower=tower, adapter=adapter)
    with torch.inference_mode(False):  # a head made in inference mode could never be trained
        if head is None:
            with torch.random.fork_rng(devices=[]):  # attaching draws nothing from the host's random numbers
                head = DepthHead.for_tower(chosen).eval().to(_device(chosen))
        elif isinstance(head, (str, Path)):
            head = DepthHead.from_pretrained(head).to(_device(chosen))
        elif not isinstance(head, DepthHead):
            raise ConfigError(f"head must be a DepthHead, a folder or None, got {type(head).__name__}")
    head.check_fits(chosen.spec)
    if head.uses_context and chosen.context_source is None:
        raise HeadMismatchError(
            f"the head reads a {head.config.context!r} context, the {chosen.spec} has no module that gives one; "
            "use one that reads none, as DepthHead.for_tower(host) makes"
        )
    _warn_of_other_statistics(head, chosen.spec)
    match = check_tower(chosen, head.config, other_tower)
    recorder = FrameRecorder(chosen, head.taps, context=head.uses_context, max_frames=max_unread, copy=copy)
    if views is None:
        views = declared_views(lineage(host, chosen.spec.path))
    attachment = DepthAttachment(host, head, recorder, views, mapping, tower_match=match)
    recorder.start()
    return attachment


class DepthAttachment:
    """The live link of host, taps and head; made by `attach_depth_head`."""

    def __init__(
        self,
        host: nn.Module,
        head: DepthHead,
        recorder: FrameRecorder,
        views: tuple[str, ...],
        mapping: ImageMapping | Mapping[str, ImageMapping] | None = None,
        *,
        tower_match: TowerMatch | None = None,
    ) -> None:
        self.head = head
        self.tower_match = tower_match  # how the tower compares with the one the head was trained on; None: not asked
        self.views = views
        self._mapping = mapping
        self._host = host
        self._recorder = recorder
        self._latest: DepthMap | None = None
        self._attached = True
        self._warned = False
        weakref.finalize(self, recorder.stop)  # a forgotten attachment takes its hooks along

    @property
    def tower(self) -> TowerSpec:
        """The tower that is read."""
        return self._recorder.tower.spec

    @property
    def dropped(self) -> int:
        """Unread frames discarded so far because too many were waiting."""
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
        """The newest depth that `read` gave, with its age by now; None before the first.

        A policy that serves queued actions runs no tower: its depth gets older, and `age` says so. Of several cameras
        it is the last one's; the blank image that stands for a missing camera does not count.
        """
        latest = self._latest
        return None if latest is None else latest.relabelled(age=self.steps - 1 - latest.step)

    def read(self, output_size: tuple[int, int] | None = None) -> list[DepthMap]:
        """Decode the frames since the last read, oldest first: one DepthMap per image call. Each is given once.

        A read ends the host step: read once per step, or call `step` where you do not, and ages and views are right.

        Args:
            output_size: (H, W) of the depth; the size of the image the tower saw if None.

        Returns:
            DepthMaps with depth (B, H, W) in metres; an empty list if the tower has not run.

        Raises:
            CaptureError: a tap did not fire or holds NaN or infinity. That frame is dropped, all others stay unread.
            ConfigError: an impossible output size; every frame stays unread.
        """
        output_hw = None if output_size is None else checked_size(output_size)
        self._warn_if_untrained()
        reader = threading.get_ident()
        with in_eval_mode(self.head):
            decoded = self._each(lambda frame: decode(self._recorder, self.head, frame, output_hw, reader=reader))
        maps = self._handed_out(decoded)
        self.step()
        return maps

    def read_later(self, output_size: tuple[int, int] | None = None) -> Callable[[], list[DepthMap]]:
        """What `read` would decode now, as work for another thread; ends the host step like a read.

        The frames are taken here, in the host's thread, and none but the caller decodes them: call what is returned
        once, or not at all. It raises what `read` raises, and loses the frames then.

        Raises:
            CaptureError: a tap failed while the host ran.
            ConfigError: an impossible output size.
        """
        output_hw = None if output_size is None else checked_size(output_size)
        self._warn_if_untrained()
        frames, reader = self._recorder.take(), threading.get_ident()
        self.step()

        def work() -> list[DepthMap]:
            with in_eval_mode(self.head):
                decoded = [decode(self._recorder, self.head, frame, output_hw, reader=reader) for frame in frames]
            for frame in frames:  # the host may have gone on meanwhile, and written over them
                self._recorder.check_complete(frame)
            return self._handed_out(decoded)

        return work

    def step(self) -> None:
        """Tell that the host took a step without a read; the frames it left stay unread and grow older."""
        self._recorder.step += 1

    def skip(self) -> None:
        """End a host step whose depth nobody wants: its frames, and all that are unread, are dropped undecoded.

        Raises:
            CaptureError: a tap failed while the host ran.
        """
        self._recorder.take()
        self.step()

    def refresh(self, pixels: Tensor) -> None:
        """Run the tower alone, without the rest of the host, so that the next `read` gives depth of these images.

        Args:
            pixels: (B, 3, H, W), prepared as the host prepares them (`data.preparation.prepare`); moved to the tower's
                device and dtype.

        Raises:
            ConfigError: not such a tensor, an empty batch, or the attachment is detached.
            CaptureError: the tower does not take images of that size.
        """
        if not self._attached:
            raise ConfigError("this attachment is detached; attach again to refresh")
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
            shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ConfigError(f"refresh takes a non-empty batch of images (B, 3, H, W), got {shape}")
        tower = self._recorder.tower
        # FSDP leaves a sharded module no parameters of its own, offloading leaves them on the meta device.
        weight = next((p for p in tower.module.parameters() if p.is_floating_point()), pixels)
        device = pixels.device if weight.is_meta else weight.device
        try:
            with torch.no_grad(), in_eval_mode(tower.module):  # in train mode it would draw random numbers
                tower.adapter.run(tower, pixels.to(device, weight.dtype))
        except CaptureError:
            raise
        except (ValueError, RuntimeError, AssertionError) as error:  # how the libraries refuse a size
            self._recorder.abandon()
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            height, width = self.tower.image_hw
            raise CaptureError(
                f"the {self.tower} refused images of shape {tuple(pixels.shape)}: {error}. "
                f"It was built for {height}x{width}; prepare images with data.preparation.prepare"
            ) from error

    def features(self) -> list[TowerFeatures]:
        """The features of the frames since the last read, undecoded: what a trainer caches or decodes itself.

        Those of a host that ran in inference mode are copied, for a head cannot be trained on inference tensors.

        Raises:
            CaptureError: a tap did not fire or holds NaN or infinity. That frame is dropped, all others stay unread.
        """
        return self._each(lambda frame: frame_features(self._recorder, frame).trainable())

    def verify(self, *args: Any, **kwargs: Any) -> verification.VerifyReport:
        """Call the host with these arguments, without and with its taps, and compare; see `verify_call`."""
        return self.verify_call(lambda: self._host(*args, **kwargs))

    def verify_call(self, call: Callable[[], object]) -> verification.VerifyReport:
        """Run `call`, which uses the host, without and with its taps, and compare what it returns bit for bit.

        Runs without gradients from the same random state, which is restored along with the host's buffers. Frames of
        these calls are not kept. Eager hosts and per-block compilation are exact; this measures every other case.

        Args:
            call: a step of the host from the same start each time. For a policy that queues actions:
                `lambda: (policy.reset(), policy.select_action(batch))[1]`.

        Raises:
            CaptureError: the host ran but the taps saw nothing, or its output holds nothing to compare.
            ConfigError: the attachment is detached.
        """
        if not self._attached:
            raise ConfigError("this attachment is detached; attach again to verify")
        recorder, host = self._recorder, self._host
        tapped = recorder.twin(max_frames=MAX_UNREAD)
        device = _device(recorder.tower)
        unread = recorder.take()
        recorder.stop()
        try:
            with random_state_kept(device), buffers_kept(host):
                plain_output = verification.run(call)
            tapped.start()
            with random_state_kept(device), buffers_kept(host):
                tapped_output = verification.run(call)
            frames = tapped.take()
        finally:
            tapped.stop()
            recorder.start()
            recorder.put_back(unread)
        if not frames:
            raise CaptureError(
                f"the host ran, but the {self.tower} did not: this call uses no vision (a queued action?), "
                "or what was compiled or traced before the head was attached"
            )
        for frame in frames:
            recorder.check_complete(frame)
        if not plain_output:
            raise CaptureError("the host returned no tensor, array or number that could be compared")
        identical, difference = verification.compare(plain_output, tapped_output)
        return verification.VerifyReport(identical, difference, len(plain_output), len(frames))

    def detach(self) -> None:
        """Remove every hook and drop unread frames. The host is as it was; may be called again."""
        self._recorder.stop()
        self._attached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached" if self._attached else "detached"
        return f"DepthAttachment({state} to the {self.tower}, taps {list(self.head.taps)})"

    def __reduce__(self) -> NoReturn:
        raise HostError("an attachment is a live link and cannot be copied or saved; copy the host and attach again")

    def _each(self, decode: Callable[[RawFrame], T]) -> list[T]:
        """Decode every unread frame, or none: on an error the bad frame is dropped and the others stay unread."""
        frames = self._recorder.take()
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

    def _handed_out(self, decoded: Sequence[Decoded]) -> list[DepthMap]:
        """Depth maps under their cameras' names; the newest that shows something becomes the latest."""
        maps = [one.depth for one in decoded]
        if self.views:
            names = named_calls(self.views, [depth.step for depth in maps], [one.blank for one in decoded])
            maps = [depth.relabelled(view=name) for depth, name in zip(maps, names, strict=True)]
        if self._mapping is not None:
            maps = [dataclasses.replace(depth, mapping=self._mapping_of(depth.view)) for depth in maps]
        seen = [depth for depth, one in zip(maps, decoded, strict=True) if not one.blank]
        if seen and (self._latest is None or seen[-1].frame > self._latest.frame):
            self._latest = seen[-1]
        return maps

    def _mapping_of(self, view: str | None) -> ImageMapping | None:
        return self._mapping.get(view or "") if isinstance(self._mapping, Mapping) else self._mapping

    def _warn_if_untrained(self) -> None:
        if not self.head.trained and not self._warned:
            self._warned = True
            _logger.warning("the head on the %s has random weights: its depth means nothing until trained", self.tower)


def _device(tower: Tower) -> torch.device:
    # Offloaded hosts rest on the meta device; the head then starts on the CPU and moves with .to() like any module.
    for parameter in tower.module.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return torch.device("cpu")


def _warn_of_other_statistics(head: DepthHead, spec: TowerSpec) -> None:
    config = head.config
    if config.image_mean is not None and (config.image_mean, config.image_std) != (spec.image_mean, spec.image_std):
        _logger.warning(
            "the head was trained on images normalised with mean %s, std %s; the %s takes mean %s, std %s",
            config.image_mean, config.image_std, spec, spec.image_mean, spec.image_std,
        )  # fmt: skip
