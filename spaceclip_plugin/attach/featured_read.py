"""A read that gives beside each depth map the features that it was decoded from, for what learns from both."""

from __future__ import annotations

from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.attach.decoding import features_of
from spaceclip_plugin.depth import DepthMap, ImageMapping
from spaceclip_plugin.towers import Tower, TowerFeatures


def live_tower(attachment: DepthAttachment) -> Tower:
    """The tower that is read; ConfigError where the attachment is closed."""
    attachment._check_open("read depth with its features")
    return attachment._recorder.tower


def said_mappings(attachment: DepthAttachment) -> tuple[ImageMapping, ...]:
    """What a user told when attaching of how the tower's images are made; empty where nothing was."""
    return attachment._geometry.mappings.said


def read_with_features(attachment: DepthAttachment) -> list[tuple[DepthMap, TowerFeatures]]:
    """As `DepthAttachment.read`, with its errors: it ends the host step, and each frame is given once."""
    decode, recorder = attachment._decoder(None), attachment._recorder
    pairs = attachment._each(lambda frame: (decode(frame), features_of(recorder, frame)))
    decoded = [one for one, _ in pairs]
    try:
        maps = attachment._handed_out(decoded, attachment._names.given, attachment._told_places())
    finally:
        attachment.step()
    return [(depth, features) for depth, (_, features) in zip(maps, pairs, strict=True)]
