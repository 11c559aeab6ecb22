"""Uncertainty from the head to the user: read, predicted with flip, and as intervals that hold what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from clip_world import SMALL, clip_host, images, see
from fresh_heads import fresh_head
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthMap, attach_depth_head
from spaceclip_plugin.depth.interval import interval_factor
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation.prediction import predict


def mixer(host: nn.Module, **options: object) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(host, **{"taps": (1, 3), "channels": (48, 8), "convolutions": (1, 1), **options}).eval()


def depth_map(depth_m: Tensor, uncertainty_m: Tensor | None) -> DepthMap:
    return DepthMap(
        depth_m, depth_m > 0, camera=None, frame=0, image_hw=(8, 8), trained=True, uncertainty_m=uncertainty_m
    )


def test_a_frame_has_what_the_head_says() -> None:
    host = clip_host()
    head = mixer(host)
    with attach_depth_head(host, head) as depth:
        see(host, 3, batch=2)
        [features] = depth.features()
        see(host, 3, batch=2)
        [frame] = depth.read((20, 24))
    with torch.no_grad():
        expected = head(features, (20, 24))
    assert frame.uncertainty_m is not None
    assert torch.equal(frame.uncertainty_m, expected.uncertainty_m)
    assert torch.equal(frame.depth_m, expected.depth_m)


@pytest.mark.parametrize("options", [SMALL, {"taps": (1, 3), "uncertainty": False}])
def test_a_head_without_it_gives_none(options: dict[str, object]) -> None:
    host = clip_host()
    with attach_depth_head(host, fresh_head(host, **options)) as depth:
        see(host, 3)
        [frame] = depth.read()
    assert frame.uncertainty_m is None
    with pytest.raises(ConfigError, match="this head gives no uncertainty"):
        frame.interval(0.5)


def test_a_bfloat16_head_gives_float32() -> None:
    host = clip_host()
    with attach_depth_head(host, mixer(host).to(torch.bfloat16)) as depth:
        see(host, 3)
        [frame] = depth.read()
    assert frame.uncertainty_m is not None
    assert frame.uncertainty_m.dtype == torch.float32


def test_with_flip_it_is_the_mean_of_both() -> None:
    host = clip_host()
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with attach_depth_head(host, mixer(host)) as depth:
        plain, mirrored, both = (
            predict(depth, [image], output_hw=(32, 32), flip=flip)
            for image, flip in ((photo, False), (photo[:, ::-1], False), (photo, True))
        )
    assert plain.uncertainty_m is not None
    assert mirrored.uncertainty_m is not None
    torch.testing.assert_close(both.uncertainty_m, (plain.uncertainty_m + mirrored.uncertainty_m.flip(-1)) / 2)


class TestInterval:
    def test_by_hand(self) -> None:
        near, far = depth_map(torch.full((1, 8, 8), 2.0), torch.full((1, 8, 8), 0.4)).interval(0.9)
        factor = math.exp(0.2 * math.log(10) / math.sqrt(2))
        torch.testing.assert_close(near, torch.full((1, 8, 8), 2 / factor))
        torch.testing.assert_close(far, torch.full((1, 8, 8), 2 * factor))

    def test_pixels_without_depth_stay_finite(self) -> None:
        for uncertainty in (0.0, 1.0):
            for bound in depth_map(torch.zeros(1, 8, 8), torch.full((1, 8, 8), uncertainty)).interval(0.5):
                assert torch.equal(bound, torch.zeros(1, 8, 8))

    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_it_holds_the_truth_as_often_as_it_says(self, level: float) -> None:
        random = np.random.default_rng(0)
        depth_m = torch.from_numpy(random.uniform(0.5, 5, (1, 300, 300)).astype(np.float32))
        relative = torch.from_numpy(random.uniform(0.05, 0.3, (1, 300, 300)).astype(np.float32))
        noise = torch.from_numpy(random.laplace(0, 1 / math.sqrt(2), (1, 300, 300)).astype(np.float32))
        truth = depth_m * (relative * noise).exp()
        near, far = depth_map(depth_m, relative * depth_m).interval(level)
        assert ((near <= truth) & (truth <= far)).float().mean() == pytest.approx(level, abs=0.01)

    @pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, math.nan])
    def test_a_level_that_is_no_probability(self, level: float) -> None:
        with pytest.raises(ConfigError, match="a probability between 0 and 1"):
            interval_factor(level)


def test_it_depends_on_the_image() -> None:
    host = clip_host()
    with attach_depth_head(host, mixer(host)) as depth:
        for seed in (1, 2):
            with torch.no_grad():
                host(images(seed))
        one, other = depth.read()
    assert one.uncertainty_m is not None
    assert not torch.equal(one.uncertainty_m, other.uncertainty_m)
