"""Prediction and scoring through a live host."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.tabletop import TabletopScenes
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.evaluation.metrics import mean_metrics
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.prediction import predict
from spaceclip_plugin.tower import TowerFeatures

PROTOCOL = get_protocol("spaceclip-nyu")


@pytest.fixture(scope="module")
def attachment() -> DepthAttachment:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2
        ).eval()
        head = DepthHead.for_tower(
            host, architecture="space-clip", channels=(8, 6), semantic_taps=(2, 1), structural_taps=(0,)
        )
    return attach_depth_head(host, head)


@pytest.fixture(scope="module")
def scenes() -> list:
    source = TabletopScenes(3, image_hw=(40, 56))
    return [source[i] for i in range(3)]


def test_flip_is_the_mean_of_two_forwards(attachment: DepthAttachment, scenes: list) -> None:
    image = scenes[0].image
    plain = predict(attachment, [image], output_hw=(40, 56))
    mirrored = predict(attachment, [image[:, ::-1]], output_hw=(40, 56))
    both = predict(attachment, [image], output_hw=(40, 56), flip=True)
    torch.testing.assert_close(both.depth_m, (plain.depth_m + mirrored.depth_m.flip(-1)) / 2)
    assert not torch.equal(both.depth_m, plain.depth_m)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 5)])
def test_photos_and_depth_of_any_size(attachment: DepthAttachment, size: tuple[int, int]) -> None:
    photo = np.full((*size, 3), 90, np.uint8)
    assert predict(attachment, [photo], output_hw=size).depth_m.shape == (1, *size)


def test_scores_are_those_of_each_image(attachment: DepthAttachment, scenes: list) -> None:
    steps: list[int] = []
    result = evaluate(attachment, scenes, protocol=PROTOCOL, progress=steps.append)
    singles = []
    for scene in scenes:
        depth = predict(attachment, [scene.image], output_hw=(40, 56))
        singles.append(PROTOCOL.score(depth.depth_m[0], scene))
    assert [metrics for _, metrics in result.per_image] == singles
    assert [name for name, _ in result.per_image] == [scene.name for scene in scenes]
    assert result.mean == mean_metrics(singles)
    assert steps == [1, 1, 1]
    assert (result.protocol, result.flip) == ("spaceclip-nyu", False)


class Doubting(nn.Module):
    """A decoder that is sure of the left half of its depth, and not at all of the right."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        output = self.decoder(features, output_hw, auxiliary=auxiliary)
        spread = torch.full_like(output.depth_m, 1e-3)
        spread[..., output_hw[1] // 2 :] = 1e3
        return dataclasses.replace(output, uncertainty_m=spread * output.depth_m)


def test_coverage_is_the_mean_over_images(
    attachment: DepthAttachment, scenes: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate(attachment, scenes, protocol=PROTOCOL)
    assert plain.coverage is None
    # One image of which only the right half is known: there every interval holds the truth.
    half = scenes[0].depth_m.copy()
    half[:, :28] = 0
    samples = [dataclasses.replace(scenes[0], depth_m=half), *scenes[1:]]
    monkeypatch.setitem(attachment.head._modules, "decoder", Doubting(attachment.head.decoder))
    result = evaluate(attachment, samples, protocol=PROTOCOL)
    assert result.coverage is not None
    assert list(result.coverage) == [0.5, 0.9]
    for level, share in result.coverage.items():
        expected = []
        for sample in samples:
            depth = predict(attachment, [sample.image], output_hw=(40, 56))
            inside = 0
            pixels = [(y, x) for y in range(40) for x in range(56) if 1e-3 < sample.depth_m[y, x] < 10]
            for y, x in pixels:
                d, u = depth.depth_m[0, y, x].item(), depth.uncertainty_m[0, y, x].item()
                b = u / d / math.sqrt(2)
                inside += abs(math.log(d / sample.depth_m[y, x])) <= b * math.log(1 / (1 - level))
            expected.append(inside / len(pixels))
        assert expected[0] == 1.0
        assert share == pytest.approx(sum(expected) / 3)
        assert share < 0.9
    assert evaluate(attachment, scenes, protocol=PROTOCOL).mean == plain.mean
    assert evaluate(attachment, scenes, protocol=PROTOCOL, flip=True).coverage is None


def test_nothing_to_evaluate(attachment: DepthAttachment) -> None:
    with pytest.raises(DataError, match="empty"):
        evaluate(attachment, [], protocol=PROTOCOL)


def test_a_sample_without_truth_is_named(attachment: DepthAttachment, scenes: list) -> None:
    blank = dataclasses.replace(scenes[1], depth_m=np.zeros_like(scenes[1].depth_m), name="list.txt:2 blank.jpg")
    with pytest.raises(DataError, match=r"list.txt:2 blank.jpg"):
        evaluate(attachment, [scenes[0], blank], protocol=PROTOCOL)
