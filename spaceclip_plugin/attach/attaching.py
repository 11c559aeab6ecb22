"""The front door: `attach_depth_head` finds a host's tower, checks everything, and only then registers its hooks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.attach.camera_lenses import CameraGeometry, CameraLenses
from spaceclip_plugin.attach.camera_mappings import CameraMappings
from spaceclip_plugin.attach.declared import CameraOrder, PolicyCameras, checked_cameras, declared_cameras
from spaceclip_plugin.attach.host_state import tower_device
from spaceclip_plugin.attach.preparation_match import match_images, warn_of_other_images
from spaceclip_plugin.attach.recorder import FrameRecorder, UnreadFrames
from spaceclip_plugin.attach.tower_match import WARN, check_tower
from spaceclip_plugin.depth import ImageMapping, Intrinsics
from spaceclip_plugin.errors import ConfigError, HeadMismatchError, HostError
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.towers import ImageStatistics, Tower, registry
from spaceclip_plugin.towers.adapter import lineage

_DEFAULT = UnreadFrames()

_logger = logging.getLogger(__name__)


def attach_depth_head(
    host: nn.Module,
    head: DepthHead | str | Path | None = None,
    *,
    tower: str | Tower | None = None,
    cameras: Sequence[str] | Mapping[str, Intrinsics | None] | PolicyCameras | None = None,
    mapping: ImageMapping | Mapping[str, ImageMapping] | None = None,
    unread: UnreadFrames = _DEFAULT,
    other_tower: str = WARN,
) -> DepthAttachment:
    """Read depth from the vision tower of a live host.

    The host is not changed: hooks keep references to activations it computes anyway, and the head stays outside it.
    Everything is checked before the first hook is registered.

    Args:
        host: any module with a vision tower inside.
        head: a `DepthHead`, the folder or Hub repository of a saved one, "embedded:NAME" for one that comes with the
            package (`spaceclip heads`), or None for a fresh one to train.
        tower: module path of the tower, where the host has several; or one that `find_towers(host)` gave, with an
            adapter of your choice where discovery is wrong.
        cameras: names in the order in which the host runs its tower within a step, one image call each; None: as the
            policy's configuration lists them, for policies that are declared (LeRobot's are). Of cameras that are
            missing, see `given`. By name, the intrinsics of their images, as they are before the host resizes, crops or
            pads them (see `mapping`): depth is then in metres of that camera, and `points` need no intrinsics. Where
            none are known (None), depth is in metres of the camera that the head assumes, and its maps say so. Of
            declared policies some of their cameras will do, in any order.
        mapping: how the host makes its tower's image out of the camera's, of every camera or by name; depth maps carry
            it, their padding is not `valid`, and their `points` take the camera's intrinsics. None: as the policy's
            configuration says, for policies that are declared, and as the padding of its images confirms.
        unread: how many frames, and bytes of them, wait for a read, and whether as copies.
        other_tower: what to do where the weights are not those the head was trained on, or adapters change the blocks:
            "warn" in the log, "error", or "ignore", which does not look. `DepthAttachment.tower_match` says what was
            found.

    Returns:
        The attachment; also a context manager that closes it on leaving.

    Raises:
        TowerNotFoundError, AmbiguousTowerError, AdapterError, HostError: no tower, or no single one.
        HeadMismatchError: the head does not fit the tower, or with `other_tower="error"` was trained on another one.
        CheckpointError: the head's files are not a head.
        ConfigError: any other argument that cannot be.

    Example:
        A small random ViT stands for the host; with a fresh head its depth means nothing yet.

        >>> import timm, torch
        >>> host = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2).eval()
        >>> mapping = ImageMapping.letterboxed((480, 640), (32, 32))
        >>> cameras = {"front": Intrinsics(600.0, 600.0, 320.0, 240.0, image_hw=(480, 640))}
        >>> with torch.no_grad(), attach_depth_head(host, cameras=cameras, mapping=mapping) as depth:
        ...     _ = host(torch.randn(1, 3, 32, 32))
        ...     [seen] = depth.read()
        >>> seen.depth_m.shape, seen.mapping == mapping, bool(seen.valid[0, 0].any())
        (torch.Size([1, 32, 32]), True, False)
        >>> seen.points().shape
        torch.Size([1, 32, 32, 3])
    """
    if not isinstance(unread, UnreadFrames):
        raise ConfigError(f"unread must be UnreadFrames(max_frames=…, max_bytes=…, copy=…), got {unread!r}")
    intrinsics = dict(cameras) if isinstance(cameras, Mapping) else {}
    names = () if cameras is None or isinstance(cameras, PolicyCameras) else checked_cameras(cameras)
    found = _tower_of(host, tower)
    head = _fitted_head(head, found)
    match = check_tower(found, head.config, other_tower)
    declared = cameras if isinstance(cameras, PolicyCameras) else declared_cameras(lineage(host, found.spec.path))
    order = CameraOrder() if declared is None else declared.order
    if names and not (intrinsics and order.names):
        order = CameraOrder(names, order.placeholders)
    mappings = CameraMappings(mapping, cameras=order.names, declared=declared)
    lenses = CameraLenses(intrinsics, head.config, order)
    lenses.check(mappings, found.spec.image_hw)
    recorder = FrameRecorder(found, head.taps, context=head.uses_context, unread=unread, pixels=head.uses_pixels)
    images = match_images(head.config, host, found.spec, declared=declared, said=mappings.said)
    warn_of_other_images(images)
    attachment = DepthAttachment(host, head, recorder, order, CameraGeometry(mappings, lenses, images), match)
    recorder.start()
    return attachment


def _tower_of(host: nn.Module, tower: str | Tower | None) -> Tower:
    if not isinstance(tower, Tower):
        return registry.find_tower(host, tower=tower)
    if not (isinstance(host, nn.Module) and tower.is_part_of(host)):
        raise HostError(f"this {type(host).__name__} does not hold the {tower.spec}; give one of find_towers(host)")
    return tower


def _fitted_head(head: DepthHead | str | Path | None, tower: Tower) -> DepthHead:
    """The head itself, read from where it lies, or a fresh one; it fits the tower."""
    with torch.inference_mode(False):  # a head made in inference mode could never be trained
        if head is None:
            with torch.random.fork_rng(devices=[]):  # attaching draws nothing from the host's random numbers
                head = DepthHead.for_tower(tower).eval().to(tower_device(tower))
        elif isinstance(head, (str, Path)):
            head = DepthHead.from_pretrained(head).to(tower_device(tower))
        elif not isinstance(head, DepthHead):
            raise ConfigError(f"head must be a DepthHead, a folder or None, got {type(head).__name__}")
    head.check_fits(tower.spec)
    if head.uses_context and tower.context_source is None:
        raise HeadMismatchError(
            f"the head reads a {head.config.context!r} context, the {tower.spec} has no module that gives one; "
            "use one that reads none, as DepthHead.for_tower(host) makes"
        )
    if head.uses_pixels and not tower.adapter.gives_pixels:
        raise HeadMismatchError(
            f"the head reads the pixels of the tower's image too, and the adapter {tower.spec.adapter!r} of the "
            f"{tower.spec} cannot put them back on a grid; use a head that reads hidden states alone, as "
            "DepthHead.for_tower(host) makes"
        )
    config, taken = head.config, ImageStatistics.of(tower.spec)
    trained = ImageStatistics(config.image_mean or taken.mean, config.image_std or taken.std)  # None: unknown
    if not trained.agrees(taken):
        _logger.warning(
            "the head was trained on images normalised with %s; the %s takes %s, and depth will be off; where the host "
            "takes the head's after all, say so: --image-mean and --image-std", trained, tower.spec, taken,
        )  # fmt: skip
    return head
