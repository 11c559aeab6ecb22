"""Depth as an auxiliary loss: for those who fine-tune their policy, tower and all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaceclip_plugin._checks import choice
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.attach.featured_read import said_mappings
from spaceclip_plugin.depth import ImageMapping, Intrinsics
from spaceclip_plugin.depth.camera import lens_scale, same_aspect
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.towers import TowerFeatures
from spaceclip_plugin.training.losses import LOSSES


class AuxiliaryDepth:
    """A depth loss on what a policy's tower sees while the policy is fine-tuned; at inference nothing of it is there.

    The head is frozen: what learns is the tower, up to the last hidden state that the head reads, so that its tokens go
    on telling depth, or learn to. Whether that makes a policy act better is to be measured in its own world.

    Example:
        A small random ViT with a fresh head; one step of a policy's training:

        >>> import timm, torch
        >>> from spaceclip_plugin import attach_depth_head
        >>> from spaceclip_plugin.attach import UnreadFrames
        >>> host = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2)
        >>> depth = attach_depth_head(host, unread=UnreadFrames(gradients=True))
        >>> auxiliary = AuxiliaryDepth(depth)
        >>> policy_loss = host(torch.rand(2, 3, 32, 32)).square().mean()
        >>> loss = policy_loss + 0.1 * auxiliary(torch.full((2, 32, 32), 1.5))
        >>> loss.backward()
        >>> bool(host.blocks[0].attn.qkv.weight.grad.any()), any(p.requires_grad for p in depth.head.parameters())
        (True, False)
    """

    def __init__(self, attachment: DepthAttachment, *, loss: str = "relative") -> None:
        """Freeze the head of an attachment.

        Args:
            attachment: made with `unread=UnreadFrames(gradients=True)`, and not read beside; it stays open.
            loss: a name of `LOSSES`.

        Raises:
            ConfigError: an unknown loss, a fused head, or an attachment that was told a mapping: depth is brought to
                the tower's image as the host's preparation is known or declared.
            HostError: the host says how it prepares its images, in a way that is not understood.
        """
        if attachment.head.fused:
            raise ConfigError("a fused head gives no gradients; attach the head that it was made from")
        if said_mappings(attachment):
            raise ConfigError(
                "this attachment was told mapping=, and depth is brought to the tower's image by the host's "
                "preparation: declare it (ImageGeometry.parse(…).declare(host)), and attach without mapping="
            )
        self._loss = LOSSES[choice("loss", loss, LOSSES)]()
        self._preparation = attachment.preparation
        self._attachment = attachment
        self._head = attachment.head.requires_grad_(False)
        self._dropped = attachment.dropped

    def __call__(
        self, depths_m: Tensor | Sequence[Tensor], *, intrinsics: Intrinsics | Sequence[Intrinsics] | None = None
    ) -> Tensor:
        """The loss of the policy's newest forward, a scalar to add to its own; it ends the host step, as a read does.

        Args:
            depths_m: (B, H, W) metres of each image call, in their order, over the camera's image as the policy is
                given it; not positive or not finite where unknown. An image call without known depth adds nothing.
            intrinsics: of the camera of each call, or one of all. Needed where the head tells the lens that its metres
                are of.

        Returns:
            () the mean over the calls with known depth; 0 where there is none.

        Raises:
            CaptureError: the tower ran another number of times than there are maps, on other batches, or without
                gradients; or its frames were dropped.
            ConfigError: no intrinsics where they are needed, or such as are of no such image.
        """
        maps = [depths_m] if isinstance(depths_m, Tensor) else list(depths_m)
        cameras = [intrinsics] * len(maps) if intrinsics is None or isinstance(intrinsics, Intrinsics) else intrinsics
        if len(cameras) != len(maps):
            raise ConfigError(f"{len(maps)} depth map(s) and intrinsics of {len(cameras)} camera(s)")
        calls = self._calls(maps)
        losses = [self._of(*one) for one in zip(calls, maps, cameras, strict=True)]
        known = [loss for loss in losses if loss is not None]
        if known:
            return torch.stack(known).mean()
        return torch.zeros((), device=next(iter(calls[0].hidden.values())).device)

    def _calls(self, maps: Sequence[Tensor]) -> list[TowerFeatures]:
        """The features of the forward, as they were captured."""
        attachment = self._attachment
        lost, self._dropped = attachment.dropped - self._dropped, attachment.dropped
        try:
            calls = attachment.features()
        finally:
            attachment.step()
        if lost:
            raise CaptureError(
                f"{lost} image call(s) were dropped before their loss was asked for: ask after every forward, or "
                "attach with more room, unread=UnreadFrames(max_frames=…, max_bytes=…, gradients=True)"
            )
        if len(calls) != len(maps) or not maps:
            raise CaptureError(
                f"the tower ran {len(calls)} time(s) since the last loss, and there are {len(maps)} depth map(s): give "
                "one of each image call, of zeros where nothing is known, and skip() forwards without a loss"
            )
        if not any(hidden.requires_grad for call in calls for hidden in call.hidden.values()):
            raise CaptureError(
                "the hidden states have no gradients, and nothing would learn from this loss: attach with "
                "unread=UnreadFrames(gradients=True), unfreeze blocks of the tower before the last hidden state that "
                "the head reads, and run the policy with gradients"
            )
        return calls

    def _of(self, features: TowerFeatures, depth_m: Tensor, camera: Intrinsics | None) -> Tensor | None:
        """The loss of one image call; None where nothing is known."""
        hidden = next(iter(features.hidden.values()))
        if depth_m.ndim != 3 or len(depth_m) != len(hidden):
            raise CaptureError(
                f"a depth map is {tuple(depth_m.shape)}, expected (B, H, W) of the {len(hidden)} image(s) of the call"
            )
        camera_hw = (depth_m.shape[1], depth_m.shape[2])
        mapping = self._preparation.mapping(camera_hw)
        valid = depth_m.isfinite() & (depth_m > 0)
        target_m = depth_m.to(hidden.device, torch.float32).nan_to_num(0.0, 0.0, 0.0) * self._to_head(camera, mapping)
        with torch.autocast(hidden.device.type, enabled=False):  # the host's autocast is not the head's
            output = self._head(features)
            seen = output.changed(lambda values: mapping.places(camera_hw, values).bilinear(values))
        valid = valid.to(hidden.device) & mapping.places(camera_hw, output.depth_m).shown
        if not bool(valid.any()):
            return None
        return self._loss(
            HeadOutput(seen.depth_m, uncertainty_m=seen.uncertainty_m), target_m.masked_fill(~valid, 0), valid=valid
        )

    def _to_head(self, camera: Intrinsics | None, mapping: ImageMapping) -> float:
        """What metres of a camera are multiplied by to be those of the head's."""
        config = self._head.config
        if config.focal_length is None or config.focal_length_assumed:
            return 1.0
        if camera is None:
            raise ConfigError(
                f"the metres of this head are those of a camera of focal length {config.focal_length[0]:.4g} x "
                f"{config.focal_length[1]:.4g} of the image's sides: give intrinsics= of the cameras of this policy"
            )
        if not same_aspect(camera.image_hw, mapping.camera_hw):
            raise ConfigError(
                f"the intrinsics are of images of {camera.image_hw} pixels, and the depth map, {mapping.camera_hw}, is "
                "no such image at any resolution; give those of the depth map"
            )
        resized = camera.resized(mapping.camera_hw)
        return lens_scale(to=config.focal_length, of=mapping.to_tower(resized).focal_length)
