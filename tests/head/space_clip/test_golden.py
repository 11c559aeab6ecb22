"""Our space-clip head is the published function: depth, auxiliary outputs and stage maps, through a live host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_cases import CASES, GoldenCase, load_case, write_checkpoint
from torch import Tensor

from spaceclip_plugin import DepthHead, attach_depth_head

pytestmark = pytest.mark.real


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, golden: Path) -> GoldenCase:
    return load_case(golden, request.param)


def assert_equal_within(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= 1e-5, f"relative error {error:.2e}"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_depth_through_a_live_host(case: GoldenCase, tmp_path: Path, prefix: str) -> None:
    head = DepthHead.from_spaceclip_checkpoint(write_checkpoint(tmp_path / "model.pt", case, prefix=prefix))
    with attach_depth_head(case.host, head) as depth, torch.no_grad():
        case.host(case.io["pixel_values"])
        [frame] = depth.read(case.output_hw)
    assert_equal_within(frame.depth_m, case.io["depth"][:, 0])
    assert frame.trained


def test_auxiliary_outputs_and_context(case: GoldenCase, tmp_path: Path) -> None:
    head = DepthHead.from_spaceclip_checkpoint(write_checkpoint(tmp_path / "model.pt", case))
    with attach_depth_head(case.host, head) as depth, torch.no_grad():
        case.host(case.io["pixel_values"])
        [features] = depth.features()
        output = head(features, case.output_hw, auxiliary=True)
    expected = [value for name, value in sorted(case.io.items()) if name.startswith("aux.")]
    assert len(output.auxiliary_m) == len(expected)
    for ours, theirs in zip(output.auxiliary_m, expected, strict=True):
        assert_equal_within(ours, theirs[:, 0])
    if head.uses_context:
        assert_equal_within(features.context, case.io["context"])


def test_stage_maps(case: GoldenCase, tmp_path: Path) -> None:
    head = DepthHead.from_spaceclip_checkpoint(write_checkpoint(tmp_path / "model.pt", case))
    seen: dict[str, Tensor] = {}
    for stream, stages in (("semantic", head.decoder.semantic_stages), ("structural", head.decoder.structural_stages)):
        for i, stage in enumerate(stages):
            name = f"{stream}_decoder.{i}"
            stage.register_forward_hook(lambda _m, _a, output, name=name: seen.__setitem__(name, output))
    with attach_depth_head(case.host, head) as depth, torch.no_grad():
        case.host(case.io["pixel_values"])
        depth.read(case.output_hw)
    expected = {name: value for name, value in case.io.items() if "_decoder." in name}
    assert seen.keys() == expected.keys()
    for name, theirs in expected.items():
        assert_equal_within(seen[name], theirs)


def test_the_config_is_read_off_the_shapes(case: GoldenCase, tmp_path: Path) -> None:
    head = DepthHead.from_spaceclip_checkpoint(write_checkpoint(tmp_path / "model.pt", case))
    assert (head.config.width, head.config.blocks) == (64, 12)
    assert head.config.options.channels == (32, 24, 16, 8)
    assert head.config.options.semantic_taps == (12, 9, 6, 3)
    assert head.config.options.structural_taps == (2, 1, 0)


def test_other_taps_give_another_function(golden: Path, tmp_path: Path) -> None:
    case = load_case(golden, "clip_default")
    path = write_checkpoint(tmp_path / "model.pt", case)
    head = DepthHead.from_spaceclip_checkpoint(path, semantic_taps=(11, 8, 5, 2), structural_taps=(3, 2, 1))
    assert head.taps == (1, 2, 3, 5, 8, 11)
    with attach_depth_head(case.host, head) as depth, torch.no_grad():
        case.host(case.io["pixel_values"])
        [frame] = depth.read(case.output_hw)
    assert not torch.allclose(frame.depth_m, case.io["depth"][:, 0], atol=1e-3)
