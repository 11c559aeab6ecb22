"""From what the taps kept of one image call to its features and its depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spaceclip_plugin.attach.recorder import FrameRecorder
from spaceclip_plugin.attach.streams import wait_for
from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.depth.padding import Borders, blank_and_borders
from spaceclip_plugin.depth.values import are_sane, extremes_of, is_captured
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.head.decoder import HeadOutput, shows_faults
from spaceclip_plugin.steady import Look
from spaceclip_plugin.towers import RawFrame, SeenPart, TowerFeatures

_GLANCE = 8  # values of an image


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


def finite_features(recorder: FrameRecorder, frame: RawFrame) -> TowerFeatures:
    """The tapped hidden states of a frame as patch maps, its context and pixels; CaptureError where one is no good."""
    features = features_of(recorder, frame)
    if not is_captured(next(iter(features.hidden.values())).device):
        _check_finite(features, frame.index)
    return features


def features_of(recorder: FrameRecorder, frame: RawFrame) -> TowerFeatures:
    """What `finite_features` gives, of a frame whose values are known to be sane or looked at later."""
    recorder.check_complete(frame)
    wait_for(frame)
    tower = recorder.tower
    features = tower.adapter.features(frame, tower)
    if recorder.pixels:
        features = replace(features, pixels=tower.adapter.pixels(frame, tower))
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
    features = features_of(recorder, frame)
    if head.fused:  # it sees to what follows by itself
        output = head(features, output_size)
    else:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):  # the host's autocast is not the head's
            output = head(features, output_size)
    if recorder.pixels:  # the host's thread may have gone on, and filled its buffer again meanwhile
        recorder.tower.adapter.taken(frame, recorder.tower)
    maps = output.changed(Tensor.float)
    blank, borders = _looked_at(frame.pixels, anchor if frame.mapping == "host" else None, device)
    valid = output.present_m > 0
    if is_captured(device):  # no value may be asked for
        told = _Told(sane=True, finite=True, blank=None, borders=None)
        if blank is not None:
            valid &= ~blank[:, None, None]
        blank = None
    else:
        told = _Told.by(maps, [] if shows_faults(head.decoder) else _sums(features, device), blank, borders)
        if not (told.sane and told.finite):
            _check_finite(features, frame.index)
        for image, is_blank in enumerate(told.blank or ()):
            if is_blank:
                valid[image] = False
    if features.valid is not None:
        valid &= _over_image(features.valid.to(maps.depth_m), features, (valid.shape[1], valid.shape[2])) > 0
    depth_map = DepthMap(
        depth_m=maps.depth_m,
        valid=valid,
        camera=frame.camera,
        frame=frame.index,
        image_hw=features.image_hw,
        trained=head.trained,
        uncertainty_m=maps.uncertainty_m,
        step=frame.step,
        age=recorder.step - frame.step,
        image_sizes=features.image_sizes,
        focal_length=head.config.focal_length,
        empty=maps.empty,
        known_sane=told.sane,
    )
    # Another thread's step may still be going on: which of its cameras this is, no one can tell.
    unknown = frame.thread != reader or (frame.call.pixels is not None and blank is None)
    return Decoded(
        depth_map,
        None if unknown else told.blank is not None and all(told.blank),
        told.borders,
        features.seen,
        frame.mapping,
        frame.lens,
        None if head.familiarity is None else features,
        None if look_tap is None or features.pixels is None else Look.of(features.pixels, features.hidden[look_tap]),
    )


@dataclass(frozen=True)
class _Told:
    """What the device is asked of a frame, once."""

    sane: bool  # see `are_sane`
    finite: bool  # what the depth was made of, as far as its sums were asked for
    blank: list[bool] | None  # see `_looked_at`
    borders: tuple[Borders, ...] | None

    @classmethod
    def by(cls, maps: HeadOutput, sums: Sequence[Tensor], blank: Tensor | None, borders: Tensor | None) -> _Told:
        extremes = extremes_of([one for one in (maps.depth_m, maps.uncertainty_m, maps.empty) if one is not None])
        asked = [extremes, *(one[None] for one in sums)]
        asked += [one.flatten() for one in (blank, borders) if one is not None]
        answers = iter(torch.cat(asked).tolist())
        return cls(
            are_sane([*islice(answers, len(extremes))]),
            all(map(math.isfinite, [*islice(answers, len(sums))])),
            None if blank is None else [one != 0 for one in islice(answers, len(blank))],
            None if borders is None else tuple(_four(answers) for _ in range(len(borders))),
        )


def _four(answers: Iterator[float]) -> Borders:
    top, left, bottom, right = map(int, islice(answers, 4))
    return top, left, bottom, right


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
    # A glance at a few values, where asking is free.
    if flat.is_cpu and all(len(set(some)) > 1 for some in flat[:, :: flat.shape[1] // _GLANCE + 1].tolist()):
        return torch.zeros(len(flat), dtype=torch.bool, device=device), None
    return (flat.amax(dim=1) == flat.amin(dim=1)).to(device), None


def _sums(features: TowerFeatures, device: torch.device) -> list[Tensor]:
    """Of all hidden states and the context: a sum shows any NaN or infinity, in one pass without a mask."""
    read = [*features.hidden.values(), *([] if features.context is None else [features.context])]
    return [values.sum(dtype=torch.float32).to(device) for values in read]


def _check_finite(features: TowerFeatures, index: int) -> None:
    device = next(iter(features.hidden.values())).device  # a tower may be spread over several
    names = [*(f"hidden state {tap}" for tap in features.hidden), "the context"]
    for name, total in zip(names, torch.stack(_sums(features, device)).tolist(), strict=False):
        if not math.isfinite(total):
            raise CaptureError(
                f"{name} of image call {index} holds NaN or infinity; depth from it would mean nothing. "
                "Check the image and the host's precision."
            )
