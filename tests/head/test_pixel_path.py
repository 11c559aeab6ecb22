"""The path from the tower's own image: what it adds, what it leaves alone, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.head.tap_mixer import TapMixerOptions
from spaceclip_plugin.towers import SeenPart, TowerFeatures

SMALL = {"taps": (1, 2), "channels": (12, 8), "convolutions": (1, 1), "dropout": 0.0}
PATCH = 16


def head(pixels: int = 6) -> DepthHead:
    config = DepthHeadConfig("tap-mixer", {**SMALL, "pixels": pixels}, width=16, blocks=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = DepthHead(config)
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    return fresh.eval()


def features(rows: int, columns: int, *, patch: int = PATCH, batch: int = 1, seed: int = 0) -> TowerFeatures:
    random = torch.Generator().manual_seed(seed)
    hidden = {tap: torch.randn(batch, 16, rows, columns, generator=random) for tap in (1, 2)}
    hw = (patch * rows, patch * columns)
    return TowerFeatures(hidden, None, hw, pixels=torch.randn(batch, 3, *hw, generator=random))


def depth(of: DepthHead, given: TowerFeatures) -> Tensor:
    with torch.no_grad():
        return of(given).depth_m


def test_depth_follows_the_image_where_it_changes() -> None:
    given = features(6, 6)
    changed = given.pixels.clone()
    changed[..., :16, :16] += 1.0
    difference = (depth(head(), dataclasses.replace(given, pixels=changed)) - depth(head(), given)).abs()[0]
    assert difference[:16, :16].max() > 1e-3
    assert difference[48:, 48:].max() == 0.0  # a thin path looks near, not far


def test_a_head_without_the_path_asks_for_no_image() -> None:
    plain = head(pixels=0)
    assert not plain.uses_pixels
    given = features(4, 5)
    assert torch.equal(depth(plain, given), depth(plain, dataclasses.replace(given, pixels=None)))


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_an_image_beside_a_larger_one_gets_the_depth_it_gets_alone(patch: int) -> None:
    both = features(6, 7, patch=patch, batch=2)
    valid = torch.ones(2, 6, 7, dtype=torch.bool)
    valid[1, 4:], valid[1, :, 5:] = False, False
    height, width = 4 * patch, 5 * patch
    alone = TowerFeatures(
        {tap: values[1:, :, :4, :5] for tap, values in both.hidden.items()},
        None,
        (height, width),
        pixels=both.pixels[1:, :, :height, :width],
    )
    beside = depth(head(), dataclasses.replace(both, valid=valid))[1, :height, :width]
    # Where depth is enlarged, the last pixel is between image and padding.
    inner = slice(0, -1 if patch > PATCH else None)
    torch.testing.assert_close(beside[inner, inner], depth(head(), alone)[0, inner, inner], rtol=1e-5, atol=1e-5)


def test_the_strip_that_the_tower_does_not_read_does_not_count() -> None:
    given = features(3, 3, patch=14)
    whole = torch.nn.functional.pad(given.pixels, (0, 6, 0, 6), value=9.0)
    seen = SeenPart.of_grid((42, 42), (48, 48))
    padded = depth(head(), dataclasses.replace(given, image_hw=(48, 48), pixels=whole, seen=seen))
    torch.testing.assert_close(padded[0, :42, :42], depth(head(), given)[0])
    assert not padded[0, 42:].any()
    assert not padded[0, :, 42:].any()


def test_every_weight_of_the_path_learns() -> None:
    trained = head().train()
    trained(features(4, 4)).depth_m.log().square().mean().backward()
    path = trained.decoder.pixels
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in path.parameters())


def test_missing_and_misfit_images_are_refused() -> None:
    given = features(4, 4)
    with pytest.raises(CaptureError, match="pixels"):
        head()(dataclasses.replace(given, pixels=None))
    with pytest.raises(CaptureError, match="64, 64"):
        head()(dataclasses.replace(given, pixels=given.pixels[..., :32]))


def test_fused_heads_keep_the_path() -> None:
    given = features(4, 4)
    torch.testing.assert_close(depth(head().fuse(), given), depth(head(), given))


def test_configs_name_the_path_from_format_4_on() -> None:
    config = DepthHeadConfig("tap-mixer", {**SMALL, "pixels": 6}, width=16, blocks=2)
    written = json.loads(json.dumps(config.to_dict()))
    assert (written["format_version"], written["options"]["pixels"]) == (4, 6)
    assert DepthHeadConfig.from_dict(written) == config


def test_configs_without_it_are_those_that_older_versions_read() -> None:
    config = DepthHeadConfig("tap-mixer", {**SMALL, "pixels": 0}, width=16, blocks=2)
    written = json.loads(json.dumps(config.to_dict()))
    assert written["format_version"] == 1
    assert "pixels" not in written["options"]
    assert DepthHeadConfig.from_dict(written) == config
    options = {**written["options"], "pixels": 6}
    with pytest.raises(ConfigError, match="pixels"):
        DepthHeadConfig.from_dict({**written, "options": options})
    with pytest.raises(ConfigError, match="pixels"):
        TapMixerOptions(pixels=-1)
