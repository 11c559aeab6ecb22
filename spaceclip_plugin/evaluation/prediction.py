"""Photos in, depth out, through an attached host."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.over_photo import over_photo, seen_of_photo


def predict(
    attachment: DepthAttachment,
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    output_hw: tuple[int, int],
    flip: bool = False,
    intrinsics: Intrinsics | None = None,
    camera: str | None = None,
) -> DepthMap:
    """Metric depth of photos: one run of the tower, or two with flip augmentation.

    Photos are prepared as the host prepares its cameras' images (`DepthAttachment.preparation`), and depth is that of
    the photo, where its pixels are. What the tower is not shown of it, or does not read, is not valid.

    Args:
        attachment: a host with a head; its unread frames, if any, are read and lost.
        images: (H, W, 3) uint8 RGB each; of one size, unless photos are stretched.
        output_hw: size of the depth, in pixels; it covers the photo.
        flip: average with the prediction of the mirrored photo (a second run of tower and head); where only one of the
            two saw a pixel, that one's.
        intrinsics: of the photos, all of one camera; depth is then in metres of that camera. None: not known, and
            depth is in metres of the camera that the head assumes.
        camera: the name under which an attachment that is to keep depth steady follows their video.

    Returns:
        depth (B, H, W) in metres at `output_hw`. It has a mapping unless photos are stretched.

    Raises:
        DataError: no photo, what is no photo, or photos of several sizes that lie differently in the tower's image.
        HostError: see `DepthAttachment.preparation`.
        CaptureError: see `DepthAttachment.read`.

    Example:
        >>> import numpy as np, timm
        >>> from spaceclip_plugin import attach_depth_head
        >>> host = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2).eval()
        >>> with attach_depth_head(host) as attachment:
        ...     depth = predict(attachment, [np.zeros((48, 64, 3), np.uint8)], output_hw=(48, 64))
        >>> depth.depth_m.shape
        torch.Size([1, 48, 64])
    """
    # A photo does not grow old while others are predicted.
    run = functools.partial(_one_run, attachment, output_hw=output_hw, camera=camera)
    plain = run(images, lens=None if flip else intrinsics).relabelled(age=0)
    if not flip:
        return plain
    mirrored = run([image[:, ::-1] for image in images], lens=None)
    image_hw = (images[0].shape[0], images[0].shape[1])
    seen = seen_pixels(attachment, image_hw, output_hw=output_hw).to(plain.valid.device)
    turned = seen.flip(-1)

    def averaged(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(seen & turned, 0.5 * (one + other), torch.where(seen, one, other))

    # A pixel that one of the two did not see need not be valid there.
    valid = (plain.valid | ~seen) & (mirrored.valid.flip(-1) | ~turned) & (seen | turned)
    uncertainty = plain.uncertainty_m
    if uncertainty is not None and mirrored.uncertainty_m is not None:
        # Both forwards err alike: the mean of the deviations, not what two independent guesses would have.
        uncertainty = averaged(uncertainty, mirrored.uncertainty_m.flip(-1))
    depth = averaged(plain.depth_m, mirrored.depth_m.flip(-1))
    familiarity = plain.familiarity
    if familiarity is not None and mirrored.familiarity is not None:
        familiarity = torch.minimum(familiarity, mirrored.familiarity)
    empty = plain.empty
    if empty is not None and mirrored.empty is not None:  # as with `valid`: either of the two may say so
        empty = torch.maximum(empty, mirrored.empty.flip(-1))
    both = dataclasses.replace(
        plain, depth_m=depth, valid=valid, uncertainty_m=uncertainty, familiarity=familiarity, empty=empty
    )
    return both if intrinsics is None else both.with_intrinsics(intrinsics)


def seen_pixels(
    attachment: DepthAttachment, image_hw: tuple[int, int], *, output_hw: tuple[int, int], flip: bool = False
) -> Tensor:
    """(H, W) bool on the CPU: which pixels of what `predict` gives the tower read, of the photo or of its mirror image.

    `image_hw` is the size of the photo.
    """
    mapping, tower_hw = _mapping(attachment, image_hw), attachment.preparation.image_hw
    seen = seen_of_photo(mapping, attachment.seen(tower_hw), output_hw)
    if seen is None:
        return torch.ones(output_hw, dtype=torch.bool)
    return seen | seen.flip(-1) if flip else seen


def _mapping(attachment: DepthAttachment, image_hw: tuple[int, int]) -> ImageMapping | None:
    """From photos of that size to the tower's image; None where they are stretched to it."""
    mapping = attachment.preparation.mapping(image_hw)
    return None if mapping.stretches else mapping


def _one_run(
    attachment: DepthAttachment,
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    output_hw: tuple[int, int],
    lens: Intrinsics | None,
    camera: str | None,
) -> DepthMap:
    pixels = attachment.preparation(images)
    sizes = dict.fromkeys((image.shape[0], image.shape[1]) for image in images)
    found = {_mapping(attachment, image_hw) for image_hw in sizes}
    if len(found) > 1:
        words = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise DataError(
            f"photos of {words} (HxW) lie differently in the tower's image ({attachment.preparation.kind}); predict "
            "those of each size by themselves"
        )
    mapping = found.pop()
    attachment.refresh(pixels, camera=camera, mapping=mapping, lens=lens)
    if mapping is None:
        return attachment.read(output_hw)[-1]
    return over_photo(attachment.read()[-1], output_hw)
