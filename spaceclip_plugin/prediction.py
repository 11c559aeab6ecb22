"""Photos in, depth out, through an attached host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.depth_map import DepthMap


def predict(
    attachment: DepthAttachment,
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    output_hw: tuple[int, int],
    flip: bool = False,
) -> DepthMap:
    """Metric depth of photos: one run of the tower, or two with flip augmentation.

    Args:
        attachment: a host with a head; its unread frames, if any, are read and lost.
        images: (H, W, 3) uint8 RGB each.
        output_hw: size of the depth, in pixels.
        flip: average with the prediction of the mirrored photo (a second run of tower and head).

    Returns:
        depth (B, H, W) in metres at `output_hw`.

    Raises:
        DataError, CaptureError: see `prepare` and `DepthAttachment.read`.
    """
    # A photo does not grow old while others are predicted.
    plain = _one_run(attachment, images, output_hw).relabelled(age=0)
    if not flip:
        return plain
    mirrored = _one_run(attachment, [image[:, ::-1] for image in images], output_hw)
    depth = 0.5 * (plain.depth_m + mirrored.depth_m.flip(-1))
    uncertainty = plain.uncertainty_m
    if uncertainty is not None and mirrored.uncertainty_m is not None:
        # Both forwards err alike: the mean of the deviations, not what two independent guesses would have.
        uncertainty = 0.5 * (uncertainty + mirrored.uncertainty_m.flip(-1))
    valid = plain.valid & mirrored.valid.flip(-1)
    return dataclasses.replace(plain, depth_m=depth, valid=valid, uncertainty_m=uncertainty)


def _one_run(
    attachment: DepthAttachment, images: Sequence[npt.NDArray[np.uint8]], output_hw: tuple[int, int]
) -> DepthMap:
    attachment.refresh(prepare(images, attachment.tower))
    return attachment.read(output_hw)[-1]
