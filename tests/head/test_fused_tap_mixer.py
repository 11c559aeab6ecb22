"""The fused form of a plain tap mixer: what it computes, whatever its options, and which decoders have none."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from clip_world import clip_host, images
from fresh_heads import fresh_head
from lively_heads import assert_same_output, features, lively, lively_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.head.fused_tap_mixer import FusedTapMixer
from spaceclip_plugin.head.tap_mixer import TapMixerDecoder

PLAIN: dict[str, Any] = {"attention": 0, "pixels": 0}


def plain_head(**options: Any) -> DepthHead:
    return lively_head("tap-mixer", **{**PLAIN, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"uncertainty": False},
        {"empty": True},
        {"uncertainty": False, "empty": True},
        {"taps": (3,)},
        {"channels": (8,), "convolutions": (2,)},
        {"channels": (8, 6, 4), "convolutions": (0, 2, 1)},
    ],
    ids=str,
)
def test_every_option(options: dict[str, Any]) -> None:
    head = plain_head(**options).double()  # a norm over few channels magnifies the rounding of float32
    fused = head.fuse()
    assert isinstance(fused.decoder, FusedTapMixer)
    for grid_hw in ((1, 1), (2, 3), (5, 2)):
        for output_hw in (None, (1, 1), (33, 17)):
            assert_same_output(fused, head, output_hw, grid_hw=grid_hw)
    given = features(head, 1)
    with torch.no_grad():
        got, expected = fused(given), head(given)
    torch.testing.assert_close(got.depth_m, expected.depth_m, rtol=1e-12, atol=0)
    assert (got.empty is None) == (expected.empty is None)
    if expected.empty is not None:
        torch.testing.assert_close(got.empty, expected.empty, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{"attention": 1}, {"pixels": 4}, {"tap_widths": (3, 4, 5, 6)}], ids=str)
def test_a_decoder_with_other_parts_is_copied(options: dict[str, Any]) -> None:
    head = plain_head(**options)
    fused = head.fuse()
    assert isinstance(fused.decoder, TapMixerDecoder)
    assert_same_output(fused, head)


def test_padding() -> None:
    head = plain_head(empty=True)
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    valid[0, :2, :3] = valid[1] = True
    marked = dataclasses.replace(features(head, 1, grid_hw=(4, 5)), valid=valid)
    with torch.no_grad():
        got, expected = head.fuse()(marked), head(marked)
    for name in ("depth_m", "uncertainty_m", "empty"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def test_maps_in_the_other_memory_order() -> None:
    head = plain_head()
    tokens_last = features(head, 1)
    maps = {tap: value.contiguous() for tap, value in tokens_last.hidden.items()}
    fused = head.fuse()
    got = fused(dataclasses.replace(tokens_last, hidden=maps)).depth_m
    torch.testing.assert_close(got, fused(tokens_last).depth_m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_combined_in_float64(dtype: torch.dtype) -> None:
    head = plain_head().to(dtype)
    assert module_digest(head.fuse()) == module_digest(copy.deepcopy(head).double().fuse().to(dtype))


def test_half_precision_costs_no_more_than_unfused() -> None:
    head = plain_head(channels=(48, 8))
    low, given = copy.deepcopy(head).to(torch.bfloat16), features(head, 1)
    with torch.no_grad():
        full, rounded, fused = head(given).depth_m, low(given).depth_m, low.fuse()(given).depth_m
    assert fused.dtype == torch.bfloat16
    assert (fused.float() - full).abs().max() < 3 * (rounded.float() - full).abs().max()


def test_its_decoder_may_run_under_autocast() -> None:
    head = plain_head(channels=(48, 8))
    given = features(head, 1)
    with torch.no_grad():
        full = head(given).depth_m
        with torch.autocast("cpu", torch.bfloat16):
            fused = head.fuse().decoder(given, given.image_hw, auxiliary=False).depth_m
            plain = head.decoder(given, given.image_hw, auxiliary=False).depth_m
    assert fused.dtype == torch.float32
    assert (fused - full).abs().max() < 3 * (plain - full).abs().max()


def test_the_weights_are_its_own_and_move_as_any_others() -> None:
    head = plain_head()
    kept, fused = copy.deepcopy(head), head.fuse()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    assert_same_output(fused, kept)
    other = lively_head("tap-mixer", seed=5, **PLAIN).fuse()
    other.load_state_dict(fused.state_dict(), assign=True)
    assert_same_output(copy.deepcopy(other), kept)
    assert_same_output(other.double(), kept.double())


def test_its_uncertainty_is_rescaled_alone() -> None:
    head = plain_head()
    given, fused = features(head, 1), head.fuse()
    before = fused(given)
    fused.decoder.rescale_uncertainty(1.5)
    head.decoder.rescale_uncertainty(1.5)
    after = fused(given)
    assert torch.equal(after.depth_m, before.depth_m)
    with torch.no_grad():
        torch.testing.assert_close(after.uncertainty_m, head(given).uncertainty_m)
    assert not torch.equal(after.uncertainty_m, before.uncertainty_m)


def test_a_host_is_read_alike() -> None:
    host = clip_host()
    head = lively(fresh_head(host, taps=(1, 2, 3), channels=(8, 4)))
    with attach_depth_head(host, head) as plain, attach_depth_head(host, head.fuse()) as depth:
        host(images(0))
        [expected], [found] = plain.read(), depth.read()
    torch.testing.assert_close(found.depth_m, expected.depth_m, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.uncertainty_m, expected.uncertainty_m, rtol=1e-5, atol=1e-5)
