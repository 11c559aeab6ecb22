"""Where a head says that nothing is: what it costs the depth (nothing), and how the head is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import HeadOutput, predicts_empty
from spaceclip_plugin.towers.seen_part import SeenPart
from spaceclip_plugin.towers.spec import TowerFeatures

SMALL: dict[str, Any] = {"taps": (1, 2), "channels": (8, 8), "convolutions": (1, 1), "pixels": 0}


def small_head(**options: Any) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DepthHead(DepthHeadConfig("tap-mixer", {**SMALL, **options}, width=6, blocks=2)).eval()


def features(**changes: Any) -> TowerFeatures:
    random = torch.Generator().manual_seed(1)
    hidden = {tap: torch.randn(2, 6, 3, 4, generator=random) for tap in (1, 2)}
    return TowerFeatures(hidden, None, (48, 64), **changes)


def test_a_head_says_nothing_of_it_unless_asked_to() -> None:
    plain, told = small_head(), small_head(empty=True)
    assert plain(features()).empty is None
    assert [predicts_empty(head.decoder) for head in (plain, told)] == [False, True]
    assert set(told.state_dict()) - set(plain.state_dict()) == {"decoder.emptiness.weight", "decoder.emptiness.bias"}


@pytest.mark.parametrize("uncertainty", [True, False])
def test_it_changes_no_bit_of_the_depth(uncertainty: bool) -> None:
    plain, told = (small_head(empty=empty, uncertainty=uncertainty)(features()) for empty in (False, True))
    assert torch.equal(plain.depth_m, told.depth_m)
    assert (told.uncertainty_m is not None) == uncertainty
    assert told.empty.shape == (2, 48, 64)
    assert ((told.empty > 0) & (told.empty < 0.5)).all()  # a fresh head: something is there
    assert torch.equal(told.present_m, told.depth_m)


def test_learning_it_moves_no_depth_and_no_uncertainty_of_their_own() -> None:
    head = small_head(empty=True)
    head(features()).empty.sum().backward()
    moved = {name for name, parameter in head.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert moved > {"decoder.emptiness.weight", "decoder.emptiness.bias"}
    assert not {name for name in moved if name.startswith("decoder.spread")}
    assert not head.decoder.out.weight.grad[0].any()  # the depth's row; the others upsample both


def test_where_nothing_is_no_depth_is_present() -> None:
    empty = torch.tensor([[[0.0, 0.5, 0.51, 1.0]]])
    output = HeadOutput(torch.full((1, 1, 4), 2.0), empty=empty)
    assert output.present_m.tolist() == [[[2.0, 2.0, 0.0, 0.0]]]


def test_what_the_tower_never_read_is_not_told_of() -> None:
    head = small_head(empty=True)
    seen = SeenPart((48, 64), grid=(0.0, 0.0, 42.0, 56.0), seen=(0, 0, 42, 56))
    output = head(features(seen=seen))
    assert not output.empty[:, 42:].any()
    assert not output.empty[:, :, 56:].any()
    assert (output.empty[:, :42, :56] > 0).all()


def test_a_head_of_half_precision() -> None:
    output = small_head(empty=True).bfloat16()(features())
    assert output.empty.dtype == torch.bfloat16


def test_saved_and_read_back(tmp_path: Path) -> None:
    head = small_head(empty=True)
    assert head.config.to_dict()["format_version"] == 4
    assert small_head(empty=False).config.to_dict()["format_version"] == 1
    again = DepthHead.from_pretrained(head.save_pretrained(tmp_path))
    assert again.config == head.config
    assert torch.equal(again(features()).empty, head(features()).empty)


def test_a_head_of_the_same_format_that_never_heard_of_it_is_read() -> None:
    written = small_head(pixels=8).config.to_dict()
    del written["options"]["empty"]
    assert written["format_version"] == 4
    assert DepthHeadConfig.from_dict(written).options.empty is False


def test_truth_alone_is_taken() -> None:
    with pytest.raises(ConfigError, match="empty must be true or false"):
        small_head(empty=1)
