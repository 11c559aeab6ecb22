"""Prediction and scoring through a live host."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation.edges import edge_metrics
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.evaluation.metrics import mean_metrics, metrics_deviation
from spaceclip_plugin.evaluation.prediction import predict
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.towers.spec import TowerFeatures
from spaceclip_worlds.render.tabletop import TabletopScenes

PROTOCOL = get_protocol("spaceclip-nyu")


@pytest.fixture(scope="module")
def attachment() -> DepthAttachment:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2
        ).eval()
        options = {"channels": (8, 6), "semantic_taps": (2, 1), "structural_taps": (0,)}
        head = DepthHead.for_tower(host, architecture="space-clip", options=options)
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
    assert [score.metrics for score in result.per_image] == singles
    assert [score.name for score in result.per_image] == [scene.name for scene in scenes]
    inside = [((scene.depth_m > 1e-3) & (scene.depth_m < 10)).sum() for scene in scenes]
    assert [score.valid_pixels for score in result.per_image] == inside
    assert result.mean == mean_metrics(singles)
    assert result.standard_deviation == metrics_deviation(singles)
    assert min(dataclasses.astuple(result.standard_deviation)[:6]) > 0
    assert result.worst == ()
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


class TestEdges:
    def test_of_each_image_as_it_is_scored_and_their_mean(self, attachment: DepthAttachment, scenes: list) -> None:
        flat = dataclasses.replace(scenes[1], depth_m=np.full_like(scenes[1].depth_m, 1.5))
        near = PROTOCOL.with_range(0.1, 2.0)  # clips the prediction, and leaves out some truth
        result = evaluate(attachment, [scenes[0], flat, scenes[2]], protocol=near, edges=True)
        expected = []
        for scene in (scenes[0], scenes[2]):
            depth_m = predict(attachment, [scene.image], output_hw=(40, 56)).depth_m[0]
            truth = torch.from_numpy(scene.depth_m)
            expected.append(edge_metrics(depth_m.clamp(0.1, 2), truth, valid=(truth > 0.1) & (truth < 2)))
        assert [score.edges for score in result.per_image] == [expected[0], None, expected[1]]
        assert result.edges == mean_metrics(expected)
        assert result.images_with_edges == 2

    def test_only_where_depth_is_said_to_be_exact(self, attachment: DepthAttachment, scenes: list) -> None:
        exact = TabletopScenes(3, image_hw=(40, 56))
        told = evaluate(attachment, exact, protocol=PROTOCOL)
        insisted = evaluate(attachment, scenes, protocol=PROTOCOL, edges=True)
        assert told.edges == insisted.edges is not None
        for silent in (
            evaluate(attachment, scenes, protocol=PROTOCOL),
            evaluate(attachment, exact, protocol=PROTOCOL, edges=False),
        ):
            assert (silent.edges, silent.images_with_edges) == (None, None)
            assert [score.edges for score in silent.per_image] == [None] * 3
            assert silent.mean == told.mean

    def test_data_without_an_edge(self, attachment: DepthAttachment) -> None:
        result = evaluate(attachment, [flat(2.0, 0)], protocol=PROTOCOL, edges=True)
        assert (result.edges, result.images_with_edges) == (None, 0)


def test_nothing_to_evaluate(attachment: DepthAttachment) -> None:
    with pytest.raises(DataError, match="empty"):
        evaluate(attachment, [], protocol=PROTOCOL)


def test_a_sample_without_truth_is_named(attachment: DepthAttachment, scenes: list) -> None:
    blank = dataclasses.replace(scenes[1], depth_m=np.zeros_like(scenes[1].depth_m), name="list.txt:2 blank.jpg")
    with pytest.raises(DataError, match=r"list.txt:2 blank.jpg"):
        evaluate(attachment, [scenes[0], blank], protocol=PROTOCOL)


class Scenes:
    """Samples made anew on every access, and how many of their images were alive at once."""

    def __init__(self, count: int, build: Callable[[int], DepthSample]) -> None:
        self.count, self.build = count, build
        self.images: list[weakref.ref[np.ndarray]] = []
        self.alive = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> DepthSample:
        self.alive = max(self.alive, sum(image() is not None for image in self.images))
        sample = self.build(index)
        self.images.append(weakref.ref(sample.image))
        return sample


def flat(depth_m: float, index: int) -> DepthSample:
    return DepthSample(np.full((8, 9, 3), index, np.uint8), np.full((8, 9), depth_m, np.float32), f"flat {index}")


class TestWorst:
    # The same prediction everywhere but for the grey: nearer truth is the worse one.
    DEPTHS = (3.0, 0.1, 2.0, 0.3, 0.1, 4.0, 0.2)

    def flats(self) -> Scenes:
        return Scenes(len(self.DEPTHS), lambda index: flat(self.DEPTHS[index], 0 if index == 4 else index))

    def test_the_highest_first(self, attachment: DepthAttachment) -> None:
        result = evaluate(attachment, self.flats(), protocol=PROTOCOL, keep_worst=3)
        ranked = sorted(result.per_image, key=lambda score: score.metrics.abs_rel, reverse=True)
        assert [(kept.name, kept.metrics) for kept in result.worst] == [(s.name, s.metrics) for s in ranked[:3]]
        assert len({kept.metrics.abs_rel for kept in result.worst}) == 3
        every = evaluate(attachment, self.flats(), protocol=PROTOCOL, keep_worst=99).worst
        assert [(kept.name, kept.metrics) for kept in every] == [(s.name, s.metrics) for s in ranked]

    def test_of_equal_images_the_first_stays(self, attachment: DepthAttachment) -> None:
        equal = Scenes(4, lambda index: dataclasses.replace(flat(1.0, 5), name=str(index)))
        result = evaluate(attachment, equal, protocol=PROTOCOL, keep_worst=2)
        assert [kept.name for kept in result.worst] == ["0", "1"]

    def test_holds_all_that_a_picture_needs(self, attachment: DepthAttachment, scenes: list) -> None:
        depth_m = scenes[0].depth_m.copy()
        depth_m[:5] = 0
        depth_m[5:9] = 12  # beyond the range
        sample = dataclasses.replace(scenes[0], depth_m=depth_m)
        result = evaluate(attachment, [sample], protocol=PROTOCOL, keep_worst=1)
        [kept], [score] = result.worst, result.per_image
        assert score.valid_pixels == kept.valid.sum() == 31 * 56
        np.testing.assert_array_equal(kept.image, sample.image)
        np.testing.assert_array_equal(kept.target_m, depth_m)
        np.testing.assert_array_equal(kept.valid, (depth_m > 1e-3) & (depth_m < 10))
        predicted = predict(attachment, [sample.image], output_hw=(40, 56)).depth_m[0].clamp(1e-3, 10)
        np.testing.assert_allclose(kept.prediction_m, predicted.numpy(), rtol=1e-6)
        errors = np.abs(kept.prediction_m - kept.target_m)[kept.valid] / kept.target_m[kept.valid]
        assert kept.metrics.abs_rel == pytest.approx(errors.mean(), rel=1e-5)

    def test_the_prediction_is_clipped_and_zero_where_the_host_saw_nothing(self, attachment: DepthAttachment) -> None:
        protocol = get_protocol("kitti-garg").with_range(1e-3, 0.5)
        depth_m = np.full((375, 1242), 0.4, np.float32)
        sample = DepthSample(np.zeros((375, 1242, 3), np.uint8), depth_m, "street")
        [kept] = evaluate(attachment, [sample], protocol=protocol, keep_worst=1).worst
        assert kept.image.shape == (375, 1242, 3)
        assert (kept.prediction_m[:23] == 0).all()
        assert (kept.prediction_m[:, :13] == 0).all()
        assert (kept.prediction_m[:, 1229:] == 0).all()
        seen = kept.prediction_m[23:, 13:1229]
        assert 0 < seen.min() <= seen.max() <= 0.5
        [unclipped] = evaluate(attachment, [sample], protocol=get_protocol("kitti-garg"), keep_worst=1).worst
        assert unclipped.prediction_m.max() > 0.5

    @pytest.mark.parametrize("keep_worst", [0, 2])
    def test_memory_stays_flat(self, attachment: DepthAttachment, keep_worst: int) -> None:
        growing = Scenes(12, lambda index: flat(1.0 / (1 + index), index))  # each image is worse than all before it
        evaluate(attachment, growing, protocol=PROTOCOL, keep_worst=keep_worst)
        assert growing.alive <= keep_worst + 1

    def test_a_source_may_reuse_its_buffers(self, attachment: DepthAttachment) -> None:
        image, depth_m = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.float32)

        def build(index: int) -> DepthSample:
            image[:], depth_m[:] = index, self.DEPTHS[index]
            return DepthSample(image, depth_m, str(index))

        for kept in evaluate(attachment, Scenes(7, build), protocol=PROTOCOL, keep_worst=7).worst:
            assert (kept.image == int(kept.name)).all()
            assert (kept.target_m == np.float32(self.DEPTHS[int(kept.name)])).all()

    def test_a_negative_number_is_refused(self, attachment: DepthAttachment, scenes: list) -> None:
        with pytest.raises(ConfigError, match="0 or more, got -1"):
            evaluate(attachment, scenes, protocol=PROTOCOL, keep_worst=-1)
