"""From what the taps kept of one image call to its features and its depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spaceclip_plugin.attach.recorder import FrameRecorder
from spaceclip_plugin.attach.streams import wait_for
from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.depth.padding import Borders, blank_and_borders
from spaceclip_plugin.depth.values import is_captured
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.steady import Look
from spaceclip_plugin.towers import RawFrame, SeenPart, TowerFeatures


@dataclass(frozen=True, eq=False)
class Decoded:
    """Depth of a frame, and what else its images told."""

    depth: DepthMap  # under a camera's name only where whoever ran the tower gave one
    blank: bool | None  # whether all images are of one value; None where that cannot be told any more
    borders: tuple[Borders, ...] | None  # of each image, where they were asked for and can still be told
    seen: SeenPart | None  # what of the images the tower read; None for all of it
    mapping: ImageMapping | Literal["host"] | None  # see `RawFrame.mapping`
    lens: Intrinsics | Literal["host"] | None  # see `RawFrame.lens`
    features: TowerFeatures | None  # for a head that tells how familiar images are
    look: Look | None  # where depth of earlier frames is to be found again


def frame_features(recorder: FrameRecorder, frame: RawFrame) -> TowerFeatures:
    """The tapped hidden states of a frame as patch maps, its context and pixels; CaptureError where one is no good."""
    recorder.check_complete(frame)
    wait_for(frame)
    tower = recorder.tower
    features = tower.adapter.features(frame, tower)
    if recorder.pixels:
        features = replace(features, pixels=tower.adapter.pixels(frame, tower))
    if not is_captured(features.hidden[recorder.taps[0]].device):
        _check_finite(features, recorder.taps, frame.index)
    return features


def decode(
    recorder: FrameRecorder,
    head: DepthHead,
    frame: RawFrame,
    output_size: tuple[int, int] | None,
    *,
    reader: int,  # identity of the thread that took the frame
    anchor: Anchor | None,  # where images lie in their padding, if the padding that they show is asked for
    look_tap: int | None,  # hidden state of the looks, if those are asked for
) -> Decoded:
    """Run the head, in eval mode, on a frame."""
    device = next(head.parameters()).device
    features = frame_features(recorder, frame)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):  # the host's autocast is not the head's
        output = head(features, output_size)
    if recorder.pixels:  # the host's thread may have gone on, and filled its buffer again meanwhile
        recorder.tower.adapter.taken(frame, recorder.tower)
    depth = output.depth_m.float()
    valid = output.present_m > 0
    blank, borders = _looked_at(frame.pixels, anchor if frame.mapping == "host" else None, device)
    if blank is not None:
        valid &= ~blank[:, None, None]
    if features.valid is not None:
        valid &= _over_image(features.valid.to(depth), features, (depth.shape[1], depth.shape[2])) > 0
    depth_map = DepthMap(
        depth_m=depth,
        valid=valid,
        camera=frame.camera,
        frame=frame.index,
        image_hw=features.image_hw,
        trained=head.trained,
        uncertainty_m=None if output.uncertainty_m is None else output.uncertainty_m.float(),
        step=frame.step,
        age=recorder.step - frame.step,
        image_sizes=features.image_sizes,
        focal_length=head.config.focal_length,
        empty=None if output.empty is None else output.empty.float(),
    )
    told: list[list[int]] = []  # one question to the device, and none where nobody needs the answer or may ask
    if is_captured(device):
        blank = borders = None
    if blank is not None and (borders is not None or frame.thread == reader):
        told = (blank[:, None].long() if borders is None else torch.cat([blank[:, None].long(), borders], 1)).tolist()
    # Another thread's step may still be going on: which of its cameras this is, no one can tell.
    unknown = frame.thread != reader or (frame.call.pixels is not None and blank is None)
    return Decoded(
        depth_map,
        None if unknown else blank is not None and all(one[0] for one in told),
        None if borders is None else tuple((one[1], one[2], one[3], one[4]) for one in told),
        features.seen,
        frame.mapping,
        frame.lens,
        None if head.familiarity is None else features,
        None if look_tap is None or features.pixels is None else Look.of(features.pixels, features.hidden[look_tap]),
    )


def _over_image(patches: Tensor, features: TowerFeatures, hw: tuple[int, int]) -> Tensor:
    """(B, H, W) values of the patches (B, h, w) that the pixels of a map over the whole image lie in."""
    if features.seen is None:
        return interpolate(patches[:, None], size=hw, mode="nearest-exact")[:, 0]
    grid_hw = (patches.shape[1], patches.shape[2])
    return features.seen.places(hw, grid_hw=grid_hw, like=patches).nearest(patches)


def _looked_at(
    pixels: Tensor | None, anchor: Anchor | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """(B,) bool, which images are of one value throughout, and (B, 4) the borders of each, if `anchor` asks for them.

    Policies put images of one value in place of a camera that is missing. None for what cannot be told.
    """
    if pixels is None:
        return None, None
    if anchor is not None and pixels.ndim == 4:
        blank, borders = blank_and_borders(pixels, anchor)
        return blank.to(device), borders.to(device)
    flat = pixels.flatten(1)
    return (flat.amax(dim=1) == flat.amin(dim=1)).to(device), None


def _check_finite(features: TowerFeatures, taps: Sequence[int], index: int) -> None:
    named = {f"hidden state {tap}": features.hidden[tap] for tap in taps}
    if features.context is not None:
        named["the context"] = features.context
    # A sum shows any NaN or infinity in one pass without a mask of the map's size; one transfer tells of all maps.
    device = features.hidden[taps[0]].device  # a tower may be spread over several
    sums = [value.sum(dtype=torch.float32).to(device) for value in named.values()]
    finite = torch.stack(sums).isfinite().tolist()
    for name, good in zip(named, finite, strict=True):
        if not good:
            raise CaptureError(
                f"{name} of image call {index} holds NaN or infinity; depth from it would mean nothing. "
                "Check the image and the host's precision."
            )
