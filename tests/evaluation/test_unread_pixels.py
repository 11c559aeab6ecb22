"""What a tower never reads of its image is not scored, and its number is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ramp_world import places, ramp_head, siglip

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.evaluation.prediction import predict, seen_pixels
from spaceclip_plugin.evaluation.protocol import Protocol
from spaceclip_plugin.evaluation.report import ReportFolder, summary

PROTOCOL = Protocol(name="ramp", description="every pixel", depth_scale=1000.0, max_depth_m=80.0)
HW, READ_HW = (96, 72), (84, 63)  # 42 of 48 pixels of the tower's image


@pytest.fixture
def attachment() -> Iterator[DepthAttachment]:
    host = siglip()
    with attach_depth_head(host, ramp_head(host)) as depth:
        yield depth


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)


def truth(hw: tuple[int, int] = HW) -> np.ndarray:
    """The ramp where the tower reads, between the centres of its patches; nonsense in the strip; unknown between."""
    v, u = places(48, hw[0]), places(48, hw[1])
    depth_m = (v / 14 + 10)[:, None].repeat(1, hw[1])
    depth_m[(v < 7) | ((v > 35) & (v < 42))] = 0
    depth_m[v >= 42] = 70
    depth_m[:, u >= 42] = 70
    return depth_m.numpy().astype(np.float32)


def test_only_what_was_seen_counts_and_the_rest_is_told(attachment: DepthAttachment, tmp_path: Path) -> None:
    sample = DepthSample(photo(), truth(), "ramp")
    result = evaluate(attachment, [sample], protocol=PROTOCOL, keep_worst=1)
    strip = (truth() == 70).sum()
    assert result.mean.abs_rel < 1e-5
    [score] = result.per_image
    assert (score.valid_pixels, score.unseen_pixels) == ((truth() > 0).sum() - strip, strip)
    assert summary(result)["unseen_pixels"] == strip
    [worst] = result.worst
    assert not worst.valid[READ_HW[0] :].any()
    assert not worst.prediction_m[READ_HW[0] :].any()
    assert not worst.prediction_m[:, READ_HW[1] :].any()
    assert worst.prediction_m[: READ_HW[0], : READ_HW[1]].all()
    ReportFolder(tmp_path).write(result)


def test_of_two_forwards_the_one_that_saw_a_pixel_counts(attachment: DepthAttachment) -> None:
    both = predict(attachment, [photo()], output_hw=HW, flip=True)
    left = HW[1] - READ_HW[1]  # the mirrored photo's strip
    assert bool(both.valid[0, : READ_HW[0]].all())
    assert not bool(both.valid[0, READ_HW[0] :].any())
    plain = predict(attachment, [photo()], output_hw=HW)
    column = plain.uncertainty_m[0, 0]
    turned = column.flip(0)
    torch.testing.assert_close(both.uncertainty_m[0, 0, :left], column[:left])
    torch.testing.assert_close(both.uncertainty_m[0, 0, left : READ_HW[1]], (column + turned)[left : READ_HW[1]] / 2)
    torch.testing.assert_close(both.uncertainty_m[0, 0, READ_HW[1] :], turned[READ_HW[1] :])
    assert torch.equal(both.depth_m[0, :, -1], both.depth_m[0, :, 0])
    assert torch.equal(seen_pixels(attachment, HW, output_hw=HW, flip=True), both.valid[0])
    assert torch.equal(seen_pixels(attachment, HW, output_hw=HW), plain.valid[0])


def test_a_flipped_evaluation_leaves_out_the_lower_strip_alone(attachment: DepthAttachment) -> None:
    result = evaluate(attachment, [DepthSample(photo(), truth(), "ramp")], protocol=PROTOCOL, flip=True)
    assert result.per_image[0].unseen_pixels == (HW[0] - READ_HW[0]) * HW[1]


def test_a_pixel_made_of_one_that_was_not_seen_is_not_scored() -> None:
    seen = torch.ones(4, 4, dtype=torch.bool)
    seen[3] = False
    sample = DepthSample(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 2, np.float32), "photo")
    compared = PROTOCOL.compared(torch.full((1, 4, 4), 2.0), sample, seen=seen)
    assert torch.equal(compared.valid.any(dim=1), torch.tensor([True] * 5 + [False] * 3))
    assert compared.unseen_pixels == 24
    assert bool(compared.maps_m[0, 5:].isnan().all())


def test_ground_truth_in_the_strip_alone_cannot_be_scored(attachment: DepthAttachment) -> None:
    depth_m = truth()
    depth_m[: READ_HW[0], : READ_HW[1]] = 0
    with pytest.raises(DataError, match="corner: the tower reads none of the"):
        evaluate(attachment, [DepthSample(photo(), depth_m, "corner")], protocol=PROTOCOL)


def test_photos_of_a_prediction_have_no_mapping_of_the_hosts() -> None:
    host = siglip()
    mapping = ImageMapping.letterboxed((480, 640), (48, 48))
    with attach_depth_head(host, ramp_head(host), mapping=mapping) as depth:
        found = predict(depth, [photo()], output_hw=HW)
    assert found.mapping is None
    assert int(found.valid.sum()) == READ_HW[0] * READ_HW[1]
